//! NTLMv2 by MS-NLMP: three messages that log a connection in, and the keys that seal what follows on it.
//!
//! Owns: the messages, the keys, the session's two directions.
//! Must never: answer a challenge that leaves out signing, sealing or 128-bit keys; fall back to NTLMv1; show a password.
//! Read next: `message.rs`, then `session.rs`.

mod message;
mod rc4;
mod session;

pub(super) use message::{Challenge, Secrets, authenticate, negotiate};
pub(super) use session::{SIGNATURE_BYTES, Session};

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;

/// Why a handshake or a sealed message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NtlmError {
    #[error("the challenge is no NTLM challenge, or is cut off")]
    Malformed,
    #[error("the challenge passes the limit of {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    #[error("the host does not offer NTLMv2 with signing, sealing and 128-bit keys")]
    Weak,
    #[error("account, domain or host name is too long for NTLM")]
    LongName,
    #[error("the message's signature is wrong: it was changed on its way, or is out of turn")]
    Signature,
}

/// Longest challenge. Windows sends some 300 bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    // HMAC takes keys of any length.
    let mut mac = Hmac::<Md5>::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
