//! Stands between a client and a server whose messages have a length of four bytes before them (SMB, RPC). Passes them on,
//! as slowly as told, and does what it is told to a chosen one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::samba::PASSWORD;
use crate::smb_keys;

/// Longest message that is passed on, in bytes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes passed on at a time where the line is slow.
const SLOW_BYTES: usize = 64 << 10;

/// What happens to a chosen request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The connection is cut; the server never sees the request.
    DropBefore,
    /// The server does it, but the connection is cut before its answer.
    DropAfter,
    /// Half of it gets there, then the connection is cut.
    Half,
    /// The server does it, and half of its answer comes, then the connection is cut.
    HalfAnswer,
    /// From there on nothing is passed on, and the connection stays.
    Silence,
    /// A WRITE of NFS gets there with half its data, so that the server writes less than it was given.
    NfsShortWrite,
    /// A WRITE of SMB 2.1 gets there with half its data, signed with the session's own key.
    SmbShortWrite,
    /// The server never sees it; an answer with this status of NFS does come.
    NfsStatus(u32),
}

/// Which requests count.
pub type Matcher = fn(&[u8]) -> bool;

/// What a proxy does.
pub struct Plan {
    pub matcher: Matcher,
    /// The first one acted upon, counted from 0.
    pub at: u64,
    /// How many of them.
    pub times: u64,
    pub act: Act,
    /// The wait after each `SLOW_BYTES`, each way.
    pub slowness: Duration,
}

impl Plan {
    /// Something happens once, at the matching request numbered `at`.
    pub fn once(matcher: Matcher, at: u64, act: Act) -> Self {
        Self { matcher, at, times: 1, act, slowness: Duration::ZERO }
    }

    /// It happens at that and all later ones.
    pub fn always(matcher: Matcher, at: u64, act: Act) -> Self {
        Self { times: u64::MAX - at, ..Self::once(matcher, at, act) }
    }

    /// A slow line.
    pub fn slow(slowness: Duration) -> Self {
        Self { slowness, ..Self::once(|_| false, 0, Act::Silence) }
    }
}

/// A listening proxy.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    plan: Plan,
    server: SocketAddr,
    seen: AtomicU64,
}

impl Proxy {
    pub async fn start(server: SocketAddr, plan: Plan) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { plan, server, seen: AtomicU64::new(0) });
        let for_clients = Arc::clone(&shared);
        let accepting = async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&for_clients);
                tokio::spawn(async move { shared.pass(client).await });
            }
        };
        Self { address, shared, _task: AbortOnDropHandle::new(tokio::spawn(accepting)) }
    }

    /// Matching requests seen.
    pub fn seen(&self) -> u64 {
        self.shared.seen.load(Ordering::Acquire)
    }
}

impl Shared {
    /// Ends when either side does, or as told; both connections end with it.
    async fn pass(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let (is_answer_due, (answers, mut answered)) = (AtomicBool::new(false), mpsc::unbounded_channel());
        let of_server = answers.clone();
        let requests = async {
            let mut key = Vec::new();
            loop {
                let mut message = read_message(&mut from_client).await?;
                key = smb_keys::session_key(&message[4..], PASSWORD).unwrap_or(key);
                match self.act_upon(&message) {
                    None => {}
                    Some(Act::DropBefore) => return Ok(()),
                    Some(Act::Half) => return to_server.write_all(&message[..message.len() / 2]).await,
                    Some(Act::DropAfter | Act::HalfAnswer) => is_answer_due.store(true, Ordering::Release),
                    Some(Act::NfsShortWrite) => message = with_half_its_data(&message),
                    Some(Act::SmbShortWrite) => message = smb_keys::with_half_its_data(&message, &key),
                    Some(Act::Silence) => return std::future::pending().await,
                    Some(Act::NfsStatus(status)) => {
                        let _ = answers.send(refusal(&message, status));
                        continue;
                    }
                }
                self.send(&mut to_server, &message).await?;
            }
        };
        let reading = async {
            loop {
                let _ = of_server.send(read_message(&mut from_server).await?);
            }
        };
        let replies = async {
            loop {
                let Some(message) = answered.recv().await else { return Ok(()) };
                if is_answer_due.load(Ordering::Acquire) {
                    let half = if self.plan.act == Act::HalfAnswer { message.len() / 2 } else { 0 };
                    return to_client.write_all(&message[..half]).await;
                }
                self.send(&mut to_client, &message).await?;
            }
        };
        let ended: io::Result<()> = tokio::select! {
            ended = requests => ended,
            ended = reading => ended,
            ended = replies => ended,
        };
        drop(ended); // whatever it was, the other side sees its connection end
    }

    fn act_upon(&self, message: &[u8]) -> Option<Act> {
        let plan = &self.plan;
        if !(plan.matcher)(message.get(4..)?) {
            return None;
        }
        let number = self.seen.fetch_add(1, Ordering::AcqRel);
        (number >= plan.at && number - plan.at < plan.times).then_some(plan.act)
    }

    async fn send(&self, to: &mut (impl AsyncWriteExt + Unpin), message: &[u8]) -> io::Result<()> {
        if self.plan.slowness.is_zero() {
            return to.write_all(message).await;
        }
        for part in message.chunks(SLOW_BYTES) {
            to.write_all(part).await?;
            tokio::time::sleep(self.plan.slowness * part.len() as u32 / SLOW_BYTES as u32).await;
        }
        Ok(())
    }
}

async fn read_message(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Vec<u8>> {
    let head = reader.read_u32().await?;
    let length = (head & 0x7fff_ffff) as usize;
    assert!(length <= MESSAGE_BYTES_MAX);
    let mut message = head.to_be_bytes().to_vec();
    message.resize(4 + length, 0);
    reader.read_exact(&mut message[4..]).await?;
    Ok(message)
}

/// A reply to a call of NFS: accepted, done, with this status and no attributes.
fn refusal(call: &[u8], status: u32) -> Vec<u8> {
    let words = [1, 0, 0, 0, 0, status, 0, 0].map(u32::to_be_bytes).concat();
    let length = (4 + words.len()) as u32 | 0x8000_0000;
    [&length.to_be_bytes(), &call[4..8], &words].concat()
}

/// A call of WRITE in which the data, at its end, is half as long.
fn with_half_its_data(call: &[u8]) -> Vec<u8> {
    let word = |at: usize| u32::from_be_bytes(call[at..at + 4].try_into().unwrap()) as usize;
    let credentials = 28;
    let verifier = credentials + 8 + word(credentials + 4);
    let handle = verifier + 8 + word(verifier + 4);
    let count = handle + 4 + word(handle).next_multiple_of(4) + 8;
    let (length, data) = (count + 8, count + 12);
    let half = (word(length) / 2).next_multiple_of(4).min(word(length));
    let mut short = call[..data + half].to_vec();
    for at in [count, length] {
        short[at..at + 4].copy_from_slice(&(half as u32).to_be_bytes());
    }
    let record = (short.len() - 4) as u32 | 0x8000_0000;
    short[..4].copy_from_slice(&record.to_be_bytes());
    short
}
