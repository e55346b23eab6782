//! Passwords and passphrases at rest.
//!
//! Owns: the credential key, and the only code that seals or opens with it.
//! Must never: put the key into the database, or hand out what it opened other than as a [`SecretString`].
//!
//! A sealed value is `version (1 byte) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`, AES-256-GCM with a random nonce.
//! Table, column and row are associated data: a value copied into another row does not open.

use crate::error::{Error, Result};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use rustix::fs::{Mode, OFlags};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const KEY_BYTES: usize = 32;
const VERSION: u8 = 1;
const FINGERPRINT_TEXT: &[u8] = b"stillframe credential key v1";

/// The place of a sealed value.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub table: &'static str,
    pub column: &'static str,
    pub row: String,
}

impl Place {
    pub fn new(table: &'static str, column: &'static str, row: impl std::fmt::Display) -> Self {
        Self { table, column, row: row.to_string() }
    }

    fn associated_data(&self) -> Vec<u8> {
        format!("{}\0{}\0{}", self.table, self.column, self.row).into_bytes()
    }
}

/// Seals what the operator trusts us with. Lies in `secrets/credential.key` of the data folder, never in the database.
#[derive(Clone)]
pub struct CredentialKey {
    key: Arc<RandomizedNonceKey>,
    /// For workers that are enrolled.
    bytes: Arc<Zeroizing<[u8; KEY_BYTES]>>,
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for CredentialKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialKey")
    }
}

impl CredentialKey {
    /// The key of a data folder; made on first use, readable by the server's account only.
    ///
    /// Whether the database is new is not known here: a key made anew beside an old one is noticed by its fingerprint.
    pub fn load_or_create(data_dir: &Path) -> Result<Self> {
        let folder = data_dir.join("secrets");
        let path = folder.join("credential.key");
        let problem = |problem: &str, source: Option<io::Error>| Error::KeyFile {
            path: path.clone(),
            problem: problem.to_owned(),
            source,
        };
        match rustix::fs::mkdir(&folder, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(problem("its folder cannot be made", Some(error.into()))),
        }
        if !path.exists() {
            create_key_file(&folder, &path).map_err(|error| problem("it cannot be written", Some(error)))?;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_BYTES + 1));
        File::open(&path)
            .and_then(|file| file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| problem("it cannot be read", Some(error)))?;
        Self::from_bytes(&bytes).ok_or_else(|| problem("it is damaged: 32 bytes are expected", None))
    }

    /// A key that lives as long as the process, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut_slice()).expect("the system has randomness");
        Self::from_bytes(bytes.as_slice()).expect("of the right length")
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != KEY_BYTES {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(FINGERPRINT_TEXT);
        hash.update(bytes);
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).ok()?;
        let bytes = Arc::new(Zeroizing::new(bytes.try_into().ok()?));
        Some(Self { key: Arc::new(key), bytes, fingerprint: hash.finalize().into() })
    }

    /// The key in hexadecimal, for a worker that is enrolled.
    pub(crate) fn export(&self) -> SecretString {
        SecretString::from(hex::encode(self.bytes.as_slice()))
    }

    /// A key that was given to a worker; `None` for text that is none.
    pub fn import(text: &SecretString) -> Option<Self> {
        let bytes = Zeroizing::new(hex::decode(text.expose_secret()).ok()?);
        Self::from_bytes(&bytes)
    }

    /// Tells keys apart; says nothing about the key.
    pub(crate) const fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    pub(crate) fn seal(&self, place: &Place, secret: &SecretString) -> Result<Vec<u8>> {
        let mut bytes = Zeroizing::new(secret.expose_secret().as_bytes().to_vec());
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(place.associated_data()), &mut *bytes)
            .map_err(|_| sealed_error(place))?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + bytes.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&bytes);
        Ok(sealed)
    }

    pub(crate) fn open(&self, place: &Place, sealed: &[u8]) -> Result<SecretString> {
        let error = || sealed_error(place);
        let (&version, rest) = sealed.split_first().ok_or_else(error)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or_else(error)?;
        if version != VERSION {
            return Err(error());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| error())?;
        let mut bytes = Zeroizing::new(ciphertext.to_vec());
        let plain =
            self.key.open_in_place(nonce, Aad::from(place.associated_data()), &mut bytes).map_err(|_| error())?;
        let text = std::str::from_utf8(plain).map_err(|_| error())?;
        Ok(SecretString::from(text))
    }
}

fn sealed_error(place: &Place) -> Error {
    Error::Sealed { table: place.table, column: place.column, row: place.row.clone() }
}

/// Written beside and linked into place, so that a crash leaves either no key or a whole one.
fn create_key_file(folder: &Path, path: &Path) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| io::Error::other("no randomness"))?;
    let temporary = folder.join(format!("credential.key.{}.new", std::process::id()));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&temporary, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes.as_slice())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}
