//! Memory, a folder, and either behind a wrapper that can fail.

use repository::backend::FaultyBackend;
use repository::{FolderBackend, MemoryBackend};
use std::sync::Arc;

use crate::conformance::Place;

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
