//! A socket before the database's, which can be cut.

use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The way to the database.
pub struct Gate {
    folder: PathBuf,
    name: &'static str,
    behind: PathBuf,
    open: Option<(CancellationToken, TaskTracker)>,
}

impl Gate {
    pub fn new(folder: &Path, behind: &Path, name: &'static str) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let mut gate = Self { folder: folder.to_owned(), name, behind: behind.join(name), open: None };
        gate.open();
        gate
    }

    pub fn open(&mut self) {
        let listener = UnixListener::bind(self.folder.join(self.name)).expect("a socket");
        let (cut, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(pass(listener, self.behind.clone(), cut.clone(), tasks.clone()));
        self.open = Some((cut, tasks));
    }

    /// Ends every connection; new ones are refused.
    pub async fn cut(&mut self) {
        let Some((cut, tasks)) = self.open.take() else { return };
        cut.cancel();
        tasks.close();
        tasks.wait().await;
        std::fs::remove_file(self.folder.join(self.name)).expect("removed");
    }
}

async fn pass(listener: UnixListener, behind: PathBuf, cut: CancellationToken, tasks: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cut.cancelled() => return,
        };
        let Ok((mut near, _)) = accepted else { return };
        let (behind, cut) = (behind.clone(), cut.clone());
        tasks.spawn(async move {
            let Ok(mut far) = UnixStream::connect(behind).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}
