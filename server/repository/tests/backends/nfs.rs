//! NFS locations, judged against nfs-ganesha: the suite, and what goes wrong.

use std::sync::Arc;

use crate::conformance::Place;
use crate::ganesha::Ganesha;

async fn place() -> Place {
    let ganesha = Ganesha::start();
    let backend = Arc::new(ganesha.create("export").await);
    let folder = ganesha.folder_of("export");
    let lose = move || std::fs::rename(folder.join("vm/repository"), folder.join("vm/gone")).unwrap();
    Place { backend, lose: Some(Box::new(lose)), keep: Box::new(ganesha) }
}

conformance!(exported, super::place().await);
