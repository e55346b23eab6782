//! Names of objects. Only this crate makes them.

use uuid::Uuid;

use crate::point::PointId;

/// The repository's configuration; its creation completes `init`.
pub const CONFIG: &str = "config";
/// For people.
pub const README: &str = "README-RECOVERY.txt";
/// The format document.
pub const FORMAT: &str = "repository-format.md";
/// Key slots.
pub const KEYS: &str = "keys/";
/// Packs.
pub const PACKS: &str = "packs/";
/// Index segments.
pub const INDEX: &str = "index/";
/// Stamps.
pub const STAMPS: &str = "stamps/";
/// Manifests.
pub const POINTS: &str = "points/";
/// Leases and their renewals.
pub const LEASES: &str = "leases/";
/// Lists of condemned packs.
pub const EPOCHS: &str = "epochs/";
/// Leases a collector asked after.
pub const CHALLENGES: &str = "challenges/";
/// Leases a collector declared dead.
pub const VOIDS: &str = "voids/";

/// A random 16-byte id of an object.
pub type ObjectId = [u8; 16];

pub fn key(id: &ObjectId) -> String {
    format!("{KEYS}{}", hex::encode(id))
}

pub fn pack(id: &ObjectId) -> String {
    let text = hex::encode(id);
    format!("{PACKS}{}/{text}", text.get(..2).unwrap_or_default())
}

pub fn segment(id: &ObjectId) -> String {
    format!("{INDEX}{}", hex::encode(id))
}

pub fn stamp(id: &ObjectId) -> String {
    format!("{STAMPS}{}", hex::encode(id))
}

pub fn point(id: PointId) -> String {
    format!("{POINTS}{id}")
}

pub fn lease(id: &ObjectId) -> String {
    format!("{LEASES}{}", hex::encode(id))
}

/// The `sequence`-th renewal of a lease, from 1.
pub fn renewal(id: &ObjectId, sequence: u64) -> String {
    format!("{LEASES}{}.{sequence}", hex::encode(id))
}

pub fn epoch(id: &ObjectId) -> String {
    format!("{EPOCHS}{}", hex::encode(id))
}

pub fn challenge(lease: &ObjectId) -> String {
    format!("{CHALLENGES}{}", hex::encode(lease))
}

pub fn void(lease: &ObjectId) -> String {
    format!("{VOIDS}{}", hex::encode(lease))
}

/// Lease and sequence, 0 for the lease itself.
pub fn parse_lease(name: &str) -> Option<(ObjectId, u64)> {
    let text = name.strip_prefix(LEASES)?;
    let (id, sequence) = text.split_once('.').map_or((text, Some(0)), |(id, rest)| (id, rest.parse().ok()));
    let (id, sequence) = (last_part_as_id(id)?, sequence?);
    let whole = if sequence == 0 { lease(&id) } else { renewal(&id, sequence) };
    (whole == name).then_some((id, sequence))
}

/// The pack's id, when `name` is the name of a pack.
pub fn parse_pack(name: &str) -> Option<ObjectId> {
    let id = last_part_as_id(name)?;
    (pack(&id) == name).then_some(id)
}

/// The segment's id, when `name` is the name of an index segment.
pub fn parse_segment(name: &str) -> Option<ObjectId> {
    let id = last_part_as_id(name)?;
    (segment(&id) == name).then_some(id)
}

/// The point's id, when `name` is the name of a manifest.
pub fn parse_point(name: &str) -> Option<PointId> {
    let id = PointId(Uuid::parse_str(name.strip_prefix(POINTS)?).ok()?);
    (point(id) == name).then_some(id)
}

pub fn last_part_as_id(name: &str) -> Option<ObjectId> {
    let mut id = ObjectId::default();
    hex::decode_to_slice(name.rsplit('/').next()?, &mut id).ok()?;
    Some(id)
}
