//! Options of `stillframe serve`. The only place that reads the environment, by clap.

use clap::Args;
use secrecy::SecretString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// See the program's `--help`.
#[derive(Debug, Args)]
pub struct Options {
    /// Everything the server keeps: private database, keys, certificate.
    /// Without it: /var/lib/stillframe for root, else stillframe in the account's data folder.
    #[arg(long, env = "STILLFRAME_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Postgres to use instead of a private one: `postgres://account:password@host/database`.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<SecretUrl>,
    /// Let workers on other machines reach the private database: its address and port, by TLS only.
    #[arg(long, env = "STILLFRAME_WORKERS_LISTEN", conflicts_with = "database_url")]
    pub workers_listen: Option<SocketAddr>,
    /// Address and port of the console.
    #[arg(long, env = "STILLFRAME_LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Certificate chain (PEM) instead of a self-signed one.
    #[arg(long, env = "STILLFRAME_TLS_CERT", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "STILLFRAME_TLS_KEY", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve HTTP without TLS. Only on a loopback address, for a reverse proxy on this machine.
    #[arg(long, env = "STILLFRAME_PLAIN_HTTP", conflicts_with = "tls_cert")]
    pub plain_http: bool,
}

/// A connection string may hold a password.
#[derive(Debug, Clone)]
struct SecretUrl(SecretString);

impl From<String> for SecretUrl {
    fn from(text: String) -> Self {
        Self(SecretString::from(text))
    }
}

impl Options {
    /// The data folder.
    pub fn data_dir(&self) -> PathBuf {
        data_dir_or_default(self.data_dir.as_ref())
    }

    /// The database, if it is not a private one.
    pub fn database_url(&self) -> Option<SecretString> {
        self.database_url.as_ref().map(|url| url.0.clone())
    }
}

/// The folder named, or the account's own.
pub fn data_dir_or_default(named: Option<&PathBuf>) -> PathBuf {
    if let Some(folder) = named {
        return folder.clone();
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/stillframe");
    }
    let home = std::env::home_dir().unwrap_or_else(|| PathBuf::from("."));
    home.join(".local/share/stillframe")
}
