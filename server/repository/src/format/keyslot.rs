//! Key slots: the repository's secrets, wrapped by a passphrase or by the printable recovery key.

use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use zeroize::Zeroizing;

use super::Fields;
use super::crypto::{Argon2Cost, SealKey, Secrets, TAG_BYTES, argon2id, hkdf};
use super::envelope::{HEADER_BYTES, Header, Magic};
use super::names::ObjectId;
use crate::error::{Error, Result};

/// Length of a key slot object.
pub const KEY_SLOT_BYTES: usize = CHECKSUM_AT + 32;
const SEALED_AT: usize = HEADER_BYTES + 32;
const CHECKSUM_AT: usize = SEALED_AT + 64 + TAG_BYTES;
const RECOVERY_SECRET_BYTES: usize = 20;
const RECOVERY_CHECK_BYTES: usize = 5;
const RECOVERY_CHARACTERS: usize = 40;
/// Base 32 without I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
        let mut digits = Zeroizing::new(Vec::with_capacity(RECOVERY_CHARACTERS));
        for character in text.chars().filter(|character| !matches!(character, '-' | ' ' | '\n' | '\r' | '\t')) {
            let upper = match character.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let Some(digit) = ALPHABET.iter().position(|&letter| char::from(letter) == upper) else { return Ok(None) };
            digits.push(digit as u8);
        }
        if digits.len() != RECOVERY_CHARACTERS {
            return Ok(None);
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
    out.extend([0; 4]);
    out.extend(salt);
    let wrapped = Zeroizing::new([secrets.data_key.as_slice(), secrets.signing_seed.as_slice()].concat());
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
        let content = bytes.get(..CHECKSUM_AT).filter(|_| bytes.len() == KEY_SLOT_BYTES);
        let content = content.ok_or_else(|| damaged("it does not have the length of a key slot"))?;
        if blake3::hash(content).as_bytes()[..] != bytes[CHECKSUM_AT..] {
            return Err(damaged("its checksum does not match"));
        }
        let kind = match header.flags {
            1 => SlotKind::Passphrase,
            2 => SlotKind::Recovery,
            _ => return Err(damaged("it is of an unknown kind")),
        };
        let mut fields = Fields(&content[HEADER_BYTES..]);
        let mut number = || fields.u32().unwrap_or_default();
        let cost = Argon2Cost { memory_kib: number(), passes: number(), lanes: number() };
        if kind == SlotKind::Passphrase {
            cost.check()?;
        }
        let (head, sealed) = content.split_at(SEALED_AT);
        let salt = head[SEALED_AT - 16..].try_into().unwrap_or_default();
        let head = head.try_into().map_err(|_| Error::Internal("key slot"))?;
        Ok(Self { header, kind, cost, salt, head, sealed: sealed.to_vec() })
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
        let secrets = fields.array().zip(fields.array()).map(|(data_key, signing_seed)| Secrets {
            data_key: Zeroizing::new(data_key),
            signing_seed: Zeroizing::new(signing_seed),
        });
        Ok(secrets)
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
    }
}
