//! SMB locations, judged against Samba: the suite on a signed and on an encrypted share, and what goes wrong.

use bytes::Bytes;
use repository::{BackendError, BackendErrorKind, ObjectBackend, SmbBackend, SmbEncryption, SmbOptions};
use rustix::process::Signal;
use secrecy::SecretString;
use smb2::client::Connection;
use smb2::msg::create::{CreateDisposition, CreateRequest, ImpersonationLevel, ShareAccess};
use smb2::types::flags::FileAccessMask;
use smb2::types::{Command, OplockLevel};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::conformance::Place;
use crate::daemon::{SmallDisk, free_port};
use crate::faults::{self, SLOW_LINE};
use crate::proxy::{Act, Plan, Proxy};
use crate::samba::{PASSWORD, Samba};
use crate::smb_keys;
use crate::support::noise;

async fn place(share: &'static str) -> Place {
    let samba = Samba::start("");
    let backend = Arc::new(samba.create(share).await);
    let folder = samba.folder_of(share);
    let lose = move || std::fs::rename(folder.join("vm/repository"), folder.join("vm/gone")).unwrap();
    Place { backend, lose: Some(Box::new(lose)), keep: Box::new(samba) }
}

conformance!(signed, super::place("plain").await);
conformance!(encrypted, super::place("encrypted").await);

async fn open_kind(options: SmbOptions) -> BackendErrorKind {
    SmbBackend::open(options).await.expect_err("it had to fail").kind
}

fn required(samba: &Samba, share: &str) -> SmbOptions {
    SmbOptions { encryption: SmbEncryption::Required, ..samba.options(share) }
}

#[tokio::test]
async fn a_session_is_signed_and_encrypted_where_someone_wants_it() {
    let samba = Samba::start("");
    let backend = samba.create("plain").await;
    backend.put_new("a", vec![Bytes::from_static(b"x")]).await.unwrap();
    assert_eq!(backend.cipher().await.unwrap(), None);
    assert!(samba.status().contains("AES-128-GMAC"), "{}", samba.status());
    assert!(!samba.status().contains("AES-128-GCM"), "{}", samba.status());
    drop(backend);
    let backend = SmbBackend::open(required(&samba, "plain")).await.unwrap();
    assert_eq!(backend.get("a", None).await.unwrap(), "x");
    assert_eq!(backend.cipher().await.unwrap(), Some("AES-128-GCM"), "by our own wish");
    let backend = samba.create("encrypted").await;
    backend.put_new("a", vec![Bytes::from_static(b"x")]).await.unwrap();
    assert_eq!(backend.cipher().await.unwrap(), Some("AES-128-GCM"), "the share's wish");
    assert!(samba.status().contains("AES-128-GCM"), "{}", samba.status());
}

#[tokio::test]
async fn servers_that_insist_on_signatures_or_encryption() {
    let samba = Samba::start("server signing = mandatory");
    let backend = samba.create("plain").await;
    backend.put_new("a", vec![noise(1, 3 << 20).into()]).await.unwrap();
    assert!(backend.get("a", None).await.unwrap() == noise(1, 3 << 20));
    for cipher in ["AES-128-GCM", "AES-128-CCM"] {
        let samba = Samba::start(&format!("smb encrypt = required\nserver smb3 encryption algorithms = {cipher}"));
        let backend = samba.create("plain").await;
        backend.put_new("a", vec![noise(1, 3 << 20).into()]).await.unwrap();
        assert!(backend.get("a", None).await.unwrap() == noise(1, 3 << 20));
        assert_eq!(backend.cipher().await.unwrap(), Some(cipher));
    }
}

#[tokio::test]
async fn a_server_that_cannot_encrypt_is_refused_where_that_is_required() {
    let samba = Samba::start("smb encrypt = off\nserver max protocol = SMB2_10");
    samba.create("plain").await;
    assert_eq!(open_kind(required(&samba, "plain")).await, BackendErrorKind::Unsuitable);
}

#[tokio::test]
async fn what_an_operator_got_wrong_has_its_own_error() {
    let samba = Samba::start("");
    let good = || samba.options("plain");
    samba.create("plain").await;
    let wrong = SecretString::from("wrong");
    let wrong_password = SmbOptions { password: wrong.clone(), ..good() };
    let error = SmbBackend::open(wrong_password.clone()).await.unwrap_err();
    assert_eq!(error.kind, BackendErrorKind::Unauthorized);
    assert!(!format!("{error:?} {error} {wrong_password:?}").contains("wrong\""), "no secret in {error:?}");
    let unknown = SmbOptions { account: "nobody-here".to_owned(), ..good() };
    assert_eq!(open_kind(unknown).await, BackendErrorKind::Unauthorized);
    let no_share = SmbOptions { share: "none".to_owned(), ..good() };
    assert_eq!(open_kind(no_share).await, BackendErrorKind::NoLocation);
    let no_folder = SmbOptions { folder: "vm/none".to_owned(), ..good() };
    assert_eq!(open_kind(no_folder).await, BackendErrorKind::NoLocation);
    let outside = SmbOptions { folder: "../..".to_owned(), ..good() };
    assert_eq!(open_kind(outside).await, BackendErrorKind::BadName);
    let no_server = SmbOptions { port: free_port(), ..good() };
    assert_eq!(open_kind(no_server).await, BackendErrorKind::Unreachable);
    let readonly = SmbBackend::create(samba.options("readonly")).await.unwrap_err();
    assert_eq!(readonly.kind, BackendErrorKind::Forbidden);
    let backend = SmbBackend::open(good()).await.unwrap();
    backend.put_new("a", vec![]).await.unwrap();
    assert_eq!(SmbBackend::create(good()).await.unwrap_err().kind, BackendErrorKind::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once_do_not_stall() {
    for share in ["plain", "encrypted"] {
        let samba = Samba::start("");
        faults::many_requests_at_once(Arc::new(samba.create(share).await)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_mid_transfer_is_told_at_once_and_used_again_when_it_is_back() {
    let mut samba = Samba::start("");
    let backend = Arc::new(samba.create("plain").await);
    faults::while_storing(Arc::clone(&backend) as Arc<dyn ObjectBackend>, Duration::from_secs(5), || samba.kill())
        .await;
    assert!(samba.launch());
    faults::works_again(&*backend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_given_up_after_a_time_and_used_again_when_it_answers() {
    let samba = Samba::start("");
    samba.create("plain").await;
    let timeout = Duration::from_secs(1);
    let backend = Arc::new(SmbBackend::open(SmbOptions { timeout, ..samba.options("plain") }).await.unwrap());
    let stop = || samba.signal(Signal::STOP);
    faults::while_storing(Arc::clone(&backend) as Arc<dyn ObjectBackend>, 3 * timeout, stop).await;
    samba.signal(Signal::CONT);
    faults::works_again(&*backend).await;
}

#[tokio::test]
async fn a_full_disk() {
    let samba = Samba::start("");
    let _disk = SmallDisk::tmpfs(&samba.folder_of("plain"));
    let backend = samba.create("plain").await;
    faults::fills_the_disk(&backend, &samba.folder_of("plain").join("vm/repository")).await;
}

/// Somebody opened the object and lets nobody else at it.
#[tokio::test]
async fn a_file_held_by_another_program_is_waited_for_and_then_told() {
    let samba = Samba::start("");
    let backend = samba.create("plain").await;
    backend.put_new("a", vec![Bytes::from_static(b"x")]).await.unwrap();
    let options = samba.options("plain");
    let address = format!("127.0.0.1:{}", options.port);
    let mut other = Connection::connect(&address, Duration::from_secs(5)).await.unwrap();
    other.negotiate().await.unwrap();
    smb2::Session::setup(&mut other, &options.account, PASSWORD, "").await.unwrap();
    let tree = smb2::Tree::connect(&mut other, "plain").await.unwrap();
    let request = CreateRequest {
        requested_oplock_level: OplockLevel::None,
        impersonation_level: ImpersonationLevel::Impersonation,
        desired_access: FileAccessMask::new(FileAccessMask::FILE_READ_DATA),
        file_attributes: 0,
        share_access: ShareAccess(0),
        create_disposition: CreateDisposition::FileOpen,
        create_options: 0,
        name: r"vm\repository\a".to_owned(),
        create_contexts: Vec::new(),
    };
    let held = other.execute(Command::Create, &request, Some(tree.tree_id)).await.unwrap();
    assert!(held.header.status.is_success(), "{}", held.header.status);
    for result in [backend.get("a", None).await.map(drop), backend.delete("a").await] {
        let error = result.unwrap_err();
        assert!(format!("{error:?}").contains("another program"), "{error:?}");
    }
    let freeing = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(other);
    });
    assert_eq!(backend.get("a", None).await.unwrap(), "x", "it was let go meanwhile");
    freeing.await.unwrap();
}

const SET_INFO: u8 = 0x11;

const QUERY_DIRECTORY: u8 = 0x0e;

fn is_list(message: &[u8]) -> bool {
    message.starts_with(b"\xfeSMB") && message.get(12) == Some(&QUERY_DIRECTORY)
}

fn is_rename(message: &[u8]) -> bool {
    message.starts_with(b"\xfeSMB") && message.get(12) == Some(&SET_INFO)
}

/// A proxy before a Samba, and a location behind it.
async fn behind(samba: &Samba, plan: Plan) -> (Proxy, Result<SmbBackend, BackendError>) {
    let proxy = Proxy::start(([127, 0, 0, 1], samba.port).into(), plan).await;
    let options = SmbOptions { port: proxy.address.port(), ..samba.options("plain") };
    (proxy, SmbBackend::open(options).await)
}

#[tokio::test]
async fn a_lost_answer_to_the_rename_is_cleared_up() {
    let samba = Samba::start("");
    let folder = samba.folder_of("plain").join("vm/repository");
    samba.create("plain").await;
    for act in [Act::DropBefore, Act::DropAfter] {
        let (proxy, backend) = behind(&samba, Plan::once(is_rename, 0, act)).await;
        faults::works_despite(&backend.unwrap(), &format!("{act:?}/1"), &folder).await;
        assert!(proxy.seen() >= 1, "{act:?}");
        let (_proxy, backend) = behind(&samba, Plan::always(is_rename, 0, act)).await;
        faults::tells_the_truth_of(&backend.unwrap(), act, &folder).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_at_any_request_harms_nothing() {
    let samba = Samba::start("");
    let folder = samba.folder_of("plain").join("vm/repository");
    samba.create("plain").await;
    let open = |plan| behind(&samba, plan);
    faults::works_whatever_is_lost(open, 4, &folder).await; // signing in takes the first four
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_whole_or_an_error() {
    let samba = Samba::start("");
    samba.create("plain").await;
    faults::many_files(&samba.folder_of("plain").join("vm/repository"));
    for at in 0.. {
        let (proxy, backend) = behind(&samba, Plan::once(is_list, at, Act::HalfAnswer)).await;
        faults::lists_all(&backend.unwrap()).await;
        if proxy.seen() <= at {
            assert!(at > 2, "it has several pages: {at}");
            break;
        }
        let (_proxy, backend) = behind(&samba, Plan::always(is_list, at, Act::DropBefore)).await;
        let error = backend.unwrap().list("many/").await.unwrap_err();
        assert_eq!(error.kind, BackendErrorKind::Unreachable, "page {at}: {error}");
    }
}

/// With the signatures of SMB 2.1, whose key the proxy can know.
#[tokio::test]
async fn a_server_that_writes_less_than_it_was_given_is_given_the_rest() {
    let samba = Samba::start("server max protocol = SMB2_10");
    samba.create("plain").await;
    faults::is_given_the_rest(|plan| behind(&samba, plan), smb_keys::is_write, Act::SmbShortWrite).await;
}

#[tokio::test]
async fn a_share_that_may_only_be_read() {
    let samba = Samba::start("");
    let folder = samba.folder_of("readonly").join("vm/repository");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("old"), "x").unwrap();
    faults::may_only_read(&SmbBackend::open(samba.options("readonly")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_line_is_no_silence() {
    let samba = Samba::start("");
    samba.create("plain").await;
    let proxy = Proxy::start(([127, 0, 0, 1], samba.port).into(), Plan::slow(SLOW_LINE.slowness)).await;
    let (port, timeout) = (proxy.address.port(), SLOW_LINE.patience);
    let backend = SmbBackend::open(SmbOptions { port, timeout, ..samba.options("plain") }).await.unwrap();
    faults::a_slow_line_is_no_silence(&backend).await;
}

/// With the patience that locations have. `cargo nextest run --run-ignored only --no-capture smb::patience`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test"]
async fn patience() {
    let samba = Samba::start("");
    let backend = samba.create("plain").await;
    backend.put_new("a", vec![noise(1, 8 << 20).into()]).await.unwrap();
    samba.signal(Signal::STOP);
    for (what, verb) in [("read", backend.get("a", None)), ("read again", backend.get("a", None))] {
        let start = Instant::now();
        let error = verb.await.unwrap_err();
        println!("{what}: told after {:?}: {error}: {:?}", start.elapsed(), error.source);
    }
    samba.signal(Signal::CONT);
    let start = Instant::now();
    backend.get("a", None).await.unwrap();
    println!("works again after {:?}", start.elapsed());
}

/// `cargo nextest run --run-ignored only --no-capture smb::figures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, not a test"]
async fn figures() {
    for share in ["plain", "encrypted"] {
        let samba = Samba::start("");
        println!("SMB, {share}: {}", faults::figures(Arc::new(samba.create(share).await)).await);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), noise(1, 256 << 20)).unwrap();
        let unc = format!("//127.0.0.1/{share}");
        let (port, user) = (samba.port.to_string(), format!("{}%{PASSWORD}", samba.options(share).account));
        let mut rates = Vec::new();
        for verb in [format!("put {} copy", file.path().display()), "get copy /dev/null".to_owned()] {
            let start = Instant::now();
            let arguments = [&unc, "-p", &port, "-U", &user, "--client-protection=sign", "-c", &verb];
            let done = crate::daemon::run("smbclient", &arguments, "");
            assert!(done.status.success() || share == "encrypted", "{done:?}");
            rates.push(format!("{:.0}", 256.0 / start.elapsed().as_secs_f64()));
        }
        println!("smbclient, {share}: put {} get {} MiB/s", rates[0], rates[1]);
    }
}
