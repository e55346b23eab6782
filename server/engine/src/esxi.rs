//! The seam to the ESXi driver.

use crate::sessions::{ConnectTarget, Connector};
use async_trait::async_trait;
use hypervisor::esxi::{ConnectOptions, EsxiHost, FullReads, Timeouts};
use hypervisor::{HostError, Hypervisor, tls};
use std::sync::Arc;
use std::time::Duration;

/// The add-device page waits for the certificate.
const PROBE_BUDGET: Duration = Duration::from_secs(10);

/// Connects to ESXi hosts.
pub struct EsxiConnector;

#[async_trait]
impl Connector for EsxiConnector {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        let options = ConnectOptions {
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
        };
        Ok(Arc::new(EsxiHost::connect(options).await?))
    }

    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], HostError> {
        Ok(tls::probe_certificate(host, port, PROBE_BUDGET).await?.sha256)
    }
}
