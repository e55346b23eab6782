//! A target for whole VHD files.

use super::VhdImage;
use super::footer::{FOOTER_BYTES, checksum};
use super::header::HEADER_BYTES;
use crate::container::fields::{be_u64, put};
use crate::container::memory::{Memory, now};
use crate::container::segment::{Place, Segments};
use domain::Extent;
use std::sync::Arc;

/// The disk is looked at up to here.
const LOOK_BYTES: u64 = 4 << 20;
/// A file has this many zeros in front of its last footer, so that blocks find room.
const ROOM_BYTES: usize = 1 << 20;

/// A footer, then what follows its copy at the start of the file; the last footer is made the same as the first.
pub fn image(data: &[u8]) {
    let mut file = data.to_vec();
    file.resize(file.len().max(FOOTER_BYTES) + ROOM_BYTES, 0);
    put(&mut file, 0, b"conectix");
    seal(&mut file, 0, FOOTER_BYTES, 64);
    let header_at = be_u64(&file, 16) as usize;
    seal(&mut file, header_at, HEADER_BYTES, 36);
    let footer = file.get(..FOOTER_BYTES).unwrap_or_default().to_vec();
    file.extend_from_slice(&footer);
    let length = file.len() as u64;
    let Ok(image) = now(VhdImage::open("fuzz", Arc::new(Memory(file.into())))) else { return };
    let range = Extent::new(0, image.info().size_bytes.min(LOOK_BYTES));
    let mut segments = Segments::default();
    if now(image.map(range, &mut segments)).is_err() {
        return;
    }
    let mut at = 0;
    for segment in segments.0 {
        assert_eq!(segment.range.offset, at);
        at = segment.range.end();
        if let Place::File(offset) = segment.place {
            assert!(offset + segment.range.length <= length);
        }
    }
    assert_eq!(at, range.end());
}

/// Sets the checksum of a record right.
fn seal(file: &mut [u8], at: usize, length: usize, sum_at: usize) {
    let end = at.saturating_add(length);
    if let Some(record) = file.get_mut(at..end) {
        let sum = checksum(record, sum_at);
        put(record, sum_at, &sum.to_be_bytes());
    }
}

/// The first files of the corpus.
#[cfg(test)]
pub fn seeds() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let make = |kind: u32, sector: u32| {
        let mut file = vec![0; 4096];
        let size = 1200_u64 << 10;
        put(&mut file, 12, &0x1_0000_u32.to_be_bytes());
        put(&mut file, 16, &512_u64.to_be_bytes());
        put(&mut file, 48, &size.to_be_bytes());
        put(&mut file, 60, &kind.to_be_bytes());
        put(&mut file, 512, b"cxsparse");
        put(&mut file, 512 + 16, &1536_u64.to_be_bytes());
        put(&mut file, 512 + 28, &3_u32.to_be_bytes());
        put(&mut file, 512 + 32, &(512_u32 << 10).to_be_bytes());
        put(&mut file, 512 + 576, b"W2ru");
        put(&mut file, 512 + 576 + 8, &10_u32.to_be_bytes());
        put(&mut file, 512 + 576 + 16, &2048_u64.to_be_bytes());
        put(&mut file, 1536, &sector.to_be_bytes());
        put(&mut file, 1540, &[0xff; 8]);
        put(&mut file, 2048, b".\\\0a\0\0");
        put(&mut file, 2560, &[0b1010_0001; 32]);
        file
    };
    vec![("vhd", "dynamic", make(3, 5)), ("vhd", "differencing", make(4, 5)), ("vhd", "fixed", make(2, u32::MAX))]
}
