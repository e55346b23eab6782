//! The two headers, of which one counts.

use super::layout::{
    HEADER_1_AT, HEADER_2_AT, HEADER_BYTES, HEADER_SIGNATURE, LOG_BYTES_MAX, MIB, VERSION, checksum, limit, malformed,
    unsupported,
};
use crate::Result;
use crate::container::fields::{field, le_u16, le_u32, le_u64, put};
use domain::Extent;
use uuid::Uuid;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub sequence: u64,
    pub file_write_id: Uuid,
    pub data_write_id: Uuid,
    /// Nil when there is nothing to replay.
    pub log_id: Uuid,
    pub log: Extent,
}

impl Header {
    /// The header that counts, of the header section of a file.
    pub fn current(section: &[u8]) -> Result<Self> {
        let copies =
            [HEADER_1_AT, HEADER_2_AT].map(|at| section.get(at..at + HEADER_BYTES).filter(|raw| is_valid(raw)));
        let raw = match copies {
            [Some(one), Some(two)] => match le_u64(one, 8).cmp(&le_u64(two, 8)) {
                // Some tools write the same header twice.
                std::cmp::Ordering::Equal if one != two => {
                    return Err(malformed("both headers have the same sequence number, but differ"));
                }
                std::cmp::Ordering::Less => two,
                _ => one,
            },
            [Some(one), None] | [None, Some(one)] => one,
            [None, None] => return Err(malformed("neither header at 64 KiB and 128 KiB has a valid checksum")),
        };
        Self::decode(raw)
    }

    fn decode(raw: &[u8]) -> Result<Self> {
        let version = le_u16(raw, 66);
        if version != VERSION {
            return Err(unsupported(format!("version {version}")));
        }
        let log_id = Uuid::from_bytes_le(field(raw, 48));
        let log_version = le_u16(raw, 64);
        if log_version != 0 && !log_id.is_nil() {
            return Err(unsupported(format!("a log of version {log_version}")));
        }
        let log = Extent::new(le_u64(raw, 72), u64::from(le_u32(raw, 68)));
        if log.length > LOG_BYTES_MAX {
            return Err(limit(format!("a log of {} bytes", log.length), LOG_BYTES_MAX));
        }
        let aligned = log.offset.is_multiple_of(MIB) && log.length.is_multiple_of(MIB);
        if !aligned || (log.length > 0 && log.offset < MIB) {
            return Err(malformed(format!("a log of {} bytes at {}", log.length, log.offset)));
        }
        Ok(Self {
            sequence: le_u64(raw, 8),
            file_write_id: Uuid::from_bytes_le(field(raw, 16)),
            data_write_id: Uuid::from_bytes_le(field(raw, 32)),
            log_id,
            log,
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut raw = vec![0; HEADER_BYTES];
        put(&mut raw, 0, &HEADER_SIGNATURE);
        put(&mut raw, 8, &self.sequence.to_le_bytes());
        put(&mut raw, 16, &self.file_write_id.to_bytes_le());
        put(&mut raw, 32, &self.data_write_id.to_bytes_le());
        put(&mut raw, 48, &self.log_id.to_bytes_le());
        put(&mut raw, 66, &VERSION.to_le_bytes());
        put(&mut raw, 68, &(self.log.length as u32).to_le_bytes());
        put(&mut raw, 72, &self.log.offset.to_le_bytes());
        let sum = checksum(&raw);
        put(&mut raw, 4, &sum.to_le_bytes());
        raw
    }
}

fn is_valid(raw: &[u8]) -> bool {
    raw.starts_with(&HEADER_SIGNATURE) && le_u32(raw, 4) == checksum(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::vhdx::layout::HEADER_SECTION_BYTES;

    fn header(sequence: u64) -> Header {
        let id = Uuid::from_u128;
        Header { sequence, file_write_id: id(1), data_write_id: id(2), log_id: id(0), log: Extent::new(MIB, MIB) }
    }

    fn section(first: &[u8], second: &[u8]) -> Vec<u8> {
        let mut section = vec![0; HEADER_SECTION_BYTES];
        put(&mut section, HEADER_1_AT, first);
        put(&mut section, HEADER_2_AT, second);
        section
    }

    #[test]
    fn the_higher_valid_number_counts() {
        let (old, new) = (header(7), header(8));
        assert_eq!(Header::current(&section(&old.encode(), &new.encode())).unwrap(), new);
        assert_eq!(Header::current(&section(&new.encode(), &old.encode())).unwrap(), new);
        let mut torn = new.encode();
        torn[100] ^= 1;
        assert_eq!(Header::current(&section(&torn, &old.encode())).unwrap(), old);
        assert_eq!(Header::current(&section(&old.encode(), &torn)).unwrap(), old);
        assert!(Header::current(&section(&torn, &torn)).is_err());
        assert!(Header::current(&[]).is_err());
    }

    #[test]
    fn equal_numbers_need_equal_headers() {
        let one = header(7);
        assert_eq!(Header::current(&section(&one.encode(), &one.encode())).unwrap(), one);
        let other = Header { data_write_id: Uuid::from_u128(9), ..one };
        assert!(Header::current(&section(&one.encode(), &other.encode())).is_err());
    }

    #[test]
    fn what_a_header_may_not_say() {
        for log in
            [Extent::new(0, MIB), Extent::new(MIB, 4096), Extent::new(5, MIB), Extent::new(MIB, LOG_BYTES_MAX + MIB)]
        {
            let bad = Header { log, ..header(1) };
            assert!(Header::current(&section(&bad.encode(), &[])).is_err(), "{log:?}");
        }
        let mut next = header(1).encode();
        put(&mut next, 66, &[2, 0]);
        let sum = checksum(&next);
        put(&mut next, 4, &sum.to_le_bytes());
        assert!(Header::current(&section(&next, &[])).unwrap_err().to_string().contains("version 2"));
    }
}
