//! Who misses its goal, and why.

use super::fixture::{self, lease};
use crate::testing::{TestDatabase, database};
use crate::{Goal, Outcome, PointId, TaskId, TaskInput, VmId, views};
use domain::job::JobError;
use domain::notice::NoticeKind;
use domain::point::PointKind;
use jiff::SignedDuration;
use serde_json::json;
use uuid::Uuid;

const DAY_MINUTES: u32 = 24 * 60;

async fn task_with_goal(db: &TestDatabase, machines: &[VmId], goal_minutes: Option<u32>) -> TaskId {
    let repository_id = fixture::repository(db).await;
    let name = format!("task {}", Uuid::new_v4());
    let input = TaskInput { goal_minutes, ..fixture::task_input(&name, repository_id, machines) };
    db.create_task(&input).await.unwrap()
}

async fn goal(db: &TestDatabase, machine: VmId) -> Option<Goal> {
    db.goals_of(&[machine]).await.unwrap().into_iter().next()
}

/// A run of the task's one machine, which made a point so many hours ago.
async fn back_up(db: &TestDatabase, task_id: TaskId, hours_ago: i64) -> PointId {
    db.start_run(task_id, "anna", None).await.unwrap();
    let job = lease(db).await.unwrap();
    let point_id = PointId(Uuid::new_v4());
    let taken_at = db.now().await.unwrap() - SignedDuration::from_hours(hours_ago);
    let point = fixture::point(&job, point_id, taken_at.as_second(), PointKind::Full);
    db.insert_point(job.lease(), &point).await.unwrap();
    db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    point_id
}

async fn two_days_pass(db: &TestDatabase) {
    db.execute(
        "update virtual_machine set first_seen_at = now() - interval '2 days';
         update backup_task set created_at = now() - interval '2 days'",
    )
    .await;
}

#[tokio::test]
async fn the_machines_own_goal_counts_before_the_strictest_of_its_tasks() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let machine = machines[0];
    assert_eq!(goal(&db, machine).await, None);
    task_with_goal(&db, &machines, None).await;
    assert_eq!(goal(&db, machine).await, None);
    task_with_goal(&db, &machines, Some(2 * DAY_MINUTES)).await;
    task_with_goal(&db, &machines, Some(DAY_MINUTES)).await;
    assert_eq!(goal(&db, machine).await.unwrap().goal_minutes, 1440);
    db.set_machine_goal(machine, Some(60)).await.unwrap();
    assert_eq!(goal(&db, machine).await.unwrap().goal_minutes, 60);
    db.set_machine_goal(machine, Some(0)).await.unwrap();
    assert_eq!(goal(&db, machine).await, None, "0 is none");
    db.set_machine_goal(machine, None).await.unwrap();
    assert_eq!(db.goal_counts().await.unwrap(), (1, 0));
}

#[tokio::test]
async fn a_missed_goal_says_why() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let machine = machines[0];
    let task_id = task_with_goal(&db, &machines, Some(DAY_MINUTES)).await;
    let reason = async || {
        let goal = goal(&db, machine).await.unwrap();
        if goal.missed { goal.reason } else { "met".to_owned() }
    };
    assert_eq!(reason().await, "met", "it was added just now");
    two_days_pass(&db).await;
    assert_eq!(reason().await, "No run of its task has come to it yet.");
    db.start_run(task_id, "anna", None).await.unwrap();
    assert_eq!(reason().await, "A backup of it waits or runs now.");
    let job = lease(&db).await.unwrap();
    db.finish(job.lease(), Outcome::Error(JobError::fail("x.y", "w", "The datastore is full.", "h"))).await.unwrap();
    assert_eq!(reason().await, "The last run failed: The datastore is full.");
    back_up(&db, task_id, 30).await;
    assert_eq!(reason().await, "No run has made a newer point.");
    db.set_task_paused(task_id, true).await.unwrap();
    assert_eq!(reason().await, "Its task is paused.");
    db.execute("update virtual_machine set missing_since = now()").await;
    assert_eq!(reason().await, "It is no longer on its host.");
    db.set_machine_goal(machine, Some(DAY_MINUTES)).await.unwrap();
    db.delete_task(task_id).await.unwrap();
    assert_eq!(reason().await, "It is in no task.");
}

#[tokio::test]
async fn a_damaged_point_is_no_good_point() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = task_with_goal(&db, &machines, Some(DAY_MINUTES)).await;
    two_days_pass(&db).await;
    back_up(&db, task_id, 40).await;
    let fresh = back_up(&db, task_id, 1).await;
    assert!(!goal(&db, machines[0]).await.unwrap().missed);
    db.record_verified(fresh, Some("pack 7 is damaged")).await.unwrap();
    let found = goal(&db, machines[0]).await.unwrap();
    assert!(found.missed && found.newest_good_at.is_some());
}

#[tokio::test]
async fn missing_a_goal_is_told_once_and_so_is_meeting_it_again() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 3).await;
    let task_id = task_with_goal(&db, &machines[..1], Some(DAY_MINUTES)).await;
    task_with_goal(&db, &machines[1..], Some(DAY_MINUTES)).await;
    two_days_pass(&db).await;
    for _ in 0..2 {
        db.observe_conditions().await.unwrap();
    }
    let told = async || -> Vec<(NoticeKind, String)> {
        let mut all = db.newest_notices(10).await.unwrap();
        all.reverse();
        all.into_iter().filter(|it| it.kind == NoticeKind::GoalMissed).map(|it| (it.kind, it.title)).collect()
    };
    assert_eq!(told().await, [(NoticeKind::GoalMissed, "3 machines miss their goal".to_owned())]);
    back_up(&db, task_id, 1).await;
    db.observe_conditions().await.unwrap();
    assert_eq!(told().await[1].1, "one-000 meets its goal again");
    db.set_machine_goal(machines[1], Some(0)).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert_eq!(told().await.len(), 2, "a goal that was given up is not met");
}

#[tokio::test]
async fn the_start_page_names_a_machine_once() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = task_with_goal(&db, &machines, Some(DAY_MINUTES)).await;
    two_days_pass(&db).await;
    db.start_run(task_id, "anna", None).await.unwrap();
    let job = lease(&db).await.unwrap();
    db.finish(job.lease(), Outcome::Error(JobError::fail("x.y", "w", "The datastore is full.", "h"))).await.unwrap();
    let troubles = views::troubles(&db).await.unwrap();
    let of_machine: Vec<&str> = troubles.iter().filter(|it| it.name == "one-000").map(|it| it.title.as_str()).collect();
    assert_eq!(of_machine, ["one-000 was never backed up"]);
    assert!(troubles[0].detail.contains("The datastore is full."), "{troubles:?}");
    let counts = views::home_counts(&db).await.unwrap();
    assert_eq!((counts.with_goal, counts.goal_missed), (1, 1));
}
