//! How little is read, and how much at once.

use crate::support::{FileTarget, Folder, ROOT, bytes_of, noise};
use bytes::Bytes;
use disk::DiskError;
use disk::container::vhdx::{VhdxOptions, VhdxWriter};
use disk::container::{ImageKind, ReadOptions, VirtualDisk};
use domain::Extent;
use futures_util::TryStreamExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

/// A disk of 1 TiB with 64 MiB of data at 1 GiB and a little at its end, in blocks of 1 MiB.
async fn make(folder: &Path) {
    let target = FileTarget::create(&folder.join("disk.vhdx"));
    let options = VhdxOptions {
        kind: ImageKind::Dynamic,
        size_bytes: 1 << 40,
        block_bytes: 1 << 20,
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        disk_id: Uuid::from_u128(1),
        file_write_id: Uuid::from_u128(2),
        data_write_id: Uuid::from_u128(3),
        creator: String::new(),
        writes_in_flight: 8,
    };
    let mut writer = VhdxWriter::create(target, options).await.unwrap();
    for index in 0..64 {
        writer.write((1 << 30) + index * MIB, noise(index, 1 << 20).into()).await.unwrap();
    }
    writer.write((1 << 40) - 4096, vec![5; 4096].into()).await.unwrap();
    writer.finish().await.unwrap();
}

async fn open(folder: &Folder, options: ReadOptions) -> VirtualDisk {
    VirtualDisk::open(folder, &format!("{ROOT}disk.vhdx"), options).await.unwrap()
}

#[tokio::test]
async fn opening_reads_tables_only_and_zeros_are_never_read() {
    let temporary = tempfile::tempdir().unwrap();
    make(temporary.path()).await;
    let folder = Folder::new(temporary.path());
    let disk = open(&folder, ReadOptions::default()).await;
    let (reads, bytes) = (folder.counts.reads.load(Ordering::Relaxed), folder.counts.bytes.load(Ordering::Relaxed));
    // Signature, header section, metadata, and a block table of 8 MiB.
    assert!(reads <= 12 && bytes < 9 * MIB, "{reads} reads, {bytes} bytes");

    let allocated = disk.allocated(Extent::new(0, 1 << 40), 4096).await.unwrap();
    assert_eq!(allocated, [Extent::new(1 << 30, 64 * MIB), Extent::new((1 << 40) - MIB, MIB)]);
    assert_eq!(bytes_of(&disk, Extent::new(700, 50 * MIB)).await, vec![0; 50 << 20]);
    assert_eq!(folder.counts.reads.load(Ordering::Relaxed), reads);
}

#[tokio::test]
async fn neighbouring_blocks_come_in_few_reads_of_which_several_are_under_way() {
    let temporary = tempfile::tempdir().unwrap();
    make(temporary.path()).await;
    for (read_bytes, in_flight) in [(4 << 20, 4), (1 << 20, 8), (1, 1)] {
        let folder = Folder::new(temporary.path());
        let disk = open(&folder, ReadOptions { read_bytes, in_flight }).await;
        let before = folder.counts.reads.load(Ordering::Relaxed);
        folder.counts.most.store(0, Ordering::Relaxed);
        let found = bytes_of(&disk, Extent::new((1 << 30) + 3, 63 * MIB)).await;
        let expected: Vec<u8> = (0..64).flat_map(|index| noise(index, 1 << 20)).skip(3).take(63 << 20).collect();
        assert!(found == expected);
        let reads = folder.counts.reads.load(Ordering::Relaxed) - before;
        let unit = read_bytes.max(64 << 10) as u64;
        assert_eq!(reads, (63 * MIB + 3).div_ceil(unit));
        assert_eq!(folder.counts.most.load(Ordering::Relaxed), in_flight);
    }
}

#[tokio::test]
async fn ranges_outside_and_reads_too_long_are_refused() {
    let temporary = tempfile::tempdir().unwrap();
    make(temporary.path()).await;
    let disk = open(&Folder::new(temporary.path()), ReadOptions::default()).await;
    for range in [Extent::new(1 << 40, 1), Extent::new(u64::MAX, 2), Extent::new(0, u64::MAX)] {
        assert!(matches!(disk.allocated(range, 1).await, Err(DiskError::Misuse { .. })));
        assert!(disk.stream(range).try_collect::<Vec<Bytes>>().await.is_err());
    }
    assert!(matches!(disk.read(Extent::new(0, 9 * MIB)).await, Err(DiskError::Limit { .. })));
    assert_eq!(disk.read(Extent::new((1 << 40) - 5, 5)).await.unwrap(), vec![5; 5]);
    assert_eq!(disk.read(Extent::new(9, 0)).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn a_file_that_ends_early_is_an_error_that_names_it() {
    let temporary = tempfile::tempdir().unwrap();
    make(temporary.path()).await;
    let folder = Folder::new(temporary.path());
    let disk = open(&folder, ReadOptions::default()).await;
    // Cut after opening, as when a volume goes away.
    let file = std::fs::File::options().write(true).open(temporary.path().join("disk.vhdx")).unwrap();
    file.set_len(30 * MIB).unwrap();
    let error = disk.stream(Extent::new(1 << 30, 64 * MIB)).try_collect::<Vec<Bytes>>().await.unwrap_err();
    let DiskError::InImage { image, source } = error else { panic!("{error:?}") };
    assert_eq!(image, format!("{ROOT}disk.vhdx"));
    assert!(matches!(*source, DiskError::Read { .. }));
    // And one that was too short from the start.
    let again = VirtualDisk::open(&folder, &format!("{ROOT}disk.vhdx"), ReadOptions::default()).await;
    let Err(DiskError::InImage { source, .. }) = again else { panic!("it was opened") };
    assert!(source.to_string().contains("end of the file"), "{source}");
}
