//! Targets for the records of VHDX.

use super::bat::{Bat, Block};
use super::geometry::Geometry;
use super::header::Header;
use super::layout::{
    FILE_BYTES_MAX, HEADER_1_AT, HEADER_BYTES, HEADER_SECTION_BYTES, HEADER_SIGNATURE, LOG_BYTES_MAX, LOG_SECTOR,
    METADATA_TABLE_BYTES, MIB, REGIONS_1_AT, REGIONS_SIGNATURE, SECTION_STEP, checksum,
};
use super::metadata::Metadata;
use super::occupancy::Occupancy;
use super::region::Regions;
use crate::container::fields::{le_u32, put};
use crate::container::memory::{Memory, now};
use domain::Extent;
use uuid::Uuid;

/// Bytes of a metadata table in a corpus; the rest of a file is the items.
const SHORT_TABLE_BYTES: usize = 1024;
const LOG_ID: Uuid = Uuid::from_u128(7);
/// A log in a corpus has at most this many bytes.
const RING_BYTES_MAX: usize = 256 * 1024;

/// A record of `length` bytes that begins with `data`, with signature and checksum set right.
fn sealed(data: &[u8], length: usize, signature: &[u8]) -> Vec<u8> {
    let mut raw = data.to_vec();
    raw.resize(length, 0);
    put(&mut raw, 0, signature);
    let sum = checksum(&raw);
    put(&mut raw, 4, &sum.to_le_bytes());
    raw
}

/// A header.
pub fn header(data: &[u8]) {
    let mut section = vec![0; HEADER_SECTION_BYTES];
    put(&mut section, HEADER_1_AT, &sealed(data, HEADER_BYTES, &HEADER_SIGNATURE));
    if let Ok(header) = Header::current(&section) {
        assert!(header.log.length <= LOG_BYTES_MAX);
        assert_eq!(Header::current(&section).unwrap(), header);
    }
}

/// A region table.
pub fn regions(data: &[u8]) {
    let file_bytes = 64 * MIB;
    let mut section = vec![0; HEADER_SECTION_BYTES];
    put(&mut section, REGIONS_1_AT, &sealed(data, SECTION_STEP, &REGIONS_SIGNATURE));
    if let Ok(Regions { bat, metadata }) = Regions::decode(&section, &mut Occupancy::new(file_bytes)) {
        assert!(bat.end() <= file_bytes && metadata.end() <= file_bytes);
        assert!(bat.intersection(&metadata).is_none() && bat.offset >= MIB && metadata.offset >= MIB);
    }
}

/// A metadata table, then items.
pub fn metadata(data: &[u8]) {
    let (table, items) = data.split_at(data.len().min(SHORT_TABLE_BYTES));
    let mut region = vec![0; 2 * METADATA_TABLE_BYTES];
    put(&mut region, 0, table);
    put(&mut region, METADATA_TABLE_BYTES, items.get(..items.len().min(METADATA_TABLE_BYTES)).unwrap_or_default());
    let length = region.len() as u64;
    if let Ok(found) = now(Metadata::read(&Memory(region.into()), Extent::new(0, length))) {
        assert_eq!(found.geometry.checked().ok(), Some(found.geometry));
        assert_eq!(found.geometry.has_parent, found.parent.is_some());
        assert!(found.geometry.chunk_ratio() >= 16);
    }
}

/// Whether there is a parent, then the entries of a block table.
pub fn bat(data: &[u8]) {
    let Some((switch, entries)) = data.split_first() else { return };
    let geometry = Geometry {
        size_bytes: (40 << 27) - 512,
        block_bytes: 1 << 27,
        logical_sector_bytes: 512,
        physical_sector_bytes: 512,
        has_parent: switch & 1 == 1,
        leave_allocated: false,
    };
    let file_bytes = 4 << 30;
    let mut table = entries.to_vec();
    table.resize(geometry.bat_entries() as usize * 8, 0);
    let region = Extent::new(0, table.len() as u64);
    let mut occupied = Occupancy::new(file_bytes);
    let Ok(bat) = now(Bat::read(&Memory(table.into()), region, &geometry, &mut occupied)) else { return };
    let mut places: Vec<u64> = Vec::new();
    for block in 0..geometry.blocks() {
        match bat.block(block) {
            Block::Full(data) => places.push(data),
            Block::Partial { data, bitmap } => {
                assert!(geometry.has_parent && bitmap >= MIB && bitmap + MIB <= file_bytes);
                places.push(data);
            }
            Block::Parent | Block::Zero => continue,
        }
        assert!(places.last().is_some_and(|at| *at >= MIB && at + geometry.block(block).length <= file_bytes));
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= (1 << 27) - 512));
}

/// A log of whole sectors.
pub fn log(data: &[u8]) {
    let mut ring = data.get(..data.len().min(RING_BYTES_MAX)).unwrap_or_default().to_vec();
    ring.resize(ring.len().next_multiple_of(LOG_SECTOR), 0);
    for at in (0..ring.len()).step_by(LOG_SECTOR) {
        let rest = ring.get_mut(at..).unwrap_or_default();
        let length = le_u32(rest, 8) as usize;
        if let Some(entry) = rest.get_mut(..length).filter(|entry| entry.starts_with(b"loge")) {
            put(entry, 32, &LOG_ID.to_bytes_le());
            let sum = checksum(entry);
            put(entry, 4, &sum.to_le_bytes());
        }
    }
    if ring.is_empty() {
        return;
    }
    if let Ok(replay) = super::log::replay(&ring, LOG_ID, 64 * MIB) {
        assert!((64 * MIB..=FILE_BYTES_MAX).contains(&replay.len_bytes));
        for at in [0, MIB, 2 * MIB + 5, replay.len_bytes - 4096] {
            replay.overlay.apply(at, &mut [1; 10_000]);
        }
    }
}

/// The first files of the corpus.
#[cfg(test)]
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let id = Uuid::from_u128;
    let log = Extent::new(MIB, MIB);
    let head = Header { sequence: 1, file_write_id: id(1), data_write_id: id(2), log_id: id(3), log }.encode();
    let table = Regions { bat: Extent::new(3 * MIB, MIB), metadata: Extent::new(2 * MIB, MIB) }.encode();
    let geometry = Geometry {
        size_bytes: 10 << 30,
        block_bytes: 32 << 20,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        has_parent: false,
        leave_allocated: false,
    };
    let region = super::metadata::encode(&geometry, id(4));
    let items = region.get(METADATA_TABLE_BYTES..).unwrap_or_default();
    let region = [region.get(..SHORT_TABLE_BYTES).unwrap_or_default(), items].concat();
    let entries = |switch: u8, entries: &[u64]| {
        let bytes = entries.iter().flat_map(|entry| entry.to_le_bytes());
        std::iter::once(switch).chain(bytes).collect::<Vec<u8>>()
    };
    let mut child = vec![7 | (256 * MIB), 0, 6 | (512 * MIB), 2];
    child.resize(32, 0);
    child.push(6 | (9 * MIB));
    vec![
        ("vhdx_header", "sound", head.get(..96).unwrap_or_default().to_vec()),
        ("vhdx_regions", "sound", table.get(..96).unwrap_or_default().to_vec()),
        ("vhdx_metadata", "sound", region),
        ("vhdx_metadata", "child", child_metadata(&geometry)),
        ("vhdx_bat", "dynamic", entries(0, &[6 | MIB, 0, 1, 2, 3, 6 | (200 * MIB)])),
        ("vhdx_bat", "child", entries(1, &child)),
        ("vhdx_log", "two-entries", super::log::tests::sample(LOG_ID)),
    ]
}

/// Metadata with a parent locator.
#[cfg(test)]
fn child_metadata(geometry: &Geometry) -> Vec<u8> {
    let locator = super::locator::tests::sample();
    let region = super::metadata::encode(geometry, Uuid::from_u128(4));
    let (table, items) = region.split_at(METADATA_TABLE_BYTES);
    let mut table = table.get(..SHORT_TABLE_BYTES).unwrap_or_default().to_vec();
    put(&mut table, 10, &6_u16.to_le_bytes());
    put(&mut table, 6 * 32, &super::layout::ITEM_PARENT_LOCATOR.to_bytes_le());
    put(&mut table, 6 * 32 + 16, &((METADATA_TABLE_BYTES + items.len()) as u32).to_le_bytes());
    put(&mut table, 6 * 32 + 20, &(locator.len() as u32).to_le_bytes());
    put(&mut table, 6 * 32 + 24, &4_u32.to_le_bytes());
    let mut items = items.to_vec();
    put(&mut items, 4, &2_u32.to_le_bytes());
    [table, items, locator].concat()
}
