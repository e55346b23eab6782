//! The managed objects of the host other than machines, and the way from a reference and a property name to a value.
//!
//! Owns: which objects exist and what their properties are. Machines are in [`super::inventory_machine`]. A property that is
//! not modelled is unset, as it may be on a real host; whether its name exists at all is the schema's business.

use super::collector;
use super::config::{DatastoreKind, DatastoreSpec, License, Power};
use super::fault::SoapFault;
use super::host::Host;
use super::inventory_machine as machine;
use super::pool;
use super::value::{MoRef, Object, Value};

/// Fixed objects: type and id.
const FIXED: [(&str, &str); 20] = [
    ("ServiceInstance", "ServiceInstance"),
    ("Folder", "ha-folder-root"),
    ("Datacenter", "ha-datacenter"),
    ("Folder", "ha-folder-vm"),
    ("Folder", "ha-folder-host"),
    ("Folder", "ha-folder-datastore"),
    ("Folder", "ha-folder-network"),
    ("ComputeResource", "ha-compute-res"),
    ("HostSystem", "ha-host"),
    ("ResourcePool", "ha-root-pool"),
    ("PropertyCollector", "ha-property-collector"),
    ("ViewManager", "ViewManager"),
    ("SessionManager", "ha-sessionmgr"),
    ("SearchIndex", "ha-searchindex"),
    ("LicenseManager", "ha-license-manager"),
    ("FileManager", "ha-nfc-file-manager"),
    ("TaskManager", "ha-taskmgr"),
    ("HostDatastoreSystem", "ha-datastoresystem"),
    ("HostDatastoreBrowser", "ha-host-datastorebrowser"),
    ("EnvironmentBrowser", "ha-env-browser"),
];

pub(crate) fn fixed(id: &str) -> MoRef {
    let kind = FIXED.iter().find(|(_, known)| *known == id).map_or("ManagedObject", |(kind, _)| *kind);
    MoRef::new(kind, id)
}

pub(crate) fn green() -> Value {
    Value::enumeration("ManagedEntityStatus", "green")
}

/// Reference of a datastore.
pub(crate) fn datastore_ref(host: &Host, name: &str) -> MoRef {
    let (tag, ..) = host.uuid.as_fields();
    let index = host.config.datastores.iter().position(|datastore| datastore.name == name).unwrap_or(0);
    MoRef::new("Datastore", format!("{:08x}-{index:08x}", tag.rotate_left(7)))
}

fn datastore_of<'a>(host: &'a Host, reference: &MoRef) -> Option<&'a DatastoreSpec> {
    host.config.datastores.iter().find(|datastore| datastore_ref(host, &datastore.name) == *reference)
}

/// Reference of a network.
pub(crate) fn network_ref(name: &str) -> MoRef {
    MoRef::new("Network", format!("HaNetwork-{name}"))
}

fn datastores(host: &Host) -> Value {
    Value::refs(host.config.datastores.iter().map(|datastore| datastore_ref(host, &datastore.name)))
}

fn networks(host: &Host) -> Value {
    Value::refs(host.config.networks.iter().map(|name| network_ref(name)))
}

pub(crate) fn machines(host: &Host, wanted: impl Fn(&super::machine::Machine) -> bool) -> Value {
    let all = host.machines();
    Value::refs(
        all.iter().map(|machine| machine.lock()).filter(|machine| wanted(machine)).map(|machine| machine.moref()),
    )
}

/// Whether the object exists.
pub(crate) fn exists(host: &Host, object: &MoRef) -> bool {
    match object.kind.as_str() {
        "VirtualMachine" => host.machine(&object.id).is_some(),
        "VirtualMachineSnapshot" => host.find_snapshot(object).is_ok(),
        "Task" => host.tasks.exists(&object.id),
        "HttpNfcLease" => host.leases.exists(&object.id),
        "ContainerView" | "PropertyFilter" => host.views.exists(object),
        "Datastore" => datastore_of(host, object).is_some(),
        "Network" => host.config.networks.iter().any(|name| network_ref(name) == *object),
        "PropertyCollector" => true,
        "ResourcePool" => pool::exists(host, object),
        _ => FIXED.contains(&(object.kind.as_str(), object.id.as_str())),
    }
}

/// The value of a property by its first name; `None` when it is unset.
pub(crate) fn property(host: &Host, object: &MoRef, name: &str) -> Result<Option<Value>, SoapFault> {
    match object.kind.as_str() {
        "VirtualMachine" => return machine::property(host, object, name),
        "VirtualMachineSnapshot" => return machine::snapshot_property(host, object, name),
        _ if !exists(host, object) => return Err(SoapFault::not_found(object)),
        _ => {}
    }
    let value = match object.kind.as_str() {
        "Task" => (name == "info").then(|| host.tasks.info(&object.id)).flatten().map(Value::Object),
        "HttpNfcLease" => {
            let all = super::lease::properties(host, &object.id);
            all.into_iter().find(|(known, _)| *known == name).and_then(|(_, value)| value)
        }
        "ContainerView" => collector::view_property(host, object, name),
        "ServiceInstance" => service_instance(host, name),
        "SessionManager" => (name == "defaultLocale").then(|| "en".into()),
        "LicenseManager" => license_manager(host, name),
        "Folder" => folder(host, &object.id, name),
        "Datacenter" => datacenter(host, name),
        "ComputeResource" => compute_resource(host, name),
        "HostSystem" => host_system(host, name),
        "ResourcePool" => pool::property(host, object, name),
        "Datastore" => datastore_of(host, object).and_then(|datastore| datastore_property(host, datastore, name)),
        "Network" => network(host, object, name),
        _ => None,
    };
    Ok(value)
}

/// Properties every managed entity has.
pub(crate) fn entity(name: &str, title: &str, parent: Option<MoRef>) -> Option<Value> {
    match name {
        "name" => Some(title.into()),
        "parent" => parent.map(Value::Ref),
        "overallStatus" | "configStatus" => Some(green()),
        "disabledMethod" => Some(Value::texts::<String>([])),
        "effectiveRole" => Some(Value::List("int", vec![Value::Int(-1)])),
        _ => None,
    }
}

/// `ServiceContent`.
pub(crate) fn service_content(host: &Host) -> Object {
    Object::new("ServiceContent")
        .with("rootFolder", fixed("ha-folder-root"))
        .with("propertyCollector", fixed("ha-property-collector"))
        .with("viewManager", fixed("ViewManager"))
        .with("about", about(host))
        .with("sessionManager", fixed("ha-sessionmgr"))
        .with("taskManager", fixed("ha-taskmgr"))
        .with("licenseManager", fixed("ha-license-manager"))
        .with("searchIndex", fixed("ha-searchindex"))
        .with("fileManager", fixed("ha-nfc-file-manager"))
}

fn about(host: &Host) -> Object {
    let api = &host.config.api_version;
    let mut parts: Vec<&str> = api.split('.').take(3).collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    let version = parts.join(".");
    Object::new("AboutInfo")
        .with("name", "VMware ESXi (simulated)")
        .with("fullName", format!("VMware ESXi {version} (simulated by Stillframe)"))
        .with("vendor", "VMware, Inc. (simulated)")
        .with("version", version)
        .with("build", "0")
        .with("localeVersion", "INTL")
        .with("localeBuild", "000")
        .with("osType", "vmnix-x86")
        .with("productLineId", "embeddedEsx")
        .with("apiType", "HostAgent")
        .with("apiVersion", api)
        .with("licenseProductName", "VMware ESX Server (simulated)")
        .with("licenseProductVersion", "8.0")
}

fn service_instance(host: &Host, name: &str) -> Option<Value> {
    match name {
        "content" => Some(service_content(host).into()),
        "serverClock" => Some(super::host::now().into()),
        _ => None,
    }
}

fn license_manager(host: &Host, name: &str) -> Option<Value> {
    let (edition, title) = match host.config.license {
        License::Full => ("esx.enterprisePlus.cpuPackage", "vSphere Enterprise Plus (simulated)"),
        License::Free => ("esxBasic", "vSphere Hypervisor (simulated)"),
    };
    match name {
        "licensedEdition" => Some(edition.into()),
        "sourceAvailable" => Some(true.into()),
        "licenses" => {
            let feature = |key: &'static str| Object::new("KeyAnyValue").with("key", "feature").with("value", key);
            let features = match host.config.license {
                License::Full => vec![feature("vimapi"), feature("backup")],
                License::Free => Vec::new(),
            };
            let license = Object::new("LicenseManagerLicenseInfo")
                .with("licenseKey", "00000-00000-00000-00000-00000")
                .with("editionKey", edition)
                .with("name", title)
                .with("total", 1)
                .with("used", 1)
                .with("costUnit", "cpuPackage")
                .with("properties", Value::objects("KeyAnyValue", features));
            Some(Value::objects("LicenseManagerLicenseInfo", [license]))
        }
        _ => None,
    }
}

fn folder(host: &Host, id: &str, name: &str) -> Option<Value> {
    let datacenter = Some(fixed("ha-datacenter"));
    let (title, parent, child_type) = match id {
        "ha-folder-root" => ("ha-folder-root", None, "Datacenter"),
        "ha-folder-vm" => ("vm", datacenter, "VirtualMachine"),
        "ha-folder-host" => ("host", datacenter, "ComputeResource"),
        "ha-folder-datastore" => ("datastore", datacenter, "Datastore"),
        _ => ("network", datacenter, "Network"),
    };
    match name {
        "childType" => Some(Value::texts([child_type])),
        "childEntity" => Some(match id {
            "ha-folder-root" => Value::refs([fixed("ha-datacenter")]),
            "ha-folder-vm" => machines(host, |_| true),
            "ha-folder-host" => Value::refs([fixed("ha-compute-res")]),
            "ha-folder-datastore" => datastores(host),
            _ => networks(host),
        }),
        _ => entity(name, title, parent),
    }
}

fn datacenter(host: &Host, name: &str) -> Option<Value> {
    match name {
        "vmFolder" => Some(fixed("ha-folder-vm").into()),
        "hostFolder" => Some(fixed("ha-folder-host").into()),
        "datastoreFolder" => Some(fixed("ha-folder-datastore").into()),
        "networkFolder" => Some(fixed("ha-folder-network").into()),
        "datastore" => Some(datastores(host)),
        "network" => Some(networks(host)),
        _ => entity(name, "ha-datacenter", Some(fixed("ha-folder-root"))),
    }
}

fn compute_resource(host: &Host, name: &str) -> Option<Value> {
    match name {
        "resourcePool" => Some(fixed("ha-root-pool").into()),
        "host" => Some(Value::refs([fixed("ha-host")])),
        "datastore" => Some(datastores(host)),
        "network" => Some(networks(host)),
        "environmentBrowser" => Some(fixed("ha-env-browser").into()),
        "summary" => Some(
            Object::new("ComputeResourceSummary")
                .with("totalCpu", 48_000)
                .with("totalMemory", 64_i64 << 30)
                .with("numCpuCores", 16_i16)
                .with("numCpuThreads", 32_i16)
                .with("effectiveCpu", 46_000)
                .with("effectiveMemory", 60_000_i64)
                .with("numHosts", 1)
                .with("numEffectiveHosts", 1)
                .with("overallStatus", green())
                .into(),
        ),
        _ => entity(name, &host.config.name, Some(fixed("ha-folder-host"))),
    }
}

fn host_system(host: &Host, name: &str) -> Option<Value> {
    match name {
        "runtime" => Some(host_runtime(host).into()),
        "summary" => Some(host_summary(host).into()),
        "config" => {
            Some(Object::new("HostConfigInfo").with("host", fixed("ha-host")).with("product", about(host)).into())
        }
        "vm" => Some(machines(host, |_| true)),
        "datastore" => Some(datastores(host)),
        "network" => Some(networks(host)),
        "datastoreBrowser" => Some(fixed("ha-host-datastorebrowser").into()),
        _ => entity(name, &host.config.name, Some(fixed("ha-compute-res"))),
    }
}

fn host_runtime(host: &Host) -> Object {
    Object::new("HostRuntimeInfo")
        .with("connectionState", Value::enumeration("HostSystemConnectionState", "connected"))
        .with("powerState", Value::enumeration("HostSystemPowerState", "poweredOn"))
        .with("inMaintenanceMode", false)
        .with("bootTime", host.booted)
}

fn host_summary(host: &Host) -> Object {
    let hardware = Object::new("HostHardwareSummary")
        .with("vendor", "Stillframe")
        .with("model", "Simulated host")
        .with("uuid", host.uuid.to_string())
        .with("memorySize", 64_i64 << 30)
        .with("cpuModel", "Simulated CPU")
        .with("cpuMhz", 3000)
        .with("numCpuPkgs", 1_i16)
        .with("numCpuCores", 16_i16)
        .with("numCpuThreads", 32_i16)
        .with("numNics", 2)
        .with("numHBAs", 1);
    let config = Object::new("HostConfigSummary")
        .with("name", &host.config.name)
        .with("port", i32::from(host.address.port()))
        .with("sslThumbprint", &host.identity.thumbprint)
        .with("product", about(host))
        .with("vmotionEnabled", false)
        .with("faultToleranceEnabled", false);
    let running = host.machines().iter().filter(|machine| machine.lock().power == Power::On).count() as i32;
    let stats = Object::new("HostListSummaryQuickStats")
        .with("overallCpuUsage", 100 + running * 200)
        .with("overallMemoryUsage", 2000 + running * 1024)
        .with("uptime", super::host::now().duration_since(host.booted).as_secs() as i32);
    Object::new("HostListSummary")
        .with("host", fixed("ha-host"))
        .with("hardware", hardware)
        .with("runtime", host_runtime(host))
        .with("config", config)
        .with("quickStats", stats)
        .with("overallStatus", green())
        .with("rebootRequired", false)
}

/// Bytes that the machines' files take on a datastore, as far as that is cheap to know.
fn used_bytes(host: &Host, datastore: &str) -> u64 {
    let machines = host.machines();
    let of = |machine: &super::host::Shared| {
        let machine = machine.lock();
        if machine.datastore == datastore { machine.used_bytes() } else { 0 }
    };
    machines.iter().map(of).sum()
}

fn datastore_property(host: &Host, datastore: &DatastoreSpec, name: &str) -> Option<Value> {
    let own = datastore_ref(host, &datastore.name);
    let capacity = datastore.capacity_bytes as i64;
    let free = capacity - (used_bytes(host, &datastore.name) as i64).min(capacity);
    let url = format!("ds:///vmfs/volumes/{}/", own.id);
    let kind = match datastore.kind {
        DatastoreKind::Vmfs => "VMFS",
        DatastoreKind::Nfs => "NFS",
        DatastoreKind::Vsan => "vsan",
    };
    match name {
        "summary" => Some(
            Object::new("DatastoreSummary")
                .with("datastore", own)
                .with("name", &datastore.name)
                .with("url", url)
                .with("capacity", capacity)
                .with("freeSpace", free)
                .with("accessible", true)
                .with("multipleHostAccess", datastore.kind != DatastoreKind::Vmfs)
                .with("type", kind)
                .with("maintenanceMode", "normal")
                .into(),
        ),
        "info" => Some(datastore_info(datastore, &own, &url, free).into()),
        "capability" => Some(
            Object::new("DatastoreCapability")
                .with("directoryHierarchySupported", true)
                .with("rawDiskMappingsSupported", datastore.kind == DatastoreKind::Vmfs)
                .with("perFileThinProvisioningSupported", true)
                .with("storageIORMSupported", false)
                .with("nativeSnapshotSupported", false)
                .into(),
        ),
        "host" => {
            let mount = Object::new("HostMountInfo")
                .with("path", format!("/vmfs/volumes/{}", own.id))
                .with("accessMode", "readWrite")
                .with("mounted", true)
                .with("accessible", true);
            let mount = Object::new("DatastoreHostMount").with("key", fixed("ha-host")).with("mountInfo", mount);
            Some(Value::objects("DatastoreHostMount", [mount]))
        }
        "vm" => Some(machines(host, |machine| machine.datastore == datastore.name)),
        "browser" => Some(fixed("ha-host-datastorebrowser").into()),
        _ => entity(name, &datastore.name, Some(fixed("ha-folder-datastore"))),
    }
}

fn datastore_info(datastore: &DatastoreSpec, own: &MoRef, url: &str, free: i64) -> Object {
    let capacity = datastore.capacity_bytes as i64;
    let base = |kind: &str| {
        Object::new(kind)
            .with("name", &datastore.name)
            .with("url", url)
            .with("freeSpace", free)
            .with("maxFileSize", 62_i64 << 40)
            .with("maxVirtualDiskCapacity", 62_i64 << 40)
            .with("maxMemoryFileSize", 62_i64 << 40)
            .with("timestamp", super::host::now())
    };
    match datastore.kind {
        DatastoreKind::Vmfs => {
            let extent = Object::new("HostScsiDiskPartition").with("diskName", "t10.SIMULATED").with("partition", 3);
            let volume = Object::new("HostVmfsVolume")
                .with("type", "VMFS")
                .with("name", &datastore.name)
                .with("capacity", capacity)
                .with("blockSizeMb", 1)
                .with("maxBlocks", 63_963_136)
                .with("majorVersion", 5)
                .with("version", "5.81")
                .with("uuid", &own.id)
                .with("extent", Value::objects("HostScsiDiskPartition", [extent]))
                .with("vmfsUpgradable", false)
                .with("local", true);
            base("VmfsDatastoreInfo")
                .with("maxPhysicalRDMFileSize", 62_i64 << 40)
                .with("maxVirtualRDMFileSize", 62_i64 << 40)
                .with("vmfs", volume)
        }
        DatastoreKind::Nfs => {
            let volume = Object::new("HostNasVolume")
                .with("type", "NFS")
                .with("name", &datastore.name)
                .with("capacity", capacity)
                .with("remoteHost", "192.0.2.1")
                .with("remotePath", "/export/simulated");
            base("NasDatastoreInfo").with("nas", volume)
        }
        DatastoreKind::Vsan => base("DatastoreInfo"),
    }
}

fn network(host: &Host, object: &MoRef, name: &str) -> Option<Value> {
    let title = object.id.strip_prefix("HaNetwork-").unwrap_or(&object.id);
    match name {
        "summary" => Some(
            Object::new("NetworkSummary")
                .with("network", object)
                .with("name", title)
                .with("accessible", true)
                .with("ipPoolName", "")
                .into(),
        ),
        "host" => Some(Value::refs([fixed("ha-host")])),
        "vm" => Some(machines(host, |machine| machine.nics.iter().any(|nic| nic.network == title))),
        _ => entity(name, title, Some(fixed("ha-folder-network"))),
    }
}
