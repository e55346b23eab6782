//! Reading ahead must not stand in the way of what is read now.

use bytes::Bytes;
use domain::Extent;
use domain::point::PointKind;
use futures_util::TryStreamExt;
use repository::backend::ObjectInfo;
use repository::{BackendError, DiskSink, MemoryBackend, ObjectBackend, ReadPlan, Repository};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::*;

const PAGE_BYTES: u64 = 64 << 20;
/// More than are looked up ahead and worked on together.
const PAGES: u64 = 24;
const USED_BYTES: usize = 100_000;

/// A location whose answers take a moment.
#[derive(Debug)]
struct Distant(MemoryBackend);

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

#[async_trait::async_trait]
impl ObjectBackend for Distant {
    fn place(&self) -> String {
        self.0.place()
    }

    async fn put_new(&self, name: &str, parts: Vec<Bytes>) -> Result<(), BackendError> {
        a_moment().await;
        self.0.put_new(name, parts).await
    }

    async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, BackendError> {
        a_moment().await;
        self.0.get(name, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, BackendError> {
        a_moment().await;
        self.0.list(prefix).await
    }

    async fn stat(&self, name: &str) -> Result<ObjectInfo, BackendError> {
        a_moment().await;
        self.0.stat(name).await
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        a_moment().await;
        self.0.delete(name).await
    }
}

/// Notes where something came.
#[derive(Default)]
struct Noted(Mutex<Vec<(u64, usize)>>);

impl DiskSink for Noted {
    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().push((offset, content.len()));
        Ok(())
    }
}

/// A repository of one point, opened anew.
async fn opened_anew() -> Repository {
    let backend = Arc::new(Distant(MemoryBackend::new()));
    let made = Repository::init_in(Arc::clone(&backend) as _, &passphrase(), options(), environment(0)).await;
    let (repository, _) = made.unwrap();
    let mut content = vec![0; (PAGES * PAGE_BYTES) as usize];
    let areas: Vec<Extent> = (0..PAGES).map(|page| Extent::new(page * PAGE_BYTES, USED_BYTES as u64)).collect();
    for area in &areas {
        content[area.offset as usize..area.end() as usize].copy_from_slice(&noise(area.offset, USED_BYTES));
    }
    let disks = [(Bytes::from(content), ReadPlan::Allocated(areas))];
    make_point(&repository, point_id(1), &disks, PointKind::Full, None).await.unwrap();
    drop(repository);
    Repository::open_in(backend, &passphrase(), environment(0)).await.unwrap()
}

/// Begins point after point, as many machines' jobs do: each keeps the index to itself while it learns what is new.
async fn begin_others(repository: Repository) {
    for number in 1000.. {
        repository.begin_point(point_id(number)).await.unwrap().abandon().await;
    }
}

/// The clock stands still while anything can go on, so a reader that waits for ever is found at once.
#[tokio::test(start_paused = true)]
async fn what_is_looked_up_ahead_never_holds_up_what_is_read_now() {
    let limit = Duration::from_secs(600);
    let repository = opened_anew().await;
    let others = tokio::spawn(begin_others(repository.clone()));
    let image = repository.open_disk(point_id(1), 2000).await.unwrap();
    let stream = image.stream(Extent::new(0, PAGES * PAGE_BYTES)).try_collect();
    let pieces: Vec<(u64, Bytes)> = tokio::time::timeout(limit, stream).await.expect("the stream ends").unwrap();
    let bytes: usize = pieces.iter().map(|(_, piece)| piece.len()).sum();
    assert!(bytes >= PAGES as usize * USED_BYTES);

    let sink = Arc::new(Noted::default());
    let copied = tokio::time::timeout(limit, image.copy_to(Arc::clone(&sink) as _)).await;
    assert_eq!(copied.expect("the copy ends").unwrap(), bytes as u64);
    assert_eq!(sink.0.lock().unwrap().iter().map(|(_, length)| length).sum::<usize>(), bytes);
    others.abort();
}
