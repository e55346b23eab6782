//! Tags that operators give to machines, and tasks that choose by them.

use super::fixture::{self, machine};
use crate::testing::{TestDatabase, database};
use crate::views::{self, MachineFilter};
use crate::{Conflict, DeviceId, Error, InventoryInput, Start, TagChange, TaskInput, VmId};
use domain::choice::{Choice, Rule};
use domain::tag::Tags;

fn tags(list: &str) -> Tags {
    Tags::parse(list).unwrap()
}

async fn holds(db: &TestDatabase, device: DeviceId, names: &[&str]) {
    let machines = names.iter().map(|name| machine(name, name)).collect();
    db.apply_inventory(device, &InventoryInput { machines, ..InventoryInput::default() }).await.unwrap();
}

async fn vm(db: &TestDatabase, device: DeviceId, name: &str) -> VmId {
    let machines = db.machines_of_device(device).await.unwrap();
    machines.iter().find(|machine| machine.name == name).unwrap().vm_id
}

async fn tags_of(db: &TestDatabase, vm: VmId) -> Vec<String> {
    views::machine_page(db, vm).await.unwrap().unwrap().tags
}

#[tokio::test]
async fn tags_are_set_given_and_taken_and_survive_inventories() {
    let db = database().await;
    let device = fixture::device(&db, "one").await;
    holds(&db, device, &["web-1", "web-2"]).await;
    let (one, two) = (vm(&db, device, "web-1").await, vm(&db, device, "web-2").await);
    assert_eq!(db.change_tags(&[one], &TagChange::Set(tags("prod web"))).await.unwrap(), ["web-1"]);
    let changed = db.change_tags(&[two, one], &TagChange::Add(tags("web gold"))).await.unwrap();
    assert_eq!(changed, ["web-1", "web-2"]);
    assert!(db.change_tags(&[one, two], &TagChange::Add(tags("web"))).await.unwrap().is_empty(), "both have it");
    assert_eq!(db.change_tags(&[one, two], &TagChange::Remove(tags("prod"))).await.unwrap(), ["web-1"]);
    assert_eq!(db.known_tags().await.unwrap(), ["gold", "web"]);
    holds(&db, device, &["web-1", "web-2", "db-1"]).await;
    assert_eq!(
        (tags_of(&db, one).await, tags_of(&db, two).await),
        (tags("gold web").words(), tags("gold web").words())
    );

    let filter = MachineFilter { tag: "gold".to_owned(), page: 1, ..MachineFilter::default() };
    let found = views::machines(&db, &filter).await.unwrap();
    assert_eq!(found.lines.iter().map(|line| line.name.as_str()).collect::<Vec<_>>(), ["web-1", "web-2"]);
    assert_eq!((found.total, found.lines[0].tags.clone()), (2, tags("gold web").words()));
    let other = MachineFilter { tag: "silver".to_owned(), ..filter };
    assert_eq!(views::machines(&db, &other).await.unwrap().total, 0);

    // One that was gone for a while has them still.
    holds(&db, device, &["web-1"]).await;
    holds(&db, device, &["web-1", "web-2"]).await;
    assert_eq!(vm(&db, device, "web-2").await, two);
    assert_eq!(tags_of(&db, two).await, tags("gold web").words());
}

#[tokio::test]
async fn too_many_tags_change_nothing_at_all() {
    let db = database().await;
    let device = fixture::device(&db, "one").await;
    holds(&db, device, &["web-1", "web-2"]).await;
    let (one, two) = (vm(&db, device, "web-1").await, vm(&db, device, "web-2").await);
    let full = (0..20).map(|number| format!("t{number}")).collect::<Vec<_>>().join(" ");
    db.change_tags(&[two], &TagChange::Set(tags(&full))).await.unwrap();
    let refused = db.change_tags(&[one, two], &TagChange::Add(tags("more"))).await;
    assert!(matches!(refused, Err(Error::Conflict(Conflict::TooManyTags(vm))) if vm == two), "{refused:?}");
    assert!(tags_of(&db, one).await.is_empty(), "nor of the other");
    let many = vec![one; 1001];
    assert!(matches!(db.change_tags(&many, &TagChange::Remove(tags("x"))).await, Err(Error::OutOfLimits { .. })));
}

#[tokio::test]
async fn a_task_that_chooses_by_tag_follows_with_its_next_run() {
    let db = database().await;
    let device = fixture::device(&db, "one").await;
    holds(&db, device, &["db-1", "web-1", "web-2"]).await;
    let (one, two) = (vm(&db, device, "web-1").await, vm(&db, device, "web-2").await);
    db.change_tags(&[one, two], &TagChange::Set(tags("web"))).await.unwrap();
    let tag = |tag: &str| Rule::Tag { tag: tag.to_owned() };
    let choice = Choice { rules: vec![tag("web")], exceptions: vec![tag("test")] };
    assert_eq!(db.machines_by_rule(&choice).await.unwrap(), [one, two]);
    let repository = fixture::repository(&db).await;
    let input = TaskInput { choice, ..fixture::task_input("web", repository, &[]) };
    let task = db.create_task(&input).await.unwrap();
    assert_eq!(db.task_machines(task).await.unwrap(), [one, two]);
    db.change_tags(&[two], &TagChange::Add(tags("test"))).await.unwrap();
    let third = vm(&db, device, "db-1").await;
    db.change_tags(&[third], &TagChange::Add(tags("web"))).await.unwrap();
    let Start::Started { jobs, .. } = db.start_run(task, "anna", None).await.unwrap() else { panic!("a run") };
    assert_eq!((jobs, db.task_machines(task).await.unwrap()), (2, vec![third, one]));
}
