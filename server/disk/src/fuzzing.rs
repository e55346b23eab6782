//! The decoders of image files as a fuzzer meets them: bytes in, no panic, no great allocation, and what is accepted keeps
//! its promises. Compiled for tests and with the feature `fuzzing` only; nothing else may use it.
//!
//! Checksums are set right first: a fuzzer would hardly guess one, and whoever lies can count. Next: `fuzz/` (targets,
//! corpus), the corpus is replayed below; `container/vhdx/fuzzing.rs`, `container/vhd/fuzzing.rs`.

use crate::container::{vhd, vhdx};

/// A decoder given hostile bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: [(&str, Target); 6] = [
    ("vhdx_header", vhdx::fuzzing::header),
    ("vhdx_regions", vhdx::fuzzing::regions),
    ("vhdx_metadata", vhdx::fuzzing::metadata),
    ("vhdx_bat", vhdx::fuzzing::bat),
    ("vhdx_log", vhdx::fuzzing::log),
    ("vhd", vhd::fuzzing::image),
];

/// Runs the target of that name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = target.unwrap_or_else(|| panic!("no fuzz target is called {name}"));
    target(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Mutations tried on each file of the corpus.
    const MUTATIONS: u64 = 300;
    const FILES_MAX: usize = 20;
    const FILE_BYTES_MAX: usize = 16 * 1024;

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

    /// A byte or a word changed, a stretch cut off or moved: the same ones for ever.
    fn mutate(content: &[u8], seed: u64) -> Vec<u8> {
        let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut out = content.to_vec();
        for _ in 0..=next() % 3 {
            if out.is_empty() {
                break;
            }
            let at = next() as usize % out.len();
            match next() % 6 {
                0 => out[at] = next() as u8,
                1 => out[at] ^= 1 << (next() % 8),
                2 => out.truncate(at),
                3 => out.insert(at, next() as u8),
                4 => {
                    let word = [0_u64, u64::MAX, 1 << 63, 1 << 20, 1 << 32, next()][next() as usize % 6].to_le_bytes();
                    let end = out.len().min(at / 8 * 8 + 8);
                    out[at / 8 * 8..end].copy_from_slice(&word[..end - at / 8 * 8]);
                }
                _ => {
                    let tail = out.split_off(at);
                    out.splice(0..0, tail);
                }
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
        for (target, name, content) in vhdx::fuzzing::seeds().into_iter().chain(vhd::fuzzing::seeds()) {
            let folder = corpus(target);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), content).unwrap();
        }
    }
}
