//! What a host keeps so that it can tell what changed is let go of in time. ESXi keeps nothing, so the host is its driver
//! with a ledger in between: as strict about marks as a host that has to keep them.

use crate::rig::{QuickConnector, Rig, Simulated, TaskSpec, machine};
use async_trait::async_trait;
use db::{Method, TaskId, VmId};
use domain::job::JobState;
use domain::point::{ChangeMark, PointKind};
use engine::{ConnectTarget, Connector, RealLocations};
use hypervisor::{
    DatastoreInfo, DevicePreflight, DiskReader, ErrorKind, HostError, HostSnapshot, Hypervisor, Inventory, MachineInfo,
    MachineRef, OwnSnapshot, RestoreRequest, RestoreTarget, Result, Sealed, ShutDown, Snapshot, SnapshotRef,
    SnapshotRequest, TrackingState,
};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the host keeps, and how it misbehaves.
#[derive(Default)]
struct Ledger {
    /// Tokens of the marks it keeps.
    kept: Mutex<BTreeSet<String>>,
    /// Lets go of nothing.
    refuses: AtomicBool,
    /// Letting go is asked for so often.
    asked: AtomicUsize,
    /// A folder that is no longer one after the next sealing, so that the point cannot be committed.
    takes_away: Mutex<Option<PathBuf>>,
}

impl Ledger {
    fn kept(&self) -> BTreeSet<String> {
        self.kept.lock().expect("the ledger").clone()
    }
}

struct Keeping {
    host: Arc<dyn Hypervisor>,
    ledger: Arc<Ledger>,
}

struct KeepingConnector(Arc<Ledger>);

#[async_trait]
impl Connector for KeepingConnector {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>> {
        let host = QuickConnector.connect(target).await?;
        Ok(Arc::new(Keeping { host, ledger: Arc::clone(&self.0) }))
    }

    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32]> {
        QuickConnector.probe_certificate(host, port).await
    }
}

#[async_trait]
impl Hypervisor for Keeping {
    async fn seal_snapshot(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Sealed> {
        let sealed = self.host.seal_snapshot(machine, snapshot).await?;
        self.ledger.kept.lock().expect("the ledger").extend(sealed.marks.iter().map(|mark| mark.token.clone()));
        if let Some(folder) = self.ledger.takes_away.lock().expect("the ledger").take() {
            std::fs::rename(&folder, folder.with_extension("aside")).expect("taken away");
            std::fs::write(&folder, "no folder").expect("in the way");
        }
        Ok(sealed)
    }

    async fn forget_marks(&self, _: &MachineRef, marks: &[ChangeMark]) -> Result<()> {
        self.ledger.asked.fetch_add(1, Ordering::Relaxed);
        if self.ledger.refuses.load(Ordering::Relaxed) {
            return Err(HostError {
                kind: ErrorKind::Busy,
                code: "host.interrupted",
                host: "scripted".to_owned(),
                attempt: "let go of marks".to_owned(),
                reason: "it is busy".to_owned(),
                hint: String::new(),
                source: None,
            });
        }
        let mut kept = self.ledger.kept.lock().expect("the ledger");
        for mark in marks {
            kept.remove(&mark.token);
        }
        Ok(())
    }

    async fn preflight(&self) -> Result<DevicePreflight> {
        self.host.preflight().await
    }

    async fn inventory(&self) -> Result<Inventory> {
        self.host.inventory().await
    }

    async fn datastores(&self) -> Result<Vec<DatastoreInfo>> {
        self.host.datastores().await
    }

    async fn machine(&self, machine: &MachineRef) -> Result<MachineInfo> {
        self.host.machine(machine).await
    }

    async fn enable_tracking(&self, machine: &MachineRef) -> Result<TrackingState> {
        self.host.enable_tracking(machine).await
    }

    async fn create_snapshot(&self, machine: &MachineRef, request: &SnapshotRequest) -> Result<Snapshot> {
        self.host.create_snapshot(machine, request).await
    }

    async fn remove_snapshot(&self, machine: &MachineRef, snapshot: &SnapshotRef) -> Result<()> {
        self.host.remove_snapshot(machine, snapshot).await
    }

    async fn list_own_snapshots(&self, machine: &MachineRef) -> Result<Vec<OwnSnapshot>> {
        self.host.list_own_snapshots(machine).await
    }

    async fn list_snapshots(&self, machine: &MachineRef) -> Result<Vec<HostSnapshot>> {
        self.host.list_snapshots(machine).await
    }

    async fn open_disks(&self, machine: &MachineRef, snapshot: &Snapshot) -> Result<Vec<Arc<dyn DiskReader>>> {
        self.host.open_disks(machine, snapshot).await
    }

    async fn shut_down(&self, machine: &MachineRef, patience: Duration) -> Result<ShutDown> {
        self.host.shut_down(machine, patience).await
    }

    async fn power_off(&self, machine: &MachineRef) -> Result<()> {
        self.host.power_off(machine).await
    }

    async fn power_on(&self, machine: &MachineRef) -> Result<()> {
        self.host.power_on(machine).await
    }

    async fn create_target(&self, request: &RestoreRequest) -> Result<Box<dyn RestoreTarget>> {
        self.host.create_target(request).await
    }

    async fn remove_half_made(&self, token: &str) -> Result<()> {
        self.host.remove_half_made(token).await
    }

    async fn close(&self) {
        self.host.close().await;
    }
}

/// One run; the host then keeps exactly the marks of the newest point and of the last full.
async fn run(rig: &Rig, ledger: &Ledger, task: TaskId, vm: VmId) -> PointKind {
    rig.run_one(task, JobState::Succeeded).await;
    let points = rig.points(vm).await;
    let full = points.iter().find(|point| point.kind == PointKind::Full).expect("a full");
    let needed = points[0].marks.iter().chain(&full.marks).map(|mark| mark.token.clone()).collect();
    assert_eq!(ledger.kept(), needed);
    points[0].kind
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_keeps_marks_only_for_the_newest_point_and_the_last_full() {
    let ledger = Arc::new(Ledger::default());
    let rig = Rig::with_parts(Arc::new(RealLocations), Arc::new(KeepingConnector(Arc::clone(&ledger)))).await;
    let host = Simulated::quiet(rig.folder.path(), "esx-1", vec![machine("web-01", &[(8, 4)])]).await;
    let device = rig.device(&host).await;
    let vm = rig.vm(device, "web-01").await;
    let location = rig.location().await;
    let spec = TaskSpec { machines: &[vm], full_every: 3, ..TaskSpec::default() };
    let incremental = rig.task(location, spec).await;
    let mut kinds = Vec::new();
    for _ in 0..4 {
        kinds.push(run(&rig, &ledger, incremental, vm).await);
        host.guest_burst("web-01", 1 << 18).expect("writes");
    }
    assert_eq!(kinds, [PointKind::Full, PointKind::Incremental, PointKind::Incremental, PointKind::Full]);
    // The last full is what a differential of another task asks with.
    let spec = TaskSpec { name: "differential", machines: &[vm], method: Method::Differential, ..TaskSpec::default() };
    let differential = rig.task(location, spec).await;
    assert_eq!(run(&rig, &ledger, differential, vm).await, PointKind::Differential);

    // A host that refuses costs a line in the log, and is asked again after the next backup.
    ledger.refuses.store(true, Ordering::Relaxed);
    let (before, asked) = (ledger.kept(), ledger.asked.load(Ordering::Relaxed));
    let job = rig.run_one(differential, JobState::Succeeded).await;
    let log = rig.log(&job).await;
    assert!(log.contains("could not be let go of") && log.contains("it is busy"), "{log}");
    assert!(ledger.asked.load(Ordering::Relaxed) > asked && ledger.kept().is_superset(&before));
    assert!(rig.db.open_changes(device).await.expect("changes").is_empty(), "that is nothing left behind");
    ledger.refuses.store(false, Ordering::Relaxed);
    run(&rig, &ledger, differential, vm).await;

    // A point that is not committed leaves no marks either.
    let before = ledger.kept();
    let points = rig.repository_path().join("points");
    *ledger.takes_away.lock().expect("the ledger") = Some(points.clone());
    let job = rig.run(differential).await.remove(0);
    std::fs::remove_file(&points).expect("out of the way");
    std::fs::rename(points.with_extension("aside"), &points).expect("back");
    assert_eq!(job.state, JobState::Failed, "{}", rig.log(&job).await);
    rig.db.enqueue_housekeeping(domain::job::JobKind::Reconcile, device).await.expect("queued");
    rig.settled(device).await;
    assert_eq!(ledger.kept(), before);
}
