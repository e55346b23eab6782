//! Stamps: which packs were read whole by a verification, when, and which of their chunks were bad. Nothing depends on
//! them for reading: they save reading twice, and keep writers from referring to what is known to be bad.

use std::collections::{BTreeMap, BTreeSet};

use super::Fields;
use super::crypto::Keys;
use super::envelope::{self, Magic};
use super::names::{self, ObjectId};
use super::pack::PACK_CHUNKS_MAX;
use crate::error::{Error, Result};

/// Largest stamp object.
pub const STAMP_BYTES_MAX: u64 = 64 << 20;
/// At this length another stamp is begun. A pack adds at most 4 MiB.
pub const STAMP_BYTES_TARGET: usize = 32 << 20;
const ENTRY_HEAD_BYTES: usize = 28;
/// In place of the number of bad chunks: the whole pack.
const WHOLE: u32 = u32::MAX;

/// What is known to be unreadable in a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bad {
    /// All of it: the object is gone, or nothing in it can be found.
    Whole,
    /// The chunks with these ordinals; none when all is well.
    Chunks(BTreeSet<u32>),
}

impl Bad {
    /// Nothing is bad.
    pub fn none() -> Self {
        Self::Chunks(BTreeSet::new())
    }

    /// Is nothing bad?
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Chunks(ordinals) if ordinals.is_empty())
    }

    /// Is the chunk with this ordinal bad?
    pub fn includes(&self, ordinal: u32) -> bool {
        match self {
            Self::Whole => true,
            Self::Chunks(ordinals) => ordinals.contains(&ordinal),
        }
    }

    /// The worse of both.
    pub fn and(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Chunks(mine), Self::Chunks(more)) => mine.extend(more),
            _ => *self = Self::Whole,
        }
    }
}

/// One pack's last check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackCheck {
    /// Milliseconds since 1970; 0 when it was never read whole.
    pub checked_at: u64,
    pub bad: Bad,
}

impl PackCheck {
    /// Bytes it takes in a stamp.
    pub fn encoded_bytes(&self) -> usize {
        ENTRY_HEAD_BYTES + if let Bad::Chunks(ordinals) = &self.bad { ordinals.len() * 4 } else { 0 }
    }
}

/// What one or more stamps say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Begin of a verification of everything that was cut short, in milliseconds since 1970; 0 when there is none.
    pub unfinished_since: u64,
    pub packs: BTreeMap<ObjectId, PackCheck>,
}

impl Stamp {
    /// Notes a check; of two of one pack the later holds.
    pub fn note(&mut self, pack: ObjectId, check: PackCheck) {
        match self.packs.get_mut(&pack) {
            Some(known) if known.checked_at > check.checked_at => {}
            Some(known) if known.checked_at == check.checked_at => known.bad.and(&check.bad),
            _ => {
                self.packs.insert(pack, check);
            }
        }
    }

    /// Adds what another stamp says.
    pub fn merge(&mut self, other: Self) {
        self.unfinished_since = self.unfinished_since.max(other.unfinished_since);
        for (pack, check) in other.packs {
            self.note(pack, check);
        }
    }

    /// Makes the stamp `id`.
    pub fn encode(&self, keys: &Keys, id: ObjectId) -> Result<Vec<u8>> {
        let mut payload = Vec::with_capacity(12 + self.packs.values().map(PackCheck::encoded_bytes).sum::<usize>());
        payload.extend(self.unfinished_since.to_le_bytes());
        payload.extend((self.packs.len() as u32).to_le_bytes());
        for (pack, check) in &self.packs {
            payload.extend(pack);
            payload.extend(check.checked_at.to_le_bytes());
            match &check.bad {
                Bad::Whole => payload.extend(WHOLE.to_le_bytes()),
                Bad::Chunks(ordinals) => {
                    payload.extend((ordinals.len() as u32).to_le_bytes());
                    payload.extend(ordinals.iter().flat_map(|ordinal| ordinal.to_le_bytes()));
                }
            }
        }
        envelope::seal(keys, Magic::Stamp, id, &names::stamp(&id), &payload)
    }

    /// Reads the stamp `name`.
    pub fn decode(keys: &Keys, name: &str, bytes: &[u8]) -> Result<Self> {
        let mut stamp = Self::default();
        stamp.unfinished_since = decode_each(keys, name, bytes, |pack, check| stamp.note(pack, check))?;
        Ok(stamp)
    }
}

/// Reads the stamp `name` without keeping it: gives each pack to `each`, returns what [`Stamp::unfinished_since`] is.
pub fn decode_each(keys: &Keys, name: &str, bytes: &[u8], each: impl FnMut(ObjectId, PackCheck)) -> Result<u64> {
    let (_, payload) = envelope::open(keys, Magic::Stamp, name, bytes)?;
    parse(&payload, each).ok_or_else(|| Error::damaged(name, "its list of packs makes no sense"))
}

/// Reads a stamp's payload.
pub fn parse(payload: &[u8], mut each: impl FnMut(ObjectId, PackCheck)) -> Option<u64> {
    let mut fields = Fields(payload);
    let unfinished_since = fields.u64()?;
    for _ in 0..fields.u32()? {
        let (pack, checked_at) = (fields.array()?, fields.u64()?);
        let bad = match fields.u32()? {
            WHOLE => Bad::Whole,
            count if count as usize > PACK_CHUNKS_MAX => return None,
            count => Bad::Chunks((0..count).map(|_| fields.u32()).collect::<Option<_>>()?),
        };
        each(pack, PackCheck { checked_at, bad });
    }
    fields.0.is_empty().then_some(unfinished_since)
}

#[cfg(test)]
mod tests {
    use super::super::crypto::{GenerationSecrets, Secrets};
    use super::*;
    use zeroize::Zeroizing;

    fn keys() -> Keys {
        let (data_key, signing_seed) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        Keys::new([3; 16], &Secrets::new(GenerationSecrets { data_key, signing_seed })).unwrap()
    }

    fn check(checked_at: u64, bad: &[u32]) -> PackCheck {
        PackCheck { checked_at, bad: Bad::Chunks(bad.iter().copied().collect()) }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut stamp = Stamp { unfinished_since: 7, ..Stamp::default() };
        stamp.note([1; 16], check(10, &[]));
        stamp.note([2; 16], check(11, &[0, 5]));
        stamp.note([3; 16], PackCheck { checked_at: 12, bad: Bad::Whole });
        let bytes = stamp.encode(&keys(), [9; 16]).unwrap();
        assert_eq!(Stamp::decode(&keys(), &names::stamp(&[9; 16]), &bytes).unwrap(), stamp);
        assert!(Stamp::decode(&keys(), &names::stamp(&[8; 16]), &bytes).is_err(), "renamed");
    }

    #[test]
    fn golden_payload_and_nonsense() {
        let golden = "0700000000000000".to_owned()
            + "01000000"
            + &"02".repeat(16)
            + "0b00000000000000"
            + "02000000"
            + "0000000005000000";
        let bytes = hex::decode(golden).unwrap();
        let mut found = Vec::new();
        assert_eq!(parse(&bytes, |pack, check| found.push((pack, check))), Some(7));
        assert_eq!(found, [([2; 16], check(11, &[0, 5]))]);
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length], |_, _| {}), None);
        }
        let mut many = bytes.clone();
        many[36..40].copy_from_slice(&(u32::MAX - 1).to_le_bytes());
        assert_eq!(parse(&many, |_, _| {}), None, "more chunks than a pack has");
    }

    #[test]
    fn the_later_check_holds_and_of_two_at_once_the_worse() {
        let mut stamp = Stamp::default();
        stamp.note([1; 16], check(10, &[3]));
        stamp.note([1; 16], check(9, &[4]));
        assert_eq!(stamp.packs.get(&[1; 16]), Some(&check(10, &[3])));
        stamp.note([1; 16], check(10, &[4]));
        assert_eq!(stamp.packs.get(&[1; 16]), Some(&check(10, &[3, 4])));
        stamp.note([1; 16], check(11, &[]));
        assert_eq!(stamp.packs.get(&[1; 16]), Some(&check(11, &[])));
    }
}
