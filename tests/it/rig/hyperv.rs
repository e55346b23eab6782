//! A simulated Hyper-V host with its Samba, and what its disks held at a backup.

use super::Host;
use db::{HyperVAccess, Platform, Point, Transport};
use engine::HostAccess;
use sha2::{Digest as _, Sha256};
use simulators::hyperv::{Content, DiskSpec, GuestWrites, HostConfig, MachineSpec, SimulatedHost};
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const COMPARE_BYTES: u64 = 1 << 20;

/// A simulated host with its name, which is a computer name: at most 15 letters, digits and hyphens.
pub struct SimulatedHyperV {
    pub name: String,
    pub transport: Transport,
    host: SimulatedHost,
}

impl Deref for SimulatedHyperV {
    type Target = SimulatedHost;

    fn deref(&self) -> &SimulatedHost {
        &self.host
    }
}

impl Host for SimulatedHyperV {
    fn name(&self) -> &str {
        &self.name
    }

    fn access(&self) -> HostAccess {
        let sealed = self.transport == Transport::SealedHttp;
        let control = if sealed { self.host.http_address() } else { self.host.tls_address() };
        HostAccess {
            platform: Platform::HyperV,
            host: "127.0.0.1".to_owned(),
            port: control.port(),
            account: "Administrator".to_owned(),
            password: "simulated".into(),
            certificate_sha256: (!sealed).then(|| self.host.certificate_sha256()),
            hyperv: HyperVAccess {
                transport: self.transport,
                share_port: self.host.smb_address().expect("its drive is served").port(),
            },
        }
    }
}

impl SimulatedHyperV {
    /// Starts it with its state below `folder`. It notes what every disk holds at each checkpoint.
    pub async fn start(folder: &Path, name: &str, machines: Vec<MachineSpec>) -> Self {
        Self::with(HostConfig {
            machines,
            records_digests: true,
            ..HostConfig::new(name, folder.join("hosts").join(name))
        })
        .await
    }

    pub async fn with(mut config: HostConfig) -> Self {
        config.limits.job_delay = Duration::from_millis(20);
        let name = config.name.clone();
        let host = SimulatedHost::start(config).await.expect("a simulated host");
        Self { name, transport: Transport::default(), host }
    }

    pub async fn stop(self) {
        self.host.stop().await;
    }

    /// Reached another way.
    pub fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// SHA-256 of each disk as it is now.
    pub fn digests(&self, machine: &str) -> Vec<String> {
        let disks = self.machine(machine).expect("the machine").disks;
        disks.iter().map(|disk| self.store().digest(disk.id).expect("a digest")).collect()
    }

    /// SHA-256 of each disk at the checkpoint of the newest backup that is over, in order.
    pub fn frozen(&self, machine: &str) -> Vec<String> {
        self.recorded_digests(machine).expect("the host noted what the disks held")
    }

    /// The guest writes so much at once.
    pub fn burst(&self, machine: &str, bytes: u64) {
        self.store().guest_burst(&self.machine(machine).expect("the machine").id, bytes);
    }

    /// No machine but these; no checkpoint, no differencing file, no enumeration; and no rule of the wire was broken.
    pub fn assert_clean(&self, machines: &[&str]) {
        let mut views = self.machines();
        views.sort_by(|one, two| one.name.cmp(&two.name));
        let names: Vec<&str> = views.iter().map(|view| view.name.as_str()).collect();
        assert_eq!(names, machines, "machines of {}", self.name);
        for view in &views {
            assert!(view.snapshots.is_empty(), "{} has {:?}", view.name, view.snapshots);
            for disk in &view.disks {
                let chain = self.store().chain(disk.id).expect("a chain");
                assert_eq!(chain.len(), 1, "{} has differencing files", view.name);
            }
        }
        assert_eq!(self.open_enumerations(), 0, "enumerations of {}", self.name);
        assert!(self.crimes().is_empty(), "{:?}", self.crimes());
    }
}

/// A running machine with these disks: size and used bytes, in MiB. Its guest writes all the time, and more when it is told to.
pub fn hyperv_machine(name: &str, disks: &[(u64, u64)]) -> MachineSpec {
    let seed = name.bytes().fold(11u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let disk = |(&(size, used), number): (&(u64, u64), u64)| {
        DiskSpec::new(size * MIB, Content::Pattern { seed: seed + number, used_bytes: used * MIB })
    };
    MachineSpec {
        on: true,
        disks: disks.iter().zip(1..).map(disk).collect(),
        writes: Some(GuestWrites { bytes_per_second: 64 << 10, seed }),
        ..MachineSpec::new(name)
    }
}

/// SHA-256 of each disk of a point, read past the engine, in order.
pub async fn stored(repository: &repository::Repository, point: &Point) -> Vec<String> {
    let mut digests = Vec::new();
    for disk in &point.config.disks {
        let image = repository.open_disk(repository::PointId(point.point_id.0), disk.key).await.expect("a disk");
        let mut sum = Sha256::new();
        let mut at = 0;
        while at < image.size_bytes() {
            let length = COMPARE_BYTES.min(image.size_bytes() - at);
            sum.update(image.read_at(at, length as usize).await.expect("bytes"));
            at += length;
        }
        digests.push(sum.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")));
    }
    digests
}
