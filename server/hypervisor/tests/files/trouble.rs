//! Connections that break in the middle, servers that are silent, files that are not what they were.

use crate::proxy::{Act, Plan, Proxy};
use crate::samba::Samba;
use crate::support::{MIB, connect, make_image, open};
use domain::Extent;
use futures_util::{StreamExt as _, TryStreamExt as _};
use hypervisor::ErrorKind;
use hypervisor::hyperv::files::{FrozenDisk, ShareOptions};
use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const WHOLE: Extent = Extent::new(0, 100 * MIB);
/// Less than the data of a test's disk, more than opening it takes.
const IN_THE_MIDDLE: usize = 30 << 20;

/// A server with an image, and options that lead through a proxy.
async fn behind(plan: Plan) -> (Samba, Proxy, ShareOptions) {
    let samba = Samba::start("");
    make_image(&samba.drive(), "x.vhdx");
    let proxy = Proxy::start(samba.port, plan).await;
    let options = ShareOptions {
        port: proxy.port,
        patience: Duration::from_secs(3),
        reconnect_patience: Duration::from_secs(2),
        ..samba.options()
    };
    (samba, proxy, options)
}

async fn assert_whole(samba: &Samba, disk: &FrozenDisk) {
    let pieces: Vec<_> = disk.stream(WHOLE).try_collect().await.expect("all of it");
    assert!(pieces.concat() == fs::read(samba.drive().join("x.vhdx.raw")).expect("the raw disk"));
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again_and_no_byte_is_missing() {
    let (samba, proxy, options) = behind(Plan { act: Act::Cut, after_bytes: IN_THE_MIDDLE, connections: 2 }).await;
    let disk = open(&connect(options).await, r"C:\x.vhdx").await;
    assert_whole(&samba, &disk).await;
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_byte_changed_on_the_way_is_noticed() {
    for require_encryption in [false, true] {
        let (samba, proxy, options) = behind(Plan { act: Act::Flip, after_bytes: IN_THE_MIDDLE, connections: 1 }).await;
        let disk = open(&connect(ShareOptions { require_encryption, ..options }).await, r"C:\x.vhdx").await;
        assert_whole(&samba, &disk).await;
        assert_eq!(proxy.connections.load(Ordering::SeqCst), 2);
    }
}

#[tokio::test]
async fn a_silent_connection_is_replaced_in_time() {
    let (samba, proxy, options) = behind(Plan { act: Act::Stall, after_bytes: IN_THE_MIDDLE, connections: 1 }).await;
    let disk = open(&connect(options).await, r"C:\x.vhdx").await;
    let start = Instant::now();
    assert_whole(&samba, &disk).await;
    assert_eq!(proxy.connections.load(Ordering::SeqCst), 2);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Reads everything; `between` happens after the first 20 MiB.
async fn assert_whole_despite(samba: &Samba, between: impl FnOnce()) {
    make_image(&samba.drive(), "x.vhdx");
    let disk = open(&connect(samba.options()).await, r"C:\x.vhdx").await;
    let mut stream = disk.stream(WHOLE);
    let mut found = Vec::new();
    let mut between = Some(between);
    while let Some(piece) = stream.next().await {
        found.extend_from_slice(&piece.expect("no piece is missing"));
        if found.len() > 20 << 20 {
            between.take().into_iter().for_each(|between| between());
        }
    }
    assert!(found == fs::read(samba.drive().join("x.vhdx.raw")).expect("the raw disk"));
}

#[tokio::test]
async fn the_process_that_serves_a_session_may_die() {
    let samba = Samba::start("");
    assert_whole_despite(&samba, || assert!(samba.kill_sessions() > 0, "smbstatus names no session")).await;
}

#[tokio::test]
async fn a_share_that_was_taken_away_is_joined_again() {
    let samba = Samba::start("");
    assert_whole_despite(&samba, || samba.close_share()).await;
}

/// Reads until it fails.
async fn failure_of(disk: &FrozenDisk, between: impl FnOnce()) -> hypervisor::HostError {
    let mut between = Some(between);
    let mut stream = disk.stream(WHOLE);
    loop {
        match stream.next().await {
            Some(Ok(_)) => between.take().into_iter().for_each(|between| between()),
            Some(Err(error)) => return error,
            None => panic!("it was read to the end"),
        }
    }
}

#[tokio::test]
async fn a_host_that_goes_away_is_an_error_that_says_where() {
    let mut samba = Samba::start("");
    make_image(&samba.drive(), "x.vhdx");
    let options = ShareOptions { reconnect_patience: Duration::from_secs(2), ..samba.options() };
    let disk = open(&connect(options).await, r"C:\x.vhdx").await;
    let start = Instant::now();
    let error = failure_of(&disk, || samba.kill()).await;
    assert_eq!((error.kind, error.code), (ErrorKind::Unreachable, "hyperv.smb_unreachable"), "{error}");
    assert!(error.attempt.contains(r"of C:\x.vhdx") && error.attempt.contains(" bytes at "), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    // And it stays given up, without another wait.
    let start = Instant::now();
    failure_of(&disk, || {}).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_host_that_is_silent_for_good_is_an_error_in_time() {
    let plan = Plan { act: Act::Stall, after_bytes: IN_THE_MIDDLE, connections: usize::MAX };
    let (_samba, proxy, options) = behind(plan).await;
    let disk = open(&connect(options).await, r"C:\x.vhdx").await;
    let start = Instant::now();
    let mut cut_off = 0;
    // Every connection brings 30 of its 80 MiB, so the disk is read to its end; a connection that brings nothing is not.
    let whole = disk.stream(WHOLE).try_fold(0, async |sum, piece| Ok(sum + piece.len() as u64)).await;
    match whole {
        Ok(sum) => assert_eq!(sum, WHOLE.length),
        Err(error) => {
            cut_off += 1;
            assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    assert!(cut_off == 1 || proxy.connections.load(Ordering::SeqCst) >= 3);

    let nothing = Plan { act: Act::Stall, after_bytes: 1, connections: usize::MAX };
    let (_samba, _proxy, options) = behind(nothing).await;
    let start = Instant::now();
    let error = hypervisor::hyperv::files::Shares::connect(options).await.map(|_| ()).expect_err("silence");
    assert_eq!((error.kind, error.code), (ErrorKind::Timeout, "hyperv.smb_silent"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_not_read_on() {
    type Change = fn(&std::path::Path);
    let changes: [(Change, &str); 3] = [
        (
            |image| fs::File::options().write(true).open(image).expect("it").set_len(99 * MIB).expect("it"),
            "has 103809024 now",
        ),
        (
            |image| {
                use std::os::unix::fs::FileExt as _;
                let file = fs::File::options().write(true).open(image).expect("it");
                file.write_all_at(&[9; 16], (64 << 10) + 16).expect("another id");
            },
            "headers have changed",
        ),
        (|image| fs::rename(image, image.with_extension("old")).expect("it"), "no such file"),
    ];
    for (change, told) in changes {
        let samba = Samba::start("");
        make_image(&samba.drive(), "x.vhdx");
        let disk = open(&connect(samba.options()).await, r"C:\x.vhdx").await;
        let error = failure_of(&disk, || {
            change(&samba.drive().join("x.vhdx"));
            assert!(samba.kill_sessions() > 0);
        });
        let error = error.await;
        assert!(error.reason.contains(told), "{told}: {error}");
        assert!(matches!(error.code, "hyperv.file_changed" | "hyperv.file_missing"), "{error}");
    }
}
