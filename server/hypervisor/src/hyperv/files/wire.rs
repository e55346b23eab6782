//! Requests and their answers on a signed-in connection: many under way at once, each answer checked before it counts.
//!
//! Owns: message numbers, credits, the two tasks that hold the socket, and how long a host may be silent.
//! Must never: give out an answer that is not sealed by the session, or copy a disk's bytes more than once.
//! Next: `seal` (signatures, encryption), `session` (what is asked).

use super::failure::Failure;
use super::seal::{CipherKeys, SigningKey, TRANSFORM_BYTES, TRANSFORM_ID, put};
use bytes::{Bytes, BytesMut};
use smb2::types::Command;
use smb2::types::flags::HeaderFlags;
use smb2::types::status::NtStatus;
use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// Most bytes of a file in one message.
pub(super) const PAYLOAD_BYTES_MAX: u32 = 8 << 20;
/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX as usize + (64 << 10);
/// Bytes that one credit pays for: MS-SMB2 3.1.5.2.
pub(super) const CREDIT_BYTES: u32 = 65536;
/// Credits that are asked for, and so 64 MiB under way.
const CREDITS_WANTED: u32 = 1024;
/// Credits that are used at most, whatever the host grants.
const CREDITS_MAX: u32 = 8192;
/// Messages that wait for the socket.
const OUTBOX_MESSAGES: usize = 32;
/// A request is given up after so many times the patience, even where others move.
const CEILING_FACTOR: u32 = 6;
/// Looks at the connection during one patience.
const LOOKS: u32 = 20;
/// Bytes sent of longer messages count as movement; shorter ones vanish in the buffers before a host that is gone.
const MOVEMENT_BYTES_MIN: usize = 64 << 10;

/// Bytes of a header: MS-SMB2 2.2.1.2.
pub(super) const HEADER_BYTES: usize = 64;
const PROTOCOL_ID: [u8; 4] = [0xFE, b'S', b'M', b'B'];
/// The number of a message that answers no request.
const UNSOLICITED: u64 = u64::MAX;
/// Bytes of the length before every message.
const PREFIX_BYTES: usize = 4;

/// What signing in has brought.
pub(super) struct SignedIn {
    pub reader: OwnedReadHalf,
    pub writer: OwnedWriteHalf,
    pub session_id: u64,
    pub signing: SigningKey,
    pub cipher: Option<CipherKeys>,
    pub encrypts: bool,
    pub next_id: u64,
    pub credits: u32,
}

/// A connection. Closed when dropped.
pub(super) struct Wire {
    shared: Arc<Shared>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

struct Shared {
    session_id: u64,
    signing: SigningKey,
    cipher: Option<CipherKeys>,
    encrypts: AtomicBool,
    patience: Duration,
    outbox: mpsc::Sender<Vec<u8>>,
    credits: Semaphore,
    /// Bytes that came, and those that went in long messages.
    moved: AtomicU64,
    state: Mutex<State>,
}

struct State {
    next_id: u64,
    /// Credits on hand and those of requests under way.
    window: u32,
    waiting: HashMap<u64, Waiting>,
    dead: Option<Failure>,
}

struct Waiting {
    command: Command,
    charge: u32,
    encrypted: bool,
    answer: oneshot::Sender<Result<Reply, Failure>>,
}

/// A request without its header.
pub(super) struct Request<'a> {
    pub command: Command,
    pub tree: u32,
    pub body: &'a [u8],
    /// Follows the body.
    pub payload: &'a [u8],
    /// Most bytes of a file that may come back.
    pub answer_bytes: u32,
}

/// An answer, checked.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: NtStatus,
    pub tree: u32,
    message: Bytes,
}

impl Reply {
    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        self.message.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// A part of the message by its place from the header on, as offsets in messages count.
    pub fn part(&self, at: usize, length: usize) -> Option<Bytes> {
        let end = at.checked_add(length).filter(|&end| at >= HEADER_BYTES && end <= self.message.len())?;
        Some(self.message.slice(at..end))
    }
}

impl Wire {
    /// Takes the connection over from whoever signed in on it.
    pub fn start(signed_in: SignedIn, patience: Duration) -> Self {
        let SignedIn { reader, writer, session_id, signing, cipher, encrypts, next_id, credits } = signed_in;
        let (outbox, frames) = mpsc::channel(OUTBOX_MESSAGES);
        let credits = credits.clamp(1, CREDITS_MAX);
        let shared = Arc::new(Shared {
            session_id,
            signing,
            cipher,
            encrypts: AtomicBool::new(encrypts),
            patience,
            outbox,
            credits: Semaphore::new(credits as usize),
            moved: AtomicU64::new(0),
            state: Mutex::new(State { next_id, window: credits, waiting: HashMap::new(), dead: None }),
        });
        let reading = tokio::spawn(read_all(shared.clone(), reader));
        let writing = tokio::spawn(write_all(shared.clone(), writer, frames));
        Self { shared, _tasks: [AbortOnDropHandle::new(reading), AbortOnDropHandle::new(writing)] }
    }

    /// Nothing can be asked any more.
    pub fn is_dead(&self) -> bool {
        self.shared.state().dead.is_some()
    }

    /// Asks nothing more: the host has ended the session, though not the connection.
    pub fn end(&self, failure: &Failure) {
        self.shared.fail(failure);
    }

    /// From the next request on everything is encrypted.
    pub fn encrypt(&self) {
        self.shared.encrypts.store(true, Ordering::Relaxed);
    }

    pub fn signing_name(&self) -> &'static str {
        self.shared.signing.name()
    }

    /// The cipher, when it is in use.
    pub fn cipher_name(&self) -> Option<&'static str> {
        let cipher = self.shared.cipher.as_ref().map(CipherKeys::name);
        cipher.filter(|_| self.shared.encrypts.load(Ordering::Relaxed))
    }

    pub fn can_encrypt(&self) -> bool {
        self.shared.cipher.is_some()
    }

    /// Bytes of a file that the host's credits allow in one message now.
    pub fn payload_bytes(&self) -> u32 {
        self.shared.state().window.saturating_mul(CREDIT_BYTES).clamp(CREDIT_BYTES, PAYLOAD_BYTES_MAX)
    }

    /// Asks, and waits for the answer as long as anything moves.
    pub async fn call(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let shared = &*self.shared;
        if let Some(answer) = shared.watch(shared.exchange(request)).await {
            return answer;
        }
        let failure = Failure::silent(shared.patience);
        shared.fail(&failure);
        Err(failure)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection for all who wait and all who come.
    fn fail(&self, failure: &Failure) {
        let waiting = {
            let mut state = self.state();
            state.dead.get_or_insert_with(|| failure.clone());
            std::mem::take(&mut state.waiting)
        };
        self.credits.close();
        for waiting in waiting.into_values() {
            let _ = waiting.answer.send(Err(failure.clone()));
        }
    }

    fn cause_of_death(&self) -> Failure {
        self.state().dead.clone().unwrap_or_else(|| Failure::lost("it was closed"))
    }

    /// `None` when nothing has moved for the whole patience. Looks are counted in place of time: a machine that slept was
    /// not waiting.
    async fn watch<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        let moved = || self.moved.load(Ordering::Relaxed);
        let (mut before, mut silent_looks) = (moved(), 0);
        for _ in 0..LOOKS * CEILING_FACTOR {
            if let Ok(answer) = timeout(self.patience / LOOKS, &mut answer).await {
                return Some(answer);
            }
            let now = moved();
            silent_looks = if now == before { silent_looks + 1 } else { 0 };
            if silent_looks >= LOOKS {
                return None;
            }
            before = now;
        }
        None
    }

    async fn exchange(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let bytes = (request.payload.len() as u32).max(request.answer_bytes);
        let charge = bytes.div_ceil(CREDIT_BYTES).max(1);
        let credits = self.credits.acquire_many(charge).await.map_err(|_| self.cause_of_death())?;
        let room = self.outbox.reserve().await.map_err(|_| self.cause_of_death())?;
        let encrypted = self.encrypts.load(Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        let (id, wanted) = {
            let mut state = self.state();
            if let Some(failure) = &state.dead {
                return Err(failure.clone());
            }
            let id = state.next_id;
            state.next_id += u64::from(charge);
            state.waiting.insert(id, Waiting { command: request.command, charge, encrypted, answer });
            (id, charge + CREDITS_WANTED.saturating_sub(state.window))
        };
        credits.forget();
        let charge = (charge as u16, wanted.min(u32::from(u16::MAX)) as u16);
        match self.frame(request, id, charge, encrypted) {
            Ok(frame) => room.send(frame),
            Err(failure) => self.fail(&failure),
        }
        receiver.await.unwrap_or_else(|_| Err(self.cause_of_death()))
    }

    /// The message with all that goes before it, sealed.
    fn frame(&self, request: &Request<'_>, id: u64, charge: (u16, u16), encrypted: bool) -> Result<Vec<u8>, Failure> {
        let before = PREFIX_BYTES + if encrypted { TRANSFORM_BYTES } else { 0 };
        let length = before + HEADER_BYTES + request.body.len() + request.payload.len();
        let mut frame = Vec::with_capacity(length);
        frame.resize(before + HEADER_BYTES, 0);
        frame.extend_from_slice(request.body);
        frame.extend_from_slice(request.payload);
        put(&mut frame, 0, &((length - PREFIX_BYTES) as u32).to_be_bytes());
        let message = frame.get_mut(before..).unwrap_or_default();
        let flags = if encrypted { 0 } else { HeaderFlags::SIGNED };
        put(message, 0, &PROTOCOL_ID);
        put(message, 4, &(HEADER_BYTES as u16).to_le_bytes());
        put(message, 6, &charge.0.to_le_bytes());
        put(message, 12, &u16::from(request.command).to_le_bytes());
        put(message, 14, &charge.1.to_le_bytes());
        put(message, 16, &flags.to_le_bytes());
        put(message, 24, &id.to_le_bytes());
        put(message, 36, &request.tree.to_le_bytes());
        put(message, 40, &self.session_id.to_le_bytes());
        if encrypted {
            let cipher = self.cipher.as_ref().ok_or_else(|| Failure::protocol("no cipher was agreed"))?;
            cipher.seal(frame.get_mut(PREFIX_BYTES..).unwrap_or_default())?;
        } else {
            self.signing.sign(message)?;
        }
        Ok(frame)
    }

    /// Gives a message of the host to whom it belongs. An error ends the connection.
    fn deliver(&self, mut message: BytesMut) -> Result<(), Failure> {
        let encrypted = message.starts_with(&TRANSFORM_ID);
        if encrypted {
            let cipher =
                self.cipher.as_ref().ok_or_else(|| Failure::protocol("an encrypted message without a cipher"))?;
            cipher.open(&mut message)?;
            let _ = message.split_to(TRANSFORM_BYTES);
        }
        let head = Head::read(&message).ok_or_else(|| Failure::protocol("a message that is no answer"))?;
        if head.id == UNSOLICITED {
            return Ok(()); // breaks of locks that were never taken
        }
        if head.status == NtStatus::PENDING && head.flags & HeaderFlags::ASYNC_COMMAND != 0 {
            self.grant(head.credits, 0);
            return Ok(());
        }
        if !encrypted && !self.signing.verify(&mut message) {
            return Err(Failure::protocol("an answer without a valid signature"));
        }
        if head.next != 0 {
            return Err(Failure::protocol("several answers in one message"));
        }
        let Some(waiting) = self.state().waiting.remove(&head.id) else {
            self.grant(head.credits, 0); // to the sign-in's last request
            return Ok(());
        };
        self.grant(head.credits, waiting.charge);
        let fault = match () {
            () if waiting.command != head.command => "an answer to another request",
            () if waiting.encrypted && !encrypted => "a clear answer to an encrypted request",
            () => {
                // Whoever asked may be gone.
                let message = message.freeze();
                let _ = waiting.answer.send(Ok(Reply { status: head.status, tree: head.tree, message }));
                return Ok(());
            }
        };
        let _ = waiting.answer.send(Err(Failure::protocol(fault)));
        Err(Failure::protocol(fault))
    }

    fn grant(&self, granted: u16, spent: u32) {
        let mut state = self.state();
        state.window = state.window.saturating_sub(spent);
        let usable = u32::from(granted).min(CREDITS_MAX.saturating_sub(state.window));
        state.window += usable;
        drop(state);
        self.credits.add_permits(usable as usize);
    }
}

/// What counts of an answer's header.
struct Head {
    status: NtStatus,
    command: Command,
    credits: u16,
    flags: u32,
    next: u32,
    id: u64,
    tree: u32,
}

impl Head {
    fn read(message: &[u8]) -> Option<Self> {
        let (head, _) = message.split_first_chunk::<HEADER_BYTES>()?;
        let short = |at: usize| head.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_le_bytes(*bytes));
        let word = |at: usize| head.get(at..).and_then(<[u8]>::first_chunk).map(|bytes| u32::from_le_bytes(*bytes));
        let id = head.get(24..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_le_bytes(*bytes))?;
        let flags = word(16)?;
        if !head.starts_with(&PROTOCOL_ID) || flags & HeaderFlags::SERVER_TO_REDIR == 0 {
            return None;
        }
        let command = Command::try_from(short(12)?).ok()?;
        let status = NtStatus(word(8)?);
        Some(Self { status, command, credits: short(14)?, flags, next: word(20)?, id, tree: word(36)? })
    }
}

async fn read_all(shared: Arc<Shared>, mut socket: OwnedReadHalf) {
    loop {
        let taken = match read_message(&mut socket, &shared.moved).await {
            Ok(message) => shared.deliver(message),
            Err(error) => Err(Failure::lost(error)),
        };
        if let Err(failure) = taken {
            return shared.fail(&failure);
        }
    }
}

/// The next message, read into memory that is not touched before.
pub(super) async fn read_message(socket: &mut OwnedReadHalf, moved: &AtomicU64) -> io::Result<BytesMut> {
    let mut prefix = [0; PREFIX_BYTES];
    socket.read_exact(&mut prefix).await?;
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut message = BytesMut::with_capacity(length);
    while message.len() < length {
        let rest = length - message.len();
        let read = (&mut *socket).take(rest as u64).read_buf(&mut message).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        moved.fetch_add(read as u64, Ordering::Relaxed);
    }
    Ok(message)
}

async fn write_all(shared: Arc<Shared>, mut socket: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        let is_long = frame.len() >= MOVEMENT_BYTES_MIN;
        for part in frame.chunks(MOVEMENT_BYTES_MIN) {
            if let Err(error) = socket.write_all(part).await {
                return shared.fail(&Failure::lost(error));
            }
            if is_long {
                shared.moved.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
        }
    }
}
