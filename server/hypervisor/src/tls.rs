//! TLS to hosts: the certificate is the one the operator confirmed, or there is no connection.
//!
//! Owns: pinning, the look at a certificate before it is confirmed, the addresses that are never dialled.
//! Must never: fall back to a public root store, follow a redirect, use a proxy.

use crate::{ErrorKind, HostError, Result};
pub use domain::address::is_forbidden;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Longest subject or issuer that is kept, in characters.
const MAX_NAME_CHARS: usize = 300;
/// Errors within errors that are looked through.
const MAX_CAUSES: usize = 16;

/// The one certificate a connection accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// SHA-256 of the certificate, confirmed by the operator.
    Sha256([u8; 32]),
    /// SHA-1, as a host names it for another host behind it (`sslThumbprint` of a lease).
    Sha1([u8; 20]),
}

/// What a host's certificate says, shown before it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// SHA-256 of the DER form.
    pub sha256: [u8; 32],
    /// Subject, e.g. `CN=esxi1.example.org`. Empty when the certificate cannot be parsed.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Start of validity, seconds since 1970.
    pub not_before: i64,
    /// End of validity, seconds since 1970.
    pub not_after: i64,
}

/// The certificate was not the pinned one.
#[derive(Debug, thiserror::Error)]
#[error("the certificate has the SHA-256 fingerprint {}", hex::encode(.presented))]
struct PinMismatch {
    presented: [u8; 32],
}

/// A client configuration that accepts exactly the pinned certificate. The handshake's signature is verified; names,
/// dates and issuers are not looked at: the pin says more.
pub fn client_config(pin: Pin) -> ClientConfig {
    config_with(Arc::new(PinVerifier { pin: Some(pin), seen: Mutex::new(None), algorithms: algorithms() }))
}

/// Connects to `host:port`, shakes hands and returns the certificate it presents, without sending anything.
pub async fn probe_certificate(host: &str, port: u16, budget: Duration) -> Result<CertificateInfo> {
    let fail = |kind, reason: String, hint: &str, source| tls_error(host, port, kind, reason, hint, source);
    let stream = timeout(budget, dial(host, port)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = stream.map_err(|source| {
        let hint = "Check address and port, and that a firewall lets this server reach it.";
        fail(ErrorKind::Unreachable, "no connection".into(), hint, Some(source.into()))
    })?;
    let verifier = Arc::new(PinVerifier { pin: None, seen: Mutex::new(None), algorithms: algorithms() });
    let connector = TlsConnector::from(Arc::new(config_with(verifier.clone())));
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| fail(ErrorKind::Unreachable, "this is no host name or address".into(), "", None))?;
    let shaken = timeout(budget, connector.connect(name, stream)).await;
    let seen = verifier.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (shaken, seen) {
        (Ok(Ok(_)), Some(certificate)) => Ok(describe(&certificate)),
        (Ok(Err(error)), _) => Err(from_handshake(host, port, error)),
        (Err(_), _) => Err(fail(ErrorKind::Timeout, "the TLS handshake did not end in time".into(), "", None)),
        (Ok(Ok(_)), None) => Err(fail(ErrorKind::Tls, "the host showed no certificate".into(), "", None)),
    }
}

/// Addresses of a name that may be dialled.
pub(crate) async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    let allowed: Vec<SocketAddr> = found.iter().copied().filter(|address| !is_forbidden(address.ip())).collect();
    if allowed.is_empty() && !found.is_empty() {
        return Err(io::Error::other("the address is link-local or otherwise not allowed for a host"));
    }
    Ok(allowed)
}

/// The address filter in the place where the HTTP client resolves names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardedResolver;

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let addresses = resolve(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Sorts a failed connection by what lies underneath: another certificate, no common suite, no connection.
pub(crate) fn from_connect(host: &str, port: u16, error: reqwest::Error) -> HostError {
    if let Some(tls) = tls_cause(&error, MAX_CAUSES) {
        let (tls, text) = (tls.clone(), tls.to_string());
        return from_tls(host, port, &tls, &text, Some(error.into()));
    }
    let reason = if error.is_timeout() { "no answer in time" } else { "no connection" };
    let hint = "Check address and port, and that a firewall lets this server reach it.";
    tls_error(host, port, ErrorKind::Unreachable, reason.into(), hint, Some(error.into()))
}

/// The TLS error among the causes. An I/O error hides what it wraps from `source`, so its inside is looked at as well.
fn tls_cause<'a>(error: &'a (dyn Error + 'static), depth: usize) -> Option<&'a rustls::Error> {
    let depth = depth.checked_sub(1)?;
    let wrapped = || error.downcast_ref::<io::Error>()?.get_ref().and_then(|inner| tls_cause(inner, depth));
    let deeper = || error.source().and_then(|source| tls_cause(source, depth));
    error.downcast_ref().or_else(wrapped).or_else(deeper)
}

pub(crate) fn from_handshake(host: &str, port: u16, error: io::Error) -> HostError {
    let text = error.to_string();
    match tls_cause(&error, MAX_CAUSES).cloned() {
        Some(tls) => from_tls(host, port, &tls, &text, Some(error.into())),
        None => tls_error(host, port, ErrorKind::Tls, format!("the TLS handshake failed: {text}"), OLD_HOST, None),
    }
}

const OLD_HOST: &str = "The host may offer only outdated TLS, as early builds of ESXi 6.0 do: update it. Otherwise check that the port \
    is the one of the host's web client, or of WinRM with TLS.";

fn from_tls(
    host: &str,
    port: u16,
    tls: &rustls::Error,
    text: &str,
    source: Option<Box<dyn Error + Send + Sync>>,
) -> HostError {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) = tls
        && let Some(mismatch) = cause.downcast_ref::<PinMismatch>()
    {
        let reason = format!("{mismatch}, which is not the confirmed one");
        let hint = "If the host's certificate was renewed, compare the fingerprint on the host and confirm it again.";
        return tls_error(host, port, ErrorKind::CertificateChanged, reason, hint, None);
    }
    tls_error(host, port, ErrorKind::Tls, format!("no TLS connection: {text}"), OLD_HOST, source)
}

fn tls_error(
    host: &str,
    port: u16,
    kind: ErrorKind,
    reason: String,
    hint: &str,
    source: Option<Box<dyn Error + Send + Sync>>,
) -> HostError {
    let code = match kind {
        ErrorKind::CertificateChanged => "host.certificate_changed",
        ErrorKind::Unreachable => "host.unreachable",
        ErrorKind::Timeout => "host.timeout",
        _ => "host.tls",
    };
    let host = format!("{host}:{port}");
    HostError { kind, code, host, attempt: "connect".into(), reason, hint: hint.to_owned(), source }
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = resolve(host.trim_matches(['[', ']']), port).await?;
    TcpStream::connect(addresses.as_slice()).await
}

fn config_with(verifier: Arc<PinVerifier>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .unwrap_or_else(|_| unreachable!("the provider has suites for both versions"))
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

#[derive(Debug)]
struct PinVerifier {
    /// `None` accepts any, for the look before confirmation.
    pin: Option<Pin>,
    seen: Mutex<Option<Vec<u8>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let presented: [u8; 32] = Sha256::digest(end_entity).into();
        let accepted = match self.pin {
            Some(Pin::Sha256(pin)) => presented == pin,
            Some(Pin::Sha1(pin)) => <[u8; 20]>::from(Sha1::digest(end_entity)) == pin,
            None => {
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
                true
            }
        };
        if accepted {
            return Ok(ServerCertVerified::assertion());
        }
        let cause = OtherError(Arc::new(PinMismatch { presented }));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(cause)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn describe(der: &[u8]) -> CertificateInfo {
    let sha256 = Sha256::digest(der).into();
    let shorten = |name: String| name.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect();
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => CertificateInfo {
            sha256,
            subject: shorten(certificate.subject().to_string()),
            issuer: shorten(certificate.issuer().to_string()),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        },
        Err(_) => {
            CertificateInfo { sha256, subject: String::new(), issuer: String::new(), not_before: 0, not_after: 0 }
        }
    }
}
