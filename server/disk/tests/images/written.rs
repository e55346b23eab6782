//! Images we write, judged by qemu and by a strict reader of our peers.

use crate::support::{Deed, FileTarget, assert_same, noise, open_file, peer, run, text};
use bytes::Bytes;
use disk::DiskError;
use disk::container::vhdx::{VhdxOptions, VhdxWriter};
use disk::container::{ImageKind, VirtualDisk};
use domain::Extent;
use proptest::prelude::*;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

const MIB: u64 = 1 << 20;

fn options(kind: ImageKind, size_bytes: u64, block_mib: u32, logical: u32, physical: u32) -> VhdxOptions {
    VhdxOptions {
        kind,
        size_bytes,
        block_bytes: block_mib << 20,
        logical_sector_bytes: logical,
        physical_sector_bytes: physical,
        disk_id: Uuid::from_u128(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00),
        file_write_id: Uuid::from_u128(2),
        data_write_id: Uuid::from_u128(3),
        creator: "test".into(),
        writes_in_flight: 4,
    }
}

async fn write(target: Arc<FileTarget>, options: VhdxOptions, writes: &[(u64, Vec<u8>)]) -> u64 {
    let mut image = VhdxWriter::create(target, options).await.unwrap();
    for (offset, data) in writes {
        image.write(*offset, Bytes::copy_from_slice(data)).await.unwrap();
    }
    image.finish().await.unwrap()
}

fn raw(path: &Path, size: u64, writes: &[(u64, Vec<u8>)]) {
    let file = File::create_new(path).unwrap();
    file.set_len(size).unwrap();
    for (offset, data) in writes {
        file.write_all_at(data, *offset).unwrap();
    }
}

/// Writes the disk, and holds it against a raw one by our reader, the peers' reader, and qemu.
async fn judge(options: VhdxOptions, writes: &[(u64, Vec<u8>)]) -> (VirtualDisk, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let length = write(FileTarget::create(&path("disk.vhdx")), options.clone(), writes).await;
    assert_eq!(fs::metadata(path("disk.vhdx")).unwrap().len(), length);
    let size = options.size_bytes;
    raw(&path("disk.raw"), size, writes);

    let disk = open_file(&path("disk.vhdx")).await.unwrap();
    let whole = size <= 100 * MIB;
    let near = |(offset, data): &(u64, Vec<u8>)| Extent::new(offset.saturating_sub(600), data.len() as u64 + 1200);
    let places = if whole { vec![Extent::new(0, size)] } else { writes.iter().map(near).collect() };
    assert_same(&disk, &path("disk.raw"), &places).await;
    let info = disk.images().next().unwrap();
    assert_eq!((info.kind, info.disk_id, info.content_id), (options.kind, options.disk_id, options.data_write_id));
    assert_eq!(info.physical_sector_bytes, options.physical_sector_bytes);

    let said = peer("read_vhdx.py", &[text(&path("disk.vhdx")), text(&path("peer.raw"))]);
    let fixed = u8::from(options.kind == ImageKind::Fixed);
    let VhdxOptions { logical_sector_bytes, physical_sector_bytes, block_bytes, disk_id, .. } = options;
    assert_eq!(said.trim(), format!("{logical_sector_bytes} {physical_sector_bytes} {block_bytes} {fixed} {disk_id}"));
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&path("peer.raw")), text(&path("disk.raw"))]);
    // qemu knows no larger sectors, and reads all zeros of a disk one by one.
    if logical_sector_bytes == 512 && size <= 16 << 30 {
        run("qemu-img", &["check", "-f", "vhdx", text(&path("disk.vhdx"))]);
        run("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", text(&path("disk.vhdx")), text(&path("disk.raw"))]);
        // qemu goes on writing where we stopped: log, block table and file length must suit it.
        let more = format!("write -P 9 {} 512", size / 2 / 512 * 512);
        run("qemu-io", &["-f", "vhdx", "-c", &more, "-c", "write -P 8 0 512", text(&path("disk.vhdx"))]);
        run("qemu-io", &["-f", "raw", "-c", &more, "-c", "write -P 8 0 512", text(&path("disk.raw"))]);
        run("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", text(&path("disk.vhdx")), text(&path("disk.raw"))]);
        let again = open_file(&path("disk.vhdx")).await.unwrap();
        assert_same(&again, &path("disk.raw"), &places).await;
    }
    (disk, length)
}

#[tokio::test]
async fn dynamic_images_are_what_was_written() {
    let size = 70 * MIB + 512 * 3;
    let writes = [
        (512, noise(1, 1000)),
        (3 * MIB - 5, noise(2, 3 << 20)),
        (33 * MIB - 700, vec![7; 200_000]),
        (40 * MIB, vec![0; 5 << 20]),
        (50 * MIB, [vec![0; 300_000], noise(3, 40_000), vec![0; 2 << 20]].concat()),
        (size - 1024, noise(4, 1024)),
    ];
    let (disk, _) = judge(options(ImageKind::Dynamic, size, 1, 512, 4096), &writes).await;
    let allocated = disk.allocated(Extent::new(0, size), 1).await.unwrap();
    // Blocks 0; 2 to 5; 32 and 33; 50; 69 and 70. The zeros at 40 MiB took no room.
    let blocks: Vec<(u64, u64)> = allocated.iter().map(|area| (area.offset / MIB, area.length.div_ceil(MIB))).collect();
    assert_eq!(blocks, [(0, 1), (2, 4), (32, 2), (50, 1), (70, 1)]);
    judge(options(ImageKind::Dynamic, size, 32, 512, 512), &writes).await;
    judge(options(ImageKind::Dynamic, 64 * MIB, 2, 4096, 4096), &writes[..2]).await;
}

#[tokio::test]
async fn fixed_images_hold_everything() {
    let size = 20 * MIB + 4096;
    let writes = [(4096, noise(1, 100_000)), (9 * MIB, noise(2, 70_000)), (size - 512, noise(3, 512))];
    let (disk, length) = judge(options(ImageKind::Fixed, size, 1, 512, 512), &writes).await;
    assert_eq!(length, 4 * MIB + 21 * MIB);
    assert_eq!(disk.allocated(Extent::new(0, size), 1).await.unwrap(), [Extent::new(0, size)]);
    judge(options(ImageKind::Fixed, size, 8, 4096, 4096), &writes[..2]).await;
    judge(options(ImageKind::Fixed, 512, 1, 512, 512), &[]).await;
}

#[tokio::test]
async fn large_disks_of_many_chunks_stay_small() {
    let writes: Vec<(u64, Vec<u8>)> = [0, 3, 4, 7, 8, 14_000].map(|gib| ((gib << 30) + 4096, noise(gib, 9000))).into();
    let (_, length) = judge(options(ImageKind::Dynamic, 15_000 << 30, 32, 512, 4096), &writes).await;
    assert!(length < 300 * MIB, "{length}");
    judge(options(ImageKind::Dynamic, 100 << 30, 256, 4096, 4096), &writes[..3]).await;
    judge(options(ImageKind::Dynamic, 4096, 256, 4096, 4096), &[(0, noise(1, 4096))]).await;
}

#[tokio::test]
async fn until_the_last_step_it_is_no_image() {
    for kind in [ImageKind::Dynamic, ImageKind::Fixed] {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history");
        fs::create_dir(&history).unwrap();
        let target = FileTarget::create(&folder.path().join("disk.vhdx"));
        let mut target = Arc::into_inner(target).unwrap();
        target.history = Some(history.clone());
        let target = Arc::new(target);
        let writes = [(0, noise(1, 70_000)), (5 * MIB, noise(2, 10))];
        write(target.clone(), options(kind, 6 * MIB, 1, 512, 512), &writes).await;
        let deeds = target.deeds.lock().unwrap().clone();
        let steps = deeds.len();
        let [.., Deed::Flush, Deed::Write(..), Deed::Write(..), Deed::Flush, Deed::Write(0, _), Deed::Flush] =
            deeds[..]
        else {
            panic!("{deeds:?}")
        };
        for step in 1..=steps {
            let opened = open_file(&history.join(step.to_string())).await.is_ok();
            assert_eq!(opened, step >= steps - 1, "after step {step} of {steps}");
        }
    }
}

#[tokio::test]
async fn writes_are_gathered_and_few_are_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let target = FileTarget::create(&folder.path().join("disk.vhdx"));
    let data = noise(1, 8 << 20);
    let writes: Vec<(u64, Vec<u8>)> =
        data.chunks(4096).enumerate().map(|(index, piece)| (index as u64 * 4096, piece.to_vec())).collect();
    write(target.clone(), options(ImageKind::Dynamic, 64 * MIB, 32, 512, 512), &writes).await;
    let deeds = target.deeds.lock().unwrap().clone();
    let data_writes = deeds.iter().filter(|deed| matches!(deed, Deed::Write(at, _) if *at >= 4 * MIB)).count();
    assert_eq!(data_writes, 8);
    let most = target.most.load(Ordering::Relaxed);
    assert!((2..=4).contains(&most), "{most} writes at once");
}

#[tokio::test]
async fn a_writer_only_goes_forward_and_stays_inside() {
    let folder = tempfile::tempdir().unwrap();
    let target = FileTarget::create(&folder.path().join("disk.vhdx"));
    let mut writer = VhdxWriter::create(target.clone(), options(ImageKind::Dynamic, MIB, 1, 512, 512)).await.unwrap();
    writer.write(1000, Bytes::from_static(&[1; 1000])).await.unwrap();
    for (offset, length) in [(1999, 1), (MIB - 1, 2), (u64::MAX, 2)] {
        let refused = writer.write(offset, vec![1; length].into()).await;
        assert!(matches!(refused, Err(DiskError::Misuse { .. })), "{offset}+{length}");
    }
    for bad in [
        options(ImageKind::Differencing, MIB, 1, 512, 512),
        options(ImageKind::Dynamic, 0, 1, 512, 512),
        options(ImageKind::Dynamic, MIB + 512, 1, 4096, 4096),
        options(ImageKind::Dynamic, MIB, 3, 512, 512),
        options(ImageKind::Dynamic, MIB, 1, 4096, 512),
        options(ImageKind::Dynamic, 65 << 40, 32, 512, 512),
        options(ImageKind::Fixed, 64 << 40, 1, 512, 512),
    ] {
        assert!(VhdxWriter::create(target.clone(), bad).await.is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_was_written_is_read(
        sectors in 1u64..9000, large_sectors: bool, fixed: bool, block_mib in prop_oneof![Just(1u32), Just(2), Just(32)],
        pieces in prop::collection::vec((0u64..900_000, 1usize..1_500_000, any::<u8>(), any::<bool>()), 0..10),
    ) {
        let sector = if large_sectors { 4096 } else { 512 };
        let size = sectors * u64::from(sector);
        let (mut at, mut writes) = (0, Vec::new());
        for (gap, length, value, random) in pieces {
            let from = at + gap;
            let length = length.min(size.saturating_sub(from) as usize);
            if length == 0 { break; }
            writes.push((from, if random { noise(u64::from(value), length) } else { vec![value; length] }));
            at = from + length as u64;
        }
        let kind = if fixed { ImageKind::Fixed } else { ImageKind::Dynamic };
        let folder = tempfile::tempdir().unwrap();
        raw(&folder.path().join("raw"), size, &writes);
        let path = folder.path().join("disk.vhdx");
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
            write(FileTarget::create(&path), options(kind, size, block_mib, sector, 4096), &writes).await;
            let disk = open_file(&path).await.unwrap();
            assert_same(&disk, &folder.path().join("raw"), &[Extent::new(0, size)]).await;
        });
    }
}
