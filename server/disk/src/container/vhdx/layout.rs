//! Numbers of the format, and the errors that speak of it.

use crate::DiskError;
use uuid::{Uuid, uuid};

pub(super) const FORMAT: &str = "VHDX";

/// Smallest block, in bytes.
pub const BLOCK_BYTES_MIN: u32 = 1 << 20;
/// Largest block, in bytes.
pub const BLOCK_BYTES_MAX: u32 = 256 << 20;
/// Largest disk, in bytes.
pub const SIZE_BYTES_MAX: u64 = 64 << 40;

/// Largest file, in bytes: a disk of the largest size in a file twice as large as it needs.
pub(super) const FILE_BYTES_MAX: u64 = 128 << 40;
/// Largest block table, in bytes: 64 TiB in blocks of 2 MiB, with their bitmaps' entries.
pub(super) const BAT_BYTES_MAX: u64 = 257 << 20;
/// Largest log, in bytes. Windows makes logs of 1 MiB.
pub(super) const LOG_BYTES_MAX: u64 = 64 << 20;
/// Largest parent locator, in bytes.
pub(super) const LOCATOR_BYTES_MAX: u32 = 256 * 1024;
/// Entries of a region table or a metadata table.
pub(super) const TABLE_ENTRIES_MAX: usize = 2047;

pub(super) const MIB: u64 = 1 << 20;
/// Bytes of each record in the header section that is aligned to 64 KiB.
pub(super) const SECTION_STEP: usize = 64 * 1024;
pub(super) const HEADER_1_AT: usize = SECTION_STEP;
pub(super) const HEADER_2_AT: usize = 2 * SECTION_STEP;
pub(super) const REGIONS_1_AT: usize = 3 * SECTION_STEP;
pub(super) const REGIONS_2_AT: usize = 4 * SECTION_STEP;
/// Bytes in front of everything else that hold records.
pub(super) const HEADER_SECTION_BYTES: usize = 5 * SECTION_STEP;
pub(super) const HEADER_BYTES: usize = 4096;
/// Bytes of a metadata table, in front of the items.
pub(super) const METADATA_TABLE_BYTES: usize = 64 * 1024;
/// Unit of the log, and of what it writes.
pub(super) const LOG_SECTOR: usize = 4096;

pub(super) const FILE_SIGNATURE: [u8; 8] = *b"vhdxfile";
pub(super) const HEADER_SIGNATURE: [u8; 4] = *b"head";
pub(super) const REGIONS_SIGNATURE: [u8; 4] = *b"regi";
pub(super) const METADATA_SIGNATURE: [u8; 8] = *b"metadata";
pub(super) const VERSION: u16 = 1;

pub(super) const REGION_BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
pub(super) const REGION_METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
pub(super) const ITEM_FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
pub(super) const ITEM_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
pub(super) const ITEM_DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
pub(super) const ITEM_LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
pub(super) const ITEM_PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
pub(super) const ITEM_PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
pub(super) const LOCATOR_VHDX: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");

/// File parameter: blocks are never given back (a fixed disk).
pub(super) const FLAG_LEAVE_ALLOCATED: u32 = 1;
/// File parameter: the file builds on a parent.
pub(super) const FLAG_HAS_PARENT: u32 = 2;

/// CRC-32C of a record whose own checksum, the four bytes at 4, counts as zero.
pub(super) fn checksum(record: &[u8]) -> u32 {
    let (Some(before), Some(after)) = (record.get(..4), record.get(8..)) else { return 0 };
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after)
}

pub(super) fn malformed(reason: impl Into<String>) -> DiskError {
    DiskError::Malformed { format: FORMAT, reason: reason.into() }
}

pub(super) fn unsupported(feature: impl Into<String>) -> DiskError {
    DiskError::Unsupported { format: FORMAT, feature: feature.into() }
}

pub(super) fn misuse(reason: impl Into<String>) -> DiskError {
    DiskError::Misuse { format: FORMAT, reason: reason.into() }
}

pub(super) fn limit(what: impl Into<String>, limit: u64) -> DiskError {
    DiskError::Limit { format: FORMAT, what: what.into(), limit }
}
