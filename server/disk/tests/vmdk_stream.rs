//! The streamOptimized writer, judged by `qemu-img` and by our own strict reader.

use disk::DiskError;
use disk::container::vmdk::{GRAIN_BYTES, StreamOptimizedReader, StreamOptimizedWriter};
use proptest::prelude::*;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

/// Reproducible bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

fn stream(capacity: u64, writes: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let mut disk = StreamOptimizedWriter::new(capacity).unwrap();
    let mut out = Vec::new();
    for (offset, data) in writes {
        out.extend(disk.write(*offset, data).unwrap());
    }
    out.extend(disk.finish().unwrap());
    out
}

fn qemu_img(arguments: &[&str], paths: &[&Path]) {
    let output = Command::new("qemu-img").args(arguments).args(paths).output().expect("qemu-img must be installed");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "qemu-img {arguments:?}: {said}");
}

/// Writes the stream to a file and lets `qemu-img compare` hold it against the sparse raw disk it should be.
fn assert_qemu_reads(capacity: u64, writes: &[(u64, Vec<u8>)]) {
    let folder = tempfile::tempdir().unwrap();
    let (vmdk, raw) = (folder.path().join("disk.vmdk"), folder.path().join("disk.raw"));
    fs::write(&vmdk, stream(capacity, writes)).unwrap();
    let mut file = fs::File::create(&raw).unwrap();
    file.set_len(capacity.next_multiple_of(512)).unwrap();
    for (offset, data) in writes {
        file.seek(SeekFrom::Start(*offset)).unwrap();
        file.write_all(data).unwrap();
    }
    drop(file);
    qemu_img(&["compare", "-f", "vmdk", "-F", "raw"], &[&vmdk, &raw]);
    let back = folder.path().join("back.raw");
    qemu_img(&["convert", "-f", "vmdk", "-O", "raw"], &[&vmdk, &back]);
    assert_eq!(fs::metadata(&back).unwrap().len(), capacity.next_multiple_of(512));
}

#[test]
fn qemu_reads_random_data() {
    assert_qemu_reads(5 << 20, &[(0, noise(1, 5 << 20))]);
}

#[test]
fn qemu_reads_a_sparse_disk_with_an_unaligned_end() {
    let capacity = (70 << 20) + 3 * 512;
    assert_qemu_reads(
        capacity,
        &[(512, noise(2, 1000)), ((33 << 20) - 700, vec![7; 200_000]), (capacity - 1024, noise(3, 1024))],
    );
}

#[test]
fn qemu_reads_an_empty_disk() {
    assert_qemu_reads(8 << 20, &[]);
    assert_qemu_reads(512, &[]);
}

#[test]
fn qemu_reads_past_two_and_four_gib() {
    let capacity = 6 << 30;
    let far = |gib: u64, seed| ((gib << 30) + 4096, noise(seed, 70_000));
    assert_qemu_reads(capacity, &[far(0, 4), far(2, 5), far(4, 6), (capacity - 512, vec![9; 512])]);
}

/// The bytes of a tiny disk, spelled out from the format's note: header, marker, table, directory, footer, end.
#[test]
fn records_lie_where_the_format_says() {
    let out = stream(64 * 1024, &[(0, vec![1; 512])]);
    let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_le_bytes(out[at..at + 8].try_into().unwrap());
    assert_eq!((&out[..4], word(4), word(8)), (&b"KDMV"[..], 3, 0x0003_0001));
    assert_eq!((long(12), long(20), word(44), long(56), long(64)), (128, 128, 512, u64::MAX, 128));
    assert_eq!(&out[72..79], b"\0\n \r\n\x01\0");
    let grain = 128 * 512;
    assert_eq!(long(grain), 0);
    let table_marker = grain + (12 + word(grain + 8) as usize).next_multiple_of(512);
    assert_eq!((long(table_marker), word(table_marker + 8), word(table_marker + 12)), (4, 0, 1));
    assert_eq!(word(table_marker + 512), 128);
    let directory_marker = table_marker + 5 * 512;
    assert_eq!((long(directory_marker), word(directory_marker + 12)), (1, 2));
    assert_eq!(word(directory_marker + 512) as usize, table_marker / 512 + 1);
    let footer_marker = directory_marker + 1024;
    assert_eq!((long(footer_marker), word(footer_marker + 12)), (1, 3));
    assert_eq!(long(footer_marker + 512 + 56) as usize, directory_marker / 512 + 1);
    assert_eq!(out[footer_marker + 1024..], [0; 512]);
}

#[test]
fn a_writer_only_goes_forward_and_stays_inside() {
    let mut writer = StreamOptimizedWriter::new(1 << 20).unwrap();
    writer.write(1000, &[1; 1000]).unwrap();
    assert!(matches!(writer.write(1999, &[1]), Err(DiskError::Misuse { .. })));
    assert!(matches!(writer.write((1 << 20) - 1, &[1; 2]), Err(DiskError::Misuse { .. })));
    assert!(matches!(writer.write(u64::MAX, &[1; 2]), Err(DiskError::Misuse { .. })));
    assert!(StreamOptimizedWriter::new(u64::MAX).is_err());
}

fn read_back(bytes: &[u8]) -> Result<Vec<u8>, DiskError> {
    let mut reader = StreamOptimizedReader::new(bytes)?;
    let mut disk = vec![0; reader.capacity_bytes() as usize];
    while let Some(grain) = reader.next_grain()? {
        let from = grain.offset as usize;
        disk[from..from + grain.data.len()].copy_from_slice(&grain.data);
    }
    Ok(disk)
}

#[test]
fn a_flipped_or_missing_byte_of_metadata_is_noticed() {
    let good = stream(40 << 20, &[(0, vec![1; 70_000]), (39 << 20, noise(5, 3000))]);
    assert!(read_back(&good).is_ok());
    for cut in [1, 512, 1024, 3000, good.len() - 100] {
        assert!(read_back(&good[..good.len() - cut]).is_err(), "{cut} bytes cut off");
    }
    for from_end in [1024 - 56, 1024, 3 * 512 - 12, 4 * 512, 5 * 512 + 2048] {
        let mut bad = good.clone();
        let at = bad.len() - from_end;
        bad[at] ^= 0x41;
        assert!(read_back(&bad).is_err(), "byte {from_end} from the end");
    }
    let mut longer = good;
    longer.push(0);
    assert!(read_back(&longer).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_was_written_is_read(
        sectors in 1u64..2500, pieces in prop::collection::vec((0u64..60_000, 1usize..150_000, any::<u8>(), any::<bool>()), 0..12),
    ) {
        let capacity = sectors * 512;
        let mut expected = vec![0; capacity as usize];
        let (mut at, mut writes) = (0, Vec::new());
        for (gap, length, value, random) in pieces {
            let from = at + gap;
            let length = length.min(capacity.saturating_sub(from) as usize);
            if length == 0 { break; }
            let data = if random { noise(u64::from(value), length) } else { vec![value; length] };
            expected[from as usize..from as usize + length].copy_from_slice(&data);
            at = from + length as u64;
            writes.push((from, data));
        }
        let out = stream(capacity, &writes);
        prop_assert!(out.len().is_multiple_of(512));
        prop_assert_eq!(read_back(&out).unwrap(), expected);
    }

    #[test]
    fn hostile_streams_end_in_an_error(at in 0usize..70_000, value in any::<u8>(), cut in 0usize..3000) {
        let mut bytes = stream(256 * 1024, &[(0, noise(1, GRAIN_BYTES + 5))]);
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(bytes.len() - cut);
        let _ = read_back(&bytes);
    }
}
