"""Prints the schema table of the ESXi simulator: names, order, optionality and first version of the elements of the vSphere API
that it speaks, as pyvmomi knows them. `--check FILE` compares instead, and exits 1 with the first difference.

Which methods and types are in the table is decided by the two lists below; every other type is opaque to the simulator."""

import sys

from pyVmomi import VmomiSupport as V
from pyVmomi import vim, vmodl  # noqa: F401  (loads the types)

METHODS = {
    "ServiceInstance": "RetrieveServiceContent CurrentTime",
    "SessionManager": "Login Logout SessionIsActive",
    "PropertyCollector": "RetrieveProperties RetrievePropertiesEx ContinueRetrievePropertiesEx CancelRetrievePropertiesEx "
    "CreateFilter WaitForUpdatesEx CancelWaitForUpdates CreatePropertyCollector DestroyPropertyCollector",
    "PropertyFilter": "DestroyPropertyFilter",
    "ViewManager": "CreateContainerView",
    "View": "DestroyView",
    "SearchIndex": "FindByUuid FindByInventoryPath FindChild FindByDatastorePath",
    "VirtualMachine": "CreateSnapshot_Task ConsolidateVMDisks_Task RevertToCurrentSnapshot_Task RemoveAllSnapshots_Task "
    "ReconfigVM_Task QueryChangedDiskAreas PowerOnVM_Task PowerOffVM_Task ShutdownGuest ExportVm UnregisterVM",
    "VirtualMachineSnapshot": "RemoveSnapshot_Task RevertToSnapshot_Task ExportSnapshot",
    "ManagedEntity": "Destroy_Task Rename_Task",
    "HttpNfcLease": "HttpNfcLeaseGetManifest HttpNfcLeaseComplete HttpNfcLeaseAbort HttpNfcLeaseProgress",
    "ResourcePool": "ImportVApp",
    "Folder": "CreateVM_Task RegisterVM_Task",
    "Task": "CancelTask",
    "HostDatastoreBrowser": "SearchDatastore_Task",
    "FileManager": "DeleteDatastoreFile_Task MakeDirectory",
}
TYPES = """
SelectionSpec TraversalSpec PropertySpec ObjectSpec PropertyFilterUpdate ObjectUpdate PropertyChange MissingObject DynamicProperty MissingProperty
ManagedEntity Task ViewManager ContainerView HostDatastoreSystem LicenseManager LicenseManagerLicenseInfo KeyValue KeyAnyValue
AboutInfo ServiceContent UserSession TaskInfo LocalizedMethodFault TaskReason TaskReasonUser
Datacenter ComputeResource ComputeResourceSummary HostSystem HostListSummary HostHardwareSummary HostConfigSummary HostRuntimeInfo
HostConfigInfo HostListSummaryQuickStats
Datastore DatastoreSummary DatastoreInfo VmfsDatastoreInfo NasDatastoreInfo HostVmfsVolume HostNasVolume HostFileSystemVolume
HostScsiDiskPartition DatastoreCapability DatastoreHostMount HostMountInfo
Network NetworkSummary ResourcePoolSummary ResourcePoolRuntimeInfo ResourcePoolResourceUsage
VirtualMachineConfigInfo VirtualMachineFileInfo VirtualMachineFlagInfo VirtualMachineDefaultPowerOpInfo VirtualHardware
VirtualMachineSummary VirtualMachineConfigSummary VirtualMachineGuestSummary VirtualMachineQuickStats VirtualMachineStorageSummary
VirtualMachineRuntimeInfo VirtualMachineCapability GuestInfo VirtualMachineSnapshotInfo VirtualMachineSnapshotTree
VirtualMachineFileLayoutEx VirtualMachineFileLayoutExFileInfo VirtualMachineFileLayoutExDiskLayout
VirtualMachineFileLayoutExDiskUnit VirtualMachineFileLayoutExSnapshotLayout VirtualMachineStorageInfo
VirtualMachineUsageOnDatastore VirtualMachineBootOptions ManagedEntityEventArgument
VirtualDevice VirtualDeviceBackingInfo VirtualDeviceFileBackingInfo VirtualDeviceDeviceBackingInfo VirtualDeviceConnectInfo
VirtualController VirtualSCSIController ParaVirtualSCSIController VirtualLsiLogicController VirtualLsiLogicSASController
VirtualBusLogicController VirtualSATAController VirtualAHCIController VirtualNVMEController VirtualIDEController VirtualPCIController
VirtualPS2Controller VirtualSIOController VirtualKeyboard VirtualPointingDevice VirtualMachineVMCIDevice
VirtualMachineVideoCard VirtualFloppy VirtualCdrom VirtualCdromIsoBackingInfo VirtualCdromAtapiBackingInfo
VirtualCdromRemotePassthroughBackingInfo VirtualDisk VirtualDiskFlatVer2BackingInfo
VirtualDiskSeSparseBackingInfo VirtualDiskRawDiskMappingVer1BackingInfo VirtualEthernetCard VirtualE1000 VirtualE1000e VirtualVmxnet
VirtualVmxnet3 VirtualEthernetCardNetworkBackingInfo VirtualEthernetCardDistributedVirtualPortBackingInfo VirtualTPM VirtualUSBController
VirtualUSBXHCIController VirtualSerialPort VirtualDiskLocalPMemBackingInfo
VirtualMachineConfigSpec VirtualDeviceConfigSpec OptionValue SharesInfo ResourceAllocationInfo StorageIOAllocationInfo Description
VirtualMachineImportSpec VirtualAppImportSpec ImportSpec VirtualMachineProfileSpec VirtualMachineDefinedProfileSpec CryptoSpec
VirtualMachineEmptyProfileSpec LatencySensitivity ToolsConfigInfo VirtualMachineAffinityInfo VirtualMachineConsolePreferences
DiskChangeInfo DiskChangeExtent HttpNfcLeaseInfo HttpNfcLeaseCapabilities HttpNfcLeaseDeviceUrl HttpNfcLeaseDatastoreLeaseInfo HttpNfcLeaseHostInfo
HttpNfcLeaseManifestEntry HostDatastoreBrowserSearchSpec HostDatastoreBrowserSearchResults FileInfo FileQuery FileQueryFlags
VmDiskFileInfo VmConfigFileInfo VmDiskFileQuery VmConfigFileQuery FolderFileQuery FolderFileInfo
OptionDef CustomFieldDef CustomFieldValue
MethodFault RuntimeFault InvalidRequest NotAuthenticated NoPermission InvalidLogin InvalidProperty InvalidArgument ManagedObjectNotFound
InvalidPowerState InvalidState VimFault FileFault FileLocked FileNotFound FileAlreadyExists CannotAccessFile TaskInProgress RestrictedVersion
SystemError NotSupported NotEnoughLicenses LicenseRestricted DuplicateName InvalidName NoDiskSpace Timedout RequestCanceled
GenericVmConfigFault ConcurrentAccess SnapshotFault ApplicationQuiesceFault VmConfigFault InvalidDeviceSpec InvalidVmConfig InvalidType
ToolsUnavailable ResourceInUse InvalidDatastore OutOfBounds AlreadyExists InvalidCollectorVersion
"""


def version_id(name):
    """`6.5` for `vim.version.version11`; empty for everything up to 6.0, the oldest the product speaks."""
    text = V.versionIdMap.get(name) or ""
    if name.startswith("vim.version.version"):
        return text if int(name.rsplit("version", 1)[1]) > 10 else ""
    return text if name.startswith("vim.version") else ""


def field(prop):
    wsdl = V.GetWsdlName(prop.type)
    many = wsdl.startswith("ArrayOf")
    if many:
        wsdl = V.GetWsdlName(prop.type.Item)
    if wsdl == "MethodFault":
        wsdl = "LocalizedMethodFault"  # what a fault inside a property is on the wire
    managed = isinstance(prop.type.Item if many else prop.type, type) and issubclass(
        prop.type.Item if many else prop.type, V.ManagedObject
    )
    enum = isinstance(prop.type.Item if many else prop.type, type) and issubclass(prop.type.Item if many else prop.type, V.Enum)
    mark = ("*" if many else "") + ("?" if prop.flags & V.F_OPTIONAL else "")
    shown = "&" + wsdl if managed else "=" + wsdl if enum else wsdl
    since = version_id(prop.version)
    return f"{prop.name} {mark}{shown}" + (f" @{since}" if since else "")


def own_properties(cls):
    base = {p.name for b in cls.__mro__[1:2] for p in (b._GetPropertyList() if hasattr(b, "_GetPropertyList") else [])}
    hidden = {"dynamicType", "dynamicProperty"}
    return [p for p in cls._GetPropertyList() if p.name not in base and p.name not in hidden]


def wsdl_type(name):
    for ns in ("urn:vim25",):
        try:
            return V.GetWsdlType(ns, name)
        except KeyError:
            continue
    raise SystemExit(f"pyvmomi does not know {name}")


def closure():
    """The listed types, what the methods take and give, and every base of these."""
    names = set(TYPES.split()) | set(METHODS)
    for owner, methods in METHODS.items():
        for method in methods.split():
            info = next(i for i in wsdl_type(owner)._methodInfo.values() if i.wsdlName == method)
            for kind in [p.type for p in info.params] + [info.result]:
                if isinstance(kind, type) and issubclass(kind, list):
                    kind = kind.Item
                if isinstance(kind, type) and issubclass(kind, V.DataObject):
                    names.add(V.GetWsdlName(kind))
    for name in list(names):
        for base in wsdl_type(name).__mro__[1:]:
            if base in (V.DataObject, V.ManagedObject, object) or not issubclass(base, (V.DataObject, V.ManagedObject, Exception)):
                break
            if base is Exception or base.__name__ in ("MethodFault", "Exception", "BaseException"):
                break
            names.add(V.GetWsdlName(base))
    return sorted(names)


def table():
    lines = []
    names = closure()
    for name in names:
        if name == "LocalizedMethodFault":  # pyvmomi folds it into MethodFault
            lines += ["LocalizedMethodFault DynamicData", "  fault MethodFault", "  localizedMessage ?string"]
            continue
        cls = wsdl_type(name)
        base = V.GetWsdlName(cls.__mro__[1]) if cls.__mro__[1].__module__.startswith("pyVmomi") and V.GetWsdlName(cls.__mro__[1]) in names else "-"
        lines.append(f"{name} {base}")
        lines.extend("  " + field(p) for p in own_properties(cls))
        for method in METHODS.get(name, "").split():
            info = next(i for i in cls._methodInfo.values() if i.wsdlName == method)
            lines.append(f"  {method}()" )
            lines.extend("    " + field(p) for p in info.params)
    return "\n".join(lines) + "\n"


def main():
    text = table()
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        theirs = text.splitlines()
        with open(sys.argv[2], encoding="utf-8") as f:
            ours = [line for line in f.read().splitlines() if not line.startswith("#")]
        for number, (a, b) in enumerate(zip(ours, theirs)):
            if a != b:
                raise SystemExit(f"entry {number}: table has {a!r}, pyvmomi has {b!r}")
        if len(ours) != len(theirs):
            raise SystemExit(f"table has {len(ours)} entries, pyvmomi {len(theirs)}")
        print("ok")
    else:
        sys.stdout.write(text)


main()
