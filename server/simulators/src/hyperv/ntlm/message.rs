//! The three messages of NTLM as bytes. Source: [MS-NLMP] 2.2.1, 2.2.2.1.

/// Flags, [MS-NLMP] 2.2.2.5.
pub(super) mod flag {
    pub const UNICODE: u32 = 0x1;
    pub const REQUEST_TARGET: u32 = 0x4;
    pub const SIGN: u32 = 0x10;
    pub const SEAL: u32 = 0x20;
    pub const NTLM: u32 = 0x200;
    pub const ALWAYS_SIGN: u32 = 0x8000;
    pub const TARGET_IS_SERVER: u32 = 0x2_0000;
    pub const EXTENDED_SECURITY: u32 = 0x8_0000;
    pub const TARGET_INFO: u32 = 0x80_0000;
    pub const VERSION: u32 = 0x200_0000;
    pub const KEYS_128: u32 = 0x2000_0000;
    pub const KEY_EXCHANGE: u32 = 0x4000_0000;
    pub const KEYS_56: u32 = 0x8000_0000;
}

/// Ids of the pairs in a target info, [MS-NLMP] 2.2.2.1.
pub(super) mod pair {
    pub const END: u16 = 0;
    pub const COMPUTER: u16 = 1;
    pub const DOMAIN: u16 = 2;
    pub const DNS_COMPUTER: u16 = 3;
    pub const DNS_DOMAIN: u16 = 4;
    pub const FLAGS: u16 = 6;
    pub const TIMESTAMP: u16 = 7;
    pub const CHANNEL_BINDINGS: u16 = 10;
}

/// In the pair of flags: the message carries a MIC.
pub(super) const PAIR_FLAG_MIC: u32 = 2;
const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";
/// Windows Server 2022 (10.0, build 20348), NTLM revision 15.
const VERSION: [u8; 8] = [10, 0, 0x7c, 0x4f, 0, 0, 0, 15];
/// Where an AUTHENTICATE message has its MIC.
const MIC_OFFSET: usize = 72;
/// Pairs in a target info.
const PAIRS_MAX: usize = 32;

fn bytes<const N: usize>(message: &[u8], offset: usize) -> Option<[u8; N]> {
    message.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn number(message: &[u8], offset: usize) -> Option<u32> {
    bytes(message, offset).map(u32::from_le_bytes)
}

/// The bytes that a field at `offset` points to.
fn field(message: &[u8], offset: usize) -> Option<&[u8]> {
    let length = usize::from(u16::from_le_bytes(bytes(message, offset)?));
    let start = number(message, offset + 4)? as usize;
    message.get(start..start.checked_add(length)?)
}

fn text(message: &[u8], offset: usize) -> Option<String> {
    let (units, rest) = field(message, offset)?.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    String::from_utf16(&units.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>()).ok()
}

fn kind(message: &[u8]) -> Option<u32> {
    if message.starts_with(SIGNATURE) { number(message, 8) } else { None }
}

/// Flags of a NEGOTIATE message.
pub(super) fn negotiate_flags(message: &[u8]) -> Option<u32> {
    if kind(message)? == 1 { number(message, 12) } else { None }
}

/// A CHALLENGE message.
pub(super) fn challenge(flags: u32, challenge: [u8; 8], target: &[u8], target_info: &[u8]) -> Vec<u8> {
    const PAYLOAD: usize = 56;
    let mut out = Vec::with_capacity(PAYLOAD + target.len() + target_info.len());
    let field = |out: &mut Vec<u8>, length: usize, offset: usize| {
        let length = (length as u16).to_le_bytes();
        out.extend(length);
        out.extend(length);
        out.extend((offset as u32).to_le_bytes());
    };
    out.extend(SIGNATURE);
    out.extend(2u32.to_le_bytes());
    field(&mut out, target.len(), PAYLOAD);
    out.extend(flags.to_le_bytes());
    out.extend(challenge);
    out.extend([0; 8]);
    field(&mut out, target_info.len(), PAYLOAD + target.len());
    out.extend(VERSION);
    out.extend(target);
    out.extend(target_info);
    out
}

/// One pair of a target info.
pub(super) fn push_pair(out: &mut Vec<u8>, id: u16, value: &[u8]) {
    out.extend(id.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
}

/// The value of a pair; the outer `None` when the list is damaged.
#[allow(clippy::option_option)]
pub(super) fn find_pair(mut pairs: &[u8], wanted: u16) -> Option<Option<&[u8]>> {
    for _ in 0..PAIRS_MAX {
        let id = u16::from_le_bytes(bytes(pairs, 0)?);
        let length = usize::from(u16::from_le_bytes(bytes(pairs, 2)?));
        let value = pairs.get(4..4 + length)?;
        if id == wanted {
            return Some(Some(value));
        }
        if id == pair::END {
            return Some(None);
        }
        pairs = &pairs[4 + length..];
    }
    None
}

/// An AUTHENTICATE message.
pub(super) struct Authenticate {
    pub nt_response: Vec<u8>,
    pub domain: String,
    pub user: String,
    pub session_key: Vec<u8>,
    pub flags: u32,
    /// The MIC and the whole message with zeros in its place.
    pub mic: Option<([u8; 16], Vec<u8>)>,
}

impl Authenticate {
    pub fn parse(message: &[u8]) -> Option<Self> {
        if kind(message)? != 3 {
            return None;
        }
        let mic = bytes(message, MIC_OFFSET).map(|mic| {
            let mut without = message.to_vec();
            without[MIC_OFFSET..MIC_OFFSET + 16].fill(0);
            (mic, without)
        });
        Some(Self {
            nt_response: field(message, 20)?.to_vec(),
            domain: text(message, 28)?,
            user: text(message, 36)?,
            session_key: field(message, 52)?.to_vec(),
            flags: number(message, 60)?,
            mic,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_messages_are_refused() {
        assert_eq!(negotiate_flags(b"NTLMSSP\0\x01\0\0\0\x05\0\0\0"), Some(5));
        for length in 0..16 {
            assert_eq!(negotiate_flags(&b"NTLMSSP\0\x01\0\0\0\x05\0\0\0"[..length]), None, "{length}");
        }
        let mut message = vec![0; 88];
        message[..8].copy_from_slice(SIGNATURE);
        message[8] = 3;
        assert!(Authenticate::parse(&message).is_some());
        message[20] = 1;
        message[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Authenticate::parse(&message).is_none(), "a field that points outside");
    }

    #[test]
    fn pairs_end_where_they_say() {
        let mut pairs = Vec::new();
        push_pair(&mut pairs, pair::FLAGS, &[2, 0, 0, 0]);
        assert_eq!(find_pair(&pairs, pair::CHANNEL_BINDINGS), None, "no end");
        push_pair(&mut pairs, pair::END, &[]);
        assert_eq!(find_pair(&pairs, pair::CHANNEL_BINDINGS), Some(None));
        assert_eq!(find_pair(&pairs, pair::FLAGS), Some(Some(&[2, 0, 0, 0][..])));
    }
}
