//! The private Postgres and the first connection.

use crate::private_postgres::{PostgresError, PostgresOptions, PrivatePostgres};
use crate::testing::database;
use crate::{Address, CredentialKey, Database, Error, Event};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A data folder another account may pass through, as the server makes it.
fn data_dir() -> (TempDir, PostgresOptions) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
    let options = PostgresOptions {
        data_dir: folder.path().to_owned(),
        path: None,
        settings: vec!["fsync=off".to_owned()],
        network: None,
    };
    (folder, options)
}

fn pid(postgres: &PrivatePostgres) -> Pid {
    Pid::from_raw(postgres.process_id().unwrap().try_into().unwrap()).unwrap()
}

fn alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

async fn ends(pid: Pid) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while alive(pid) {
        assert!(Instant::now() < deadline, "process {pid:?} lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_starts_stops_and_keeps_what_was_written() {
    let (folder, options) = data_dir();
    let key = CredentialKey::random();
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let first = pid(&postgres);
    let db = Database::connect(&postgres.address(), key.clone()).await.unwrap();
    db.set_setting("kept", &true).await.unwrap();
    db.close().await;
    assert!(matches!(db.now().await, Err(Error::Unavailable(_))));
    postgres.stop().await.unwrap();
    assert!(!alive(first));

    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let db = Database::connect(&postgres.address(), key).await.unwrap();
    assert_eq!(db.setting::<bool>("kept").await.unwrap(), Some(true));
    let other = Database::connect(&postgres.address(), CredentialKey::random()).await;
    assert!(matches!(other, Err(Error::WrongKey)));
    let listening: String = sqlx::query_scalar("show listen_addresses").fetch_one(&db.pool).await.unwrap();
    assert_eq!(listening, "");
    let mode = std::fs::metadata(folder.path().join("postgres/cluster")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn an_orphan_is_taken_over_and_a_killed_postmaster_recovers() {
    let (_folder, options) = data_dir();
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let orphan = pid(&postgres);
    postgres.detach();
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let second = pid(&postgres);
    assert_ne!(second, orphan);
    assert!(!alive(orphan));

    let db = Database::connect(&postgres.address(), CredentialKey::random()).await.unwrap();
    kill_process(second, Signal::KILL).unwrap();
    let mut postgres = postgres;
    postgres.ended().await;
    assert!(matches!(db.now().await, Err(Error::Unavailable(_))));
    let again = PrivatePostgres::start(&options).await.unwrap();
    again.stop().await.unwrap();
}

#[tokio::test]
async fn dropping_it_stops_it() {
    let (_folder, options) = data_dir();
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    let pid = pid(&postgres);
    drop(postgres);
    ends(pid).await;
}

#[tokio::test]
async fn a_pid_file_of_something_else_does_not_stop_the_start() {
    let (folder, options) = data_dir();
    PrivatePostgres::start(&options).await.unwrap().stop().await.unwrap();
    let file = folder.path().join("postgres/cluster/postmaster.pid");
    std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
    PrivatePostgres::start(&options).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_cluster_of_another_version_is_told() {
    let (folder, options) = data_dir();
    std::fs::create_dir_all(folder.path().join("postgres/cluster")).unwrap();
    std::fs::write(folder.path().join("postgres/cluster/PG_VERSION"), "9\n").unwrap();
    let error = PrivatePostgres::start(&options).await.unwrap_err();
    assert!(matches!(&error, PostgresError::OtherVersion { cluster, .. } if cluster == "9"), "{error}");
}

#[tokio::test]
async fn a_long_data_folder_works_too() {
    let (folder, mut options) = data_dir();
    options.data_dir = folder.path().join("x".repeat(100));
    std::fs::create_dir(&options.data_dir).unwrap();
    let postgres = PrivatePostgres::start(&options).await.unwrap();
    Database::connect(&postgres.address(), CredentialKey::random()).await.unwrap();
    postgres.stop().await.unwrap();
}

#[tokio::test]
async fn a_newer_or_altered_database_is_refused() {
    let db = database().await;
    let address = Address::Url(SecretString::from(db.url()));
    Database::connect(&address, db.key.clone()).await.unwrap();
    db.execute(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (999999, 'of the future', true, '\\x00', 0)",
    )
    .await;
    let newer = Database::connect(&address, db.key.clone()).await;
    assert!(matches!(newer, Err(Error::Newer(999_999))));
    db.execute("delete from _sqlx_migrations where version = 999999").await;
    db.execute("update _sqlx_migrations set checksum = '\\x00'").await;
    let altered = Database::connect(&address, db.key.clone()).await;
    assert!(matches!(altered, Err(Error::Altered(_))));
}

#[tokio::test]
async fn an_address_where_nothing_answers_is_unavailable() {
    let address = Address::Url(SecretString::from("postgres://someone:secret@127.0.0.1:1/x"));
    let error = Database::connect(&address, CredentialKey::random()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)) && error.is_transient());
    assert!(!format!("{address:?}").contains("secret"));
}

#[tokio::test]
async fn listening_survives_a_lost_connection() {
    let db = database().await;
    let events = db.events().await.unwrap();
    let mut receiver = events.subscribe();
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and query ilike 'listen%'",
    )
    .await;
    let deadline = tokio::time::timeout(Duration::from_secs(20), async {
        while receiver.recv().await.unwrap() != Event::Reconnected {}
    });
    deadline.await.unwrap();
    let mut connection = db.pool.acquire().await.unwrap();
    crate::events::notify(&mut connection, Event::JobsWaiting).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), Event::JobsWaiting);
}
