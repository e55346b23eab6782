//! The three messages (MS-NLMP 2.2.1), and how a password becomes a key (3.3.2).

use super::rc4::Rc4;
use super::{MAX_MESSAGE_BYTES, NtlmError, Session, hmac_md5, utf16};
use md4::{Digest as _, Md4};
use secrecy::{ExposeSecret as _, SecretString};

const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

const UNICODE: u32 = 0x0000_0001;
const REQUEST_TARGET: u32 = 0x0000_0004;
const SIGN: u32 = 0x0000_0010;
const SEAL: u32 = 0x0000_0020;
const NTLM: u32 = 0x0000_0200;
const ALWAYS_SIGN: u32 = 0x0000_8000;
const EXTENDED_SESSION_SECURITY: u32 = 0x0008_0000;
const TARGET_INFO: u32 = 0x0080_0000;
const VERSION: u32 = 0x0200_0000;
const KEY_128: u32 = 0x2000_0000;
const KEY_EXCHANGE: u32 = 0x4000_0000;
const KEY_56: u32 = 0x8000_0000;

const OFFERED: u32 = UNICODE
    | REQUEST_TARGET
    | SIGN
    | SEAL
    | NTLM
    | ALWAYS_SIGN
    | EXTENDED_SESSION_SECURITY
    | TARGET_INFO
    | VERSION
    | KEY_128
    | KEY_EXCHANGE
    | KEY_56;
/// Without these there is no NTLMv2 with sealed messages.
const NEEDED: u32 = UNICODE | SIGN | SEAL | EXTENDED_SESSION_SECURITY | TARGET_INFO | KEY_128 | KEY_EXCHANGE;

/// Windows 10 and NTLM revision 15; hosts look at none of it.
const OUR_VERSION: [u8; 8] = [10, 0, 0, 0, 0, 0, 0, 15];
/// Fixed part of a challenge, up to its version, which old hosts leave out.
const CHALLENGE_BYTES: usize = 48;
/// Fixed part of the last message, with version and integrity code.
const AUTHENTICATE_BYTES: usize = 88;
const MIC_AT: usize = 72;

/// Ids of the pairs within target information (2.2.2.1).
const AV_END: u16 = 0;
const AV_FLAGS: u16 = 6;
const AV_TIMESTAMP: u16 = 7;
const AV_TARGET_NAME: u16 = 9;
const AV_CHANNEL_BINDINGS: u16 = 10;
/// Flag of [`AV_FLAGS`]: the last message carries an integrity code.
const HAS_MIC: u32 = 2;
/// Pairs of one challenge.
const MAX_PAIRS: usize = 64;

/// 100-nanosecond steps from 1601 to 1970.
const TICKS_TO_1970: u64 = 116_444_736_000_000_000;

/// The first message.
pub(in crate::hyperv) fn negotiate() -> Vec<u8> {
    let mut message = Vec::with_capacity(40);
    message.extend_from_slice(SIGNATURE);
    message.extend_from_slice(&1_u32.to_le_bytes());
    message.extend_from_slice(&OFFERED.to_le_bytes());
    // Neither domain nor workstation.
    message.extend_from_slice(&[0; 16]);
    message.extend_from_slice(&OUR_VERSION);
    message
}

/// The host's answer to the first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hyperv) struct Challenge {
    flags: u32,
    nonce: [u8; 8],
    pairs: Vec<(u16, Vec<u8>)>,
    raw: Vec<u8>,
}

impl Challenge {
    pub(in crate::hyperv) fn parse(raw: &[u8]) -> Result<Self, NtlmError> {
        if raw.len() > MAX_MESSAGE_BYTES {
            return Err(NtlmError::TooLong);
        }
        let is_challenge = raw.starts_with(SIGNATURE) && read_u32(raw, 8) == Some(2) && raw.len() >= CHALLENGE_BYTES;
        if !is_challenge {
            return Err(NtlmError::Malformed);
        }
        let flags = read_u32(raw, 20).ok_or(NtlmError::Malformed)?;
        if flags & NEEDED != NEEDED {
            return Err(NtlmError::Weak);
        }
        let nonce = raw.get(24..32).and_then(|nonce| nonce.try_into().ok()).ok_or(NtlmError::Malformed)?;
        let length = usize::from(read_u16(raw, 40).ok_or(NtlmError::Malformed)?);
        let at = read_u32(raw, 44).ok_or(NtlmError::Malformed)? as usize;
        let info = at.checked_add(length).and_then(|end| raw.get(at..end)).ok_or(NtlmError::Malformed)?;
        Ok(Self { flags, nonce, pairs: read_pairs(info)?, raw: raw.to_vec() })
    }

    fn timestamp(&self) -> Option<u64> {
        let (_, value) = self.pairs.iter().find(|(id, _)| *id == AV_TIMESTAMP)?;
        Some(u64::from_le_bytes(value.as_slice().try_into().ok()?))
    }
}

fn read_pairs(mut info: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, NtlmError> {
    let mut pairs = Vec::new();
    for _ in 0..MAX_PAIRS {
        let id = read_u16(info, 0).ok_or(NtlmError::Malformed)?;
        if id == AV_END {
            return Ok(pairs);
        }
        let length = usize::from(read_u16(info, 2).ok_or(NtlmError::Malformed)?);
        let value = info.get(4..4 + length).ok_or(NtlmError::Malformed)?;
        pairs.push((id, value.to_vec()));
        info = info.get(4 + length..).unwrap_or_default();
    }
    Err(NtlmError::Malformed)
}

/// Who logs in, and what must be random or depends on the time. Has no `Debug`: it holds a password.
pub(in crate::hyperv) struct Secrets<'a> {
    /// `DOMAIN\user`, `user@domain` or `user`.
    pub account: &'a str,
    pub password: &'a SecretString,
    /// `HTTP/host`.
    pub target: &'a str,
    /// Hash that ties the login to the TLS connection it came over (3.3.2, `MsvAvChannelBindings`).
    pub channel_bindings: Option<[u8; 16]>,
    /// Our clock, for hosts that do not send theirs.
    pub unix_microseconds: u64,
    pub client_nonce: [u8; 8],
    pub session_key: [u8; 16],
}

/// The last message, and the session it opens.
pub(in crate::hyperv) fn authenticate(
    challenge: &Challenge,
    first: &[u8],
    secrets: &Secrets<'_>,
) -> Result<(Vec<u8>, Session), NtlmError> {
    let (domain, user) = split_account(secrets.account);
    let key = response_key(user, domain, secrets.password);
    let host_time = challenge.timestamp();
    let time = host_time.unwrap_or_else(|| TICKS_TO_1970.saturating_add(secrets.unix_microseconds.saturating_mul(10)));
    let info = target_info(challenge, secrets, host_time.is_some());
    let (nt_response, base_key) = nt_response(&key, challenge.nonce, secrets.client_nonce, time, &info);
    let lm_response = if host_time.is_some() {
        vec![0; 24]
    } else {
        let hash = hmac_md5(&key, &[&challenge.nonce, &secrets.client_nonce]);
        [hash.as_slice(), &secrets.client_nonce].concat()
    };
    let mut sealed_key = secrets.session_key;
    Rc4::new(&base_key).apply(&mut sealed_key);
    let flags = challenge.flags & OFFERED;
    let (domain, user) = (utf16(domain), utf16(user));
    let mut message = lay_out(flags, [&lm_response, &nt_response, &domain, &user, &[], &sealed_key])?;
    if host_time.is_some() {
        let code = hmac_md5(&secrets.session_key, &[first, &challenge.raw, &message]);
        if let Some(place) = message.get_mut(MIC_AT..AUTHENTICATE_BYTES) {
            place.copy_from_slice(&code);
        }
    }
    Ok((message, Session::new(&secrets.session_key)))
}

/// Fixed part and payloads, in the order of the fields: LM, NT, domain, user, workstation, session key.
fn lay_out(flags: u32, fields: [&[u8]; 6]) -> Result<Vec<u8>, NtlmError> {
    let mut message = Vec::new();
    message.extend_from_slice(SIGNATURE);
    message.extend_from_slice(&3_u32.to_le_bytes());
    let mut at = AUTHENTICATE_BYTES;
    for field in fields {
        let length = u16::try_from(field.len()).map_err(|_| NtlmError::LongName)?.to_le_bytes();
        message.extend_from_slice(&length);
        message.extend_from_slice(&length);
        message.extend_from_slice(&(at as u32).to_le_bytes());
        at += field.len();
    }
    message.extend_from_slice(&flags.to_le_bytes());
    message.extend_from_slice(&OUR_VERSION);
    message.extend_from_slice(&[0; 16]);
    for field in fields {
        message.extend_from_slice(field);
    }
    Ok(message)
}

/// `NTOWFv2`.
fn response_key(user: &str, domain: &str, password: &SecretString) -> [u8; 16] {
    let hash = Md4::digest(utf16(password.expose_secret()));
    hmac_md5(&hash, &[&utf16(&upper(user)), &utf16(domain)])
}

/// `NTLMv2_RESPONSE`, and the session's base key.
fn nt_response(key: &[u8; 16], host: [u8; 8], client: [u8; 8], time: u64, info: &[u8]) -> (Vec<u8>, [u8; 16]) {
    let mut temp = vec![1, 1, 0, 0, 0, 0, 0, 0];
    temp.extend_from_slice(&time.to_le_bytes());
    temp.extend_from_slice(&client);
    temp.extend_from_slice(&[0; 4]);
    temp.extend_from_slice(info);
    temp.extend_from_slice(&[0; 4]);
    let proof = hmac_md5(key, &[&host, &temp]);
    ([proof.as_slice(), &temp].concat(), hmac_md5(key, &[&proof]))
}

/// The host's pairs with ours added: the integrity code announced, the service meant, the TLS connection it came over.
fn target_info(challenge: &Challenge, secrets: &Secrets<'_>, with_mic: bool) -> Vec<u8> {
    let ours = [AV_FLAGS, AV_TARGET_NAME, AV_CHANNEL_BINDINGS];
    let mut info = Vec::new();
    let mut push = |id: u16, value: &[u8]| {
        info.extend_from_slice(&id.to_le_bytes());
        info.extend_from_slice(&(value.len() as u16).to_le_bytes());
        info.extend_from_slice(value);
    };
    let mut flags = 0;
    for (id, value) in &challenge.pairs {
        match *id {
            AV_FLAGS => flags = read_u32(value, 0).unwrap_or(0),
            id if ours.contains(&id) => {}
            id => push(id, value),
        }
    }
    if with_mic {
        push(AV_FLAGS, &(flags | HAS_MIC).to_le_bytes());
    }
    push(AV_CHANNEL_BINDINGS, &secrets.channel_bindings.unwrap_or_default());
    push(AV_TARGET_NAME, &utf16(secrets.target));
    push(AV_END, &[]);
    info
}

/// Domain and user. The host itself splits `user@domain`.
fn split_account(account: &str) -> (&str, &str) {
    account.split_once('\\').unwrap_or(("", account))
}

/// Windows' upper case: letter by letter, where one letter becomes one.
fn upper(text: &str) -> String {
    let one = |letter: char| {
        let mut upper = letter.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(one), None) => one,
            _ => letter,
        }
    };
    text.chars().map(one).collect()
}

fn read_u16(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Domain and server of MS-NLMP 4.2.1.
    const INFO: &str = "02000c0044006f006d00610069006e0001000c0053006500720076006500720000000000";
    const NONCE: [u8; 8] = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef];

    fn password() -> SecretString {
        SecretString::from("Password")
    }

    fn challenge_bytes(flags: u32, info: &[u8]) -> Vec<u8> {
        let mut raw = SIGNATURE.to_vec();
        raw.extend_from_slice(&2_u32.to_le_bytes());
        raw.extend_from_slice(&[0; 8]);
        raw.extend_from_slice(&flags.to_le_bytes());
        raw.extend_from_slice(&NONCE);
        raw.extend_from_slice(&[0; 8]);
        raw.extend_from_slice(&(info.len() as u16).to_le_bytes());
        raw.extend_from_slice(&(info.len() as u16).to_le_bytes());
        raw.extend_from_slice(&56_u32.to_le_bytes());
        raw.extend_from_slice(&OUR_VERSION);
        raw.extend_from_slice(info);
        raw
    }

    fn secrets(password: &SecretString) -> Secrets<'_> {
        Secrets {
            account: "Domain\\User",
            password,
            target: "HTTP/host",
            channel_bindings: None,
            unix_microseconds: 0,
            client_nonce: [0xaa; 8],
            session_key: [0x55; 16],
        }
    }

    /// MS-NLMP 4.2.4.1 and 4.2.4.2.
    #[test]
    fn responses_are_the_published_ones() {
        let key = response_key("User", "Domain", &password());
        assert_eq!(hex::encode(key), "0c868a403bfd7a93a3001ef22ef02e3f");
        let info = hex::decode(INFO).unwrap();
        let (response, base) = nt_response(&key, NONCE, [0xaa; 8], 0, &info);
        assert_eq!(hex::encode(&response[..16]), "68cd0ab851e51c96aabc927bebef6a1c");
        assert_eq!(hex::encode(base), "8de40ccadbc14a82f15cb0ad0de95ca3");
        let mut sealed = [0x55; 16];
        Rc4::new(&base).apply(&mut sealed);
        assert_eq!(hex::encode(sealed), "c5dad2544fc9799094ce1ce90bc9d03e");
        let lm = hmac_md5(&key, &[&NONCE, &[0xaa; 8]]);
        assert_eq!(hex::encode(lm), "86c35097ac9cec102554764a57cccc19");
    }

    #[test]
    fn the_last_message_holds_no_clear_secret_and_all_fields() {
        let raw = challenge_bytes(OFFERED, &hex::decode(INFO).unwrap());
        let challenge = Challenge::parse(&raw).unwrap();
        let password = password();
        let (message, _) = authenticate(&challenge, &negotiate(), &secrets(&password)).unwrap();
        assert_eq!(read_u32(&message, 8), Some(3));
        let field = |at: usize| {
            let length = usize::from(read_u16(&message, at).unwrap());
            let start = read_u32(&message, at + 4).unwrap() as usize;
            &message[start..start + length]
        };
        assert_eq!(field(28), utf16("Domain"));
        assert_eq!(field(36), utf16("User"));
        assert_eq!(field(12).len(), 24, "a host without a time gets an LMv2 response");
        assert_eq!(&message[MIC_AT..AUTHENTICATE_BYTES], [0; 16], "and no integrity code");
        let secret = utf16("Password");
        assert!(!message.windows(secret.len()).any(|window| window == secret));
    }

    #[test]
    fn a_host_that_sends_its_time_gets_an_integrity_code() {
        let mut info = hex::decode(INFO).unwrap();
        info.truncate(info.len() - 4);
        info.extend_from_slice(&[7, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]);
        let challenge = Challenge::parse(&challenge_bytes(OFFERED, &info)).unwrap();
        let password = password();
        let (mut message, _) = authenticate(&challenge, &negotiate(), &secrets(&password)).unwrap();
        let code: [u8; 16] = message[MIC_AT..AUTHENTICATE_BYTES].try_into().unwrap();
        message[MIC_AT..AUTHENTICATE_BYTES].fill(0);
        assert_eq!(code, hmac_md5(&[0x55; 16], &[&negotiate(), &challenge.raw, &message]));
    }

    #[test]
    fn weak_cut_and_hostile_challenges_are_refused() {
        let info = hex::decode(INFO).unwrap();
        for missing in [SIGN, SEAL, EXTENDED_SESSION_SECURITY, KEY_128, KEY_EXCHANGE, UNICODE] {
            assert_eq!(Challenge::parse(&challenge_bytes(OFFERED & !missing, &info)), Err(NtlmError::Weak));
        }
        let raw = challenge_bytes(OFFERED, &info);
        for length in 0..raw.len() {
            assert!(Challenge::parse(&raw[..length]).is_err(), "{length}");
        }
        let mut far = raw.clone();
        far[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Challenge::parse(&far), Err(NtlmError::Malformed));
        let many: Vec<u8> = [1_u8, 0, 0, 0].repeat(MAX_PAIRS + 1);
        assert_eq!(Challenge::parse(&challenge_bytes(OFFERED, &many)), Err(NtlmError::Malformed));
        assert_eq!(Challenge::parse(&vec![0; MAX_MESSAGE_BYTES + 1]), Err(NtlmError::TooLong));
    }

    #[test]
    fn accounts_are_split_as_windows_does() {
        assert_eq!(split_account("LAB\\backup"), ("LAB", "backup"));
        assert_eq!(split_account("backup@lab.example"), ("", "backup@lab.example"));
        assert_eq!(split_account("backup"), ("", "backup"));
        assert_eq!(upper("straße é"), "STRAßE É");
    }
}
