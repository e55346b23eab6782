//! The host's self-signed certificate, made once and kept in the state folder.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha1::Digest as _;

use crate::SimulatorError;

/// Certificate and key.
pub(crate) struct Identity {
    pub config: Arc<ServerConfig>,
    pub sha256: [u8; 32],
    /// SHA-1 of the certificate as `AB:CD:…`.
    pub thumbprint: String,
}

fn bad(error: impl std::fmt::Display) -> SimulatorError {
    SimulatorError::Certificate { reason: error.to_string() }
}

impl Identity {
    /// Loads the certificate, or makes one for `localhost`, the loopback addresses and the host's name.
    pub fn load_or_make(state_dir: &Path, name: &str) -> Result<Self, SimulatorError> {
        let (cert_path, key_path) = (state_dir.join("certificate.der"), state_dir.join("certificate-key.der"));
        if !(cert_path.exists() && key_path.exists()) {
            let plain: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), plain];
            let made = rcgen::generate_simple_self_signed(names).map_err(bad)?;
            fs::write(&key_path, made.signing_key.serialize_der()).map_err(SimulatorError::file("write", &key_path))?;
            fs::write(&cert_path, made.cert.der()).map_err(SimulatorError::file("write", &cert_path))?;
        }
        let cert = fs::read(&cert_path).map_err(SimulatorError::file("read", &cert_path))?;
        let key = fs::read(&key_path).map_err(SimulatorError::file("read", &key_path))?;
        let sha256 = sha2::Sha256::digest(&cert).into();
        let sha1 = sha1::Sha1::digest(&cert);
        let thumbprint = sha1.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(bad)?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(cert)], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
            .map_err(bad)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), sha256, thumbprint })
    }
}
