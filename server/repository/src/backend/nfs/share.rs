//! A session as a `Share`: which calls make up each of its steps.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use super::NfsOptions;
use super::protocol::{BAD_COOKIE, FileHandle, WriteVerifier};
use super::session::{FolderEntry, Session};
use crate::backend::BackendErrorKind;
use crate::backend::share::{Entry, EntryKind, Failure, Settled, Share, write_whole};

/// Entries of one folder.
const FOLDER_ENTRIES_MAX: usize = 5_000_000;
/// Lists of a folder that changed too much to go on with.
const LISTS_MAX: usize = 4;
/// Commits of a file on a server that keeps losing its memory.
const COMMITS_MAX: usize = 4;
/// Look-ups and writes in flight that one step makes.
const CALLS_AT_ONCE: usize = 8;

/// A file that is being written or read.
pub(super) struct OpenFile {
    handle: FileHandle,
    file_id: u64,
    /// What the server may still lose. The bytes are the caller's own, not copies.
    unstable: Mutex<Vec<Unstable>>,
}

struct Unstable {
    offset: u64,
    data: Bytes,
    verifier: WriteVerifier,
}

impl OpenFile {
    fn new(handle: FileHandle, file_id: u64) -> Self {
        Self { handle, file_id, unstable: Mutex::default() }
    }
}

fn no_such_file() -> Failure {
    Failure::new(BackendErrorKind::NotFound, "it is not a file")
}

impl Share for Session {
    type Options = NfsOptions;
    type File = OpenFile;
    const KEEPS_TEMPORARY: bool = true;

    async fn connect(options: &NfsOptions) -> Result<Self, Failure> {
        Self::mount(options).await
    }

    fn is_dead(&self) -> bool {
        Self::is_dead(self)
    }

    fn piece_bytes(&self) -> (u64, u64) {
        Self::piece_bytes(self)
    }

    async fn find_root(&self) -> Result<(), Failure> {
        let (_, attributes) = self.find("").await?;
        if attributes.is_folder() {
            Ok(())
        } else {
            Err(Failure::new(BackendErrorKind::NotFound, "it is not a folder"))
        }
    }

    async fn make_root(&self) -> Result<(), Failure> {
        Self::make_root(self).await
    }

    async fn make_folder(&self, path: &str) -> Result<(), Failure> {
        let (parent, name) = self.find_parent(path).await?;
        Self::make_folder(self, &parent, name).await
    }

    async fn create(&self, path: &str) -> Result<(OpenFile, u64), Failure> {
        let (parent, name) = self.find_parent(path).await?;
        let (handle, attributes) = Self::create(self, &parent, name).await?;
        Ok((OpenFile::new(handle, attributes.file_id), attributes.modified_at))
    }

    async fn write(&self, file: &OpenFile, offset: u64, data: Bytes) -> Result<usize, Failure> {
        let (count, verifier) = Self::write(self, &file.handle, offset, data.clone()).await?;
        if let Some(verifier) = verifier {
            let data = data.slice(..count.min(data.len()));
            file.unstable.lock().push(Unstable { offset, data, verifier });
        }
        Ok(count)
    }

    async fn sync(&self, file: &OpenFile) -> Result<(), Failure> {
        for _ in 0..COMMITS_MAX {
            let verifier = self.commit(&file.handle).await?;
            let mut lost = std::mem::take(&mut *file.unstable.lock());
            lost.retain(|write| write.verifier != verifier);
            if lost.is_empty() {
                return Ok(());
            }
            // The server was restarted since: what it had not committed is gone.
            let writes = lost.into_iter().map(|write| write_whole(self, file, write.offset, write.data));
            stream::iter(writes).buffer_unordered(CALLS_AT_ONCE).try_collect::<()>().await?;
        }
        Err(Failure::new(BackendErrorKind::Other, "the server keeps losing what it did not commit"))
    }

    async fn publish(&self, file: &OpenFile, _temporary: &str, path: &str) -> Result<(), Failure> {
        let (parent, name) = self.find_parent(path).await?;
        self.link(&file.handle, &parent, name).await
    }

    async fn settle(&self, file: &OpenFile, _temporary: &str, path: &str) -> Result<Settled, Failure> {
        match self.find(path).await {
            Ok((_, attributes)) if attributes.file_id == file.file_id => Ok(Settled::Published),
            Ok(_) => Ok(Settled::Taken),
            Err(failure) if failure.is_not_found() => Ok(Settled::NotPublished),
            Err(failure) => Err(failure),
        }
    }

    async fn open(&self, path: &str) -> Result<(OpenFile, u64), Failure> {
        let (handle, attributes) = self.find(path).await?;
        if !attributes.is_file() {
            return Err(no_such_file());
        }
        Ok((OpenFile::new(handle, attributes.file_id), attributes.size))
    }

    async fn read(&self, file: &OpenFile, offset: u64, length: u64) -> Result<Bytes, Failure> {
        let (first, mut is_end) = Self::read(self, &file.handle, offset, length as u32).await?;
        if first.len() as u64 == length {
            return Ok(first);
        }
        let mut whole = BytesMut::from(first.as_ref());
        while (whole.len() as u64) < length {
            let got = whole.len() as u64;
            if is_end {
                return Err(Failure::new(BackendErrorKind::TooShort, "the file ends before the range does"));
            }
            let (more, ends) = Self::read(self, &file.handle, offset + got, (length - got) as u32).await?;
            if more.is_empty() && !ends {
                return Err(Failure::new(BackendErrorKind::Other, "the server sent nothing where there is more"));
            }
            whole.extend_from_slice(&more);
            is_end = ends;
        }
        Ok(whole.freeze())
    }

    async fn close(&self, _file: OpenFile) -> Result<(), Failure> {
        Ok(())
    }

    async fn look_up(&self, path: &str) -> Result<u64, Failure> {
        let (_, attributes) = self.find(path).await?;
        if attributes.is_file() { Ok(attributes.size) } else { Err(no_such_file()) }
    }

    async fn remove(&self, path: &str) -> Result<bool, Failure> {
        let removed = async {
            let (parent, name) = self.find_parent(path).await?;
            Self::remove(self, &parent, name).await
        };
        match removed.await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    async fn list_folder(&self, path: &str) -> Result<Vec<Entry>, Failure> {
        let (folder, attributes) = self.find(path).await?;
        if !attributes.is_folder() {
            return Err(Failure::new(BackendErrorKind::NotFound, "it is not a folder"));
        }
        let mut last = Failure::new(BackendErrorKind::Other, "the folder cannot be listed");
        for _ in 0..LISTS_MAX {
            match list_once(self, &folder).await {
                Err(failure) if failure.code == BAD_COOKIE => last = failure,
                entries => return with_attributes(self, path, entries?).await,
            }
        }
        Err(last)
    }
}

async fn list_once(session: &Session, folder: &FileHandle) -> Result<Vec<FolderEntry>, Failure> {
    let mut entries = Vec::new();
    let mut place = Some((0, [0; 8]));
    while let Some(from) = place {
        let page = session.entries(folder, from).await?;
        entries.extend(page.entries.into_iter().filter(|entry| entry.name != "." && entry.name != ".."));
        if entries.len() > FOLDER_ENTRIES_MAX {
            return Err(Failure::new(BackendErrorKind::Other, "a folder has more entries than one may have"));
        }
        place = page.next;
    }
    Ok(entries)
}

/// Asks for the attributes that the server left out. An entry that is gone by then is left out.
async fn with_attributes(session: &Session, path: &str, entries: Vec<FolderEntry>) -> Result<Vec<Entry>, Failure> {
    let complete = entries.into_iter().map(|entry| async move {
        let attributes = match entry.attributes {
            Some(attributes) => attributes,
            None => match session.find(&format!("{path}/{}", entry.name)).await {
                Ok((_, attributes)) => attributes,
                Err(failure) if failure.is_not_found() => return Ok(None),
                Err(failure) => return Err(failure),
            },
        };
        let kind = match (attributes.is_file(), attributes.is_folder()) {
            (true, _) => EntryKind::File,
            (_, true) => EntryKind::Folder,
            _ => EntryKind::Strange,
        };
        Ok(Some(Entry { name: entry.name, size: attributes.size, written_at: attributes.modified_at, kind }))
    });
    let found: Vec<Option<Entry>> = stream::iter(complete).buffered(CALLS_AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}
