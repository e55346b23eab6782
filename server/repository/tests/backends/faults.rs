//! What may go wrong on the way to a server or on it, the same for several kinds of location.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use repository::{BackendError, BackendErrorKind, ObjectBackend};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

use crate::proxy::{Act, Matcher, Plan, Proxy};
use crate::support::noise;

/// Longest time for what must not stall.
const WATCHDOG: Duration = Duration::from_secs(100);
/// More reads than are worked on at a time.
const QUEUE: usize = 40;
/// More files than any server tells of in one page.
const FILES: usize = 3000;

async fn put(backend: &dyn ObjectBackend, name: &str, bytes: impl Into<Bytes>) {
    backend.put_new(name, vec![bytes.into()]).await.unwrap();
}

/// Reads of 4 MiB, eight at a time, and 512 writes at a time.
pub async fn many_requests_at_once(backend: Arc<dyn ObjectBackend>) {
    let content = Bytes::from(noise(1, 32 << 20));
    put(&*backend, "packs/large", content.clone()).await;
    let reads = stream::iter(0..32usize).map(|number| {
        let (backend, content) = (&backend, &content);
        async move {
            let start = (number % 8) * (4 << 20);
            let read = backend.get("packs/large", Some(start as u64..(start + (4 << 20)) as u64)).await.unwrap();
            assert!(read == content.slice(start..start + (4 << 20)));
        }
    });
    timeout(WATCHDOG, reads.buffer_unordered(8).collect::<Vec<()>>()).await.expect("reads stalled");
    let writes = stream::iter(0..512usize).map(|number| {
        let (backend, content) = (&backend, &content);
        async move {
            put(&**backend, &format!("many/{number}"), content.slice(number * 1000..number * 1000 + 20_000)).await;
        }
    });
    timeout(WATCHDOG, writes.buffer_unordered(512).collect::<Vec<()>>()).await.expect("writes stalled");
    assert_eq!(backend.list("many/").await.unwrap().len(), 512);
    assert!(backend.get("many/511", None).await.unwrap() == content.slice(511_000..531_000));
}

/// Strikes the server in the midst of a write; that fails within `patience`, with a word that tells why.
pub async fn while_storing(backend: Arc<dyn ObjectBackend>, patience: Duration, strike: impl FnOnce()) {
    put(&*backend, "before", "x").await;
    let content = Bytes::from(noise(1, 64 << 20));
    let writer = Arc::clone(&backend);
    let writing = tokio::spawn(async move {
        for number in 0.. {
            if let Err(error) = writer.put_new(&format!("packs/{number}"), vec![content.clone()]).await {
                return error;
            }
        }
        unreachable!("it goes on until the server is struck")
    });
    while backend.stat("packs/0").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::task::block_in_place(strike);
    let start = Instant::now();
    let error = writing.await.unwrap();
    let expected = [BackendErrorKind::Unreachable, BackendErrorKind::OutcomeUnknown];
    assert!(expected.contains(&error.kind), "{error:?}");
    assert!(start.elapsed() < patience, "told after {:?}: {error:?}", start.elapsed());
    // A queue before a dead server does not wait once for each.
    let many = (0..QUEUE).map(|_| backend.get("before", None));
    let told = timeout(3 * patience, futures_util::future::join_all(many)).await.expect("all are told");
    assert!(told.iter().all(|read| read.as_ref().is_err_and(|error| error.kind == BackendErrorKind::Unreachable)));
    assert_eq!(backend.list("").await.unwrap_err().kind, BackendErrorKind::Unreachable, "not an empty list");
}

/// After a server came back: what was stored is whole, and more can be stored.
pub async fn works_again(backend: &dyn ObjectBackend) {
    let start = Instant::now();
    let list = loop {
        match backend.list("").await {
            Ok(list) => break list,
            Err(error) => assert!(start.elapsed() < WATCHDOG, "{error:?}"),
        }
    };
    assert!(list.iter().any(|object| object.name == "before"));
    for object in list.iter().filter(|object| object.name.starts_with("packs/")) {
        assert_eq!(object.size, 64 << 20, "whole or not there");
        assert!(backend.get(&object.name, None).await.unwrap() == noise(1, 64 << 20));
    }
    put(backend, "after", "y").await;
    assert_eq!(backend.get("after", None).await.unwrap(), "y");
}

/// On a disk of 16 MiB.
pub async fn fills_the_disk(backend: &dyn ObjectBackend, folder: &Path) {
    put(backend, "small", noise(1, 1 << 20)).await;
    let error = backend.put_new("packs/large", vec![noise(2, 24 << 20).into()]).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::OutOfSpace, "{error:?}");
    let left: Vec<_> = std::fs::read_dir(folder.join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(backend.get("small", None).await.unwrap() == noise(1, 1 << 20));
    assert_eq!(backend.stat("packs/large").await.unwrap_err().kind, BackendErrorKind::NotFound);
    put(backend, "packs/fits", noise(3, 1 << 20)).await;
}

/// A new object is stored once, by our own word, is shown, and goes once.
pub async fn works_despite(backend: &dyn ObjectBackend, name: &str, folder: &Path) {
    let content = Bytes::from(noise(7, 50_000));
    let (prefix, _) = name.split_at(name.rfind('/').unwrap() + 1);
    if let Err(error) = backend.put_new(name, vec![content.clone()]).await {
        panic!("{name}: {error}: {:?}", error.source);
    }
    assert!(std::fs::read(folder.join(name)).unwrap() == content, "{name}");
    assert!(backend.get(name, None).await.unwrap() == content, "{name}");
    let again = backend.put_new(name, vec![content]).await.unwrap_err();
    assert_eq!(again.kind, BackendErrorKind::AlreadyExists, "{name}");
    let listed = backend.list(prefix).await.unwrap();
    assert!(listed.len() == 1 && listed[0].name == name, "{name}: {listed:?}");
    backend.delete(name).await.unwrap();
    assert!(!folder.join(name).exists(), "{name}");
}

/// The same with the connection lost at any one request after the first `from`, in every way.
pub async fn works_whatever_is_lost<B: ObjectBackend, F>(open: impl Fn(Plan) -> F, from: u64, folder: &Path)
where
    F: Future<Output = (Proxy, Result<B, BackendError>)>,
{
    let open = &open;
    let acts = [Act::DropBefore, Act::DropAfter, Act::Half, Act::HalfAnswer].map(|act| async move {
        for at in from.. {
            let (proxy, backend) = open(Plan::once(|_| true, at, act)).await;
            let Ok(backend) = backend else { continue };
            works_despite(&backend, &format!("{act:?}-{at}/1"), folder).await;
            if proxy.seen() <= at {
                assert!(at > 20, "so few requests are not enough: {at}");
                break;
            }
        }
    });
    futures_util::future::join_all(acts).await;
}

/// The request that gives an object its name, or its answer, is always lost: what is told is no lie.
pub async fn tells_the_truth_of(backend: &dyn ObjectBackend, act: Act, folder: &Path) {
    let content = Bytes::from(noise(8, 50_000));
    let name = format!("always-{act:?}"); // no folder has to be made
    let told = backend.put_new(&name, vec![content.clone()]).await.map_err(|error| error.kind);
    let is_there = std::fs::read(folder.join(&name)).is_ok_and(|stored| stored == content);
    match told {
        Ok(()) => assert!(is_there, "{act:?}"),
        Err(BackendErrorKind::OutcomeUnknown) => {}
        Err(kind) => assert_eq!((kind, is_there), (BackendErrorKind::Unreachable, false), "{act:?}"),
    }
    assert_eq!(is_there, act == Act::DropAfter, "{act:?}");
}

/// The server takes half of what is sent in one write, and then of the first eight.
pub async fn is_given_the_rest<B: ObjectBackend, F>(open: impl Fn(Plan) -> F, is_write: Matcher, act: Act)
where
    F: Future<Output = (Proxy, Result<B, BackendError>)>,
{
    let content = Bytes::from(noise(1, (5 << 20) + 12_345));
    for plan in [Plan::once(is_write, 1, act), Plan { times: 8, ..Plan::once(is_write, 0, act) }] {
        let (proxy, backend) = open(plan).await;
        let backend = backend.unwrap();
        backend.put_new("a", vec![content.clone()]).await.unwrap();
        assert!(proxy.seen() > 6, "{}", proxy.seen());
        assert!(backend.get("a", None).await.unwrap() == content);
        backend.delete("a").await.unwrap();
    }
}

/// Files on the server, put there without us; `folder` is the location's.
pub fn many_files(folder: &Path) {
    std::fs::create_dir(folder.join("many")).unwrap();
    for number in 0..FILES {
        std::fs::write(folder.join(format!("many/{number:030}")), "x").unwrap();
    }
}

/// Lists them; the connection may be lost on the way.
pub async fn lists_all(backend: &dyn ObjectBackend) {
    let listed = backend.list("many/").await.unwrap();
    assert_eq!(listed.len(), FILES);
    assert!(listed.iter().enumerate().all(|(number, object)| object.name == format!("many/{number:030}")));
}

/// On a location whose objects may be read and not changed.
pub async fn may_only_read(backend: &dyn ObjectBackend) {
    assert_eq!(backend.get("old", None).await.unwrap(), "x");
    assert_eq!(backend.list("").await.unwrap().len(), 1);
    for changed in [backend.put_new("new", vec![Bytes::from_static(b"y")]).await, backend.delete("old").await] {
        let error = changed.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Forbidden, "{error}: {:?}", error.source);
    }
    assert_eq!(backend.get("old", None).await.unwrap(), "x");
}

/// Eight pieces of 1 MiB wait for each other on a line of 4 MiB a second; the patience is a second.
pub async fn a_slow_line_is_no_silence(backend: &dyn ObjectBackend) {
    let content = Bytes::from(noise(9, 8 << 20));
    put(backend, "packs/slow", content.clone()).await;
    let start = Instant::now();
    assert!(backend.get("packs/slow", None).await.unwrap() == content);
    assert!(start.elapsed() > SLOW_LINE.patience, "it was not slow: {:?}", start.elapsed());
}

/// A line and a patience for it.
pub struct SlowLine {
    pub slowness: Duration,
    pub patience: Duration,
}

pub const SLOW_LINE: SlowLine = SlowLine { slowness: Duration::from_millis(16), patience: Duration::from_secs(1) };

/// Packs of 32 MiB written one and two at a time, read in ranges of 4 MiB eight at a time; MiB a second.
pub async fn figures(backend: Arc<dyn ObjectBackend>) -> String {
    const PACKS: usize = 8;
    let content = Bytes::from(noise(1, 32 << 20));
    let rate = |mib: usize, start: Instant| format!("{:.0}", mib as f64 / start.elapsed().as_secs_f64());
    let mut rates = Vec::new();
    for at_once in [1, 2] {
        let start = Instant::now();
        let puts = stream::iter(0..PACKS).map(|number| {
            let (backend, content) = (&backend, content.clone());
            async move { put(&**backend, &format!("packs/{at_once}-{number}"), content).await }
        });
        puts.buffer_unordered(at_once).collect::<Vec<()>>().await;
        rates.push(format!("put 32 MiB x {at_once}: {}", rate(32 * PACKS, start)));
    }
    let start = Instant::now();
    let gets = stream::iter(0..8 * PACKS).map(|number| {
        let backend = &backend;
        async move {
            let from = (number as u64 % 8) * (4 << 20);
            let name = format!("packs/1-{}", number / 8);
            assert_eq!(backend.get(&name, Some(from..from + (4 << 20))).await.unwrap().len(), 4 << 20);
        }
    });
    gets.buffer_unordered(8).collect::<Vec<()>>().await;
    rates.push(format!("get 4 MiB x 8: {}", rate(32 * PACKS, start)));
    let start = Instant::now();
    for number in 0..100 {
        put(&*backend, &format!("small/{number}"), vec![1; 1000]).await;
    }
    rates.push(format!("put of 1 kB: {:.1} ms", start.elapsed().as_secs_f64() * 10.0));
    rates.join(", ")
}
