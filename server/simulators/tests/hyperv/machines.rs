//! Machines are defined, changed and destroyed, as a restore does it.

use simulators::hyperv::WireRule;
use simulators::hyperv::disk;

use crate::bench::{Bench, MANAGEMENT, MIB, between, instance, machine_reference, return_value, settings_reference};

const SETTINGS: &str = "Msvm_VirtualSystemSettingData";
const RASD: &str = "Msvm_ResourceAllocationSettingData";

async fn define(bench: &Bench, name: &str, generation: u8) -> String {
    let kind = format!("Microsoft:Hyper-V:SubType:{generation}");
    let settings = instance(
        SETTINGS,
        &[
            ("ElementName", "string", name),
            ("VirtualSystemSubType", "string", &kind),
            ("Notes", "string[]", "token 42"),
            ("AutomaticStartupActionDelay", "datetime", "00000000000005.000000:000"),
        ],
    );
    let parameters = format!("<p:SystemSettings>{settings}</p:SystemSettings>");
    let answer = bench.invoke(MANAGEMENT, "DefineSystem", &parameters).await;
    bench.done(&answer).await;
    bench.id(name)
}

/// Adds one resource; its `InstanceID`, or the failed job's code.
async fn add(bench: &Bench, machine: &str, class: &str, properties: &[(&str, &str, &str)]) -> Result<String, String> {
    let configuration = settings_reference("AffectedConfiguration", machine);
    let resource = instance(class, properties);
    let parameters = format!("{configuration}<p:ResourceSettings>{resource}</p:ResourceSettings>");
    let answer = bench.invoke(MANAGEMENT, "AddResourceSettings", &parameters).await;
    let (state, code) = bench.finish(&answer).await;
    if state == "7" {
        let made = between(&answer, "<p:ResultingResourceSettings>", "</p:ResultingResourceSettings>");
        Ok(between(made, "<w:Selector Name=\"InstanceID\">", "<").to_owned())
    } else {
        Err(code)
    }
}

fn path(class: &str, id: &str) -> String {
    format!("root/virtualization/v2:{class}.InstanceID=\"{}\"", id.replace('\\', "\\\\"))
}

/// A machine with one disk and a connected adapter.
async fn restored(bench: &Bench, name: &str, file: &str) -> String {
    let machine = define(bench, name, 2).await;
    let kind = |kind: &'static str| ("ResourceSubType", "string", kind);
    let controller = [("ResourceType", "uint16", "6"), kind("Microsoft:Hyper-V:Synthetic SCSI Controller")];
    let controller = path(RASD, &add(bench, &machine, RASD, &controller).await.unwrap());
    let drive = [
        ("ResourceType", "uint16", "17"),
        kind("Microsoft:Hyper-V:Synthetic Disk Drive"),
        ("Parent", "string", controller.as_str()),
        ("AddressOnParent", "string", "0"),
    ];
    let id = add(bench, &machine, RASD, &drive).await.unwrap();
    assert_eq!(add(bench, &machine, RASD, &drive).await, Err("32773".to_owned()), "the place is taken");
    let drive = path(RASD, &id);
    let disk = |drive: &str, file: &str| {
        let (drive, file) = (drive.to_owned(), file.to_owned());
        async move {
            let sasd = "Msvm_StorageAllocationSettingData";
            let kind = ("ResourceSubType", "string", "Microsoft:Hyper-V:Virtual Hard Disk");
            let resource = [
                ("ResourceType", "uint16", "31"),
                kind,
                ("Parent", "string", &*drive),
                ("HostResource", "string[]", &*file),
            ];
            add(bench, &machine_of(bench, name), sasd, &resource).await
        }
    };
    assert_eq!(disk(&drive.replace("\\\\", "\\"), file).await, Err("32773".to_owned()), "single backslashes");
    assert!(bench.host.crimes().iter().any(|crime| crime.rule == WireRule::SingleBackslash));
    assert_eq!(disk(&drive, "C:\\nothing.vhdx").await, Err("32768".to_owned()), "no such file");
    disk(&drive, file).await.unwrap();
    machine
}

fn machine_of(bench: &Bench, name: &str) -> String {
    bench.id(name)
}

#[tokio::test]
async fn a_machine_is_restored_and_destroyed_again() {
    let bench = Bench::new(|_| {}).await;
    let file = "C:\\Restored\\new.vhdx";
    let store = bench.host.store();
    let uploaded = store.create(&disk::DiskSpec::dynamic(file, 8 * MIB).with_pattern(5, MIB)).unwrap();
    store.detach(uploaded).unwrap();
    let machine = restored(&bench, "new-01", file).await;
    let nic = [
        ("ResourceType", "uint16", "10"),
        ("ResourceSubType", "string", "Microsoft:Hyper-V:Synthetic Ethernet Port"),
        ("StaticMacAddress", "boolean", "true"),
        ("Address", "string", "00155D0A0B0C"),
    ];
    let nic = add(&bench, &machine, "Msvm_SyntheticEthernetPortSettingData", &nic).await.unwrap();
    let switch = bench.wql("select * from Msvm_VirtualEthernetSwitch").await;
    let switch = format!(
        "root/virtualization/v2:Msvm_VirtualEthernetSwitch.CreationClassName=\"Msvm_VirtualEthernetSwitch\",Name=\"{}\"",
        between(&switch, "<p:Name>", "<")
    );
    let connection = [
        ("ResourceSubType", "string", "Microsoft:Hyper-V:Ethernet Connection"),
        ("Parent", "string", &path("Msvm_SyntheticEthernetPortSettingData", &nic)),
        ("HostResource", "string[]", &switch),
    ];
    add(&bench, &machine, "Msvm_EthernetPortAllocationSettingData", &connection).await.unwrap();
    let bench = bench.restart().await;
    let view = bench.host.machine("new-01").unwrap();
    assert_eq!((view.generation, view.on, view.notes.as_slice()), (2, false, &["token 42".to_owned()][..]));
    assert_eq!(view.disks[0].path, file);
    bench.host.set_power("new-01", true).unwrap();
    let system = machine_reference("AffectedSystem", &machine);
    assert_eq!(return_value(&bench.invoke(MANAGEMENT, "DestroySystem", &system).await), "32775", "it is on");
    bench.host.set_power("new-01", false).unwrap();
    bench.done(&bench.invoke(MANAGEMENT, "DestroySystem", &system).await).await;
    assert!(bench.host.machine("new-01").is_none());
    assert!(bench.host.store().drive().file(file).unwrap().exists(), "its files stay");
}

#[tokio::test]
async fn settings_change_and_bad_ones_do_not() {
    let bench = Bench::new(|_| {}).await;
    let machine = define(&bench, "changing-01", 1).await;
    let modify = |properties: Vec<(&'static str, &'static str, &'static str)>| {
        let id = format!("Microsoft:{machine}");
        let bench = &bench;
        async move {
            let mut all = vec![("InstanceID", "string", id.as_str())];
            all.extend(properties);
            let parameters = format!("<p:SystemSettings>{}</p:SystemSettings>", instance(SETTINGS, &all));
            let answer = bench.invoke(MANAGEMENT, "ModifySystemSettings", &parameters).await;
            bench.finish(&answer).await.1
        }
    };
    assert_eq!(modify(vec![("ElementName", "string", "changed & <01>")]).await, "0");
    assert!(bench.host.machine("changed & <01>").is_some());
    assert_eq!(modify(vec![("AutomaticStartupActionDelay", "datetime", "PT5S")]).await, "32768");
    assert_eq!(modify(vec![("AutomaticStartupActionDelay", "string", "00000000000005.000000:000")]).await, "32768");
    assert_eq!(bench.host.crimes().iter().filter(|crime| crime.rule == WireRule::DatetimeForm).count(), 2);
    assert_eq!(modify(vec![("SecureBootEnabled", "boolean", "true")]).await, "32773", "generation 1 has no UEFI");
    bench.done(&bench.snapshot("off-01", 2).await).await;
    let snapshot = bench.host.machine("off-01").unwrap().snapshots[0].id.clone();
    let renamed = instance(
        SETTINGS,
        &[("InstanceID", "string", &format!("Microsoft:{snapshot}")), ("ElementName", "string", "mine")],
    );
    let parameters = format!("<p:SystemSettings>{renamed}</p:SystemSettings>");
    bench.done(&bench.invoke(MANAGEMENT, "ModifySystemSettings", &parameters).await).await;
    assert_eq!(bench.host.machine("off-01").unwrap().snapshots[0].name, "mine");
}
