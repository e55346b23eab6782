//! Memory, a folder, and either behind a wrapper that can fail; and what goes wrong with a folder.

use repository::backend::FaultyBackend;
use repository::{BackendErrorKind, FolderBackend, MemoryBackend, ObjectBackend};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use crate::conformance::Place;
use crate::daemon::SmallDisk;
use crate::faults;

fn memory() -> Place {
    Place { backend: Arc::new(MemoryBackend::new()), lose: None, keep: Box::new(()) }
}

fn folder() -> Place {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("repository");
    let backend = Arc::new(FolderBackend::create(&path).unwrap());
    let gone = parent.path().join("gone");
    let lose = Box::new(move || std::fs::rename(path, gone).unwrap());
    Place { backend, lose: Some(lose), keep: Box::new(parent) }
}

fn faulty() -> Place {
    let inner = folder();
    Place { backend: Arc::new(FaultyBackend::new(inner.backend)), ..inner }
}

conformance!(in_memory, super::memory());
conformance!(in_a_folder, super::folder());
conformance!(with_no_fault_injected, super::faulty());

#[tokio::test]
async fn a_full_disk() {
    let parent = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::tmpfs(parent.path());
    let path = parent.path().join("repository");
    faults::fills_the_disk(&FolderBackend::create(&path).unwrap(), &path).await;
}

#[tokio::test]
async fn a_disk_that_may_only_be_read() {
    let parent = tempfile::tempdir().unwrap();
    let disk = SmallDisk::tmpfs(parent.path());
    let path = parent.path().join("repository");
    let backend = FolderBackend::create(&path).unwrap();
    std::fs::write(path.join("old"), "x").unwrap();
    disk.make_read_only();
    faults::may_only_read(&backend).await;
}

/// A runtime whose threads for blocking calls have no more rights on files than anyone: not even root's.
fn without_rights(test: impl Future<Output = ()>) {
    let rights = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let drop_rights = move || {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= rights;
        set_capabilities(None, sets).unwrap();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().on_thread_start(drop_rights).build().unwrap();
    runtime.block_on(test);
}

#[test]
fn what_may_not_be_looked_at_is_an_error_and_never_missing() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("repository");
    let allow =
        |name: &str, mode: u32| std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(mode)).unwrap();
    without_rights(async {
        let backend = FolderBackend::create(&path).unwrap();
        for name in ["a/1", "b/1", "c/1"] {
            backend.put_new(name, vec![b"x".as_slice().into()]).await.unwrap();
        }
        let forbidden =
            |error: repository::BackendError| assert_eq!(error.kind, BackendErrorKind::Forbidden, "{error}");
        allow("b/1", 0);
        forbidden(backend.get("b/1", None).await.unwrap_err());
        assert_eq!(backend.list("").await.unwrap().len(), 3);
        // In the midst of a list, one folder fails.
        allow("b", 0);
        forbidden(backend.list("").await.unwrap_err());
        forbidden(backend.list("b/").await.unwrap_err());
        forbidden(backend.stat("b/1").await.unwrap_err());
        forbidden(backend.delete("b/1").await.unwrap_err());
        forbidden(backend.put_new("b/2", vec![]).await.unwrap_err());
        allow("b", 0o700);
        assert_eq!(backend.list("").await.unwrap().len(), 3, "nothing of it stays");
    });
}
