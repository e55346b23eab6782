//! Changing passphrases and recovery keys, and rotating keys without writing data again: what opens afterwards, whatever
//! step was the last one taken, and what those see who hold older keys.

use bytes::Bytes;
use repository::backend::{Fault, FaultyBackend};
use repository::{
    Argon2Cost, Error, KeySlotInfo, MemoryBackend, NoProgress, ObjectBackend, OldRecoveryKeys, Repository, SlotKind,
    VerifyOptions,
};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::support::*;

const COST: Argon2Cost = Argon2Cost { memory_kib: 64, passes: 1, lanes: 1 };

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

fn content(seed: u64) -> Bytes {
    [noise(seed, 200_000), vec![0; 100_000], text(seed, 100_000)].concat().into()
}

async fn sample() -> (MemoryBackend, Repository, SecretString) {
    let memory = MemoryBackend::new();
    let (repository, key) = Repository::init(Arc::new(memory.clone()), &passphrase(), options()).await.unwrap();
    full_point(&repository, point_id(1), &[content(1)]).await.unwrap();
    (memory, repository, key.text())
}

async fn open(memory: &MemoryBackend, secret: &SecretString) -> Result<Repository, Error> {
    Repository::open(Arc::new(memory.clone()), secret).await
}

async fn kinds(repository: &Repository) -> Vec<(Option<SlotKind>, u8)> {
    let mut kinds: Vec<_> =
        repository.key_slots().await.unwrap().iter().map(|slot| (slot.kind, slot.generation)).collect();
    kinds.sort_by_key(|(kind, generation)| (*generation, kind.map(|kind| kind as u32)));
    kinds
}

async fn assert_sound(repository: &Repository) {
    let report = repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
    assert_eq!(report.unwrap().damage, []);
}

#[tokio::test]
async fn a_changed_passphrase_replaces_the_old_one() {
    let (memory, repository, key) = sample().await;
    let wrong = repository.change_passphrase(&secret("wrong"), &secret("new one"), COST).await;
    assert!(matches!(wrong, Err(Error::WrongPassphrase { .. })));
    repository.change_passphrase(&passphrase(), &secret("new one"), COST).await.unwrap();
    assert!(matches!(open(&memory, &passphrase()).await, Err(Error::WrongPassphrase { .. })));
    // The passphrase is forgotten: the recovery key gives the repository a new one.
    repository.change_passphrase(&key, &secret("newer one"), COST).await.unwrap();
    assert!(matches!(open(&memory, &secret("new one")).await, Err(Error::WrongPassphrase { .. })));
    for good in [&secret("newer one"), &key] {
        let repository = open(&memory, good).await.unwrap();
        assert_reads(&repository, point_id(1), &[content(1)]).await;
        assert_eq!(kinds(&repository).await, [(Some(SlotKind::Passphrase), 0), (Some(SlotKind::Recovery), 0)]);
    }
}

#[tokio::test]
async fn recovery_keys_are_replaced_or_added() {
    let (memory, repository, first) = sample().await;
    let second = repository.new_recovery_key(&passphrase(), OldRecoveryKeys::Keep).await.unwrap().text();
    for good in [&first, &second, &passphrase()] {
        open(&memory, good).await.unwrap();
    }
    let third = repository.new_recovery_key(&second, OldRecoveryKeys::Replace).await.unwrap().text();
    for replaced in [&first, &second] {
        assert!(matches!(open(&memory, replaced).await, Err(Error::WrongRecoveryKey { .. })));
    }
    open(&memory, &third).await.unwrap();
    assert_eq!(repository.key_slots().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_slot_is_removed_but_not_the_one_that_opened() {
    let (memory, repository, key) = sample().await;
    let slots = repository.key_slots().await.unwrap();
    let id = |kind| slots.iter().find(|slot| slot.kind == Some(kind)).unwrap().id.clone();
    let (by_passphrase, by_recovery) = (id(SlotKind::Passphrase), id(SlotKind::Recovery));
    let refused = repository.remove_key_slot(&passphrase(), &by_passphrase).await;
    assert!(matches!(refused, Err(Error::KeySlotInUse { .. })));
    let nothing = repository.remove_key_slot(&passphrase(), "../config").await;
    assert!(matches!(nothing, Err(Error::NoSuchKeySlot { .. })));
    repository.remove_key_slot(&passphrase(), &by_recovery).await.unwrap();
    assert!(matches!(open(&memory, &key).await, Err(Error::NoKeySlot { other: true, .. })));
    let last = repository.remove_key_slot(&passphrase(), &by_passphrase).await;
    assert!(matches!(last, Err(Error::KeySlotInUse { .. })));
    open(&memory, &passphrase()).await.unwrap();
}

#[tokio::test]
async fn rotation_seals_what_is_new_with_new_keys_and_writes_nothing_again() {
    let (memory, repository, old_key) = sample().await;
    let before = memory.list("").await.unwrap();
    let key = repository.rotate_keys(&passphrase(), &secret("second"), COST).await.unwrap().text();
    for old in [&passphrase(), &old_key] {
        let error = open(&memory, old).await.unwrap_err();
        assert!(matches!(error, Error::WrongPassphrase { .. } | Error::WrongRecoveryKey { .. }), "{error:?}");
    }
    for object in before.iter().filter(|object| !object.name.starts_with("keys/")) {
        assert!(memory.stat(&object.name).await.is_ok(), "{}", object.name);
    }
    // The process that rotated goes on with the new keys, and finds the old chunks.
    let again = full_point(&repository, point_id(2), &[content(1), content(2)]).await.unwrap();
    assert!(again.bytes_stored < 300_000, "{}", again.bytes_stored);
    repository.rotate_keys(&secret("second"), &secret("second"), COST).await.unwrap();
    full_point(&repository, point_id(3), &[content(3)]).await.unwrap();
    assert!(matches!(open(&memory, &key).await, Err(Error::WrongRecoveryKey { .. })));
    let generation = |object: &Bytes| u32::from_le_bytes(object[12..16].try_into().unwrap());
    for (number, expected) in [(1, 0), (2, 1), (3, 2)] {
        let object = memory.get(&format!("points/{}", point_id(number)), None).await.unwrap();
        assert_eq!(generation(&object), expected);
    }
    let repository = open(&memory, &secret("second")).await.unwrap();
    assert_eq!(kinds(&repository).await, [(Some(SlotKind::Passphrase), 2), (Some(SlotKind::Recovery), 2)]);
    assert_reads(&repository, point_id(1), &[content(1)]).await;
    assert_reads(&repository, point_id(2), &[content(1), content(2)]).await;
    assert_reads(&repository, point_id(3), &[content(3)]).await;
    assert_sound(&repository).await;
    // And without index segments, from the packs' own footers.
    for object in memory.list("index/").await.unwrap() {
        memory.delete(&object.name).await.unwrap();
    }
    assert_reads(&open(&memory, &secret("second")).await.unwrap(), point_id(2), &[content(1), content(2)]).await;
}

#[tokio::test]
async fn who_holds_older_keys_is_told_so_and_learns() {
    let (memory, rotating, _) = sample().await;
    let stale = open(&memory, &passphrase()).await.unwrap();
    assert_reads(&stale, point_id(1), &[content(1)]).await;
    rotating.rotate_keys(&passphrase(), &secret("second"), COST).await.unwrap();
    full_point(&rotating, point_id(2), &[content(2)]).await.unwrap();
    // It goes on reading and writing with what it has.
    full_point(&stale, point_id(3), &[content(2)]).await.unwrap();
    assert_reads(&stale, point_id(3), &[content(2)]).await;
    for error in [
        stale.points().await.map(drop).unwrap_err(),
        stale.point(point_id(2)).await.map(drop).unwrap_err(),
        stale.catalogue().await.map(drop).unwrap_err(),
        stale
            .verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new())
            .await
            .map(drop)
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::KeysRotated { generation: 1, newest: 0, .. }), "{error:?}");
        assert!(!error.is_damage());
    }
    // Nor does it pass a point made with newer keys off as one that is gone.
    let writer = stale.begin_point(point_id(4)).await.unwrap();
    let follows = metadata(4, domain::point::PointKind::Full, Some(point_id(2)));
    assert!(matches!(writer.commit(follows).await, Err(Error::KeysRotated { .. })));

    assert!(matches!(stale.refresh_keys(&passphrase()).await, Err(Error::WrongPassphrase { .. })));
    stale.refresh_keys(&secret("second")).await.unwrap();
    assert_eq!(stale.points().await.unwrap().points.len(), 3);
    assert_reads(&stale, point_id(2), &[content(2)]).await;
    assert_sound(&stale).await;
    assert_sound(&rotating).await;
}

#[tokio::test]
async fn a_point_with_older_keys_than_the_one_before_shows() {
    let (memory, repository, _) = sample().await;
    full_point(&repository, point_id(5), &[content(2)]).await.unwrap();
    let follows = [(content(2), repository::ReadPlan::Everything)];
    let kind = domain::point::PointKind::Full;
    make_point(&repository, point_id(6), &follows, kind, Some(point_id(5))).await.unwrap();
    assert_sound(&repository).await;
    repository.rotate_keys(&passphrase(), &passphrase(), COST).await.unwrap();
    assert_sound(&repository).await;
    repository.delete_point(point_id(5)).await.unwrap();
    full_point(&repository, point_id(5), &[content(2)]).await.unwrap();
    let report = open(&memory, &passphrase()).await.unwrap();
    let report = report.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
    let damage = report.unwrap().damage;
    let older = damage.iter().find(|damage| damage.object == format!("points/{}", point_id(6)));
    assert!(older.is_some_and(|damage| damage.reason.contains("older keys")), "{damage:?}");
}

#[tokio::test]
async fn every_flipped_bit_of_a_generation_is_damage() {
    let (memory, _, _) = sample().await;
    for object in memory.list("").await.unwrap() {
        if object.name.starts_with("keys/") || !object.name.contains('/') {
            continue;
        }
        for bit in 0..32 {
            let copy = memory.snapshot();
            let mut bytes = copy.get(&object.name, None).await.unwrap().to_vec();
            bytes[12 + bit / 8] ^= 1 << (bit % 8);
            copy.tamper(&object.name, bytes.into());
            let repository = open(&copy, &passphrase()).await.unwrap();
            let report =
                repository.verify(VerifyOptions::default(), Arc::new(NoProgress), &CancellationToken::new()).await;
            let damage = report.unwrap().damage;
            assert!(damage.iter().any(|damage| damage.object == object.name), "{} {bit}: {damage:?}", object.name);
        }
    }
}

/// What the operator may hold after a change that was cut short.
struct Held<'a> {
    /// One of these always opens everything.
    passphrases: &'a [&'a str],
    recovery: &'a SecretString,
}

/// Runs a change against every crash, lost reply and failure at every step, and looks at what opens afterwards.
async fn at_every_step<F, R>(label: &str, sample: &MemoryBackend, held: Held<'_>, change: F)
where
    F: Fn(Repository) -> R,
    R: Future<Output = Result<(), Error>>,
{
    let other = repository::BackendErrorKind::Other;
    let mut steps = 0;
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Fail(other), Fault::FailAfter(other)] {
        for step in 0.. {
            let memory = sample.snapshot();
            let faulty = Arc::new(FaultyBackend::new(Arc::new(memory.clone())));
            let opened = Repository::open(Arc::clone(&faulty) as Arc<dyn ObjectBackend>, &passphrase()).await.unwrap();
            faulty.inject_at_change(step, fault);
            let changed = change(opened.clone()).await;
            let what = format!("{label}, {fault:?} at step {step}");
            if faulty.operations() <= step {
                changed.unwrap_or_else(|error| panic!("{what}: {error}"));
                steps = steps.max(step);
                break;
            }
            assert!(changed.is_err(), "{what}");
            let mut opens = 0;
            let slots = newest_slots(&memory).await;
            for text in held.passphrases {
                if let Ok(repository) = open(&memory, &secret(text)).await {
                    opens += usize::from(opens_everything(&repository, &slots).await);
                }
            }
            assert!(opens > 0, "{what}: {slots:?}");
            // Whoever opens it can finish the change.
            let mut finished = false;
            for text in held.passphrases {
                let Ok(repository) = open(&memory, &secret(text)).await else { continue };
                finished |= repository.rotate_keys(&secret(text), &secret("finished"), COST).await.is_ok();
                if finished {
                    break;
                }
            }
            assert!(finished, "{what}");
            let repository = open(&memory, &secret("finished")).await.unwrap();
            assert_eq!(kinds(&repository).await.len(), 2, "{what}");
            assert_reads(&repository, point_id(1), &[content(1)]).await;
            assert!(open(&memory, held.recovery).await.is_err(), "{what}");
        }
    }
    assert!(steps >= 2, "{label}: {steps} steps");
}

async fn newest_slots(memory: &MemoryBackend) -> Vec<(String, u64)> {
    memory.list("keys/").await.unwrap().into_iter().map(|object| (object.name, object.size)).collect()
}

/// Its keys are those of the newest generation there is; and the point reads.
async fn opens_everything(repository: &Repository, slots: &[(String, u64)]) -> bool {
    let newest = slots.iter().map(|(_, size)| (size - 192) / 64).max().unwrap();
    let made = full_point(repository, point_id(99), &[content(9)]).await.unwrap();
    repository.delete_point(point_id(99)).await.unwrap();
    assert_reads(repository, point_id(1), &[content(1)]).await;
    u64::from(made.point.key_generation) == newest
}

#[tokio::test]
async fn a_change_cut_short_at_any_step_leaves_what_opens_everything() {
    let (memory, _, key) = sample().await;
    let held = |passphrases| Held { passphrases, recovery: &key };
    at_every_step("passphrase", &memory, held(&[PASSPHRASE, "second"]), |repository| async move {
        repository.change_passphrase(&passphrase(), &secret("second"), COST).await
    })
    .await;
    at_every_step("recovery key", &memory, held(&[PASSPHRASE]), |repository| async move {
        repository.new_recovery_key(&passphrase(), OldRecoveryKeys::Replace).await.map(drop)
    })
    .await;
    at_every_step("rotation", &memory, held(&[PASSPHRASE, "second"]), |repository| async move {
        repository.rotate_keys(&passphrase(), &secret("second"), COST).await.map(drop)
    })
    .await;
    at_every_step("rotation, same passphrase", &memory, held(&[PASSPHRASE]), |repository| async move {
        repository.rotate_keys(&passphrase(), &passphrase(), COST).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn of_two_changes_at_once_one_gives_way() {
    for _ in 0..20 {
        let (memory, _, key) = sample().await;
        let (one, two) = (open(&memory, &passphrase()).await.unwrap(), open(&memory, &passphrase()).await.unwrap());
        let (old, first, second) = (passphrase(), secret("first"), secret("second"));
        let changes = tokio::join!(one.rotate_keys(&old, &first, COST), two.rotate_keys(&old, &second, COST));
        let outcomes = [changes.0.is_ok(), changes.1.is_ok()];
        let mut good = vec![];
        for text in [PASSPHRASE, "first", "second", key.expose_secret()] {
            good.extend(open(&memory, &secret(text)).await.ok());
        }
        assert!(!good.is_empty(), "{outcomes:?}");
        for repository in good {
            assert_reads(&repository, point_id(1), &[content(1)]).await;
        }
        // Whoever was told that it worked has the keys that count.
        let slots: Vec<KeySlotInfo> = one.key_slots().await.unwrap();
        let newest = slots.iter().filter(|slot| slot.generation > 0).count();
        assert!(newest <= 2, "{outcomes:?} {slots:?}");
    }
}
