//! Key slots: the repository's secrets of all generations, wrapped by a passphrase or by the printable recovery key.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use std::fmt;
use zeroize::Zeroizing;

use super::Fields;
use super::crypto::{Argon2Cost, GENERATIONS_MAX, GenerationSecrets, SealKey, Secrets, TAG_BYTES, argon2id, hkdf};
use super::envelope::{HEADER_BYTES, Header, Magic};
use super::names::ObjectId;
use crate::error::{Error, Result};

/// Length of the longest key slot object: one that wraps as many generations of keys as there may be.
pub const KEY_SLOT_BYTES_MAX: usize = slot_bytes(GENERATIONS_MAX as u8 - 1);
const SEALED_AT: usize = HEADER_BYTES + 32;
const GENERATION_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 32;
const RECOVERY_SECRET_BYTES: usize = 20;
const RECOVERY_CHECK_BYTES: usize = 5;
const RECOVERY_CHARACTERS: usize = 40;
const RECOVERY_GROUPS: usize = 8;
/// Longest text that is looked at as a recovery key.
const RECOVERY_TEXT_BYTES_MAX: usize = 256;
/// Characters that may be wrong or lost before a text counts as something else.
const RECOVERY_SLIPS_MAX: usize = 2;
/// Base 32 without I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Length of a slot whose newest generation is `newest`.
const fn slot_bytes(newest: u8) -> usize {
    SEALED_AT + (newest as usize + 1) * GENERATION_BYTES + TAG_BYTES + CHECKSUM_BYTES
}

/// The newest generation in a slot of that length; `None` when no slot has it.
pub fn newest_by_length(bytes: u64) -> Option<u8> {
    (0..GENERATIONS_MAX as u8).find(|&newest| slot_bytes(newest) as u64 == bytes)
}

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum SlotKind {
    Passphrase = 1,
    Recovery = 2,
}

/// A printable key that opens the repository when the passphrase is lost. Shown once, never stored.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; RECOVERY_SECRET_BYTES]>);

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

impl RecoveryKey {
    pub(crate) fn new(secret: [u8; RECOVERY_SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(secret))
    }

    fn check(secret: &[u8]) -> [u8; RECOVERY_CHECK_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillframe 1 recovery check").update(secret);
        let mut check = [0; RECOVERY_CHECK_BYTES];
        hasher.finalize_xof().fill(&mut check);
        check
    }

    /// Eight groups of five characters, the last group being check characters.
    pub fn text(&self) -> SecretString {
        let bytes = Zeroizing::new([self.0.as_slice(), &Self::check(self.0.as_slice())].concat());
        let mut text = Zeroizing::new(String::with_capacity(RECOVERY_CHARACTERS + 7));
        for (index, group) in bytes.chunks(5).enumerate() {
            // Five bytes are eight characters; groups of five are made from the flat text below.
            let value = group.iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
            for digit in 0..8 {
                if (index * 8 + digit) % 5 == 0 && index + digit > 0 {
                    text.push('-');
                }
                let character = ALPHABET.get((value >> (35 - 5 * digit)) as usize & 31).copied().unwrap_or(b'0');
                text.push(char::from(character));
            }
        }
        SecretString::from(text.as_str())
    }

    /// Reads what [`Self::text`] printed; case, dashes and spaces do not matter, O is 0, I and L are 1. `Ok(None)` when
    /// the text is nothing like a recovery key.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if text.len() > RECOVERY_TEXT_BYTES_MAX {
            return Ok(None);
        }
        let mut digits = Zeroizing::new(Vec::with_capacity(RECOVERY_TEXT_BYTES_MAX));
        let (mut foreign, mut separators) = (0, 0);
        for character in text.trim().chars() {
            if matches!(character, '-' | ' ' | '\n' | '\r' | '\t') {
                separators += 1;
                continue;
            }
            let upper = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            match ALPHABET.iter().position(|&letter| char::from(letter) == upper) {
                Some(digit) => digits.push(digit as u8),
                None => foreign += 1,
            }
        }
        if foreign > 0 || digits.len() != RECOVERY_CHARACTERS {
            // Eight groups of about five with one or two characters wrong, too many or lost: a slip of the pen.
            let groups_fit = separators + 1 >= RECOVERY_GROUPS - 1 && separators < RECOVERY_GROUPS + 1;
            let length_fits = (digits.len() + foreign).abs_diff(RECOVERY_CHARACTERS) <= RECOVERY_SLIPS_MAX;
            let slip = groups_fit && length_fits && foreign <= RECOVERY_SLIPS_MAX;
            return if slip { Err(Error::MistypedRecoveryKey) } else { Ok(None) };
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(RECOVERY_SECRET_BYTES + RECOVERY_CHECK_BYTES));
        for group in digits.chunks(8) {
            let value = group.iter().fold(0u64, |value, &digit| value << 5 | u64::from(digit));
            bytes.extend(value.to_be_bytes().iter().skip(3));
        }
        let (secret, check) = bytes.split_at(RECOVERY_SECRET_BYTES);
        if check != Self::check(secret) {
            return Err(Error::MistypedRecoveryKey);
        }
        Ok(secret.try_into().ok().map(Self::new))
    }
}

/// Who opens a slot, with what.
pub enum Opener<'a> {
    Passphrase(&'a SecretString, Argon2Cost),
    Recovery(&'a RecoveryKey),
}

/// Makes a slot.
pub fn encode(
    repository: ObjectId,
    id: ObjectId,
    salt: [u8; 16],
    opener: &Opener<'_>,
    secrets: &Secrets,
) -> Result<Vec<u8>> {
    let (kind, cost) = match opener {
        Opener::Passphrase(_, cost) => (SlotKind::Passphrase, [cost.memory_kib, cost.passes, cost.lanes]),
        Opener::Recovery(_) => (SlotKind::Recovery, [0; 3]),
    };
    let mut out = Header { repository, id, flags: kind as u32 }.encode(Magic::Key).to_vec();
    out.extend(cost.iter().flat_map(|value| value.to_le_bytes()));
    out.extend(u32::from(secrets.newest()).to_le_bytes());
    out.extend(salt);
    let mut wrapped = Zeroizing::new(Vec::with_capacity(secrets.all().len() * GENERATION_BYTES));
    for generation in secrets.all() {
        wrapped.extend(generation.data_key.as_slice());
        wrapped.extend(generation.signing_seed.as_slice());
    }
    let sealed = SealKey::new(&*wrapping_key(opener, &salt)?)?.seal(0, &out, &wrapped)?;
    out.extend(sealed);
    let checksum = blake3::hash(&out);
    out.extend(checksum.as_bytes());
    Ok(out)
}

fn wrapping_key(opener: &Opener<'_>, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
    match opener {
        Opener::Passphrase(passphrase, cost) => argon2id(passphrase.expose_secret().as_bytes(), salt, *cost),
        Opener::Recovery(key) => hkdf(key.0.as_slice(), salt, b"stillframe 1 recovery"),
    }
}

/// A slot whose checksum holds.
pub struct KeySlot {
    pub header: Header,
    pub kind: SlotKind,
    /// Newest generation of keys in it.
    pub newest: u8,
    cost: Argon2Cost,
    salt: [u8; 16],
    head: [u8; SEALED_AT],
    sealed: Vec<u8>,
}

impl KeySlot {
    /// Reads the slot `name` and checks its checksum: afterwards a failure to open means a wrong passphrase.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self> {
        let header = Header::decode(Magic::Key, bytes, name)?;
        let damaged = |reason: &str| Error::damaged(name, reason);
        let newest = newest_by_length(bytes.len() as u64);
        let newest = newest.ok_or_else(|| damaged("it does not have the length of a key slot"))?;
        let (content, checksum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM_BYTES));
        if blake3::hash(content).as_bytes() != checksum {
            return Err(damaged("its checksum does not match"));
        }
        let kind = match header.flags {
            1 => SlotKind::Passphrase,
            2 => SlotKind::Recovery,
            _ => return Err(damaged("it is of an unknown kind")),
        };
        let (head, sealed) = content.split_at_checked(SEALED_AT).ok_or_else(|| damaged("it is cut short"))?;
        let head: [u8; SEALED_AT] = head.try_into().map_err(|_| Error::Internal("key slot"))?;
        let mut fields = Fields(&head[HEADER_BYTES..]);
        let mut number = || fields.u32().unwrap_or_default();
        let cost = Argon2Cost { memory_kib: number(), passes: number(), lanes: number() };
        if number() != u32::from(newest) {
            return Err(damaged("its length does not fit its number of key generations"));
        }
        match kind {
            SlotKind::Passphrase if cost.check().is_err() => return Err(damaged("its argon2 costs are beyond limits")),
            _ => {}
        }
        let salt = fields.array().ok_or_else(|| damaged("it is cut short"))?;
        Ok(Self { header, kind, newest, cost, salt, head, sealed: sealed.to_vec() })
    }

    /// The secrets, or `None` when this passphrase does not open this slot. Slow on purpose.
    pub fn open_with_passphrase(&self, passphrase: &SecretString) -> Result<Option<Secrets>> {
        self.open(&Opener::Passphrase(passphrase, self.cost))
    }

    /// The secrets, or `None` when it is another repository's recovery key.
    pub fn open_with_recovery_key(&self, key: &RecoveryKey) -> Result<Option<Secrets>> {
        self.open(&Opener::Recovery(key))
    }

    fn open(&self, opener: &Opener<'_>) -> Result<Option<Secrets>> {
        let key = SealKey::new(&*wrapping_key(opener, &self.salt)?)?;
        let Some(plain) = key.open(0, &self.head, &self.sealed).map(Zeroizing::new) else { return Ok(None) };
        let mut fields = Fields(&plain);
        let mut all = Vec::with_capacity(plain.len() / GENERATION_BYTES);
        while let Some((data_key, signing_seed)) = fields.array().zip(fields.array()) {
            let (data_key, signing_seed) = (Zeroizing::new(data_key), Zeroizing::new(signing_seed));
            all.push(GenerationSecrets { data_key, signing_seed });
        }
        Ok(Secrets::from_all(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_key_prints_and_parses() {
        let key = RecoveryKey::new(std::array::from_fn(|i| (i * 13 + 7) as u8));
        let text = key.text().expose_secret().to_owned();
        assert_eq!(text.len(), 47);
        assert!(text.split('-').all(|group| group.len() == 5), "{text}");
        let parsed = RecoveryKey::parse(&text.to_lowercase().replace('0', "o").replace('-', " ")).unwrap().unwrap();
        assert_eq!(parsed.0, key.0);
    }

    #[test]
    fn a_mistyped_recovery_key_is_told_from_a_passphrase() {
        let text = RecoveryKey::new([9; 20]).text().expose_secret().to_owned();
        for index in 0..text.len() {
            let mut typo = text.clone().into_bytes();
            if typo[index] == b'-' {
                continue;
            }
            typo[index] = if typo[index] == b'7' { b'8' } else { b'7' };
            let typo = String::from_utf8(typo).unwrap();
            assert!(matches!(RecoveryKey::parse(&typo), Err(Error::MistypedRecoveryKey)), "{typo}");
        }
        assert!(RecoveryKey::parse("correct horse battery staple").unwrap().is_none());
        // A lost, a doubled and a foreign character.
        let slips = [text[1..].to_owned(), format!("{text}0"), text.replacen('4', "U", 1)];
        for slip in slips {
            assert!(matches!(RecoveryKey::parse(&slip), Err(Error::MistypedRecoveryKey)), "{slip}");
        }
        assert!(RecoveryKey::parse(&"0".repeat(1000)).unwrap().is_none());
    }

    #[test]
    fn a_slot_holds_as_many_generations_as_there_may_be() {
        let generation = |seed: u8| GenerationSecrets {
            data_key: Zeroizing::new([seed; 32]),
            signing_seed: Zeroizing::new([seed ^ 0xff; 32]),
        };
        let key = RecoveryKey::new([3; 20]);
        let mut secrets = Secrets::new(generation(0));
        for newest in 0..GENERATIONS_MAX as u8 {
            let slot = encode([1; 16], [2; 16], [4; 16], &Opener::Recovery(&key), &secrets).unwrap();
            assert_eq!(newest_by_length(slot.len() as u64), Some(newest));
            let opened = KeySlot::decode("keys/x", &slot).unwrap();
            assert_eq!(opened.newest, newest);
            let opened = opened.open_with_recovery_key(&key).unwrap().unwrap();
            let seeds: Vec<u8> = opened.all().iter().map(|one| one.data_key[0]).collect();
            assert_eq!(seeds, (0..=newest).collect::<Vec<u8>>());
            if newest + 1 < GENERATIONS_MAX as u8 {
                secrets.push(generation(newest + 1)).unwrap();
            }
        }
        assert!(secrets.push(generation(64)).is_err());
        assert_eq!(KEY_SLOT_BYTES_MAX, 128 + 64 * 64);
    }
}
