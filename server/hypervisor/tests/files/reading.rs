//! Images of other programs' making, read byte for byte.

use crate::samba::Samba;
use crate::support::{MIB, assert_same, connect, make_raw, must, open, text};
use domain::Extent;
use futures_util::TryStreamExt as _;
use hypervisor::ErrorKind;
use std::fs;
use std::path::Path;

/// Disks up to this many bytes are compared whole.
const WHOLE_BYTES: u64 = 40 << 20;

fn places(folder: &Path, size: u64) -> Vec<Extent> {
    if size <= WHOLE_BYTES {
        return vec![Extent::new(0, size)];
    }
    let lines = fs::read_to_string(folder.join("ranges.txt")).expect("the maker's list");
    let place = |line: &str| {
        let (offset, length) = line.split_once(' ').expect("two numbers");
        Extent::new(offset.parse().expect("a number"), length.parse().expect("a number"))
    };
    lines.lines().map(place).collect()
}

/// Chains with differencing images, partial bitmaps, dirty logs and large sectors, which qemu does not make.
async fn check_chains(kind: &str, seeds: std::ops::Range<u32>) {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    let maker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../disk/tests/peers/make_images.py");
    let folder = samba.drive().join("vms");
    let mut longest = 0;
    for seed in seeds {
        fs::create_dir(&folder).expect("the folder");
        must("python3", &[text(&maker), kind, text(&folder), &seed.to_string()]);
        for depth in (0..).take_while(|depth| folder.join(format!("{depth}.{kind}")).exists()) {
            let disk = open(&shares, &format!(r"C:\vms\{depth}.{kind}")).await;
            assert_eq!(disk.images().count(), depth + 1);
            longest = longest.max(depth + 1);
            let raw = folder.join(format!("{depth}.raw"));
            assert_same(&disk, &raw, &places(&folder, disk.size_bytes())).await;
        }
        fs::remove_dir_all(&folder).expect("the folder again");
    }
    assert!(longest > 2, "chains of several images were to be tested");
}

#[tokio::test]
async fn vhdx_chains_are_read_as_their_makers_meant() {
    check_chains("vhdx", 0..6).await;
}

#[tokio::test]
async fn vhd_chains_are_read_as_their_makers_meant() {
    check_chains("vhd", 0..6).await;
}

#[tokio::test]
async fn images_of_qemu_are_read_whole() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    let raw = samba.drive().join("raw");
    make_raw(&raw, 80 * MIB, &[(0, 5 << 20), (31 * MIB - 700, 20 << 20), (80 * MIB - 512, 512)]);
    for (format, options, name) in [
        ("vhdx", "subformat=dynamic,block_size=1M", "d.vhdx"),
        ("vhdx", "subformat=dynamic,block_size=32M", "large blocks.vhdx"),
        ("vhdx", "subformat=fixed", "fixed.vhdx"),
        ("vpc", "subformat=dynamic,force_size=on", "d.vhd"),
        ("vpc", "subformat=fixed,force_size=on", "fixed.vhd"),
    ] {
        let image = samba.drive().join(name);
        must("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", options, text(&raw), text(&image)]);
        let disk = open(&shares, &format!(r"\\?\c:\{name}")).await;
        assert_same(&disk, &raw, &[Extent::new(0, 80 * MIB)]).await;
        assert_eq!(disk.logical_sector_bytes(), 512);
        let again = open(&shares, &format!(r"\\127.0.0.1\C$\{name}")).await;
        assert_eq!(again.identifier(), disk.identifier());
        let allocated = disk.allocated().await.expect("areas");
        let total: u64 = allocated.iter().map(|area| area.length).sum();
        assert!(name.starts_with('f') || name.starts_with('l') || total < 40 * MIB, "{name}: {allocated:?}");
    }
}

#[tokio::test]
async fn scattered_areas_come_in_order_with_their_places() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    crate::support::make_image(&samba.drive(), "x.vhdx");
    let disk = open(&shares, r"C:\x.vhdx").await;
    let raw = fs::read(samba.drive().join("x.vhdx.raw")).expect("the raw disk");
    let mut areas: Vec<Extent> = (0..300).map(|index| Extent::new(index * 300_000 + 512, 65_536)).collect();
    areas.push(Extent::new(95 * MIB + 1, 3 * MIB));
    for outside in [Extent::new(100 * MIB - 1, 2), Extent::new(u64::MAX, 2)] {
        let refused = disk.stream_areas(vec![outside]).try_collect::<Vec<_>>().await;
        assert_eq!(refused.map_err(|error| error.code).map(drop), Err("hyperv.areas_outside"));
    }
    let pieces: Vec<_> = disk.stream_areas(areas.clone()).try_collect().await.expect("pieces");
    let mut expected = areas.iter().flat_map(|area| {
        let pieces = (area.offset..area.end()).step_by(1 << 20);
        pieces.map(|offset| (offset, (area.end() - offset).min(MIB) as usize))
    });
    for (offset, bytes) in pieces {
        assert_eq!(expected.next(), Some((offset, bytes.len())));
        assert!(bytes == raw[offset as usize..offset as usize + bytes.len()], "{} bytes at {offset}", bytes.len());
    }
    assert_eq!(expected.next(), None);
}

#[tokio::test]
async fn what_is_not_there_and_what_is_no_disk_is_named() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    fs::create_dir(samba.drive().join("folder.vhdx")).expect("a folder");
    fs::write(samba.drive().join("text.vhdx"), "hello").expect("a file");
    crate::support::make_image(&samba.drive(), "torn.vhdx");
    let torn = fs::File::options().write(true).open(samba.drive().join("torn.vhdx")).expect("the image");
    torn.set_len(3 * MIB).expect("less of it");
    for (path, kind, code) in [
        (r"C:\none.vhdx", ErrorKind::NotFound, "hyperv.file_missing"),
        (r"C:\none\x.vhdx", ErrorKind::NotFound, "hyperv.file_missing"),
        (r"C:\folder.vhdx", ErrorKind::Refused, "hyperv.not_a_file"),
        (r"D:\x.vhdx", ErrorKind::NotFound, "hyperv.share_missing"),
        (r"\\127.0.0.1\private$\x.vhdx", ErrorKind::Permission, "hyperv.smb_denied"),
        (r"\\nas\vms\x.vhdx", ErrorKind::Unsupported, "hyperv.path"),
        (r"C:\text.vhdx", ErrorKind::Unsupported, "hyperv.disk_damaged"),
        (r"C:\torn.vhdx", ErrorKind::Unsupported, "hyperv.disk_damaged"),
    ] {
        let error = shares.open_disk(path).await.expect_err(path);
        assert_eq!((error.kind, error.code), (kind, code), "{path}: {error}");
        assert!(error.to_string().contains(path), "{error}");
        assert!(error.host.starts_with("127.0.0.1:"), "{error}");
    }
    let denied = shares.open_disk(r"\\127.0.0.1\private$\x.vhdx").await.expect_err("denied");
    assert!(denied.hint.contains("LocalAccountTokenFilterPolicy"));
}
