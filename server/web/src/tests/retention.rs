//! Rules, their preview, pins and the floor, through the pages.

use super::world::{Client, World, machine, task_input};
use axum::http::StatusCode;
use db::{NewPoint, PointId, RepositoryId, TaskId, TaskInput, VmId};
use domain::permission::Role;
use domain::point::{Consistency, PointKind};
use domain::retention::{Retention, Rule, Scope};
use domain::schedule::Schedule;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

struct Scene {
    world: World,
    vm: VmId,
    repository: RepositoryId,
    task: TaskId,
}

/// A task that keeps the last ten of one machine, with points so many hours old.
async fn scene(hours: &[i64]) -> (Scene, Vec<PointId>) {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[])]).await;
    let (vm, repository) = (world.vm("web-01").await, world.repository("nas").await);
    let input = TaskInput {
        schedule: Schedule::daily("22:00".parse().unwrap(), "Europe/Vienna"),
        retention: Retention::KeepLast { count: 10 },
        ..task_input("Nightly", repository, vec![vm])
    };
    let task = world.db().create_task(&input).await.unwrap();
    let scene = Scene { world, vm, repository, task };
    let mut points = Vec::new();
    for hours in hours {
        points.push(scene.point(*hours).await);
    }
    (scene, points)
}

impl Scene {
    async fn point(&self, hours: i64) -> PointId {
        let point = NewPoint {
            point_id: PointId(Uuid::new_v4()),
            repository_id: self.repository,
            vm_id: Some(self.vm),
            task_id: Some(self.task),
            job_id: None,
            machine_name: "web-01".to_owned(),
            machine_key: format!("key/{}", self.vm),
            taken_at: self.now().await - SignedDuration::from_hours(hours),
            kind: PointKind::Full,
            consistency: Consistency::Crash,
            size_bytes: 20_000_000_000,
            bytes_read: 3_000_000_000,
            bytes_stored: 1_000_000_000,
            config: machine("web-01", &[]).config,
            marks: Vec::new(),
            warnings: Vec::new(),
            simulated: false,
        };
        self.world.db().adopt_points(self.repository, std::slice::from_ref(&point)).await.unwrap();
        point.point_id
    }

    async fn now(&self) -> Timestamp {
        self.world.db().now().await.unwrap()
    }

    /// Opens the task in the wizard; the address of its retention step.
    async fn change(&self, client: &mut Client) -> String {
        client.post(&format!("/tasks/{}/edit", self.task), &[]).await.went_to().replace("summary", "retention")
    }
}

#[tokio::test]
async fn the_preview_shows_what_goes_and_how_many_there_will_be() {
    let (scene, _) = scene(&[100, 76, 52, 28, 4]).await;
    let mut client = scene.world.administrator().await;
    let step = scene.change(&mut client).await;
    let page = client.get(&step).await.ok();
    assert!(page.contains("No point that is there now goes") && page.contains("Looked at 5 points."), "{page}");
    assert!(!page.contains("<details class=\"more mt-3\" id=\"long-term\" open"), "the simple part comes first");
    assert!(page.contains("In a year") && page.contains(r#"<td class="num">10</td>"#), "{page}");

    let page = client.post(&step, &[("keep", "2"), ("do", "preview")]).await.ok();
    assert!(page.contains("3 restore points of web-01 will be removed") && page.contains("3 of 5: "), "{page}");
    let task = scene.world.db().task(scene.task).await.unwrap();
    assert_eq!(task.retention, Retention::KeepLast { count: 10 }, "nothing is saved yet");

    let fields = [("keep", "2"), ("weekly", "4"), ("monthly", "12"), ("scope", "machine")];
    let summary = client.post(&step, &fields).await.went_to();
    let page = client.get(&summary).await.ok();
    assert!(
        page.contains("Last 2 · 4 weekly · 12 monthly (Europe/Vienna), counting all points of a machine"),
        "{page}"
    );
    assert!(page.contains("will be removed") && page.contains("after the next run"), "{page}");
    let page = client.get(&step).await.ok();
    assert!(page.contains("id=\"long-term\" open") && page.contains(r#"value="machine" checked"#), "{page}");
    client.post(&summary, &[("do", "create")]).await.went_to();
    let rule = Rule {
        last: 2,
        weekly: 4,
        monthly: 12,
        scope: Scope::Machine,
        time_zone: "Europe/Vienna".to_owned(),
        ..Rule::default()
    };
    assert_eq!(scene.world.db().task(scene.task).await.unwrap().retention, Retention::Keep(rule));
    for path in ["/tasks".to_owned(), format!("/tasks/{}", scene.task)] {
        assert!(client.get(&path).await.ok().contains("Last 2 · 4 weekly · 12 monthly"), "{path}");
    }
}

#[tokio::test]
async fn wrong_numbers_are_named_at_their_field_and_nothing_is_said_to_go() {
    let (scene, _) = scene(&[3, 2, 1]).await;
    let mut client = scene.world.administrator().await;
    let step = scene.change(&mut client).await;
    let page = client.post(&step, &[("keep", "1"), ("weekly", "x"), ("do", "preview")]).await;
    let page = page.ok();
    assert!(page.contains("A number from 0 to 10000.") && page.contains("id=\"long-term\" open"), "{page}");
    assert!(!page.contains("will be removed"), "{page}");
    let page = client.post(&step, &[("keep", "0")]).await.again();
    assert!(page.contains("Keep something"), "{page}");
}

#[tokio::test]
async fn a_point_is_pinned_with_a_note_and_unpinned() {
    let (scene, points) = scene(&[50, 2]).await;
    let address = format!("/restore/points/{}", points[0]);
    let mut client = scene.world.client(Role::Operator).await;
    let page = client.get(&address).await.ok();
    assert!(page.contains("Newest 2 of 10") && page.contains("expected to go"), "{page}");
    let said = client.post(&format!("{address}/pin"), &[("note", "before the <upgrade>")]).await.went_to();
    let page = client.get(&said).await.ok();
    assert!(page.contains("The point is pinned") && page.contains("stays until it is unpinned"), "{page}");
    assert!(page.contains("before the &#60;upgrade&#62;") || page.contains("before the &lt;upgrade&gt;"), "{page}");
    let long = "x".repeat(201);
    let refused = client.post(&format!("{address}/pin"), &[("note", &long)]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);

    let list = client.get(&format!("/machines/{}", scene.vm)).await.ok();
    assert!(list.contains("pinned</span>") && list.contains("newest 1 of 10"), "{list}");
    let key = format!("key%2F{}", scene.vm);
    assert!(client.get(&format!("/restore/machines/{key}")).await.ok().contains("pinned</span>"));
    let said = client.post(&format!("{address}/unpin"), &[("from", "machine")]).await.went_to();
    assert_eq!(said, format!("/machines/{}?said=point-unpinned", scene.vm));
    assert!(!client.get(&said).await.ok().contains("pinned</span>"));
    let mut viewer = scene.world.client(Role::Viewer).await;
    let page = viewer.get(&address).await.ok();
    assert!(page.contains("Newest 2 of 10") && !page.contains("Pin this point"), "{page}");
    let audit = scene.world.administrator().await.get("/settings/audit").await.ok();
    assert!(audit.contains("point.pinned") && audit.contains("point.unpinned"), "{audit}");
}

#[tokio::test]
async fn a_location_has_a_floor_that_rules_do_not_undercut() {
    let (scene, points) = scene(&[3, 2, 1]).await;
    let mut client = scene.world.administrator().await;
    let address = format!("/storage/{}", scene.repository);
    assert!(client.get(&address).await.ok().contains("None: the tasks’ rules alone decide."));
    let refused = client.post(&format!("{address}/floor"), &[("points", "x"), ("days", "")]).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let said = client.post(&format!("{address}/floor"), &[("points", "3"), ("days", "")]).await.went_to();
    let page = client.get(&said).await.ok();
    assert!(page.contains("The floor is saved.") && page.contains("Never fewer than 3 points a machine."), "{page}");
    let step = scene.change(&mut client).await;
    let page = client.post(&step, &[("keep", "1"), ("do", "preview")]).await.ok();
    assert!(page.contains("No point that is there now goes"), "{page}");
    client.post(&step, &[("keep", "1")]).await.went_to();
    client.post(&step.replace("retention", "summary"), &[("do", "create")]).await.went_to();
    let page = client.get(&format!("/restore/points/{}", points[0])).await.ok();
    assert!(page.contains("Floor of the location"), "{page}");
    let viewer = scene.world.client(Role::Viewer).await.get(&address).await.ok();
    assert!(viewer.contains("Never fewer than 3 points") && !viewer.contains("Save the floor"), "{viewer}");
    assert!(client.get("/settings/audit").await.ok().contains("location.floor"));
}

#[tokio::test]
async fn a_task_is_removed_with_or_without_its_rule() {
    let (scene, points) = scene(&[30]).await;
    let mut client = scene.world.administrator().await;
    let said = client.post(&format!("/tasks/{}/remove", scene.task), &[("points", "rule")]).await.went_to();
    assert!(client.get(&said).await.ok().contains("Its restore points go as its rule says."));
    let page = client.get(&format!("/restore/points/{}", points[0])).await.ok();
    assert!(page.contains("Newest 1 of 10"), "{page}");
}
