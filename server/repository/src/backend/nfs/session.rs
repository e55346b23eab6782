//! A mounted export: handles found by name, and calls on them. Owns the connections and the server's limits on them.

use bytes::Bytes;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::timeout;

use super::protocol::{self, Attributes, FileHandle, WriteVerifier};
use super::rpc::{Caller, RpcConnection};
use super::xdr::{Decoder, Encoder};
use super::{CONNECT_TIMEOUT, NfsOptions};
use crate::backend::BackendErrorKind;
use crate::backend::share::{Cure, Failure, folder_parts};

/// Data bytes in one read or write.
const PIECE_BYTES: u32 = 1 << 20;
/// Least that is asked for, whatever the server says.
const PIECE_BYTES_MIN: u32 = 4096;
/// Bytes of names, and of all, in one reply with a folder's entries.
const LIST_NAME_BYTES: u32 = 32 << 10;
const LIST_BYTES: u32 = 256 << 10;
/// Connections for calls, which large transfers share.
const CONNECTIONS: usize = 2;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Who may do what with our files and folders.
const FILE_MODE: u32 = 0o640;
const FOLDER_MODE: u32 = 0o750;

/// An export that was mounted. Clones share the connections.
#[derive(Clone)]
pub(super) struct Session(Arc<Mounted>);

struct Mounted {
    connections: Vec<RpcConnection>,
    next: AtomicUsize,
    export: FileHandle,
    /// The location's folder, in parts.
    root: Vec<String>,
    read_bytes: u32,
    write_bytes: u32,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("root", &self.0.root).finish_non_exhaustive()
    }
}

/// One of a folder's entries; some servers send it without attributes.
pub(super) struct FolderEntry {
    pub name: String,
    pub attributes: Option<Attributes>,
}

/// A part of a folder's entries.
pub(super) struct Page {
    pub entries: Vec<FolderEntry>,
    /// Where the next page starts; `None` after the last.
    pub next: Option<(u64, [u8; 8])>,
}

fn unusable(text: &str) -> Failure {
    Failure::new(BackendErrorKind::Other, text)
}

impl Session {
    /// Finds the server, mounts, and asks for its limits.
    pub async fn mount(options: &NfsOptions) -> Result<Self, Failure> {
        let resolving = tokio::net::lookup_host((options.host.as_str(), 0));
        let addresses: Vec<IpAddr> = match timeout(CONNECT_TIMEOUT, resolving).await {
            Ok(Ok(found)) => found.map(|address| address.ip()).take(ADDRESSES_MAX).collect(),
            Ok(Err(error)) => {
                let text = format!("the name {} cannot be resolved: {error}", options.host);
                return Err(Failure::new(BackendErrorKind::Unreachable, text).with_cure(Cure::Reconnect));
            }
            Err(_) => Vec::new(),
        };
        let mut failure = Failure::new(BackendErrorKind::Unreachable, format!("{} has no address", options.host));
        for address in addresses {
            match Self::mount_at(address, options).await {
                Ok(session) => return Ok(session),
                Err(next) => failure = next,
            }
            if !failure.is_ambiguous() {
                break; // it answered
            }
        }
        Err(failure)
    }

    async fn mount_at(address: IpAddr, options: &NfsOptions) -> Result<Self, Failure> {
        let caller = Caller { uid: options.uid, gid: options.gid };
        let connect = |program, port| {
            RpcConnection::connect(SocketAddr::new(address, port), program, caller, CONNECT_TIMEOUT, options.timeout)
        };
        let (port, mount_port) = match (options.port, options.mount_port) {
            (Some(port), Some(mount_port)) => (port, mount_port),
            (port, mount_port) => {
                let mapper = connect(protocol::PORT_MAPPER, protocol::PORT_MAPPER_PORT).await?;
                let found = async |known: Option<u16>, program| match known {
                    Some(port) => Ok(port),
                    None => port_of(&mapper, program).await,
                };
                (found(port, protocol::NFS).await?, found(mount_port, protocol::MOUNT).await?)
            }
        };
        let mounting = connect(protocol::MOUNT, mount_port).await?;
        let arguments = Encoder::default().opaque(options.export.as_bytes());
        let mut reply = mounting.call(protocol::MOUNT_MNT, arguments, None).await?;
        let export = match protocol::mounted(&mut reply, &options.export) {
            Err(failure) if failure.kind == BackendErrorKind::Forbidden => {
                return Err(missing_or(failure, &mounting, &options.export).await);
            }
            other => other?,
        };
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            connections.push(connect(protocol::NFS, port).await?);
        }
        let root = folder_parts(&options.folder).unwrap_or_default().into_iter().map(str::to_owned).collect();
        let mut mounted =
            Mounted { connections, next: AtomicUsize::new(0), export, root, read_bytes: 0, write_bytes: 0 };
        mounted.learn_limits().await?;
        Ok(Self(Arc::new(mounted)))
    }

    pub fn is_dead(&self) -> bool {
        self.0.connections.iter().any(RpcConnection::is_dead)
    }

    pub fn piece_bytes(&self) -> (u64, u64) {
        (self.0.read_bytes.into(), self.0.write_bytes.into())
    }

    /// The parts of a path below the location's folder, from the export on.
    fn parts<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.root.iter().map(String::as_str).chain(path.split('/').filter(|part| !part.is_empty()))
    }

    /// Finds a file or folder from the export on, so that nothing is found in what was moved away.
    pub async fn find(&self, path: &str) -> Result<(FileHandle, Attributes), Failure> {
        let mut found = (self.0.export.clone(), None);
        for part in self.parts(path) {
            found = self.look_up(&found.0, part).await?;
        }
        let (handle, attributes) = found;
        let attributes = match attributes {
            Some(attributes) => attributes,
            None => self.attributes(&handle).await?,
        };
        Ok((handle, attributes))
    }

    /// The folder that a path is in, and its last part.
    pub async fn find_parent<'a>(&self, path: &'a str) -> Result<(FileHandle, &'a str), Failure> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(parent).await?.0, name))
    }

    async fn look_up(&self, folder: &FileHandle, name: &str) -> Result<(FileHandle, Option<Attributes>), Failure> {
        let arguments = Encoder::default().opaque(folder).opaque(name.as_bytes());
        let mut reply = self.0.call(protocol::LOOKUP, arguments).await?;
        let handle = protocol::handle(&mut reply)?;
        Ok((handle, protocol::some_attributes(&mut reply)?))
    }

    async fn attributes(&self, handle: &FileHandle) -> Result<Attributes, Failure> {
        let mut reply = self.0.call(protocol::GETATTR, Encoder::default().opaque(handle)).await?;
        protocol::attributes(&mut reply)
    }

    /// Makes the location's own folder and its parents.
    pub async fn make_root(&self) -> Result<(), Failure> {
        let mut folder = self.0.export.clone();
        for part in &self.0.root {
            folder = match self.look_up(&folder, part).await {
                Err(failure) if failure.code == protocol::NOENT => {
                    self.make_folder(&folder, part).await?;
                    self.look_up(&folder, part).await?.0
                }
                other => other?.0,
            };
        }
        Ok(())
    }

    /// One that is there already is fine.
    pub async fn make_folder(&self, parent: &FileHandle, name: &str) -> Result<(), Failure> {
        let arguments = Encoder::default().opaque(parent).opaque(name.as_bytes());
        match self.0.call(protocol::MKDIR, protocol::with_mode(arguments, FOLDER_MODE)).await {
            Err(failure) if failure.kind == BackendErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }

    pub async fn create(&self, parent: &FileHandle, name: &str) -> Result<(FileHandle, Attributes), Failure> {
        let arguments = Encoder::default().opaque(parent).opaque(name.as_bytes()).u32(protocol::GUARDED);
        let mut reply = self.0.call(protocol::CREATE, protocol::with_mode(arguments, FILE_MODE)).await?;
        let handle = protocol::some_handle(&mut reply)?;
        let attributes = protocol::some_attributes(&mut reply)?;
        let (handle, attributes) = match (handle, attributes) {
            (Some(handle), attributes) => (handle, attributes),
            (None, _) => self.look_up(parent, name).await?,
        };
        let attributes = match attributes {
            Some(attributes) => attributes,
            None => self.attributes(&handle).await?,
        };
        Ok((handle, attributes))
    }

    /// Writes a piece; how many bytes were written, and the verifier, or `None` when they are durable already.
    pub async fn write(
        &self,
        file: &FileHandle,
        offset: u64,
        data: Bytes,
    ) -> Result<(usize, Option<WriteVerifier>), Failure> {
        let length = data.len() as u32;
        let arguments = Encoder::default().opaque(file).u64(offset).u32(length).u32(protocol::UNSTABLE).u32(length);
        let mut reply = self.0.call_with(protocol::WRITE, arguments, Some(data)).await?;
        protocol::skip_change(&mut reply)?;
        let count = reply.u32()? as usize;
        let is_durable = reply.u32()? == protocol::FILE_SYNC;
        let verifier = protocol::verifier(&mut reply)?;
        Ok((count, (!is_durable).then_some(verifier)))
    }

    pub async fn commit(&self, file: &FileHandle) -> Result<WriteVerifier, Failure> {
        let mut reply = self.0.call(protocol::COMMIT, Encoder::default().opaque(file).u64(0).u32(0)).await?;
        protocol::skip_change(&mut reply)?;
        protocol::verifier(&mut reply)
    }

    /// Bytes from `offset` on, up to `length`, and whether the file ends there.
    pub async fn read(&self, file: &FileHandle, offset: u64, length: u32) -> Result<(Bytes, bool), Failure> {
        let arguments = Encoder::default().opaque(file).u64(offset).u32(length);
        let mut reply = self.0.call(protocol::READ, arguments).await?;
        protocol::some_attributes(&mut reply)?;
        reply.u32()?;
        let is_end = reply.bool()?;
        Ok((reply.opaque(length as usize)?, is_end))
    }

    /// Gives a file one more name; never replaces one.
    pub async fn link(&self, file: &FileHandle, parent: &FileHandle, name: &str) -> Result<(), Failure> {
        let arguments = Encoder::default().opaque(file).opaque(parent).opaque(name.as_bytes());
        self.0.call(protocol::LINK, arguments).await.map(drop)
    }

    pub async fn remove(&self, parent: &FileHandle, name: &str) -> Result<(), Failure> {
        let arguments = Encoder::default().opaque(parent).opaque(name.as_bytes());
        self.0.call(protocol::REMOVE, arguments).await.map(drop)
    }

    /// Entries of a folder from a place in it on; (0, zeros) is its start.
    pub async fn entries(&self, folder: &FileHandle, (cookie, verifier): (u64, [u8; 8])) -> Result<Page, Failure> {
        let arguments = Encoder::default().opaque(folder).u64(cookie).fixed(&verifier);
        let mut reply = self.0.call(protocol::READDIRPLUS, arguments.u32(LIST_NAME_BYTES).u32(LIST_BYTES)).await?;
        protocol::some_attributes(&mut reply)?;
        let verifier = protocol::verifier(&mut reply)?;
        let (mut entries, mut last) = (Vec::new(), cookie);
        while reply.bool()? {
            reply.skip(8)?; // file id
            let name = reply.opaque(protocol::NAME_BYTES_MAX)?;
            last = reply.u64()?;
            let attributes = protocol::some_attributes(&mut reply)?;
            protocol::some_handle(&mut reply)?;
            // A name that is no text is no object's.
            if let Ok(name) = String::from_utf8(name.to_vec()) {
                entries.push(FolderEntry { name, attributes });
            }
        }
        let is_last = reply.bool()?;
        if !is_last && last == cookie {
            return Err(unusable("the server's list does not end"));
        }
        Ok(Page { entries, next: (!is_last).then_some((last, verifier)) })
    }
}

impl Mounted {
    async fn call(&self, procedure: u32, arguments: Encoder) -> Result<Decoder, Failure> {
        self.call_with(procedure, arguments, None).await
    }

    async fn call_with(&self, procedure: u32, arguments: Encoder, data: Option<Bytes>) -> Result<Decoder, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let connection = self.connections.get(number).ok_or_else(|| unusable("there is no connection"))?;
        let mut reply = connection.call(procedure, arguments, data).await?;
        protocol::check(&mut reply)?;
        Ok(reply)
    }

    async fn learn_limits(&mut self) -> Result<(), Failure> {
        let mut reply = self.call(protocol::FSINFO, Encoder::default().opaque(&self.export)).await?;
        protocol::some_attributes(&mut reply)?;
        let read_most = reply.u32()?;
        reply.skip(8)?; // preferred size and multiple
        let write_most = reply.u32()?;
        reply.skip(28)?; // preferred size and multiple, folder size, largest file, grain of its clock
        if reply.u32()? & protocol::HAS_LINKS == 0 {
            let text = "the export's file system has no hard links, which are needed to store without replacing";
            return Err(Failure::new(BackendErrorKind::Unsuitable, text));
        }
        let bounded = |most: u32| most.clamp(PIECE_BYTES_MIN, PIECE_BYTES);
        (self.read_bytes, self.write_bytes) = (bounded(read_most), bounded(write_most));
        Ok(())
    }
}

async fn port_of(mapper: &RpcConnection, (program, version): (u32, u32)) -> Result<u16, Failure> {
    let arguments = Encoder::default().u32(program).u32(version).u32(protocol::TCP).u32(0);
    let port = mapper.call(protocol::PORT_MAPPER_GETPORT, arguments, None).await?.u32()?;
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Failure::new(BackendErrorKind::Unreachable, "the server has no NFS version 3 over TCP")),
    }
}

/// Some servers say of an export that is not there that it may not be used: their list tells.
async fn missing_or(refusal: Failure, mounting: &RpcConnection, export: &str) -> Failure {
    let Ok(mut list) = mounting.call(protocol::MOUNT_EXPORT, Encoder::default(), None).await else { return refusal };
    match protocol::is_exported(&mut list, export) {
        Ok(false) => Failure::new(BackendErrorKind::NoLocation, format!("the server exports no {export}")),
        _ => refusal,
    }
}
