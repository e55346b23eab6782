//! Session security with extended session security, 128-bit keys and key exchange (MS-NLMP 3.4).

use super::rc4::Rc4;
use super::{NtlmError, hmac_md5};
use md5::{Digest as _, Md5};

/// Bytes of a signature: version, checksum, sequence number.
pub(in crate::hyperv) const SIGNATURE_BYTES: usize = 16;
const VERSION: [u8; 4] = 1_u32.to_le_bytes();

const CLIENT_SIGNING: &[u8] = b"session key to client-to-server signing key magic constant\0";
const SERVER_SIGNING: &[u8] = b"session key to server-to-client signing key magic constant\0";
const CLIENT_SEALING: &[u8] = b"session key to client-to-server sealing key magic constant\0";
const SERVER_SEALING: &[u8] = b"session key to server-to-client sealing key magic constant\0";

/// One direction.
struct Direction {
    sign: [u8; 16],
    cipher: Rc4,
    sequence: u32,
}

impl Direction {
    fn new(exported: &[u8; 16], signing: &[u8], sealing: &[u8]) -> Self {
        let key =
            |magic: &[u8]| -> [u8; 16] { Md5::new().chain_update(exported).chain_update(magic).finalize().into() };
        Self { sign: key(signing), cipher: Rc4::new(&key(sealing)), sequence: 0 }
    }

    /// The signature of `clear`, whose sealed form has gone through the cipher already.
    fn signature(&mut self, clear: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let sequence = self.sequence.to_le_bytes();
        self.sequence = self.sequence.wrapping_add(1);
        let mac = hmac_md5(&self.sign, &[&sequence, clear]);
        let mut signature = [0; SIGNATURE_BYTES];
        signature[..4].copy_from_slice(&VERSION);
        signature[4..12].copy_from_slice(&mac[..8]);
        self.cipher.apply(&mut signature[4..12]);
        signature[12..].copy_from_slice(&sequence);
        signature
    }
}

/// A logged-in connection's keys. Messages are sealed and opened in their order; none may be skipped.
pub(in crate::hyperv) struct Session {
    outgoing: Direction,
    incoming: Direction,
}

impl Session {
    pub(super) fn new(exported: &[u8; 16]) -> Self {
        Self {
            outgoing: Direction::new(exported, CLIENT_SIGNING, CLIENT_SEALING),
            incoming: Direction::new(exported, SERVER_SIGNING, SERVER_SEALING),
        }
    }

    /// Signature and sealed form of the next message out.
    pub(in crate::hyperv) fn seal(&mut self, clear: &[u8]) -> ([u8; SIGNATURE_BYTES], Vec<u8>) {
        let mut sealed = clear.to_vec();
        self.outgoing.cipher.apply(&mut sealed);
        (self.outgoing.signature(clear), sealed)
    }

    /// The next message in.
    pub(in crate::hyperv) fn open(
        &mut self,
        signature: &[u8; SIGNATURE_BYTES],
        sealed: &[u8],
    ) -> Result<Vec<u8>, NtlmError> {
        let mut clear = sealed.to_vec();
        self.incoming.cipher.apply(&mut clear);
        let expected = self.incoming.signature(&clear);
        // Both sides are secret-dependent; the comparison tells nothing by its time.
        let differs = expected.iter().zip(signature).fold(0, |differs, (a, b)| differs | (a ^ b));
        if differs == 0 { Ok(clear) } else { Err(NtlmError::Signature) }
    }

    /// The host's side of the same keys, for tests.
    #[cfg(test)]
    pub(in crate::hyperv) fn mirrored(exported: &[u8; 16]) -> Self {
        let Self { outgoing, incoming } = Self::new(exported);
        Self { outgoing: incoming, incoming: outgoing }
    }

    #[cfg(test)]
    pub(in crate::hyperv) fn of_key(exported: &[u8; 16]) -> Self {
        Self::new(exported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MS-NLMP 4.2.4.4: "Plaintext" sealed under the random session key 0x55…
    #[test]
    fn a_message_is_sealed_as_published() {
        let mut session = Session::new(&[0x55; 16]);
        assert_eq!(hex::encode(session.outgoing.sign), "4788dc861b4782f35d43fd98fe1a2d39");
        let (signature, sealed) = session.seal(&super::super::utf16("Plaintext"));
        assert_eq!(hex::encode(sealed), "54e50165bf1936dc996020c1811b0f06fb5f");
        assert_eq!(hex::encode(signature), "010000007fb38ec5c55d497600000000");
    }

    #[test]
    fn both_directions_go_on_from_message_to_message() {
        let (mut client, mut host) = (Session::new(&[7; 16]), Session::mirrored(&[7; 16]));
        for round in 0..5_u8 {
            let (signature, sealed) = client.seal(&[round; 40]);
            assert_eq!(host.open(&signature, &sealed).unwrap(), [round; 40]);
            let (signature, sealed) = host.seal(&[round; 70]);
            assert_eq!(client.open(&signature, &sealed).unwrap(), [round; 70]);
        }
    }

    #[test]
    fn a_changed_or_repeated_message_is_refused() {
        let (mut client, mut host) = (Session::new(&[7; 16]), Session::mirrored(&[7; 16]));
        let (signature, sealed) = client.seal(b"first");
        host.open(&signature, &sealed).unwrap();
        assert_eq!(host.open(&signature, &sealed), Err(NtlmError::Signature), "a repetition");
        for bit in 0..8 {
            let (mut client, mut host) = (Session::new(&[7; 16]), Session::mirrored(&[7; 16]));
            let (signature, mut sealed) = client.seal(b"first");
            sealed[2] ^= 1 << bit;
            assert_eq!(host.open(&signature, &sealed), Err(NtlmError::Signature));
        }
    }
}
