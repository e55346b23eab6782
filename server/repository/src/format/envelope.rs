//! The 48-byte header every object starts with, and objects that are one sealed payload behind it.

use super::crypto::{GENERATIONS_MAX, Keys, TAG_BYTES};
use super::names::ObjectId;
use super::{FORMAT_VERSION, Fields};
use crate::error::{Error, Result};

/// Length of a header.
pub const HEADER_BYTES: usize = 48;

/// Kinds of objects, by their first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Magic {
    Config,
    Key,
    Pack,
    Index,
    Point,
    Stamp,
    Lease,
    Epoch,
    Challenge,
    Void,
}

impl Magic {
    pub const fn bytes(self) -> [u8; 8] {
        *match self {
            Self::Config => b"SFCONFIG",
            Self::Key => b"SFKEY\0\0\0",
            Self::Pack => b"SFPACK\0\0",
            Self::Index => b"SFINDEX\0",
            Self::Point => b"SFPOINT\0",
            Self::Stamp => b"SFSTAMP\0",
            Self::Lease => b"SFLEASE\0",
            Self::Epoch => b"SFEPOCH\0",
            Self::Challenge => b"SFCHALNG",
            Self::Void => b"SFVOID\0\0",
        }
    }

    /// The word in the key derivation.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Pack => "pack",
            Self::Index => "index",
            Self::Point => "point",
            Self::Stamp => "stamp",
            Self::Lease => "lease",
            Self::Epoch => "epoch",
            Self::Challenge => "challenge",
            Self::Void => "void",
        }
    }
}

/// What the header says. `id` is the object's random id, also the salt of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub repository: ObjectId,
    pub id: ObjectId,
    /// Key slots: their kind. Elsewhere the generation of the keys it is sealed with.
    pub flags: u32,
}

impl Header {
    /// The generation of keys, of any object but a key slot.
    pub fn generation(&self, object: &str) -> Result<u8> {
        let known = u8::try_from(self.flags).ok().filter(|generation| usize::from(*generation) < GENERATIONS_MAX);
        known.ok_or_else(|| Error::damaged(object, "its header names a key generation that cannot be"))
    }

    pub fn encode(&self, magic: Magic) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&magic.bytes());
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.flags.to_le_bytes());
        out[16..32].copy_from_slice(&self.repository);
        out[32..].copy_from_slice(&self.id);
        out
    }

    /// Reads and checks magic and version. `object` names it in errors.
    pub fn decode(magic: Magic, bytes: &[u8], object: &str) -> Result<Self> {
        let short = || Error::damaged(object, "it is shorter than its header");
        let mut fields = Fields(bytes);
        if fields.array::<8>().ok_or_else(short)? != magic.bytes() {
            return Err(Error::damaged(object, "it does not start as such an object does"));
        }
        let version = fields.u32().ok_or_else(short)?;
        if version != FORMAT_VERSION {
            return Err(Error::UnknownVersion { object: object.to_owned(), version, known: FORMAT_VERSION });
        }
        let flags = fields.u32().ok_or_else(short)?;
        let repository = fields.array().ok_or_else(short)?;
        let id = fields.array().ok_or_else(short)?;
        Ok(Self { repository, id, flags })
    }
}

/// Seals a payload as the object `name`, with the newest keys: header, ciphertext, tag.
pub fn seal(keys: &Keys, magic: Magic, id: ObjectId, name: &str, payload: &[u8]) -> Result<Vec<u8>> {
    seal_with(keys, keys.newest(), magic, id, name, payload)
}

/// The same with the keys of a generation.
pub fn seal_with(
    keys: &Keys,
    generation: u8,
    magic: Magic,
    id: ObjectId,
    name: &str,
    payload: &[u8],
) -> Result<Vec<u8>> {
    let header = Header { repository: keys.repository, id, flags: u32::from(generation) }.encode(magic);
    let key = keys.object_key(generation, magic.purpose(), &id, || name.to_owned())?;
    let sealed = key.seal(0, &[&header, name.as_bytes()].concat(), payload)?;
    Ok([&header[..], &sealed].concat())
}

/// Opens the object `name`.
pub fn open(keys: &Keys, magic: Magic, name: &str, bytes: &[u8]) -> Result<(Header, Vec<u8>)> {
    let header = Header::decode(magic, bytes, name)?;
    if header.repository != keys.repository {
        return Err(Error::damaged(name, "it belongs to another repository"));
    }
    let Some((head, sealed)) = bytes.split_at_checked(HEADER_BYTES).filter(|(_, rest)| rest.len() >= TAG_BYTES) else {
        return Err(Error::damaged(name, "it is cut short"));
    };
    let key = keys.object_key(header.generation(name)?, magic.purpose(), &header.id, || name.to_owned())?;
    let payload = key.open(0, &[head, name.as_bytes()].concat(), sealed);
    Ok((header, payload.ok_or_else(|| Error::damaged(name, "its bytes are not those that were written"))?))
}
