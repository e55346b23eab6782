//! What is asked of a host's shares: the shapes of the requests, and open files. Knows shares and paths in them, nothing of
//! disks.

use super::ShareOptions;
use super::failure::{Failure, of_error, of_status};
use super::handshake::join;
use super::path::SharePath;
use super::seal::put;
use super::wire::{HEADER_BYTES, Reply, Request, Wire};
use crate::ErrorKind;
use bytes::{Bytes, BytesMut};
use smb2::msg::close::CloseRequest;
use smb2::msg::create::{CreateDisposition, CreateRequest, CreateResponse, ImpersonationLevel, ShareAccess};
use smb2::msg::flush::FlushRequest;
use smb2::msg::query_info::{InfoType, QueryInfoRequest, QueryInfoResponse};
use smb2::msg::set_info::SetInfoRequest;
use smb2::msg::tree_connect::{TreeConnectRequest, TreeConnectRequestFlags, TreeConnectResponse};
use smb2::pack::{Pack, ReadCursor, Unpack, WriteCursor};
use smb2::types::flags::{FileAccessMask, FileAttributes, ShareFlags};
use smb2::types::status::NtStatus;
use smb2::types::{Command, FileId, OplockLevel};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// Shares that one session joins at most.
const SHARES_MAX: usize = 64;

/// Length of a READ's and a WRITE's fixed part, and the place of their data from the header on: MS-SMB2 2.2.19 to 2.2.21.
const READ_REQUEST_BYTES: usize = 49;
const WRITE_REQUEST_BYTES: usize = 48;
const READ_ANSWER_BYTES: u16 = 17;
const WRITE_ANSWER_BYTES: u16 = 17;
const DATA_AT: usize = HEADER_BYTES + WRITE_REQUEST_BYTES;

/// MS-FSCC 2.4 and 2.5: information classes.
const FILE_DISPOSITION_INFORMATION: u8 = 13;
const FILE_END_OF_FILE_INFORMATION: u8 = 20;
const FILE_FS_FULL_SIZE_INFORMATION: u8 = 7;
const FS_FULL_SIZE_BYTES: u32 = 32;

/// MS-SMB2 2.2.13: create options.
const FILE_DIRECTORY_FILE: u32 = 0x1;
const FILE_NON_DIRECTORY_FILE: u32 = 0x40;
const FILE_DELETE_ON_CLOSE: u32 = 0x1000;
const FILE_OPEN_REPARSE_POINT: u32 = 0x0020_0000;

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its data; others may go on with it as they like.
    Read,
    /// A new file, to be written; nobody else may open it.
    Create,
    /// That it is there, a file or a folder.
    LookUp,
    /// It goes when the handle does.
    Delete,
    /// A folder, made when it is not there.
    MakeFolder,
}

impl Purpose {
    fn request(self, name: String) -> CreateRequest {
        use FileAccessMask as Access;
        let (access, disposition, options) = match self {
            Self::Read => (Access::FILE_READ_DATA, CreateDisposition::FileOpen, FILE_NON_DIRECTORY_FILE),
            Self::Create => {
                let access = Access::FILE_WRITE_DATA | Access::FILE_WRITE_ATTRIBUTES | Access::DELETE;
                (access, CreateDisposition::FileCreate, FILE_NON_DIRECTORY_FILE)
            }
            Self::LookUp => (0, CreateDisposition::FileOpen, 0),
            Self::Delete => {
                let options = FILE_NON_DIRECTORY_FILE | FILE_DELETE_ON_CLOSE | FILE_OPEN_REPARSE_POINT;
                (Access::DELETE, CreateDisposition::FileOpen, options)
            }
            Self::MakeFolder => (0, CreateDisposition::FileOpenIf, FILE_DIRECTORY_FILE),
        };
        let share = match self {
            Self::Create => 0,
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

/// A signed-in connection with the shares it has joined.
pub(super) struct Session {
    wire: Wire,
    host: String,
    read_bytes: u32,
    write_bytes: u32,
    trees: Mutex<HashMap<String, u32>>,
}

impl Session {
    pub async fn connect(options: &ShareOptions) -> Result<Self, Failure> {
        let joined = join(options).await?;
        Ok(Self {
            wire: joined.wire,
            host: options.bare_host().to_owned(),
            read_bytes: joined.read_bytes,
            write_bytes: joined.write_bytes,
            trees: Mutex::default(),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.wire.is_dead()
    }

    pub fn signing_name(&self) -> &'static str {
        self.wire.signing_name()
    }

    pub fn cipher_name(&self) -> Option<&'static str> {
        self.wire.cipher_name()
    }

    async fn call(&self, request: Request<'_>) -> Result<Reply, Failure> {
        let reply = self.wire.call(&request).await?;
        match reply.status {
            NtStatus::SUCCESS => Ok(reply),
            status => {
                let failure = of_status(status);
                if ends_session(status) {
                    self.wire.end(&failure);
                }
                Err(failure)
            }
        }
    }

    async fn ask(&self, command: Command, tree: u32, body: &dyn Pack) -> Result<Reply, Failure> {
        let mut cursor = WriteCursor::new();
        body.pack(&mut cursor);
        let body = cursor.into_inner();
        self.call(Request { command, tree, body: &body, payload: &[], answer_bytes: 0 }).await
    }

    /// The number of a share that was joined, or is now.
    async fn tree(&self, share: &str) -> Result<u32, Failure> {
        let mut trees = self.trees.lock().await;
        if let Some(tree) = trees.get(share) {
            return Ok(*tree);
        }
        if trees.len() >= SHARES_MAX {
            return Err(Failure::new(ErrorKind::Unsupported, "hyperv.path", "too many shares in one session"));
        }
        let path = format!(r"\\{}\{share}", self.host);
        let request = TreeConnectRequest { flags: TreeConnectRequestFlags::default(), path };
        let reply = self.ask(Command::TreeConnect, 0, &request).await?;
        let answer = TreeConnectResponse::unpack(&mut ReadCursor::new(reply.body())).map_err(of_error)?;
        if answer.share_flags.contains(ShareFlags::ENCRYPT_DATA) && self.wire.cipher_name().is_none() {
            if !self.wire.can_encrypt() {
                let text = format!("the share {share} is to be encrypted, but no AES-GCM cipher was agreed");
                return Err(Failure::new(ErrorKind::Unsupported, "hyperv.smb_encryption", text));
            }
            self.wire.encrypt();
        }
        trees.insert(share.to_owned(), reply.tree);
        Ok(reply.tree)
    }

    /// Opens a file or folder; `path.path` may be that of a folder above the one parsed.
    pub async fn open(self: &Arc<Self>, path: &SharePath, purpose: Purpose) -> Result<Handle, Failure> {
        let tree = self.tree(&path.share).await?;
        let reply = self.ask(Command::Create, tree, &purpose.request(path.path.clone())).await?;
        let answer = CreateResponse::unpack(&mut ReadCursor::new(reply.body())).map_err(of_error)?;
        Ok(Handle {
            session: self.clone(),
            tree,
            id: answer.file_id,
            size_bytes: answer.end_of_file,
            made_at: answer.creation_time.0,
            is_open: AtomicBool::new(true),
        })
    }
}

/// An open file or folder. Closed when dropped; [`Handle::close`] also waits for it.
pub(super) struct Handle {
    session: Arc<Session>,
    tree: u32,
    id: FileId,
    /// Length when it was opened.
    pub size_bytes: u64,
    /// When the file was made, by the host's clock, in 100 ns.
    pub made_at: u64,
    is_open: AtomicBool,
}

impl Handle {
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    fn id_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        put(&mut bytes, 0, &self.id.persistent.to_le_bytes());
        put(&mut bytes, 8, &self.id.volatile.to_le_bytes());
        bytes
    }

    /// Exactly `length` bytes from `offset` on.
    pub async fn read(&self, offset: u64, length: usize) -> Result<Bytes, Failure> {
        let first = self.read_some(offset, length).await?;
        if first.len() == length {
            return Ok(first); // as it came from the socket
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&first);
        while whole.len() < length {
            whole.extend_from_slice(&self.read_some(offset + whole.len() as u64, length - whole.len()).await?);
        }
        Ok(whole.freeze())
    }

    /// At least one byte, and as many as one message may bring.
    async fn read_some(&self, offset: u64, length: usize) -> Result<Bytes, Failure> {
        let most = self.session.read_bytes.min(self.session.wire.payload_bytes());
        let length = length.min(most as usize) as u32;
        let mut body = [0; READ_REQUEST_BYTES];
        put(&mut body, 0, &(READ_REQUEST_BYTES as u16).to_le_bytes());
        put(&mut body, 2, &[(HEADER_BYTES + 16) as u8]);
        put(&mut body, 4, &length.to_le_bytes());
        put(&mut body, 8, &offset.to_le_bytes());
        put(&mut body, 16, &self.id_bytes());
        put(&mut body, 32, &1u32.to_le_bytes());
        let request =
            Request { command: Command::Read, tree: self.tree, body: &body, payload: &[], answer_bytes: length };
        let reply = self.session.call(request).await?;
        let data = data_of(&reply).filter(|data| !data.is_empty() && data.len() <= length as usize);
        data.ok_or_else(|| Failure::protocol("the answer to a read has no data, or more than was asked for"))
    }

    /// Writes all of `data` at `offset`.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let most = self.session.write_bytes.min(self.session.wire.payload_bytes()) as usize;
            let (piece, after) = rest.split_at(rest.len().min(most));
            let mut body = [0; WRITE_REQUEST_BYTES];
            put(&mut body, 0, &(WRITE_REQUEST_BYTES as u16 + 1).to_le_bytes());
            put(&mut body, 2, &(DATA_AT as u16).to_le_bytes());
            put(&mut body, 4, &(piece.len() as u32).to_le_bytes());
            put(&mut body, 8, &at.to_le_bytes());
            put(&mut body, 16, &self.id_bytes());
            let request =
                Request { command: Command::Write, tree: self.tree, body: &body, payload: piece, answer_bytes: 0 };
            let reply = self.session.call(request).await?;
            if written(&reply) != Some(piece.len()) {
                return Err(Failure::protocol("the host wrote less than it was given"));
            }
            at += piece.len() as u64;
            rest = after;
        }
        Ok(())
    }

    /// What was written outlives a loss of power.
    pub async fn flush(&self) -> Result<(), Failure> {
        self.session.ask(Command::Flush, self.tree, &FlushRequest { file_id: self.id }).await.map(drop)
    }

    async fn set(&self, class: u8, buffer: Vec<u8>) -> Result<(), Failure> {
        let request = SetInfoRequest {
            info_type: InfoType::File,
            file_info_class: class,
            additional_information: 0,
            file_id: self.id,
            buffer,
        };
        self.session.ask(Command::SetInfo, self.tree, &request).await.map(drop)
    }

    /// Sets the file's length.
    pub async fn set_len(&self, length_bytes: u64) -> Result<(), Failure> {
        self.set(FILE_END_OF_FILE_INFORMATION, length_bytes.to_le_bytes().to_vec()).await
    }

    /// Whether the file goes when it is closed, by us or because our session ended.
    pub async fn set_vanishing(&self, vanishes: bool) -> Result<(), Failure> {
        self.set(FILE_DISPOSITION_INFORMATION, vec![u8::from(vanishes)]).await
    }

    /// Bytes that this account may still write to the file's volume.
    pub async fn free_bytes(&self) -> Result<u64, Failure> {
        let request = QueryInfoRequest {
            info_type: InfoType::Filesystem,
            file_info_class: FILE_FS_FULL_SIZE_INFORMATION,
            output_buffer_length: FS_FULL_SIZE_BYTES,
            additional_information: 0,
            flags: 0,
            file_id: self.id,
            input_buffer: Vec::new(),
        };
        let reply = self.session.ask(Command::QueryInfo, self.tree, &request).await?;
        let answer = QueryInfoResponse::unpack(&mut ReadCursor::new(reply.body())).map_err(of_error)?.output_buffer;
        // Units in all, for the caller, in truth; sectors in a unit; bytes in a sector: MS-FSCC 2.5.4.
        let units = answer.get(8..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_le_bytes(*bytes));
        let word = |at: usize| answer.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
        let (Some(units), Some(sectors), Some(bytes)) = (units, word(24), word(28)) else {
            return Err(Failure::protocol("the answer about free space is too short"));
        };
        Ok(units.saturating_mul(u64::from(sectors)).saturating_mul(u64::from(bytes)))
    }

    /// Closes it and waits for that.
    pub async fn close(&self) -> Result<(), Failure> {
        if !self.is_open.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        close(&self.session, self.tree, self.id).await
    }
}

/// Session or share are gone on the host; another session brings both back.
fn ends_session(status: NtStatus) -> bool {
    matches!(
        status,
        NtStatus::NETWORK_NAME_DELETED | NtStatus::USER_SESSION_DELETED | NtStatus::NETWORK_SESSION_EXPIRED
    )
}

async fn close(session: &Session, tree: u32, file_id: FileId) -> Result<(), Failure> {
    session.ask(Command::Close, tree, &CloseRequest { flags: 0, file_id }).await.map(drop)
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !*self.is_open.get_mut() || self.session.is_dead() {
            return;
        }
        // The host need not hold the file until the session ends.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (session, tree, id) = (self.session.clone(), self.tree, self.id);
            runtime.spawn(async move { close(&session, tree, id).await });
        }
    }
}

/// The data of a READ's answer: MS-SMB2 2.2.20.
fn data_of(reply: &Reply) -> Option<Bytes> {
    let body = reply.body();
    if u16::from_le_bytes(*body.first_chunk()?) != READ_ANSWER_BYTES {
        return None;
    }
    let length = u32::from_le_bytes(*body.get(4..)?.first_chunk()?);
    reply.part(usize::from(*body.get(2)?), length as usize)
}

/// How many bytes a WRITE's answer says were written: MS-SMB2 2.2.22.
fn written(reply: &Reply) -> Option<usize> {
    let body = reply.body();
    if u16::from_le_bytes(*body.first_chunk()?) != WRITE_ANSWER_BYTES {
        return None;
    }
    Some(u32::from_le_bytes(*body.get(4..)?.first_chunk()?) as usize)
}
