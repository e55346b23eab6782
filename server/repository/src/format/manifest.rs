//! Manifests: a restore point's description, signed and sealed. Its creation is the commit of the point.

use super::crypto::Keys;
use super::envelope::{self, Magic};
use super::names::{self, ObjectId};
use super::{ChunkId, Fields, map};
use crate::error::{Error, Result};
use crate::point::{Point, PointId};

/// Largest manifest object.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 20;
/// Most disks of a point.
pub const POINT_DISKS_MAX: usize = 256;
const SIGNATURE_BYTES: usize = 64;
const SIGNED_PREFIX: &[u8] = b"stillframe 1 point";

fn signed_message(repository: &ObjectId, id: &ObjectId, body: &[u8]) -> Vec<u8> {
    [SIGNED_PREFIX, repository, id, body].concat()
}

/// Makes the manifest object, with the keys of the point's generation; `id` is random.
pub fn encode(keys: &Keys, id: ObjectId, point: &Point) -> Result<Vec<u8>> {
    let generation = point.key_generation;
    let body = serde_json::to_vec(point).map_err(|_| Error::Internal("manifest"))?;
    if body.len() as u64 > MANIFEST_BYTES_MAX / 2 {
        return Err(Error::Limit { what: "manifest in bytes", value: body.len() as u64 });
    }
    let payload = signed(keys, generation, &id, &body)?;
    envelope::seal_with(keys, generation, Magic::Point, id, &names::point(point.id), &payload)
}

fn signed(keys: &Keys, generation: u8, id: &ObjectId, body: &[u8]) -> Result<Vec<u8>> {
    let mut payload = (body.len() as u32).to_le_bytes().to_vec();
    payload.extend(body);
    payload.extend(keys.sign(generation, &signed_message(&keys.repository, id, body))?);
    Ok(payload)
}

/// The payload of a manifest of any bytes, signed with the newest keys.
#[cfg(any(test, feature = "fuzzing"))]
pub fn sign_body(keys: &Keys, id: ObjectId, body: &[u8]) -> Vec<u8> {
    signed(keys, keys.newest(), &id, body).unwrap_or_default()
}

/// Reads the manifest of `point` and checks everything about it that it can tell by itself.
pub fn decode(keys: &Keys, point: PointId, bytes: &[u8]) -> Result<Point> {
    let name = names::point(point);
    let damaged = |reason: &str| Error::damaged(&name, reason);
    let (header, payload) = envelope::open(keys, Magic::Point, &name, bytes)?;
    let mut fields = Fields(&payload);
    let length = fields.u32().ok_or_else(|| damaged("it is cut short"))? as usize;
    let body = fields.take(length).ok_or_else(|| damaged("it is cut short"))?;
    let message = signed_message(&header.repository, &header.id, body);
    let generation = header.generation(&name)?;
    if fields.0.len() != SIGNATURE_BYTES || !keys.signature_holds(generation, &message, fields.0) {
        return Err(damaged("its signature does not hold"));
    }
    let mut manifest: Point = serde_json::from_slice(body).map_err(|error| Error::damaged(&name, error.to_string()))?;
    manifest.key_generation = generation;
    if manifest.id != point {
        return Err(damaged("it describes another point"));
    }
    let sound = manifest.disks.len() <= POINT_DISKS_MAX
        && manifest.disks.windows(2).all(|pair| matches!(pair, [a, b] if a.config.key < b.config.key))
        && manifest.disks.iter().all(|disk| disk.size_bytes <= map::DISK_BYTES_MAX && root(&disk.map_root).is_some());
    if !sound {
        return Err(damaged("its list of disks makes no sense"));
    }
    Ok(manifest)
}

/// The root of a disk's map.
pub fn root(text: &str) -> Option<ChunkId> {
    let mut id = ChunkId::ZERO;
    hex::decode_to_slice(text, &mut id.0).ok()?;
    Some(id)
}
