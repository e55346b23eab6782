//! Times and limits of the engine. Tests shorten them; nothing else in the crate holds a duration.

use db::WorkerKind;
use domain::mode::Shutdown;
use std::path::PathBuf;
use std::time::Duration;

/// How the engine runs. [`EngineConfig::new`] is what a server uses.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The server's own folder: no repository may lie in it.
    pub data_dir: PathBuf,
    /// Name of this worker in leases, without a slash. Leases of the same name that a start finds are of a life that ended.
    pub worker_name: String,
    /// A server, or a worker of one that was enrolled: that one keeps no house.
    pub worker_kind: WorkerKind,
    /// It takes the jobs of devices with one of these tags.
    pub tags: Vec<String>,
    /// And those of devices without a tag, although it has some.
    pub also_untagged: bool,
    /// What this server is called in notices; the machine's name.
    pub server_name: String,
    /// Jobs at the same time, of all kinds.
    pub slots: usize,
    /// Backups and restores of this worker at the same time, over all devices.
    pub max_transfers: u32,
    /// Disks of one machine that are copied at the same time.
    pub disks_per_job: usize,
    /// The queue is looked at so often even without a notification.
    pub poll_every: Duration,
    /// A lease is renewed so often.
    pub heartbeat_every: Duration,
    /// Without a successful renewal for so long, by the monotonic clock, the worker gives its job up by itself.
    pub heartbeat_deadline: Duration,
    /// Expired leases are looked for so often.
    pub reap_every: Duration,
    /// Due tasks are looked for so often.
    pub schedule_every: Duration,
    /// Each enabled device's inventory is read so often.
    pub inventory_every: Duration,
    /// Left-overs on hosts are looked for so often, beside after failures.
    pub reconcile_every: Duration,
    /// Each repository is compared with its rows so often: every manifest is read.
    pub index_every: Duration,
    /// Repositories that lost points give their space back so often.
    pub collect_every: Duration,
    /// All points of a repository are compared with the rules so often; those of a machine after each of its backups.
    pub retain_every: Duration,
    /// Pause before the second, third, fourth … attempt; the last one repeats.
    pub retry_pauses: Vec<Duration>,
    /// Pause before the end of a job is written down again after the database failed; grows with each try.
    pub settle_pause: Duration,
    /// Progress is written to the database so often.
    pub progress_every: Duration,
    /// While a snapshot stands, the free space of its datastores is looked at so often.
    pub room_every: Duration,
    /// An operator who cancels waits at most so long for a snapshot that is being made.
    pub cancel_grace: Duration,
    /// An intended snapshot that cannot be found may still appear for so long (the host's own task may be running).
    pub snapshot_settle: Duration,
    /// The next attempt waits so long for it before it goes on; a host refuses a second task on the machine meanwhile.
    pub appear_wait: Duration,
    /// Between two looks for it.
    pub appear_look_every: Duration,
    /// No guest gets longer to shut down, whatever its task says.
    pub shutdown_limit_max: Duration,
    /// A guest that did not shut down in its time may still do so for so long; it is switched on again then.
    pub shutdown_settle: Duration,
    /// A guest that is starting hears nothing yet: it is asked again so often.
    pub shutdown_ask_every: Duration,
    /// Pause before a machine that could not be switched on is tried again; grows with each try.
    pub power_on_pause: Duration,
    /// Notices that wait are delivered so often.
    pub notices_every: Duration,
    /// What is worth telling is looked for so often.
    pub observe_every: Duration,
    /// Pause before a notice is delivered a second, third … time; the last one repeats.
    pub notice_pauses: Vec<Duration>,
    /// At stop, jobs get so long to clean up.
    pub stop_grace: Duration,
}

impl EngineConfig {
    /// For a server. `worker_name` is the server's own, the same after a restart: the lock on its data folder keeps a
    /// second one of that name away.
    pub fn new(data_dir: impl Into<PathBuf>, worker_name: impl Into<String>) -> Self {
        let worker_name = worker_name.into();
        Self {
            data_dir: data_dir.into(),
            server_name: worker_name.clone(),
            worker_name,
            worker_kind: WorkerKind::Server,
            tags: Vec::new(),
            also_untagged: false,
            slots: 8,
            max_transfers: 4,
            disks_per_job: 2,
            poll_every: Duration::from_secs(5),
            heartbeat_every: Duration::from_secs(10),
            heartbeat_deadline: Duration::from_secs(50),
            reap_every: Duration::from_secs(10),
            schedule_every: Duration::from_secs(10),
            inventory_every: Duration::from_secs(300),
            reconcile_every: Duration::from_secs(300),
            index_every: Duration::from_secs(3600),
            collect_every: Duration::from_secs(3600),
            retain_every: Duration::from_secs(24 * 3600),
            retry_pauses: [30, 120, 480].map(Duration::from_secs).to_vec(),
            settle_pause: Duration::from_secs(1),
            progress_every: Duration::from_millis(500),
            room_every: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(5),
            snapshot_settle: Duration::from_secs(35 * 60),
            appear_wait: Duration::from_secs(30),
            appear_look_every: Duration::from_secs(1),
            shutdown_limit_max: Duration::from_secs(u64::from(Shutdown::LIMIT_MAX_MINUTES) * 60),
            shutdown_settle: Duration::from_secs(30 * 60),
            shutdown_ask_every: Duration::from_secs(10),
            power_on_pause: Duration::from_secs(5),
            notices_every: Duration::from_secs(5),
            observe_every: Duration::from_secs(60),
            notice_pauses: [30, 120, 480, 1800, 3600].map(Duration::from_secs).to_vec(),
            stop_grace: Duration::from_secs(30),
        }
    }

    /// The pause after attempt number `attempt` (the first is 1) failed.
    pub fn retry_pause(&self, attempt: u32) -> Duration {
        Self::pause(&self.retry_pauses, attempt)
    }

    /// The same for a notice that was not delivered.
    pub fn notice_pause(&self, attempt: u32) -> Duration {
        Self::pause(&self.notice_pauses, attempt)
    }

    fn pause(pauses: &[Duration], attempt: u32) -> Duration {
        let index = attempt.saturating_sub(1) as usize;
        pauses.get(index).or(pauses.last()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_the_last_one_repeats() {
        let config = EngineConfig::new("/srv/data", "server");
        let pauses: Vec<u64> = (0..6).map(|attempt| config.retry_pause(attempt).as_secs()).collect();
        assert_eq!(pauses, [30, 30, 120, 480, 480, 480]);
    }
}
