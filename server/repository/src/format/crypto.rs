//! Keys and their derivation; sealing and opening with AES-256-GCM.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::{Zeroize, Zeroizing};

use super::names::ObjectId;
use super::{ChunkId, ChunkKind};
use crate::error::{Error, Result};

/// Length of the tag AES-GCM appends.
pub const TAG_BYTES: usize = 16;
/// Most memory a key slot may ask argon2id for: 1 GiB.
pub const ARGON2_MEMORY_KIB_MAX: u32 = 1 << 20;
/// Most passes a key slot may ask for.
pub const ARGON2_PASSES_MAX: u32 = 64;
/// Most lanes a key slot may ask for.
pub const ARGON2_LANES_MAX: u32 = 16;

/// Secrets of a repository: what a key slot wraps.
#[derive(Clone)]
pub struct Secrets {
    /// Everything that protects data is derived from it.
    pub data_key: Zeroizing<[u8; 32]>,
    /// Seed of the Ed25519 key that signs manifests.
    pub signing_seed: Zeroizing<[u8; 32]>,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256.
pub fn hkdf(secret: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    let info = [info];
    let okm = prk.expand(&info, Length(32)).map_err(|_| Error::Internal("key derivation"))?;
    okm.fill(key.as_mut()).map_err(|_| Error::Internal("key derivation"))?;
    Ok(key)
}

/// Argon2id, version 0x13. The cost must be within the limits above.
pub fn argon2id(passphrase: &[u8], salt: &[u8], cost: Argon2Cost) -> Result<Zeroizing<[u8; 32]>> {
    cost.check()?;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|_| Error::Limit { what: "argon2 cost", value: u64::from(cost.memory_kib) })?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, key.as_mut())
        .map_err(|_| Error::Internal("passphrase derivation"))?;
    Ok(key)
}

/// Cost of guessing a passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Argon2Cost {
    /// 64 MiB, three passes: about 0.2 s on one core of 2020.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl Argon2Cost {
    pub fn check(&self) -> Result<()> {
        let within = |what, value: u32, max| {
            if (1..=max).contains(&value) { Ok(()) } else { Err(Error::Limit { what, value: u64::from(value) }) }
        };
        within("argon2 memory in KiB", self.memory_kib, ARGON2_MEMORY_KIB_MAX)?;
        within("argon2 passes", self.passes, ARGON2_PASSES_MAX)?;
        within("argon2 lanes", self.lanes, ARGON2_LANES_MAX)
    }
}

/// An AES-256-GCM key that seals each nonce once. Nonces are a little-endian counter and eight zero bytes.
pub struct SealKey(LessSafeKey);

impl SealKey {
    pub fn new(key: &[u8; 32]) -> Result<Self> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::Internal("cipher set-up"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    fn nonce(counter: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Ciphertext and tag.
    pub fn seal(&self, counter: u32, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.seal_into(counter, aad, plain, &mut out)?;
        Ok(out)
    }

    /// The same into `out`, which becomes as long as it has to be.
    pub fn seal_into(&self, counter: u32, aad: &[u8], plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.resize(plain.len() + TAG_BYTES, 0);
        let (cipher, tag) = out.split_at_mut(plain.len());
        self.0
            .seal_out_of_place_scatter(Self::nonce(counter), Aad::from(aad), plain, cipher, &[], tag)
            .map_err(|_| Error::Internal("encryption"))
    }

    /// Opens ciphertext and tag into `plain`, which becomes as long as the ciphertext. `None` when it is not authentic.
    pub fn open_into(&self, counter: u32, aad: &[u8], sealed: &[u8], plain: &mut Vec<u8>) -> Option<()> {
        let (cipher, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
        plain.resize(cipher.len(), 0);
        let opened = self.0.open_separate_gather(Self::nonce(counter), Aad::from(aad), cipher, tag, plain);
        if opened.is_err() {
            plain.zeroize();
        }
        opened.ok()
    }

    /// The same into a new vector.
    pub fn open(&self, counter: u32, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::new();
        self.open_into(counter, aad, sealed, &mut plain)?;
        Some(plain)
    }
}

/// Keys derived for the life of an open repository.
pub struct Keys {
    pub repository: ObjectId,
    data_key: Zeroizing<[u8; 32]>,
    data_id_key: Zeroizing<[u8; 32]>,
    map_id_key: Zeroizing<[u8; 32]>,
    signer: Ed25519KeyPair,
}

impl Keys {
    pub fn new(repository: ObjectId, secrets: &Secrets) -> Result<Self> {
        let signer = Ed25519KeyPair::from_seed_unchecked(secrets.signing_seed.as_ref())
            .map_err(|_| Error::Internal("signing key"))?;
        Ok(Self {
            repository,
            data_id_key: hkdf(secrets.data_key.as_ref(), &repository, b"stillframe 1 data id")?,
            map_id_key: hkdf(secrets.data_key.as_ref(), &repository, b"stillframe 1 map id")?,
            data_key: secrets.data_key.clone(),
            signer,
        })
    }

    /// Identity of a chunk.
    pub fn chunk_id(&self, kind: ChunkKind, content: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.data_id_key,
            ChunkKind::Map => &self.map_id_key,
        };
        ChunkId(*blake3::keyed_hash(key, content).as_bytes())
    }

    /// The key of one object, by its purpose and random id.
    pub fn object_key(&self, purpose: &str, id: &ObjectId) -> Result<SealKey> {
        let info = format!("stillframe 1 {purpose}");
        SealKey::new(&*hkdf(self.data_key.as_ref(), id, info.as_bytes())?)
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.signer.sign(message).as_ref().to_vec()
    }

    pub fn public_key(&self) -> [u8; 32] {
        self.signer.public_key().as_ref().try_into().unwrap_or_default()
    }
}

/// Is `signature` the signature of `message` by `public_key`?
pub fn signature_holds(public_key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}
