//! Retention as rows: what the rules mark, what they must leave alone, and that the preview says the same.

use super::fixture::{self, GIB, LIMITS, task_input};
use crate::testing::{TestDatabase, database};
use crate::{
    DeviceId, Error, Job, NewJob, NewPoint, NewRestore, Outcome, PointId, PointsAfter, RepositoryId, RetentionDraft,
    TaskId, VmId,
};
use domain::job::JobKind;
use domain::point::{Consistency, PointKind};
use domain::retention::{Fate, Floor, Reason, Retention, Rule, Scope};
use domain::schedule::Schedule;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Scene {
    db: TestDatabase,
    device_id: DeviceId,
    machines: Vec<VmId>,
    repository_id: RepositoryId,
}

async fn scene(machines: usize) -> Scene {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", machines).await;
    let repository_id = fixture::repository(&db).await;
    Scene { db, device_id, machines, repository_id }
}

fn last(count: u32) -> Retention {
    Retention::KeepLast { count }
}

impl Scene {
    async fn task(&self, name: &str, retention: Retention) -> TaskId {
        let input = crate::TaskInput { retention, ..task_input(name, self.repository_id, &self.machines) };
        self.db.create_task(&input).await.unwrap()
    }

    /// A point of the first machine, so many hours old.
    async fn point(&self, task_id: Option<TaskId>, hours: i64) -> PointId {
        self.point_of(self.machines[0], task_id, SignedDuration::from_hours(hours)).await
    }

    async fn point_of(&self, vm: VmId, task_id: Option<TaskId>, age: SignedDuration) -> PointId {
        let point = NewPoint {
            point_id: PointId(Uuid::new_v4()),
            repository_id: self.repository_id,
            vm_id: Some(vm),
            task_id,
            job_id: None,
            machine_name: format!("machine {vm}"),
            machine_key: format!("key/{vm}"),
            taken_at: self.db.now().await.unwrap() - age,
            kind: PointKind::Full,
            consistency: Consistency::Crash,
            size_bytes: GIB,
            bytes_read: 0,
            bytes_stored: 0,
            config: fixture::config("one", "uuid"),
            marks: Vec::new(),
            warnings: Vec::new(),
            simulated: true,
        };
        self.db.adopt_points(self.repository_id, std::slice::from_ref(&point)).await.unwrap();
        point.point_id
    }

    async fn job(&self, kind: JobKind) -> Job {
        let key = format!("test:{}", Uuid::new_v4());
        let job = NewJob { repository_id: Some(self.repository_id), ..NewJob::new(kind, "cellar", key) };
        self.db.enqueue(&job).await.unwrap().unwrap();
        self.db.lease_job("worker", &[kind], LIMITS).await.unwrap().unwrap()
    }

    /// Marks by the rules; says which are marked in all, and how many more would be but for their use.
    async fn mark(&self) -> (BTreeSet<PointId>, usize) {
        let job = self.job(JobKind::Retain).await;
        let marked = self.db.mark_by_rules(job.lease(), self.repository_id, &self.machines).await.unwrap();
        self.db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
        (self.marked().await, marked.in_use)
    }

    async fn marked(&self) -> BTreeSet<PointId> {
        self.db.expiring_points(self.repository_id).await.unwrap().iter().map(|point| point.point_id).collect()
    }

    async fn restore(&self, point: PointId) -> crate::Result<()> {
        let restore = NewRestore {
            title: "back".to_owned(),
            machine_name: "one-000".to_owned(),
            started_by: "anna".to_owned(),
            vm_id: Some(self.machines[0]),
            device_id: self.device_id,
            repository_id: self.repository_id,
            payload: json!({ "point_id": point }),
        };
        self.db.start_restore(&restore).await.map(drop)
    }
}

fn set<const N: usize>(points: [PointId; N]) -> BTreeSet<PointId> {
    points.into_iter().collect()
}

#[tokio::test]
async fn the_rule_marks_what_it_no_longer_keeps_and_says_why() {
    let scene = scene(2).await;
    let task = scene.task("nightly", Retention::from(Rule { last: 2, weekly: 1, ..Rule::default() })).await;
    let mut points = Vec::new();
    for hours in [4, 3, 2, 1] {
        points.push(scene.point(Some(task), hours).await);
    }
    let other = scene.point_of(scene.machines[1], Some(task), SignedDuration::from_hours(900)).await;
    assert_eq!(scene.mark().await, (set([points[0], points[1]]), 0));
    let expiring = scene.db.expiring_points(scene.repository_id).await.unwrap();
    assert_eq!(expiring[0].why, "no longer kept by “nightly” (last 2 · 1 weekly)");
    assert_eq!(expiring[0].machine_name, format!("machine {}", scene.machines[0]));
    assert_eq!(scene.mark().await.0.len(), 2, "again changes nothing");
    assert_eq!(scene.db.points_of_machine(scene.machines[1]).await.unwrap()[0].point_id, other);
}

#[tokio::test]
async fn a_pinned_point_stays_and_one_that_goes_cannot_be_pinned() {
    let scene = scene(1).await;
    let task = scene.task("nightly", last(1)).await;
    let [old, middle, _] =
        [scene.point(Some(task), 3).await, scene.point(Some(task), 2).await, scene.point(Some(task), 1).await];
    scene.db.pin_point(old, "anna", "before the upgrade").await.unwrap();
    scene.db.pin_point(old, "bert", "again").await.unwrap();
    let pinned = scene.db.point(old).await.unwrap();
    assert_eq!((pinned.pinned_by.as_deref(), pinned.pin_note.as_str()), (Some("bert"), "again"));
    assert_eq!(scene.mark().await, (set([middle]), 0));
    assert!(matches!(scene.db.pin_point(middle, "anna", "").await, Err(Error::NotFound { .. })));
    assert!(matches!(scene.db.pin_point(PointId(Uuid::nil()), "anna", "").await, Err(Error::NotFound { .. })));
    let long = "x".repeat(201);
    assert!(matches!(scene.db.pin_point(old, "anna", &long).await, Err(Error::OutOfLimits { .. })));
    scene.db.unpin_point(old).await.unwrap();
    assert_eq!(scene.mark().await, (set([old, middle]), 0));
    assert!(matches!(scene.db.unpin_point(old).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn what_is_read_or_built_on_goes_later() {
    let scene = scene(1).await;
    let task = scene.task("nightly", last(1)).await;
    let [old, middle, newest] =
        [scene.point(Some(task), 3).await, scene.point(Some(task), 2).await, scene.point(Some(task), 1).await];
    scene
        .db
        .execute("update restore_point set kind = 'incremental' where taken_at > now() - interval '150 minutes'")
        .await;
    scene.restore(old).await.unwrap();
    let verify = scene.job(JobKind::Verify).await;
    assert_eq!(scene.mark().await, (BTreeSet::new(), 2));
    scene.db.finish(verify.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert_eq!(scene.mark().await, (set([middle]), 1));
    assert!(matches!(scene.restore(middle).await, Err(Error::NotFound { .. })), "it is about to go");

    let restore = scene.db.lease_job("worker", &[JobKind::Restore], LIMITS).await.unwrap().unwrap();
    assert_eq!(scene.mark().await, (set([middle]), 1), "also while it runs");
    scene.db.finish(restore.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    scene.db.start_run(task, "anna", None).await.unwrap();
    let backup = fixture::lease(&scene.db).await.unwrap();
    assert_eq!(scene.mark().await, (set([middle]), 1), "a differential may build on it");
    scene.db.finish(backup.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    assert_eq!(scene.mark().await, (set([old, middle]), 0));
    scene.restore(newest).await.unwrap();
}

#[tokio::test]
async fn a_job_that_lost_its_lease_marks_nothing() {
    let scene = scene(1).await;
    let task = scene.task("nightly", last(1)).await;
    scene.point(Some(task), 2).await;
    scene.point(Some(task), 1).await;
    let job = scene.job(JobKind::Retain).await;
    scene.db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    let late = scene.db.mark_by_rules(job.lease(), scene.repository_id, &scene.machines).await;
    assert!(matches!(late, Err(Error::LostLease(_))));
    assert!(scene.marked().await.is_empty());
}

#[tokio::test]
async fn points_of_a_deleted_task_stay_unless_its_rule_is_to_go_on() {
    let scene = scene(1).await;
    let (kept, ruled) = (scene.task("kept", last(1)).await, scene.task("ruled", last(1)).await);
    let machine = Rule { last: 1, scope: Scope::Machine, ..Rule::default() };
    let wide = scene.task("wide", Retention::from(machine)).await;
    let mut points = Vec::new();
    for (task, hours) in [(kept, 9), (kept, 8), (ruled, 7), (ruled, 6), (wide, 1)] {
        points.push(scene.point(Some(task), hours).await);
    }
    scene.db.end_task(wide, PointsAfter::Rule).await.unwrap();
    scene.db.delete_task(kept).await.unwrap();
    scene.db.end_task(ruled, PointsAfter::Rule).await.unwrap();
    assert_eq!(scene.mark().await, (set([points[2]]), 0), "a deleted task answers for its own points only");
    let outlook = scene.db.retention_of_machine(scene.machines[0]).await.unwrap().remove(0);
    let reasons = outlook.decide(scene.db.now().await.unwrap());
    let of_kept = reasons.iter().find(|verdict| verdict.id == points[0]).unwrap();
    assert_eq!(of_kept.reasons, [Reason::NoRule]);

    // A task that counts all points of the machine takes care of what nobody answers for.
    let machine = Rule { last: 2, scope: Scope::Machine, ..Rule::default() };
    scene.task("heir", Retention::from(machine)).await;
    assert_eq!(scene.mark().await, (set([points[0], points[1], points[2]]), 0));
    let why = &scene.db.expiring_points(scene.repository_id).await.unwrap()[1].why;
    assert_eq!(why, "no longer kept by “heir” (last 2)");
}

#[tokio::test]
async fn no_rule_goes_below_the_floor() {
    let scene = scene(1).await;
    let task = scene.task("nightly", last(1)).await;
    let [old, middle, _] =
        [scene.point(Some(task), 90).await, scene.point(Some(task), 30).await, scene.point(Some(task), 1).await];
    scene.db.set_floor(scene.repository_id, Floor { points: 3, days: 0 }).await.unwrap();
    assert_eq!(scene.mark().await, (BTreeSet::new(), 0));
    scene.db.set_floor(scene.repository_id, Floor { points: 0, days: 2 }).await.unwrap();
    assert_eq!(scene.mark().await, (set([old]), 0));
    let row = scene.db.repository(scene.repository_id).await.unwrap();
    assert_eq!((row.floor_points, row.floor_days), (0, 2));
    scene.db.set_floor(scene.repository_id, Floor::default()).await.unwrap();
    assert_eq!(scene.mark().await, (set([old, middle]), 0));
    let too_much = Floor { points: 10_001, days: 0 };
    assert!(matches!(scene.db.set_floor(scene.repository_id, too_much).await, Err(Error::OutOfLimits { .. })));
    let nowhere = scene.db.set_floor(RepositoryId(Uuid::nil()), Floor::default()).await;
    assert!(matches!(nowhere, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn all_machines_are_looked_at_now_and_then_and_those_with_new_points_always() {
    let scene = scene(2).await;
    let db = &scene.db;
    let task = scene.task("nightly", last(1)).await;
    assert!(db.repositories_to_retain(DAY).await.unwrap().is_empty(), "there is nothing in it");
    let age = SignedDuration::from_hours(1);
    for vm in &scene.machines {
        scene.point_of(*vm, Some(task), age).await;
    }
    assert_eq!(db.repositories_to_retain(DAY).await.unwrap()[0].0, scene.repository_id);
    let (machines, began, all) = db.machines_to_retain(scene.repository_id, DAY).await.unwrap();
    assert_eq!((machines, all), (scene.machines.clone(), true));
    db.record_retained(scene.repository_id, began, all).await.unwrap();
    assert!(db.repositories_to_retain(DAY).await.unwrap().is_empty());
    // Time passes for the points, not for the looks.
    db.execute("update restore_point set created_at = created_at - interval '2 hours'").await;
    assert_eq!(db.machines_to_retain(scene.repository_id, DAY).await.unwrap().0, []);
    scene.point_of(scene.machines[1], Some(task), age).await;
    let (machines, _, all) = db.machines_to_retain(scene.repository_id, DAY).await.unwrap();
    assert_eq!((machines, all), (vec![scene.machines[1]], false));
    assert!(db.machines_to_retain(scene.repository_id, Duration::ZERO).await.unwrap().2);
    assert_eq!(db.repositories_to_retain(Duration::ZERO).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_clean_up_to_tell_of_is_the_last_that_removed_something_or_did_not_end_well() {
    let scene = scene(1).await;
    let db = &scene.db;
    let told = async || db.newest_clean_up(scene.repository_id).await.unwrap().map(|job| job.job_id);
    assert_eq!((told().await, db.newest_retain_job(scene.repository_id).await.unwrap()), (None, None));
    let mut jobs = Vec::new();
    for removed in [0, 2, 0] {
        let job = scene.job(JobKind::Retain).await;
        db.finish(job.lease(), Outcome::Succeeded(json!({ "removed": removed }))).await.unwrap();
        jobs.push(job.job_id);
    }
    assert_eq!(told().await, Some(jobs[1]));
    let running = scene.job(JobKind::Retain).await;
    assert_eq!(told().await, Some(running.job_id));
    assert_eq!(db.newest_retain_job(scene.repository_id).await.unwrap().unwrap().job_id, running.job_id);
}

#[tokio::test]
async fn an_outlook_tells_why_each_stays_and_when_it_goes() {
    let scene = scene(1).await;
    let daily = Schedule::daily("22:00:00".parse().unwrap(), "UTC");
    let input = task_input("nightly", scene.repository_id, &scene.machines);
    let task = scene.db.create_task(&crate::TaskInput { schedule: daily, retention: last(2), ..input }).await.unwrap();
    let [old, new] = [scene.point(Some(task), 30).await, scene.point(Some(task), 3).await];
    let now = scene.db.now().await.unwrap();
    let machine = scene.db.retention_of_machine(scene.machines[0]).await.unwrap().remove(0);
    let outlook = machine.outlook(now, SignedDuration::from_hours(24 * 30));
    assert_eq!(outlook.iter().map(|it| it.point_id).collect::<Vec<_>>(), [new, old]);
    let next = scene.db.task(task).await.unwrap().next_due_at.unwrap();
    assert_eq!(outlook[1].fate, Fate::Goes(next));
    assert!(matches!(outlook[0].fate, Fate::Goes(at) if at > next) && outlook[0].goes_on);
    scene.db.set_task_paused(task, true).await.unwrap();
    let machine = scene.db.retention_of_machine(scene.machines[0]).await.unwrap().remove(0);
    let outlook = machine.outlook(now, SignedDuration::from_hours(24 * 30));
    assert!(outlook.iter().all(|it| it.fate == Fate::Stays && !it.goes_on), "no run takes its place");
}

/// Numbers without a pattern: a test that fails fails again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    /// Mostly small, often none.
    fn part(&mut self) -> u32 {
        [0, 0, 1, 2, 3, 7][self.below(6) as usize]
    }

    fn rule(&mut self) -> Retention {
        let zones = ["UTC", "Europe/Vienna", "America/St_Johns", "Pacific/Apia"];
        Retention::from(Rule {
            last: self.part(),
            days: self.part(),
            daily: self.part(),
            weekly: self.part(),
            monthly: self.part(),
            yearly: self.part().min(2),
            scope: if self.below(3) == 0 { Scope::Machine } else { Scope::Task },
            time_zone: zones[self.below(4) as usize].to_owned(),
        })
    }
}

#[tokio::test]
async fn what_the_preview_says_is_what_happens() {
    let scene = scene(2).await;
    let db = &scene.db;
    let mut numbers = Numbers(20_261_130);
    let (task, other) = (scene.task("changed", last(9)).await, scene.task("other", last(9)).await);
    let mut went = 0;
    for round in 0..40 {
        for _ in 0..numbers.below(30) {
            // Never on the border of a day of age: the preview and the job are some moments apart.
            let minutes = numbers.below(if round % 2 == 0 { 60 * 24 * 12 } else { 60 * 24 * 800 });
            let age = SignedDuration::from_secs(60 * minutes as i64 + 30);
            let owner = [Some(task), Some(task), Some(other), None][numbers.below(4) as usize];
            let vm = scene.machines[numbers.below(2) as usize];
            let point = scene.point_of(vm, owner, age).await;
            match numbers.below(12) {
                0 => db.pin_point(point, "anna", "").await.unwrap(),
                1 => db.record_verified(point, Some("damaged")).await.unwrap(),
                _ => {}
            }
        }
        let floor = Floor { points: numbers.part(), days: numbers.part() };
        db.set_floor(scene.repository_id, floor).await.unwrap();
        let mut input = task_input("changed", scene.repository_id, &scene.machines);
        input.retention = numbers.rule();
        let draft = RetentionDraft {
            task_id: Some(task),
            repository_id: scene.repository_id,
            retention: input.retention.clone(),
            schedule: Schedule::Manual,
            machines: scene.machines.clone(),
        };
        let (machines, more) = db.retention_with(&draft, 10).await.unwrap();
        assert!(!more);
        let now: Timestamp = db.now().await.unwrap();
        let said: BTreeSet<PointId> = machines
            .iter()
            .flat_map(|machine| machine.decide(now))
            .filter(domain::retention::Verdict::goes)
            .map(|verdict| verdict.id)
            .collect();

        db.update_task(task, &input).await.unwrap();
        let (marked, in_use) = scene.mark().await;
        assert_eq!((&marked, in_use), (&said, 0), "round {round}: {:?}, {floor:?}", input.retention);
        went += marked.len();
        for point in marked {
            db.delete_point(point).await.unwrap();
        }
    }
    assert!(went > 100, "{went}");
}
