//! One file at a time; chains and qemu-img are in the tests of the crate.

use std::os::unix::fs::FileExt;

use uuid::Uuid;

use super::*;

const MIB: u64 = 1 << 20;

fn parameters(disk_bytes: u64) -> Parameters {
    Parameters {
        block_bytes: MIB,
        disk_bytes,
        disk_id: Uuid::from_u128(42),
        logical_sector_bytes: 512,
        physical_sector_bytes: 4096,
        fixed: false,
        parent: None,
    }
}

fn differencing(disk_bytes: u64) -> Parameters {
    let parent =
        Parent { linkage: Uuid::from_u128(1), relative_path: r".\p.vhdx".to_owned(), absolute_path: String::new() };
    let parent = Parent { absolute_path: r"\\?\C:\p.vhdx".to_owned(), ..parent };
    Parameters { parent: Some(parent), ..parameters(disk_bytes) }
}

fn bytes_of(vhdx: &Vhdx, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; length];
    let mut rest = bytes.as_mut_slice();
    for segment in vhdx.segments(offset, length as u64) {
        let (part, others) = rest.split_at_mut(segment.length as usize);
        match segment.source {
            Source::File(place) => vhdx.read_payload(place, part).unwrap(),
            Source::Zero => part.fill(0),
            Source::Parent => part.fill(b'p'),
        }
        rest = others;
    }
    bytes
}

#[test]
fn identities_change_once_per_session_and_only_for_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vhdx");
    let mut vhdx = Vhdx::create(&path, differencing(8 * MIB)).unwrap();
    let made = (vhdx.file_write_guid(), vhdx.data_write_guid());
    vhdx.set_parent(parameters_parent("other.vhdx")).unwrap();
    assert_ne!(vhdx.file_write_guid(), made.0);
    assert_eq!(vhdx.data_write_guid(), made.1);
    vhdx.write(0, &[1; 512]).unwrap();
    let written = (vhdx.file_write_guid(), vhdx.data_write_guid());
    assert_ne!(written.1, made.1);
    vhdx.write(512, &[1; 512]).unwrap();
    assert_eq!((vhdx.file_write_guid(), vhdx.data_write_guid()), written);
    assert!(vhdx.is_dirty());
    vhdx.finish().unwrap();
    assert!(!vhdx.is_dirty());
    drop(vhdx);
    let mut vhdx = Vhdx::open(&path, Access::Write).unwrap();
    assert_eq!(vhdx.data_write_guid(), written.1);
    assert_eq!(vhdx.parameters().parent.as_ref().unwrap().relative_path, r".\other.vhdx");
    vhdx.write(0, &[2; 512]).unwrap();
    assert_ne!(vhdx.data_write_guid(), written.1);
}

fn parameters_parent(name: &str) -> Parent {
    let (relative_path, absolute_path) = (format!(r".\{name}"), format!(r"\\?\C:\{name}"));
    Parent { linkage: Uuid::from_u128(2), relative_path, absolute_path }
}

#[test]
fn a_partial_block_becomes_full_and_a_whole_one_of_zeros_takes_no_space() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.avhdx");
    let mut vhdx = Vhdx::create(&path, differencing(4 * MIB)).unwrap();
    vhdx.write(MIB + 512, &[7; 1024]).unwrap();
    let mut expected = vec![b'p'; 2048];
    expected[512..1536].fill(7);
    assert_eq!(bytes_of(&vhdx, MIB, 2048), expected);
    let before = std::fs::metadata(&path).unwrap().len();
    vhdx.write(2 * MIB, &vec![0; MIB as usize]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), before);
    assert_eq!(vhdx.segments(2 * MIB, MIB)[0].source, Source::Zero);
    vhdx.write(2 * MIB, &[8; 512]).unwrap();
    assert_eq!(bytes_of(&vhdx, 2 * MIB, 1024), [vec![8; 512], vec![0; 512]].concat());
    for at in (MIB..2 * MIB).step_by(4096) {
        vhdx.write(at, &[9; 4096]).unwrap();
    }
    assert_eq!(vhdx.segments(MIB, MIB).len(), 1);
    vhdx.finish().unwrap();
    let again = Vhdx::open(&path, Access::Read).unwrap();
    assert_eq!(again.own_segments(), vhdx.own_segments());
}

#[test]
fn a_file_whose_log_was_left_full_reads_right_either_way() {
    let folder = tempfile::tempdir().unwrap();
    for held in [true, false] {
        let path = folder.path().join(format!("{held}.avhdx"));
        let mut vhdx = Vhdx::create(&path, differencing(64 * MIB)).unwrap();
        vhdx.hold_in_log(held);
        // Enough entries to go around the ring a few times.
        for at in 0..400u64 {
            vhdx.write(at * 37 % 128 * 512 * 1024 + at / 128 * 1024, &[at as u8; 1024]).unwrap();
        }
        let expected = bytes_of(&vhdx, 0, 64 << 20);
        vhdx.finish().unwrap();
        assert_eq!(vhdx.is_dirty(), held);
        let raw = std::fs::read(&path).unwrap();
        let reader = Vhdx::open(&path, Access::Read).unwrap();
        assert!(bytes_of(&reader, 0, 64 << 20) == expected);
        assert!(std::fs::read(&path).unwrap() == raw, "a reader writes nothing");
        if held {
            blind_to_the_log(&path, &expected);
        }
        let identity = reader.data_write_guid();
        let writer = Vhdx::open(&path, Access::Write).unwrap();
        assert!(!writer.is_dirty() && writer.data_write_guid() == identity);
        assert!(bytes_of(&writer, 0, 64 << 20) == expected);
    }
}

/// A reader that does not replay must see something else, or the log holds nothing.
fn blind_to_the_log(path: &std::path::Path, expected: &[u8]) {
    let copy = path.with_extension("blind");
    std::fs::copy(path, &copy).unwrap();
    let vhdx = Vhdx::open(&copy, Access::Read).unwrap();
    let mut header = vhdx.header.clone();
    header.log = Uuid::nil();
    header.sequence += 1;
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    file.write_all_at(&header.encode(), layout::HEADER_OFFSETS[0]).unwrap();
    match Vhdx::open(&copy, Access::Read) {
        Ok(blind) => assert!(bytes_of(&blind, 0, 64 << 20) != expected),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::InvalidData),
    }
}

#[test]
fn a_killed_writer_leaves_a_file_that_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vhdx");
    let mut vhdx = Vhdx::create(&path, parameters(16 * MIB)).unwrap();
    vhdx.write(5 * MIB, &[3; 4096]).unwrap();
    drop(vhdx);
    let vhdx = Vhdx::open(&path, Access::Write).unwrap();
    assert!(!vhdx.is_dirty());
    assert_eq!(bytes_of(&vhdx, 5 * MIB, 8192), [vec![3; 4096], vec![0; 4096]].concat());
}

#[test]
fn damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.vhdx");
    let mut vhdx = Vhdx::create(&path, parameters(16 * MIB)).unwrap();
    vhdx.write(0, &vec![1; 3 << 20]).unwrap();
    vhdx.finish().unwrap();
    let good = std::fs::read(&path).unwrap();
    let bat = 3 << 20;
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        std::fs::write(&path, bad).unwrap();
        Vhdx::open(&path, Access::Read).unwrap_err().to_string()
    };
    assert!(refused(&|bytes| bytes[0] = b'x').contains("not a VHDX"));
    assert!(refused(&|bytes| bytes[bat] = 5).contains("reserved block state"));
    assert!(refused(&|bytes| bytes[bat + 1] = 1).contains("reserved bits"));
    assert!(refused(&|bytes| bytes[bat] = 7).contains("partial"));
    assert!(refused(&|bytes| bytes.copy_within(bat..bat + 8, bat + 8)).contains("overlaps"));
    assert!(refused(&|bytes| bytes.truncate(bytes.len() - (1 << 20))).contains("ends at byte"));
    assert!(refused(&|bytes| bytes[(2 << 20) + (64 << 10) + 3] = 0xFF).contains("block size"));
    let both = |bytes: &mut Vec<u8>| [(64 << 10) + 9, (128 << 10) + 9].iter().for_each(|&at| bytes[at] ^= 1);
    assert!(refused(&both).contains("no valid header"));
}

#[test]
fn a_disk_grows_beyond_its_table() {
    let folder = tempfile::tempdir().unwrap();
    for fixed in [false, true] {
        let path = folder.path().join(format!("{fixed}.vhdx"));
        let mut vhdx = Vhdx::create(&path, Parameters { fixed, ..parameters(3 * MIB) }).unwrap();
        vhdx.write(2 * MIB, &[4; 512]).unwrap();
        vhdx.grow(5 * MIB + 512).unwrap();
        vhdx.write(5 * MIB, &[5; 512]).unwrap();
        if !fixed {
            // More blocks than entries of 1 MiB of table.
            vhdx.grow(200 << 30).unwrap();
            vhdx.write((200 << 30) - 512, &[6; 512]).unwrap();
        }
        vhdx.finish().unwrap();
        let vhdx = Vhdx::open(&path, Access::Read).unwrap();
        assert_eq!(bytes_of(&vhdx, 2 * MIB, 512), vec![4; 512]);
        assert_eq!(bytes_of(&vhdx, 5 * MIB, 512), vec![5; 512]);
        if !fixed {
            assert_eq!(bytes_of(&vhdx, (200 << 30) - 512, 512), vec![6; 512]);
        }
        assert_eq!(vhdx.parameters().fixed, fixed);
    }
}
