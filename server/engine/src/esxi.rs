//! The seam to the ESXi driver.

use crate::sessions::{ConnectTarget, Connector};
use async_trait::async_trait;
use hypervisor::{HostError, Hypervisor};
use std::sync::Arc;

/// Connects to ESXi hosts.
pub struct EsxiConnector;

#[async_trait]
impl Connector for EsxiConnector {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        Err(not_yet(&target.host))
    }

    async fn probe_certificate(&self, host: &str, _port: u16) -> Result<[u8; 32], HostError> {
        Err(not_yet(host))
    }
}

fn not_yet(host: &str) -> HostError {
    HostError {
        kind: hypervisor::ErrorKind::Unsupported,
        code: "esxi.unsupported",
        host: host.to_owned(),
        attempt: "connecting".to_owned(),
        reason: "the driver is not built in".to_owned(),
        hint: String::new(),
        source: None,
    }
}
