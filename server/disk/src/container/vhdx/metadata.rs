//! The metadata region: a table of items, and the items this reader knows.

use super::geometry::Geometry;
use super::layout::{
    FLAG_HAS_PARENT, FLAG_LEAVE_ALLOCATED, FORMAT, ITEM_DISK_ID, ITEM_DISK_SIZE, ITEM_FILE_PARAMETERS,
    ITEM_LOGICAL_SECTOR, ITEM_PARENT_LOCATOR, ITEM_PHYSICAL_SECTOR, LOCATOR_BYTES_MAX, METADATA_SIGNATURE,
    METADATA_TABLE_BYTES, MIB, TABLE_ENTRIES_MAX, limit, malformed, unsupported,
};
use super::locator;
use crate::Result;
use crate::container::fields::{field, le_u16, le_u32, le_u64, put};
use crate::container::open::ParentLink;
use crate::container::source::{ImageSource, read};
use bytes::Bytes;
use domain::Extent;
use std::collections::BTreeMap;
use uuid::Uuid;

const ENTRY_BYTES: usize = 32;
const FLAG_USER: u32 = 1;
const FLAG_VIRTUAL_DISK: u32 = 2;
const FLAG_REQUIRED: u32 = 4;
/// The table and the first items come with one read, in bytes.
const FIRST_READ_BYTES: usize = 2 * METADATA_TABLE_BYTES;

/// The items of the format, with the length each has, in bytes.
const ITEMS: [(Uuid, u32); 6] = [
    (ITEM_FILE_PARAMETERS, 8),
    (ITEM_DISK_SIZE, 8),
    (ITEM_DISK_ID, 16),
    (ITEM_LOGICAL_SECTOR, 4),
    (ITEM_PHYSICAL_SECTOR, 4),
    (ITEM_PARENT_LOCATOR, LOCATOR_BYTES_MAX),
];

/// What the metadata says of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub geometry: Geometry,
    pub disk_id: Uuid,
    pub parent: Option<ParentLink>,
}

impl Metadata {
    /// Reads the region, whose place was checked.
    pub async fn read(source: &dyn ImageSource, region: Extent) -> Result<Self> {
        let start = read(source, FORMAT, region.offset, FIRST_READ_BYTES).await?;
        let places = decode_table(&start, region.length)?;
        let mut items = BTreeMap::new();
        for (id, place) in places {
            let within = place.offset as usize..place.end() as usize;
            let bytes = if within.end <= start.len() {
                start.slice(within)
            } else {
                read(source, FORMAT, region.offset + place.offset, place.length as usize).await?
            };
            items.insert(id, bytes);
        }
        Self::from_items(&items)
    }

    fn from_items(items: &BTreeMap<Uuid, Bytes>) -> Result<Self> {
        let item =
            |id: Uuid, what: &str| items.get(&id).ok_or_else(|| malformed(format!("the metadata has no {what}")));
        let parameters = item(ITEM_FILE_PARAMETERS, "file parameters")?;
        let flags = le_u32(parameters, 4);
        let geometry = Geometry {
            size_bytes: le_u64(item(ITEM_DISK_SIZE, "disk size")?, 0),
            block_bytes: le_u32(parameters, 0),
            logical_sector_bytes: le_u32(item(ITEM_LOGICAL_SECTOR, "logical sector size")?, 0),
            physical_sector_bytes: le_u32(item(ITEM_PHYSICAL_SECTOR, "physical sector size")?, 0),
            has_parent: flags & FLAG_HAS_PARENT != 0,
            leave_allocated: flags & FLAG_LEAVE_ALLOCATED != 0,
        };
        let geometry = geometry.checked()?;
        let disk_id = Uuid::from_bytes_le(field(item(ITEM_DISK_ID, "disk id")?, 0));
        let parent = if geometry.has_parent {
            Some(locator::decode(item(ITEM_PARENT_LOCATOR, "parent locator")?)?)
        } else {
            None
        };
        Ok(Self { geometry, disk_id, parent })
    }
}

/// Places of the known items within the region.
fn decode_table(raw: &[u8], region_bytes: u64) -> Result<BTreeMap<Uuid, Extent>> {
    if !raw.starts_with(&METADATA_SIGNATURE) {
        return Err(malformed("the metadata region does not begin with its table"));
    }
    let count = usize::from(le_u16(raw, 10));
    if count > TABLE_ENTRIES_MAX {
        return Err(limit(format!("a metadata table of {count} entries"), TABLE_ENTRIES_MAX as u64));
    }
    let mut places = BTreeMap::new();
    for index in 1..=count {
        let at = index * ENTRY_BYTES;
        let id = Uuid::from_bytes_le(field(raw, at));
        let place = Extent::new(u64::from(le_u32(raw, at + 16)), u64::from(le_u32(raw, at + 20)));
        let flags = le_u32(raw, at + 24);
        let known = ITEMS.iter().find(|(item, _)| *item == id).filter(|_| flags & FLAG_USER == 0);
        let Some(&(_, length)) = known else {
            if flags & FLAG_REQUIRED != 0 {
                return Err(unsupported(format!("metadata item {id}")));
            }
            continue;
        };
        let long_enough = id == ITEM_PARENT_LOCATOR || place.length >= u64::from(length);
        if place.offset < METADATA_TABLE_BYTES as u64 || place.end() > region_bytes || !long_enough {
            return Err(malformed(format!("metadata item {id} of {} bytes at {}", place.length, place.offset)));
        }
        if id == ITEM_PARENT_LOCATOR && place.length > u64::from(LOCATOR_BYTES_MAX) {
            return Err(limit(format!("a parent locator of {} bytes", place.length), u64::from(LOCATOR_BYTES_MAX)));
        }
        let place = Extent::new(place.offset, place.length.min(u64::from(length)));
        if places.insert(id, place).is_some() {
            return Err(malformed(format!("metadata item {id} stands twice in the table")));
        }
    }
    Ok(places)
}

/// A metadata region of a disk without a parent, as far as it holds anything.
pub(super) fn encode(geometry: &Geometry, disk_id: Uuid) -> Vec<u8> {
    let flags = if geometry.leave_allocated { FLAG_LEAVE_ALLOCATED } else { 0 };
    let parameters = [geometry.block_bytes.to_le_bytes(), flags.to_le_bytes()].concat();
    let items: [(Uuid, u32, &[u8]); 5] = [
        (ITEM_FILE_PARAMETERS, FLAG_REQUIRED, &parameters),
        (ITEM_DISK_SIZE, FLAG_REQUIRED | FLAG_VIRTUAL_DISK, &geometry.size_bytes.to_le_bytes()),
        (ITEM_DISK_ID, FLAG_REQUIRED | FLAG_VIRTUAL_DISK, &disk_id.to_bytes_le()),
        (ITEM_LOGICAL_SECTOR, FLAG_REQUIRED | FLAG_VIRTUAL_DISK, &geometry.logical_sector_bytes.to_le_bytes()),
        (ITEM_PHYSICAL_SECTOR, FLAG_REQUIRED | FLAG_VIRTUAL_DISK, &geometry.physical_sector_bytes.to_le_bytes()),
    ];
    let mut raw = vec![0; METADATA_TABLE_BYTES];
    put(&mut raw, 0, &METADATA_SIGNATURE);
    put(&mut raw, 10, &(items.len() as u16).to_le_bytes());
    for (index, (id, flags, value)) in items.into_iter().enumerate() {
        let at = (index + 1) * ENTRY_BYTES;
        let offset = raw.len() as u32;
        put(&mut raw, at, &id.to_bytes_le());
        put(&mut raw, at + 16, &offset.to_le_bytes());
        put(&mut raw, at + 20, &(value.len() as u32).to_le_bytes());
        put(&mut raw, at + 24, &flags.to_le_bytes());
        raw.extend_from_slice(value);
    }
    debug_assert!(raw.len() as u64 <= MIB);
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            size_bytes: 10 << 30,
            block_bytes: 32 << 20,
            logical_sector_bytes: 512,
            physical_sector_bytes: 4096,
            has_parent: false,
            leave_allocated: true,
        }
    }

    fn decode(raw: &[u8]) -> Result<Metadata> {
        let items = decode_table(raw, MIB)?.into_iter();
        let bytes = |place: Extent| Bytes::copy_from_slice(&raw[place.offset as usize..place.end() as usize]);
        Metadata::from_items(&items.map(|(id, place)| (id, bytes(place))).collect())
    }

    #[test]
    fn what_is_written_is_read() {
        let found = decode(&encode(&geometry(), Uuid::from_u128(77))).unwrap();
        assert_eq!(found, Metadata { geometry: geometry(), disk_id: Uuid::from_u128(77), parent: None });
    }

    #[test]
    fn what_a_table_may_not_say() {
        let good = encode(&geometry(), Uuid::from_u128(77));
        let said = |at: usize, value: &[u8]| {
            let mut raw = good.clone();
            put(&mut raw, at, value);
            decode(&raw).unwrap_err().to_string()
        };
        assert!(said(0, b"n").contains("does not begin"));
        assert!(said(10, &4_u16.to_le_bytes()).contains("no physical sector size"));
        assert!(said(10, &2048_u16.to_le_bytes()).contains("2048 entries"));
        assert!(said(32, &[9; 16]).contains("not supported"));
        assert!(said(64, &ITEM_FILE_PARAMETERS.to_bytes_le()).contains("twice"));
        assert!(said(32 + 16, &100_u32.to_le_bytes()).contains("at 100"));
        assert!(said(32 + 16, &(MIB as u32 - 7).to_le_bytes()).contains("1048569"));
        assert!(said(32 + 20, &7_u32.to_le_bytes()).contains("7 bytes"));
        assert!(said(METADATA_TABLE_BYTES + 4, &FLAG_HAS_PARENT.to_le_bytes()).contains("no parent locator"));
        assert!(said(METADATA_TABLE_BYTES, &[1]).contains("blocks of"));
    }
}
