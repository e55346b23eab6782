//! Choosing packs, and copying what is needed out of them into new ones, compressed harder than a backup has time for.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::backend::BackendErrorKind;
use crate::collector::mark::{Live, Marked, Survey};
use crate::collector::{Run, is_tagged};
use crate::core::decode_chunk;
use crate::error::{Error, Result};
use crate::format::codec::Workspace;
use crate::format::crypto::Keys;
use crate::format::envelope::HEADER_BYTES;
use crate::format::names::{self, ObjectId};
use crate::format::pack::{PACK_CHUNKS_MAX, PackEntry, PackSeal, share_of};
use crate::format::segment::{self, PackRecord, SEGMENT_ENTRIES_TARGET};
use crate::format::{ChunkId, ChunkKind, Codec, FRAME_CHUNKS_MAX};
use crate::index::{Location, locations, read_footer};
use crate::lease::lease_tag;
use crate::reader::by_frame;

/// Level of zstd for what is copied.
const COPY_ZSTD_LEVEL: i32 = 6;

/// A chunk that is needed, in a place.
type Needed = (Location, ChunkId);
/// Chunks of a pack that share what is stored of them, and that.
type Copy = (Vec<PackEntry>, Bytes);

/// Packs to condemn.
#[derive(Default)]
pub struct Choice {
    /// Nothing in them is needed.
    pub dead: Vec<ObjectId>,
    /// Little in them is needed: their places.
    pub sparse: Vec<(ObjectId, Vec<Needed>)>,
}

/// A pack in the making.
struct Filling {
    seal: PackSeal,
    entries: Vec<PackEntry>,
    bytes: Vec<u8>,
}

/// Packs being filled, one of each kind, and those that are durable and no segment covers yet.
#[derive(Default)]
struct Copies {
    open: [Option<Filling>; 2],
    done: Vec<PackRecord>,
}

impl Run {
    pub(super) async fn choose(&mut self, survey: &Survey, marked: &Marked) -> Result<Choice> {
        let (mut choice, mut sparse) = (Choice::default(), Vec::new());
        self.report.packs_unreadable = survey.unreadable;
        let (nothing, percent) = (Live::default(), u64::from(self.options.repack_below_percent.min(100)));
        for (pack, object_bytes) in &survey.packs {
            let live = marked.packs.get(pack).unwrap_or(&nothing);
            let is_sparse = live.bytes == 0 || live.bytes * 100 < object_bytes * percent;
            // Packs of running writers, and of other collectors, look dead until they are done.
            if !is_sparse || is_tagged(pack, &survey.leases) {
                continue;
            }
            let record = match read_footer(&self.core, pack, *object_bytes).await {
                Ok(record) => record,
                Err(Error::Backend(error)) if error.kind == BackendErrorKind::NotFound => continue,
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "a pack that cannot be read is left alone");
                    self.report.packs_unreadable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let chunk_bytes: u64 = record.entries.iter().map(PackEntry::sealed_bytes).sum();
            let live_bytes = share_of(&record.entries, |ordinal| live.has(ordinal));
            if live.bytes == 0 {
                choice.dead.push(*pack);
            } else if live_bytes * 100 < chunk_bytes * percent {
                // Header and footer do not count: a pack of one small chunk would be rewritten for ever.
                sparse.push((live_bytes * 1000 / chunk_bytes.max(1), *pack, places(&record, live)));
            }
        }
        // What gives back most for the least work first.
        sparse.sort_unstable_by_key(|(share, pack, _)| (*share, *pack));
        let mut budget = self.options.repack_bytes_max;
        for (_, pack, places) in sparse {
            let bytes: u64 = places.iter().map(|(place, _)| place.share_bytes()).sum();
            if bytes <= budget {
                budget -= bytes;
                self.progress.planned(bytes);
                choice.sparse.push((pack, places));
            }
        }
        Ok(choice)
    }

    /// Copies what is needed; the packs that nothing is needed from any more. One of which a chunk cannot be read stays.
    pub(super) async fn rewrite(&mut self, sparse: Vec<(ObjectId, Vec<Needed>)>) -> Result<Vec<ObjectId>> {
        self.progress.step("rewriting packs");
        let (mut copies, mut emptied) = (Copies::default(), Vec::new());
        for (pack, places) in sparse {
            match self.copy_pack(&mut copies, &pack, &places).await {
                Ok(()) => emptied.push(pack),
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, "a pack with a damaged chunk is left alone");
                    self.report.packs_unreadable += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.close(&mut copies).await?;
        self.report.packs_rewritten += emptied.len() as u64;
        Ok(emptied)
    }

    /// Copies chunks that are in condemned packs only. A chunk that one of them cannot give another may.
    pub(super) async fn copy_chunks(&mut self, needed: BTreeMap<ObjectId, BTreeMap<ChunkId, Location>>) -> Result<()> {
        let (mut copies, mut saved) = (Copies::default(), crate::index::IdSet::default());
        let mut failures: BTreeMap<ChunkId, Error> = BTreeMap::new();
        for (pack, chunks) in needed {
            for (id, place) in chunks {
                if saved.contains(&id) {
                    continue;
                }
                match self.copy_pack(&mut copies, &pack, &[(place, id)]).await {
                    Ok(()) => drop(saved.insert(id)),
                    Err(error) if error.is_damage() => drop(failures.insert(id, error)),
                    Err(error) => return Err(error),
                }
            }
        }
        self.close(&mut copies).await?;
        // A chunk that is damaged in all its places is lost with or without its pack; what is there stays for verify.
        match failures.into_iter().find(|(id, _)| !saved.contains(id)) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    async fn copy_pack(&mut self, copies: &mut Copies, pack: &ObjectId, places: &[Needed]) -> Result<()> {
        let (Some((first, _)), Some((last, _))) = (places.first(), places.last()) else { return Ok(()) };
        let (start, end) = (first.spot.offset, last.end());
        let bytes = self.core.backend.get(&names::pack(pack), Some(start..end)).await?;
        // All of it is checked before any of it is taken.
        let mut units = Vec::new();
        for frame in by_frame(places) {
            let Some((place, _)) = frame.first() else { continue };
            let from = (place.spot.offset - start) as usize;
            let sealed = bytes.slice(from..from + place.spot.sealed_bytes as usize);
            let (keys, frame) = (self.core.keys.clone(), frame.to_vec());
            units.extend(self.core.pool.run(move |workspace| copy_frame(&keys, &frame, &sealed, workspace)).await?);
        }
        let mut written = 0;
        for (entries, stored) in units {
            written += entries.iter().map(PackEntry::sealed_bytes).sum::<u64>();
            self.append(copies, entries, &stored).await?;
        }
        self.progress.copied(written);
        if let Some(rate) = self.options.rate_bytes_per_second.filter(|rate| *rate > 0) {
            self.pause(Duration::from_secs_f64(written as f64 / rate as f64)).await;
        }
        Ok(())
    }

    async fn append(&mut self, copies: &mut Copies, entries: Vec<PackEntry>, stored: &[u8]) -> Result<()> {
        let Some(kind) = entries.first().map(|entry| entry.kind) else { return Ok(()) };
        let open = &mut copies.open[kind as usize];
        let filling = match open.take() {
            Some(filling) => filling,
            None => self.new_pack()?,
        };
        let filling = open.insert(filling);
        let mut sealed = Vec::new();
        filling.seal.seal_chunk(filling.entries.len() as u32, stored, &mut sealed)?;
        filling.bytes.extend(sealed);
        filling.entries.extend(entries);
        let is_full = filling.bytes.len() - HEADER_BYTES >= self.core.config.pack_bytes as usize
            || filling.entries.len() > PACK_CHUNKS_MAX - FRAME_CHUNKS_MAX;
        if is_full && let Some(filling) = open.take() {
            self.write_pack(copies, filling).await?;
        }
        Ok(())
    }

    fn new_pack(&self) -> Result<Filling> {
        let id = self.core.new_pack_id(lease_tag(self.lease.id()))?;
        let seal = PackSeal::new(&self.core.keys, id)?;
        let bytes = seal.header.to_vec();
        Ok(Filling { seal, entries: Vec::new(), bytes })
    }

    async fn write_pack(&mut self, copies: &mut Copies, filling: Filling) -> Result<()> {
        let Filling { seal, entries, mut bytes } = filling;
        bytes.extend(seal.seal_footer(&entries)?);
        let object_bytes = bytes.len() as u64;
        self.put(&names::pack(&seal.id), bytes).await?;
        self.report.bytes_rewritten += object_bytes;
        let record = PackRecord { id: seal.id, object_bytes, generation: seal.generation, entries };
        self.core.index.add(&record);
        copies.done.push(record);
        let entries: usize = copies.done.iter().map(|record| record.entries.len()).sum();
        if entries >= SEGMENT_ENTRIES_TARGET {
            let done = std::mem::take(&mut copies.done);
            self.write_segment(&done).await?;
        }
        Ok(())
    }

    async fn close(&mut self, copies: &mut Copies) -> Result<()> {
        for kind in [ChunkKind::Data, ChunkKind::Map] {
            if let Some(filling) = copies.open[kind as usize].take() {
                self.write_pack(copies, filling).await?;
            }
        }
        let done = std::mem::take(&mut copies.done);
        self.write_segment(&done).await
    }

    pub(super) async fn write_segment(&mut self, records: &[PackRecord]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let id = self.core.new_id()?;
        let bytes = segment::encode(&self.core.keys, id, records)?;
        self.put(&names::segment(&id), bytes).await?;
        for record in records {
            self.core.index.add(record);
        }
        self.core.index.cover(id, records);
        Ok(())
    }
}

/// The needed chunks of a pack, ascending.
fn places(record: &PackRecord, live: &Live) -> Vec<Needed> {
    locations(record).into_iter().filter(|(place, _)| live.has(place.spot.ordinal)).collect()
}

/// What is stored of copies of these chunks, which are in one frame: entries that share what follows them.
fn copy_frame(keys: &Keys, chunks: &[Needed], sealed: &[u8], workspace: &mut Workspace) -> Result<Vec<Copy>> {
    let mut contents = Vec::with_capacity(chunks.len());
    for (place, id) in chunks {
        contents.push(decode_chunk(keys, place, place.kind, *id, sealed, workspace)?);
    }
    if let [(place, id)] = chunks {
        return Ok(contents.into_iter().map(|content| compress(*id, place, content)).collect());
    }
    let joined = contents.concat();
    let Some(stored) = harder(&joined) else {
        let alone = chunks.iter().zip(contents).map(|((place, id), content)| compress(*id, place, content));
        return Ok(alone.collect());
    };
    let entry = |(at, (place, id)): (usize, &Needed)| PackEntry {
        id: *id,
        kind: place.kind,
        codec: Codec::Shared,
        length: place.length,
        stored: if at == 0 { stored.len() as u32 } else { 0 },
    };
    Ok(vec![(chunks.iter().enumerate().map(entry).collect(), stored.into())])
}

/// One chunk by itself. What a backup found not worth compressing is not tried again.
fn compress(id: ChunkId, place: &Location, content: Bytes) -> Copy {
    let (kind, length) = (place.kind, place.length);
    let smaller = if place.codec == Codec::Raw { None } else { harder(&content) };
    let (codec, stored) = smaller.map_or((Codec::Raw, content), |out| (Codec::Zstd, out.into()));
    (vec![PackEntry { id, kind, codec, length, stored: stored.len() as u32 }], stored)
}

/// `None` when it gets no smaller.
fn harder(content: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::compress(content, COPY_ZSTD_LEVEL).ok().filter(|out| out.len() < content.len())
}
