//! Leases, epochs, challenges and voids: what writers, readers and collectors tell each other while space is given back.
//! The protocol is in `collector`; here is only what the objects look like. All are sealed, small, and written once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::crypto::Keys;
use super::envelope::{self, Magic};
use super::names::{self, ObjectId};
use super::{ChunkId, Fields};
use crate::error::{Error, Result};
use crate::point::PointId;

/// Largest lease object.
pub const LEASE_BYTES_MAX: u64 = 16 << 20;
/// Map roots a lease can hold.
pub const LEASE_ROOTS_MAX: usize = 100_000;
/// Epochs a lease can honour.
pub const LEASE_EPOCHS_MAX: usize = 1024;
/// Most packs of one epoch; a run that finds more leaves them to the next.
pub const EPOCH_PACKS_MAX: usize = 1 << 20;
/// Largest epoch object.
pub const EPOCH_BYTES_MAX: u64 = 17 << 20;
/// Largest challenge or void.
pub const VERDICT_BYTES_MAX: usize = 4096;

/// What the holder of a lease does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseKind {
    /// Makes a restore point.
    Write,
    /// Reads maps that must stay.
    Read,
    /// Gives space back.
    Collect,
}

/// The payload of a lease, and of each renewal of it, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseBody {
    pub kind: LeaseKind,
    /// Host and process, for people.
    pub who: String,
    /// The restore point in the making.
    #[serde(default)]
    pub point: Option<PointId>,
    /// By the holder's clock, before the object was written.
    pub renewed_at: Timestamp,
    /// For how long after that the holder may go on, in seconds.
    pub valid_seconds: u64,
    /// Epochs whose packs the holder never refers to, in hex.
    #[serde(default)]
    pub epochs: Vec<String>,
    /// Roots of maps that must stay readable, in hex.
    #[serde(default)]
    pub roots: Vec<String>,
}

impl LeaseBody {
    /// Makes the object `name`; `salt` is random.
    pub fn encode(&self, keys: &Keys, name: &str, salt: ObjectId) -> Result<Vec<u8>> {
        for (what, count, most) in [
            ("number of map roots in a lease", self.roots.len(), LEASE_ROOTS_MAX),
            ("number of epochs in a lease", self.epochs.len(), LEASE_EPOCHS_MAX),
        ] {
            if count > most {
                return Err(Error::Limit { what, value: count as u64 });
            }
        }
        let payload = serde_json::to_vec(self).map_err(|_| Error::Internal("lease"))?;
        envelope::seal(keys, Magic::Lease, salt, name, &payload)
    }

    pub fn decode(keys: &Keys, name: &str, bytes: &[u8]) -> Result<Self> {
        let (_, payload) = envelope::open(keys, Magic::Lease, name, bytes)?;
        serde_json::from_slice(&payload).map_err(|error| Error::damaged(name, error.to_string()))
    }

    /// Does the holder know of that epoch?
    pub fn honours(&self, epoch: &ObjectId) -> bool {
        let text = hex::encode(epoch);
        self.epochs.contains(&text)
    }

    /// The roots that must stay.
    pub fn roots(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.roots.iter().filter_map(|text| super::manifest::root(text)).filter(|root| !root.is_zero())
    }
}

/// Makes the epoch `id`: packs that are condemned for ever.
pub fn encode_epoch(keys: &Keys, id: ObjectId, packs: &[ObjectId]) -> Result<Vec<u8>> {
    if packs.len() > EPOCH_PACKS_MAX {
        return Err(Error::Limit { what: "number of packs in an epoch", value: packs.len() as u64 });
    }
    let mut payload = (packs.len() as u32).to_le_bytes().to_vec();
    payload.extend(packs.iter().flatten());
    envelope::seal(keys, Magic::Epoch, id, &names::epoch(&id), &payload)
}

/// The packs of an epoch.
pub fn decode_epoch(keys: &Keys, name: &str, bytes: &[u8]) -> Result<Vec<ObjectId>> {
    let (_, payload) = envelope::open(keys, Magic::Epoch, name, bytes)?;
    parse_epoch(&payload).ok_or_else(|| Error::damaged(name, "its list of packs makes no sense"))
}

fn parse_epoch(payload: &[u8]) -> Option<Vec<ObjectId>> {
    let mut fields = Fields(payload);
    let count = fields.u32()? as usize;
    if count > EPOCH_PACKS_MAX || fields.0.len() != count * size_of::<ObjectId>() {
        return None;
    }
    (0..count).map(|_| fields.array()).collect()
}

/// The payload of a challenge and of a void, as JSON. Which of the two is told by the object's name and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The lease's id, in hex.
    pub lease: String,
    /// Its point.
    #[serde(default)]
    pub point: Option<PointId>,
    /// When it was given.
    pub at: Timestamp,
}

impl Verdict {
    /// Makes the object `name`, a challenge or a void; `salt` is random.
    pub fn encode(&self, keys: &Keys, magic: Magic, name: &str, salt: ObjectId) -> Result<Vec<u8>> {
        let payload = serde_json::to_vec(self).map_err(|_| Error::Internal("verdict"))?;
        envelope::seal(keys, magic, salt, name, &payload)
    }

    pub fn decode(keys: &Keys, magic: Magic, name: &str, bytes: &[u8]) -> Result<Self> {
        if bytes.len() > VERDICT_BYTES_MAX {
            return Err(Error::damaged(name, "it is longer than any such object"));
        }
        let (_, payload) = envelope::open(keys, magic, name, bytes)?;
        serde_json::from_slice(&payload).map_err(|error| Error::damaged(name, error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::crypto::{GenerationSecrets, Secrets};
    use zeroize::Zeroizing;

    fn keys() -> Keys {
        let secrets = GenerationSecrets { data_key: Zeroizing::new([1; 32]), signing_seed: Zeroizing::new([2; 32]) };
        Keys::new([7; 16], &Secrets::new(secrets)).unwrap()
    }

    #[test]
    fn an_epoch_comes_back_and_no_byte_of_it_can_be_changed() {
        let (keys, name) = (keys(), names::epoch(&[9; 16]));
        let bytes = encode_epoch(&keys, [9; 16], &[[1; 16], [2; 16]]).unwrap();
        assert_eq!(decode_epoch(&keys, &name, &bytes).unwrap(), [[1; 16], [2; 16]]);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(decode_epoch(&keys, &name, &wrong).is_err(), "byte {at}");
        }
        assert!(parse_epoch(&[255, 255, 255, 255]).is_none());
        assert!(parse_epoch(&[1, 0, 0, 0, 5]).is_none());
    }

    #[test]
    fn a_void_is_no_challenge_and_of_one_lease_only() {
        let keys = keys();
        let verdict = Verdict { lease: hex::encode([3; 16]), point: None, at: Timestamp::UNIX_EPOCH };
        let name = names::challenge(&[3; 16]);
        let bytes = verdict.encode(&keys, Magic::Challenge, &name, [5; 16]).unwrap();
        assert_eq!(Verdict::decode(&keys, Magic::Challenge, &name, &bytes).unwrap(), verdict);
        assert!(Verdict::decode(&keys, Magic::Void, &name, &bytes).is_err());
        assert!(Verdict::decode(&keys, Magic::Challenge, &names::challenge(&[4; 16]), &bytes).is_err());
    }
}
