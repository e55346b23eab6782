//! SMB locations, judged against Samba: the suite on a signed and on an encrypted share, and what goes wrong.

use std::sync::Arc;

use crate::conformance::Place;
use crate::samba::Samba;

async fn place(share: &'static str) -> Place {
    let samba = Samba::start("");
    let backend = Arc::new(samba.create(share).await);
    let folder = samba.folder_of(share);
    let lose = move || std::fs::rename(folder.join("vm/repository"), folder.join("vm/gone")).unwrap();
    Place { backend, lose: Some(Box::new(lose)), keep: Box::new(samba) }
}

conformance!(signed, super::place("plain").await);
conformance!(encrypted, super::place("encrypted").await);
