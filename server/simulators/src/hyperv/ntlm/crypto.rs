//! The arithmetic of NTLM's second version: keys, signatures, sealing. Source: [MS-NLMP] 3.3.2, 3.4, test vectors of 4.2.4.

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};

/// RC4: obsolete everywhere but in NTLM.
pub(super) struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    pub fn new(key: &[u8; 16]) -> Self {
        let mut state: [u8; 256] = std::array::from_fn(|index| index as u8);
        let mut j = 0u8;
        for i in 0..256 {
            j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len()]);
            state.swap(i, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    /// Encrypts or decrypts in place, going on where the last call stopped.
    pub fn apply(&mut self, data: &mut [u8]) {
        for byte in data {
            self.i = self.i.wrapping_add(1);
            let a = self.state[usize::from(self.i)];
            self.j = self.j.wrapping_add(a);
            let b = self.state[usize::from(self.j)];
            self.state[usize::from(self.i)] = b;
            self.state[usize::from(self.j)] = a;
            *byte ^= self.state[usize::from(a.wrapping_add(b))];
        }
    }
}

pub(super) fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(super) fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `NTOWFv2`: the key that a password, an account and its domain make.
pub(super) fn ntowf_v2(password: &str, user: &str, domain: &str) -> [u8; 16] {
    let hash = md4::Md4::digest(utf16(password));
    hmac_md5(&hash, &[&utf16(&(user.to_uppercase() + domain))])
}

/// Which of the two ends sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Client,
    Server,
}

/// One direction of a session: signs and seals, or checks and opens.
pub(super) struct Direction {
    signing: [u8; 16],
    sealing_key: [u8; 16],
    sealing: Rc4,
    sequence: u32,
}

impl Direction {
    /// Keys of extended session security with 128 bits.
    pub fn new(session_key: &[u8; 16], from: From) -> Self {
        let (sign, seal): (&[u8], &[u8]) = match from {
            From::Client => (
                b"session key to client-to-server signing key magic constant\0",
                b"session key to client-to-server sealing key magic constant\0",
            ),
            From::Server => (
                b"session key to server-to-client signing key magic constant\0",
                b"session key to server-to-client sealing key magic constant\0",
            ),
        };
        let (signing, sealing_key) = (md5(&[session_key, sign]), md5(&[session_key, seal]));
        Self { signing, sealing_key, sealing: Rc4::new(&sealing_key), sequence: 0 }
    }

    /// The signature of a message that is not sealed. SPNEGO starts the key stream, not the
    /// counting, over after it ([MS-SPNG] 3.2.5.1).
    pub fn sign_and_reset(&mut self, message: &[u8]) -> [u8; 16] {
        let mac = hmac_md5(&self.signing, &[&self.sequence.to_le_bytes(), message]);
        let signature = self.signature(&mac);
        self.sealing = Rc4::new(&self.sealing_key);
        signature
    }

    /// Encrypts in place; answers the signature.
    pub fn seal(&mut self, message: &mut [u8]) -> [u8; 16] {
        let mac = hmac_md5(&self.signing, &[&self.sequence.to_le_bytes(), message]);
        self.sealing.apply(message);
        self.signature(&mac)
    }

    /// Decrypts in place; false when the signature is not the sender's, or not of this message.
    pub fn open(&mut self, message: &mut [u8], signature: &[u8]) -> bool {
        self.sealing.apply(message);
        let mac = hmac_md5(&self.signing, &[&self.sequence.to_le_bytes(), message]);
        self.signature(&mac) == signature
    }

    fn signature(&mut self, mac: &[u8; 16]) -> [u8; 16] {
        let mut signature = [0; 16];
        signature[0] = 1;
        signature[4..12].copy_from_slice(&mac[..8]);
        self.sealing.apply(&mut signature[4..12]);
        signature[12..].copy_from_slice(&self.sequence.to_le_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> [u8; 16] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    #[test]
    fn rc4_is_rc4() {
        // RFC 6229, 128-bit key 0102…10, first 16 bytes of the stream.
        let mut stream = [0; 16];
        Rc4::new(&key("0102030405060708090a0b0c0d0e0f10")).apply(&mut stream);
        assert_eq!(stream, key("9ac7cc9a609d1ef7b2932899cde41b97"));
    }

    #[test]
    fn keys_and_sealing_are_those_of_the_specification() {
        let owf = ntowf_v2("Password", "User", "Domain");
        assert_eq!(owf, key("0c868a403bfd7a93a3001ef22ef02e3f"));
        let target_info =
            hex::decode("02000c0044006f006d00610069006e0001000c005300650072007600650072000000000000000000");
        let mut temp = hex::decode("01010000000000000000000000000000aaaaaaaaaaaaaaaa00000000").unwrap();
        temp.extend(target_info.unwrap());
        let challenge = hex::decode("0123456789abcdef").unwrap();
        let proof = hmac_md5(&owf, &[&challenge, &temp]);
        assert_eq!(proof, key("68cd0ab851e51c96aabc927bebef6a1c"));
        let base = hmac_md5(&owf, &[&proof]);
        assert_eq!(base, key("8de40ccadbc14a82f15cb0ad0de95ca3"));
        let mut exported = key("c5dad2544fc9799094ce1ce90bc9d03e");
        Rc4::new(&base).apply(&mut exported);
        assert_eq!(exported, [0x55; 16]);
        let mut sealed = utf16("Plaintext");
        let signature = Direction::new(&exported, From::Client).seal(&mut sealed);
        assert_eq!(hex::encode(&sealed), "54e50165bf1936dc996020c1811b0f06fb5f");
        assert_eq!(hex::encode(signature), "010000007fb38ec5c55d497600000000");
        let mut opener = Direction::new(&exported, From::Client);
        assert!(opener.open(&mut sealed, &signature));
        assert_eq!(sealed, utf16("Plaintext"));
        assert!(!opener.open(&mut sealed, &signature), "each message has its number");
    }
}
