//! The files of a Hyper-V host over SMB 3.1.1: frozen disks are read, new ones written.
//!
//! ```text
//! C:\vm\disk.vhdx  ──path──▶  share C$, vm\disk.vhdx  ──session──▶  CREATE, READ, WRITE …  ──wire, seal──▶  socket
//!       └─ frozen (disk::VirtualDisk over source) · upload (disk::VhdxWriter) ─┘
//! ```
//!
//! Owns: the session to the host's administrative shares, how long it may be silent, what happens when it is lost.
//! Must never: write to a file it has not made, send or take a message that is not signed or encrypted, change what it reads.
//! Read next: `shares` (the session), `source` (what happens when it is lost), `wire` (how bytes move).

mod failure;
mod frozen;
mod handshake;
#[cfg(test)]
mod hostile;
mod path;
mod seal;
mod session;
mod shares;
mod source;
mod upload;
mod wire;

pub use frozen::FrozenDisk;
pub use shares::{Protection, Shares};
pub use upload::DiskUpload;

use secrecy::SecretString;
use std::fmt;
use std::time::Duration;

/// Where SMB servers listen.
pub const SMB_PORT: u16 = 445;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a host, unless the options say otherwise.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a host that was lost in mid-copy is waited for, unless the options say otherwise.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(90);
/// How long a file that somebody else holds is waited for where it must go.
const HOLDER_PATIENCE: Duration = Duration::from_secs(20);
/// Pause before another try; doubled each time, up to the second.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);

/// Most bytes in one read and in one write.
const READ_BYTES_MAX: u32 = wire::PAYLOAD_BYTES_MAX;
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Bytes of one piece of a disk's stream, and how many are fetched ahead: 16 MiB a stream.
const PIECE_BYTES: usize = 1 << 20;
const PIECES_AHEAD: usize = 16;
/// Streams of one disk that are read side by side where areas are short: 64 MiB a disk if all are long.
pub const LANES: usize = 4;

/// Whose files, and who asks for them.
#[derive(Clone)]
pub struct ShareOptions {
    /// Name or address of the host.
    pub host: String,
    /// Usually [`SMB_PORT`].
    pub port: u16,
    /// `DOMAIN\name`, or a name.
    pub account: String,
    /// Password.
    pub password: SecretString,
    /// Encrypt even where the host does not ask for it.
    pub require_encryption: bool,
    /// Longest silence of the host that is waited for.
    pub patience: Duration,
    /// How long a host that was lost in mid-copy is waited for.
    pub reconnect_patience: Duration,
}

impl ShareOptions {
    /// At the usual port, encrypted when the host wants it.
    pub fn new(host: impl Into<String>, account: impl Into<String>, password: SecretString) -> Self {
        Self {
            host: host.into(),
            port: SMB_PORT,
            account: account.into(),
            password,
            require_encryption: false,
            patience: PATIENCE,
            reconnect_patience: RECONNECT_PATIENCE,
        }
    }

    /// Without the brackets of an IPv6 address.
    fn bare_host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    /// For errors.
    fn name(&self) -> String {
        match (self.port, self.bare_host()) {
            (SMB_PORT, host) => host.to_owned(),
            (port, host) if host.contains(':') => format!("[{host}]:{port}"),
            (port, host) => format!("{host}:{port}"),
        }
    }

    fn domain_and_account(&self) -> (&str, &str) {
        self.account.split_once('\\').unwrap_or(("", &self.account))
    }
}

impl fmt::Debug for ShareOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShareOptions")
            .field("host", &self.name())
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}
