//! Key slots as objects: which there are, opening the repository with one, and learning of newer generations of keys.
//!
//! Owns: the objects under `keys/`. Must never: keep a passphrase, let a secret into an error, or take a slot of an
//! older generation where one of a newer opens too. Next: `change` (passphrase, recovery key, rotation, removal).

mod change;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::backend::{ObjectBackend, ObjectInfo};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::format::crypto::Secrets;
use crate::format::keyslot::{self, KEY_SLOT_BYTES_MAX, KeySlot, RecoveryKey, SlotKind};
use crate::format::names;
use crate::repository::Repository;

pub use change::OldRecoveryKeys;

/// Most key slots that are tried.
pub const KEY_SLOTS_MAX: usize = 32;

/// A key slot, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeySlotInfo {
    /// Its id: 32 hex digits, the last part of its name.
    pub id: String,
    /// What opens it; `None` when it is too damaged to tell.
    pub kind: Option<SlotKind>,
    /// Newest generation of keys in it. A slot with an older one than others have does not open what was written since.
    pub generation: u8,
    /// What is wrong with it.
    pub damage: Option<String>,
}

/// What opened a repository.
pub(crate) struct Unlocked {
    pub secrets: Secrets,
    /// The id of the repository, as the slot has it.
    pub repository: names::ObjectId,
    /// Name of the slot.
    pub slot: String,
}

impl Repository {
    /// The key slots there are, newest generation first.
    pub async fn key_slots(&self) -> Result<Vec<KeySlotInfo>> {
        let backend = &*self.core.backend;
        let mut slots = Vec::new();
        for object in list(backend).await? {
            let id = object.name.trim_start_matches(names::KEYS).to_owned();
            let generation = keyslot::newest_by_length(object.size).unwrap_or_default();
            slots.push(match read_slot(backend, &object.name, object.size).await {
                Ok(slot) => KeySlotInfo { id, kind: Some(slot.kind), generation: slot.newest, damage: None },
                Err(error) if error.is_damage() => {
                    KeySlotInfo { id, kind: None, generation, damage: Some(error.to_string()) }
                }
                Err(error) => return Err(error),
            });
        }
        Ok(slots)
    }

    /// Does it hold the newest generation of keys there is? One list, no secret: false after somebody else rotated them.
    pub async fn keys_are_current(&self) -> Result<bool> {
        Ok(newest_of(&list(&*self.core.backend).await?) <= self.core.keys.newest())
    }

    /// Takes up the keys made by a rotation since this repository was opened: afterwards [`Error::KeysRotated`] is gone.
    pub async fn refresh_keys(&self, secret: &SecretString) -> Result<()> {
        let unlocked = unlock(&*self.core.backend, secret).await?;
        if unlocked.repository != self.core.keys.repository {
            return Err(Error::damaged(unlocked.slot, "it belongs to another repository"));
        }
        self.core.keys.learn(&unlocked.secrets)
    }
}

impl Core {
    /// An error about keys that are not known here: is it that they were rotated, or that the header is damaged? The
    /// lengths of the key slots tell which generations there are.
    pub async fn settle_generation(&self, error: Error) -> Error {
        let Error::KeysRotated { object, generation, newest } = error else { return error };
        match list(&*self.backend).await {
            Err(error) => error,
            Ok(slots) if newest_of(&slots) >= generation => Error::KeysRotated { object, generation, newest },
            Ok(_) => Error::damaged(object, "its header names a generation of keys that never was"),
        }
    }
}

/// Slots with the newest generation come first: an older one would open only part of the repository.
async fn list(backend: &dyn ObjectBackend) -> Result<Vec<ObjectInfo>> {
    let mut slots = backend.list(names::KEYS).await?;
    slots.sort_by_key(|object| std::cmp::Reverse(keyslot::newest_by_length(object.size)));
    slots.truncate(KEY_SLOTS_MAX);
    Ok(slots)
}

fn newest_of(slots: &[ObjectInfo]) -> u8 {
    slots.iter().filter_map(|object| keyslot::newest_by_length(object.size)).max().unwrap_or_default()
}

/// What the slots that did not open were.
#[derive(Default)]
struct Tried {
    /// Sound slots of each kind.
    passphrase: usize,
    recovery: usize,
    /// The first damaged one: name and reason.
    damage: Option<(String, String)>,
}

/// Tries the passphrase, or recovery key, on every key slot.
pub(crate) async fn unlock(backend: &dyn ObjectBackend, secret: &SecretString) -> Result<Unlocked> {
    let mut tried = Tried::default();
    let recovery = RecoveryKey::parse(secret.expose_secret());
    for object in list(backend).await? {
        let slot = match read_slot(backend, &object.name, object.size).await {
            Err(error @ Error::Backend(_)) => return Err(error),
            Err(error) => {
                tried.damage.get_or_insert((object.name, reason(&error)));
                continue;
            }
            Ok(slot) => slot,
        };
        let repository = slot.header.repository;
        let opened = match (slot.kind, &recovery) {
            (SlotKind::Recovery, found) => {
                tried.recovery += 1;
                let Ok(Some(key)) = found else { continue };
                slot.open_with_recovery_key(key)?
            }
            (SlotKind::Passphrase, _) => {
                tried.passphrase += 1;
                let secret = secret.clone();
                blocking("passphrase derivation", move || slot.open_with_passphrase(&secret)).await?
            }
        };
        if let Some(secrets) = opened {
            return Ok(Unlocked { secrets, repository, slot: object.name });
        }
    }
    Err(tried.why_not(backend.place(), recovery))
}

impl Tried {
    /// A damaged slot may be the one that would have opened; but if a sound one of that kind did not, the secret is wrong.
    fn why_not(self, place: String, recovery: Result<Option<RecoveryKey>>) -> Error {
        let (kind, sound, other) = match recovery {
            Err(mistyped) => return mistyped, // and no passphrase that happens to look like one
            Ok(Some(_)) => ("recovery key", self.recovery, self.passphrase),
            Ok(None) => ("passphrase", self.passphrase, self.recovery),
        };
        match (sound, self.damage) {
            (0, Some((object, reason))) => Error::KeySlotDamaged { object, reason },
            (0, None) => Error::NoKeySlot { place, kind, other: other > 0 },
            _ if kind == "passphrase" => Error::WrongPassphrase { place },
            _ => Error::WrongRecoveryKey { place },
        }
    }
}

fn reason(error: &Error) -> String {
    match error {
        Error::Damaged { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

/// Reads a key slot.
pub(crate) async fn read_slot(backend: &dyn ObjectBackend, name: &str, size: u64) -> Result<KeySlot> {
    if size > KEY_SLOT_BYTES_MAX as u64 {
        return Err(Error::damaged(name, "it does not have the length of a key slot"));
    }
    let slot = KeySlot::decode(name, &backend.get(name, None).await?)?;
    if names::last_part_as_id(name) != Some(slot.header.id) {
        return Err(Error::damaged(name, "its name is not that in its header"));
    }
    Ok(slot)
}

/// Work that takes long, away from the tasks that serve others.
pub(crate) async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Internal(step)))
}
