//! What the self-test runs on: a private Postgres, the engine with its workers, two simulated hosts, a repository.

use super::guest::Guest;
use crate::failure::Failure;
use db::private_postgres::{PostgresOptions, PrivatePostgres};
use db::{CredentialKey, Database, DeviceId, HyperVAccess, NewDevice, Platform, RepositoryId};
use engine::{Engine, EngineConfig, HostAccess, LocationOrder, Workers};
use secrecy::SecretString;
use simulators::esxi::{DiskContent, DiskSpec, HostConfig, MachineSpec, Power, SimulatedHost};
use std::path::Path;
use std::sync::Arc;

/// The machine that is backed up.
pub const MACHINE: &str = "selftest";
/// Key of its first disk.
pub const SYSTEM_DISK: i32 = 2000;
/// Key of its second disk.
pub const DATA_DISK: i32 = 2001;
/// The system disk is larger than the guest's image by this; only there the test writes on it, so that it still boots.
pub const TAIL_BYTES: u64 = 32 << 20;
pub const DATA_DISK_BYTES: u64 = 512 << 20;
const DATA_USED_BYTES: u64 = 96 << 20;
const GENERATED_SYSTEM_BYTES: u64 = 256 << 20;
const GENERATED_SYSTEM_USED_BYTES: u64 = 64 << 20;
const PASSPHRASE: &str = "self-test passphrase";

/// Everything that runs.
pub struct Stage {
    pub db: Database,
    pub engine: Engine,
    pub source: Arc<SimulatedHost>,
    pub target: SimulatedHost,
    pub source_device: DeviceId,
    pub target_device: DeviceId,
    pub repository: RepositoryId,
    pub guest: Guest,
    workers: Workers,
    postgres: PrivatePostgres,
}

fn failed<E: std::error::Error + 'static>(what: &'static str) -> impl FnOnce(E) -> Failure {
    move |error| Failure::new(what, &error)
}

impl Stage {
    /// Sets it all up below `work`. The hosts keep a copy of every disk as it was at each snapshot: the oracle.
    pub async fn set_up(work: &Path, guest: Option<&Path>) -> Result<Self, Failure> {
        let data_dir = work.join("data");
        std::fs::create_dir_all(&data_dir).map_err(failed("No data folder could be made"))?;
        open_to_postgres(work, &data_dir)?;
        let options =
            PostgresOptions { data_dir: data_dir.clone(), path: std::env::var_os("PATH"), settings: Vec::new() };
        let postgres = PrivatePostgres::start(&options).await.map_err(failed("The private database did not start"))?;
        let key = CredentialKey::load_or_create(&data_dir).map_err(failed("No credential key could be made"))?;
        let db =
            Database::connect(&postgres.address(), key).await.map_err(failed("The database could not be opened"))?;
        let engine = Engine::new(db.clone(), EngineConfig::new(data_dir, "selftest"));
        let workers = Workers::start(&engine).await.map_err(failed("The workers did not start"))?;
        let source = start_host(work, "simulated-source", vec![machine(guest)]).await?;
        let target = start_host(work, "simulated-target", Vec::new()).await?;
        let source_device = add_device(&db, &engine, "simulated source", &source).await?;
        let target_device = add_device(&db, &engine, "simulated target", &target).await?;
        let repository = add_repository(&engine, &work.join("repository")).await?;
        let source = Arc::new(source);
        let guest = Guest::start(Arc::clone(&source));
        Ok(Self { db, engine, source, target, source_device, target_device, repository, guest, workers, postgres })
    }

    /// Stops all of it.
    pub async fn take_down(self) {
        self.guest.stop().await;
        self.workers.stop().await;
        self.db.close().await;
        if let Err(error) = self.postgres.stop().await {
            tracing::warn!(%error, "the private database did not stop");
        }
        self.target.stop().await;
        if let Some(source) = Arc::into_inner(self.source) {
            source.stop().await;
        }
    }
}

/// A temporary folder is private to its maker; the database's account must pass through it.
fn open_to_postgres(work: &Path, data_dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    for folder in [work, data_dir] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))
            .map_err(failed("The mode of the folder could not be set"))?;
    }
    Ok(())
}

fn machine(guest: Option<&Path>) -> MachineSpec {
    let mut machine = MachineSpec::new(MACHINE);
    machine.power = Power::On;
    let system = match guest {
        Some(path) => {
            let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
            DiskSpec::new(bytes + TAIL_BYTES, DiskContent::Raw(path.to_owned()))
        }
        None => DiskSpec::new(
            GENERATED_SYSTEM_BYTES + TAIL_BYTES,
            DiskContent::Generated { seed: 1, used_bytes: GENERATED_SYSTEM_USED_BYTES },
        ),
    };
    let data = DiskSpec::new(DATA_DISK_BYTES, DiskContent::Generated { seed: 2, used_bytes: DATA_USED_BYTES });
    machine.disks = vec![system, data];
    machine
}

async fn start_host(work: &Path, name: &str, machines: Vec<MachineSpec>) -> Result<SimulatedHost, Failure> {
    let mut config = HostConfig::new(name, work.join(name));
    config.machines = machines;
    config.record_snapshots = true;
    SimulatedHost::start(config).await.map_err(failed("A simulated host did not start"))
}

async fn add_device(db: &Database, engine: &Engine, name: &str, host: &SimulatedHost) -> Result<DeviceId, Failure> {
    let address = host.address();
    let access = HostAccess {
        platform: Platform::Esxi,
        host: address.ip().to_string(),
        port: address.port(),
        account: "root".to_owned(),
        password: SecretString::from("simulated"),
        certificate_sha256: Some(host.certificate_sha256()),
        hyperv: HyperVAccess::default(),
    };
    let preflight = engine.preflight(&access).await.map_err(failed("The simulated host's preflight failed"))?;
    let new = NewDevice {
        platform: access.platform,
        name: name.to_owned(),
        host: access.host,
        port: access.port,
        account: access.account,
        password: access.password,
        certificate_sha256: access.certificate_sha256,
        hyperv: access.hyperv,
        simulated: true,
        preflight,
    };
    let device = db.insert_device(&new).await.map_err(failed("The simulated host could not be added"))?;
    engine.sync_device(device).await.map_err(failed("The inventory could not be queued"))?;
    Ok(device)
}

async fn add_repository(engine: &Engine, folder: &Path) -> Result<RepositoryId, Failure> {
    let order = LocationOrder::folder("self-test", folder, SecretString::from(PASSPHRASE));
    let location = engine.create_location(order).await;
    Ok(location.map_err(failed("The repository could not be made"))?.repository_id)
}
