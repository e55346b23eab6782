//! Remote procedure calls over TCP (RFC 5531): records, credentials, replies matched to calls by their number. Any
//! number of calls may be in flight on a connection. Owns deadlines and the limit on a record; knows no procedure.

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::xdr::{Decoder, Encoder};
use crate::backend::BackendErrorKind;
use crate::backend::share::{Cure, Failure, MOVEMENT_BYTES_MIN, watch};

/// Longest reply, in bytes: data of a read and some more.
const REPLY_BYTES_MAX: usize = (4 << 20) + 4096;
/// Fragments of one reply.
const FRAGMENTS_MAX: usize = 1024;
/// Longest verifier of a reply, in bytes.
const VERIFIER_BYTES_MAX: usize = 400;
/// Set in a fragment's length when it is the last of its record.
const LAST_FRAGMENT: u32 = 1 << 31;
/// RFC 5531: kinds of message, version, and credentials.
const CALL: u32 = 0;
const REPLY: u32 = 1;
const RPC_VERSION: u32 = 2;
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;
/// `auth_stat` of credentials that are too weak.
const AUTH_TOOWEAK: u32 = 5;
/// What to try when a server does not like where we come from.
pub(super) const INSECURE_HINT: &str =
    "the export may have to allow ports above 1023 (option `insecure`), this address and AUTH_SYS";

type Waiters = Arc<Mutex<HashMap<u32, oneshot::Sender<Result<Bytes, Failure>>>>>;

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// A connection to one program of a server.
pub(super) struct RpcConnection {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    waiters: Waiters,
    is_dead: Arc<AtomicBool>,
    number: AtomicU32,
    program: u32,
    version: u32,
    caller: Caller,
    patience: Duration,
    /// Bytes of replies, and of large calls.
    moved: Arc<AtomicU64>,
    _reader: AbortOnDropHandle<()>,
}

fn lost(text: impl std::fmt::Display) -> Failure {
    Failure::new(BackendErrorKind::Unreachable, format!("the connection was lost: {text}")).with_cure(Cure::Reconnect)
}

fn refused(text: impl Into<String>) -> Failure {
    Failure::new(BackendErrorKind::Other, text)
}

impl RpcConnection {
    /// Connects within `connect_patience`; a call is given up when nothing moves for `patience`.
    pub async fn connect(
        address: SocketAddr,
        (program, version): (u32, u32),
        caller: Caller,
        connect_patience: Duration,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let unreachable = |text: String| Failure::new(BackendErrorKind::Unreachable, text).with_cure(Cure::Reconnect);
        let stream = match timeout(connect_patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(format!("{address} cannot be reached: {error}"))),
            Err(_) => return Err(unreachable(format!("{address} does not answer")).with_cure(Cure::Silent)),
        };
        stream.set_nodelay(true).map_err(lost)?;
        let (reader, writer) = stream.into_split();
        let (waiters, is_dead) = (Waiters::default(), Arc::new(AtomicBool::new(false)));
        let moved = Arc::new(AtomicU64::new(0));
        let reading = read_replies(reader, Arc::clone(&moved), Arc::clone(&waiters), Arc::clone(&is_dead));
        Ok(Self {
            writer: tokio::sync::Mutex::new(writer),
            waiters,
            is_dead,
            number: AtomicU32::new(uuid::Uuid::new_v4().as_fields().0),
            program,
            version,
            caller,
            patience,
            moved,
            _reader: AbortOnDropHandle::new(tokio::spawn(reading)),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }

    /// Calls a procedure; `data` follows the arguments as opaque bytes. The reply's results.
    pub async fn call(&self, procedure: u32, arguments: Encoder, data: Option<Bytes>) -> Result<Decoder, Failure> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.waiters.lock().insert(number, sender);
        let _waiting = Waiting(&self.waiters, number);
        if self.is_dead() {
            return Err(lost("it was closed")); // after inserting: the reader empties the map after it sets the mark
        }
        let exchange = async {
            self.send(number, procedure, arguments, data).await?;
            receiver.await.unwrap_or_else(|_| Err(lost("it was closed")))
        };
        if let Some(reply) = watch(self.patience, || self.moved.load(Ordering::Relaxed), exchange).await {
            return results(reply?);
        }
        // A silent server, or one that forgot a call, is of no use for the others.
        self.is_dead.store(true, Ordering::Release);
        Err(Failure::silent(self.patience))
    }

    async fn send(&self, number: u32, procedure: u32, arguments: Encoder, data: Option<Bytes>) -> Result<(), Failure> {
        let Caller { uid, gid } = self.caller;
        let credentials = Encoder::default().u32(0).opaque(b"stillframe").u32(uid).u32(gid).u32(0).finish();
        let head = Encoder::default().u32(number).u32(CALL).u32(RPC_VERSION);
        let head = head.u32(self.program).u32(self.version).u32(procedure);
        let head = head.u32(AUTH_SYS).opaque(&credentials).u32(AUTH_NONE).u32(0).finish();
        let arguments = arguments.finish();
        let data = data.unwrap_or_default();
        let padding = data.len().next_multiple_of(4) - data.len();
        let length = head.len() + arguments.len() + data.len() + padding;
        let mut start = BytesMut::with_capacity(4 + head.len() + arguments.len());
        start.extend_from_slice(&(length as u32 | LAST_FRAGMENT).to_be_bytes());
        start.extend_from_slice(&head);
        start.extend_from_slice(&arguments);
        let mut writer = self.writer.lock().await;
        let mut sending = Sending { is_dead: &self.is_dead, done: false };
        writer.write_all(&start).await.map_err(lost)?;
        if !data.is_empty() {
            writer.write_all(&data).await.map_err(lost)?;
            writer.write_all([0; 4].get(..padding).unwrap_or_default()).await.map_err(lost)?;
        }
        sending.done = true;
        if data.len() >= MOVEMENT_BYTES_MIN {
            self.moved.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Takes a call off the list when it ends or is dropped.
struct Waiting<'a>(&'a Waiters, u32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// A record that was begun and not ended, by failure or because its call was dropped, spoils the connection.
struct Sending<'a> {
    is_dead: &'a AtomicBool,
    done: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.is_dead.store(true, Ordering::Release);
        }
    }
}

async fn read_replies(mut reader: OwnedReadHalf, moved: Arc<AtomicU64>, waiters: Waiters, is_dead: Arc<AtomicBool>) {
    let error = loop {
        let record = match read_record(&mut reader, &moved).await {
            Ok(record) => record,
            Err(error) => break error,
        };
        let Some((number, rest)) = record.split_first_chunk::<4>() else { break io::ErrorKind::InvalidData.into() };
        let (number, rest) = (u32::from_be_bytes(*number), record.slice_ref(rest));
        let waiter = waiters.lock().remove(&number);
        if let Some(waiter) = waiter {
            let _ = waiter.send(Ok(rest)); // given up on meanwhile
        }
    };
    is_dead.store(true, Ordering::Release);
    for (_, waiter) in waiters.lock().drain() {
        let _ = waiter.send(Err(lost(&error)));
    }
}

async fn read_record(reader: &mut OwnedReadHalf, moved: &AtomicU64) -> io::Result<Bytes> {
    let mut record = BytesMut::new();
    for _ in 0..FRAGMENTS_MAX {
        let head = reader.read_u32().await?;
        let length = (head & !LAST_FRAGMENT) as usize;
        if record.len() + length > REPLY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is longer than any"));
        }
        record.reserve(length);
        let mut rest = (&mut *reader).take(length as u64);
        while rest.limit() > 0 {
            let count = rest.read_buf(&mut record).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            moved.fetch_add(count as u64, Ordering::Relaxed);
        }
        if head & LAST_FRAGMENT != 0 {
            return Ok(record.freeze());
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the reply has more parts than any"))
}

/// The results of a reply, after its number.
fn results(reply: Bytes) -> Result<Decoder, Failure> {
    let mut reply = Decoder::new(reply);
    if reply.u32()? != REPLY {
        return Err(refused("the server sent a call in place of a reply"));
    }
    if reply.u32()? != 0 {
        if reply.u32()? == 0 {
            return Err(refused("the server speaks another version of RPC"));
        }
        let why = reply.u32()?;
        let weak = if why == AUTH_TOOWEAK { " as too weak" } else { "" };
        let text = format!("the server refuses the credentials{weak} (RPC auth_stat {why}): {INSECURE_HINT}");
        return Err(Failure::new(BackendErrorKind::Unauthorized, text).with_code(why));
    }
    reply.skip(4)?; // flavour of the verifier
    reply.opaque(VERIFIER_BYTES_MAX)?;
    match reply.u32()? {
        0 => Ok(reply),
        1 => Err(refused("the server has no such service")),
        2 => Err(refused("the server does not speak this version of the service")),
        why => Err(refused(format!("the server did not understand the call (RPC accept_stat {why})"))),
    }
}
