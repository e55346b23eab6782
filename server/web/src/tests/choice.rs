//! A task whose machines join by rule, from the wizard to its page.

use super::world::{World, machine};
use axum::http::StatusCode;
use db::MachineInput;
use domain::choice::{ExcludedDisk, Rule};
use domain::permission::Role;

/// The machine with a second disk.
fn with_two_disks(name: &str) -> MachineInput {
    let mut input = machine(name, &[]);
    let second = db::DiskInput { disk_key: 2001, label: "Hard disk 2".to_owned(), ..input.disks[0].clone() };
    input.disks.push(second);
    input
}

#[tokio::test]
async fn a_task_can_be_made_of_rules_alone_and_leave_a_disk_out() {
    let world = World::new().await;
    let machines = vec![with_two_disks("web-01"), machine("web-02", &[]), machine("db-01", &[])];
    let device = world.device("esx-a", machines).await;
    let repository = world.repository("nas").await.to_string();
    let mut client = world.administrator().await;
    let step = client.post("/tasks/new", &[("name", "Web"), ("priority", "1")]).await.went_to();
    let draft = step.trim_end_matches("/machines").to_owned();
    let page = client.post(&step, &[("rule_names", "")]).await.again();
    assert!(page.contains("Pick one machine at least, or write a rule"), "{page}");

    let again = client.post(&step, &[("rule_names", "WEB-*"), ("do", "filter")]).await.went_to();
    let page = client.get(&again).await.ok();
    assert!(page.contains("2 machines fit") && page.contains("web-01, web-02"), "{page}");
    assert!(page.contains("web-01: Hard disk 2"), "disks of machines that join can be left out: {page}");
    let vm = world.vm("web-01").await;
    let (first, second) = (format!("{vm}:2000"), format!("{vm}:2001"));
    let fields = [
        ("rule_names", "WEB-*"),
        ("except_names", "*-02"),
        ("disk", first.as_str()),
        ("disk", second.as_str()),
        ("leave_out", second.as_str()),
    ];
    let location = client.post(&step, &fields).await.went_to();
    let method = client.post(&location, &[("repository", &repository)]).await.went_to();
    let schedule = client.post(&method, &[("method", "incremental"), ("full_every", "0")]).await.went_to();
    let retention = client.post(&schedule, &[("repeat", "manual")]).await.went_to();
    let summary = client.post(&retention, &[("keep", "3")]).await.went_to();
    assert_eq!(summary, format!("{draft}/summary"));
    let page = client.get(&summary).await.ok();
    assert!(page.contains("named WEB-*; but none named *-02") && page.contains("1 machine,"), "{page}");
    let task = client.post(&summary, &[("do", "create")]).await.went_to();
    let page = client.get(&task).await.ok();
    assert!(page.contains("named WEB-*; but none named *-02") && page.contains("1 disk"), "{page}");
    assert!(page.contains("web-01</a>") && !page.contains("web-02</a>"), "{page}");

    let saved = world.db().tasks().await.unwrap().remove(0);
    assert_eq!(saved.choice.rules, [Rule::Name { pattern: "WEB-*".to_owned() }]);
    assert_eq!((saved.priority, saved.excluded_disks.clone()), (1, vec![ExcludedDisk { vm_id: vm.0, disk_key: 2001 }]));

    // The host holds it no longer: it is told of, and can be taken out.
    world.device_holds(device, vec![machine("db-01", &[])]).await;
    let path = task.split('?').next().unwrap().to_owned();
    let page = client.get(&path).await.ok();
    assert!(page.contains("No longer on the host") && page.contains("Take it out"), "{page}");
    client.post(&format!("{path}/machines/{vm}/remove"), &[]).await.went_to();
    assert!(!client.get(&path).await.ok().contains("web-01</a>"));
}

#[tokio::test]
async fn machines_are_tagged_one_by_one_or_many_at_once_and_found_by_it() {
    let world = World::new().await;
    world.device("esx-a", vec![machine("web-01", &[]), machine("web-02", &[]), machine("db-01", &[])]).await;
    let mut client = world.administrator().await;
    let (one, two) = (world.vm("web-01").await, world.vm("web-02").await);
    let went = client.post(&format!("/machines/{one}/tags"), &[("tags", "Web, gold")]).await.went_to();
    let page = client.get(&went).await.ok();
    assert!(page.contains("The tags are saved") && page.contains(r#"value="gold, web""#), "{page}");
    let (first, second) = (one.to_string(), two.to_string());
    let picked = [("vm", first.as_str()), ("vm", second.as_str()), ("tags", "silver"), ("do", "tag")];
    let went = client.post("/machines", &picked).await.went_to();
    let page = client.get(&went).await.ok();
    assert!(page.contains("2 machines fit the filter") && page.contains("web-02</a>"), "{page}");
    assert!(!page.contains("db-01</a>") && page.contains(r#"<option value="silver" selected"#), "{page}");
    let taken = [("vm", first.as_str()), ("tags", "silver gold"), ("do", "untag")];
    client.post("/machines", &taken).await.went_to();
    let page = client.get(&format!("/machines/{one}")).await.ok();
    assert!(page.contains(r#"name="tags" value="web""#), "{page}");
    let audit = client.get("/settings/audit").await.ok();
    assert!(audit.contains("2 machines") && audit.contains("web-01"), "{audit}");

    for (tags, why) in [("a/b", "letters, digits"), ("x".repeat(33).as_str(), "characters at most")] {
        let answer = client.post(&format!("/machines/{one}/tags"), &[("tags", tags)]).await;
        assert!(answer.status.is_client_error() && answer.body.contains(why), "{}", answer.body);
    }
    let viewer = world.client(Role::Viewer).await.post(&format!("/machines/{one}/tags"), &[("tags", "x")]).await;
    assert_eq!(viewer.status, StatusCode::FORBIDDEN);
    let page = client.post("/tasks/new", &[("name", "Web")]).await.went_to();
    let again = client.post(&page, &[("rule_tags", "WEB"), ("except_tags", "gold"), ("do", "filter")]).await.went_to();
    let page = client.get(&again).await.ok();
    assert!(page.contains("1 machine fits") && page.contains("web-01"), "{page}");
}
