//! The seam to the drivers: which one talks to a device of which platform.
//!
//! Owns: the choice. Must never: know a protocol.
//!
//! A new platform is switched on here, and offered to operators in the console's `pages/device_wizard.rs`.

use crate::sessions::{ConnectTarget, Connector};
use async_trait::async_trait;
use db::Platform;
use hypervisor::esxi::{self, EsxiHost};
use hypervisor::hyperv::{self, HyperVHost, Transport};
use hypervisor::{FullReads, HostError, Hypervisor, tls};
use std::sync::Arc;
use std::time::Duration;

/// The add-device page waits for the certificate.
const PROBE_BUDGET: Duration = Duration::from_secs(10);
/// The hash of no certificate: where none was confirmed, none is accepted.
const NO_CERTIFICATE: [u8; 32] = [0; 32];

/// Connects with the driver of the device's platform.
pub struct Drivers;

#[async_trait]
impl Connector for Drivers {
    async fn connect(&self, target: &ConnectTarget) -> Result<Arc<dyn Hypervisor>, HostError> {
        Ok(match target.platform {
            Platform::Esxi => Arc::new(EsxiHost::connect(esxi_options(target)).await?),
            Platform::HyperV => Arc::new(HyperVHost::connect(hyperv_options(target)).await?),
        })
    }

    async fn probe_certificate(&self, host: &str, port: u16) -> Result<[u8; 32], HostError> {
        Ok(tls::probe_certificate(host, port, PROBE_BUDGET).await?.sha256)
    }
}

/// What the ESXi driver is told of a device; tests shorten its patience.
pub fn esxi_options(target: &ConnectTarget) -> esxi::ConnectOptions {
    esxi::ConnectOptions {
        host: target.host.clone(),
        port: target.port,
        account: target.account.clone(),
        password: target.password.clone(),
        certificate_sha256: target.certificate_sha256.unwrap_or(NO_CERTIFICATE),
        full_reads: full_reads(target),
        timeouts: esxi::Timeouts::default(),
    }
}

/// What the Hyper-V driver is told of a device; tests shorten its patience.
pub fn hyperv_options(target: &ConnectTarget) -> hyperv::ConnectOptions {
    hyperv::ConnectOptions {
        host: target.host.clone(),
        port: target.port,
        share_port: target.hyperv.share_port,
        account: target.account.clone(),
        password: target.password.clone(),
        certificate_sha256: target.certificate_sha256.unwrap_or(NO_CERTIFICATE),
        transport: match target.hyperv.transport {
            db::Transport::TlsNtlm => Transport::TlsNtlm,
            db::Transport::TlsBasic => Transport::TlsBasic,
            db::Transport::SealedHttp => Transport::SealedHttp,
        },
        full_reads: full_reads(target),
        timeouts: hyperv::Timeouts::default(),
    }
}

const fn full_reads(target: &ConnectTarget) -> FullReads {
    match target.full_reads {
        db::FullReads::Allocated => FullReads::AllocatedAreas,
        db::FullReads::Everything => FullReads::Everything,
    }
}
