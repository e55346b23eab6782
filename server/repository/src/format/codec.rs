//! Compression of chunks: a quick look whether it is worth trying, zstd 1, kept only if smaller. New chunks that lie
//! together share a frame: what the second one has of the first is not stored again.

use zstd::zstd_safe::CParameter;

use super::Codec;

/// Level of zstd for new chunks.
pub const ZSTD_LEVEL: i32 = 1;
/// Beside the level, for content of some hundred KiB: of the settings that take no longer than the level by itself, these
/// leave least (measured on the bench's disks: 2 % less).
const ZSTD_TUNING: [CParameter; 3] = [CParameter::WindowLog(20), CParameter::HashLog(14), CParameter::MinMatch(6)];
const PROBE_SLICES: usize = 32;
const PROBE_SLICE_BYTES: usize = 128;
/// Of 4096 sampled bytes: the sum of the squares of their counts. Random bytes give about 69 600, zip and video up to
/// 75 000, text and programs 100 000 and more.
const PROBE_SUM_MAX: u32 = 76_000;

/// Which frame: the pack it is in, and where it begins.
pub type FrameKey = ([u8; 16], u64);

/// One thread's compressor, decompressor and scratch space.
pub struct Workspace {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
    pub(crate) scratch: Vec<u8>,
    /// Content of chunks that are going to share a frame.
    joined: Vec<u8>,
    /// The frame that was opened last in this job, and the length of its content: chunks that share it are read one after
    /// the other.
    pub(crate) frame: Option<(FrameKey, usize)>,
    pub(crate) frame_room: Vec<u8>,
    /// For sealed bytes, while `scratch` holds the compressed ones.
    pub(crate) sealed: Vec<u8>,
    /// For the content of a chunk that is only looked at.
    pub(crate) content: Vec<u8>,
}

impl Workspace {
    pub fn new() -> std::io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL)?;
        for parameter in ZSTD_TUNING {
            compressor.set_parameter(parameter)?;
        }
        Ok(Self {
            compressor,
            decompressor: zstd::bulk::Decompressor::new()?,
            scratch: Vec::new(),
            joined: Vec::new(),
            frame: None,
            frame_room: Vec::new(),
            sealed: Vec::new(),
            content: Vec::new(),
        })
    }

    /// The bytes to store: in the scratch space when compressed, else the content itself.
    pub fn compress<'a>(&'a mut self, content: &'a [u8]) -> (Codec, &'a [u8]) {
        if looks_random(content) {
            return (Codec::Raw, content);
        }
        let room = room_below(&mut self.scratch, content.len());
        match self.compressor.compress_to_buffer(content, room) {
            Ok(length) => (Codec::Zstd, self.scratch.get(..length).unwrap_or_default()),
            Err(_) => (Codec::Raw, content),
        }
    }

    /// One frame of several contents, if it is smaller than they are.
    pub fn compress_together<'a>(&mut self, contents: impl Iterator<Item = &'a [u8]>) -> Option<&[u8]> {
        self.joined.clear();
        contents.for_each(|content| self.joined.extend_from_slice(content));
        let room = room_below(&mut self.scratch, self.joined.len());
        let length = self.compressor.compress_to_buffer(&self.joined, room).ok()?;
        self.scratch.get(..length)
    }

    /// Of the frame that was opened last.
    pub fn frame_content(&self) -> &[u8] {
        self.frame.and_then(|(_, length)| self.frame_room.get(..length)).unwrap_or_default()
    }

    /// What was kept of one job means nothing in the next.
    pub fn begin_job(&mut self) {
        self.frame = None;
    }

    /// The content of one zstd frame, at most as long as `room`: its length.
    pub fn decompress_up_to(&mut self, stored: &[u8], room: &mut [u8]) -> Option<usize> {
        self.decompressor.decompress_to_buffer(stored, room).ok()
    }

    /// The content of one zstd frame, exactly as long as `room`; `None` when the frame holds anything else.
    pub fn decompress_into(&mut self, stored: &[u8], room: &mut [u8]) -> Option<()> {
        let got = self.decompressor.decompress_to_buffer(stored, room).ok()?;
        (got == room.len()).then_some(())
    }
}

/// No room for a result that is not smaller: zstd gives up, and the content is stored as it is.
fn room_below(scratch: &mut Vec<u8>, length: usize) -> &mut [u8] {
    let room = length.saturating_sub(1);
    if scratch.len() < room {
        scratch.resize(room, 0);
    }
    scratch.get_mut(..room).unwrap_or_default()
}

/// Samples slices over the whole content. An estimate: a wrong answer costs space or time, never bytes.
pub fn looks_random(content: &[u8]) -> bool {
    if content.len() < 2 * PROBE_SLICES * PROBE_SLICE_BYTES {
        return false;
    }
    let mut counts = [0u32; 256];
    let step = (content.len() - PROBE_SLICE_BYTES) / (PROBE_SLICES - 1);
    for slice in content.windows(PROBE_SLICE_BYTES).step_by(step.max(1)).take(PROBE_SLICES) {
        for &byte in slice {
            counts[usize::from(byte)] += 1;
        }
    }
    counts.iter().map(|count| count * count).sum::<u32>() < PROBE_SUM_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_derive_key("test noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn random_bytes_are_kept_as_they_are() {
        let mut workspace = Workspace::new().unwrap();
        let content = noise(128 * 1024);
        assert!(looks_random(&content));
        assert_eq!(workspace.compress(&content).0, Codec::Raw);
        let small = noise(5000); // too small for the probe: zstd finds out by itself
        assert_eq!(workspace.compress(&small).0, Codec::Raw);
    }

    #[test]
    fn text_is_compressed_and_comes_back() {
        let mut workspace = Workspace::new().unwrap();
        let content = "restore points are worth what their restores are worth. ".repeat(2000).into_bytes();
        let (codec, stored) = workspace.compress(&content);
        let stored = stored.to_vec();
        assert_eq!(codec, Codec::Zstd);
        assert!(stored.len() < content.len() / 4);
        let mut room = vec![0; content.len() + 1];
        assert_eq!(workspace.decompress_into(&stored, &mut room), None);
        assert_eq!(workspace.decompress_into(&stored, &mut room[..content.len() - 1]), None);
        assert_eq!(workspace.decompress_into(&stored, &mut room[..content.len()]), Some(()));
        assert_eq!(room[..content.len()], content);
    }
}
