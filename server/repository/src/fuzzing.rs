//! The decoders as a fuzzer meets them: bytes in, no panic, no great allocation, and what is accepted says the same when
//! it is encoded again. Compiled for tests and with the feature `fuzzing` only; nothing else may use it.
//!
//! Payloads of sealed objects are sealed here with fixed keys first: a fuzzer would never guess a tag, and whoever has
//! the keys is not to be trusted with a decoder either. Next: `fuzz/` (targets, corpus), the corpus is replayed below.

use crate::backend::valid_name;
use crate::core::decode_chunk;
use crate::error::Error;
use crate::format::codec::Workspace;
use crate::format::config::Config;
use crate::format::crypto::{GenerationSecrets, Keys, Secrets};
use crate::format::envelope::{self, HEADER_BYTES, Magic};
use crate::format::keyslot::{KeySlot, RecoveryKey};
use crate::format::lease::{LeaseBody, Verdict, decode_epoch, encode_epoch};
use crate::format::map::{self, LEVEL_MAX};
use crate::format::names::{self, ObjectId};
use crate::format::pack::{self, PackEntry, PackSeal, Part, Spot};
use crate::format::stamp::Stamp;
use crate::format::{
    BLOCK_BYTES, CHUNK_BYTES_MAX, ChunkId, ChunkKind, Codec, FRAME_BYTES_MAX, Fields, PAGE_BYTES, manifest, segment,
};
use crate::index::Location;
use crate::lease::is_expired;
use crate::point::PointId;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use uuid::Uuid;
use zeroize::Zeroizing;

/// A decoder given hostile bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 16] = [
    ("chunk", chunk),
    ("frame", frame),
    ("pack_trailer", pack_trailer),
    ("pack_footer", pack_footer),
    ("segment", index_segment),
    ("map_leaf", map_leaf),
    ("map_node", map_node),
    ("manifest", point_manifest),
    ("config", config),
    ("key_slot", key_slot),
    ("recovery_key", recovery_key),
    ("names", object_names),
    ("lease", lease),
    ("epoch", epoch),
    ("verdict", verdict),
    ("stamp", stamp),
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target is called {name}"));
    target(data);
}

const REPOSITORY: ObjectId = [0x11; 16];
const OBJECT: ObjectId = [0x22; 16];
const POINT: PointId = PointId(Uuid::from_bytes([0x33; 16]));

/// Keys of two generations, always the same.
fn keys() -> Keys {
    let generation = |seed: u8| GenerationSecrets {
        data_key: Zeroizing::new([seed; 32]),
        signing_seed: Zeroizing::new([seed ^ 0xff; 32]),
    };
    let mut secrets = Secrets::new(generation(1));
    secrets.push(generation(2)).expect("two generations are few");
    Keys::new(REPOSITORY, &secrets).expect("fixed keys")
}

/// Opens a sealed object of these bytes as they are, without a valid tag.
fn unsealed(magic: Magic, name: &str, data: &[u8]) {
    assert!(envelope::open(&keys(), magic, name, data).is_err(), "nobody guesses a tag");
}

/// `codec, kind, length (4), content of the pack`: opened, decompressed, compared.
fn chunk(data: &[u8]) {
    let mut fields = Fields(data);
    let (Some(switch), Some(length)) = (fields.u8(), fields.u32()) else { return };
    let codec = if switch & 1 == 0 { Codec::Raw } else { Codec::Zstd };
    let kind = if switch & 2 == 0 { ChunkKind::Data } else { ChunkKind::Map };
    let length = length % (CHUNK_BYTES_MAX + 1);
    let (keys, stored) = (keys(), fields.0);
    let mut workspace = Workspace::new().expect("zstd starts");
    let content = match codec {
        Codec::Raw => Some(stored.to_vec()),
        Codec::Zstd | Codec::Shared => {
            let mut room = vec![0; length as usize];
            workspace.decompress_into(stored, &mut room).map(|()| room)
        }
    };
    let seal = PackSeal::new(&keys, OBJECT).expect("fixed keys");
    let mut sealed = Vec::new();
    seal.seal_chunk(7, stored, &mut sealed).expect("sealing works");
    let location = Location {
        pack: OBJECT,
        generation: seal.generation,
        spot: Spot { ordinal: 7, offset: HEADER_BYTES as u64, sealed_bytes: sealed.len() as u32, part: None },
        length,
        kind,
        codec,
    };
    let id = content.as_ref().map_or(ChunkId::ZERO, |content| keys.chunk_id(kind, content));
    let decoded = decode_chunk(&keys, &location, kind, id, &sealed, &mut workspace);
    match content.filter(|content| content.len() == length as usize) {
        Some(content) => assert_eq!(decoded.expect("it is what was sealed"), content),
        None => assert!(decoded.is_err()),
    }
    assert!(decode_chunk(&keys, &location, kind, ChunkId([9; 32]), &sealed, &mut workspace).is_err());
    assert!(decode_chunk(&keys, &location, kind, id, stored, &mut workspace).is_err());
}

/// `position of a chunk in its frame, blocks before it, blocks, content of the pack`: the frame opened, the chunk taken.
fn frame(data: &[u8]) {
    let mut fields = Fields(data);
    let (Some(position), Some(skip), Some(blocks)) = (fields.u8(), fields.u8(), fields.u8()) else { return };
    let (keys, mut workspace) = (keys(), Workspace::new().expect("zstd starts"));
    let skip = u32::from(skip) * BLOCK_BYTES as u32;
    let length = (u32::from(blocks) + 1) * BLOCK_BYTES as u32;
    let (position, stored) = (u32::from(position % 64), fields.0);
    let mut room = vec![0; FRAME_BYTES_MAX as usize];
    let content = workspace.decompress_up_to(stored, &mut room).and_then(|whole| room.get(..whole));
    let content = content.and_then(|content| content.get(skip as usize..(skip + length) as usize));
    let seal = PackSeal::new(&keys, OBJECT).expect("fixed keys");
    let mut sealed = Vec::new();
    seal.seal_chunk(7, stored, &mut sealed).expect("sealing works");
    let part = Some(Part { position, skip, units: 32 });
    let spot = Spot { ordinal: 7 + position, offset: HEADER_BYTES as u64, sealed_bytes: sealed.len() as u32, part };
    let (generation, kind, codec) = (seal.generation, ChunkKind::Data, Codec::Shared);
    let location = Location { pack: OBJECT, generation, spot, length, kind, codec };
    let id = content.map_or(ChunkId::ZERO, |content| keys.chunk_id(kind, content));
    let decoded = decode_chunk(&keys, &location, kind, id, &sealed, &mut workspace);
    match content {
        Some(content) => assert_eq!(decoded.expect("it is what was sealed"), content),
        None => assert!(decoded.is_err()),
    }
    workspace.begin_job();
    assert!(decode_chunk(&keys, &location, kind, id, stored, &mut workspace).is_err());
}

/// `length of the object (8), trailer`.
fn pack_trailer(data: &[u8]) {
    let mut fields = Fields(data);
    let Some(object_bytes) = fields.u64() else { return };
    if let Ok(tail) = pack::tail_bytes("packs/x", fields.0, object_bytes) {
        assert!(tail + HEADER_BYTES as u64 <= object_bytes, "what is read next lies inside the object");
    }
}

/// The entries of a footer, sealed.
fn pack_footer(data: &[u8]) {
    let keys = keys();
    let seal = PackSeal::new(&keys, OBJECT).expect("fixed keys");
    let (tail, object_bytes) = seal.seal_raw_footer(data).expect("sealing works");
    if let Ok(entries) = seal.open_footer(&seal.header, &tail, object_bytes) {
        let mut again = Vec::new();
        for entry in &entries {
            entry.encode(&mut again);
        }
        assert_eq!(again, data);
    }
    assert!(seal.open_footer(&seal.header, data, data.len() as u64).is_err());
}

/// The payload of an index segment, sealed; and as it is.
fn index_segment(data: &[u8]) {
    let (keys, name) = (keys(), names::segment(&OBJECT));
    let object = envelope::seal(&keys, Magic::Index, OBJECT, &name, data).expect("sealing works");
    if let Ok(records) = segment::decode(&keys, &name, &object) {
        assert_eq!(segment::encode(&keys, OBJECT, &records).expect("encoding works"), object);
    }
    unsealed(Magic::Index, &name, data);
}

/// `length of the page (4), leaf`.
fn map_leaf(data: &[u8]) {
    let mut fields = Fields(data);
    let Some(page) = fields.u32() else { return };
    let page = u64::from(page) % (PAGE_BYTES + 1);
    if let Some(entries) = map::decode_leaf(fields.0, page) {
        assert_eq!(entries.iter().map(|entry| u64::from(entry.length)).sum::<u64>(), page);
        assert!(map::encode_leaf(&entries).is_none_or(|again| again == fields.0));
    }
}

/// `level, size of the disk (8), index (8), node`.
fn map_node(data: &[u8]) {
    let mut fields = Fields(data);
    let (Some(level), Some(size), Some(index)) = (fields.u8(), fields.u64(), fields.u64()) else { return };
    let (level, size) = (u32::from(level) % (LEVEL_MAX + 1), size % (map::DISK_BYTES_MAX + 1));
    let count = map::child_count(size, level, index);
    if let Some(children) = map::decode_inner(fields.0, level, count) {
        assert_eq!(children.len() as u64, count);
        assert!(map::encode_inner(level, &children).is_none_or(|again| again == fields.0));
    }
}

/// `how, payload or body` of a manifest, sealed; signed if `how` is odd.
fn point_manifest(data: &[u8]) {
    let Some((how, content)) = data.split_first() else { return };
    let (keys, name) = (keys(), names::point(POINT));
    let payload = if how & 1 == 0 { content.to_vec() } else { manifest::sign_body(&keys, OBJECT, content) };
    let object = envelope::seal(&keys, Magic::Point, OBJECT, &name, &payload).expect("sealing works");
    if let Ok(point) = manifest::decode(&keys, POINT, &object) {
        assert_eq!((point.id, point.key_generation), (POINT, keys.newest()));
        let again = manifest::encode(&keys, OBJECT, &point).expect("encoding works");
        assert_eq!(manifest::decode(&keys, POINT, &again).expect("it was just encoded"), point);
        let _ = point.summary();
    }
    unsealed(Magic::Point, &name, content);
}

/// The payload of a configuration, sealed; and as it is.
fn config(data: &[u8]) {
    let keys = keys();
    let sealed = envelope::seal_with(&keys, 0, Magic::Config, OBJECT, names::CONFIG, data).expect("sealing works");
    if let Ok(config) = Config::decode(&keys, &sealed) {
        let _ = config.chunk.rule();
        let _ = config.public_key();
    }
    assert!(Config::decode(&keys, data).is_err());
}

/// `how, key slot`: with a checksum that holds if `how` is odd. A passphrase is not tried: argon2 takes as long as the
/// slot says, within its limits.
fn key_slot(data: &[u8]) {
    let Some((how, slot)) = data.split_first() else { return };
    let mut slot = slot.to_vec();
    if let (1, Some(end)) = (how & 1, slot.len().checked_sub(32)) {
        let checksum = blake3::hash(&slot[..end]);
        slot[end..].copy_from_slice(checksum.as_bytes());
    }
    if let Ok(decoded) = KeySlot::decode("keys/x", &slot) {
        let opened = decoded.open_with_recovery_key(&RecoveryKey::new([5; 20])).expect("opening does not fail");
        if let Some(secrets) = opened {
            assert_eq!(secrets.newest(), decoded.newest);
        }
    }
}

/// What somebody types as a recovery key.
fn recovery_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match RecoveryKey::parse(text) {
        Ok(Some(key)) => {
            let printed = key.text();
            let again = RecoveryKey::parse(printed.expose_secret()).expect("it was just printed");
            assert_eq!(again.expect("it was just printed").text().expose_secret(), printed.expose_secret());
        }
        Ok(None) | Err(Error::MistypedRecoveryKey) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The payload of a lease, sealed; and as it is.
fn lease(data: &[u8]) {
    let (keys, name) = (keys(), names::lease(&OBJECT));
    let object = envelope::seal(&keys, Magic::Lease, OBJECT, &name, data).expect("sealing works");
    if let Ok(body) = LeaseBody::decode(&keys, &name, &object) {
        assert!(body.roots().count() <= body.roots.len());
        let _ = (body.honours(&OBJECT), is_expired(&body, Timestamp::UNIX_EPOCH));
        if let Ok(again) = body.encode(&keys, &name, OBJECT) {
            assert_eq!(LeaseBody::decode(&keys, &name, &again).expect("it was just encoded"), body);
        }
    }
    unsealed(Magic::Lease, &name, data);
}

/// The payload of an epoch, sealed; and as it is.
fn epoch(data: &[u8]) {
    let (keys, name) = (keys(), names::epoch(&OBJECT));
    let object = envelope::seal(&keys, Magic::Epoch, OBJECT, &name, data).expect("sealing works");
    if let Ok(packs) = decode_epoch(&keys, &name, &object) {
        assert_eq!(encode_epoch(&keys, OBJECT, &packs).expect("encoding works"), object);
    }
    unsealed(Magic::Epoch, &name, data);
}

/// The payload of a challenge, sealed; and as it is.
fn verdict(data: &[u8]) {
    let (keys, name) = (keys(), names::challenge(&OBJECT));
    let object = envelope::seal(&keys, Magic::Challenge, OBJECT, &name, data).expect("sealing works");
    if let Ok(verdict) = Verdict::decode(&keys, Magic::Challenge, &name, &object) {
        let again = verdict.encode(&keys, Magic::Challenge, &name, OBJECT).expect("encoding works");
        assert_eq!(Verdict::decode(&keys, Magic::Challenge, &name, &again).expect("it was just encoded"), verdict);
    }
    unsealed(Magic::Challenge, &name, data);
}

/// The payload of a stamp, sealed; and as it is.
fn stamp(data: &[u8]) {
    let (keys, name) = (keys(), names::stamp(&OBJECT));
    let object = envelope::seal(&keys, Magic::Stamp, OBJECT, &name, data).expect("sealing works");
    if let Ok(stamp) = Stamp::decode(&keys, &name, &object) {
        let again = stamp.encode(&keys, OBJECT).expect("encoding works");
        assert_eq!(Stamp::decode(&keys, &name, &again).expect("it was just encoded"), stamp);
    }
    unsealed(Magic::Stamp, &name, data);
}

/// Names of objects as a location lists them.
fn object_names(data: &[u8]) {
    let Ok(name) = std::str::from_utf8(data) else { return };
    if let Some(id) = names::parse_pack(name) {
        assert!(names::pack(&id) == name && valid_name(name));
    }
    if let Some(id) = names::parse_point(name) {
        assert!(names::point(id) == name && valid_name(name));
    }
    if let Some((id, sequence)) = names::parse_lease(name) {
        let again = if sequence == 0 { names::lease(&id) } else { names::renewal(&id, sequence) };
        assert!(again == name && valid_name(name));
    }
    let _ = names::last_part_as_id(name);
    if valid_name(name) {
        assert!(!name.starts_with('/') && name.split('/').all(|part| part != ".." && !part.is_empty()));
    }
}

/// An entry of a footer, for the corpus.
#[cfg(test)]
fn sample_entry(seed: u8) -> PackEntry {
    PackEntry { id: ChunkId([seed; 32]), kind: ChunkKind::Data, codec: Codec::Zstd, length: 4096, stored: 1000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Mutations tried on each file of the corpus.
    const MUTATIONS: u64 = 100;
    const FILES_MAX: usize = 20;
    const FILE_BYTES_MAX: usize = 8192;

    fn corpus(target: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
    }

    fn files(target: &str) -> Vec<Vec<u8>> {
        let folder = corpus(target);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    /// A byte changed, cut off, doubled or a stretch moved: the same ones for ever.
    fn mutate(content: &[u8], seed: u64) -> Vec<u8> {
        let mut noise = [0; 16];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
        let [how, byte, rest @ ..] = noise;
        let number = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let mut out = content.to_vec();
        if out.is_empty() {
            return vec![byte];
        }
        let at = number % out.len();
        match how % 5 {
            0 => out[at] = byte,
            1 => out[at] ^= 1 << (byte % 8),
            2 => out.truncate(at),
            3 => out.insert(at, byte),
            _ => {
                let tail = out.split_off(at);
                out.splice(0..0, tail);
            }
        }
        out
    }

    #[test]
    fn the_corpus_and_its_neighbours_are_survived() {
        for (name, target) in TARGETS {
            let files = files(name);
            assert!((1..=FILES_MAX).contains(&files.len()), "{name}: {} files", files.len());
            for (number, content) in files.iter().enumerate() {
                assert!(content.len() <= FILE_BYTES_MAX, "{name}: a file of {} bytes", content.len());
                target(content);
                for seed in 0..MUTATIONS {
                    target(&mutate(content, seed << 16 | number as u64));
                }
            }
        }
    }

    /// The first files of each corpus; what fuzzing finds beyond is added by hand.
    #[test]
    #[ignore = "writes the corpus"]
    fn write_the_corpus() {
        for (target, name, content) in seeds::all() {
            let folder = corpus(target);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    mod seeds {
        use super::super::*;
        use crate::format::keyslot::{self, Opener};
        use crate::format::map::LeafEntry;
        use crate::format::segment::PackRecord;
        use crate::format::stamp::{Bad, PackCheck};

        pub fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
            let text = b"restore points are worth what their restores are worth. ".repeat(20);
            let frame = zstd::bulk::compress(&text, 1).unwrap();
            let length = (text.len() as u32).to_le_bytes();
            let shared = zstd::bulk::compress(&b"three blocks".repeat(1024), 1).unwrap();
            let bomb = zstd::bulk::compress(&vec![0; 4 << 20], 1).unwrap();
            let mut all = vec![
                ("chunk", "raw", [&[0][..], &length, &text].concat()),
                ("chunk", "zstd", [&[1][..], &length, &frame].concat()),
                ("chunk", "map", [&[3][..], &length, &frame].concat()),
                ("chunk", "bomb", [&[1][..], &100u32.to_le_bytes(), &bomb].concat()),
                ("chunk", "bomb-as-long-as-it-may-be", [&[1][..], &CHUNK_BYTES_MAX.to_le_bytes(), &bomb].concat()),
                ("frame", "first", [&[0, 0, 0][..], &shared].concat()),
                ("frame", "later", [&[3, 1, 1][..], &shared].concat()),
                ("frame", "past-its-end", [&[3, 2, 1][..], &shared].concat()),
                ("frame", "bomb", [&[0, 0, 0][..], &bomb].concat()),
                ("names", "pack", names::pack(&OBJECT).into_bytes()),
                ("names", "point", names::point(POINT).into_bytes()),
                ("names", "escape", b"packs/../../etc/passwd".to_vec()),
                ("recovery_key", "sound", RecoveryKey::new([9; 20]).text().expose_secret().as_bytes().to_vec()),
                ("recovery_key", "passphrase", b"correct horse battery staple".to_vec()),
                ("recovery_key", "slip", b"144GJ-28914-4GJ28-9144G-J2891-44GJ2-89QXZ-HM9A".to_vec()),
            ];
            all.extend(packs());
            all.extend(maps());
            all.extend(documents());
            all.extend(slots());
            all.extend(upkeep());
            all
        }

        fn packs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
            let entries: Vec<PackEntry> = (1..=3).map(sample_entry).collect();
            let shared = |seed, stored| PackEntry { codec: Codec::Shared, stored, ..sample_entry(seed) };
            let footer_of = |entries: &[PackEntry]| {
                let mut footer = Vec::new();
                for entry in entries {
                    entry.encode(&mut footer);
                }
                footer
            };
            let frames = [shared(1, 3000), shared(2, 0), sample_entry(3), shared(4, 500), shared(5, 0)];
            let seal = PackSeal::new(&keys(), OBJECT).unwrap();
            let tail = seal.seal_footer(&entries).unwrap();
            let object_bytes = (HEADER_BYTES + 3 * 1016 + tail.len()) as u64;
            let trailer = [&object_bytes.to_le_bytes()[..], &tail[tail.len() - 24..]].concat();
            let record = PackRecord { id: OBJECT, object_bytes, generation: 1, entries: entries.clone() };
            let object = segment::encode(&keys(), OBJECT, &[record]).unwrap();
            let payload = envelope::open(&keys(), Magic::Index, &names::segment(&OBJECT), &object).unwrap().1;
            let mut many = payload.clone();
            many[..4].fill(0xff);
            let mut deep = payload.clone();
            deep[28..32].copy_from_slice(&[0, 0, 0x10, 0]);
            vec![
                ("pack_footer", "three", footer_of(&entries)),
                ("pack_footer", "frames", footer_of(&frames)),
                ("pack_footer", "frame-without-a-start", footer_of(&frames[1..])),
                ("pack_footer", "none", Vec::new()),
                ("pack_trailer", "sound", trailer),
                ("segment", "one-pack", payload),
                ("segment", "says-4-gi-packs", many),
                ("segment", "says-a-mi-entries", deep),
                ("segment", "empty", vec![0; 4]),
            ]
        }

        fn maps() -> Vec<(&'static str, &'static str, Vec<u8>)> {
            let chunk = |length, seed| LeafEntry { length, id: ChunkId([seed; 32]) };
            let leaf = map::encode_leaf(&[chunk(8192, 1), chunk(4096, 0), chunk(100, 2)]).unwrap();
            let node = map::encode_inner(1, &[ChunkId([1; 32]), ChunkId::ZERO]).unwrap();
            let mut long = leaf.clone();
            long[4..8].fill(0xff);
            let place = [&[1][..], &(PAGE_BYTES + 1).to_le_bytes(), &0u64.to_le_bytes()].concat();
            vec![
                ("map_leaf", "three", [&12388u32.to_le_bytes()[..], &leaf].concat()),
                ("map_leaf", "says-4-gi-entries", [&12388u32.to_le_bytes()[..], &long].concat()),
                ("map_node", "two", [&place[..], &node].concat()),
            ]
        }

        fn documents() -> Vec<(&'static str, &'static str, Vec<u8>)> {
            let disk = format!(
                r#"{{"config":{{"key":2000,"label":"Hard disk 1","capacity_bytes":4096,"controller_key":1000,"unit":0,
                "uuid":null,"thin":true}},"size_bytes":4096,"map_root":"{}","bytes_read":0,"bytes_stored":0}}"#,
                "0".repeat(64)
            );
            let point = format!(
                r#"{{"id":"{POINT}","machine_id":"d/v","device":"esxi-a","machine":{{"name":"web-01","guest_id":"g",
                "firmware":"efi","secure_boot":false,"processors":2,"memory_mib":2048,"hardware_version":"vmx-19",
                "instance_uuid":null,"bios_uuid":null,"notes":"","controllers":[],"disks":[],"adapters":[]}},
                "taken_at":"2026-01-01T00:00:00Z","kind":"full","consistency":"crash","marks":[],"warnings":["w"],
                "task":null,"predecessor":null,"disks":[{disk}]}}"#
            );
            let config = format!(
                r#"{{"created_at":"2026-01-01T00:00:00Z","chunk":{{"average_bytes":131072,"minimum_bytes":32768,
                "maximum_bytes":524288,"zero_run_bytes":65536}},"pack_bytes":33554432,"signing_public_key":"{}",
                "documents":{{"README-RECOVERY.txt":"00"}}}}"#,
                "0".repeat(64)
            );
            let deep = [&[1][..], "[".repeat(4000).as_bytes()].concat();
            vec![
                ("manifest", "sound", [&[1][..], point.as_bytes()].concat()),
                ("manifest", "unsigned", [&[0][..], &4u32.to_le_bytes(), b"null", &[0; 64]].concat()),
                ("manifest", "deep", deep),
                ("config", "sound", config.into_bytes()),
                ("config", "empty", b"{}".to_vec()),
            ]
        }

        fn upkeep() -> Vec<(&'static str, &'static str, Vec<u8>)> {
            let id = "22".repeat(16);
            let lease = format!(
                r#"{{"kind":"write","who":"backup-1 pid 7","point":"{POINT}","renewed_at":"2026-01-01T00:00:00Z",
                "valid_seconds":900,"epochs":["{id}"],"roots":["{}"]}}"#,
                "33".repeat(32)
            );
            let verdict = format!(r#"{{"lease":"{id}","point":"{POINT}","at":"2026-01-01T00:00:00Z"}}"#);
            let forever = r#"{"kind":"read","who":"","renewed_at":"-009999-01-02T01:59:59Z","valid_seconds":18446744073709551615}"#;
            let packs = [&2u32.to_le_bytes()[..], &[1; 16], &[2; 16]].concat();
            let mut stamp = Stamp::default();
            stamp.packs.insert([1; 16], PackCheck { checked_at: 1, bad: Bad::none() });
            stamp.packs.insert([2; 16], PackCheck { checked_at: 2, bad: Bad::Chunks([1, 5].into()) });
            stamp.packs.insert([3; 16], PackCheck { checked_at: 3, bad: Bad::Whole });
            let object = stamp.encode(&keys(), OBJECT).unwrap();
            let payload = envelope::open(&keys(), Magic::Stamp, &names::stamp(&OBJECT), &object).unwrap().1;
            vec![
                ("lease", "write", lease.into_bytes()),
                ("lease", "forever", forever.as_bytes().to_vec()),
                ("epoch", "two", packs),
                ("epoch", "says-4-gi-packs", vec![0xff; 4]),
                ("verdict", "sound", verdict.into_bytes()),
                ("stamp", "three", payload),
                ("stamp", "says-4-gi-packs", [&[0; 8][..], &[0xff; 4]].concat()),
            ]
        }

        fn slots() -> Vec<(&'static str, &'static str, Vec<u8>)> {
            let secrets = |newest: u8| {
                let generation = |seed: u8| GenerationSecrets {
                    data_key: Zeroizing::new([seed; 32]),
                    signing_seed: Zeroizing::new([seed; 32]),
                };
                let mut secrets = Secrets::new(generation(0));
                (1..=newest).for_each(|seed| secrets.push(generation(seed)).unwrap());
                secrets
            };
            let slot = |newest| {
                let key = RecoveryKey::new([5; 20]);
                let opener = Opener::Recovery(&key);
                keyslot::encode(REPOSITORY, OBJECT, [4; 16], &opener, &secrets(newest)).unwrap()
            };
            let mut passphrase = slot(0);
            passphrase[12] = 1;
            vec![
                ("key_slot", "one-generation", [&[0][..], &slot(0)].concat()),
                ("key_slot", "three-generations", [&[1][..], &slot(2)].concat()),
                ("key_slot", "all-generations", [&[1][..], &slot(63)].concat()),
                ("key_slot", "passphrase-without-costs", [&[1][..], &passphrase].concat()),
            ]
        }
    }
}
