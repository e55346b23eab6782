//! What a repository takes from the machine it runs on: randomness, time and processors. Tests bring their own.

use domain::{Clock, SystemClock};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::faults::Planted;
use crate::index::IndexOptions;

/// Source of random bytes for keys and object ids.
pub trait Randomness: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]) -> Result<()>;
}

/// The operating system's generator. The crypto library's own gathers entropy for a tenth of a second before its first byte,
/// which would be a tenth of a small backup.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn fill(&self, bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes).map_err(|_| Error::Internal("random numbers"))
    }
}

/// Given to `Repository::init_in` and `open_in`; the plain `init` and `open` use the default.
#[derive(Clone)]
pub struct Environment {
    /// Random bytes.
    pub randomness: Arc<dyn Randomness>,
    /// Threads for hashing, compression and encryption. With none the work is done where it is asked for, in order.
    pub threads: usize,
    /// Wall-clock time, for leases.
    pub clock: Arc<dyn Clock>,
    /// Who this is, for others that wait for its leases: host and process.
    pub who: String,
    /// Where and how the index is kept.
    pub index: IndexOptions,
    #[cfg(test)]
    pub(crate) planted: Option<Planted>,
}

impl Default for Environment {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            randomness: Arc::new(SystemRandomness),
            threads,
            clock: Arc::new(SystemClock),
            who: whoami(),
            index: IndexOptions::default(),
            #[cfg(test)]
            planted: None,
        }
    }
}

impl Environment {
    /// Is that mistake made? Never in a normal build.
    #[cfg(test)]
    pub(crate) fn makes(&self, fault: Planted) -> bool {
        self.planted == Some(fault)
    }

    /// The same.
    #[cfg(not(test))]
    #[allow(clippy::unused_self)] // the same question as in tests
    pub(crate) const fn makes(&self, _: Planted) -> bool {
        false
    }
}

fn whoami() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}, process {}", std::process::id())
}

/// An array of random bytes.
pub(crate) fn random<const N: usize>(randomness: &dyn Randomness) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    randomness.fill(&mut bytes)?;
    Ok(bytes)
}
