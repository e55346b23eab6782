//! Signatures and encryption of messages: MS-SMB2 3.1.4.1, 3.1.4.3, 3.1.5.1 and 3.2.5.1.1.1.
//!
//! Owns the session's keys. Must never: accept a message whose seal it has not checked.

use super::failure::Failure;
use crate::ErrorKind;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{cmac, constant_time};
use smb2::crypto::encryption::Cipher;
use smb2::crypto::signing::SigningAlgorithm;
use std::sync::atomic::{AtomicU64, Ordering};

/// The signature's place in a header: MS-SMB2 2.2.1.2.
const SIGNATURE_AT: usize = 48;
const MESSAGE_ID_AT: usize = 24;
/// Bytes of a signature.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of the header before an encrypted message: MS-SMB2 2.2.41.
pub(super) const TRANSFORM_BYTES: usize = 52;
/// What an encrypted message begins with.
pub(super) const TRANSFORM_ID: [u8; 4] = [0xFD, b'S', b'M', b'B'];
/// Places in that header; what is authenticated begins with the nonce.
const NONCE_AT: usize = 20;
const LENGTH_AT: usize = 36;
const FLAGS_AT: usize = 42;
const SESSION_AT: usize = 44;
/// The flag of an encrypted message.
const ENCRYPTED: u16 = 1;

/// What signs.
pub(super) enum SigningKey {
    Gmac(LessSafeKey),
    Cmac(cmac::Key),
}

impl SigningKey {
    pub fn new(algorithm: SigningAlgorithm, key: &[u8]) -> Result<Self, Failure> {
        let made = match algorithm {
            SigningAlgorithm::AesGmac => {
                UnboundKey::new(&AES_128_GCM, key).map(|key| Self::Gmac(LessSafeKey::new(key)))
            }
            SigningAlgorithm::AesCmac => cmac::Key::new(cmac::AES_128, key).map(Self::Cmac),
            SigningAlgorithm::HmacSha256 => Err(aws_lc_rs::error::Unspecified),
        };
        made.map_err(|_| Failure::protocol("no signing key was agreed"))
    }

    pub const fn name(&self) -> &'static str {
        match self {
            Self::Gmac(_) => "AES-128-GMAC",
            Self::Cmac(_) => "AES-128-CMAC",
        }
    }

    /// The signature of a message whose signature field is zero.
    pub fn tag(&self, message: &[u8], by_server: bool) -> Option<[u8; TAG_BYTES]> {
        let mut found = [0; TAG_BYTES];
        match self {
            Self::Gmac(key) => {
                let mut nonce = [0; NONCE_LEN];
                nonce.get_mut(..8)?.copy_from_slice(message.get(MESSAGE_ID_AT..MESSAGE_ID_AT + 8)?);
                *nonce.get_mut(8)? = u8::from(by_server);
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(message), &mut []).ok()?;
                found.copy_from_slice(tag.as_ref().get(..TAG_BYTES)?);
            }
            Self::Cmac(key) => found.copy_from_slice(cmac::sign(key, message).ok()?.as_ref().get(..TAG_BYTES)?),
        }
        Some(found)
    }

    /// Signs a message of ours in place.
    pub fn sign(&self, message: &mut [u8]) -> Result<(), Failure> {
        let tag = self.tag(message, false);
        let field = message.get_mut(SIGNATURE_AT..SIGNATURE_AT + TAG_BYTES);
        let (Some(tag), Some(field)) = (tag, field) else {
            return Err(Failure::protocol("a message cannot be signed"));
        };
        field.copy_from_slice(&tag);
        Ok(())
    }

    /// True when the server signed it. The signature field is zero afterwards.
    pub fn verify(&self, message: &mut [u8]) -> bool {
        let Some(field) = message.get_mut(SIGNATURE_AT..SIGNATURE_AT + TAG_BYTES) else { return false };
        let mut received = [0; TAG_BYTES];
        received.copy_from_slice(field);
        field.fill(0);
        self.tag(message, true).is_some_and(|tag| constant_time::verify_slices_are_equal(&tag, &received).is_ok())
    }
}

/// What encrypts: one key each way.
pub(super) struct CipherKeys {
    ours: LessSafeKey,
    theirs: LessSafeKey,
    name: &'static str,
    /// Every message of ours has another number, and the key is the session's own.
    nonces: AtomicU64,
    session_id: u64,
}

impl CipherKeys {
    /// Fails for the CCM ciphers, which Windows hosts that run Hyper-V of today need not use.
    pub fn new(cipher: Cipher, ours: &[u8], theirs: &[u8], session_id: u64) -> Result<Self, Failure> {
        let (algorithm, name) = match cipher {
            Cipher::Aes128Gcm => (&AES_128_GCM, "AES-128-GCM"),
            Cipher::Aes256Gcm => (&AES_256_GCM, "AES-256-GCM"),
            Cipher::Aes128Ccm | Cipher::Aes256Ccm => {
                let text = "the host encrypts with AES-CCM only, which is not supported; AES-GCM is needed";
                return Err(Failure::new(ErrorKind::Unsupported, "hyperv.smb_encryption", text));
            }
        };
        let key = |bytes: &[u8]| {
            let key = UnboundKey::new(algorithm, bytes).map_err(|_| Failure::protocol("no cipher key was agreed"))?;
            Ok(LessSafeKey::new(key))
        };
        Ok(Self { ours: key(ours)?, theirs: key(theirs)?, name, nonces: AtomicU64::new(0), session_id })
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Encrypts the message that lies behind [`TRANSFORM_BYTES`] free bytes, and fills those.
    pub fn seal(&self, framed: &mut [u8]) -> Result<(), Failure> {
        let failed = || Failure::protocol("a message cannot be encrypted");
        let (head, message) = framed.split_at_mut_checked(TRANSFORM_BYTES).ok_or_else(failed)?;
        let mut nonce = [0; NONCE_LEN];
        put(&mut nonce, 0, &self.nonces.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        head.fill(0);
        put(head, 0, &TRANSFORM_ID);
        put(head, NONCE_AT, &nonce);
        put(head, LENGTH_AT, &(message.len() as u32).to_le_bytes());
        put(head, FLAGS_AT, &ENCRYPTED.to_le_bytes());
        put(head, SESSION_AT, &self.session_id.to_le_bytes());
        let (_, authenticated) = head.split_at_checked(NONCE_AT).ok_or_else(failed)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.ours.seal_in_place_separate_tag(nonce, Aad::from(authenticated), message);
        put(head, 4, tag.map_err(|_| failed())?.as_ref());
        Ok(())
    }

    /// Decrypts what follows the [`TRANSFORM_BYTES`] in place.
    pub fn open(&self, framed: &mut [u8]) -> Result<(), Failure> {
        let failed = || Failure::protocol("an encrypted message is not the host's");
        let (head, message) = framed.split_at_mut_checked(TRANSFORM_BYTES).ok_or_else(failed)?;
        let (start, authenticated) = head.split_at_checked(NONCE_AT).ok_or_else(failed)?;
        let (tag, nonce) = (start.get(4..).ok_or_else(failed)?, authenticated.get(..NONCE_LEN).ok_or_else(failed)?);
        let length = authenticated.get(LENGTH_AT - NONCE_AT..).and_then(<[u8]>::first_chunk::<4>).ok_or_else(failed)?;
        let session =
            authenticated.get(SESSION_AT - NONCE_AT..).and_then(<[u8]>::first_chunk::<8>).ok_or_else(failed)?;
        if u32::from_le_bytes(*length) as usize != message.len() || u64::from_le_bytes(*session) != self.session_id {
            return Err(failed());
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
        let opened = self.theirs.open_in_place_separate_tag(nonce, Aad::from(authenticated), tag, message);
        opened.map(drop).map_err(|_| failed())
    }
}

/// Copies `bytes` to `at`, as far as there is room.
pub(super) fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = into.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(session_id: u64) -> CipherKeys {
        CipherKeys::new(Cipher::Aes128Gcm, &[1; 16], &[1; 16], session_id).map_err(|f| f.to_string()).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let mut framed = [vec![0; TRANSFORM_BYTES], b"hello, host".to_vec()].concat();
        keys(7).seal(&mut framed).map_err(|f| f.to_string()).unwrap();
        assert_ne!(&framed[TRANSFORM_BYTES..], b"hello, host");
        for at in [4, NONCE_AT, LENGTH_AT, FLAGS_AT, SESSION_AT, TRANSFORM_BYTES] {
            let mut changed = framed.clone();
            changed[at] ^= 1;
            assert!(keys(7).open(&mut changed).is_err(), "byte {at}");
        }
        assert!(keys(8).open(&mut framed.clone()).is_err());
        assert!(keys(7).open(&mut framed[..20].to_vec()).is_err());
        keys(7).open(&mut framed).map_err(|f| f.to_string()).unwrap();
        assert_eq!(&framed[TRANSFORM_BYTES..], b"hello, host");
    }

    /// The protocol's crate has its own signatures, over other libraries.
    #[test]
    fn signatures_are_those_of_another_implementation() {
        for algorithm in [SigningAlgorithm::AesGmac, SigningAlgorithm::AesCmac] {
            let mut ours: Vec<u8> = (0..200).collect();
            ours[SIGNATURE_AT..SIGNATURE_AT + TAG_BYTES].fill(0);
            let id = u64::from_le_bytes(ours[MESSAGE_ID_AT..MESSAGE_ID_AT + 8].try_into().unwrap());
            let mut theirs = ours.clone();
            let key = SigningKey::new(algorithm, &[9; 16]).map_err(|f| f.to_string()).unwrap();
            key.sign(&mut ours).map_err(|f| f.to_string()).unwrap();
            smb2::crypto::signing::sign_message(&mut theirs, &[9; 16], algorithm, id, false).unwrap();
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn only_the_servers_signature_counts() {
        let gmac = SigningKey::new(SigningAlgorithm::AesGmac, &[9; 16]).map_err(|f| f.to_string()).unwrap();
        let mut message = vec![5; 100];
        message[SIGNATURE_AT..SIGNATURE_AT + TAG_BYTES].fill(0);
        let tag = gmac.tag(&message, true).unwrap();
        message[SIGNATURE_AT..SIGNATURE_AT + TAG_BYTES].copy_from_slice(&tag);
        assert!(gmac.verify(&mut message.clone()));
        let mut changed = message.clone();
        changed[99] ^= 1;
        assert!(!gmac.verify(&mut changed));
        message[SIGNATURE_AT..SIGNATURE_AT + TAG_BYTES].fill(0);
        assert!(!gmac.verify(&mut message.clone()), "an unsigned message");
        gmac.sign(&mut message).map_err(|f| f.to_string()).unwrap();
        assert!(!gmac.verify(&mut message), "a message of ours, sent back");
        assert!(!gmac.verify(&mut [0; 10]));
    }
}
