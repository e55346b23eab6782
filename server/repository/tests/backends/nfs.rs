//! NFS locations, judged against nfs-ganesha: the suite, and what goes wrong.

use bytes::Bytes;
use repository::{BackendError, BackendErrorKind, NfsBackend, NfsOptions, ObjectBackend};
use rustix::process::Signal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conformance::Place;
use crate::daemon::SmallDisk;
use crate::faults::{self, SLOW_LINE};
use crate::ganesha::{Ganesha, NFS_PORT};
use crate::proxy::{Act, Plan, Proxy};
use crate::support::noise;

async fn place() -> Place {
    let ganesha = Ganesha::start();
    let backend = Arc::new(ganesha.create("export").await);
    let folder = ganesha.folder_of("export");
    let lose = move || std::fs::rename(folder.join("vm/repository"), folder.join("vm/gone")).unwrap();
    Place { backend, lose: Some(Box::new(lose)), keep: Box::new(ganesha) }
}

conformance!(exported, super::place().await);

async fn open_kind(options: NfsOptions) -> BackendErrorKind {
    NfsBackend::open(options).await.expect_err("it had to fail").kind
}

#[tokio::test]
async fn what_an_operator_got_wrong_has_its_own_error() {
    let ganesha = Ganesha::start();
    ganesha.create("export").await;
    let good = || ganesha.options("export");
    let no_export = NfsOptions { export: "/no/such/export".to_owned(), ..good() };
    assert_eq!(open_kind(no_export).await, BackendErrorKind::NoLocation);
    let no_folder = NfsOptions { folder: "vm/none".to_owned(), ..good() };
    assert_eq!(open_kind(no_folder).await, BackendErrorKind::NoLocation);
    let outside = NfsOptions { folder: "../..".to_owned(), ..good() };
    assert_eq!(open_kind(outside).await, BackendErrorKind::BadName);
    for closed in [NfsOptions { port: Some(9), ..good() }, NfsOptions { mount_port: Some(9), ..good() }] {
        assert_eq!(open_kind(closed).await, BackendErrorKind::Unreachable);
    }
    let readonly = NfsBackend::create(ganesha.options("readonly")).await.unwrap_err();
    assert_eq!(readonly.kind, BackendErrorKind::Forbidden, "{readonly:?}");
    let stranger = NfsOptions { uid: 4711, gid: 4711, ..good() };
    let backend = NfsBackend::open(NfsOptions { folder: String::new(), ..stranger }).await.unwrap();
    let error = backend.put_new("a", vec![]).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Forbidden, "{error:?}");
    let backend = NfsBackend::open(good()).await.unwrap();
    backend.put_new("a", vec![]).await.unwrap();
    assert_eq!(NfsBackend::create(good()).await.unwrap_err().kind, BackendErrorKind::AlreadyExists);
}

/// Our ports are above 1023, which many exports refuse: the error says which option to change.
#[tokio::test]
async fn an_export_for_privileged_ports_says_what_to_change() {
    let ganesha = Ganesha::start();
    let error = NfsBackend::create(ganesha.options("secure")).await.unwrap_err();
    let text = format!("{:?}", error.source);
    assert!(text.contains("insecure"), "{error:?}");
    assert!(matches!(error.kind, BackendErrorKind::Unauthorized | BackendErrorKind::Forbidden), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_do_not_stall() {
    let ganesha = Ganesha::start();
    faults::many_requests_at_once(Arc::new(ganesha.create("export").await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_mid_transfer_is_told_at_once_and_used_again_when_it_is_back() {
    let mut ganesha = Ganesha::start();
    let backend = Arc::new(ganesha.create("export").await);
    let strike = || ganesha.kill();
    faults::while_storing(Arc::clone(&backend) as Arc<dyn ObjectBackend>, Duration::from_secs(5), strike).await;
    assert!(ganesha.launch(), "{}", ganesha.log());
    faults::works_again(&*backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up_after_a_time_and_used_again_when_it_answers() {
    let ganesha = Ganesha::start();
    ganesha.create("export").await;
    let timeout = Duration::from_secs(1);
    let backend = Arc::new(NfsBackend::open(NfsOptions { timeout, ..ganesha.options("export") }).await.unwrap());
    let stop = || ganesha.signal(Signal::STOP);
    faults::while_storing(Arc::clone(&backend) as Arc<dyn ObjectBackend>, 3 * timeout, stop).await;
    ganesha.signal(Signal::CONT);
    faults::works_again(&*backend).await;
}

#[tokio::test]
async fn a_full_disk() {
    let ganesha = Ganesha::start_with(|folder| Some(SmallDisk::ext4(&folder.join("export"))));
    let backend = ganesha.create("export").await;
    faults::fills_the_disk(&backend, &ganesha.folder_of("export").join("vm/repository")).await;
}

const WRITE: u32 = 7;
const LINK: u32 = 15;
const READDIRPLUS: u32 = 17;
/// RFC 1813: statuses.
const IO_ERROR: u32 = 5;
const BUSY: u32 = 10_008;
const NO_SPACE: u32 = 28;
const OVER_QUOTA: u32 = 69;

fn procedure(message: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(message.get(20..24)?.try_into().ok()?))
}

fn is_link(message: &[u8]) -> bool {
    procedure(message) == Some(LINK)
}

fn is_write(message: &[u8]) -> bool {
    procedure(message) == Some(WRITE)
}

fn is_list(message: &[u8]) -> bool {
    procedure(message) == Some(READDIRPLUS)
}

/// A proxy before a server, and a location behind it.
async fn behind(ganesha: &Ganesha, plan: Plan) -> (Proxy, Result<NfsBackend, BackendError>) {
    let proxy = Proxy::start((ganesha.address, NFS_PORT).into(), plan).await;
    let options = NfsOptions { port: Some(proxy.address.port()), ..ganesha.options("export") };
    (proxy, NfsBackend::open(options).await)
}

#[tokio::test]
async fn a_lost_answer_to_the_link_is_cleared_up() {
    let ganesha = Ganesha::start();
    let folder = ganesha.folder_of("export").join("vm/repository");
    ganesha.create("export").await;
    for act in [Act::DropBefore, Act::DropAfter] {
        let (proxy, backend) = behind(&ganesha, Plan::once(is_link, 0, act)).await;
        faults::works_despite(&backend.unwrap(), &format!("{act:?}/1"), &folder).await;
        assert!(proxy.seen() >= 1, "{act:?}");
        let (_proxy, backend) = behind(&ganesha, Plan::always(is_link, 0, act)).await;
        faults::tells_the_truth_of(&backend.unwrap(), act, &folder).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_at_any_request_harms_nothing() {
    let ganesha = Ganesha::start();
    let folder = ganesha.folder_of("export").join("vm/repository");
    ganesha.create("export").await;
    let open = |plan| behind(&ganesha, plan);
    faults::works_whatever_is_lost(open, 1, &folder).await; // mounting takes the first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_whole_or_an_error() {
    let ganesha = Ganesha::start();
    ganesha.create("export").await;
    faults::many_files(&ganesha.folder_of("export").join("vm/repository"));
    for at in 0.. {
        for act in [Act::HalfAnswer, Act::NfsStatus(BUSY)] {
            let (_proxy, backend) = behind(&ganesha, Plan::once(is_list, at, act)).await;
            faults::lists_all(&backend.unwrap()).await;
        }
        let (proxy, backend) = behind(&ganesha, Plan::always(is_list, at, Act::DropBefore)).await;
        let listed = backend.unwrap().list("many/").await;
        if proxy.seen() <= at {
            assert!(at > 2 && listed.is_ok(), "it has several pages: {at}");
            break;
        }
        assert_eq!(listed.unwrap_err().kind, BackendErrorKind::Unreachable, "page {at}");
        let (_proxy, backend) = behind(&ganesha, Plan::once(is_list, at, Act::NfsStatus(IO_ERROR))).await;
        assert_eq!(backend.unwrap().list("many/").await.unwrap_err().kind, BackendErrorKind::Other, "page {at}");
    }
}

#[tokio::test]
async fn a_server_that_writes_less_than_it_was_given_is_given_the_rest() {
    let ganesha = Ganesha::start();
    ganesha.create("export").await;
    faults::is_given_the_rest(|plan| behind(&ganesha, plan), is_write, Act::NfsShortWrite).await;
}

/// What the server says when its disk or the user's share of it is used up, and when it is out of order.
#[tokio::test]
async fn a_write_that_the_server_refuses_leaves_nothing() {
    let ganesha = Ganesha::start();
    ganesha.create("export").await;
    let folder = ganesha.folder_of("export").join("vm/repository");
    let out_of_space = BackendErrorKind::OutOfSpace;
    for (status, kind) in [(NO_SPACE, out_of_space), (OVER_QUOTA, out_of_space), (IO_ERROR, BackendErrorKind::Other)] {
        let (_proxy, backend) = behind(&ganesha, Plan::once(is_write, 0, Act::NfsStatus(status))).await;
        let backend = backend.unwrap();
        let error = backend.put_new("a", vec![noise(1, 100).into()]).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
        assert_eq!(backend.list("").await.unwrap(), []);
        assert_eq!(std::fs::read_dir(folder.join("tmp")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn an_export_that_may_only_be_read() {
    let ganesha = Ganesha::start();
    let folder = ganesha.folder_of("readonly").join("vm/repository");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("old"), "x").unwrap();
    faults::may_only_read(&NfsBackend::open(ganesha.options("readonly")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_line_is_no_silence() {
    let ganesha = Ganesha::start();
    ganesha.create("export").await;
    let proxy = Proxy::start((ganesha.address, NFS_PORT).into(), Plan::slow(SLOW_LINE.slowness)).await;
    let (port, timeout) = (Some(proxy.address.port()), SLOW_LINE.patience);
    let backend = NfsBackend::open(NfsOptions { port, timeout, ..ganesha.options("export") }).await.unwrap();
    faults::a_slow_line_is_no_silence(&backend).await;
}

/// Without ports, the server's port mapper is asked. Only one can listen on a machine: of the servers that tests run side
/// by side, all on the same ports, any one's answers for all, but it may come or go at the moment.
#[tokio::test]
async fn asks_the_port_mapper() {
    const TRIES: usize = 10;
    for number in 1.. {
        let ganesha = Ganesha::start();
        let options = NfsOptions { port: None, mount_port: None, ..ganesha.options("export") };
        match NfsBackend::create(options).await {
            Ok(backend) => return backend.put_new("a", vec![Bytes::from_static(b"x")]).await.unwrap(),
            Err(error) => assert!(number < TRIES, "{error:?}"),
        }
    }
}

#[tokio::test]
async fn leftovers_are_not_shown_and_a_rival_file_is_not_replaced() {
    let ganesha = Ganesha::start();
    let folder = ganesha.folder_of("export").join("vm/repository");
    let backend = ganesha.create("export").await;
    backend.put_new("a/1", vec![Bytes::from_static(b"x")]).await.unwrap();
    std::fs::write(folder.join("tmp/dead.part"), "left").unwrap();
    std::fs::write(folder.join("a/2"), "rival").unwrap();
    std::os::unix::fs::symlink("1", folder.join("a/link")).unwrap();
    let error = backend.put_new("a/2", vec![noise(1, 100).into()]).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::AlreadyExists);
    let names: Vec<_> = backend.list("").await.unwrap().into_iter().map(|object| object.name).collect();
    assert_eq!(names, ["a/1", "a/2"]);
    assert_eq!(std::fs::read_dir(folder.join("tmp")).unwrap().count(), 1, "the leftover is young");
}

/// `cargo nextest run --run-ignored only --no-capture nfs::figures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test"]
async fn figures() {
    let ganesha = Ganesha::start();
    println!("NFS: {}", faults::figures(Arc::new(ganesha.create("export").await)).await);
    let folder = ganesha.folder_of("readonly");
    let start = Instant::now();
    let content = noise(1, 32 << 20);
    for number in 0..8 {
        use std::io::Write;
        let mut file = std::fs::File::create(folder.join(number.to_string())).unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
    }
    println!("plain files with fsync: {:.0} MiB/s", 256.0 / start.elapsed().as_secs_f64());
}
