//! Replies that are lost, late, wrong or short.

use bytes::Bytes;
use repository::{BackendErrorKind, ObjectBackend, Retention, RetentionMode, S3Backend, S3Options};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::{Act, SLOW_PAUSE, Server};
use crate::conformance::Place;
use crate::support::noise;

const PREFIX: &str = "machines/backups";
const ALWAYS: usize = usize::MAX;

fn options(server: &Server) -> S3Options {
    let mut options = super::options(&server.endpoint, "bucket");
    options.tuning.stall_timeout = Duration::from_millis(400);
    options
}

async fn start() -> (Server, S3Backend) {
    let server = Server::start().await;
    let backend = S3Backend::open(options(&server)).await.unwrap();
    server.forget();
    (server, backend)
}

async fn place() -> Place {
    let (_, backend) = start().await;
    Place { backend: Arc::new(backend), lose: None, keep: Box::new(()) }
}

/// Storage that does not know If-None-Match.
async fn careless_place() -> Place {
    let server = Server::start().await;
    server.state.lock().conditional = false;
    let backend = S3Backend::open(options(&server)).await.unwrap();
    let can = backend.capabilities();
    assert!(!can.refuses_to_replace && !can.list_lags);
    Place { backend: Arc::new(backend), lose: None, keep: Box::new(()) }
}

conformance!(scripted_server, super::place().await);
// Its races are left to unique names.
conformance!(careless_server, super::careless_place().await; stores_and_reads_exactly, refuses_a_taken_name,
    shows_nothing_partial, takes_a_deleted_name_again, holds_a_whole_repository);

fn content() -> Vec<Bytes> {
    vec![Bytes::from_static(b"some "), Bytes::from_static(b"content")]
}

async fn put(backend: &S3Backend) -> Result<(), BackendErrorKind> {
    backend.put_new("packs/a", content()).await.map_err(|error| error.kind)
}

fn stored(server: &Server) -> Option<Vec<u8>> {
    server.state.lock().objects.get(&format!("{PREFIX}/packs/a")).map(|(bytes, _)| bytes.clone())
}

#[tokio::test]
async fn a_creation_survives_one_bad_reply_of_any_kind() {
    for act in [
        Act::DropBefore,
        Act::DropAfter,
        Act::Refuse(500, "InternalError"),
        Act::RefuseAfter(500, "InternalError"),
        Act::Refuse(503, "SlowDown"),
        Act::RefuseAfter(503, "SlowDown"),
        Act::Refuse(409, "ConditionalRequestConflict"),
        Act::RefuseAfter(504, ""),
        Act::Refuse(429, "TooManyRequests"),
    ] {
        let (server, backend) = start().await;
        server.on("PUT", "packs/a", 1, act);
        assert_eq!(put(&backend).await, Ok(()), "{act:?}");
        assert_eq!(stored(&server).as_deref(), Some(b"some content".as_slice()), "{act:?}");
        assert_eq!(put(&backend).await, Err(BackendErrorKind::AlreadyExists), "{act:?}");
    }
}

#[tokio::test]
async fn our_own_object_is_never_called_anothers() {
    let (server, backend) = start().await;
    // It landed, the reply was lost, looking fails twice, and the second attempt finds the name taken: by us.
    server.on("PUT", "packs/a", 1, Act::DropAfter);
    server.on("HEAD", "packs/a", 2, Act::Refuse(503, ""));
    assert_eq!(put(&backend).await, Ok(()));
    assert!(server.count("PUT", "packs/a") >= 2);
}

#[tokio::test]
async fn anothers_object_is_never_called_ours() {
    let (server, backend) = start().await;
    server.on("PUT", "packs/a", 1, Act::DropBefore);
    server.state.lock().objects.insert(format!("{PREFIX}/packs/a"), (b"another's".to_vec(), "mark".to_owned()));
    assert_eq!(put(&backend).await, Err(BackendErrorKind::AlreadyExists));
    assert_eq!(stored(&server).as_deref(), Some(b"another's".as_slice()));
}

#[tokio::test]
async fn what_cannot_be_known_is_said_to_be_unknown() {
    for (put_act, head_act) in [
        (Act::DropAfter, Some(Act::Refuse(503, ""))),
        (Act::DropAfter, Some(Act::Refuse(403, ""))),
        (Act::RefuseAfter(500, ""), Some(Act::DropBefore)),
        // Nothing is found, but an attempt may still be under way.
        (Act::DropBefore, None),
    ] {
        let (server, backend) = start().await;
        server.on("PUT", "packs/a", ALWAYS, put_act);
        if let Some(act) = head_act {
            server.on("HEAD", "packs/a", ALWAYS, act);
        }
        assert_eq!(put(&backend).await, Err(BackendErrorKind::OutcomeUnknown), "{put_act:?} {head_act:?}");
        assert!(server.count("PUT", "packs/a") <= 6);
    }
}

#[tokio::test]
async fn a_clear_refusal_is_final() {
    for (status, code, kind) in [
        (403, "AccessDenied", BackendErrorKind::Forbidden),
        (403, "SignatureDoesNotMatch", BackendErrorKind::Unauthorized),
        (403, "RequestTimeTooSkewed", BackendErrorKind::ClockSkew),
        (404, "NoSuchBucket", BackendErrorKind::NoLocation),
        (403, "QuotaExceeded", BackendErrorKind::OutOfSpace),
        (400, "EntityTooLarge", BackendErrorKind::Other),
        (301, "PermanentRedirect", BackendErrorKind::Other),
    ] {
        let (server, backend) = start().await;
        server.on("PUT", "packs/a", ALWAYS, Act::Refuse(status, code));
        assert_eq!(put(&backend).await, Err(kind), "{code}");
        assert_eq!(server.count("PUT", ""), 1, "{code}");
        assert_eq!(stored(&server), None);
    }
    // Nothing landed, however often it is said.
    let (server, backend) = start().await;
    server.on("PUT", "packs/a", ALWAYS, Act::Refuse(409, "ConditionalRequestConflict"));
    assert_eq!(put(&backend).await, Err(BackendErrorKind::Unreachable));
    server.forget();
    server.on("PUT", "packs/a", ALWAYS, Act::Refuse(507, ""));
    assert!(matches!(put(&backend).await, Err(BackendErrorKind::OutOfSpace | BackendErrorKind::OutcomeUnknown)));
}

#[tokio::test]
async fn a_storm_of_slow_down_is_sat_out_and_patience_ends() {
    let (server, backend) = start().await;
    for method in ["PUT", "GET"] {
        server.on(method, "", 20, Act::Refuse(503, "SlowDown"));
    }
    let one = |number: usize| {
        let backend = backend.clone();
        async move {
            let name = format!("packs/{number}");
            backend.put_new(&name, content()).await.unwrap();
            assert_eq!(backend.get(&name, None).await.unwrap(), "some content");
        }
    };
    futures_util::future::join_all((0..16).map(one)).await;
    assert_eq!(backend.list("packs/").await.unwrap().len(), 16);
    server.forget();
    server.on("GET", "", ALWAYS, Act::Refuse(503, "SlowDown"));
    let error = backend.get("packs/1", None).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unreachable);
    assert!(error.source.unwrap().to_string().contains("SlowDown"));
    assert_eq!(server.count("GET", ""), 6);
    assert_eq!(backend.list("").await.unwrap_err().kind, BackendErrorKind::Unreachable);
}

#[tokio::test]
async fn a_body_is_whole_or_an_error() {
    let large = noise(1, 1 << 20);
    for act in [Act::Truncate(0), Act::Truncate(500_000), Act::Stall(1), Act::DropBefore, Act::Refuse(500, "")] {
        let (server, backend) = start().await;
        backend.put_new("packs/a", vec![large.clone().into()]).await.unwrap();
        server.on("GET", "packs/a", 2, act);
        assert!(backend.get("packs/a", None).await.unwrap() == large, "{act:?}");
        server.on("GET", "packs/a", 2, act);
        assert!(backend.get("packs/a", Some(9..999_999)).await.unwrap() == large[9..999_999], "{act:?}");
        server.on("GET", "packs/a", ALWAYS, act);
        let error = backend.get("packs/a", None).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unreachable, "{act:?}");
    }
    let (server, backend) = start().await;
    backend.put_new("packs/a", vec![large.clone().into()]).await.unwrap();
    for act in [Act::NoLength(400_000), Act::Cut(400_000), Act::IgnoreRange] {
        server.on("GET", "packs/a", 1, act);
        assert!(backend.get("packs/a", Some(0..500_000)).await.is_err(), "{act:?}");
    }
    server.on("GET", "packs/a", 1, Act::NoLength(400_000));
    assert!(backend.get("packs/a", None).await.is_err());
}

/// Its patience is with silence, not with the whole.
#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let server = Server::start().await;
    let mut patient = options(&server);
    patient.tuning.stall_timeout = 8 * SLOW_PAUSE;
    let backend = S3Backend::open(patient).await.unwrap();
    server.forget();
    let large = noise(1, 1 << 20);
    backend.put_new("packs/a", vec![large.clone().into()]).await.unwrap();
    server.on("GET", "packs/a", ALWAYS, Act::Slow(12));
    assert!(backend.get("packs/a", None).await.unwrap() == large);
    assert_eq!(server.count("GET", "packs/a"), 1);
    server.on("GET", "list-type", ALWAYS, Act::Slow(12));
    assert_eq!(backend.list("packs/").await.unwrap().len(), 1);
    assert_eq!(server.count("GET", "list-type"), 1);
}

/// More than systems buffer on the way.
fn large() -> Vec<Bytes> {
    vec![noise(2, 12 << 20).into()]
}

/// A slow line up, the whole taking many times the patience with silence.
#[tokio::test]
async fn a_body_that_is_taken_slowly_is_waited_for() {
    const PIECES: usize = 24;
    let server = Server::start().await;
    let mut patient = options(&server);
    patient.tuning.stall_timeout = 4 * SLOW_PAUSE;
    let backend = S3Backend::open(patient).await.unwrap();
    server.forget();
    server.on("PUT", "packs/a", ALWAYS, Act::TakeSlowly(PIECES));
    let start = Instant::now();
    backend.put_new("packs/a", large()).await.unwrap();
    assert!(start.elapsed() >= PIECES as u32 * SLOW_PAUSE);
    assert_eq!(server.count("PUT", "packs/a"), 1);
    assert!(stored(&server).unwrap() == large()[0]);
}

#[tokio::test]
async fn a_body_that_is_not_taken_any_more_is_given_up() {
    let server = Server::start().await;
    let mut options = options(&server);
    options.tuning.bytes_per_second_min = 1 << 30; // what is still on its way takes no time
    let (attempts, stall) = (options.tuning.attempts, options.tuning.stall_timeout);
    let backend = S3Backend::open(options).await.unwrap();
    server.on("PUT", "packs/a", 2, Act::StopTaking(1 << 20));
    backend.put_new("packs/a", large()).await.unwrap();
    assert!(stored(&server).unwrap() == large()[0]);
    for (body, says) in [(large(), "bytes and then no more"), (content(), "no answer came to 12 bytes")] {
        server.on("PUT", "packs/b", attempts as usize, Act::StopTaking(1 << 20));
        let start = Instant::now();
        let error = backend.put_new("packs/b", body).await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::OutcomeUnknown, "it may yet come to something");
        let source = error.source.unwrap().to_string();
        assert!(source.contains(says), "{source}");
        assert!(start.elapsed() < 2 * attempts * stall, "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_list_is_whole_or_an_error() {
    let (server, backend) = start().await;
    for number in 0..10 {
        backend.put_new(&format!("packs/{number}"), content()).await.unwrap();
    }
    server.state.lock().page = 3;
    assert_eq!(backend.list("packs/").await.unwrap().len(), 10);
    let second = "continuation-token=machines%2Fbackups%2Fpacks%2F2";
    for act in [Act::Refuse(500, ""), Act::DropBefore, Act::Truncate(100), Act::Cut(100), Act::Stall(100)] {
        server.on("GET", second, 1, act);
        assert_eq!(backend.list("packs/").await.unwrap().len(), 10, "{act:?}");
        server.on("GET", second, ALWAYS, act);
        assert!(backend.list("packs/").await.is_err(), "{act:?}");
        server.forget();
    }
    for (act, kind) in [
        (Act::Refuse(403, "AccessDenied"), BackendErrorKind::Forbidden),
        (Act::Refuse(404, "NoSuchBucket"), BackendErrorKind::NoLocation),
    ] {
        server.on("GET", second, 1, act);
        assert_eq!(backend.list("").await.unwrap_err().kind, kind);
    }
}

#[tokio::test]
async fn looking_up_tells_missing_forbidden_and_unreachable_apart() {
    let (server, backend) = start().await;
    let stat = || async { backend.stat("packs/a").await.map(|object| object.size).map_err(|error| error.kind) };
    assert_eq!(stat().await, Err(BackendErrorKind::NotFound));
    put(&backend).await.unwrap();
    server.on("HEAD", "packs/a", 3, Act::Refuse(500, ""));
    assert_eq!(stat().await, Ok(12));
    server.on("HEAD", "packs/a", 1, Act::Refuse(403, ""));
    assert_eq!(stat().await, Err(BackendErrorKind::Forbidden));
    // An answer without body says only 403 or 404; the bucket is asked what it means.
    for (status, code, kind) in [
        (403, "SignatureDoesNotMatch", BackendErrorKind::Unauthorized),
        (404, "NoSuchBucket", BackendErrorKind::NoLocation),
    ] {
        server.on("HEAD", "packs/a", 1, Act::Refuse(status, ""));
        server.on("GET", "list-type", 1, Act::Refuse(status, code));
        assert_eq!(stat().await, Err(kind));
    }
    server.on("HEAD", "packs/a", ALWAYS, Act::DropBefore);
    assert_eq!(stat().await, Err(BackendErrorKind::Unreachable));
}

#[tokio::test]
async fn deleting_is_repeated_until_it_is_known() {
    for act in [Act::DropBefore, Act::DropAfter, Act::RefuseAfter(500, ""), Act::Refuse(503, "SlowDown")] {
        let (server, backend) = start().await;
        put(&backend).await.unwrap();
        server.on("DELETE", "packs/a", 2, act);
        backend.delete("packs/a").await.unwrap();
        assert_eq!(stored(&server), None);
    }
    let (server, backend) = start().await;
    put(&backend).await.unwrap();
    server.on("DELETE", "packs/a", 1, Act::Refuse(403, "AccessDenied"));
    assert_eq!(backend.delete("packs/a").await.unwrap_err().kind, BackendErrorKind::Forbidden);
    assert!(stored(&server).is_some());
    server.on("DELETE", "packs/a", 1, Act::Refuse(404, "NoSuchKey"));
    backend.delete("packs/a").await.unwrap();
}

#[tokio::test]
async fn what_a_list_does_not_show_yet_can_be_read() {
    let (server, backend) = start().await;
    put(&backend).await.unwrap();
    server.state.lock().hidden.push(format!("{PREFIX}/packs/a"));
    assert_eq!(backend.list("").await.unwrap(), []);
    assert_eq!(backend.get("packs/a", None).await.unwrap(), "some content");
    assert_eq!(backend.stat("packs/a").await.unwrap().size, 12);
    assert_eq!(put(&backend).await, Err(BackendErrorKind::AlreadyExists));
}

#[tokio::test]
async fn storage_that_lies_is_refused_when_it_is_opened() {
    for (method, part, act) in [
        ("DELETE", "probe", Act::Pretend),
        ("PUT", "probe", Act::Pretend),
        ("GET", "probe", Act::IgnoreRange),
        ("GET", "list-type", Act::Refuse(403, "AccessDenied")),
        ("DELETE", "probe", Act::Refuse(403, "AccessDenied")),
    ] {
        let server = Server::start().await;
        server.on(method, part, ALWAYS, act);
        S3Backend::open(options(&server)).await.unwrap_err();
    }
    let server = Server::start().await;
    let mut locked = options(&server);
    locked.location.object_lock = Some(Retention { days: 7, mode: RetentionMode::Governance });
    let error = S3Backend::open(locked).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unsuitable);
    // One whose list lags is known for it.
    let server = Server::start().await;
    server.state.lock().late_lists = 2;
    let backend = S3Backend::open(options(&server)).await.unwrap();
    assert!(backend.capabilities().list_lags && backend.list_lag() > Duration::from_secs(60));
    server.state.lock().late_lists = ALWAYS;
    assert_eq!(S3Backend::open(options(&server)).await.unwrap_err().kind, BackendErrorKind::Unsuitable);
}

#[tokio::test]
async fn no_secret_is_in_an_error_or_a_debug_text() {
    let (server, backend) = start().await;
    server.on("GET", "", ALWAYS, Act::Refuse(403, "SignatureDoesNotMatch"));
    let error = backend.get("packs/a", None).await.unwrap_err();
    for text in [format!("{error:?}"), format!("{backend:?}"), format!("{:?}", options(&server))] {
        assert!(!text.contains("secret") && !text.contains("Signature="), "{text}");
    }
}
