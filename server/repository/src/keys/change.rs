//! Changing who can open a repository. Objects are only created and deleted, in an order that leaves, whatever step is
//! the last one taken, a slot that opens everything:
//!
//! | step | passphrase | recovery key | rotation |
//! |---|---|---|---|
//! | 1 | new passphrase slot | new recovery slot | new passphrase slot and new recovery slot, both with all generations |
//! | 2 | list again: a slot nobody knew of means that somebody else is at it; take back step 1 and fail | same | same |
//! | 3 | delete the old passphrase slots | delete the old recovery slots | delete all old slots |
//!
//! Nothing is sealed with a new generation before step 2 was passed. Who starts from a slot that lacks the newest
//! generation is refused: the newer keys would be lost with the slots deleted.

use secrecy::SecretString;
use std::collections::HashSet;
use zeroize::Zeroizing;

use super::{KEY_SLOTS_MAX, Unlocked, blocking, newest_of, read_slot, unlock};
use crate::backend::{ObjectBackend, ObjectInfo};
use crate::environment::{Randomness, random};
use crate::error::{Error, Result};
use crate::format::crypto::{Argon2Cost, GenerationSecrets, Secrets};
use crate::format::keyslot::{self, Opener, RecoveryKey, SlotKind};
use crate::format::names;
use crate::repository::Repository;

/// What becomes of recovery keys that were printed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldRecoveryKeys {
    /// They open nothing any more.
    Replace,
    /// They go on opening the repository.
    Keep,
}

impl Repository {
    /// Replaces the passphrase. `secret` is the old one, or the recovery key when that was forgotten.
    pub async fn change_passphrase(&self, secret: &SecretString, new: &SecretString, cost: Argon2Cost) -> Result<()> {
        let mut change = Change::begin(self, secret).await?;
        let secrets = change.unlocked.secrets.clone();
        change.add_passphrase(new, cost, secrets).await?;
        change.finish(|slot| slot == Some(SlotKind::Passphrase)).await
    }

    /// Makes a recovery key, which is not stored anywhere. `secret` is the passphrase or a recovery key.
    pub async fn new_recovery_key(&self, secret: &SecretString, old: OldRecoveryKeys) -> Result<RecoveryKey> {
        let mut change = Change::begin(self, secret).await?;
        let secrets = change.unlocked.secrets.clone();
        let key = change.add_recovery(&secrets).await?;
        change.finish(|slot| slot == Some(SlotKind::Recovery) && old == OldRecoveryKeys::Replace).await?;
        Ok(key)
    }

    /// Makes a new generation of keys for what is written from now on; nothing is written again. `secret` is the
    /// passphrase or a recovery key, `passphrase` the one that is to hold from now on (it may be the same). All other
    /// passphrases and recovery keys open nothing any more. Other processes that have the repository open go on with
    /// the old keys until they meet an object of the new generation, see [`Error::KeysRotated`].
    pub async fn rotate_keys(
        &self,
        secret: &SecretString,
        passphrase: &SecretString,
        cost: Argon2Cost,
    ) -> Result<RecoveryKey> {
        let mut change = Change::begin(self, secret).await?;
        let mut secrets = change.unlocked.secrets.clone();
        let data_key = Zeroizing::new(random(change.randomness)?);
        let signing_seed = Zeroizing::new(random(change.randomness)?);
        secrets.push(GenerationSecrets { data_key, signing_seed })?;
        change.add_passphrase(passphrase, cost, secrets.clone()).await?;
        let key = change.add_recovery(&secrets).await?;
        change.finish(|_| true).await?;
        self.core.keys.learn(&secrets)?;
        Ok(key)
    }

    /// Removes a slot. `secret` must open another one, which stays.
    pub async fn remove_key_slot(&self, secret: &SecretString, id: &str) -> Result<()> {
        let change = Change::begin(self, secret).await?;
        let name = format!("{}{id}", names::KEYS);
        if change.unlocked.slot == name {
            return Err(Error::KeySlotInUse { id: id.to_owned() });
        }
        if !change.before.iter().any(|object| object.name == name) {
            return Err(Error::NoSuchKeySlot { place: self.place(), id: id.to_owned() });
        }
        Ok(change.backend.delete(&name).await?)
    }
}

/// A change under way.
struct Change<'a> {
    backend: &'a dyn ObjectBackend,
    randomness: &'a dyn Randomness,
    unlocked: Unlocked,
    /// Slots there were at the start.
    before: Vec<ObjectInfo>,
    /// Slots made.
    made: Vec<String>,
}

impl<'a> Change<'a> {
    async fn begin(repository: &'a Repository, secret: &SecretString) -> Result<Self> {
        let core = &repository.core;
        let (backend, randomness) = (&*core.backend, &*core.environment.randomness);
        // The list first: a slot that appears while the passphrase is tried belongs to somebody else.
        let before = backend.list(names::KEYS).await?;
        let unlocked = unlock(backend, secret).await?;
        if unlocked.repository != core.keys.repository {
            return Err(Error::damaged(unlocked.slot, "it belongs to another repository"));
        }
        let newest = unlocked.secrets.newest();
        if newest_of(&before) > newest {
            let generation = newest_of(&before);
            return Err(Error::KeysRotated { object: names::KEYS.to_owned(), generation, newest });
        }
        core.keys.learn(&unlocked.secrets)?;
        Ok(Self { backend, randomness, unlocked, before, made: Vec::new() })
    }

    async fn add_passphrase(&mut self, passphrase: &SecretString, cost: Argon2Cost, secrets: Secrets) -> Result<()> {
        let (repository, passphrase) = (self.unlocked.repository, passphrase.clone());
        let (id, salt) = (random(self.randomness)?, random(self.randomness)?);
        let slot = blocking("passphrase derivation", move || {
            keyslot::encode(repository, id, salt, &Opener::Passphrase(&passphrase, cost), &secrets)
        });
        self.put(names::key(&id), slot.await?).await
    }

    async fn add_recovery(&mut self, secrets: &Secrets) -> Result<RecoveryKey> {
        let key = RecoveryKey::new(random(self.randomness)?);
        let (id, salt) = (random(self.randomness)?, random(self.randomness)?);
        let slot = keyslot::encode(self.unlocked.repository, id, salt, &Opener::Recovery(&key), secrets)?;
        self.put(names::key(&id), slot).await?;
        Ok(key)
    }

    async fn put(&mut self, name: String, slot: Vec<u8>) -> Result<()> {
        let slots = self.before.len() + self.made.len() + 1;
        if slots > KEY_SLOTS_MAX {
            return Err(Error::Limit { what: "number of key slots", value: slots as u64 });
        }
        self.made.push(name.clone());
        if let Err(error) = self.backend.put_new(&name, vec![slot.into()]).await {
            self.take_back().await;
            return Err(error.into());
        }
        Ok(())
    }

    /// Deletes those of the old slots that `replaces` says so of, by kind; `None` is a damaged one.
    async fn finish(self, replaces: impl Fn(Option<SlotKind>) -> bool) -> Result<()> {
        let own: HashSet<&str> =
            self.made.iter().map(String::as_str).chain(self.before.iter().map(|object| object.name.as_str())).collect();
        let after = self.backend.list(names::KEYS).await?;
        let all_made = self.made.iter().all(|name| after.iter().any(|object| object.name == *name));
        if !all_made || after.iter().any(|object| !own.contains(object.name.as_str())) {
            self.take_back().await;
            return Err(Error::KeysBusy { place: self.backend.place() });
        }
        for object in &self.before {
            let kind = match read_slot(self.backend, &object.name, object.size).await {
                Ok(slot) => Some(slot.kind),
                Err(error) if error.is_damage() => None,
                Err(error) => return Err(error),
            };
            if replaces(kind) {
                self.backend.delete(&object.name).await?;
            }
        }
        Ok(())
    }

    /// The recovery slot of a rotation goes before its passphrase slot, and stays with it: alone, it would hold a newest
    /// generation for which nobody has a key.
    async fn take_back(&self) {
        for name in self.made.iter().rev() {
            if let Err(error) = self.backend.delete(name).await {
                tracing::warn!(slot = name, %error, "a key slot of a change that failed could not be removed");
                return;
            }
        }
    }
}
