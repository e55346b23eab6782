//! Images that qemu makes.

use crate::support::{assert_same, open_file, run, text};
use disk::DiskError;
use disk::container::ImageKind;
use domain::Extent;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Writes at random sectors.
fn scribble(format: &str, image: &Path, size: u64, seed: u64) {
    let mut state = seed;
    let mut next = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let mut commands = Vec::new();
    for value in 1..40_u64 {
        let at = next(size / 512) * 512;
        let length = (next(if value % 5 == 0 { 9000 } else { 60 }) + 1) * 512;
        let kind = if value % 7 == 0 { "write -z".to_owned() } else { format!("write -P {value}") };
        commands.push(format!("{kind} {at} {}", length.min(size - at)));
    }
    commands.push(format!("write -P 77 {} 512", size - 512));
    let mut arguments = vec!["-f", format];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(text(image));
    run("qemu-io", &arguments);
}

async fn compare(format: &str, image: &Path) -> disk::container::VirtualDisk {
    let raw = image.with_extension("raw");
    run("qemu-img", &["convert", "-f", format, "-O", "raw", text(image), text(&raw)]);
    let disk = open_file(image).await.unwrap();
    let size = disk.size_bytes();
    // Whole when small, else what qemu says is data, and a piece around it.
    let places = if size <= 200 * MIB { vec![Extent::new(0, size)] } else { data_of(&raw, size) };
    assert_same(&disk, &raw, &places).await;
    fs::remove_file(raw).unwrap();
    disk
}

/// Areas of a sparse raw file that hold data.
fn data_of(raw: &Path, size: u64) -> Vec<Extent> {
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", text(raw)]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let area = |entry: &serde_json::Value| {
        let number = |key: &str| entry[key].as_u64().unwrap();
        let start = number("start").saturating_sub(5000);
        (entry["data"] == true).then(|| Extent::new(start, (number("length") + 10_000).min(size - start)))
    };
    map.as_array().unwrap().iter().filter_map(area).collect()
}

#[tokio::test]
async fn images_of_qemu_read_as_qemu_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("vhdx", "subformat=dynamic", 70 * MIB),
        ("vhdx", "subformat=dynamic,block_size=1M", 33 * MIB + 512),
        ("vhdx", "subformat=dynamic,block_size=2M,block_state_zero=off", 40 * MIB),
        ("vhdx", "subformat=fixed,block_size=1M", 20 * MIB + 512 * 7),
        ("vhdx", "subformat=dynamic,block_size=1M,log_size=3M", 9 << 30),
        ("vhdx", "subformat=dynamic,block_size=256M", 5 << 30),
        ("vpc", "subformat=dynamic", 70 * MIB),
        ("vpc", "subformat=fixed", 30 * MIB),
        ("vpc", "subformat=dynamic,force_size=on", 50 * MIB + 512 * 3),
        ("vpc", "subformat=dynamic,force_size=on", 300 << 30),
    ];
    for (index, (format, options, size)) in cases.into_iter().enumerate() {
        let image = folder.path().join(format!("{index}.{format}"));
        run("qemu-img", &["create", "-q", "-f", format, "-o", options, text(&image), &size.to_string()]);
        let size = open_file(&image).await.unwrap().size_bytes();
        scribble(format, &image, size, index as u64 + 1);
        let disk = compare(format, &image).await;
        let fixed = options.contains("fixed");
        let kind = disk.images().next().unwrap().kind;
        assert_eq!(kind, if fixed { ImageKind::Fixed } else { ImageKind::Dynamic }, "{options}");
    }
}

/// How many entries bear the id of the log that is in use; `None` when none is.
fn log_entries(image: &Path) -> Option<usize> {
    let mut bytes = vec![0; 2 << 20];
    File::open(image).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    let header = |at: usize| (u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap()), &bytes[at + 48..at + 64]);
    let (_, id) = header(65_536).max(header(131_072));
    let sectors = bytes[1 << 20..].chunks(4096);
    (id != [0; 16]).then(|| sectors.filter(|sector| sector.starts_with(b"loge") && &sector[32..48] == id).count())
}

/// Starts qemu-io on the image and kills it when its log is in use: from then on whatever it is just doing.
fn write_and_kill(image: &Path, seed: u64, block_bytes: u64) {
    let empty = fs::metadata(image).unwrap().len();
    let mut writer = Command::new("qemu-io")
        .args(["-f", "vhdx", text(image)])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-io must be installed");
    let mut input = writer.stdin.take().unwrap();
    for value in 1..250_u64 {
        let at = value.wrapping_mul(seed * 7_919_791) % (3 << 21) * 512;
        writeln!(input, "write -P {value} {} 70000", at.min((3 << 30) - 71_680)).unwrap();
    }
    input.flush().unwrap();
    // It says nothing, but the file grows with every new block.
    let deadline = Instant::now() + Duration::from_secs(20);
    let grown = || fs::metadata(image).unwrap().len() >= empty + (5 + seed) * block_bytes;
    while !grown() || log_entries(image).unwrap_or(0) == 0 {
        if Instant::now() > deadline {
            break; // it was done before we looked
        }
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
}

#[tokio::test]
async fn an_image_whose_writer_was_killed_reads_as_after_qemus_repair() {
    // Between our look and its death the log may have been done with.
    let mut dirty = 0;
    for seed in 1..20_u64 {
        let block_bytes = MIB << (seed % 4);
        let folder = tempfile::tempdir().unwrap();
        let (image, repaired) = (folder.path().join("killed.vhdx"), folder.path().join("repaired.vhdx"));
        let options = format!("subformat=dynamic,block_size={block_bytes}");
        run("qemu-img", &["create", "-q", "-f", "vhdx", "-o", &options, text(&image), "3G"]);
        write_and_kill(&image, seed, block_bytes);
        let before = fs::metadata(&image).unwrap().modified().unwrap();
        let disk = match open_file(&image).await {
            Ok(disk) => disk,
            Err(error) => {
                // The id was written, and no entry yet or only a part of one. qemu takes it; the specification calls it
                // corrupt.
                assert!(log_entries(&image).is_some());
                let DiskError::InImage { source, .. } = error else { panic!("{error:?}") };
                assert!(source.to_string().contains("no whole sequence"), "{source}");
                continue;
            }
        };
        assert_ne!(log_entries(&image), Some(0));
        fs::copy(&image, &repaired).unwrap();
        run("qemu-img", &["check", "-q", "-r", "all", text(&repaired)]);
        let raw = folder.path().join("raw");
        run("qemu-img", &["convert", "-f", "vhdx", "-O", "raw", text(&repaired), text(&raw)]);
        assert_same(&disk, &raw, &data_of(&raw, 3 << 30)).await;
        assert_eq!(fs::metadata(&image).unwrap().modified().unwrap(), before);
        let in_use = log_entries(&image).is_some();
        assert_eq!(disk.images().next().unwrap().replayed_bytes > 0, in_use);
        dirty += u32::from(in_use);
        if dirty == 2 {
            return;
        }
    }
    panic!("only {dirty} logs were dirty");
}
