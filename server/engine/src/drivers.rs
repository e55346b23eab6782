//! The seam to the drivers: which one talks to a device of which platform.
//!
//! Owns: the choice. Must never: know a protocol.
//!
//! A new platform is switched on here, and offered to operators in the console's `pages/device_wizard.rs`.

use crate::sessions::{ConnectTarget, Connector};
use async_trait::async_trait;
use db::Platform;
use hypervisor::esxi::{ConnectOptions, EsxiHost, FullReads, Timeouts};
use hypervisor::{ErrorKind, HostError, Hypervisor, tls};
use std::sync::Arc;
use std::time::Duration;

/// The add-device page waits for the certificate.
const PROBE_BUDGET: Duration = Duration::from_secs(10);

/// Connects with the driver of the device's platform.
pub struct Drivers;

#[async_trait]
impl Connector for Drivers {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        match target.platform {
            Platform::Esxi => Ok(Arc::new(EsxiHost::connect(esxi_options(target)).await?)),
            Platform::HyperV => Err(no_driver(target)),
        }
    }

    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], HostError> {
        Ok(tls::probe_certificate(host, port, PROBE_BUDGET).await?.sha256)
    }
}

fn esxi_options(target: &ConnectTarget) -> ConnectOptions {
    ConnectOptions {
        host: target.host.clone(),
        port: target.port,
        account: target.account.clone(),
        password: target.password.clone(),
        certificate_sha256: target.certificate_sha256,
        full_reads: match target.full_reads {
            db::FullReads::Allocated => FullReads::AllocatedAreas,
            db::FullReads::Everything => FullReads::Everything,
        },
        timeouts: Timeouts::default(),
    }
}

fn no_driver(target: &ConnectTarget) -> HostError {
    HostError {
        kind: ErrorKind::Unsupported,
        code: "host.no_driver",
        host: target.host.clone(),
        attempt: "sign in".to_owned(),
        reason: "this version has no driver for Hyper-V".to_owned(),
        hint: "Update this server.".to_owned(),
        source: None,
    }
}
