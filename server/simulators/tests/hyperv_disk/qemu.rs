//! qemu-img reads what the store writes, and the store reads what qemu-img writes. It knows no differencing files: those are
//! judged after they are merged, and by the oracle.

use std::path::Path;

use simulators::hyperv::disk::{Content, DiskLayout, DiskSpec, DiskStore, SectorSizes, StoreOptions};

use super::{MIB, local, run, store, succeed};

fn judge(store: &DiskStore, path: &str, scratch: &Path) {
    let file = local(store, path);
    let raw = scratch.join("judged.raw");
    store.copy_raw(path, &raw).unwrap();
    assert!(succeed("qemu-img", &["check", "-f", "vhdx", &file]).contains("No errors"));
    succeed("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", &file, raw.to_str().unwrap()]);
}

fn specs() -> Vec<DiskSpec> {
    let mut specs = Vec::new();
    for layout in [DiskLayout::Dynamic, DiskLayout::Fixed] {
        for block_bytes in [MIB, 32 * MIB, 256 * MIB] {
            for physical in [512, 4096] {
                let path = format!(r"C:\VMs\{layout:?}-{block_bytes}-{physical}.vhdx");
                let spec = DiskSpec::dynamic(path, 70 * MIB + 512).with_pattern(7, 9 * MIB);
                specs.push(DiskSpec { layout, block_bytes, sectors: SectorSizes { logical: 512, physical }, ..spec });
            }
        }
    }
    specs
}

#[test]
fn every_kind_of_file_is_read_by_qemu_img() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for spec in specs() {
        let disk = store.create(&spec).unwrap();
        judge(&store, &spec.path, folder.path());
        store.write(disk, 33 * MIB + 5, b"between sectors").unwrap();
        store.write(disk, 70 * MIB, &[9; 512]).unwrap();
        store.run_guest("closer", &[disk], None).unwrap();
        store.stop_guest("closer").unwrap();
        judge(&store, &spec.path, folder.path());
        let info = succeed("qemu-img", &["info", "--output=json", &local(&store, &spec.path)]);
        assert!(info.contains(&format!("\"virtual-size\": {}", 70 * MIB + 512)), "{info}");
        assert_eq!(store.layout(disk).unwrap(), (spec.layout, spec.block_bytes));
    }
}

/// Random runs of the oracle have such disks; this one says when qemu-img can judge them too.
#[test]
fn qemu_img_knows_no_sectors_of_4_kib() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let sectors = SectorSizes { logical: 4096, physical: 4096 };
    let spec = DiskSpec { sectors, ..DiskSpec::dynamic(r"C:\4k.vhdx", 40 * MIB).with_pattern(3, 6 * MIB) };
    let disk = store.create(&spec).unwrap();
    assert_eq!(store.sectors(disk).unwrap(), sectors);
    let output = run("qemu-img", &["check", "-f", "vhdx", &local(&store, &spec.path)]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("Operation not supported"), "judge these disks by it as well: {text}");
}

#[test]
fn grown_and_merged_files_are_read_by_qemu_img() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let spec =
        DiskSpec { block_bytes: MIB, ..DiskSpec::dynamic(r"C:\web\web.vhdx", 16 * MIB).with_pattern(5, 4 * MIB) };
    let disk = store.create(&spec).unwrap();
    store.grow(disk, 48 * MIB).unwrap();
    store.write(disk, 47 * MIB, &[1; 4096]).unwrap();
    let mut frozen = Vec::new();
    for round in 0..4u8 {
        frozen.extend(store.checkpoint(&[disk]).unwrap());
        store.write(disk, u64::from(round) * 3 * MIB + 1000, &vec![round + 2; 3_000_000]).unwrap();
        store.write(disk, 40 * MIB, &vec![0; 4 * MIB as usize]).unwrap();
    }
    assert!(store.grow(disk, 64 * MIB).is_err());
    let expected = store.digest(disk).unwrap();
    // From the middle, from the top, from the base.
    for index in [2, 3, 0, 1] {
        let merged = match frozen.get(index) {
            Some(path) if store.chain(disk).unwrap().contains(path) => store.merge(disk, path).unwrap(),
            _ => continue,
        };
        assert!(!Path::new(&local(&store, &merged.gone)).exists());
        assert_eq!(store.digest(disk).unwrap(), expected);
    }
    while let [base, _, ..] = store.chain(disk).unwrap().as_slice() {
        store.merge(disk, base).unwrap();
        assert_eq!(store.digest(disk).unwrap(), expected);
    }
    assert_eq!(store.path(disk).unwrap(), spec.path);
    drop(store);
    judge(&super::store(folder.path()), &spec.path, folder.path());
}

#[test]
fn a_dirty_log_is_replayed_by_qemu_img_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions { leaves_dirty_logs: true, ..StoreOptions::below(folder.path()) };
    let store = DiskStore::open(options).unwrap();
    let spec = DiskSpec { block_bytes: MIB, ..DiskSpec::dynamic(r"C:\dirty.vhdx", 64 * MIB).with_pattern(1, 2 * MIB) };
    let disk = store.create(&spec).unwrap();
    for block in 0..20u64 {
        store.write(disk, (block * 3 + 1) * MIB, &[block as u8 + 1; 8192]).unwrap();
    }
    let frozen = store.checkpoint(&[disk]).unwrap().remove(0);
    store.write(disk, 0, &[0xFF; 4096]).unwrap();
    let raw = folder.path().join("frozen.raw");
    store.copy_raw(&frozen, &raw).unwrap();
    let copy = folder.path().join("copy.vhdx");
    std::fs::copy(local(&store, &frozen), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    assert!(!run("qemu-img", &["check", "-f", "vhdx", copy]).status.success(), "the log was empty");
    succeed("qemu-img", &["check", "-r", "all", "-f", "vhdx", copy]);
    succeed("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", copy, raw.to_str().unwrap()]);
    // The parent of a child is merged into although its log was left full.
    let expected = store.digest(disk).unwrap();
    store.merge(disk, &frozen).unwrap();
    assert_eq!(store.digest(disk).unwrap(), expected);
}

#[test]
fn files_of_qemu_img_are_attached_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let raw = folder.path().join("source.raw");
    let spec = DiskSpec::dynamic(r"C:\source.vhdx", 50 * MIB).with_pattern(11, 12 * MIB);
    let source = store.create(&spec).unwrap();
    store.copy_raw(&spec.path, &raw).unwrap();
    let options =
        ["subformat=dynamic,block_size=1M", "subformat=dynamic,block_state_zero=off", "subformat=fixed,log_size=2M"];
    for (index, options) in options.into_iter().enumerate() {
        let path = format!(r"C:\by-qemu-{index}.vhdx");
        let file = local(&store, &path);
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "vhdx", "-o", options, raw.to_str().unwrap(), &file]);
        let disk = store.attach(&path).unwrap();
        assert_eq!(store.digest(disk).unwrap(), store.digest(source).unwrap(), "{options}");
        let frozen = store.checkpoint(&[disk]).unwrap().remove(0);
        store.write(disk, 20 * MIB - 3, &vec![5; 3 << 20]).unwrap();
        store.merge(disk, &frozen).unwrap();
        store.grow(disk, 60 * MIB).unwrap();
        store.write(disk, 59 * MIB, &[5; 512]).unwrap();
        store.run_guest("closer", &[disk], None).unwrap();
        store.stop_guest("closer").unwrap();
        judge(&store, &path, folder.path());
    }
}

#[test]
fn a_raw_image_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let mut bytes = vec![0; 3_000_001];
    bytes[1_000_000..1_500_000].fill(0xAB);
    bytes[3_000_000] = 1;
    std::fs::write(&raw, &bytes).unwrap();
    let store = store(folder.path());
    let spec = DiskSpec { content: Content::Raw(raw), ..DiskSpec::dynamic(r"C:\a b\copy.vhdx", 8 * MIB) };
    let disk = store.create(&spec).unwrap();
    let mut read = vec![1; 8 << 20];
    store.read(disk, 0, &mut read).unwrap();
    bytes.resize(8 << 20, 0);
    assert!(read == bytes);
    assert!(store.create(&spec).is_err(), "an existing file is not overwritten");
    assert_eq!(store.digest(disk).unwrap().len(), 64);
}
