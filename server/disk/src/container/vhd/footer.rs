//! The footer: size, kind and identity of a disk.

use super::image::{FORMAT, malformed};
use crate::container::fields::{be_u32, be_u64, field};
use crate::container::open::ImageKind;
use crate::{DiskError, Result};
use uuid::Uuid;

pub(super) const FOOTER_BYTES: usize = 512;
pub(super) const SIGNATURE: [u8; 8] = *b"conectix";
/// 2040 GiB is Windows' limit; the format's own is that of 32-bit sectors.
const SIZE_BYTES_MAX: u64 = 2 << 40;
const CHECKSUM_AT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Footer {
    pub kind: ImageKind,
    pub size_bytes: u64,
    /// Of the dynamic header; meaningless for a fixed disk.
    pub header_at: u64,
    pub unique_id: Uuid,
}

impl Footer {
    /// `None` when the signature or the checksum is not right.
    pub fn decode(raw: &[u8]) -> Result<Option<Self>> {
        let sound = raw.len() == FOOTER_BYTES && raw.starts_with(&SIGNATURE);
        if !sound || be_u32(raw, CHECKSUM_AT) != checksum(raw, CHECKSUM_AT) {
            return Ok(None);
        }
        let version = be_u32(raw, 12);
        if version >> 16 != 1 {
            return Err(DiskError::Unsupported { format: FORMAT, feature: format!("version {version:#x}") });
        }
        let kind = match be_u32(raw, 60) {
            2 => ImageKind::Fixed,
            3 => ImageKind::Dynamic,
            4 => ImageKind::Differencing,
            other => return Err(malformed(format!("a disk of type {other}"))),
        };
        let size_bytes = be_u64(raw, 48);
        if size_bytes > SIZE_BYTES_MAX {
            let what = format!("a disk of {size_bytes} bytes");
            return Err(DiskError::Limit { format: FORMAT, what, limit: SIZE_BYTES_MAX });
        }
        if size_bytes == 0 || !size_bytes.is_multiple_of(512) {
            return Err(malformed(format!("a disk of {size_bytes} bytes")));
        }
        let unique_id = Uuid::from_bytes(field(raw, 68));
        Ok(Some(Self { kind, size_bytes, header_at: be_u64(raw, 16), unique_id }))
    }
}

/// Complement of the sum of all bytes but the checksum's own four, at `at`.
pub(super) fn checksum(record: &[u8], at: usize) -> u32 {
    let sum = |bytes: Option<&[u8]>| bytes.unwrap_or_default().iter().map(|&byte| u32::from(byte)).sum::<u32>();
    !(sum(record.get(..at)) + sum(record.get(at + 4..)))
}
