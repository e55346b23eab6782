//! Opening: passphrases, recovery keys, and places that hold no repository.

use bytes::Bytes;
use repository::{Error, MemoryBackend, ObjectBackend, Repository};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;

use crate::support::*;

async fn repository() -> (MemoryBackend, SecretString) {
    let memory = MemoryBackend::new();
    let (_, key) = Repository::init(Arc::new(memory.clone()), &passphrase(), options()).await.unwrap();
    (memory, key.text())
}

async fn open(memory: &MemoryBackend, secret: &str) -> Result<Repository, Error> {
    Repository::open(Arc::new(memory.clone()), &SecretString::from(secret)).await
}

#[tokio::test]
async fn the_passphrase_and_the_recovery_key_open() {
    let (memory, key) = repository().await;
    let id = open(&memory, PASSPHRASE).await.unwrap().id();
    let typed = key.expose_secret().to_lowercase().replace('-', " ");
    assert_eq!(open(&memory, &typed).await.unwrap().id(), id);
}

#[tokio::test]
async fn what_does_not_open_says_why() {
    let (memory, key) = repository().await;
    for wrong in ["", "wrong", "correct horse battery staplE"] {
        assert!(matches!(open(&memory, wrong).await, Err(Error::WrongPassphrase { .. })));
    }
    let (_, another) = repository().await;
    assert!(matches!(open(&memory, another.expose_secret()).await, Err(Error::WrongRecoveryKey { .. })));
    let mut typo = key.expose_secret().to_owned();
    let last = typo.pop().unwrap();
    typo.push(if last == '7' { '8' } else { '7' });
    assert!(matches!(open(&memory, &typo).await, Err(Error::MistypedRecoveryKey)));
}

#[tokio::test]
async fn places_without_a_repository() {
    let error = open(&MemoryBackend::new(), PASSPHRASE).await.unwrap_err();
    assert!(matches!(&error, Error::NotARepository { reason: "it is empty", .. }), "{error}");
    let other = MemoryBackend::new();
    other.tamper("holiday.jpg", Bytes::from_static(b"x"));
    assert!(matches!(open(&other, PASSPHRASE).await, Err(Error::NotARepository { .. })));
    let init = Repository::init(Arc::new(other), &passphrase(), options()).await;
    assert!(matches!(init, Err(Error::NotEmpty { .. })));
    let folder = tempfile::tempdir().unwrap();
    assert!(repository::FolderBackend::open(folder.path().join("nowhere")).is_err());
}

#[tokio::test]
async fn any_flipped_byte_of_a_key_slot_is_noticed() {
    let (memory, key) = repository().await;
    for object in memory.list("keys/").await.unwrap() {
        let sound = memory.get(&object.name, None).await.unwrap();
        let is_recovery = sound[12] == 2;
        let secret = if is_recovery { key.expose_secret() } else { PASSPHRASE };
        for at in 0..sound.len() {
            let mut damaged = sound.to_vec();
            damaged[at] ^= 0x10;
            memory.tamper(&object.name, damaged.into());
            let error = open(&memory, secret).await.unwrap_err();
            let named = matches!(&error, Error::KeySlotDamaged { object: name, .. } if *name == object.name);
            assert!(named, "byte {at}: {error:?}");
        }
        memory.tamper(&object.name, sound.slice(..sound.len() - 1));
        assert!(matches!(open(&memory, secret).await, Err(Error::KeySlotDamaged { .. })));
        memory.tamper(&object.name, sound);
        // A damaged slot does not keep the other one from opening.
    }
    assert!(open(&memory, PASSPHRASE).await.is_ok());
}

#[tokio::test]
async fn missing_key_slots_say_which_and_what_is_left() {
    let (memory, key) = repository().await;
    for object in memory.list("keys/").await.unwrap() {
        let sound = memory.get(&object.name, None).await.unwrap();
        let (gone, kept) = (key.expose_secret(), PASSPHRASE);
        let (gone, kept) = if sound[12] == 2 { (gone, kept) } else { (kept, gone) };
        memory.delete(&object.name).await.unwrap();
        assert!(open(&memory, kept).await.is_ok());
        let error = open(&memory, gone).await.unwrap_err();
        assert!(matches!(&error, Error::NoKeySlot { other: true, .. }), "{error:?}");
        memory.tamper(&object.name, sound);
    }
    for object in memory.list("keys/").await.unwrap() {
        memory.delete(&object.name).await.unwrap();
    }
    for secret in [PASSPHRASE, key.expose_secret()] {
        let error = open(&memory, secret).await.unwrap_err();
        assert!(matches!(&error, Error::NoKeySlot { other: false, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_key_slot_under_another_name_or_of_another_repository_is_noticed() {
    let (memory, _) = repository().await;
    let (other, _) = repository().await;
    let slots = memory.list("keys/").await.unwrap();
    let foreign = other.list("keys/").await.unwrap();
    for (own, theirs) in slots.iter().zip(&foreign) {
        memory.delete(&own.name).await.unwrap();
        memory.tamper(&theirs.name, other.get(&theirs.name, None).await.unwrap());
    }
    assert!(matches!(open(&memory, PASSPHRASE).await, Err(Error::Damaged { object, .. }) if object == "config"));
    let renamed = other.get(&foreign[0].name, None).await.unwrap();
    other.tamper(&format!("keys/{}", "0".repeat(32)), renamed);
    let opened = open(&other, PASSPHRASE).await.unwrap();
    let damaged: Vec<_> = opened.key_slots().await.unwrap().into_iter().filter(|slot| slot.damage.is_some()).collect();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].id, "0".repeat(32));
}

#[tokio::test]
async fn any_flipped_byte_of_the_configuration_is_noticed() {
    let (memory, _) = repository().await;
    let sound = memory.get("config", None).await.unwrap();
    for at in 0..sound.len() {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 0x01;
        memory.tamper("config", damaged.into());
        let error = open(&memory, PASSPHRASE).await.unwrap_err();
        let named = matches!(&error, Error::Damaged { object, .. } | Error::UnknownVersion { object, .. } if object == "config");
        assert!(named, "byte {at}: {error:?}");
    }
}

#[tokio::test]
async fn no_secret_is_in_what_is_printed() {
    let memory = MemoryBackend::new();
    let (repository, key) = Repository::init(Arc::new(memory.clone()), &passphrase(), options()).await.unwrap();
    let printed = format!("{repository:?} {key:?} {:?}", open(&memory, "wrong").await);
    assert!(!printed.contains(PASSPHRASE) && !printed.contains(&key.text().expose_secret()[..11]), "{printed}");
}
