//! Who may take which job, how a worker comes in and goes, and what its account may do.

use super::fixture::{self, LIMITS};
use crate::testing::{TestDatabase, database};
use crate::views::{stranded_jobs, troubles, worker_line, workers};
use crate::{Conflict, DeviceId, Enrolment, Error, NewJob, Presence, Reach, RepositoryId, WorkerId, WorkerKind};
use domain::job::JobKind;
use secrecy::{ExposeSecret, SecretString};

fn presence(name: &str, kind: WorkerKind, tags: &[&str]) -> Presence {
    Presence {
        name: name.to_owned(),
        kind,
        tags: tags.iter().map(ToString::to_string).collect(),
        also_untagged: false,
        host: format!("host of {name}"),
        version: "1.2.3".to_owned(),
        process: 7,
        slots: 8,
        processors: 4,
    }
}

fn reach() -> Reach {
    Reach { host: None, port: 5433, ssl_mode: "verify-ca".to_owned(), certificate: None }
}

async fn enrol(db: &TestDatabase, token: u8, name: &str, replaces: Option<WorkerId>) -> Enrolment {
    db.issue_worker_token([token; 32], replaces, "anna").await.unwrap();
    db.enrol_worker([token; 32], name, reach()).await.unwrap()
}

async fn worker(db: &TestDatabase, token: u8, it: &Presence) -> WorkerId {
    enrol(db, token, &it.name, None).await;
    db.register_worker(it).await.unwrap()
}

async fn lease(db: &TestDatabase, worker: &str) -> Option<String> {
    db.lease_job(&format!("{worker}/1"), &JobKind::ALL, LIMITS).await.unwrap().map(|job| job.title)
}

async fn queue(db: &TestDatabase, title: &str, device: Option<DeviceId>, repository: Option<RepositoryId>) {
    let job = NewJob {
        device_id: device,
        repository_id: repository,
        ..NewJob::new(JobKind::Reconcile, title, format!("key of {title}"))
    };
    db.enqueue(&job).await.unwrap().unwrap();
}

async fn drop_accounts(db: &TestDatabase) {
    for worker in workers(db).await.unwrap() {
        db.remove_worker(worker.worker_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_worker_takes_what_its_tags_and_its_folders_allow() {
    let db = database().await;
    let (here, there) = (fixture::device(&db, "here").await, fixture::device(&db, "there").await);
    db.set_device_worker_tag(there, Some("site-b")).await.unwrap();
    assert_eq!(db.device_worker_tag(there).await.unwrap().as_deref(), Some("site-b"));
    let (ours, theirs) = (fixture::repository(&db).await, fixture::repository(&db).await);
    db.register_worker(&presence("server", WorkerKind::Server, &[])).await.unwrap();
    let tagged = worker(&db, 1, &presence("tagged", WorkerKind::Worker, &["site-b"])).await;
    worker(&db, 2, &presence("plain", WorkerKind::Worker, &[])).await;
    db.set_repository_seen_by(theirs, &[tagged]).await.unwrap();

    queue(&db, "of here", Some(here), None).await;
    assert_eq!(lease(&db, "tagged").await, None, "a worker with tags leaves the others alone");
    assert_eq!(lease(&db, "plain").await.as_deref(), Some("of here"));
    queue(&db, "of there", Some(there), None).await;
    assert_eq!((lease(&db, "server").await, lease(&db, "plain").await), (None, None));
    assert_eq!(lease(&db, "tagged").await.as_deref(), Some("of there"));
    queue(&db, "here, our folder", Some(here), Some(ours)).await;
    assert_eq!(lease(&db, "plain").await, None, "it does not see the server's folder");
    assert_eq!(lease(&db, "server").await.as_deref(), Some("here, our folder"));
    queue(&db, "their folder", None, Some(theirs)).await;
    assert_eq!((lease(&db, "server").await, lease(&db, "plain").await), (None, None));
    assert_eq!(lease(&db, "tagged").await.as_deref(), Some("their folder"), "whatever its tags");
    queue(&db, "there, our folder", Some(there), Some(ours)).await;
    assert_eq!((lease(&db, "server").await, lease(&db, "tagged").await), (None, None), "nobody may do both");

    db.execute("update job set run_after = now() - interval '1 minute' where state = 'queued'").await;
    let stranded = stranded_jobs(&db).await.unwrap();
    assert_eq!((stranded.len(), stranded[0].title.as_str()), (1, "there, our folder"));
    assert_eq!((stranded[0].tag.as_deref(), stranded[0].folder), (Some("site-b"), Some(ours)));
    db.set_repository_seen_by(ours, &[tagged]).await.unwrap();
    assert!(stranded_jobs(&db).await.unwrap().is_empty());
    assert_eq!(lease(&db, "tagged").await.as_deref(), Some("there, our folder"));
    // Shares and buckets are seen by all.
    db.execute("update repository set kind = 's3', seen_by = '{}'").await;
    queue(&db, "a bucket", Some(here), Some(ours)).await;
    assert_eq!(lease(&db, "plain").await.as_deref(), Some("a bucket"));
    drop_accounts(&db).await;
}

#[tokio::test]
async fn a_drained_worker_takes_nothing_and_a_lost_one_shows() {
    let db = database().await;
    let device = fixture::device(&db, "here").await;
    let it = presence("plain", WorkerKind::Worker, &[]);
    let id = worker(&db, 1, &it).await;
    queue(&db, "first", Some(device), None).await;
    db.drain_worker(id, true).await.unwrap();
    assert_eq!(lease(&db, "plain").await, None);
    db.drain_worker(id, false).await.unwrap();
    assert_eq!(lease(&db, "plain").await.as_deref(), Some("first"));
    db.worker_beat(id, &it, Some(125)).await.unwrap();
    let line = worker_line(&db, id).await.unwrap().unwrap();
    assert_eq!((line.alive, line.jobs, line.load_percent, line.version.as_str()), (true, 1, Some(125), "1.2.3"));
    // Another process with its name: the old one hears of it.
    let newer = Presence { process: 8, ..it.clone() };
    db.register_worker(&newer).await.unwrap();
    assert!(matches!(db.worker_beat(id, &it, None).await, Err(Error::WorkerGone(name)) if name == "plain"));
    db.execute("update worker set seen_at = now() - interval '61 seconds'").await;
    assert!(!worker_line(&db, id).await.unwrap().unwrap().alive);
    let told = troubles(&db).await.unwrap();
    assert!(told.iter().any(|trouble| trouble.title == "The worker plain is lost"), "{told:?}");
    db.worker_beat(id, &newer, None).await.unwrap();
    db.worker_stopped(id, &newer).await.unwrap();
    let line = worker_line(&db, id).await.unwrap().unwrap();
    assert!(!line.alive && line.stopped_at.is_some());
    db.remove_worker(id).await.unwrap();
    assert!(matches!(db.register_worker(&newer).await, Err(Error::WorkerGone(_))), "it has to be enrolled again");
    assert!(matches!(db.worker_beat(id, &newer, None).await, Err(Error::WorkerGone(_))));
}

#[tokio::test]
async fn a_token_lets_one_worker_in_once() {
    let db = database().await;
    let first = enrol(&db, 1, "first", None).await;
    assert_eq!((first.name.as_str(), &first.reach), ("first", &reach()));
    assert_eq!(
        Enrolment::from_json(&first.to_json()).unwrap().password.expose_secret(),
        first.password.expose_secret()
    );
    for token in [1, 9] {
        assert!(matches!(db.enrol_worker([token; 32], "again", reach()).await, Err(Error::WorkerToken)), "{token}");
    }
    db.issue_worker_token([2; 32], None, "anna").await.unwrap();
    let taken = db.enrol_worker([2; 32], "first", reach()).await;
    assert!(matches!(taken, Err(Error::Conflict(Conflict::WorkerName))), "{taken:?}");
    // All or nothing: the token still works.
    db.enrol_worker([2; 32], "second", reach()).await.unwrap();
    db.issue_worker_token([3; 32], None, "anna").await.unwrap();
    db.execute("update worker_token set expires_at = now()").await;
    assert!(matches!(db.enrol_worker([3; 32], "third", reach()).await, Err(Error::WorkerToken)));
    drop_accounts(&db).await;
}

/// What a statement comes to under a worker's account.
async fn as_account(db: &TestDatabase, account: &str, statement: &'static str) -> Result<(), String> {
    let mut transaction = db.pool.begin().await.unwrap();
    let role = format!("set local role {account}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(role)).execute(&mut *transaction).await.map_err(|error| error.to_string())?;
    sqlx::raw_sql(statement).execute(&mut *transaction).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_workers_account_does_jobs_and_nothing_else() {
    let db = database().await;
    let it = enrol(&db, 1, "first", None).await;
    fixture::device(&db, "here").await;
    for allowed in [
        "select password_sealed from device",
        "update job set phase = ''",
        "select * from _sqlx_migrations",
        "insert into setting (name, value) values ('x', '1')",
        "insert into run (title, kind, started_by) values ('r', 'backup', 'x')",
    ] {
        let done = as_account(&db, &it.account, allowed).await;
        assert!(done.as_ref().err().is_none_or(|error| !error.contains("permission denied")), "{allowed}: {done:?}");
    }
    for refused in [
        "select password_hash from account",
        "select * from session",
        "insert into worker_token values ('\\x00', null, '', now(), now())",
        "delete from audit_entry",
        "update installation set setup_token_hash = null",
        "create table mine (x int)",
        "drop table job",
    ] {
        let done = as_account(&db, &it.account, refused).await;
        let why = done.expect_err(refused);
        assert!(why.contains("permission denied") || why.contains("must be owner"), "{refused}: {why}");
    }
    let id = workers(&db).await.unwrap()[0].worker_id;
    let newer = enrol(&db, 2, "ignored", Some(id)).await;
    assert_eq!(newer.name, "first", "it takes the place of the other");
    assert!(as_account(&db, &it.account, "select 1").await.unwrap_err().contains("does not exist"));
    as_account(&db, &newer.account, "select name from device").await.unwrap();
    db.remove_worker(id).await.unwrap();
    assert!(as_account(&db, &newer.account, "select 1").await.unwrap_err().contains("does not exist"));
}

#[test]
fn where_workers_find_a_database_that_the_server_was_told() {
    let of = |url: &str| Reach::of_url(&SecretString::from(url.to_owned())).unwrap();
    let far = of("postgres://me:secret@db.example:5444/stillframe?sslmode=verify-full");
    assert_eq!((far.host.as_deref(), far.port, far.ssl_mode.as_str()), (Some("db.example"), 5444, "verify-full"));
    assert_eq!(of("postgres://me@localhost/x").host, None, "where the console is");
    assert_eq!(of("postgres://me@%2Frun%2Fpg/x").host.as_deref(), Some("/run/pg"));
}
