//! What all simulated hosts need of the world around them: the instant, a state folder that one host owns, files that a crash
//! does not tear.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::SimulatorError;

/// How long a start waits for an earlier host on the same folder to let go.
const LOCK_WAIT: Duration = Duration::from_secs(3);

/// The instant, from the one place of this crate that reads the clock: simulated hosts live in real time.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// Makes the folder this host's own until the file is closed.
pub(crate) async fn take_lock(state_dir: &Path) -> Result<fs::File, SimulatorError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(SimulatorError::file("open", &path))?;
    let deadline = tokio::time::Instant::now() + LOCK_WAIT;
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if tokio::time::Instant::now() >= deadline {
            return Err(SimulatorError::InUse { path: state_dir.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(file)
}

/// Writes a file so that a crash leaves the old or the new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), SimulatorError> {
    let temporary = path.with_extension("json.new");
    let bytes =
        serde_json::to_vec_pretty(value).map_err(|source| SimulatorError::State { path: path.to_owned(), source })?;
    fs::write(&temporary, bytes).map_err(SimulatorError::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(SimulatorError::file("rename", path))
}
