//! The region table: where the block table and the metadata lie.

use super::layout::{
    MIB, REGION_BAT, REGION_METADATA, REGIONS_1_AT, REGIONS_2_AT, REGIONS_SIGNATURE, SECTION_STEP, TABLE_ENTRIES_MAX,
    checksum, limit, malformed, unsupported,
};
use super::occupancy::Occupancy;
use crate::Result;
use crate::container::fields::{field, le_u32, le_u64, put};
use domain::Extent;
use std::collections::HashSet;
use uuid::Uuid;

const ENTRY_BYTES: usize = 32;
const FIRST_ENTRY_AT: usize = 16;

/// The regions this reader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Regions {
    pub bat: Extent,
    pub metadata: Extent,
}

impl Regions {
    /// Of the header section of a file; every region's place is taken in `occupied`.
    pub fn decode(section: &[u8], occupied: &mut Occupancy) -> Result<Self> {
        let valid = |raw: &&[u8]| raw.starts_with(&REGIONS_SIGNATURE) && le_u32(raw, 4) == checksum(raw);
        let mut copies = [REGIONS_1_AT, REGIONS_2_AT].into_iter().filter_map(|at| section.get(at..at + SECTION_STEP));
        let raw = copies.find(valid);
        let raw = raw.ok_or_else(|| malformed("neither region table at 192 KiB and 256 KiB has a valid checksum"))?;
        let count = le_u32(raw, 8) as usize;
        if count > TABLE_ENTRIES_MAX {
            return Err(limit(format!("a region table of {count} entries"), TABLE_ENTRIES_MAX as u64));
        }
        let (mut bat, mut metadata, mut seen) = (None, None, HashSet::new());
        for index in 0..count {
            let at = FIRST_ENTRY_AT + index * ENTRY_BYTES;
            let id = Uuid::from_bytes_le(field(raw, at));
            let region = Extent::new(le_u64(raw, at + 16), u64::from(le_u32(raw, at + 24)));
            let fits = region.offset.is_multiple_of(MIB) && region.length.is_multiple_of(MIB) && region.offset >= MIB;
            if !fits || region.length == 0 {
                return Err(malformed(format!("region {id} of {} bytes at {}", region.length, region.offset)));
            }
            if !seen.insert(id) {
                return Err(malformed(format!("region {id} stands twice in the table")));
            }
            occupied.claim(region, || format!("region {id}"))?;
            match id {
                REGION_BAT => bat = Some(region),
                REGION_METADATA => metadata = Some(region),
                _ if le_u32(raw, at + 28) & 1 == 1 => return Err(unsupported(format!("region {id}"))),
                _ => {}
            }
        }
        let missing = |what| malformed(format!("the region table names no {what}"));
        Ok(Self { bat: bat.ok_or_else(|| missing("BAT"))?, metadata: metadata.ok_or_else(|| missing("metadata"))? })
    }

    /// A table of 64 KiB.
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = vec![0; SECTION_STEP];
        put(&mut raw, 0, &REGIONS_SIGNATURE);
        put(&mut raw, 8, &2_u32.to_le_bytes());
        for (index, (id, region)) in [(REGION_BAT, self.bat), (REGION_METADATA, self.metadata)].into_iter().enumerate()
        {
            let at = FIRST_ENTRY_AT + index * ENTRY_BYTES;
            put(&mut raw, at, &id.to_bytes_le());
            put(&mut raw, at + 16, &region.offset.to_le_bytes());
            put(&mut raw, at + 24, &(region.length as u32).to_le_bytes());
            put(&mut raw, at + 28, &1_u32.to_le_bytes());
        }
        let sum = checksum(&raw);
        put(&mut raw, 4, &sum.to_le_bytes());
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::vhdx::layout::HEADER_SECTION_BYTES;

    const GOOD: Regions = Regions { bat: Extent::new(3 * MIB, MIB), metadata: Extent::new(2 * MIB, MIB) };

    fn decode(first: &[u8], second: &[u8]) -> Result<Regions> {
        let mut section = vec![0; HEADER_SECTION_BYTES];
        put(&mut section, REGIONS_1_AT, first);
        put(&mut section, REGIONS_2_AT, second);
        Regions::decode(&section, &mut Occupancy::new(8 * MIB))
    }

    /// The good table with other bytes at a place and the checksum set right.
    fn with(at: usize, value: &[u8]) -> Vec<u8> {
        let mut raw = GOOD.encode();
        put(&mut raw, at, value);
        let sum = checksum(&raw);
        put(&mut raw, 4, &sum.to_le_bytes());
        raw
    }

    #[test]
    fn one_good_copy_is_enough() {
        let mut torn = GOOD.encode();
        torn[60_000] ^= 1;
        assert_eq!(decode(&GOOD.encode(), &torn).unwrap(), GOOD);
        assert_eq!(decode(&torn, &GOOD.encode()).unwrap(), GOOD);
        assert!(decode(&torn, &torn).is_err());
    }

    #[test]
    fn what_a_table_may_not_say() {
        let said = |raw: &[u8]| decode(raw, &[]).unwrap_err().to_string();
        assert!(said(&with(8, &2048_u32.to_le_bytes())).contains("2048 entries"));
        assert!(said(&with(8, &1_u32.to_le_bytes())).contains("no metadata"));
        assert!(said(&with(32, &(2 * MIB).to_le_bytes())).contains("another structure"));
        assert!(said(&with(32, &(8 * MIB).to_le_bytes())).contains("end of the file"));
        assert!(said(&with(32, &0_u64.to_le_bytes())).contains("at 0"));
        assert!(said(&with(40, &4096_u32.to_le_bytes())).contains("4096 bytes"));
        assert!(said(&with(16, &REGION_METADATA.to_bytes_le())).contains("twice"));
        assert!(said(&with(16, &[7; 16])).contains("not supported"));
    }

    #[test]
    fn an_unknown_region_that_is_not_required_is_left_alone() {
        let mut raw = GOOD.encode();
        put(&mut raw, 8, &3_u32.to_le_bytes());
        put(&mut raw, 80, &[7; 16]);
        put(&mut raw, 96, &(4 * MIB).to_le_bytes());
        put(&mut raw, 104, &(MIB as u32).to_le_bytes());
        let sum = checksum(&raw);
        put(&mut raw, 4, &sum.to_le_bytes());
        assert_eq!(decode(&raw, &[]).unwrap(), GOOD);
    }
}
