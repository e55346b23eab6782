//! New disks, judged by qemu-img; what is left of those that were not finished.

use crate::proxy::{Act, Plan, Proxy};
use crate::samba::Samba;
use crate::support::{MIB, connect, make_raw, must, names, noise, text, vhdx};
use disk::container::ImageKind;
use hypervisor::ErrorKind;
use hypervisor::hyperv::files::{DiskUpload, ShareOptions};
use std::fs;
use std::time::Duration;

const SIZE: u64 = 90 * MIB + 512;
const AREAS: &[(u64, usize)] = &[(0, 3 << 20), (20 * MIB - 700, 30 << 20), (SIZE - 512, 512)];

async fn write(upload: &mut DiskUpload) -> hypervisor::Result<()> {
    for (index, (offset, length)) in AREAS.iter().enumerate() {
        let data = noise(index as u64 + 1, *length);
        for (piece, at) in data.chunks(700_000).zip((*offset..).step_by(700_000)) {
            upload.write(at, piece.to_vec().into()).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_was_written_is_an_image_to_others() {
    for (global, kind) in [
        ("", ImageKind::Dynamic),
        ("", ImageKind::Fixed),
        ("server smb encrypt = required", ImageKind::Dynamic),
        ("server smb3 signing algorithms = AES-128-CMAC", ImageKind::Dynamic),
    ] {
        let samba = Samba::start(global);
        let shares = connect(samba.options()).await;
        let (raw, image) = (samba.drive().join("raw"), samba.drive().join("vm/web/x.vhdx"));
        make_raw(&raw, SIZE, AREAS);
        shares.make_folder(r"C:\vm\web").await.expect("a folder");
        shares.make_folder(r"C:\vm\web\").await.expect("the same folder");
        let mut upload = shares.create_disk(r"C:\vm\web\x.vhdx", vhdx(kind, SIZE, 2)).await.expect("an upload");
        write(&mut upload).await.expect("writes");
        upload.finish().await.expect("the end");
        must("qemu-img", &["check", "-f", "vhdx", text(&image)]);
        must("qemu-img", &["compare", "-f", "vhdx", "-F", "raw", text(&image), text(&raw)]);
        let disk = crate::support::open(&shares, r"C:\vm\web\x.vhdx").await;
        assert_eq!(disk.identifier(), vhdx(kind, SIZE, 2).disk_id);
        // It is not written over, neither by another upload nor by a folder.
        let taken = shares.create_disk(r"C:\vm\web\x.vhdx", vhdx(kind, SIZE, 2)).await.map(|_| ()).expect_err("taken");
        assert_eq!((taken.kind, taken.code), (ErrorKind::Refused, "hyperv.file_exists"), "{taken}");
        must("qemu-img", &["check", "-f", "vhdx", text(&image)]);
    }
}

#[tokio::test]
async fn an_upload_that_is_abandoned_or_forgotten_leaves_nothing() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    let mut upload = shares.create_disk(r"C:\a.vhdx", vhdx(ImageKind::Fixed, SIZE, 1)).await.expect("an upload");
    write(&mut upload).await.expect("writes");
    assert_eq!(names(&samba.drive()), ["a.vhdx"]);
    upload.abandon().await.expect("it goes");
    assert!(names(&samba.drive()).is_empty());

    let upload = shares.create_disk(r"C:\b.vhdx", vhdx(ImageKind::Dynamic, SIZE, 1)).await.expect("an upload");
    drop(upload);
    let start = std::time::Instant::now();
    while !names(&samba.drive()).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", names(&samba.drive()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let folder = shares.create_disk(r"C:\none\b.vhdx", vhdx(ImageKind::Dynamic, SIZE, 1)).await.map(|_| ());
    assert_eq!(folder.map_err(|error| error.code), Err("hyperv.file_missing"));
}

#[tokio::test]
async fn a_session_lost_in_mid_upload_is_an_error_and_leaves_nothing() {
    for act in [Act::Cut, Act::Stall] {
        let samba = Samba::start("");
        let proxy = Proxy::start(samba.port, Plan { act, after_bytes: 10 << 20, connections: 1 }).await;
        let options = ShareOptions { port: proxy.port, patience: Duration::from_secs(3), ..samba.options() };
        let shares = connect(options).await;
        let mut upload = shares.create_disk(r"C:\x.vhdx", vhdx(ImageKind::Dynamic, SIZE, 1)).await.expect("an upload");
        let error = match write(&mut upload).await {
            Ok(()) => panic!("the session was cut"),
            Err(error) => error,
        };
        assert!(matches!(error.kind, ErrorKind::Interrupted | ErrorKind::Timeout), "{error}");
        assert!(error.attempt.contains(r"of C:\x.vhdx"), "{error}");
        if act == Act::Stall {
            // The server still holds the file for its silent client; a host that noticed would let it go.
            samba.kill_sessions();
        }
        upload.abandon().await.expect("it goes");
        assert!(names(&samba.drive()).is_empty());
    }
}

fn is_send<T: Send>(_: T) {}

#[tokio::test]
async fn a_driver_may_call_from_any_thread() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    is_send((
        shares.open_disk(""),
        shares.exists(""),
        shares.remove(""),
        shares.make_folder(""),
        shares.free_bytes(""),
    ));
    let mut upload = shares.create_disk(r"C:\x.vhdx", vhdx(ImageKind::Dynamic, SIZE, 1)).await.expect("an upload");
    is_send(upload.write(0, vec![1].into()));
    is_send(upload.finish());
    let upload = shares.create_disk(r"C:\y.vhdx", vhdx(ImageKind::Dynamic, SIZE, 1));
    is_send(async { upload.await?.abandon().await });
}

#[tokio::test]
async fn small_deeds() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    assert!(!shares.exists(r"C:\a\b").await.expect("an answer"));
    shares.make_folder(r"C:\a\b").await.expect("folders");
    assert!(shares.exists(r"C:\a\b").await.expect("an answer"));
    fs::write(samba.drive().join("a/f"), "x").expect("a file");
    assert!(shares.exists(r"C:\a\f").await.expect("an answer"));
    shares.remove(r"C:\a\f").await.expect("it goes");
    shares.remove(r"C:\a\f").await.expect("it is gone");
    shares.remove(r"C:\z\f").await.expect("its folder is gone");
    assert!(!samba.drive().join("a/f").exists());
    assert!(shares.remove(r"C:\a\b").await.is_err(), "a folder is no file");
    let free = shares.free_bytes(r"C:\a").await.expect("an answer");
    let said = must("df", &["--output=avail", "-B1", text(&samba.drive())]);
    let expected: u64 = said.lines().last().expect("a line").trim().parse().expect("a number");
    assert!(free.abs_diff(expected) < 2 << 30, "{free} instead of {expected}");
    // A session that ended is made again.
    assert!(samba.kill_sessions() > 0);
    assert!(shares.exists(r"C:\a").await.expect("an answer"));
    shares.close().await;
    assert!(shares.exists(r"C:\a\b").await.expect("an answer"));
}
