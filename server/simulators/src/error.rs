//! What can go wrong in starting or driving a simulated host.

use std::path::PathBuf;

/// Why a simulated host could not do what its owner asked. Protocol faults go to the client instead.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A file or folder below the state folder failed.
    #[error("simulated host: {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    /// Another simulated host runs on the same state folder.
    #[error("simulated host: another one uses the folder {}", path.display())]
    InUse { path: PathBuf },
    /// The listening socket failed.
    #[error("simulated host: cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    /// The certificate could not be made or loaded.
    #[error("simulated host: certificate: {reason}")]
    Certificate { reason: String },
    /// A saved state does not parse.
    #[error("simulated host: saved state {} is damaged", path.display())]
    State { path: PathBuf, source: serde_json::Error },
    /// A program that the host needs is missing or failed.
    #[error("simulated host: {program}: {reason}")]
    Program { program: &'static str, reason: String },
    /// The configuration asks for something impossible.
    #[error("simulated host: {reason}")]
    Config { reason: String },
    /// No machine of that name, or no such disk of it.
    #[error("simulated host: no machine or disk called {name}")]
    Unknown { name: String },
    /// The host's own rules refused the operation, as they would refuse a client.
    #[error("simulated host: {operation} of {machine} refused: {reason}")]
    Refused { operation: &'static str, machine: String, reason: String },
}

impl SimulatorError {
    /// Wraps an I/O error with what was being done to which file.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
