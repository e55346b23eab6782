//! A host's frozen disk, as the repository reads it.
//!
//! Owns: that short areas are not waited for one by one where the host takes several requests at once. Must never: give
//! bytes of another place than was asked for.

use crate::throttle::Throttle;
use bytes::Bytes;
use domain::Extent;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use hypervisor::DiskReader;
use repository::{BlockSource, ReadPlan, SourceError};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// A disk with what is known of the order it will be read in.
pub struct HostDisk {
    reader: Arc<dyn DiskReader>,
    throttle: Arc<Throttle>,
    ahead: Option<Arc<Mutex<ReadAhead>>>,
}

/// The areas of a full, fetched side by side while the repository takes one after the other.
struct ReadAhead {
    areas: VecDeque<Extent>,
    pieces: BoxStream<'static, hypervisor::Result<(u64, Bytes)>>,
    /// An area was begun and not read to its end: what comes next is not known.
    is_torn: bool,
}

impl HostDisk {
    /// Increments are widened to the borders of chunks by the repository, so only a full's areas are known here.
    pub fn new(reader: Arc<dyn DiskReader>, plan: &ReadPlan, throttle: Arc<Throttle>) -> Self {
        let ahead = match plan {
            ReadPlan::Allocated(areas) if reader.lanes() > 1 && areas.len() > 1 => Some(ReadAhead {
                areas: areas.iter().copied().collect(),
                pieces: reader.stream_areas(areas.clone()),
                is_torn: false,
            }),
            _ => None,
        };
        Self { reader, throttle, ahead: ahead.map(|ahead| Arc::new(Mutex::new(ahead))) }
    }

    /// The area, if it is the next that was fetched ahead.
    fn next_ahead(&self, range: Extent) -> Option<BoxStream<'static, Result<Bytes, SourceError>>> {
        let mut ahead = Arc::clone(self.ahead.as_ref()?).try_lock_owned().ok()?;
        if ahead.is_torn || ahead.areas.front() != Some(&range) {
            // Once out of step, for ever: areas come in their order.
            ahead.areas.clear();
            ahead.pieces = stream::empty().boxed();
            return None;
        }
        ahead.areas.pop_front();
        ahead.is_torn = true;
        Some(stream::unfold((ahead, range.offset), move |(ahead, at)| take(ahead, at, range)).boxed())
    }
}

type Guard = OwnedMutexGuard<ReadAhead>;

/// The next piece of an area; the end of the list before that of the area is for the repository to notice.
async fn take(mut ahead: Guard, at: u64, area: Extent) -> Option<(Result<Bytes, SourceError>, (Guard, u64))> {
    if at == area.end() {
        ahead.is_torn = false;
        return None;
    }
    let piece = match ahead.pieces.next().await? {
        Ok((offset, piece)) if offset == at && at + piece.len() as u64 <= area.end() => Ok(piece),
        Ok((offset, piece)) => Err(format!("bytes {offset}+{} came where {at} was to come", piece.len()).into()),
        Err(error) => Err(Box::new(error) as SourceError),
    };
    let next = at + piece.as_ref().map_or(0, |piece| piece.len() as u64);
    Some((piece, (ahead, next)))
}

impl BlockSource for HostDisk {
    fn size_bytes(&self) -> u64 {
        self.reader.size_bytes()
    }

    fn stream(&self, range: Extent) -> BoxStream<'static, Result<Bytes, SourceError>> {
        let direct = || self.reader.stream(range).map(|piece| piece.map_err(|error| Box::new(error) as SourceError));
        let pieces = self.next_ahead(range).unwrap_or_else(|| direct().boxed());
        if !self.throttle.is_limited() {
            return pieces;
        }
        let throttle = Arc::clone(&self.throttle);
        let paced = move |piece: Result<Bytes, SourceError>| {
            let throttle = Arc::clone(&throttle);
            async move {
                throttle.pass(piece.as_ref().map_or(0, |piece| piece.len() as u64)).await;
                piece
            }
        };
        pieces.then(paced).boxed()
    }

    fn lanes(&self) -> usize {
        self.reader.lanes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::Throttles;
    use async_trait::async_trait;
    use domain::bandwidth::Bandwidth;
    use domain::point::ChangeMark;
    use futures_util::TryStreamExt as _;
    use hypervisor::Areas;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A disk whose bytes say where they are, and that counts how it is read.
    #[derive(Default)]
    struct Counted {
        direct: AtomicUsize,
    }

    fn bytes_at(area: Extent) -> Bytes {
        (area.offset..area.end()).map(|at| (at % 251) as u8).collect()
    }

    #[async_trait]
    impl DiskReader for Counted {
        fn key(&self) -> i32 {
            2000
        }
        fn size_bytes(&self) -> u64 {
            1 << 20
        }
        fn tracks_changes(&self) -> bool {
            true
        }
        async fn changed_since(&self, _: &ChangeMark) -> hypervisor::Result<Areas> {
            Ok(Areas::Unknown(String::new()))
        }
        async fn allocated(&self) -> hypervisor::Result<Areas> {
            Ok(Areas::Unknown(String::new()))
        }
        fn stream(&self, range: Extent) -> BoxStream<'static, hypervisor::Result<Bytes>> {
            self.direct.fetch_add(1, Ordering::Relaxed);
            stream::iter([Ok(bytes_at(range))]).boxed()
        }
        fn stream_areas(&self, areas: Vec<Extent>) -> BoxStream<'static, hypervisor::Result<(u64, Bytes)>> {
            let halves = areas.into_iter().flat_map(|area| {
                let half = area.length / 2;
                [Extent::new(area.offset, half), Extent::new(area.offset + half, area.length - half)]
            });
            stream::iter(halves.map(|half| Ok((half.offset, bytes_at(half)))).collect::<Vec<_>>()).boxed()
        }
        fn lanes(&self) -> usize {
            4
        }
    }

    async fn read(disk: &HostDisk, range: Extent) -> Vec<u8> {
        let pieces: Vec<Bytes> = disk.stream(range).try_collect().await.unwrap();
        pieces.concat()
    }

    fn unlimited() -> Arc<Throttle> {
        Throttles::new(Arc::new(domain::SystemClock)).of(1, Bandwidth::default())
    }

    const AREAS: [Extent; 3] = [Extent::new(0, 4096), Extent::new(65536, 8192), Extent::new(500_000, 10)];

    #[tokio::test]
    async fn a_full_takes_its_areas_from_what_was_fetched_ahead() {
        let reader = Arc::new(Counted::default());
        let disk = HostDisk::new(reader.clone(), &ReadPlan::Allocated(AREAS.to_vec()), unlimited());
        for area in AREAS {
            assert_eq!(read(&disk, area).await, bytes_at(area));
        }
        assert_eq!(reader.direct.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn out_of_step_it_is_read_directly_and_no_byte_is_wrong() {
        for order in [vec![AREAS[1], AREAS[0], AREAS[2]], vec![Extent::new(0, 100), AREAS[1]]] {
            let reader = Arc::new(Counted::default());
            let disk = HostDisk::new(reader.clone(), &ReadPlan::Allocated(AREAS.to_vec()), unlimited());
            for area in &order {
                assert_eq!(read(&disk, *area).await, bytes_at(*area));
            }
            assert_eq!(reader.direct.load(Ordering::Relaxed), order.len());
        }
        let reader = Arc::new(Counted::default());
        let disk = HostDisk::new(reader.clone(), &ReadPlan::Allocated(AREAS.to_vec()), unlimited());
        let mut torn = disk.stream(AREAS[0]);
        torn.next().await.unwrap().unwrap();
        drop(torn);
        assert_eq!(read(&disk, AREAS[1]).await, bytes_at(AREAS[1]));
        assert_eq!(reader.direct.load(Ordering::Relaxed), 1);
    }
}
