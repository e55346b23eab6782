//! External data representation (RFC 4506): what remote procedure calls are written in. Owns lengths and limits of
//! what a server sends. Must never trust a length before the bytes are there.

use bytes::{Buf, Bytes, BytesMut};

use crate::backend::BackendErrorKind;
use crate::backend::share::Failure;

/// Length in bytes of one unit; everything is padded to it.
const UNIT_BYTES: usize = 4;

/// Builds a message.
#[derive(Default)]
pub(super) struct Encoder(BytesMut);

impl Encoder {
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Bytes of a fixed length, padded.
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(UNIT_BYTES), 0);
        self
    }

    /// Length and bytes, padded.
    pub fn opaque(self, bytes: &[u8]) -> Self {
        self.u32(bytes.len() as u32).fixed(bytes)
    }

    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// Reads a message.
pub(super) struct Decoder(Bytes);

fn damaged() -> Failure {
    Failure::new(BackendErrorKind::Other, "the server sent a reply that cannot be read")
}

impl Decoder {
    pub fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Failure> {
        self.0.try_get_u32().map_err(|_| damaged())
    }

    pub fn u64(&mut self) -> Result<u64, Failure> {
        self.0.try_get_u64().map_err(|_| damaged())
    }

    /// A condition; anything but 0 and 1 is damage.
    pub fn bool(&mut self) -> Result<bool, Failure> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(damaged()),
        }
    }

    /// Bytes of a fixed length, with their padding.
    pub fn fixed(&mut self, length: usize) -> Result<Bytes, Failure> {
        let padded = length.checked_next_multiple_of(UNIT_BYTES).ok_or_else(damaged)?;
        if padded > self.0.len() {
            return Err(damaged());
        }
        let mut bytes = self.0.split_to(padded);
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Length, at most `most`, and bytes.
    pub fn opaque(&mut self, most: usize) -> Result<Bytes, Failure> {
        let length = self.u32()? as usize;
        if length > most {
            return Err(damaged());
        }
        self.fixed(length)
    }

    pub fn skip(&mut self, length: usize) -> Result<(), Failure> {
        self.fixed(length).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(number in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let message = Encoder::default().opaque(&bytes).u64(number).u32(1).finish();
            prop_assert_eq!(message.len() % 4, 0);
            let mut decoder = Decoder::new(message);
            prop_assert_eq!(decoder.opaque(50).unwrap(), bytes);
            prop_assert_eq!(decoder.u64().unwrap(), number);
            prop_assert!(decoder.bool().unwrap());
            prop_assert!(decoder.u32().is_err());
        }

        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut decoder = Decoder::new(bytes.into());
            while decoder.opaque(16).is_ok() {}
            let _ = decoder.bool();
        }
    }

    #[test]
    fn a_length_past_the_end_or_the_limit_is_damage() {
        for (length, most) in [(u32::MAX, usize::MAX), (5, usize::MAX), (4, 3)] {
            let message = Encoder::default().u32(length).u32(0).finish();
            assert!(Decoder::new(message).opaque(most).is_err(), "{length}");
        }
    }
}
