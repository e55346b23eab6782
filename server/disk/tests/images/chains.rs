//! Chains, partial bitmaps, dirty logs, large sectors: what only the maker in `peers/` makes.

use crate::support::{assert_same, open, peer, run, text};
use disk::DiskError;
use disk::container::{ImageInfo, ImageKind};
use domain::Extent;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Disks up to this many bytes are compared whole.
const WHOLE_BYTES: u64 = 40 << 20;
/// Disks up to this many bytes are shown to qemu.
const QEMU_BYTES: u64 = 1 << 30;

fn places(folder: &Path, size: u64) -> Vec<Extent> {
    if size <= WHOLE_BYTES {
        return vec![Extent::new(0, size)];
    }
    let lines = fs::read_to_string(folder.join("ranges.txt")).unwrap();
    lines
        .lines()
        .map(|line| {
            let (offset, length) = line.split_once(' ').unwrap();
            Extent::new(offset.parse().unwrap(), length.parse().unwrap())
        })
        .collect()
}

/// Every image of the chains of these seeds, as a disk of its own.
async fn check(kind: &str, seeds: Range<u32>) {
    for seed in seeds {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        peer("make_images.py", &[kind, text(folder), &seed.to_string()]);
        for depth in 0.. {
            let name = format!("{depth}.{kind}");
            if !folder.join(&name).exists() {
                assert!(depth > 0);
                break;
            }
            let disk = open(folder, &name).await.unwrap_or_else(|error| panic!("seed {seed}, {name}: {error:?}"));
            let infos: Vec<ImageInfo> = disk.images().cloned().collect();
            assert_eq!(infos.len(), depth + 1);
            println!("seed {seed}: {:?}", infos[0]);
            let raw = folder.join(format!("{depth}.raw"));
            assert_same(&disk, &raw, &places(folder, disk.size_bytes())).await;
            if depth == 0 {
                judge_by_qemu(folder, kind, &infos[0]);
            }
        }
    }
}

/// The maker is judged as well: qemu must see the same disk in what it can open, after its own replay of the log.
fn judge_by_qemu(folder: &Path, kind: &str, info: &ImageInfo) {
    // qemu knows no larger sectors, and reads all zeros of a disk one by one.
    if info.logical_sector_bytes != 512 || info.size_bytes > QEMU_BYTES {
        return;
    }
    let (copy, raw) = (folder.join("copy"), folder.join("0.raw"));
    fs::copy(folder.join(format!("0.{kind}")), &copy).unwrap();
    let clean = folder.join("0.clean").exists();
    assert_eq!(info.replayed_bytes == 0, clean);
    let format = if kind == "vhd" { "vpc" } else { "vhdx" };
    if !clean {
        run("qemu-img", &["check", "-r", "all", text(&copy)]);
    }
    run("qemu-img", &["compare", "-f", format, "-F", "raw", text(&copy), text(&raw)]);
}

#[tokio::test]
async fn vhdx_chains_read_as_their_makers_meant() {
    check("vhdx", 0..8).await;
}

#[tokio::test]
async fn more_vhdx_chains_read_as_their_makers_meant() {
    check("vhdx", 8..16).await;
}

#[tokio::test]
async fn yet_more_vhdx_chains_read_as_their_makers_meant() {
    check("vhdx", 16..24).await;
}

#[tokio::test]
async fn vhd_chains_read_as_their_makers_meant() {
    check("vhd", 0..10).await;
}

/// A chain of at least two images of this kind.
fn chain(kind: &str, folder: &Path) {
    for seed in 100.. {
        for entry in fs::read_dir(folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        peer("make_images.py", &[kind, text(folder), &seed.to_string()]);
        if folder.join(format!("1.{kind}")).exists() {
            return;
        }
    }
}

#[tokio::test]
async fn a_parent_that_is_gone_or_changed_is_named() {
    for (kind, identity_at) in [("vhdx", 0), ("vhd", 68)] {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        chain(kind, folder);
        let (base, child) = (folder.join(format!("0.{kind}")), format!("1.{kind}"));
        let disk = open(folder, &child).await.unwrap();
        assert_eq!(disk.images().next().unwrap().kind, ImageKind::Differencing);

        let other = tempfile::tempdir().unwrap();
        let mut foreign = other.path().join(format!("0.{kind}"));
        peer("make_images.py", &[kind, text(other.path()), "7"]);
        if kind == "vhd" {
            // Another identity in an otherwise equal footer, with its checksum kept right.
            let mut bytes = fs::read(&base).unwrap();
            let last = bytes.len() - 512;
            for start in [last, 0] {
                if bytes[start..].starts_with(b"conectix")
                    && bytes[start + identity_at] != bytes[start + identity_at + 1]
                {
                    bytes.swap(start + identity_at, start + identity_at + 1);
                }
            }
            foreign = other.path().join("swapped");
            fs::write(&foreign, bytes).unwrap();
        }
        fs::rename(&base, folder.join("kept")).unwrap();
        let gone = open(folder, &child).await.unwrap_err();
        assert!(matches!(&gone, DiskError::Parent { image, .. } if image.contains(&child)), "{gone:?}");
        assert!(gone.to_string().contains(&format!(r"there is no C:\vms\0.{kind}")), "{gone}");

        fs::copy(&foreign, &base).unwrap();
        let changed = open(folder, &child).await.unwrap_err();
        assert!(changed.to_string().contains("changed since"), "{changed}");
    }
}

#[tokio::test]
async fn a_chain_that_bites_its_tail_ends_at_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    chain("vhd", folder);
    // The child takes the parent's name and identity.
    let mut bytes = fs::read(folder.join("1.vhd")).unwrap();
    let base = fs::read(folder.join("0.vhd")).unwrap();
    let identity = base[base.len() - 512..][68..84].to_vec();
    let last = bytes.len() - 512;
    for start in [0, last] {
        if !bytes[start..].starts_with(b"conectix") {
            continue;
        }
        bytes[start + 68..start + 84].copy_from_slice(&identity);
        bytes[start + 64..start + 68].fill(0);
        let sum = !bytes[start..start + 512].iter().map(|&byte| u32::from(byte)).sum::<u32>();
        bytes[start + 64..start + 68].copy_from_slice(&sum.to_be_bytes());
    }
    fs::write(folder.join("0.vhd"), bytes).unwrap();
    let error = open(folder, "1.vhd").await.unwrap_err();
    let DiskError::InImage { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(*source, DiskError::Limit { limit: 64, .. }), "{source:?}");
}
