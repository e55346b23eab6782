//! What is told, once, and how it gets to whoever is to be told.

use super::fixture::{self, lease};
use crate::testing::{TestDatabase, database};
use crate::{
    ChannelId, ChannelInput, Conflict, DeliveryState, Error, Notice, NoticeLimits, Outcome, RunId, Start, TaskId, VmId,
};
use domain::job::{JobError, LogLevel};
use domain::notice::{ChannelConfig, DigestTime, MailSecurity, NoticeKind, NoticeSeverity, Rules, Tell};
use domain::schedule::Schedule;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::time::Duration;

async fn notices(db: &TestDatabase) -> Vec<Notice> {
    let mut all = db.newest_notices(100).await.unwrap();
    all.reverse();
    all
}

/// Kinds, and whether they are over, in the order they came.
async fn kinds(db: &TestDatabase) -> Vec<(NoticeKind, bool)> {
    notices(db).await.iter().map(|notice| (notice.kind, notice.over)).collect()
}

async fn start(db: &TestDatabase, task_id: TaskId) -> RunId {
    match db.start_run(task_id, "anna", None).await.unwrap() {
        Start::Started { run_id, .. } => run_id,
        other => panic!("{other:?}"),
    }
}

fn failed(why: &str) -> Outcome {
    Outcome::Error(JobError::fail("esxi.x", "The snapshot failed.", why, "Look at the host."))
}

fn mail(name: &str, to: &[&str]) -> ChannelInput {
    ChannelInput {
        name: name.to_owned(),
        config: ChannelConfig::Mail {
            host: "mail.example.org".to_owned(),
            port: 587,
            security: MailSecurity::Starttls,
            account: "backup".to_owned(),
            from: "backup@example.org".to_owned(),
            to: to.iter().map(ToString::to_string).collect(),
            ca_pem: String::new(),
        },
        secret: Some(SecretString::from("a password")),
        enabled: true,
        rules: Rules::default(),
        digest: None,
        hourly_max: 20,
    }
}

/// A run of so many machines that all fail.
async fn failing_run(db: &TestDatabase, name: &str, machines: &[VmId]) -> RunId {
    let task_id = fixture::task(db, name, machines).await;
    let run_id = start(db, task_id).await;
    while let Some(job) = lease(db).await {
        db.finish(job.lease(), failed("The host refused it.")).await.unwrap();
    }
    run_id
}

#[tokio::test]
async fn the_end_of_a_run_is_told_once_with_the_machines_that_failed() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 3).await;
    db.execute("update device set max_jobs = 9").await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let run_id = start(&db, task_id).await;
    for outcome in [failed("The host refused it."), Outcome::Succeeded(json!({})), failed("The datastore is full.")] {
        assert!(notices(&db).await.is_empty(), "the run goes on");
        let job = lease(&db).await.unwrap();
        db.finish(job.lease(), outcome).await.unwrap();
    }
    let all = notices(&db).await;
    assert_eq!(all.len(), 1);
    let message = all[0].message();
    assert_eq!((all[0].kind, message.title.as_str()), (NoticeKind::BackupFailed, "nightly: 2 of 3 machines failed"));
    assert_eq!((message.items_total, message.severity), (2, NoticeSeverity::Error));
    assert_eq!(message.items[0].name, "one-000");
    assert_eq!(message.items[0].text, "The host refused it. Look at the host.");
    assert_eq!((message.subject.task_id, message.subject.run_id), (Some(task_id.0), Some(run_id.0)));

    db.retry_failed(run_id).await.unwrap();
    while let Some(job) = lease(&db).await {
        db.log(job.lease(), LogLevel::Warning, "Tracking was lost: read in full.").await.unwrap();
        db.finish(job.lease(), Outcome::Warning(json!({}))).await.unwrap();
    }
    let all = notices(&db).await;
    assert_eq!(all.len(), 2, "another end of the run is another notice");
    assert_eq!(all[1].title, "nightly: 2 of 3 machines with a warning");
    assert_eq!(all[1].message().items[0].text, "Tracking was lost: read in full.");
}

#[tokio::test]
async fn a_good_run_is_told_and_a_cancelled_one_is_not() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    let run_id = start(&db, task_id).await;
    db.request_cancel_run(run_id, "anna").await.unwrap();
    assert!(notices(&db).await.is_empty(), "who cancels it knows it");
    start(&db, task_id).await;
    let job = lease(&db).await.unwrap();
    db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    let all = notices(&db).await;
    assert_eq!((all[0].kind, all[0].title.as_str()), (NoticeKind::BackupSucceeded, "nightly: 1 machine is backed up"));
}

async fn daily_task(db: &TestDatabase, name: &str, machines: &[VmId]) -> TaskId {
    let repository_id = fixture::repository(db).await;
    let schedule = Schedule::daily("22:00".parse().unwrap(), "UTC");
    let input = crate::TaskInput { schedule, ..fixture::task_input(name, repository_id, machines) };
    db.create_task(&input).await.unwrap()
}

/// As if nothing had looked for three days: two due times at least have passed.
async fn three_days_pass(db: &TestDatabase) {
    db.execute("update backup_task set due_checked_until = now() - interval '73 hours'").await;
}

#[tokio::test]
async fn a_run_that_did_not_happen_is_told_once_whatever_the_scheduler_thinks() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    daily_task(&db, "nightly", &machines).await;
    assert_eq!(db.observe_missed_runs().await.unwrap(), 0, "it was made just now");
    three_days_pass(&db).await;
    // A scheduler that lost its mind: nothing is ever due.
    db.execute("update backup_task set next_due_at = null").await;
    assert_eq!(db.observe_missed_runs().await.unwrap(), 1);
    assert_eq!(db.observe_missed_runs().await.unwrap(), 0, "each due time is looked at once");
    let all = notices(&db).await;
    assert_eq!((all.len(), all[0].kind), (1, NoticeKind::RunMissed));
    assert_eq!(all[0].title, "nightly did not run at its time");
    let text = &all[0].message().items[0].text;
    assert!(text.contains("22:00 UTC: no run began."), "{text}");
}

#[tokio::test]
async fn a_run_that_began_in_time_is_none_and_one_that_began_late_is() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = daily_task(&db, "nightly", &machines).await;
    three_days_pass(&db).await;
    let schedule = db.task(task_id).await.unwrap().schedule;
    let now = db.now().await.unwrap();
    let mut due = now - jiff::SignedDuration::from_hours(73);
    let mut runs = 0;
    while let Some(next) = schedule.next_after(due).unwrap().filter(|next| *next < now) {
        due = next;
        start_at(&db, task_id, due).await;
        runs += 1;
    }
    assert!(runs >= 3);
    db.execute("update run set created_at = due_at + interval '5 minutes', finished_at = due_at + interval '1 hour'")
        .await;
    assert_eq!(db.observe_missed_runs().await.unwrap(), 0);
    three_days_pass(&db).await;
    db.execute("update run set created_at = due_at + interval '7 hours', finished_at = due_at + interval '8 hours'")
        .await;
    assert_eq!(db.observe_missed_runs().await.unwrap(), 1, "the server was down and caught up");
    let text = notices(&db).await.pop().unwrap().message().items[0].text.clone();
    assert!(text.contains("it began only at"), "{text}");
}

#[tokio::test]
async fn a_run_that_was_left_out_is_told_with_its_cause() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = daily_task(&db, "nightly", &machines).await;
    three_days_pass(&db).await;
    let schedule = db.task(task_id).await.unwrap().schedule;
    let since = db.now().await.unwrap() - jiff::SignedDuration::from_hours(73);
    let due = schedule.next_after(since).unwrap().unwrap();
    let error = JobError::fail("schedule.still_running", "The run was left out.", "The one before it still ran.", "");
    let mut transaction = db.pool.begin().await.unwrap();
    crate::scheduler::leave_out(&mut transaction, task_id, Some(due), &error).await.unwrap().unwrap();
    transaction.commit().await.unwrap();
    db.execute("update run set created_at = due_at, finished_at = due_at").await;
    assert_eq!(db.observe_missed_runs().await.unwrap(), 1);
    let text = notices(&db).await.pop().unwrap().message().items[0].text.clone();
    assert!(text.contains("The run was left out. The one before it still ran."), "{text}");
}

async fn start_at(db: &TestDatabase, task_id: TaskId, due: jiff::Timestamp) {
    db.start_run(task_id, "schedule", Some(due)).await.unwrap();
    let job = lease(db).await.unwrap();
    db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
}

#[tokio::test]
async fn a_paused_task_misses_nothing_and_many_tasks_are_one_notice() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let first = daily_task(&db, "first", &machines).await;
    for name in ["second", "third"] {
        daily_task(&db, name, &machines).await;
    }
    db.set_task_paused(first, true).await.unwrap();
    three_days_pass(&db).await;
    assert_eq!(db.observe_missed_runs().await.unwrap(), 2);
    let all = notices(&db).await;
    assert_eq!((all.len(), all[0].title.as_str()), (1, "2 tasks did not run at their time"));
    db.set_task_paused(first, false).await.unwrap();
    assert_eq!(db.observe_missed_runs().await.unwrap(), 0, "what passed while it was paused is no concern");
}

#[tokio::test]
async fn two_servers_that_look_at_the_same_time_tell_once() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 1).await;
    daily_task(&db, "nightly", &machines).await;
    three_days_pass(&db).await;
    db.record_sync_failure(device_id, &JobError::retry("host.unreachable", "w", "No connection.", "h")).await.unwrap();
    db.execute("update device set synced_at = now() - interval '2 hours'").await;
    let second = db.second().await;
    let (one, two) = tokio::join!(db.observe_missed_runs(), second.observe_missed_runs());
    assert_eq!(one.unwrap() + two.unwrap(), 1);
    let (one, two) = tokio::join!(db.observe_conditions(), second.observe_conditions());
    assert_eq!(one.unwrap() + two.unwrap(), 1);
    assert_eq!(notices(&db).await.len(), 2);
}

#[tokio::test]
async fn a_device_that_does_not_answer_is_told_once_and_so_is_its_return() {
    let db = database().await;
    let device_id = fixture::device(&db, "esx-a").await;
    let other = fixture::device(&db, "esx-b").await;
    let error = JobError::retry("host.unreachable", "w", "No connection.", "Look at the cable.");
    for id in [device_id, other] {
        db.record_sync_failure(id, &error).await.unwrap();
    }
    db.observe_conditions().await.unwrap();
    assert!(kinds(&db).await.is_empty(), "not for long enough");
    db.execute("update device set synced_at = now() - interval '31 minutes'").await;
    for _ in 0..3 {
        db.observe_conditions().await.unwrap();
    }
    let all = notices(&db).await;
    assert_eq!((all.len(), all[0].title.as_str()), (1, "2 devices do not answer"));
    assert_eq!(all[0].message().items[0].text, "No connection. Look at the cable.");
    db.set_device_enabled(other, false).await.unwrap();
    db.execute("update device set sync_error = null, synced_at = now()").await;
    db.observe_conditions().await.unwrap();
    let all = notices(&db).await;
    assert_eq!((all.len(), all[1].title.as_str()), (2, "esx-a answers again"), "of a disabled one nothing is told");
    assert_eq!((all[1].severity, all[1].over), (NoticeSeverity::Info, true));
    assert_eq!(all[1].message().subject.device_id, Some(device_id.0));
}

#[tokio::test]
async fn space_is_told_below_the_threshold_and_again_only_well_above_it() {
    let db = database().await;
    let repository_id = fixture::repository(&db).await;
    let limits = NoticeLimits { space_percent: 20, ..NoticeLimits::default() };
    db.set_notice_limits(&limits).await.unwrap();
    let mut told = Vec::new();
    for free in [30, 19, 21, 18, 23, 21] {
        db.record_repository_usage(repository_id, Some(100_000_000_000), Some(free * 1_000_000_000), 1).await.unwrap();
        db.observe_conditions().await.unwrap();
        told.push(kinds(&db).await.len());
    }
    assert_eq!(told, [0, 1, 1, 1, 2, 2]);
    assert_eq!(kinds(&db).await[1], (NoticeKind::RepositorySpace, true));
    let error = JobError::retry("repository.storage", "w", "The share is gone.", "h");
    db.record_repository_error(repository_id, &error).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert_eq!(kinds(&db).await[2], (NoticeKind::RepositoryUnreachable, false));
    db.remove_repository(repository_id).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert_eq!(kinds(&db).await.len(), 3, "what was removed goes in silence");
}

#[tokio::test]
async fn damage_and_its_end_are_told() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    start(&db, task_id).await;
    let job = lease(&db).await.unwrap();
    let point_id = crate::PointId(uuid::Uuid::new_v4());
    let point = fixture::point(&job, point_id, 1_000_000, domain::point::PointKind::Full);
    db.insert_point(job.lease(), &point).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert!(kinds(&db).await.is_empty());
    db.record_verified(point_id, Some("pack 7: a chunk does not match its hash.")).await.unwrap();
    db.observe_conditions().await.unwrap();
    db.observe_conditions().await.unwrap();
    let all = notices(&db).await;
    assert_eq!((all.len(), all[0].title.as_str()), (1, "A restore point of one-000 is damaged"));
    assert!(all[0].message().items[0].text.contains("does not match its hash"));
    db.record_verified(point_id, None).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert_eq!(kinds(&db).await[1..], [(NoticeKind::Damage, true)]);
}

#[tokio::test]
async fn what_stays_on_a_host_is_told_after_an_hour() {
    let db = database().await;
    let (device_id, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let task_id = fixture::task(&db, "nightly", &machines).await;
    start(&db, task_id).await;
    let job = lease(&db).await.unwrap();
    let change = crate::NewChange {
        device_id,
        vm_id: Some(machines[0]),
        kind: crate::ChangeKind::Snapshot,
        token: "snapshot-of-this-test".to_owned(),
        machine_ref: Some("ref-1".to_owned()),
        settles_after: None,
    };
    let change_id = db.intend_change(job.lease(), &change).await.unwrap();
    db.change_made(change_id, Some("snap-1")).await.unwrap();
    db.execute("update host_change set created_at = now() - interval '5 hours'").await;
    db.observe_conditions().await.unwrap();
    assert!(kinds(&db).await.is_empty(), "the backup goes on");
    db.finish(job.lease(), Outcome::Succeeded(json!({}))).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert_eq!(kinds(&db).await.len(), 1, "only the run's end: what is left is put right within minutes");
    db.execute("update job set updated_at = now() - interval '61 minutes'").await;
    db.change_failed(change_id, "The host does not answer.").await.unwrap();
    db.observe_conditions().await.unwrap();
    let all = notices(&db).await;
    assert_eq!(all[1].kind, NoticeKind::LeftBehind);
    assert_eq!(all[1].message().items[0].text, "A snapshot. The host does not answer.");
    db.change_removing(change_id).await.unwrap();
    db.change_removed(change_id).await.unwrap();
    db.observe_conditions().await.unwrap();
    assert_eq!(kinds(&db).await[2], (NoticeKind::LeftBehind, true));
}

#[tokio::test]
async fn a_channels_secret_is_sealed_kept_and_removed() {
    let db = database().await;
    let input = mail("ops", &["a@example.org"]);
    let id = db.insert_channel(&input).await.unwrap();
    assert_eq!(db.channel_secret(id).await.unwrap().unwrap().expose_secret(), "a password");
    let stored: Vec<u8> =
        sqlx::query_scalar("select secret_sealed from notice_channel").fetch_one(&db.database.pool).await.unwrap();
    assert!(!stored.windows(10).any(|window| window == b"a password"));
    db.update_channel(id, &ChannelInput { secret: None, ..input.clone() }).await.unwrap();
    assert!(db.channel_secret(id).await.unwrap().is_some(), "kept");
    assert_eq!(db.channel(id).await.unwrap().config, input.config);
    db.update_channel(id, &ChannelInput { secret: Some("".into()), ..input.clone() }).await.unwrap();
    assert!(!db.channel(id).await.unwrap().has_secret);
    let twice = db.insert_channel(&ChannelInput { name: "OPS".to_owned(), ..input }).await;
    assert!(matches!(twice, Err(Error::Conflict(Conflict::ChannelName))));
    db.remove_channel(id).await.unwrap();
    assert!(matches!(db.channel(id).await, Err(Error::NotFound { .. })));
}

/// States of the last messages, oldest first.
async fn states(db: &TestDatabase, channel: ChannelId) -> Vec<DeliveryState> {
    let mut lines = db.newest_deliveries(Some(channel), 100).await.unwrap();
    lines.reverse();
    lines.iter().map(|line| line.state).collect()
}

#[tokio::test]
async fn a_notice_goes_once_to_each_recipient_of_each_channel_that_wants_it() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    failing_run(&db, "before", &machines).await;
    db.route_notices().await.unwrap();
    let both = db.insert_channel(&mail("both", &["a@example.org", "b@example.org"])).await.unwrap();
    let rules = Rules([(NoticeKind::BackupFailed, Tell::Never)].into());
    let silent = db.insert_channel(&ChannelInput { rules, ..mail("silent", &["c@example.org"]) }).await.unwrap();
    failing_run(&db, "after", &machines).await;
    let second = db.second().await;
    let (one, two) = tokio::join!(db.route_notices(), second.route_notices());
    assert_eq!(one.unwrap() + two.unwrap(), 2);
    assert_eq!(db.route_notices().await.unwrap(), 0);
    assert!(states(&db, silent).await.is_empty());
    let leased = db.lease_deliveries("w", 10).await.unwrap();
    let mut to: Vec<&str> = leased.iter().map(|it| it.recipient.as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["a@example.org", "b@example.org"]);
    assert_eq!(leased[0].message.title, "after: one-000 failed", "a channel is told what comes after it was made");
    assert_eq!(states(&db, both).await, [DeliveryState::Sending; 2]);
}

#[tokio::test]
async fn many_notices_in_an_hour_are_one_summary() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let input = ChannelInput { hourly_max: 2, ..mail("ops", &["a@example.org", "b@example.org"]) };
    let channel = db.insert_channel(&input).await.unwrap();
    for n in 0..5 {
        failing_run(&db, &format!("task {n}"), &machines).await;
        db.route_notices().await.unwrap();
    }
    let count = async |state| states(&db, channel).await.into_iter().filter(|it| *it == state).count();
    assert_eq!((count(DeliveryState::Queued).await, count(DeliveryState::Held).await), (4, 3));
    db.execute("update notice_delivery set created_at = now() - interval '16 minutes' where state = 'held'").await;
    assert_eq!(db.route_notices().await.unwrap(), 2, "one summary to each recipient");
    assert_eq!((count(DeliveryState::Held).await, count(DeliveryState::Summed).await), (0, 3));
    let leased = db.lease_deliveries("w", 10).await.unwrap();
    let summary = &leased.iter().find(|it| it.message.kind == "summary").unwrap().message;
    assert_eq!((summary.title.as_str(), summary.severity), ("3 more notices", NoticeSeverity::Error));
    assert!(summary.sections[0].lines[0].ends_with("task 2: one-000 failed"), "{summary:?}");
}

#[tokio::test]
async fn a_message_is_leased_once_tried_again_and_given_up() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let channel = db.insert_channel(&mail("ops", &["a@example.org"])).await.unwrap();
    failing_run(&db, "nightly", &machines).await;
    db.route_notices().await.unwrap();
    let second = db.second().await;
    let (one, two) = tokio::join!(db.lease_deliveries("one", 5), second.lease_deliveries("two", 5));
    let leased: Vec<_> = one.unwrap().into_iter().chain(two.unwrap()).collect();
    assert_eq!(leased.len(), 1, "one server has it");
    let first = &leased[0];
    assert!(db.lease_deliveries("w", 5).await.unwrap().is_empty());

    db.execute("update notice_delivery set lease_expires_at = now()").await;
    let again = db.lease_deliveries("w", 5).await.unwrap();
    assert_eq!((again[0].delivery_id, again[0].attempt), (first.delivery_id, 2), "the same id: receivers can tell");
    db.delivery_sent(first, "250 late").await.unwrap();
    assert_eq!(states(&db, channel).await, [DeliveryState::Sending], "who lost the lease settles nothing");

    let hour = Duration::from_secs(3600);
    assert_eq!(db.delivery_failed(&again[0], "connection refused", hour).await.unwrap(), DeliveryState::Queued);
    assert!(db.lease_deliveries("w", 5).await.unwrap().is_empty(), "not before its time");
    for attempt in 3..=12 {
        db.execute("update notice_delivery set run_after = now()").await;
        let leased = db.lease_deliveries("w", 5).await.unwrap();
        assert_eq!(leased[0].attempt, attempt);
        let state = db.delivery_failed(&leased[0], "connection refused", hour).await.unwrap();
        assert_eq!(state == DeliveryState::Failed, attempt == 12);
    }
    let line = db.newest_deliveries(None, 1).await.unwrap().remove(0);
    assert_eq!((line.state, line.answer.as_deref()), (DeliveryState::Failed, Some("connection refused")));
}

#[tokio::test]
async fn a_paused_channel_sends_nothing_and_loses_nothing_that_waited() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 1).await;
    let input = mail("ops", &["a@example.org"]);
    let channel = db.insert_channel(&input).await.unwrap();
    failing_run(&db, "nightly", &machines).await;
    db.route_notices().await.unwrap();
    db.update_channel(channel, &ChannelInput { enabled: false, ..input.clone() }).await.unwrap();
    assert!(db.lease_deliveries("w", 5).await.unwrap().is_empty());
    db.update_channel(channel, &input).await.unwrap();
    assert_eq!(db.lease_deliveries("w", 5).await.unwrap().len(), 1);
}

fn digest(also_when_well: bool) -> DigestTime {
    DigestTime { at: "07:00".parse().unwrap(), time_zone: "Europe/Vienna".to_owned(), also_when_well }
}

#[tokio::test]
async fn a_digest_comes_when_it_is_due_and_says_what_happened() {
    let db = database().await;
    let (_, machines) = fixture::device_with_machines(&db, "one", 2).await;
    db.execute("update device set max_jobs = 9").await;
    let rules = Rules(NoticeKind::ALL.map(|kind| (kind, Tell::Digest)).into());
    let quiet = ChannelInput { digest: Some(digest(false)), rules: rules.clone(), ..mail("quiet", &["q@example.org"]) };
    let daily = ChannelInput { digest: Some(digest(true)), rules, ..mail("daily", &["d@example.org"]) };
    let (quiet, daily) = (db.insert_channel(&quiet).await.unwrap(), db.insert_channel(&daily).await.unwrap());
    assert_eq!(db.make_due_digests().await.unwrap(), 0, "not yet");
    db.execute("update notice_channel set next_digest_at = now(), digested_until = now() - interval '1 day'").await;
    assert_eq!(db.make_due_digests().await.unwrap(), 1, "all is well: only for those who want to hear it");
    assert!(states(&db, quiet).await.is_empty());
    let message = db.lease_deliveries("w", 5).await.unwrap().remove(0).message;
    assert_eq!(message.title, "All is well: 0 runs ended since the last digest");

    let run = failing_run(&db, "nightly", &machines).await;
    db.execute("update notice_channel set next_digest_at = now()").await;
    let second = db.second().await;
    let (one, two) = tokio::join!(db.make_due_digests(), second.make_due_digests());
    assert_eq!(one.unwrap() + two.unwrap(), 2);
    let next = db.channel(daily).await.unwrap().next_digest_at.unwrap();
    assert!(next > db.now().await.unwrap());
    let message = db.lease_deliveries("w", 5).await.unwrap().remove(0).message;
    assert_eq!((message.kind.as_str(), message.severity), ("digest", NoticeSeverity::Error), "run {run}");
    assert_eq!(message.title, "1 run failed since the last digest");
    let text = message.text();
    for expected in [
        "2 of 2 machines failed",
        "Machines that miss their goal\n- None.",
        "Left behind on hosts: 0",
        "nightly: 2 of 2",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}
