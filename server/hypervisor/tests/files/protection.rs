//! Signatures, encryption, and who may sign in.

use crate::samba::Samba;
use crate::support::{MIB, assert_same, connect, make_image, open};
use domain::Extent;
use hypervisor::ErrorKind;
use hypervisor::hyperv::files::{Protection, ShareOptions, Shares};
use secrecy::SecretString;
use std::fs;

const WHOLE: &[Extent] = &[Extent::new(0, 100 * MIB)];

async fn read(samba: &Samba, options: ShareOptions) -> Protection {
    let shares = connect(options).await;
    make_image(&samba.drive(), "x.vhdx");
    assert_same(&open(&shares, r"C:\x.vhdx").await, &samba.drive().join("x.vhdx.raw"), WHOLE).await;
    shares.protection().await.expect("a session")
}

#[tokio::test]
async fn everything_is_signed() {
    let samba = Samba::start("");
    let found = read(&samba, samba.options()).await;
    assert_eq!(found, Protection { signing: "AES-128-GMAC", cipher: None });
    // As Windows Server 2016 and 2019 sign.
    let samba = Samba::start("server smb3 signing algorithms = AES-128-CMAC");
    let found = read(&samba, samba.options()).await;
    assert_eq!(found, Protection { signing: "AES-128-CMAC", cipher: None });
}

#[tokio::test]
async fn a_server_that_wants_encryption_gets_it() {
    let samba = Samba::start("server smb encrypt = required");
    assert_eq!(read(&samba, samba.options()).await.cipher, Some("AES-128-GCM"));
    let samba = Samba::start("server smb encrypt = required\nserver smb3 encryption algorithms = AES-256-GCM");
    // The protocol's crate derives no signing key of the right length beside a cipher of 256 bits.
    let refused = Shares::connect(samba.options()).await.map(|_| ()).expect_err("a cipher of 256 bits");
    assert!(!refused.reason.is_empty(), "{refused}");
}

#[tokio::test]
async fn a_caller_who_wants_encryption_gets_it() {
    let samba = Samba::start("");
    let options = ShareOptions { require_encryption: true, ..samba.options() };
    assert_eq!(read(&samba, options).await.cipher, Some("AES-128-GCM"));
}

#[tokio::test]
async fn a_share_that_wants_encryption_gets_it() {
    let samba = Samba::start("");
    let shares = connect(samba.options()).await;
    assert_eq!(shares.protection().await.expect("a session").cipher, None);
    make_image(&samba.sealed(), "x.vhdx");
    let disk = open(&shares, r"\\127.0.0.1\sealed$\x.vhdx").await;
    assert_same(&disk, &samba.sealed().join("x.vhdx.raw"), WHOLE).await;
    assert_eq!(shares.protection().await.expect("a session").cipher, Some("AES-128-GCM"));
}

#[tokio::test]
async fn servers_that_cannot_protect_are_refused() {
    for (global, code) in [
        ("server smb encrypt = off", "hyperv.smb_encryption"),
        ("server smb3 encryption algorithms = AES-128-CCM", "hyperv.smb_encryption"),
        ("server max protocol = SMB3_02", "hyperv.smb_dialect"),
    ] {
        let samba = Samba::start(global);
        let options = ShareOptions { require_encryption: true, ..samba.options() };
        let error = Shares::connect(options).await.map(|_| ()).expect_err(global);
        assert_eq!((error.kind, error.code), (ErrorKind::Unsupported, code), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_password_or_account_is_told() {
    let samba = Samba::start("");
    for (account, password) in [(samba.account.as_str(), "wrong"), ("nobody-at-all", "x"), (r"TEST\nobody", "x")] {
        let options =
            ShareOptions { account: account.into(), password: SecretString::from(password), ..samba.options() };
        let error = Shares::connect(options.clone()).await.map(|_| ()).expect_err("refused");
        assert_eq!((error.kind, error.code), (ErrorKind::Login, "hyperv.smb_login"), "{error}");
        let told = format!("{error} {error:?} {} {options:?}", error.hint);
        assert!(!told.contains("wrong") && error.hint.contains("DOMAIN"), "{told}");
    }
    let options = ShareOptions { account: format!("TEST\\{}", samba.account), ..samba.options() };
    connect(options).await;
}

#[tokio::test]
async fn a_file_that_somebody_holds_is_busy() {
    let samba = Samba::start("");
    let (shares, other) = (connect(samba.options()).await, connect(samba.options()).await);
    let options = crate::support::vhdx(disk::container::ImageKind::Dynamic, MIB, 1);
    let upload = other.create_disk(r"C:\x.vhdx", options).await.expect("an upload");
    let error = shares.open_disk(r"C:\x.vhdx").await.expect_err("somebody writes to it");
    assert_eq!((error.kind, error.code), (ErrorKind::Busy, "hyperv.file_in_use"), "{error}");
    upload.abandon().await.expect("it is removed");
    // One that others may read meanwhile is read.
    make_image(&samba.drive(), "y.vhdx");
    let (first, second) = (open(&shares, r"C:\y.vhdx").await, open(&other, r"C:\y.vhdx").await);
    assert_eq!(first.identifier(), second.identifier());
    assert!(fs::exists(samba.drive().join("y.vhdx")).expect("the file"));
}
