//! From an address to a signed-in connection with a share. Owns what is asked of the server: signatures always, and
//! encryption where the options, the share or the server want it.
//!
//! The client library offers ciphers in its NEGOTIATE request but does not set the capability bit that says so
//! (`SMB2_GLOBAL_CAP_ENCRYPTION`, MS-SMB2 2.2.3), and servers then refuse encrypted shares. The bit, and the one that
//! makes signatures mandatory, are set here in the request's bytes on their way out. The keys of SMB 3.1.1 depend on a
//! hash of these bytes, so the hash is made again from what was really sent.

use secrecy::ExposeSecret;
use smb2::client::Connection;
use smb2::crypto::encryption::Cipher;
use smb2::crypto::kdf::PreauthHasher;
use smb2::msg::tree_connect::{TreeConnectRequest, TreeConnectRequestFlags, TreeConnectResponse};
use smb2::pack::{ReadCursor, Unpack};
use smb2::transport::{ReceiveProgress, TcpTransport, TransportReceive, TransportSend};
use smb2::types::flags::{Capabilities, SecurityMode, ShareFlags};
use smb2::types::status::NtStatus;
use smb2::types::{Command, Dialect, TreeId};
use smb2::{NegotiatedParams, Session as SignIn};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::SmbOptions;
use super::failure::{of_error, of_status};
use crate::backend::BackendErrorKind;
use crate::backend::share::{CEILING_FACTOR, Failure, MOVEMENT_BYTES_MIN};
use crate::location::SmbEncryption;

/// Where the NEGOTIATE request has its security mode and capabilities: after the header of 64 bytes, MS-SMB2 2.2.3.
const SECURITY_MODE_AT: usize = 68;
const CAPABILITIES_AT: usize = 72;

/// A signed-in connection.
pub(super) struct Joined {
    pub connection: Connection,
    /// Bytes sent in large requests.
    pub sent: Arc<AtomicU64>,
    pub tree: TreeId,
    pub cipher: Option<Cipher>,
    pub params: NegotiatedParams,
}

/// The first message each way, as it was on the wire.
#[derive(Default)]
struct FirstMessages {
    request: OnceLock<Vec<u8>>,
    response: OnceLock<Vec<u8>>,
}

struct Wire {
    tcp: TcpTransport,
    sent: Arc<AtomicU64>,
    first: Arc<FirstMessages>,
}

struct Sender(Arc<Wire>);
struct Receiver(Arc<Wire>);

/// Sets bits in a little-endian field; false when the message ends before it.
fn set_bits(message: &mut [u8], at: usize, bits: u32) -> bool {
    let bytes = bits.to_le_bytes();
    let Some(field) = message.get_mut(at..at + bytes.len()) else { return false };
    field.iter_mut().zip(bytes).for_each(|(byte, bits)| *byte |= bits);
    true
}

#[async_trait::async_trait]
impl TransportSend for Sender {
    async fn send(&self, data: &[u8]) -> smb2::Result<()> {
        if self.0.first.request.get().is_some() {
            self.0.tcp.send(data).await?;
            if data.len() >= MOVEMENT_BYTES_MIN {
                self.0.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            return Ok(());
        }
        let mut request = data.to_vec();
        let security = u32::from(SecurityMode::SIGNING_ENABLED | SecurityMode::SIGNING_REQUIRED);
        if !set_bits(&mut request, SECURITY_MODE_AT, security)
            || !set_bits(&mut request, CAPABILITIES_AT, Capabilities::ENCRYPTION)
        {
            return Err(smb2::Error::invalid_data("the first request is not a NEGOTIATE"));
        }
        self.0.tcp.send(self.0.first.request.get_or_init(|| request)).await
    }
}

#[async_trait::async_trait]
impl TransportReceive for Receiver {
    async fn receive(&self) -> smb2::Result<Vec<u8>> {
        let message = self.0.tcp.receive().await?;
        if self.0.first.response.get().is_none() {
            let _ = self.0.first.response.set(message.clone());
        }
        Ok(message)
    }

    fn receive_progress(&self) -> Option<Arc<ReceiveProgress>> {
        self.0.tcp.receive_progress()
    }
}

/// Connects, signs in, joins the share.
pub(super) async fn join(options: &SmbOptions) -> Result<Joined, Failure> {
    let address = if options.host.contains(':') {
        format!("[{}]:{}", options.host, options.port)
    } else {
        format!("{}:{}", options.host, options.port)
    };
    let tcp = TcpTransport::connect(address, super::CONNECT_TIMEOUT).await.map_err(of_error)?;
    let first = Arc::new(FirstMessages::default());
    let sent = Arc::new(AtomicU64::new(0));
    let wire = Arc::new(Wire { tcp, sent: Arc::clone(&sent), first: Arc::clone(&first) });
    let (sender, receiver) = (Box::new(Sender(Arc::clone(&wire))), Box::new(Receiver(wire)));
    let mut connection = Connection::from_transport(sender, receiver, options.host.clone());
    connection.set_response_timeout(Some(options.timeout));
    connection.set_send_timeout(Some(options.timeout));
    connection.set_credit_wait_timeout(options.timeout);
    connection.negotiate().await.map_err(of_error)?;
    rehash(&connection, &first)?;
    let params = connection.params().ok_or_else(|| Failure::new(BackendErrorKind::Other, "nothing was negotiated"))?;
    if params.dialect == Dialect::Smb2_0_2 {
        return Err(Failure::new(
            BackendErrorKind::Unsuitable,
            "the server speaks SMB 2.0.2 only; 2.1 or newer is needed",
        ));
    }
    let password = options.password.expose_secret();
    let session =
        SignIn::setup(&mut connection, &options.account, password, &options.domain).await.map_err(of_error)?;
    if !session.should_sign {
        return Err(Failure::new(
            BackendErrorKind::Unauthorized,
            "the server gave a guest session, which is not signed",
        ));
    }
    let mut cipher = connection.should_encrypt().then(|| cipher_of(&params)).flatten();
    if options.encryption == SmbEncryption::Required && cipher.is_none() {
        cipher = Some(encrypt(&mut connection, &session, &params)?);
    }
    let (tree, share_flags) = join_share(&connection, options).await?;
    if share_flags.contains(ShareFlags::ENCRYPT_DATA) && cipher.is_none() {
        cipher = Some(encrypt(&mut connection, &session, &params)?);
    }
    if cipher.is_some() != connection.should_encrypt() {
        return Err(Failure::new(BackendErrorKind::Other, "the session's encryption is not as agreed"));
    }
    // From here on the session itself watches for silence, as it counts on a slow line; these are the last resort.
    let ceiling = options.timeout * CEILING_FACTOR;
    connection.set_response_timeout(Some(ceiling));
    connection.set_send_timeout(Some(ceiling));
    connection.set_credit_wait_timeout(ceiling);
    Ok(Joined { connection, sent, tree, cipher, params })
}

fn rehash(connection: &Connection, first: &FirstMessages) -> Result<(), Failure> {
    let (Some(request), Some(response)) = (first.request.get(), first.response.get()) else {
        return Err(Failure::new(BackendErrorKind::Other, "nothing was negotiated"));
    };
    let mut hasher = PreauthHasher::new();
    hasher.update(request);
    hasher.update(response);
    connection.with_preauth_hasher_mut(|of_connection| *of_connection = hasher);
    Ok(())
}

/// The cipher that encrypts, or would: SMB 3.1.1 agrees on one, 3.0 has one only.
fn cipher_of(params: &NegotiatedParams) -> Option<Cipher> {
    match params.dialect {
        Dialect::Smb3_1_1 => params.cipher,
        Dialect::Smb3_0 | Dialect::Smb3_0_2 => {
            params.capabilities.contains(Capabilities::ENCRYPTION).then_some(Cipher::Aes128Ccm)
        }
        _ => None,
    }
}

fn encrypt(connection: &mut Connection, session: &SignIn, params: &NegotiatedParams) -> Result<Cipher, Failure> {
    let keys = session.encryption_key.clone().zip(session.decryption_key.clone());
    let (Some(cipher), Some((ours, theirs))) = (cipher_of(params), keys) else {
        let text = format!("encryption is required, but the server ({}) offers none", params.dialect);
        return Err(Failure::new(BackendErrorKind::Unsuitable, text));
    };
    connection.activate_encryption(ours, theirs, cipher);
    Ok(cipher)
}

async fn join_share(connection: &Connection, options: &SmbOptions) -> Result<(TreeId, ShareFlags), Failure> {
    let path = format!(r"\\{}\{}", options.host, options.share);
    let request = TreeConnectRequest { flags: TreeConnectRequestFlags::default(), path };
    let frame = connection.execute(Command::TreeConnect, &request, None).await.map_err(of_error)?;
    if frame.header.status != NtStatus::SUCCESS {
        let failure = of_status(frame.header.status);
        if failure.kind == BackendErrorKind::Forbidden {
            let text = format!("this account may not use the share, or not unencrypted ({})", frame.header.status);
            return Err(Failure::new(BackendErrorKind::Forbidden, text));
        }
        return Err(failure);
    }
    let response = TreeConnectResponse::unpack(&mut ReadCursor::new(&frame.body)).map_err(of_error)?;
    let tree = frame.header.tree_id;
    let tree = tree.ok_or_else(|| Failure::new(BackendErrorKind::Other, "the server joined no share"))?;
    Ok((tree, response.share_flags))
}
