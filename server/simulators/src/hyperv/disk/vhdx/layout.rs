//! The structures at fixed places of a VHDX file: identifier, headers, region table (MS-VHDX 2.2).

use std::io;

use uuid::{Uuid, uuid};

pub(super) const MIB: u64 = 1 << 20;
/// Places of the two headers.
pub(super) const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// Places of the two copies of the region table.
pub(super) const REGION_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a region table.
pub(super) const REGION_TABLE_BYTES: usize = 64 << 10;
/// Bytes of a header, and of everything that goes through the log at a time.
pub(super) const SECTOR_BYTES: usize = 4096;
/// What a file starts with.
pub(super) const FILE_SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Entries a region table may have.
const REGIONS_MAX: u32 = 2047;
/// A longer log is not read.
const LOG_BYTES_MAX: u32 = 64 << 20;
/// A longer region is not read: 8 Mi blocks.
const REGION_BYTES_MAX: u64 = 64 << 20;

const BAT: Uuid = uuid!("2DC27766-F623-4200-9D64-115E9BFD4A08");
const METADATA: Uuid = uuid!("8B7CA206-4790-4B9A-B8FE-575F050F886E");

/// An error that says what is wrong with a file.
pub(super) fn damaged(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// The bytes at a place, zeros where the buffer ends.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|tail| tail.first_chunk::<N>()).copied().unwrap_or([0; N])
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

pub(super) fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    Uuid::from_bytes_le(array(bytes, at))
}

/// Puts bytes at a place; what does not fit is a mistake of the caller.
pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let slot = bytes.get_mut(at..).and_then(|tail| tail.get_mut(..value.len()));
    debug_assert!(slot.is_some(), "{} bytes at {at}", value.len());
    if let Some(slot) = slot {
        slot.copy_from_slice(value);
    }
}

/// Whether the CRC-32C at byte 4 is that of the rest with these four bytes zero.
pub(super) fn checksum_fits(bytes: &[u8]) -> bool {
    checksum(bytes) == u32_at(bytes, 4)
}

/// CRC-32C over a structure whose bytes 4 to 7 count as zero.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let head = crc32c::crc32c(bytes.get(..4).unwrap_or_default());
    let head = crc32c::crc32c_append(head, &[0; 4]);
    crc32c::crc32c_append(head, bytes.get(8..).unwrap_or_default())
}

/// The header that is current.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub sequence: u64,
    pub file_write: Uuid,
    pub data_write: Uuid,
    /// Nil when there is nothing to replay.
    pub log: Uuid,
    pub log_bytes: u32,
    pub log_offset: u64,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR_BYTES];
        put(&mut bytes, 0, b"head");
        put(&mut bytes, 8, &self.sequence.to_le_bytes());
        put(&mut bytes, 16, &self.file_write.to_bytes_le());
        put(&mut bytes, 32, &self.data_write.to_bytes_le());
        put(&mut bytes, 48, &self.log.to_bytes_le());
        put(&mut bytes, 66, &1u16.to_le_bytes());
        put(&mut bytes, 68, &self.log_bytes.to_le_bytes());
        put(&mut bytes, 72, &self.log_offset.to_le_bytes());
        let sum = checksum(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }

    /// A header that is valid in itself.
    fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == SECTOR_BYTES && bytes.starts_with(b"head") && checksum_fits(bytes)).then(|| Self {
            sequence: u64_at(bytes, 8),
            file_write: uuid_at(bytes, 16),
            data_write: uuid_at(bytes, 32),
            log: uuid_at(bytes, 48),
            log_bytes: u32_at(bytes, 68),
            log_offset: u64_at(bytes, 72),
        })
    }

    /// Picks the current one of two; answers it with its place in [`HEADER_OFFSETS`].
    pub fn current(first: &[u8], second: &[u8]) -> io::Result<(Self, usize)> {
        let (slot, bytes, header) = match (Self::decode(first), Self::decode(second)) {
            (Some(a), Some(b)) if a.sequence == b.sequence && first != second => {
                return Err(damaged("two headers of one sequence number differ"));
            }
            (Some(a), Some(b)) if a.sequence < b.sequence => (1, second, b),
            (Some(a), _) => (0, first, a),
            (None, Some(b)) => (1, second, b),
            (None, None) => return Err(damaged("no valid header")),
        };
        if u16_at(bytes, 66) != 1 {
            return Err(damaged("version of the format is not 1"));
        }
        if !header.log.is_nil() && u16_at(bytes, 64) != 0 {
            return Err(damaged("version of the log is not 0"));
        }
        let aligned = u64::from(header.log_bytes).is_multiple_of(MIB) && header.log_offset.is_multiple_of(MIB);
        if !aligned || header.log_offset < MIB || header.log_bytes == 0 || header.log_bytes > LOG_BYTES_MAX {
            return Err(damaged("place of the log"));
        }
        Ok((header, slot))
    }
}

/// A stretch of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub offset: u64,
    pub bytes: u64,
}

/// Where block table and metadata are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Regions {
    pub bat: Region,
    pub metadata: Region,
}

impl Regions {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; REGION_TABLE_BYTES];
        put(&mut bytes, 0, b"regi");
        put(&mut bytes, 8, &2u32.to_le_bytes());
        for (at, id, region) in [(16, BAT, self.bat), (48, METADATA, self.metadata)] {
            put(&mut bytes, at, &id.to_bytes_le());
            put(&mut bytes, at + 16, &region.offset.to_le_bytes());
            put(&mut bytes, at + 24, &(region.bytes as u32).to_le_bytes());
            put(&mut bytes, at + 28, &1u32.to_le_bytes());
        }
        let sum = checksum(&bytes);
        put(&mut bytes, 4, &sum.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let count = u32_at(bytes, 8);
        if !bytes.starts_with(b"regi") || !checksum_fits(bytes) || count > REGIONS_MAX {
            return Err(damaged("region table"));
        }
        let (mut bat, mut metadata) = (None, None);
        for at in (0..count as usize).map(|index| 16 + index * 32) {
            let region = Region { offset: u64_at(bytes, at + 16), bytes: u32_at(bytes, at + 24).into() };
            if region.offset < MIB
                || !region.offset.is_multiple_of(MIB)
                || !region.bytes.is_multiple_of(MIB)
                || region.bytes == 0
            {
                return Err(damaged("place of a region"));
            }
            let slot = match uuid_at(bytes, at) {
                BAT => &mut bat,
                METADATA => &mut metadata,
                other if u32_at(bytes, at + 28) & 1 == 1 => {
                    return Err(damaged(format!("unknown region {other} is required")));
                }
                _ => continue,
            };
            if slot.replace(region).is_some() || region.bytes > REGION_BYTES_MAX {
                return Err(damaged("a region twice, or too large"));
            }
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Self { bat, metadata }),
            _ => Err(damaged("a required region is missing")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(sequence: u64) -> Header {
        let id = Uuid::from_u128(7);
        Header { sequence, file_write: id, data_write: id, log: Uuid::nil(), log_bytes: 1 << 20, log_offset: MIB }
    }

    #[test]
    fn the_newer_valid_header_is_current() {
        let (old, new) = (header(4).encode(), header(5).encode());
        assert_eq!(Header::current(&old, &new).unwrap().1, 1);
        let mut torn = new.clone();
        torn[100] ^= 1;
        let (current, slot) = Header::current(&old, &torn).unwrap();
        assert_eq!((current.sequence, slot), (4, 0));
        assert!(Header::current(&torn, &torn).is_err());
    }

    #[test]
    fn a_region_table_reads_back_and_a_flipped_bit_is_seen() {
        let region = |mib: u64| Region { offset: mib * MIB, bytes: MIB };
        let mut bytes = Regions { bat: region(3), metadata: region(2) }.encode();
        assert_eq!(Regions::decode(&bytes).unwrap().bat, region(3));
        bytes[30] ^= 1;
        assert!(Regions::decode(&bytes).is_err());
    }
}
