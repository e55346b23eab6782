//! The header of a dynamic or differencing disk: its block table, and its parent.

use super::footer::checksum;
use super::image::{FORMAT, malformed};
use crate::container::fields::{be_u32, be_u64, field, le_u16};
use crate::container::open::{ParentLink, ParentPath};
use crate::container::source::{ImageSource, read};
use crate::{DiskError, Result};
use uuid::Uuid;

pub(super) const HEADER_BYTES: usize = 1024;
const SIGNATURE: [u8; 8] = *b"cxsparse";
const CHECKSUM_AT: usize = 36;
/// Smallest and largest block, in bytes. Windows makes blocks of 2 MiB and of 512 KiB.
const BLOCK_BYTES_MIN: u32 = 512 << 10;
const BLOCK_BYTES_MAX: u32 = 256 << 20;
const LOCATORS: usize = 8;
const LOCATORS_AT: usize = 576;
const LOCATOR_BYTES: usize = 24;
/// Longest path of a parent, in bytes of UTF-16.
const PATH_BYTES_MAX: u32 = 64 * 1024;
const NAME_AT: usize = 64;
const NAME_BYTES: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DynamicHeader {
    pub table_at: u64,
    pub table_entries: u32,
    pub block_bytes: u32,
    parent_id: Uuid,
    parent_name: String,
    locators: Vec<Locator>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Locator {
    relative: bool,
    offset: u64,
    length: u32,
}

impl DynamicHeader {
    pub fn decode(raw: &[u8]) -> Result<Self> {
        if !raw.starts_with(&SIGNATURE) {
            return Err(malformed("its header does not begin with `cxsparse`"));
        }
        if raw.len() != HEADER_BYTES || be_u32(raw, CHECKSUM_AT) != checksum(raw, CHECKSUM_AT) {
            return Err(malformed("the checksum of its header is wrong"));
        }
        let block_bytes = be_u32(raw, 32);
        if !block_bytes.is_power_of_two() || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes) {
            return Err(malformed(format!("blocks of {block_bytes} bytes")));
        }
        let locators = (0..LOCATORS).filter_map(|index| {
            let at = LOCATORS_AT + index * LOCATOR_BYTES;
            let relative = match &field::<4>(raw, at) {
                b"W2ru" => true,
                b"W2ku" => false,
                _ => return None,
            };
            Some(Locator { relative, offset: be_u64(raw, at + 16), length: be_u32(raw, at + 8) })
        });
        Ok(Self {
            table_at: be_u64(raw, 16),
            table_entries: be_u32(raw, 28),
            block_bytes,
            parent_id: Uuid::from_bytes(field(raw, 40)),
            parent_name: text(raw.get(NAME_AT..NAME_AT + NAME_BYTES).unwrap_or_default(), u16::from_be_bytes),
            locators: locators.collect(),
        })
    }

    /// Fetches the paths of the parent: relative ones first, then absolute ones, then its bare name.
    pub async fn parent(&self, source: &dyn ImageSource) -> Result<ParentLink> {
        let mut paths = Vec::new();
        for relative in [true, false] {
            for locator in self.locators.iter().filter(|locator| locator.relative == relative) {
                if locator.length > PATH_BYTES_MAX {
                    let what = format!("a parent locator of {} bytes", locator.length);
                    return Err(DiskError::Limit { format: FORMAT, what, limit: u64::from(PATH_BYTES_MAX) });
                }
                let end = locator.offset.checked_add(u64::from(locator.length));
                if end.is_none_or(|end| end > source.len_bytes()) {
                    let (length, at) = (locator.length, locator.offset);
                    return Err(malformed(format!("a parent locator of {length} bytes at {at}")));
                }
                let raw = read(source, FORMAT, locator.offset, locator.length as usize).await?;
                let path = text(&raw, u16::from_le_bytes);
                paths.push(if relative { ParentPath::Relative(path) } else { ParentPath::Absolute(path) });
            }
        }
        if !self.parent_name.is_empty() {
            // Some writers put a whole path there.
            let name = self.parent_name.rsplit(['\\', '/']).next().unwrap_or_default();
            paths.push(ParentPath::Relative(name.to_owned()));
        }
        Ok(ParentLink { ids: vec![self.parent_id], paths })
    }
}

/// UTF-16 up to its first NUL; what is no text becomes the sign for it, and the path is not found.
fn text(raw: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = raw.chunks_exact(2).map(|pair| unit(le_u16(pair, 0).to_le_bytes()));
    let units: Vec<u16> = units.take_while(|&unit| unit != 0).collect();
    String::from_utf16_lossy(&units)
}
