//! The console's certificate: the operator's own, or a self-signed one that is made once.

use super::data_dir::DataDir;
use super::options::Options;
use crate::failure::Failure;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

const SELF_SIGNED_YEARS: i32 = 10;

/// What a TLS listener needs.
pub struct Tls {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// Made by us.
    pub self_signed: bool,
}

impl Tls {
    /// Loads the operator's files, or our own, making them first if there are none.
    pub fn load(options: &Options, data: &DataDir) -> Result<Self, Failure> {
        if let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) {
            return Self::read(certificate, key, false);
        }
        let folder = data.path().join("tls");
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
        if !(certificate.exists() && key.exists()) {
            make_self_signed(&folder, &certificate, &key)?;
        }
        Self::read(&certificate, &key, true)
    }

    fn read(certificate: &Path, key: &Path, self_signed: bool) -> Result<Self, Failure> {
        let what = format!("The certificate {} with its key {} cannot be used", certificate.display(), key.display());
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::because(&what, error.to_string()).hint("Both must be PEM files that belong to each other.")
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(|error| unusable(&error))?;
        let leaf = chain.first().ok_or_else(|| unusable(&"there is no certificate in the file"))?;
        let fingerprint = Sha256::digest(leaf).into();
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(&error))?;
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), fingerprint, self_signed })
    }
}

/// Certificate and key of the private database for workers, made once: the certificate is what an enrolled worker
/// accepts, and nothing else.
pub fn of_database(data: &DataDir) -> Result<(String, SecretString), Failure> {
    let folder = data.path().join("tls");
    let (certificate, key) = (folder.join("database.pem"), folder.join("database-key.pem"));
    if !(certificate.exists() && key.exists()) {
        make_self_signed(&folder, &certificate, &key)?;
    }
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| Failure::new(format!("{} cannot be read", path.display()), &error))
    };
    Ok((read(&certificate)?, read(&key)?.into()))
}

fn make_self_signed(folder: &Path, certificate: &Path, key: &Path) -> Result<(), Failure> {
    let what = || format!("No certificate could be made in {}", folder.display());
    let name = super::server_name();
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    // A name that is none for TLS (an underscore, say) is left out rather than fatal.
    if CertificateParams::new(vec![name.clone()]).is_ok() {
        names.push(name);
    }
    let pair = KeyPair::generate().map_err(|error| Failure::new(what(), &error))?;
    let mut params = CertificateParams::new(names).map_err(|error| Failure::new(what(), &error))?;
    params.distinguished_name.push(DnType::CommonName, "Stillframe");
    let year = i32::from(domain::Clock::now(&domain::SystemClock).to_zoned(jiff::tz::TimeZone::UTC).year());
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + SELF_SIGNED_YEARS, 1, 1);
    let made = params.self_signed(&pair).map_err(|error| Failure::new(what(), &error))?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| write_private(key, &pair.serialize_pem()))
        .and_then(|()| write_private(certificate, &made.pem()))
        .map_err(|error| Failure::new(what(), &error))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
