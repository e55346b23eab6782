//! What the work itself costs on this processor, without any structure around it, on one thread and the same data: read,
//! hash, compress, seal; and the way back. The bench measures it from outside, beside the real thing.
//!
//! ```text
//! floor store   IMAGE OUTPUT [AREAS]    AREAS: lines of "offset length"
//! floor restore STORED OUTPUT           sparse
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;

#[path = "../src/format/codec.rs"]
#[allow(dead_code)]
mod codec;

/// What `codec` knows from its own crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    Raw = 0,
    Zstd = 1,
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const CHUNK_BYTES: usize = 128 << 10;
const TAG_BYTES: usize = 16;
const KEY: [u8; 32] = [7; 32];

fn cipher() -> Outcome<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).map_err(|_| "cipher")?))
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// What the file system holds of the image, or the areas given.
fn extents(file: &File, areas: Option<&String>) -> Outcome<Vec<(u64, u64)>> {
    let size = file.metadata()?.len();
    let mut extents = Vec::new();
    if let Some(path) = areas {
        for line in std::fs::read_to_string(path)?.lines() {
            let (offset, length) = line.split_once(' ').ok_or("areas")?;
            let offset: u64 = offset.parse()?;
            extents.push((offset, offset + length.parse::<u64>()?));
        }
        return Ok(extents);
    }
    let mut at = 0;
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(start))?.min(size);
        extents.push((start, at));
        if at == size {
            break;
        }
    }
    Ok(extents)
}

fn store(image: &str, output: &str, areas: Option<&String>) -> Outcome {
    let (file, mut out, cipher) = (File::open(image)?, File::create(output)?, cipher()?);
    let mut workspace = codec::Workspace::new()?;
    let (mut buffer, mut sealed, mut number) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES + TAG_BYTES], 0);
    for (start, end) in extents(&file, areas)? {
        for at in (start..end).step_by(CHUNK_BYTES) {
            let chunk = &mut buffer[..(end - at).min(CHUNK_BYTES as u64) as usize];
            file.read_exact_at(chunk, at)?;
            if chunk.iter().all(|&byte| byte == 0) {
                continue;
            }
            let id = blake3::keyed_hash(&KEY, chunk);
            let (codec, stored) = workspace.compress(chunk);
            let (text, tag) = sealed[..stored.len() + TAG_BYTES].split_at_mut(stored.len());
            cipher
                .seal_out_of_place_scatter(nonce(number), Aad::from(id.as_bytes()), stored, text, &[], tag)
                .map_err(|_| "seal")?;
            number += 1;
            let lengths = [at, chunk.len() as u64, stored.len() as u64, codec as u64];
            out.write_all(&lengths.map(u64::to_le_bytes).concat())?;
            out.write_all(id.as_bytes())?;
            out.write_all(&sealed[..stored.len() + TAG_BYTES])?;
        }
    }
    Ok(())
}

fn restore(stored: &str, output: &str) -> Outcome {
    let (mut input, out, cipher) =
        (BufReader::with_capacity(1 << 20, File::open(stored)?), File::create(output)?, cipher()?);
    let mut workspace = codec::Workspace::new()?;
    let (mut head, mut number) = ([0; 64], 0);
    let (mut sealed, mut opened, mut content) = (Vec::new(), Vec::new(), Vec::new());
    while input.read_exact(&mut head).is_ok() {
        let field = |index: usize| head[index * 8..index * 8 + 8].try_into().map(u64::from_le_bytes);
        let (at, length, stored) = (field(0)?, field(1)? as usize, field(2)? as usize);
        sealed.resize(stored + TAG_BYTES, 0);
        opened.resize(stored, 0);
        input.read_exact(&mut sealed)?;
        let (text, tag) = sealed.split_at(stored);
        cipher
            .open_separate_gather(nonce(number), Aad::from(&head[32..]), text, tag, &mut opened)
            .map_err(|_| "open")?;
        number += 1;
        let content = if field(3)? == 0 {
            opened.as_slice()
        } else {
            content.resize(length, 0);
            workspace.decompress_into(&opened, &mut content).ok_or("decompress")?;
            content.as_slice()
        };
        if *blake3::keyed_hash(&KEY, content).as_bytes() != head[32..] {
            return Err("hash".into());
        }
        out.write_all_at(content, at)?;
    }
    Ok(())
}

fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["store", image, output] => store(image, output, None),
        ["store", image, output, _] => store(image, output, words.get(3)),
        ["restore", stored, output] => restore(stored, output),
        _ => Err("see the head of examples/floor.rs".into()),
    }
}
