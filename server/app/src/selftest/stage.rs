//! What the self-test runs on: a private Postgres, the engine with its workers, two simulated hosts, a repository.

use super::guest::Guest;
use super::hosts::{Hosts, Side};
use crate::failure::Failure;
use db::private_postgres::{PostgresOptions, PrivatePostgres};
use db::{CredentialKey, Database, DeviceId, NewDevice, Platform, RepositoryId};
use engine::{Engine, EngineConfig, HostAccess, LocationOrder, Workers};
use secrecy::SecretString;
use std::path::Path;
use std::sync::Arc;

const PASSPHRASE: &str = "self-test passphrase";

/// Everything that runs.
pub struct Stage {
    pub db: Database,
    pub engine: Engine,
    pub hosts: Arc<Hosts>,
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
    /// Sets it all up below `work`. The hosts keep what every disk held at each snapshot: the oracle.
    pub async fn set_up(platform: Platform, work: &Path, guest: Option<&Path>) -> Result<Self, Failure> {
        let data_dir = work.join("data");
        std::fs::create_dir_all(&data_dir).map_err(failed("No data folder could be made"))?;
        open_to_postgres(work, &data_dir)?;
        let options = PostgresOptions {
            data_dir: data_dir.clone(),
            path: std::env::var_os("PATH"),
            settings: Vec::new(),
            network: None,
        };
        let postgres = PrivatePostgres::start(&options).await.map_err(failed("The private database did not start"))?;
        let key = CredentialKey::load_or_create(&data_dir).map_err(failed("No credential key could be made"))?;
        let db =
            Database::connect(&postgres.address(), key).await.map_err(failed("The database could not be opened"))?;
        let engine = Engine::new(db.clone(), EngineConfig::new(data_dir, "selftest"));
        let workers = Workers::start(&engine).await.map_err(failed("The workers did not start"))?;
        let hosts = Hosts::start(platform, work, guest).await?;
        let source_device = add_device(&db, &engine, "simulated source", hosts.access(Side::Source)).await?;
        let target_device = add_device(&db, &engine, "simulated target", hosts.access(Side::Target)).await?;
        let repository = add_repository(&engine, &work.join("repository")).await?;
        let hosts = Arc::new(hosts);
        let guest = Guest::start(Arc::clone(&hosts));
        Ok(Self { db, engine, hosts, source_device, target_device, repository, guest, workers, postgres })
    }

    /// Stops all of it.
    pub async fn take_down(self) {
        self.guest.stop().await;
        self.workers.stop().await;
        self.db.close().await;
        if let Err(error) = self.postgres.stop().await {
            tracing::warn!(%error, "the private database did not stop");
        }
        if let Some(hosts) = Arc::into_inner(self.hosts) {
            hosts.stop().await;
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

async fn add_device(db: &Database, engine: &Engine, name: &str, access: HostAccess) -> Result<DeviceId, Failure> {
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
