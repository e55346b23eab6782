//! The repository's configuration, fixed at its creation.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::BLOCK_BYTES;
use super::chunker::ChunkRule;
use super::crypto::Keys;
use super::envelope::{self, Header, Magic};
use super::names::{self, ObjectId};
use crate::error::{Error, Result};

/// Smallest and largest average chunk.
pub const CHUNK_AVERAGE_BYTES_MIN: u32 = 64 * 1024;
/// See [`CHUNK_AVERAGE_BYTES_MIN`].
pub const CHUNK_AVERAGE_BYTES_MAX: u32 = 1 << 20;
/// A pack is closed when it reaches the configured size, which is at least this.
pub const PACK_BYTES_MIN: u32 = 64 * 1024;
/// Largest configured pack size.
pub const PACK_BYTES_MAX: u32 = 64 << 20;
/// Longest config object.
pub const CONFIG_BYTES_MAX: u64 = 64 * 1024;

/// How disks are cut into chunks. All lengths in bytes.
#[allow(clippy::struct_field_names)] // the unit is part of the stored name
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkConfig {
    pub average_bytes: u32,
    pub minimum_bytes: u32,
    pub maximum_bytes: u32,
    pub zero_run_bytes: u32,
}

impl ChunkConfig {
    /// The rule for an average: a quarter at least, one and a half at most.
    pub fn for_average(average_bytes: u32) -> Result<Self> {
        let within = (CHUNK_AVERAGE_BYTES_MIN..=CHUNK_AVERAGE_BYTES_MAX).contains(&average_bytes);
        if !within || !average_bytes.is_power_of_two() {
            return Err(Error::Limit { what: "average chunk in bytes", value: u64::from(average_bytes) });
        }
        Ok(Self {
            average_bytes,
            minimum_bytes: average_bytes / 4,
            maximum_bytes: average_bytes / 2 * 3,
            zero_run_bytes: 16 * BLOCK_BYTES as u32,
        })
    }

    /// The cutter's rule.
    pub fn rule(&self) -> ChunkRule {
        let blocks = |bytes: u32| bytes as usize / BLOCK_BYTES;
        ChunkRule::new(
            blocks(self.average_bytes),
            blocks(self.minimum_bytes),
            blocks(self.maximum_bytes),
            blocks(self.zero_run_bytes),
        )
    }
}

/// The payload of the object `config`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub created_at: Timestamp,
    pub chunk: ChunkConfig,
    pub pack_bytes: u32,
    /// Ed25519, hex.
    pub signing_public_key: String,
    /// BLAKE3-256 in hex of the unencrypted documents, by object name.
    pub documents: BTreeMap<String, String>,
}

impl Config {
    pub fn encode(&self, keys: &Keys, id: ObjectId) -> Result<Vec<u8>> {
        let payload = serde_json::to_vec(self).map_err(|_| Error::Internal("configuration"))?;
        envelope::seal(keys, Magic::Config, id, names::CONFIG, &payload)
    }

    pub fn decode(keys: &Keys, bytes: &[u8]) -> Result<Self> {
        if Header::decode(Magic::Config, bytes, names::CONFIG)?.flags != 0 {
            return Err(Error::damaged(names::CONFIG, "it is not sealed with the repository's first keys"));
        }
        let (_, payload) = envelope::open(keys, Magic::Config, names::CONFIG, bytes)?;
        let config: Self =
            serde_json::from_slice(&payload).map_err(|error| Error::damaged(names::CONFIG, error.to_string()))?;
        let newest = ChunkConfig::for_average(config.chunk.average_bytes)?;
        let earlier = ChunkConfig { maximum_bytes: newest.average_bytes * 4, ..newest };
        if ![newest, earlier].contains(&config.chunk) {
            return Err(Error::damaged(names::CONFIG, "its chunk lengths do not fit together"));
        }
        check_pack_bytes(config.pack_bytes)?;
        Ok(config)
    }

    /// The key manifests are signed with.
    pub fn public_key(&self) -> Result<[u8; 32]> {
        let mut key = [0; 32];
        hex::decode_to_slice(&self.signing_public_key, &mut key)
            .map_err(|_| Error::damaged(names::CONFIG, "its public key is not one"))?;
        Ok(key)
    }
}

/// Is this a pack size this version makes?
pub fn check_pack_bytes(value: u32) -> Result<()> {
    if (PACK_BYTES_MIN..=PACK_BYTES_MAX).contains(&value) {
        return Ok(());
    }
    Err(Error::Limit { what: "pack size in bytes", value: u64::from(value) })
}
