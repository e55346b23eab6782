//! Which of the chunks that are stored together share a frame.

use super::codec::looks_random;
use super::{BLOCK_BYTES, ChunkKind, FRAME_BYTES_MAX, FRAME_CHUNKS_MAX};

/// Groups contents, in their order, by index: those of a group share a frame, one by itself is stored by itself. Content that
/// looks random is by itself: nothing is gained, and it would have to be read with the others.
pub fn groups<'a>(kind: ChunkKind, contents: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<usize>> {
    let mut groups = Vec::new();
    let (mut open, mut bytes) = (Vec::new(), 0);
    for (index, content) in contents.enumerate() {
        let shares = kind == ChunkKind::Data
            && content.len().is_multiple_of(BLOCK_BYTES)
            && content.len() < FRAME_BYTES_MAX as usize
            && !looks_random(content);
        if !shares {
            groups.push(vec![index]);
            continue;
        }
        if bytes + content.len() > FRAME_BYTES_MAX as usize || open.len() == FRAME_CHUNKS_MAX {
            groups.push(std::mem::take(&mut open));
            bytes = 0;
        }
        bytes += content.len();
        open.push(index);
    }
    if !open.is_empty() {
        groups.push(open);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(kind: ChunkKind, contents: &[Vec<u8>]) -> Vec<Vec<usize>> {
        groups(kind, contents.iter().map(Vec::as_slice))
    }

    #[test]
    fn neighbours_share_up_to_the_limits() {
        let chunk = |kib: usize| vec![b'a'; kib << 10];
        let contents: Vec<_> = [64, 200, 248, 8, 508, 512, 8].into_iter().map(chunk).collect();
        assert_eq!(grouped(ChunkKind::Data, &contents), [vec![0, 1, 2], vec![3], vec![5], vec![4], vec![6]]);
        let many = vec![chunk(4); FRAME_CHUNKS_MAX + 1];
        assert_eq!(grouped(ChunkKind::Data, &many).iter().map(Vec::len).collect::<Vec<_>>(), [FRAME_CHUNKS_MAX, 1]);
    }

    #[test]
    fn map_nodes_random_bytes_and_the_end_of_a_disk_are_by_themselves() {
        let mut noise = vec![0; 64 << 10];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let contents = [vec![b'a'; 8192], noise, vec![b'b'; 4096], vec![b'c'; 100]];
        assert_eq!(grouped(ChunkKind::Data, &contents), [vec![1], vec![3], vec![0, 2]]);
        assert_eq!(grouped(ChunkKind::Map, &contents[..1]), [vec![0]]);
    }
}
