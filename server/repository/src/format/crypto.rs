//! Keys and their derivation; sealing and opening with AES-256-GCM.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use parking_lot::RwLock;
use std::sync::Arc;
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

/// Most generations of keys a repository can have; the newest is then 63.
pub const GENERATIONS_MAX: usize = 64;

/// The secrets of one generation.
#[derive(Clone)]
pub struct GenerationSecrets {
    /// Everything that protects data is derived from it.
    pub data_key: Zeroizing<[u8; 32]>,
    /// Seed of the Ed25519 key that signs manifests.
    pub signing_seed: Zeroizing<[u8; 32]>,
}

/// Secrets of a repository, oldest generation first: what a key slot wraps. There is always one.
#[derive(Clone)]
pub struct Secrets(Vec<GenerationSecrets>);

impl Secrets {
    /// Those of a new repository.
    pub fn new(first: GenerationSecrets) -> Self {
        Self(vec![first])
    }

    /// All of them; `None` when there are none or too many.
    pub fn from_all(all: Vec<GenerationSecrets>) -> Option<Self> {
        (1..=GENERATIONS_MAX).contains(&all.len()).then_some(Self(all))
    }

    /// Adds a generation, which becomes the newest.
    pub fn push(&mut self, next: GenerationSecrets) -> Result<()> {
        if self.0.len() >= GENERATIONS_MAX {
            return Err(Error::Limit { what: "number of key generations", value: self.0.len() as u64 + 1 });
        }
        self.0.push(next);
        Ok(())
    }

    /// Oldest first.
    pub fn all(&self) -> &[GenerationSecrets] {
        &self.0
    }

    /// Number of the newest generation, from 0.
    pub fn newest(&self) -> u8 {
        (self.0.len() - 1) as u8
    }
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

struct Generation {
    data_key: Zeroizing<[u8; 32]>,
    signer: Ed25519KeyPair,
}

impl Generation {
    fn new(secrets: &GenerationSecrets) -> Result<Arc<Self>> {
        let signer = Ed25519KeyPair::from_seed_unchecked(secrets.signing_seed.as_ref())
            .map_err(|_| Error::Internal("signing key"))?;
        Ok(Arc::new(Self { data_key: secrets.data_key.clone(), signer }))
    }
}

/// Keys derived for the life of an open repository. Identities are made with generation 0 for ever, so that chunks are
/// found again after a rotation; everything else with the generation its header names.
pub struct Keys {
    pub repository: ObjectId,
    data_id_key: Zeroizing<[u8; 32]>,
    map_id_key: Zeroizing<[u8; 32]>,
    /// Never shrinks.
    generations: RwLock<Vec<Arc<Generation>>>,
}

impl Keys {
    pub fn new(repository: ObjectId, secrets: &Secrets) -> Result<Self> {
        let first = secrets.all().first().ok_or(Error::Internal("key slot"))?;
        let generations: Result<Vec<_>> = secrets.all().iter().map(Generation::new).collect();
        Ok(Self {
            repository,
            data_id_key: hkdf(first.data_key.as_ref(), &repository, b"stillframe 1 data id")?,
            map_id_key: hkdf(first.data_key.as_ref(), &repository, b"stillframe 1 map id")?,
            generations: RwLock::new(generations?),
        })
    }

    /// Takes up generations made since. The older ones must be those that are known.
    pub fn learn(&self, secrets: &Secrets) -> Result<()> {
        let mut generations = self.generations.write();
        let same = generations.iter().zip(secrets.all()).all(|(own, new)| own.data_key == new.data_key);
        if !same {
            return Err(Error::Internal("taking up keys of another repository"));
        }
        for secrets in secrets.all().iter().skip(generations.len()) {
            generations.push(Generation::new(secrets)?);
        }
        Ok(())
    }

    /// The generation that is written with.
    pub fn newest(&self) -> u8 {
        self.generations.read().len().saturating_sub(1) as u8
    }

    fn generation(&self, number: u8) -> Option<Arc<Generation>> {
        self.generations.read().get(usize::from(number)).cloned()
    }

    /// Identity of a chunk.
    pub fn chunk_id(&self, kind: ChunkKind, content: &[u8]) -> ChunkId {
        let key = match kind {
            ChunkKind::Data => &self.data_id_key,
            ChunkKind::Map => &self.map_id_key,
        };
        ChunkId(*blake3::keyed_hash(key, content).as_bytes())
    }

    /// The key of one object, by its generation, purpose and random id. `object` gives its name for errors.
    pub fn object_key(
        &self,
        generation: u8,
        purpose: &str,
        id: &ObjectId,
        object: impl FnOnce() -> String,
    ) -> Result<SealKey> {
        let Some(keys) = self.generation(generation) else {
            return Err(Error::KeysRotated { object: object(), generation, newest: self.newest() });
        };
        let info = format!("stillframe 1 {purpose}");
        SealKey::new(&*hkdf(keys.data_key.as_ref(), id, info.as_bytes())?)
    }

    /// Ed25519, 64 bytes.
    pub fn sign(&self, generation: u8, message: &[u8]) -> Result<Vec<u8>> {
        let keys = self.generation(generation).ok_or(Error::Internal("signing"))?;
        Ok(keys.signer.sign(message).as_ref().to_vec())
    }

    /// Is `signature` that of `message` by the signing key of that generation?
    pub fn signature_holds(&self, generation: u8, message: &[u8], signature: &[u8]) -> bool {
        let public_key = self.public_key(generation);
        public_key.is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok())
    }

    /// Of the signing key of that generation.
    pub fn public_key(&self, generation: u8) -> Option<[u8; 32]> {
        self.generation(generation)?.signer.public_key().as_ref().try_into().ok()
    }
}
