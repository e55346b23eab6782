//! Damaged and lying images end in an error, or read as something, but never in a panic, a hang or a great allocation.

use crate::support::{open_file, peer, text};
use domain::Extent;
use futures_util::TryStreamExt as _;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const MIB: u64 = 1 << 20;

/// Opens and uses it as far as it goes.
async fn survive(image: &Path) -> disk::Result<()> {
    let disk = open_file(image).await?;
    let start = Extent::new(0, disk.size_bytes().min(3 * MIB));
    disk.allocated(start, 512).await?;
    disk.stream(start).try_for_each(|_| async { Ok(()) }).await
}

/// A base image of this kind whose sectors have 512 bytes.
fn base(kind: &str, folder: &Path, dirty: bool) -> std::path::PathBuf {
    for seed in 500.. {
        peer("make_images.py", &[kind, text(folder), &seed.to_string()]);
        let image = folder.join(format!("0.{kind}"));
        let clean = folder.join("0.clean").exists();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path != image {
                fs::remove_file(path).unwrap();
            }
        }
        if clean != dirty && fs::metadata(&image).unwrap().len() < 64 * MIB {
            return image;
        }
    }
    unreachable!()
}

/// Every word of the records is replaced by values that hurt.
async fn hurt(image: &Path, places: &[(u64, u64)]) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let (mut refused, mut tried) = (0, 0);
    for &(start, length) in places {
        for at in (start..start + length).step_by(4) {
            let mut old = [0; 8];
            file.read_exact_at(&mut old, at).unwrap();
            for value in [u64::MAX, 0, 1 << 63, 0x0000_0001_0000_0000, u64::from_le_bytes(old).wrapping_add(1)] {
                file.write_all_at(&value.to_le_bytes(), at).unwrap();
                tried += 1;
                refused += u32::from(survive(image).await.is_err());
            }
            file.write_all_at(&old, at).unwrap();
        }
    }
    survive(image).await.unwrap();
    assert!(refused > 0 && refused < tried, "{refused} of {tried} were refused");
}

#[tokio::test]
async fn vhdx_records_with_wrong_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let image = base("vhdx", folder.path(), false);
    let regions = fs::read(&image).unwrap()[196_608..].to_vec();
    let region = |index: usize| {
        let at = 32 + 32 * index;
        u64::from_le_bytes(regions[at..at + 8].try_into().unwrap())
    };
    // Headers and region tables have copies and checksums; metadata and block table have neither.
    hurt(&image, &[(0, 16), (65_536, 88), (196_608, 80)]).await;
    hurt(&image, &[(region(0), 200), (region(1), 200)]).await;
}

#[tokio::test]
async fn vhdx_logs_with_wrong_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let image = base("vhdx", folder.path(), true);
    let bytes = fs::read(&image).unwrap();
    let headers = [65_536, 131_072].map(|at| u64::from_le_bytes(bytes[at + 72..at + 80].try_into().unwrap()));
    let log = headers.into_iter().max().unwrap() as usize;
    let entries = (log..bytes.len() - 64).step_by(4096).filter(|&at| bytes[at..].starts_with(b"loge"));
    let places: Vec<(u64, u64)> = entries.take(6).map(|at| (at as u64, 100)).collect();
    assert!(!places.is_empty());
    hurt(&image, &places).await;
}

#[tokio::test]
async fn vhd_records_with_wrong_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let image = base("vhd", folder.path(), false);
    hurt(&image, &[(0, 88), (512, 64), (1536, 64)]).await;
    let length = fs::metadata(&image).unwrap().len();
    hurt(&image, &[(length - 512, 88)]).await;
}

#[tokio::test]
async fn files_cut_anywhere() {
    for kind in ["vhdx", "vhd"] {
        let folder = tempfile::tempdir().unwrap();
        let image = base(kind, folder.path(), false);
        let file = File::options().write(true).open(&image).unwrap();
        let mut length = file.metadata().unwrap().len();
        while length > 0 {
            length = if length > 4 * MIB { length - MIB - 7 } else { length.saturating_sub(40_961) };
            file.set_len(length).unwrap();
            let _ = survive(&image).await;
        }
        assert!(survive(&image).await.is_err());
    }
}
