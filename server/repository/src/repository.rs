//! Making and opening a repository, listing and deleting points.

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::backend::{BackendErrorKind, ObjectBackend};
use crate::core::Core;
use crate::environment::{Environment, random};
use crate::error::{Error, Result};
use crate::format::config::{CONFIG_BYTES_MAX, ChunkConfig, Config, check_pack_bytes};
use crate::format::crypto::{Argon2Cost, GenerationSecrets, Keys, Secrets};
use crate::format::envelope::{Header, Magic};
use crate::format::keyslot::{self, Opener, RecoveryKey};
use crate::format::names::{self, ObjectId};
use crate::keys::{blocking, unlock};
use crate::point::{DamagedPoint, Point, PointId, PointList, PointSummary};

/// Manifests read at the same time.
const MANIFESTS_AT_ONCE: usize = 8;

/// How a repository is made.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// Average chunk in bytes: a power of two, 64 KiB to 1 MiB.
    pub chunk_average_bytes: u32,
    /// Size in bytes at which a pack is closed.
    pub pack_bytes: u32,
    /// Cost of guessing the passphrase.
    pub passphrase_cost: Argon2Cost,
    /// Written into the repository.
    pub created_at: Timestamp,
}

impl InitOptions {
    /// The usual: 64 KiB chunks, 32 MiB packs. Chunks of 128 KiB take half the memory for the index and a fifth more space
    /// for each increment: the better choice beyond some 40 TB.
    pub fn new(created_at: Timestamp) -> Self {
        let passphrase_cost = Argon2Cost::default();
        Self { chunk_average_bytes: 64 * 1024, pack_bytes: 32 << 20, passphrase_cost, created_at }
    }
}

/// Objects and bytes by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Number of packs.
    pub packs: u64,
    /// Bytes in packs.
    pub pack_bytes: u64,
    /// Bytes in index segments.
    pub index_bytes: u64,
    /// Number of points.
    pub points: u64,
    /// Bytes in manifests.
    pub point_bytes: u64,
    /// Bytes in what serves giving space back: leases, epochs, challenges, voids.
    pub upkeep_bytes: u64,
}

impl Usage {
    /// All of it, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.pack_bytes + self.index_bytes + self.point_bytes + self.upkeep_bytes
    }
}

/// An open repository. Clones share it.
#[derive(Clone)]
pub struct Repository {
    pub(crate) core: Arc<Core>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("id", &self.id()).field("place", &self.core.backend.place()).finish()
    }
}

impl Repository {
    /// Makes a new repository in an empty location. The recovery key is not stored anywhere.
    pub async fn init(
        backend: Arc<dyn ObjectBackend>,
        passphrase: &SecretString,
        options: InitOptions,
    ) -> Result<(Self, RecoveryKey)> {
        Self::init_in(backend, passphrase, options, Environment::default()).await
    }

    /// The same with given randomness and threads.
    pub async fn init_in(
        backend: Arc<dyn ObjectBackend>,
        passphrase: &SecretString,
        options: InitOptions,
        environment: Environment,
    ) -> Result<(Self, RecoveryKey)> {
        let chunk = ChunkConfig::for_average(options.chunk_average_bytes)?;
        check_pack_bytes(options.pack_bytes)?;
        if !backend.list("").await?.is_empty() {
            return Err(Error::NotEmpty { place: backend.place() });
        }
        let randomness = &*environment.randomness;
        let repository = *Uuid::from_bytes(random(randomness)?).as_bytes();
        let secrets = Secrets::new(GenerationSecrets {
            data_key: Zeroizing::new(random(randomness)?),
            signing_seed: Zeroizing::new(random(randomness)?),
        });
        let recovery = RecoveryKey::new(random(randomness)?);
        let (slot_id, slot_salt) = (random(randomness)?, random(randomness)?);
        let cost = options.passphrase_cost;
        let (passphrase, slot_secrets) = (passphrase.clone(), secrets.clone());
        let by_passphrase = blocking("passphrase derivation", move || {
            keyslot::encode(repository, slot_id, slot_salt, &Opener::Passphrase(&passphrase, cost), &slot_secrets)
        });
        put(&*backend, &names::key(&slot_id), by_passphrase.await?).await?;
        let (slot_id, slot_salt) = (random(randomness)?, random(randomness)?);
        let by_recovery = keyslot::encode(repository, slot_id, slot_salt, &Opener::Recovery(&recovery), &secrets)?;
        put(&*backend, &names::key(&slot_id), by_recovery).await?;

        let keys = Keys::new(repository, &secrets)?;
        let mut documents = BTreeMap::new();
        for (name, text) in crate::documents::all() {
            put(&*backend, name, text.as_bytes().to_vec()).await?;
            documents.insert(name.to_owned(), blake3::hash(text.as_bytes()).to_hex().to_string());
        }
        let config = Config {
            created_at: options.created_at,
            chunk,
            pack_bytes: options.pack_bytes,
            signing_public_key: hex::encode(keys.public_key(0).unwrap_or_default()),
            documents,
        };
        put(&*backend, names::CONFIG, config.encode(&keys, random(randomness)?)?).await?;
        Ok((Self { core: Core::new(backend, keys, config, environment)? }, recovery))
    }

    /// Opens a repository by its passphrase, or by its recovery key in the passphrase's place.
    pub async fn open(backend: Arc<dyn ObjectBackend>, passphrase: &SecretString) -> Result<Self> {
        Self::open_in(backend, passphrase, Environment::default()).await
    }

    /// The same with given randomness and threads.
    pub async fn open_in(
        backend: Arc<dyn ObjectBackend>,
        passphrase: &SecretString,
        environment: Environment,
    ) -> Result<Self> {
        let place = backend.place();
        let bytes = read_config(&*backend).await?;
        let header = Header::decode(Magic::Config, &bytes, names::CONFIG)?;
        let unlocked = unlock(&*backend, passphrase).await?;
        if unlocked.repository != header.repository {
            return Err(Error::damaged(names::CONFIG, "it names another repository than the key slots do"));
        }
        let keys = Keys::new(header.repository, &unlocked.secrets)?;
        let config = Config::decode(&keys, &bytes)?;
        if Some(config.public_key()?) != keys.public_key(0) {
            return Err(Error::damaged(names::CONFIG, format!("it does not fit the keys in {place}")));
        }
        Ok(Self { core: Core::new(backend, keys, config, environment)? })
    }

    /// The repository's id, fixed at its creation.
    pub fn id(&self) -> Uuid {
        Uuid::from_bytes(self.core.keys.repository)
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        self.core.config.created_at
    }

    /// The location, for messages.
    pub fn place(&self) -> String {
        self.core.backend.place()
    }

    /// All points, oldest first, and the manifests that cannot be read.
    pub async fn points(&self) -> Result<PointList> {
        let mut list = PointList::default();
        let objects = self.core.backend.list(names::POINTS).await?;
        // After the manifests: a void is older than a manifest that came too late.
        let voids = self.core.backend.list(names::VOIDS).await?;
        let voids: HashSet<ObjectId> = voids.iter().filter_map(|void| names::last_part_as_id(&void.name)).collect();
        let voids = &voids;
        let mut summaries =
            stream::iter(objects).map(|object| self.summarise(object.name, voids)).buffered(MANIFESTS_AT_ONCE);
        while let Some((object, id, summary)) = summaries.next().await {
            match summary {
                Ok(summary) => list.points.push(summary),
                Err(Error::NoSuchPoint(_)) => {} // deleted meanwhile
                Err(error @ (Error::Backend(_) | Error::KeysRotated { .. })) => return Err(error),
                Err(error) => list.damaged.push(DamagedPoint { object, id, reason: error.to_string() }),
            }
        }
        list.points.sort_by_key(|point| (point.taken_at, point.id));
        Ok(list)
    }

    async fn summarise(
        &self,
        object: String,
        voids: &HashSet<ObjectId>,
    ) -> (String, Option<PointId>, Result<PointSummary>) {
        let id = names::parse_point(&object);
        let summary = match id {
            Some(id) => self.summary(id, voids).await,
            None => Err(Error::damaged(&object, "its name is not that of a restore point")),
        };
        (object, id, summary)
    }

    async fn summary(&self, id: PointId, voids: &HashSet<ObjectId>) -> Result<PointSummary> {
        let known = self.core.summaries.lock().get(&id).cloned();
        let (summary, lease) = if let Some(known) = known {
            known
        } else {
            let point = self.core.written_manifest(id).await?.0;
            let known = (point.summary(), point.lease_id());
            self.core.summaries.lock().insert(id, known.clone());
            known
        };
        match lease.filter(|lease| voids.contains(lease)) {
            Some(lease) if self.core.is_void(&lease).await? => Err(Error::NoSuchPoint(id)),
            _ => Ok(summary),
        }
    }

    /// One point's manifest.
    pub async fn point(&self, id: PointId) -> Result<Point> {
        Ok(self.core.manifest(id).await?.0)
    }

    /// Removes a point's manifest: it is gone from lists at once. Its bytes stay until space is given back.
    pub async fn delete_point(&self, id: PointId) -> Result<()> {
        let name = names::point(id);
        match self.core.backend.stat(&name).await {
            Err(error) if error.kind == BackendErrorKind::NotFound => return Err(Error::NoSuchPoint(id)),
            other => other?,
        };
        self.core.backend.delete(&name).await?;
        self.core.summaries.lock().remove(&id);
        Ok(())
    }

    /// What the repository's objects come to.
    pub async fn usage(&self) -> Result<Usage> {
        let backend = &self.core.backend;
        let mut usage = Usage::default();
        for object in backend.list(names::PACKS).await? {
            usage.packs += 1;
            usage.pack_bytes += object.size;
        }
        usage.index_bytes = backend.list(names::INDEX).await?.iter().map(|object| object.size).sum();
        for object in backend.list(names::POINTS).await? {
            usage.points += 1;
            usage.point_bytes += object.size;
        }
        for prefix in [names::LEASES, names::EPOCHS, names::CHALLENGES, names::VOIDS] {
            usage.upkeep_bytes += backend.list(prefix).await?.iter().map(|object| object.size).sum::<u64>();
        }
        Ok(usage)
    }
}

async fn put(backend: &dyn ObjectBackend, name: &str, bytes: Vec<u8>) -> Result<()> {
    Ok(backend.put_new(name, vec![bytes.into()]).await?)
}

async fn read_config(backend: &dyn ObjectBackend) -> Result<bytes::Bytes> {
    let not_one = |reason| Error::NotARepository { place: backend.place(), reason };
    match backend.stat(names::CONFIG).await {
        Ok(object) if object.size > CONFIG_BYTES_MAX => {
            return Err(Error::damaged(names::CONFIG, "it is longer than any configuration"));
        }
        Ok(_) => {}
        Err(error) if matches!(error.kind, BackendErrorKind::NotFound | BackendErrorKind::NoLocation) => {
            let objects = match backend.list("").await {
                Err(error) if error.kind == BackendErrorKind::NoLocation => {
                    return Err(not_one("there is no such place"));
                }
                other => other?,
            };
            let is_kept = |object: &crate::backend::ObjectInfo| object.name.starts_with(names::PACKS);
            return Err(if objects.is_empty() {
                not_one("it is empty")
            } else if objects.iter().any(is_kept) {
                Error::Missing { object: names::CONFIG.to_owned() }
            } else {
                not_one("it has no configuration, or its creation was not finished")
            });
        }
        Err(error) => return Err(error.into()),
    }
    Ok(backend.get(names::CONFIG, None).await?)
}
