//! A session as a `Share`: which requests make up each of its steps.

use bytes::Bytes;
use smb2::types::flags::FileAttributes;

use super::SmbOptions;
use super::session::{Handle, Purpose, Session};
use crate::backend::BackendErrorKind;
use crate::backend::share::{Entry, EntryKind, Failure, Settled, Share};

/// Entries of one folder.
const FOLDER_ENTRIES_MAX: usize = 5_000_000;
/// Ticks of the server's clock in a second: MS-DTYP 2.3.3.
const TICKS_A_SECOND: u64 = 10_000_000;

impl Share for Session {
    type Options = SmbOptions;
    type File = Handle;
    const KEEPS_TEMPORARY: bool = false;

    async fn connect(options: &SmbOptions) -> Result<Self, Failure> {
        Self::join(options).await
    }

    fn is_dead(&self) -> bool {
        self.is_disconnected()
    }

    fn piece_bytes(&self) -> (u64, u64) {
        (self.read_bytes().into(), self.write_bytes().into())
    }

    async fn find_root(&self) -> Result<(), Failure> {
        self.open_path(&self.path(""), Purpose::FindFolder).await?.close().await
    }

    async fn make_root(&self) -> Result<(), Failure> {
        for path in self.root_and_parents() {
            self.open_path(&path, Purpose::MakeFolder).await?.close().await?;
        }
        Ok(())
    }

    async fn make_folder(&self, path: &str) -> Result<(), Failure> {
        self.open_path(&self.path(path), Purpose::MakeFolder).await?.close().await
    }

    async fn create(&self, path: &str) -> Result<(Handle, u64), Failure> {
        let file = self.open_path(&self.path(path), Purpose::Create).await?;
        let now = file.made_at / TICKS_A_SECOND;
        Ok((file, now))
    }

    async fn write(&self, file: &Handle, offset: u64, data: Bytes) -> Result<usize, Failure> {
        file.write(offset, data.into()).await
    }

    async fn sync(&self, file: &Handle) -> Result<(), Failure> {
        file.flush().await
    }

    async fn publish(&self, file: &Handle, _temporary: &str, path: &str) -> Result<(), Failure> {
        file.rename(&self.path(path)).await?;
        // Servers on journalling file systems make the new name durable with this.
        file.flush().await
    }

    async fn settle(&self, _file: &Handle, temporary: &str, path: &str) -> Result<Settled, Failure> {
        let is_there = async |path: &str| match self.look_up(path).await {
            Ok(_) => Ok(true),
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(failure),
        };
        // The temporary name is ours alone, and renaming is the only way out of it.
        Ok(match (is_there(temporary).await?, is_there(path).await?) {
            (true, true) => Settled::Taken,
            (true, false) => Settled::NotPublished,
            (false, false) => Settled::Unknown,
            (false, true) => {
                let file = self.open_path(&self.path(path), Purpose::Flush).await?;
                file.flush().await?;
                file.close().await?;
                Settled::Published
            }
        })
    }

    async fn open(&self, path: &str) -> Result<(Handle, u64), Failure> {
        let file = self.open_path(&self.path(path), Purpose::Read).await?;
        let size = file.size;
        Ok((file, size))
    }

    async fn read(&self, file: &Handle, offset: u64, length: u64) -> Result<Bytes, Failure> {
        Ok(file.read(offset, length as u32).await?.into())
    }

    async fn close(&self, file: Handle) -> Result<(), Failure> {
        file.close().await
    }

    async fn look_up(&self, path: &str) -> Result<u64, Failure> {
        let file = self.open_path(&self.path(path), Purpose::LookUp).await?;
        let size = file.size;
        file.close().await?;
        Ok(size)
    }

    async fn remove(&self, path: &str) -> Result<bool, Failure> {
        match self.open_path(&self.path(path), Purpose::Delete).await {
            Err(failure) if failure.is_not_found() => Ok(false),
            Err(failure) => Err(failure),
            Ok(file) => file.close().await.map(|()| true),
        }
    }

    async fn list_folder(&self, path: &str) -> Result<Vec<Entry>, Failure> {
        let folder = self.open_path(&self.path(path), Purpose::ListFolder).await?;
        let mut found = Vec::new();
        loop {
            let page = folder.entries(found.is_empty()).await?;
            if page.is_empty() {
                break;
            }
            found.extend(page);
            if found.len() > FOLDER_ENTRIES_MAX {
                return Err(Failure::new(BackendErrorKind::Other, "a folder has more entries than one may have"));
            }
        }
        folder.close().await?;
        let entries = found.into_iter().filter(|entry| entry.file_name != "." && entry.file_name != "..");
        Ok(entries
            .map(|entry| {
                let has = |flag: u32| entry.file_attributes & flag != 0;
                let kind = match (has(FileAttributes::REPARSE_POINT), has(FileAttributes::DIRECTORY)) {
                    (true, _) => EntryKind::Strange,
                    (_, true) => EntryKind::Folder,
                    _ => EntryKind::File,
                };
                let written_at = entry.last_write_time.0 / TICKS_A_SECOND;
                Entry { name: entry.file_name, size: entry.end_of_file, written_at, kind }
            })
            .collect())
    }
}
