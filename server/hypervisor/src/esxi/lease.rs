//! An import lease: waiting for it, keeping it alive, knowing which disk goes where.

use super::property::{bad_answer, of_object};
use super::session::Vim;
use super::soap::{CallError, Request};
use super::transport::Address;
use super::xml::{MoRef, Node};
use crate::tls::Pin;
use domain::machine::{ControllerKind, MachineConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// A lease ends after some 300 s without a sign of life.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
const READY_BUDGET: Duration = Duration::from_secs(300);
const POLL_PAUSE: Duration = Duration::from_millis(250);
const MAX_DEVICES: usize = 256;

/// Where one disk is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub disk_key: i32,
    pub url: Url,
    /// For an address other than the one we are connected to: the certificate it will show.
    pub pin: Option<Pin>,
}

/// A lease that is ready.
#[derive(Debug)]
pub(super) struct Lease {
    pub reference: MoRef,
    pub machine: MoRef,
    pub uploads: Vec<Upload>,
}

/// Waits until the lease is ready; its info is unset before.
pub(super) async fn wait_ready(
    vim: &dyn Vim,
    address: &Address,
    lease: &MoRef,
    config: &MachineConfig,
) -> Result<Lease, CallError> {
    let deadline = Instant::now() + READY_BUDGET;
    loop {
        let object = of_object(vim, lease, &["state", "info", "error"]).await?;
        match object.text("state") {
            "ready" => {
                let info =
                    object.get("info").ok_or_else(|| bad_answer(vim, "open a lease", "it is ready without info"))?;
                let machine = info.child("entity").and_then(Node::reference);
                let machine = machine.ok_or_else(|| bad_answer(vim, "open a lease", "it names no machine"))?;
                let uploads =
                    uploads(info, address, config).map_err(|reason| bad_answer(vim, "open a lease", &reason))?;
                return Ok(Lease { reference: lease.clone(), machine, uploads });
            }
            "error" => {
                let fault = object.get("error").map(super::fault::Fault::from_localized).unwrap_or_default();
                return Err(CallError::Fault(fault));
            }
            "done" => return Err(bad_answer(vim, "open a lease", "it ended before it began")),
            _ if Instant::now() >= deadline => return Err(bad_answer(vim, "open a lease", "it did not become ready")),
            _ => tokio::time::sleep(POLL_PAUSE).await,
        }
    }
}

/// Tells the host every two seconds that the import goes on, until dropped.
pub(super) struct KeepAlive(tokio::task::JoinHandle<()>);

impl KeepAlive {
    pub(super) fn start(vim: Arc<dyn Vim>, lease: MoRef, percent: Arc<AtomicU32>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let request = Request::new("HttpNfcLeaseProgress", &lease, |xml| {
                    xml.text("percent", percent.load(Ordering::Relaxed).min(100));
                });
                if let Err(error) = vim.call(request).await {
                    tracing::debug!(host = vim.host(), ?error, "the lease did not take its progress");
                }
                tokio::time::sleep(PROGRESS_EVERY).await;
            }
        }))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Kind of controller in an import key; hosts use the device's class name, in changing spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Scsi,
    Sata,
    Nvme,
    Ide,
}

fn family_of(kind: ControllerKind) -> Family {
    match kind {
        ControllerKind::Sata => Family::Sata,
        ControllerKind::Nvme => Family::Nvme,
        ControllerKind::Ide => Family::Ide,
        _ => Family::Scsi,
    }
}

/// `/name/ParaVirtualSCSIController0:0` → (SCSI, bus 0, unit 0). The name in front may hold anything.
fn parse_import_key(key: &str) -> Option<(Family, i32, i32)> {
    let last = key.rsplit('/').next()?;
    let (front, unit) = last.rsplit_once(':')?;
    let word = front.trim_end_matches(|c: char| c.is_ascii_digit());
    let bus = front.get(word.len()..)?.parse().ok()?;
    let word = word.to_ascii_lowercase();
    let families = [
        ("nvme", Family::Nvme),
        ("ahci", Family::Sata),
        ("sata", Family::Sata),
        ("ide", Family::Ide),
        ("scsi", Family::Scsi),
        ("lsi", Family::Scsi),
        ("buslogic", Family::Scsi),
    ];
    let family = families.iter().find(|(name, _)| word.contains(name)).map(|(_, family)| *family)?;
    Some((family, bus, unit.parse().ok()?))
}

/// Which URL takes which disk: by controller and slot; by order on hosts whose keys name neither.
fn uploads(info: &Node, address: &Address, config: &MachineConfig) -> Result<Vec<Upload>, String> {
    let devices: Vec<&Node> =
        info.all("deviceUrl").take(MAX_DEVICES).filter(|device| device.text_at(&["disk"]) != Some("false")).collect();
    if devices.len() != config.disks.len() {
        return Err(format!("it takes {} disks where {} are to be sent", devices.len(), config.disks.len()));
    }
    let place = |disk: &domain::machine::DiskConfig| {
        let controller = config.controllers.iter().find(|controller| controller.key == disk.controller_key)?;
        Some((family_of(controller.kind), controller.bus, disk.unit))
    };
    let keys: Vec<_> =
        devices.iter().map(|device| parse_import_key(device.text_at(&["importKey"]).unwrap_or_default())).collect();
    let by_place = keys.iter().all(Option::is_some);
    let mut found = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let device = if by_place {
            let at = keys.iter().position(|key| *key == place(disk));
            at.and_then(|at| devices.get(at))
        } else {
            devices.get(index)
        };
        let device = device.ok_or_else(|| format!("it has no address for {}", disk.label))?;
        found.push(upload(device, disk.key, address)?);
    }
    Ok(found)
}

fn upload(device: &Node, disk_key: i32, address: &Address) -> Result<Upload, String> {
    let text = device.text_at(&["url"]).unwrap_or_default();
    let is_ours = |host: &str| host == "*" || host == address.host;
    // `*` is no host name the parser takes.
    let (host, rest) = text
        .strip_prefix("https://")
        .and_then(|rest| rest.find('/').map(|at| rest.split_at(at)))
        .ok_or("its address is not https")?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if is_ours(host) || is_ours(name) {
        let base = Url::parse(&format!("https://{}:{}/", address.host, address.port)).map_err(|_| "bad address")?;
        let url = base.join(rest).map_err(|_| "its address cannot be read")?;
        if url.host_str() != base.host_str() || url.port_or_known_default() != base.port_or_known_default() {
            return Err("its address leads elsewhere".into());
        }
        return Ok(Upload { disk_key, url, pin: None });
    }
    let url = Url::parse(text).map_err(|_| "its address cannot be read")?;
    let other = url.host_str().unwrap_or_default();
    Address::new(other, url.port_or_known_default().unwrap_or(443)).map_err(|error| error.reason)?;
    let thumbprint = device.text_at(&["sslThumbprint"]).unwrap_or_default().replace(':', "");
    let pin = hex::decode(thumbprint).ok().and_then(|bytes| <[u8; 20]>::try_from(bytes).ok());
    let pin = pin.ok_or_else(|| format!("it sends us to {other} without that host's fingerprint"))?;
    Ok(Upload { disk_key, url, pin: Some(Pin::Sha1(pin)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esxi::xml::parse;
    use domain::machine::{Controller, DiskConfig, Firmware};

    fn config() -> MachineConfig {
        let disk = |key, controller_key, unit| DiskConfig {
            key,
            label: format!("Disk {key}"),
            capacity_bytes: 1024,
            controller_key,
            unit,
            thin: true,
            ..DiskConfig::default()
        };
        MachineConfig {
            name: "m".into(),
            guest_id: String::new(),
            firmware: Firmware::Bios,
            secure_boot: false,
            processors: 1,
            memory_mib: 1,
            hardware_version: String::new(),
            instance_uuid: None,
            bios_uuid: None,
            notes: String::new(),
            controllers: vec![
                Controller { key: 1000, kind: ControllerKind::LsiLogic, bus: 0 },
                Controller { key: 15000, kind: ControllerKind::Sata, bus: 0 },
            ],
            disks: vec![disk(2000, 1000, 0), disk(2001, 1000, 1), disk(16000, 15000, 0)],
            ..MachineConfig::default()
        }
    }

    fn info(devices: &[(&str, &str)]) -> Node {
        let devices: Vec<String> = devices
            .iter()
            .map(|(key, url)| {
                format!(
                    "<deviceUrl><key>k</key><importKey>{key}</importKey><url>{url}</url><disk>true</disk></deviceUrl>"
                )
            })
            .collect();
        let devices = devices.concat();
        parse(&format!("<info>{devices}<deviceUrl><url>https://*/nvram</url><disk>false</disk></deviceUrl></info>"))
            .unwrap()
    }

    #[test]
    fn disks_are_mapped_by_controller_and_slot() {
        let address = Address::new("127.0.0.1", 8443).unwrap();
        let info = info(&[
            ("/we/ird:1:2/VirtualAHCIController0:0", "https://*/nfc/a/disk-2.vmdk"),
            ("/x/VirtualLsiLogicController0:1", "https://*/nfc/a/disk-1.vmdk?x=1"),
            ("/x/VirtualLsiLogicController0:0", "https://127.0.0.1/nfc/a/disk-0.vmdk"),
        ]);
        let found = uploads(&info, &address, &config()).unwrap();
        let urls: Vec<(i32, &str)> = found.iter().map(|upload| (upload.disk_key, upload.url.as_str())).collect();
        assert_eq!(
            urls,
            [
                (2000, "https://127.0.0.1:8443/nfc/a/disk-0.vmdk"),
                (2001, "https://127.0.0.1:8443/nfc/a/disk-1.vmdk?x=1"),
                (16000, "https://127.0.0.1:8443/nfc/a/disk-2.vmdk"),
            ]
        );
        assert!(found.iter().all(|upload| upload.pin.is_none()));
    }

    #[test]
    fn keys_without_a_slot_are_taken_in_order() {
        let address = Address::new("h", 443).unwrap();
        let info = info(&[("/x/disk:0", "https://*/0"), ("/x/disk:1", "https://*/1"), ("/x/disk:2", "https://*/2")]);
        let keys: Vec<i32> =
            uploads(&info, &address, &config()).unwrap().iter().map(|upload| upload.disk_key).collect();
        assert_eq!(keys, [2000, 2001, 16000]);
    }

    #[test]
    fn leases_that_lead_elsewhere_or_lack_a_disk_are_refused() {
        let address = Address::new("h", 443).unwrap();
        let with = |first: &str| {
            uploads(
                &info(&[("/x/disk:0", first), ("/x/disk:1", "https://*/1"), ("/x/disk:2", "https://*/2")]),
                &address,
                &config(),
            )
        };
        assert!(with("https://*/0").is_ok());
        for bad in [
            "http://*/0",
            "https://169.254.169.254/0",
            "https://other/0",
            "https://*//evil/0",
            "https://*:x@evil/0",
            "",
        ] {
            let found = with(bad);
            let stays = found.as_ref().is_ok_and(|found| found.iter().all(|upload| upload.url.host_str() == Some("h")));
            assert!(found.is_err() || stays, "{bad}: {found:?}");
        }
        assert!(uploads(&info(&[("/x/disk:0", "https://*/0")]), &address, &config()).is_err());
        let twice = info(&[
            ("/x/VirtualLsiLogicController0:0", "https://*/0"),
            ("/x/VirtualLsiLogicController0:0", "https://*/1"),
            ("/x/VirtualAHCIController0:0", "https://*/2"),
        ]);
        assert!(uploads(&twice, &address, &config()).is_err());
    }
}
