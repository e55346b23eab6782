//! The folder backend on a real file system.

use bytes::Bytes;
use repository::{BackendErrorKind, FolderBackend, MemoryBackend, ObjectBackend, Repository};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::support::*;

async fn conformance(backend: &dyn ObjectBackend) {
    let kind = |error: repository::BackendError| error.kind;
    backend.put_new("a/1", vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"!")]).await.unwrap();
    backend.put_new("a/10", vec![]).await.unwrap();
    backend.put_new("ab", vec![Bytes::from_static(b"x")]).await.unwrap();
    let taken = backend.put_new("a/1", vec![Bytes::from_static(b"two")]).await.map_err(kind);
    assert_eq!(taken, Err(BackendErrorKind::AlreadyExists));
    assert_eq!(backend.get("a/1", None).await.unwrap(), "one!");
    assert_eq!(backend.get("a/1", Some(1..3)).await.unwrap(), "ne");
    assert_eq!(backend.get("a/1", Some(4..4)).await.unwrap(), "");
    assert_eq!(backend.get("a/1", Some(2..5)).await.map_err(kind), Err(BackendErrorKind::TooShort));
    assert_eq!(backend.get("a/2", None).await.map_err(kind), Err(BackendErrorKind::NotFound));
    assert_eq!(backend.stat("a/1").await.unwrap().size, 4);
    assert_eq!(backend.stat("a/2").await.map_err(kind), Err(BackendErrorKind::NotFound));
    let names = |list: Vec<repository::backend::ObjectInfo>| -> Vec<String> {
        list.into_iter().map(|object| object.name).collect()
    };
    assert_eq!(names(backend.list("a/").await.unwrap()), ["a/1", "a/10"]);
    assert_eq!(names(backend.list("").await.unwrap()), ["a/1", "a/10", "ab"]);
    assert_eq!(names(backend.list("b/").await.unwrap()), [] as [&str; 0]);
    backend.delete("a/10").await.unwrap();
    backend.delete("a/10").await.unwrap();
    assert_eq!(names(backend.list("a/").await.unwrap()), ["a/1"]);
    for name in ["../x", "/x", "a//b", ".x", "a/..", "", "a b"] {
        assert_eq!(backend.put_new(name, vec![]).await.map_err(kind), Err(BackendErrorKind::BadName), "{name}");
    }
}

#[tokio::test]
async fn five_verbs() {
    conformance(&MemoryBackend::new()).await;
    let folder = tempfile::tempdir().unwrap();
    conformance(&FolderBackend::create(folder.path().join("r")).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_creators_wins() {
    let folder = tempfile::tempdir().unwrap();
    let backend = FolderBackend::create(folder.path()).unwrap();
    for size in [100, 1 << 20] {
        let name = format!("race/{size}");
        let tries: Vec<_> = (0..16u8)
            .map(|number| {
                let (backend, name) = (backend.clone(), name.clone());
                tokio::spawn(async move { backend.put_new(&name, vec![vec![number; size].into()]).await.is_ok() })
            })
            .collect();
        let mut winners = Vec::new();
        for (number, attempt) in tries.into_iter().enumerate() {
            if attempt.await.unwrap() {
                winners.push(number as u8);
            }
        }
        let [winner] = winners[..] else { panic!("{winners:?}") };
        assert!(backend.get(&name, None).await.unwrap() == vec![winner; size]);
    }
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_repository_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backups");
    let repository = new_repository(Arc::new(FolderBackend::create(&path).unwrap())).await;
    let content = Bytes::from([noise(1, 2 << 20), text(1, 1 << 20)].concat());
    full_point(&repository, point_id(1), std::slice::from_ref(&content)).await.unwrap();
    let repository = reopen(Arc::new(FolderBackend::open(&path).unwrap())).await;
    assert_reads(&repository, point_id(1), &[content]).await;
    let readme = std::fs::read_to_string(path.join("README-RECOVERY.txt")).unwrap();
    assert!(readme.contains("passphrase"));
    assert!(path.join("repository-format.md").is_file());
    assert!(FolderBackend::create(&path).is_err(), "a folder in use is not taken for a new repository");
    // A folder that vanished (unmounted) is not made again by a writer.
    std::fs::rename(&path, folder.path().join("gone")).unwrap();
    assert!(full_point(&repository, point_id(2), &[Bytes::from(noise(3, 100_000))]).await.is_err());
    assert!(!path.exists());
}

#[tokio::test]
async fn leftovers_of_a_dead_writer_are_removed_and_a_live_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let long_ago = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
    let make = |name: &str| {
        let file = std::fs::File::create(temporary.join(name)).unwrap();
        file.set_times(long_ago).unwrap();
        file
    };
    make("dead.part");
    let alive = make("alive.part");
    alive.lock().unwrap();
    std::fs::File::create(temporary.join("young.part")).unwrap();
    let backend = FolderBackend::open(folder.path()).unwrap();
    backend.put_new("a", vec![Bytes::from_static(b"a")]).await.unwrap();
    let mut left: Vec<_> = std::fs::read_dir(&temporary).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["alive.part", "young.part"]);
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// A file system of 3 MiB; needs the right to mount.
#[tokio::test]
async fn a_full_disk_in_mid_pack() {
    let folder = tempfile::tempdir().unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "none"]).arg(folder.path()).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    }
    let _mounted = Mounted(folder.path());
    let backend = FolderBackend::create(folder.path()).unwrap();
    let repository = new_repository(Arc::new(backend)).await;
    let small = Bytes::from(noise(1, 1 << 20));
    full_point(&repository, point_id(1), std::slice::from_ref(&small)).await.unwrap();
    let error = full_point(&repository, point_id(2), &[Bytes::from(noise(2, 4 << 20))]).await.unwrap_err();
    assert!(error.is_out_of_space(), "{error:?}");
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0, "temporary files are removed");
    let repository: Repository = reopen(Arc::new(FolderBackend::open(folder.path()).unwrap())).await;
    assert_eq!(repository.points().await.unwrap().points.len(), 1);
    assert_reads(&repository, point_id(1), &[small]).await;
}
