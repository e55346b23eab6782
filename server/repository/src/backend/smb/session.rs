//! Requests on a joined share. Owns the shapes of SMB's messages; knows paths and handles, nothing of objects.

use smb2::client::Connection;
use smb2::crypto::encryption::Cipher;
use smb2::msg::close::CloseRequest;
use smb2::msg::create::{CreateDisposition, CreateRequest, CreateResponse, ImpersonationLevel, ShareAccess};
use smb2::msg::directory_info::{DirectoryInfoEntry, parse_entries};
use smb2::msg::flush::FlushRequest;
use smb2::msg::query_directory::{
    FileInformationClass, QueryDirectoryFlags, QueryDirectoryRequest, QueryDirectoryResponse,
};
use smb2::msg::query_info::InfoType;
use smb2::msg::read::{ReadRequest, ReadResponse};
use smb2::msg::set_info::SetInfoRequest;
use smb2::msg::write::{WriteRequest, WriteResponse};
use smb2::pack::{Pack, ReadCursor, Unpack};
use smb2::types::flags::{FileAccessMask, FileAttributes};
use smb2::types::status::NtStatus;
use smb2::types::{Command, CreditCharge, FileId, OplockLevel, TreeId};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

use super::failure::{of_error, of_status};
use super::handshake::join;
use super::{CONNECT_TIMEOUT, SmbOptions};
use crate::backend::BackendErrorKind;
use crate::backend::share::{Failure, folder_parts, watch};

/// Data bytes in one read or write.
pub(super) const PIECE_BYTES: u32 = 1 << 20;
/// Bytes of a folder's entries in one reply.
const LIST_BYTES: u32 = 256 << 10;
/// Bytes that one credit pays for: MS-SMB2 3.1.5.2.
const CREDIT_BYTES: u32 = 65536;
/// Length in bytes of header and fixed part of a WRITE, and so where its data starts.
const WRITE_DATA_AT: u16 = 112;

/// MS-FSCC 2.4: information class of a `SET_INFO`.
const FILE_RENAME_INFORMATION: u8 = 10;

/// MS-SMB2 2.2.13: create options.
const FILE_DIRECTORY_FILE: u32 = 0x1;
const FILE_NON_DIRECTORY_FILE: u32 = 0x40;
const FILE_DELETE_ON_CLOSE: u32 = 0x1000;
const FILE_OPEN_REPARSE_POINT: u32 = 0x0020_0000;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new file, to be written and renamed.
    Create,
    /// An existing one, to be made durable.
    Flush,
    /// Its data.
    Read,
    /// Its length, or that it is there.
    LookUp,
    /// It goes when the handle does.
    Delete,
    /// That a folder is there.
    FindFolder,
    /// A folder's entries.
    ListFolder,
    /// A folder, made when it is not there.
    MakeFolder,
}

impl Purpose {
    fn request(self, name: String) -> CreateRequest {
        use FileAccessMask as Access;
        let (access, disposition, options) = match self {
            Self::Create => {
                (Access::FILE_WRITE_DATA | Access::DELETE, CreateDisposition::FileCreate, FILE_NON_DIRECTORY_FILE)
            }
            Self::Flush => (Access::FILE_WRITE_DATA, CreateDisposition::FileOpen, FILE_NON_DIRECTORY_FILE),
            Self::Read => (Access::FILE_READ_DATA, CreateDisposition::FileOpen, FILE_NON_DIRECTORY_FILE),
            Self::LookUp => (0, CreateDisposition::FileOpen, FILE_NON_DIRECTORY_FILE),
            Self::Delete => {
                let options = FILE_NON_DIRECTORY_FILE | FILE_DELETE_ON_CLOSE | FILE_OPEN_REPARSE_POINT;
                (Access::DELETE, CreateDisposition::FileOpen, options)
            }
            Self::FindFolder => (0, CreateDisposition::FileOpen, FILE_DIRECTORY_FILE),
            Self::ListFolder => (Access::FILE_READ_DATA, CreateDisposition::FileOpen, FILE_DIRECTORY_FILE),
            Self::MakeFolder => (0, CreateDisposition::FileOpenIf, FILE_DIRECTORY_FILE),
        };
        // A file being written may be read (its name changes before its handle closes) but not deleted by others.
        let share = match self {
            Self::Create => ShareAccess::FILE_SHARE_READ,
            _ => ShareAccess::FILE_SHARE_READ | ShareAccess::FILE_SHARE_WRITE | ShareAccess::FILE_SHARE_DELETE,
        };
        CreateRequest {
            requested_oplock_level: OplockLevel::None,
            impersonation_level: ImpersonationLevel::Impersonation,
            desired_access: Access::new(access | Access::FILE_READ_ATTRIBUTES | Access::SYNCHRONIZE),
            file_attributes: if self == Self::Create { FileAttributes::NORMAL } else { 0 },
            share_access: ShareAccess(share),
            create_disposition: disposition,
            create_options: options,
            name,
            create_contexts: Vec::new(),
        }
    }
}

/// A share that was joined. Clones share the connection.
#[derive(Clone)]
pub(super) struct Session(Arc<Joined>);

struct Joined {
    connection: Connection,
    sent: Arc<AtomicU64>,
    patience: Duration,
    tree: TreeId,
    cipher: Option<Cipher>,
    /// The location's folder, in parts.
    root: Vec<String>,
    read_bytes: u32,
    write_bytes: u32,
    list_bytes: u32,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("cipher", &self.0.cipher).finish_non_exhaustive()
    }
}

impl Session {
    pub async fn join(options: &SmbOptions) -> Result<Self, Failure> {
        let joining = timeout(CONNECT_TIMEOUT + options.timeout, join(options));
        let joined = joining.await.map_err(|_| Failure::silent(options.timeout))??;
        let bounded = |limit: u32, wanted: u32| limit.clamp(CREDIT_BYTES, wanted);
        Ok(Self(Arc::new(Joined {
            read_bytes: bounded(joined.params.max_read_size, PIECE_BYTES),
            write_bytes: bounded(joined.params.max_write_size, PIECE_BYTES),
            list_bytes: bounded(joined.params.max_transact_size, LIST_BYTES),
            root: folder_parts(&options.folder).unwrap_or_default().into_iter().map(str::to_owned).collect(),
            connection: joined.connection,
            sent: joined.sent,
            patience: options.timeout,
            tree: joined.tree,
            cipher: joined.cipher,
        })))
    }

    /// What encrypts, if anything does.
    pub fn cipher(&self) -> Option<&'static str> {
        self.0.cipher.map(|cipher| match cipher {
            Cipher::Aes128Ccm => "AES-128-CCM",
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes256Ccm => "AES-256-CCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
        })
    }

    pub fn read_bytes(&self) -> u32 {
        self.0.read_bytes
    }

    pub fn write_bytes(&self) -> u32 {
        self.0.write_bytes
    }

    pub fn is_disconnected(&self) -> bool {
        self.0.connection.is_disconnected()
    }

    /// The location's folder as paths of the share, parents first.
    pub fn root_and_parents(&self) -> impl Iterator<Item = String> {
        let root = &self.0.root;
        (1..=root.len()).map(|end| root.get(..end).unwrap_or_default().join("\\"))
    }

    /// A path below the location's folder as a path of the share.
    pub fn path(&self, path: &str) -> String {
        let parts = self.0.root.iter().map(String::as_str).chain(path.split('/').filter(|part| !part.is_empty()));
        parts.collect::<Vec<_>>().join("\\")
    }

    /// The reply's body; `bytes` is the larger of what is sent and what may come back.
    async fn call(&self, command: Command, body: &dyn Pack, bytes: u32) -> Result<Vec<u8>, Failure> {
        let charge = CreditCharge(bytes.div_ceil(CREDIT_BYTES).max(1) as u16);
        let joined = &*self.0;
        let exchange = joined.connection.execute_with_credits(command, body, Some(joined.tree), charge);
        let moved = || joined.sent.load(Ordering::Relaxed) + joined.connection.inbound().bytes_received;
        let frame = watch(joined.patience, moved, exchange).await;
        let frame = frame.ok_or_else(|| Failure::silent(joined.patience))?.map_err(of_error)?;
        if frame.header.command != command {
            return Err(Failure::new(BackendErrorKind::Other, "the server answered another request"));
        }
        match frame.header.status {
            NtStatus::SUCCESS => Ok(frame.body),
            status => Err(of_status(status)),
        }
    }

    /// Opens a path of the share, parted by backslashes.
    pub async fn open_path(&self, path: &str, purpose: Purpose) -> Result<Handle, Failure> {
        let body = self.call(Command::Create, &purpose.request(path.to_owned()), 0).await?;
        let reply = CreateResponse::unpack(&mut ReadCursor::new(&body)).map_err(of_error)?;
        Ok(Handle {
            session: Some(self.clone()),
            size: reply.end_of_file,
            made_at: reply.creation_time.0,
            id: reply.file_id,
        })
    }
}

/// An open file or folder. Closed when dropped; `close` also waits for it.
pub(super) struct Handle {
    session: Option<Session>,
    id: FileId,
    /// Length in bytes when it was opened.
    pub size: u64,
    /// When the file was made, by the server's clock, in 100 ns.
    pub made_at: u64,
}

impl Handle {
    fn session(&self) -> Result<&Session, Failure> {
        self.session.as_ref().ok_or_else(|| Failure::new(BackendErrorKind::Other, "the file is closed"))
    }

    /// Exactly `length` bytes, at most `Session::read_bytes`.
    pub async fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        let request = ReadRequest {
            padding: 0x50,
            flags: 0,
            length,
            offset,
            file_id: self.id,
            minimum_count: length,
            channel: 0,
            remaining_bytes: 0,
            read_channel_info: Vec::new(),
        };
        let body = self.session()?.call(Command::Read, &request, length).await?;
        let data = ReadResponse::unpack(&mut ReadCursor::new(&body)).map_err(of_error)?.data;
        if data.len() != length as usize {
            return Err(Failure::new(BackendErrorKind::TooShort, "the file ends before the range does"));
        }
        Ok(data)
    }

    /// Writes at most `Session::write_bytes`; how many bytes were written.
    pub async fn write(&self, offset: u64, data: Vec<u8>) -> Result<usize, Failure> {
        let length = data.len() as u32;
        let request = WriteRequest {
            data_offset: WRITE_DATA_AT,
            offset,
            file_id: self.id,
            channel: 0,
            remaining_bytes: 0,
            write_channel_info_offset: 0,
            write_channel_info_length: 0,
            flags: 0,
            data,
        };
        let body = self.session()?.call(Command::Write, &request, length).await?;
        Ok(WriteResponse::unpack(&mut ReadCursor::new(&body)).map_err(of_error)?.count as usize)
    }

    /// Makes what was done by this handle durable.
    pub async fn flush(&self) -> Result<(), Failure> {
        self.session()?.call(Command::Flush, &FlushRequest { file_id: self.id }, 0).await.map(drop)
    }

    async fn set(&self, class: u8, buffer: Vec<u8>) -> Result<(), Failure> {
        let request = SetInfoRequest {
            info_type: InfoType::File,
            file_info_class: class,
            additional_information: 0,
            file_id: self.id,
            buffer,
        };
        self.session()?.call(Command::SetInfo, &request, 0).await.map(drop)
    }

    /// Gives the file another path; never replaces a file.
    pub async fn rename(&self, path: &str) -> Result<(), Failure> {
        let name: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut buffer = vec![0; 16]; // do not replace; reserved; no root folder
        buffer.extend_from_slice(&(name.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&name);
        self.set(FILE_RENAME_INFORMATION, buffer).await
    }

    /// The next entries of a folder; empty after the last.
    pub async fn entries(&self, first: bool) -> Result<Vec<DirectoryInfoEntry>, Failure> {
        let session = self.session()?;
        let class = FileInformationClass::FileBothDirectoryInformation;
        let request = QueryDirectoryRequest {
            file_information_class: class,
            flags: QueryDirectoryFlags(if first { QueryDirectoryFlags::RESTART_SCANS } else { 0 }),
            file_index: 0,
            file_id: self.id,
            output_buffer_length: session.0.list_bytes,
            file_name: "*".to_owned(),
        };
        let body = match session.call(Command::QueryDirectory, &request, session.0.list_bytes).await {
            Err(failure) if failure.code == NtStatus::NO_MORE_FILES.0 => return Ok(Vec::new()),
            // An empty folder, as some servers say it.
            Err(failure) if first && failure.code == NtStatus::NO_SUCH_FILE.0 => return Ok(Vec::new()),
            other => other?,
        };
        let reply = QueryDirectoryResponse::unpack(&mut ReadCursor::new(&body)).map_err(of_error)?;
        let entries = parse_entries(class, &reply.output_buffer).map_err(of_error)?;
        if entries.is_empty() {
            return Err(Failure::new(BackendErrorKind::Other, "the server sent a list that cannot be read"));
        }
        Ok(entries)
    }

    /// Closes it and waits for that.
    pub async fn close(mut self) -> Result<(), Failure> {
        match self.session.take() {
            Some(session) => close(session, self.id).await,
            None => Ok(()),
        }
    }
}

async fn close(session: Session, id: FileId) -> Result<(), Failure> {
    session.call(Command::Close, &CloseRequest { flags: 0, file_id: id }, 0).await.map(drop)
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        // A cancelled transfer: the server need not hold the file until the session ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let id = self.id;
            runtime.spawn(async move { close(session, id).await });
        }
    }
}
