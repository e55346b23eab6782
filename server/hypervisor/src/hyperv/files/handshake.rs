//! From an address to a signed-in connection. Owns what is asked of the host: SMB 3.1.1, signatures always, encryption
//! where the options, a share or the host want it.
//!
//! The protocol's crate negotiates and signs in (NTLM); then the socket is taken over by `wire`. The crate leaves the bits
//! for mandatory signatures and for encryption out of its NEGOTIATE request; they are set here on its way out, and the hash
//! that the session's keys depend on is made from what was really sent.

use super::failure::{Failure, of_error};
use super::seal::{CipherKeys, SigningKey, put};
use super::wire::{CREDIT_BYTES, SignedIn, Wire, read_message};
use super::{CONNECT_TIMEOUT, ShareOptions};
use crate::{ErrorKind, tls};
use bytes::BytesMut;
use secrecy::ExposeSecret as _;
use smb2::client::Connection;
use smb2::crypto::kdf::PreauthHasher;
use smb2::transport::{TransportReceive, TransportSend};
use smb2::types::Dialect;
use smb2::types::flags::{Capabilities, SecurityMode};
use smb2::{NegotiatedParams, Session as SignIn};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Where the NEGOTIATE request has its security mode and capabilities: after the header of 64 bytes, MS-SMB2 2.2.3.
const SECURITY_MODE_AT: usize = 68;
const CAPABILITIES_AT: usize = 72;

/// A signed-in connection, and what one message may carry.
pub(super) struct Joined {
    pub wire: Wire,
    pub read_bytes: u32,
    pub write_bytes: u32,
}

/// The socket while the protocol's crate signs in, and the first message each way.
struct Line {
    reader: Mutex<Option<OwnedReadHalf>>,
    writer: Mutex<Option<OwnedWriteHalf>>,
    request: OnceLock<Vec<u8>>,
    response: OnceLock<Vec<u8>>,
    /// Signing in is over.
    over: CancellationToken,
}

struct Sender(Arc<Line>);
struct Receiver(Arc<Line>);

#[async_trait::async_trait]
impl TransportSend for Sender {
    async fn send(&self, data: &[u8]) -> smb2::Result<()> {
        let mut message = data.to_vec();
        if self.0.request.get().is_none() {
            let security = u32::from(SecurityMode::SIGNING_ENABLED | SecurityMode::SIGNING_REQUIRED);
            set_bits(&mut message, SECURITY_MODE_AT, security);
            set_bits(&mut message, CAPABILITIES_AT, Capabilities::ENCRYPTION);
            let _ = self.0.request.set(message.clone());
        }
        let mut writer = self.0.writer.lock().await;
        let writer = writer.as_mut().ok_or(smb2::Error::Disconnected)?;
        let mut frame = (message.len() as u32).to_be_bytes().to_vec();
        frame.append(&mut message);
        Ok(writer.write_all(&frame).await?)
    }
}

#[async_trait::async_trait]
impl TransportReceive for Receiver {
    async fn receive(&self) -> smb2::Result<Vec<u8>> {
        let line = &self.0;
        let mut reader = line.reader.lock().await;
        let reader = reader.as_mut().ok_or(smb2::Error::Disconnected)?;
        let moved = AtomicU64::new(0);
        let message: BytesMut = tokio::select! {
            () = line.over.cancelled() => return Err(smb2::Error::Disconnected),
            message = read_message(reader, &moved) => message?,
        };
        let message = Vec::from(message);
        if line.response.get().is_none() {
            let _ = line.response.set(message.clone());
        }
        Ok(message)
    }
}

fn set_bits(message: &mut [u8], at: usize, bits: u32) {
    if let Some(field) = message.get(at..).and_then(<[u8]>::first_chunk::<4>) {
        let bits = u32::from_le_bytes(*field) | bits;
        put(message, at, &bits.to_le_bytes());
    }
}

/// Connects and signs in.
pub(super) async fn join(options: &ShareOptions) -> Result<Joined, Failure> {
    let socket = timeout(CONNECT_TIMEOUT, dial(options)).await;
    let socket = socket.unwrap_or_else(|_| Err(Failure::unreachable("no answer in time")))?;
    let signing_in = timeout(options.patience, sign_in(options, socket));
    signing_in.await.unwrap_or_else(|_| Err(Failure::silent(options.patience)))
}

async fn dial(options: &ShareOptions) -> Result<TcpStream, Failure> {
    let addresses = tls::resolve(options.bare_host(), options.port).await.map_err(Failure::unreachable)?;
    let mut last = Failure::unreachable("the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(socket) => {
                socket.set_nodelay(true).map_err(Failure::unreachable)?;
                return Ok(socket);
            }
            Err(error) => last = Failure::unreachable(error),
        }
    }
    Err(last)
}

async fn sign_in(options: &ShareOptions, socket: TcpStream) -> Result<Joined, Failure> {
    let (reader, writer) = socket.into_split();
    let line = Arc::new(Line {
        reader: Mutex::new(Some(reader)),
        writer: Mutex::new(Some(writer)),
        request: OnceLock::new(),
        response: OnceLock::new(),
        over: CancellationToken::new(),
    });
    let (sender, receiver) = (Box::new(Sender(line.clone())), Box::new(Receiver(line.clone())));
    let mut connection = Connection::from_transport(sender, receiver, options.bare_host());
    connection.set_keepalive(None);
    connection.set_response_timeout(Some(options.patience));
    connection.negotiate().await.map_err(of_error)?;
    rehash(&connection, &line)?;
    let params = connection.params().ok_or_else(|| Failure::protocol("nothing was negotiated"))?;
    if params.dialect != Dialect::Smb3_1_1 {
        let text =
            format!("the host speaks {} only; SMB 3.1.1 is needed (Windows Server 2016 or newer)", params.dialect);
        return Err(Failure::new(ErrorKind::Unsupported, "hyperv.smb_dialect", text));
    }
    let (domain, account) = options.domain_and_account();
    let session = SignIn::setup(&mut connection, account, options.password.expose_secret(), domain);
    let session = session.await.map_err(of_error)?;
    if !session.should_sign {
        let text = "the host gave a guest session, which is not signed";
        return Err(Failure::new(ErrorKind::Login, "hyperv.smb_login", text));
    }
    let cipher = cipher_of(&params, &session)?;
    let encrypts = session.should_encrypt || options.require_encryption;
    if encrypts && cipher.is_none() {
        let text = "encryption is required, but the host offers none";
        return Err(Failure::new(ErrorKind::Unsupported, "hyperv.smb_encryption", text));
    }
    let signing = SigningKey::new(session.signing_algorithm, &session.signing_key)?;
    let (next_id, credits) = (connection.next_message_id(), connection.credits());
    line.over.cancel();
    drop(connection);
    let (reader, writer) = (line.reader.lock().await.take(), line.writer.lock().await.take());
    let (Some(reader), Some(writer)) = (reader, writer) else { return Err(Failure::lost("while signing in")) };
    let session_id = session.session_id.0;
    let credits = credits.into();
    let signed_in = SignedIn { reader, writer, session_id, signing, cipher, encrypts, next_id, credits };
    let bytes = |most: u32, wanted: u32| {
        let has_long = params.capabilities.contains(Capabilities::LARGE_MTU);
        if has_long { most.clamp(CREDIT_BYTES, wanted) } else { CREDIT_BYTES }
    };
    Ok(Joined {
        wire: Wire::start(signed_in, options.patience),
        read_bytes: bytes(params.max_read_size, super::READ_BYTES_MAX),
        write_bytes: bytes(params.max_write_size, super::WRITE_BYTES_MAX),
    })
}

fn rehash(connection: &Connection, line: &Line) -> Result<(), Failure> {
    let (Some(request), Some(response)) = (line.request.get(), line.response.get()) else {
        return Err(Failure::protocol("nothing was negotiated"));
    };
    let mut hasher = PreauthHasher::new();
    hasher.update(request);
    hasher.update(response);
    connection.with_preauth_hasher_mut(|of_connection| *of_connection = hasher);
    Ok(())
}

/// The cipher that encrypts, or would. One that is not known is an error only where it is needed.
fn cipher_of(params: &NegotiatedParams, session: &SignIn) -> Result<Option<CipherKeys>, Failure> {
    let keys = session.encryption_key.as_ref().zip(session.decryption_key.as_ref());
    let (Some(cipher), Some((ours, theirs))) = (params.cipher, keys) else { return Ok(None) };
    match CipherKeys::new(cipher, ours, theirs, session.session_id.0) {
        Ok(keys) => Ok(Some(keys)),
        Err(failure) if session.should_encrypt => Err(failure),
        Err(_) => Ok(None),
    }
}
