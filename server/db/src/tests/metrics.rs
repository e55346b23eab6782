//! The figures that monitoring reads, none of them zero.

use super::fixture::{device, device_with_machines, lease, task};
use crate::testing::database;
use crate::{ChangeKind, NewChange, Outcome, views};
use domain::job::{JobError, JobKind, JobState};
use serde_json::Value;

#[tokio::test]
async fn figures_say_what_was_left_where_who_waits_and_what_succeeded_last() {
    let db = database().await;
    let (device_id, machines) = device_with_machines(&db, "esx", 2).await;
    device(&db, "other").await;
    let gone = device(&db, "gone").await;
    db.record_sync_failure(gone, &JobError::retry("host.unreachable", "It was not read.", "No route.", ""))
        .await
        .unwrap();
    let disabled = device(&db, "off").await;
    db.set_device_enabled(disabled, false).await.unwrap();
    let (good, bad) = (task(&db, "good", &machines[..1]).await, task(&db, "bad", &machines[1..]).await);

    db.start_run(good, "tester", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    db.finish(job.lease(), Outcome::Warning(Value::Null)).await.unwrap();
    db.start_run(bad, "tester", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    let left = NewChange {
        device_id,
        vm_id: None,
        kind: ChangeKind::Snapshot,
        token: "stillframe-1".to_owned(),
        machine_ref: None,
        settles_after: None,
    };
    db.intend_change(job.lease(), &left).await.unwrap();
    let running = views::metrics(&db).await.unwrap();
    assert_eq!((running.left_behind, running.jobs(JobKind::Backup, JobState::Running)), (0, 1), "it is at work");
    db.finish(job.lease(), Outcome::Error(JobError::fail("vm.gone", "No.", "Gone.", ""))).await.unwrap();
    db.start_run(good, "tester", None).await.unwrap();

    let figures = views::metrics(&db).await.unwrap();
    assert_eq!((figures.devices, figures.devices_unreachable), (3, 1), "disabled ones are in neither");
    assert_eq!(figures.left_behind, 1);
    let by_device = [("esx", 1), ("gone", 0), ("other", 0)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(figures.left_behind_by_device, by_device);
    assert_eq!(figures.jobs(JobKind::Backup, JobState::Queued), 1);
    assert_eq!(figures.jobs(JobKind::Backup, JobState::Running), 0);
    let finished_at = db.runs_of_task(good, 10).await.unwrap().iter().find_map(|run| run.finished_at);
    let last: Vec<_> = figures.tasks.iter().map(|task| (task.name.as_str(), task.last_success)).collect();
    assert_eq!(last, [("bad", None), ("good", finished_at)]);
    assert!(finished_at.is_some());
    assert_eq!(figures.repositories.len(), 2);
    assert_eq!(figures.machines(views::Protection::Not), 2);
}
