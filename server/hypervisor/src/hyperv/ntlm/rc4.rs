//! RC4, which NTLM's session security is made of. Weak as a cipher, and all that an NTLM host has: over TLS it seals
//! nothing.

/// The key stream, which goes on from message to message.
#[derive(Clone)]
pub(super) struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let mut state: [u8; 256] = std::array::from_fn(|n| n as u8);
        let mut j = 0_u8;
        for (n, key_byte) in (0..=u8::MAX).zip(key.iter().cycle()) {
            j = j.wrapping_add(state[usize::from(n)]).wrapping_add(*key_byte);
            state.swap(usize::from(n), usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    /// Encrypts or decrypts in place.
    pub(super) fn apply(&mut self, data: &mut [u8]) {
        for byte in data {
            self.i = self.i.wrapping_add(1);
            self.j = self.j.wrapping_add(self.state[usize::from(self.i)]);
            self.state.swap(usize::from(self.i), usize::from(self.j));
            let sum = self.state[usize::from(self.i)].wrapping_add(self.state[usize::from(self.j)]);
            *byte ^= self.state[usize::from(sum)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6229, 128-bit key 0x0102030405060708090a0b0c0d0e0f10, offset 0 and 16.
    #[test]
    fn the_key_stream_is_the_published_one() {
        let key: [u8; 16] = std::array::from_fn(|n| n as u8 + 1);
        let mut data = [0; 32];
        Rc4::new(&key).apply(&mut data);
        assert_eq!(hex::encode(data), "9ac7cc9a609d1ef7b2932899cde41b975248c4959014126a6e8a84f11d1a9e1c");
    }
}
