//! The definition of a machine to import. Every type is written by one function, in the schema's order.

use super::xml::{MoRef, Xml};
use crate::RestoreRequest;
use domain::machine::{Controller, ControllerKind, DiskConfig, Firmware, NetworkAdapter};

/// Where the token of a restore is written.
pub(super) const TOKEN_KEY: &str = "stillframe.restore";
/// Longest name of a machine that vSphere takes.
pub(super) const MAX_NAME_CHARS: usize = 80;

/// Newest hardware version per API version, newest first.
const HARDWARE_VERSIONS: [(&str, u32); 9] = [
    ("8.0.2", 21),
    ("8.0", 20),
    ("7.0.2", 19),
    ("7.0.1", 18),
    ("7.0", 17),
    ("6.7.2", 15),
    ("6.7", 14),
    ("6.5", 13),
    ("6.0", 11),
];
/// For machines whose version is not known.
const DEFAULT_HARDWARE: u32 = 11;
/// `bootOptions.efiSecureBootEnabled` and NVMe controllers came with 6.5.
const SECURE_BOOT_SINCE: (u32, u32) = (6, 5);

/// What the target host adds to a request.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    /// API version as the host writes it.
    pub api_version: &'a str,
    pub version: (u32, u32),
    /// Names of the host's networks.
    pub networks: &'a [String],
}

/// `VirtualMachineImportSpec`.
pub(super) fn import_spec(xml: &mut Xml, request: &RestoreRequest, place: &Place<'_>) {
    xml.typed("spec", "VirtualMachineImportSpec", |spec| {
        spec.group("configSpec", |config| config_spec(config, request, place));
    });
}

fn config_spec(xml: &mut Xml, request: &RestoreRequest, place: &Place<'_>) {
    let config = &request.config;
    let kept = |id: &Option<String>| id.clone().filter(|_| request.keep_identity);
    let datastore = format!("[{}]", request.datastore);
    xml.text("name", &request.name)
        .text("version", hardware_version(&config.hardware_version, place.api_version))
        .maybe("uuid", kept(&config.bios_uuid))
        .maybe("instanceUuid", kept(&config.instance_uuid))
        .text("guestId", if config.guest_id.is_empty() { "otherGuest64" } else { &config.guest_id })
        .text("annotation", annotation(&config.notes, &request.token))
        .group("files", |files| {
            files.text("vmPathName", &datastore);
        })
        .text("numCPUs", config.processors.max(1))
        .text("memoryMB", config.memory_mib.max(4));
    for controller in used_controllers(request) {
        add_device(xml, false, |xml| controller_device(xml, controller));
    }
    for disk in &config.disks {
        add_device(xml, true, |xml| disk_device(xml, disk, &datastore));
    }
    for adapter in &config.adapters {
        add_device(xml, false, |xml| adapter_device(xml, adapter, request, place));
    }
    xml.group("extraConfig", |option| {
        option.text("key", TOKEN_KEY).any_string("value", &request.token);
    });
    if config.firmware == Firmware::Efi && config.secure_boot && place.version >= SECURE_BOOT_SINCE {
        xml.group("bootOptions", |boot| {
            boot.text("efiSecureBootEnabled", true);
        });
    }
    xml.text("changeTrackingEnabled", true);
    xml.text("firmware", if config.firmware == Firmware::Efi { "efi" } else { "bios" });
}

/// IDE controllers exist in every machine; others only when they are asked for.
fn used_controllers(request: &RestoreRequest) -> impl Iterator<Item = &Controller> {
    let config = &request.config;
    config.controllers.iter().filter(|controller| {
        controller.kind != ControllerKind::Ide || config.disks.iter().any(|disk| disk.controller_key == controller.key)
    })
}

fn add_device(xml: &mut Xml, creates_file: bool, device: impl FnOnce(&mut Xml)) {
    xml.group("deviceChange", |change| {
        change.text("operation", "add").maybe("fileOperation", creates_file.then_some("create"));
        device(change);
    });
}

fn controller_device(xml: &mut Xml, controller: &Controller) {
    let (kind, is_scsi) = match controller.kind {
        ControllerKind::ParavirtualScsi => ("ParaVirtualSCSIController", true),
        ControllerKind::LsiLogic => ("VirtualLsiLogicController", true),
        // Guests of the other platform have no paravirtual driver of this one, but this one everywhere.
        ControllerKind::LsiLogicSas | ControllerKind::HyperVScsi => ("VirtualLsiLogicSASController", true),
        ControllerKind::BusLogic => ("VirtualBusLogicController", true),
        ControllerKind::Sata => ("VirtualAHCIController", false),
        ControllerKind::Nvme => ("VirtualNVMEController", false),
        ControllerKind::Ide => ("VirtualIDEController", false),
    };
    xml.typed("device", kind, |device| {
        device.text("key", controller.key).text("busNumber", controller.bus);
        device.maybe("sharedBus", is_scsi.then_some("noSharing"));
    });
}

fn disk_device(xml: &mut Xml, disk: &DiskConfig, datastore: &str) {
    xml.typed("device", "VirtualDisk", |device| {
        device.text("key", disk.key).typed("backing", "VirtualDiskFlatVer2BackingInfo", |backing| {
            backing.text("fileName", datastore).text("diskMode", "persistent").text("thinProvisioned", true);
        });
        device
            .text("controllerKey", disk.controller_key)
            .text("unitNumber", disk.unit)
            .text("capacityInKB", disk.capacity_bytes.div_ceil(1024))
            .text("capacityInBytes", disk.capacity_bytes);
    });
}

fn adapter_device(xml: &mut Xml, adapter: &NetworkAdapter, request: &RestoreRequest, place: &Place<'_>) {
    let model = match adapter.model.as_str() {
        "VirtualVmxnet3" => "VirtualVmxnet3",
        "VirtualE1000e" => "VirtualE1000e",
        "VirtualPCNet32" => "VirtualPCNet32",
        "VirtualVmxnet2" => "VirtualVmxnet2",
        // The one every guest has a driver for.
        _ => "VirtualE1000",
    };
    let Some(network) = network_for(adapter, request, place.networks) else { return };
    let mac = adapter.mac.as_ref().filter(|_| request.keep_identity);
    xml.typed("device", model, |device| {
        device.text("key", adapter.key).typed("backing", "VirtualEthernetCardNetworkBackingInfo", |backing| {
            backing.text("deviceName", network);
        });
        device.group("connectable", |connectable| {
            connectable
                .text("startConnected", request.connect_network && adapter.connect_at_power_on)
                .text("allowGuestControl", true)
                .text("connected", false);
        });
        device.text("addressType", if mac.is_some() { "manual" } else { "generated" }).maybe("macAddress", mac);
    });
}

/// The chosen network, or the old one where the host has it, or the host's first: an adapter needs one, and it starts
/// disconnected unless the operator said otherwise.
fn network_for<'a>(
    adapter: &'a NetworkAdapter,
    request: &'a RestoreRequest,
    networks: &'a [String],
) -> Option<&'a str> {
    let kept = networks.contains(&adapter.network).then_some(&adapter.network);
    request.network.as_ref().or(kept).or_else(|| networks.first()).map(String::as_str)
}

/// The notes, and the mark of a restore, by which a machine that was left half-made is found.
fn annotation(notes: &str, token: &str) -> String {
    let mark = token_mark(token);
    if notes.is_empty() { mark } else { format!("{notes}\n\n{mark}") }
}

pub(super) fn token_mark(token: &str) -> String {
    format!("Restored by Stillframe ({token})")
}

/// The machine's version, or the host's newest when that is older.
fn hardware_version(wanted: &str, api_version: &str) -> String {
    let number = wanted.strip_prefix("vmx-").and_then(|number| number.parse().ok()).unwrap_or(DEFAULT_HARDWARE);
    let newest = newest_hardware(api_version);
    format!("vmx-{:02}", number.min(newest))
}

fn newest_hardware(api_version: &str) -> u32 {
    let parse = |text: &str| text.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).take(3).collect::<Vec<_>>();
    let version = parse(api_version);
    if version.first().is_some_and(|major| *major > 8) {
        return u32::MAX;
    }
    let found = HARDWARE_VERSIONS.iter().find(|(since, _)| parse(since) <= version);
    found.map_or(DEFAULT_HARDWARE, |(_, hardware)| *hardware)
}

/// `ImportVApp` on a resource pool.
pub(super) fn import_vapp(
    pool: &MoRef,
    folder: &MoRef,
    request: &RestoreRequest,
    place: &Place<'_>,
) -> super::soap::Request {
    super::soap::Request::new("ImportVApp", pool, |xml| {
        import_spec(xml, request, place);
        xml.reference("folder", folder);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::machine::MachineConfig;

    fn request() -> RestoreRequest {
        RestoreRequest {
            config: MachineConfig {
                name: "old".into(),
                guest_id: "otherGuest64".into(),
                firmware: Firmware::Bios,
                secure_boot: false,
                processors: 1,
                memory_mib: 128,
                hardware_version: "vmx-19".into(),
                instance_uuid: Some("i-u".into()),
                bios_uuid: Some("b-u".into()),
                notes: String::new(),
                controllers: vec![
                    Controller { key: 200, kind: ControllerKind::Ide, bus: 0 },
                    Controller { key: 1000, kind: ControllerKind::ParavirtualScsi, bus: 0 },
                ],
                disks: vec![DiskConfig {
                    key: 2000,
                    label: "Hard disk 1".into(),
                    capacity_bytes: 8_388_608,
                    controller_key: 1000,
                    unit: 0,
                    ..DiskConfig::default()
                }],
                adapters: vec![NetworkAdapter {
                    key: 4000,
                    model: "VirtualVmxnet3".into(),
                    network: "Old".into(),
                    mac: Some("00:50:56:01:02:03".into()),
                    connect_at_power_on: true,
                    vlan: None,
                }],
                hyperv: None,
            },
            name: "r & <d>".into(),
            datastore: "ds".into(),
            network: None,
            connect_network: false,
            keep_identity: false,
            token: "t-1".into(),
        }
    }

    const PLACE: Place<'_> = Place { api_version: "6.0", version: (6, 0), networks: &[] };

    #[test]
    fn an_import_is_written_in_the_schemas_order() {
        let networks = ["VM Network".to_owned()];
        let place = Place { networks: &networks, ..PLACE };
        let built = import_vapp(&MoRef::new("ResourcePool", "P"), &MoRef::new("Folder", "F"), &request(), &place);
        let expected = concat!(
            r#"<ImportVApp xmlns="urn:vim25"><_this type="ResourcePool">P</_this><spec xsi:type="VirtualMachineImportSpec">"#,
            "<configSpec><name>r &amp; &lt;d&gt;</name><version>vmx-11</version><guestId>otherGuest64</guestId>",
            "<annotation>Restored by Stillframe (t-1)</annotation><files><vmPathName>[ds]</vmPathName></files>",
            "<numCPUs>1</numCPUs><memoryMB>128</memoryMB>",
            r#"<deviceChange><operation>add</operation><device xsi:type="ParaVirtualSCSIController"><key>1000</key>"#,
            "<busNumber>0</busNumber><sharedBus>noSharing</sharedBus></device></deviceChange>",
            "<deviceChange><operation>add</operation><fileOperation>create</fileOperation>",
            r#"<device xsi:type="VirtualDisk"><key>2000</key><backing xsi:type="VirtualDiskFlatVer2BackingInfo">"#,
            "<fileName>[ds]</fileName><diskMode>persistent</diskMode><thinProvisioned>true</thinProvisioned></backing>",
            "<controllerKey>1000</controllerKey><unitNumber>0</unitNumber><capacityInKB>8192</capacityInKB>",
            "<capacityInBytes>8388608</capacityInBytes></device></deviceChange>",
            r#"<deviceChange><operation>add</operation><device xsi:type="VirtualVmxnet3"><key>4000</key>"#,
            r#"<backing xsi:type="VirtualEthernetCardNetworkBackingInfo"><deviceName>VM Network</deviceName></backing>"#,
            "<connectable><startConnected>false</startConnected><allowGuestControl>true</allowGuestControl>",
            "<connected>false</connected></connectable><addressType>generated</addressType></device></deviceChange>",
            r#"<extraConfig><key>stillframe.restore</key><value xsi:type="xsd:string">t-1</value></extraConfig>"#,
            "<changeTrackingEnabled>true</changeTrackingEnabled><firmware>bios</firmware></configSpec></spec>",
            r#"<folder type="Folder">F</folder></ImportVApp>"#,
        );
        assert_eq!(built.element(), expected);
    }

    #[test]
    fn identity_is_kept_only_when_asked_for() {
        let text = |request: &RestoreRequest| {
            let networks = ["N".to_owned()];
            let mut xml = Xml::default();
            import_spec(&mut xml, request, &Place { networks: &networks, ..PLACE });
            xml.into_string()
        };
        let copy = text(&request());
        assert!(!copy.contains("b-u") && !copy.contains("i-u") && !copy.contains("00:50:56"));
        let kept = text(&RestoreRequest { keep_identity: true, connect_network: true, ..request() });
        assert!(kept.contains("<uuid>b-u</uuid><instanceUuid>i-u</instanceUuid>"));
        assert!(kept.contains("<addressType>manual</addressType><macAddress>00:50:56:01:02:03</macAddress>"));
        assert!(kept.contains("<startConnected>true</startConnected>"));
    }

    #[test]
    fn hardware_is_clamped_to_the_host() {
        assert_eq!(hardware_version("vmx-21", "7.0.3.0"), "vmx-19");
        assert_eq!(hardware_version("vmx-08", "8.0.2.0"), "vmx-08");
        assert_eq!(hardware_version("vmx-20", "8.0.0.1"), "vmx-20");
        assert_eq!(hardware_version("vmx-22", "9.0.0.0"), "vmx-22");
        assert_eq!(hardware_version("", "6.5"), "vmx-11");
        assert_eq!(hardware_version("vmx-13", "6.0"), "vmx-11");
    }
}
