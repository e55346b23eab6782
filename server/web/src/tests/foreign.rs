//! Snapshots of other programs: shown to all, removed by two clicks of those who may.

use super::world::{World, machine};
use db::{ForeignInput, InventoryInput};
use domain::foreign::Maker;
use domain::permission::Role;
use jiff::{SignedDuration, Timestamp};

const NAME: &str = "VEEAM BACKUP TEMPORARY SNAPSHOT";

/// A device whose machine `web-01` has a snapshot of that age.
async fn left(world: &World, hours: i64) -> Timestamp {
    let device = world.device("esx-1", Vec::new()).await;
    let input = machine("web-01", &[]);
    let created_at = world.db().now().await.unwrap() - SignedDuration::from_hours(hours);
    let foreign = ForeignInput {
        machine: input.reference.clone(),
        reference: "s-1".to_owned(),
        name: NAME.to_owned(),
        maker: Maker::Veeam,
        created_at,
    };
    let input = InventoryInput { machines: vec![input], foreign: vec![foreign], ..InventoryInput::default() };
    world.db().apply_inventory(device, &input).await.unwrap();
    created_at
}

#[tokio::test]
async fn it_is_listed_and_removed_after_it_was_named_once_more() {
    let world = World::new().await;
    let created_at = left(&world, 30).await;
    let vm = world.vm("web-01").await;
    let repository = world.repository("Vault").await;
    world.point(repository, vm, "web-01", "2026-11-21T22:00:00Z").await;
    let id = db::views::foreign_lines(world.db()).await.unwrap()[0].foreign_id;
    let path = format!("/left-behind/foreign/{id}");

    let mut viewer = world.client(Role::Viewer).await;
    let page = viewer.get("/left-behind").await.ok();
    assert!(
        page.contains(NAME) && page.contains("Veeam Backup &#38; Replication gives") && !page.contains(&path),
        "{page}"
    );
    assert!(page.contains("Left behind: 0 on 1 device"), "the first figure is ours: {page}");
    let home = viewer.get("/").await.ok();
    assert!(home.contains("Left behind on hosts: 0") && home.contains("1 snapshot of other backup programs"), "{home}");

    let mut operator = world.client(Role::Operator).await;
    assert!(operator.get("/left-behind").await.ok().contains(&path));
    let question = operator.get(&path).await.ok();
    assert!(question.contains(NAME) && question.contains("web-01") && question.contains("esx-1"), "{question}");
    for wrong in ["", NAME, "1 VEEAM BACKUP TEMPORARY SNAPSHOT"] {
        let page = operator.post(&path, &[("snapshot", wrong)]).await.again();
        assert!(page.contains("It changed since you saw it"), "{page}");
    }
    let mark = format!("{} {NAME}", created_at.as_microsecond());
    assert!(question.contains(&mark), "{question}");
    let run = operator.post(&path, &[("snapshot", &mark)]).await.went_to();
    assert!(run.starts_with("/activity/"), "{run}");
    let page = operator.get(&run).await.ok();
    assert!(page.contains("Remove a snapshot of web-01") && !page.contains("Written to the host"), "{page}");
    assert!(operator.get("/activity?kind=cleanup").await.ok().contains("Removal "));
    let listed = operator.get("/left-behind").await.ok();
    assert!(listed.contains(&run) && !listed.contains(&path), "it is being removed: {listed}");
    let audit = world.db().audit_entries(None, 1).await.unwrap().remove(0);
    assert_eq!((audit.action.as_str(), audit.subject.as_str()), ("snapshot.removal_started", "esx-1"));
    assert!(audit.detail.contains(NAME) && audit.detail.contains("web-01"), "{audit:?}");
}

#[tokio::test]
async fn a_young_one_is_neither_listed_nor_removed() {
    let world = World::new().await;
    left(&world, 10).await;
    let mut operator = world.client(Role::Operator).await;
    assert!(!operator.get("/left-behind").await.ok().contains(NAME));
    for id in 1..4 {
        let answer = operator.post(&format!("/left-behind/foreign/{id}"), &[("snapshot", NAME)]).await;
        assert_eq!(answer.status, axum::http::StatusCode::NOT_FOUND);
    }
}
