//! The key that signs an SMB 2.1 session, from what goes over the wire and the password: who sits between client and
//! server and knows the password can change requests. Only for that; sessions of SMB 3 have other keys.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md4::{Digest as _, Md4};
use md5::Md5;
use smb2::crypto::signing::{SigningAlgorithm, sign_message};

/// MS-SMB2 2.2.1: where a message has its command, its number, and what comes after its header.
const COMMAND_AT: usize = 12;
const ID_AT: usize = 24;
const BODY_AT: usize = 64;
const SESSION_SETUP: u8 = 1;
const WRITE: u8 = 9;
/// MS-SMB2 2.2.21: where a WRITE says where its data is and how long.
const DATA_AT: usize = BODY_AT + 2;
const LENGTH_AT: usize = BODY_AT + 4;

pub fn is_write(message: &[u8]) -> bool {
    message.starts_with(b"\xfeSMB") && message.get(COMMAND_AT) == Some(&WRITE)
}

fn number(message: &[u8], at: usize, bytes: usize) -> usize {
    message[at..at + bytes].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

fn hmac_md5(key: &[u8], message: &[u8]) -> Vec<u8> {
    Hmac::<Md5>::new_from_slice(key).unwrap().chain_update(message).finalize().into_bytes().to_vec()
}

fn rc4(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut state: Vec<u8> = (0..=u8::MAX).collect();
    let mut other = 0;
    for at in 0..state.len() {
        other = (other + usize::from(state[at]) + usize::from(key[at % key.len()])) % 256;
        state.swap(at, other);
    }
    let (mut at, mut other) = (0, 0);
    let mut next = || {
        at = (at + 1) % 256;
        other = (other + usize::from(state[at])) % 256;
        state.swap(at, other);
        state[(usize::from(state[at]) + usize::from(state[other])) % 256]
    };
    bytes.iter().map(|byte| byte ^ next()).collect()
}

/// The session's key, when this is the request that ends signing in: MS-NLMP 2.2.1.3 and 3.3.2.
pub fn session_key(message: &[u8], password: &str) -> Option<Vec<u8>> {
    if message.get(COMMAND_AT) != Some(&SESSION_SETUP) {
        return None;
    }
    let start = message.windows(12).position(|bytes| bytes == b"NTLMSSP\0\x03\0\0\0")?;
    let sign_in = &message[start..];
    let field = |at: usize| &sign_in[number(sign_in, at + 4, 4)..][..number(sign_in, at, 2)];
    let (proof, domain, user, encrypted) = (&field(20)[..16], field(28), field(36), field(52));
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let units: Vec<u16> = user.chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let whose = [utf16(&String::from_utf16(&units).unwrap().to_uppercase()), domain.to_vec()].concat();
    let account = hmac_md5(&Md4::digest(utf16(password)), &whose);
    Some(rc4(&hmac_md5(&account, proof), encrypted))
}

/// A request to write, with its length before it, made to write half as much, and signed again.
pub fn with_half_its_data(framed: &[u8], key: &[u8]) -> Vec<u8> {
    let mut message = framed[4..].to_vec();
    let half = number(&message, LENGTH_AT, 4) / 2;
    message.truncate(number(&message, DATA_AT, 2) + half);
    message[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&(half as u32).to_le_bytes());
    let id = number(&message, ID_AT, 8) as u64;
    sign_message(&mut message, key, SigningAlgorithm::HmacSha256, id, false).unwrap();
    [&(message.len() as u32).to_be_bytes()[..], &message].concat()
}
