"""Talks to a simulated ESXi host as an independent client: pyvmomi for the API, qemu-img for what is inside the disks.

usage: pyvmomi_check.py PORT ACCOUNT PASSWORD FOLDER

The host holds `web-01` (off, one disk, raw copy in FOLDER/web-01.raw) and `busy-01` (on, thin disk). Properties are read through
the property collector only: pyvmomi's attribute access uses `Fetch`, which the simulator rejects like the product's rules say."""

import base64
import filecmp
import http.client
import os
import ssl
import subprocess
import sys
import time

from pyVim.connect import SmartConnect
from pyVmomi import VmomiSupport, vim, vmodl

port, account, password, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
tls = ssl._create_unverified_context()
started = time.monotonic()
PC = vmodl.query.PropertyCollector


def step(text):
    print(f"-- {time.monotonic() - started:.1f} s: {text}", flush=True)


def fails(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind as fault:
        return fault
    raise AssertionError(f"{call} did not fail with {kind.__name__}")


step("login")
fails(vim.fault.InvalidLogin, SmartConnect, host="127.0.0.1", port=port, user=account, pwd="wrong", sslContext=tls)
si = SmartConnect(host="127.0.0.1", port=port, user=account, pwd=password, sslContext=tls)
content = si.RetrieveContent()
assert "simulated" in content.about.fullName, content.about.fullName
assert si.CurrentTime().year >= 2024
pc = content.propertyCollector


def get(obj, *paths):
    """Properties of one object; unset ones are None."""
    spec = PC.FilterSpec(
        propSet=[PC.PropertySpec(type=type(obj), pathSet=list(paths))], objectSet=[PC.ObjectSpec(obj=obj, skip=False)]
    )
    result = pc.RetrievePropertiesEx(specSet=[spec], options=PC.RetrieveOptions())
    found = {p.name: p.val for p in result.objects[0].propSet}
    values = [found.get(path) for path in paths]
    return values[0] if len(values) == 1 else values


def wait(task):
    """Waits as pyVim.task does: a filter and updates."""
    spec = PC.FilterSpec(
        propSet=[PC.PropertySpec(type=vim.Task, pathSet=["info.state", "info.error", "info.result"])],
        objectSet=[PC.ObjectSpec(obj=task, skip=False)],
    )
    pc_filter = pc.CreateFilter(spec, True)
    version, seen = "", {}
    try:
        while True:
            updates = pc.WaitForUpdatesEx(version, PC.WaitOptions(maxWaitSeconds=5))
            if updates is None:
                continue
            version = updates.version
            for update in updates.filterSet:
                for obj in update.objectSet:
                    seen.update({change.name: change.val for change in obj.changeSet})
            if seen.get("info.state") == "success":
                return seen.get("info.result")
            if seen.get("info.state") == "error":
                raise seen["info.error"]
    finally:
        pc_filter.DestroyPropertyFilter()


def inventory(kind, *paths, page=1):
    """Objects of a kind by name, a page of one object at a time."""
    view = content.viewManager.CreateContainerView(container=content.rootFolder, type=[kind], recursive=True)
    spec = PC.FilterSpec(
        propSet=[PC.PropertySpec(type=kind, pathSet=["name", *paths])],
        objectSet=[
            PC.ObjectSpec(
                obj=view,
                skip=True,
                selectSet=[PC.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)],
            )
        ],
    )
    result = pc.RetrievePropertiesEx(specSet=[spec], options=PC.RetrieveOptions(maxObjects=page))
    objects = list(result.objects)
    while result.token:
        result = pc.ContinueRetrievePropertiesEx(token=result.token)
        objects += result.objects
    view.DestroyView()
    return {next(p.val for p in o.propSet if p.name == "name"): o for o in objects}


step("inventory, page by page")
machines = inventory(vim.VirtualMachine, "config", "runtime", "summary", "guest", "layoutEx", "storage", "capability")
assert sorted(machines) == ["busy-01", "web-01"], sorted(machines)
assert list(inventory(vim.HostSystem, "summary", "config.product", "runtime"))
assert list(inventory(vim.Datastore, "summary", "info", "capability", "host")) == ["datastore1"]
assert list(inventory(vim.Network, "summary")) == ["VM Network"]
assert inventory(vim.ComputeResource, "summary", "resourcePool")
assert inventory(vim.ResourcePool, "owner", "vm")
assert "backup" in [p.value for p in get(content.licenseManager, "licenses")[0].properties]
fails(vmodl.query.InvalidProperty, get, machines["web-01"].obj, "config.nonsense")
fails(Exception, lambda: machines["web-01"].obj.name)  # Fetch
web, busy = machines["web-01"].obj, machines["busy-01"].obj
vm_folder = get(web, "parent")
pool = get(web, "resourcePool")


def disk_of(obj):
    devices = get(obj, "config.hardware.device")
    return next(d for d in devices if isinstance(d, vim.vm.device.VirtualDisk))


disk = disk_of(web)
assert disk.backing.fileName == "[datastore1] web-01/web-01.vmdk" and disk.backing.thinProvisioned
assert disk.capacityInBytes == os.path.getsize(f"{folder}/web-01.raw")

step("every property of every object")


def unset(value, path=""):
    """Elements without a value although the API calls them mandatory."""
    if isinstance(value, list):
        for item in value:
            yield from unset(item, path)
    elif isinstance(value, vmodl.DynamicData):
        for prop in value._GetPropertyList():
            below = getattr(value, prop.name)
            if below is None and not prop.flags & VmomiSupport.F_OPTIONAL:
                yield f"{path}.{type(value).__name__}.{prop.name}"
            yield from unset(below, f"{path}.{prop.name}")


for obj in [content.rootFolder, vm_folder, pool, web, busy, content.licenseManager, content.sessionManager, content.viewManager, si] + [
    entry.obj
    for kind in (vim.Datacenter, vim.ComputeResource, vim.HostSystem, vim.Datastore, vim.Network)
    for entry in inventory(kind).values()
]:
    spec = PC.FilterSpec(propSet=[PC.PropertySpec(type=type(obj), all=True)], objectSet=[PC.ObjectSpec(obj=obj)])
    for prop in pc.RetrievePropertiesEx(specSet=[spec], options=PC.RetrieveOptions()).objects[0].propSet:
        missing = list(unset(prop.val, prop.name))
        assert not missing, (type(obj).__name__, missing)

step("power states and snapshots")
assert get(busy, "runtime.powerState") == "poweredOn"
fails(vim.fault.InvalidPowerState, busy.PowerOnVM_Task)
fails(vim.fault.InvalidPowerState, web.PowerOffVM_Task)
snapshot = wait(busy.CreateSnapshot_Task(name="one", description="d", memory=False, quiesce=True))
assert get(busy, "snapshot").rootSnapshotList[0].snapshot == snapshot
assert disk_of(busy).backing.fileName.endswith("busy-01-000001.vmdk")
assert disk_of(busy).backing.parent.fileName.endswith("busy-01.vmdk")
assert disk_of(snapshot).backing.fileName.endswith("busy-01.vmdk")

step("change tracking waits for a stun")
fails(vim.fault.FileFault, busy.QueryChangedDiskAreas, snapshot=snapshot, deviceKey=2000, startOffset=0, changeId="*")
wait(snapshot.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
fails(vmodl.fault.ManagedObjectNotFound, get, snapshot, "config")
wait(busy.ReconfigVM_Task(spec=vim.vm.ConfigSpec(changeTrackingEnabled=True)))
assert get(busy, "config.changeTrackingEnabled") is True
assert disk_of(busy).backing.changeId is None, "active before a stun"
stun = wait(busy.CreateSnapshot_Task(name="stun", memory=False, quiesce=False))
assert disk_of(stun).backing.changeId is None
wait(stun.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
assert disk_of(busy).backing.changeId


def areas_of(vm, snap, key, change_id, capacity):
    offset, areas, pages = 0, [], 0
    while offset < capacity:
        info = vm.QueryChangedDiskAreas(snapshot=snap, deviceKey=key, startOffset=offset, changeId=change_id)
        assert info.startOffset == offset and len(info.changedArea) <= 2000
        areas += [(area.start, area.length) for area in info.changedArea]
        offset, pages = info.startOffset + info.length, pages + 1
    assert areas == sorted(areas) and all(length > 0 for _, length in areas)
    return areas, pages


step("areas by the page")
base = wait(busy.CreateSnapshot_Task(name="base", memory=False, quiesce=False))
base_disk = disk_of(base)
capacity = base_disk.capacityInBytes
fails(vmodl.fault.InvalidArgument, busy.QueryChangedDiskAreas, snapshot=base, deviceKey=2000, startOffset=capacity, changeId="*")
fails(vim.fault.FileFault, busy.QueryChangedDiskAreas, deviceKey=2000, startOffset=0, changeId="*")  # running, no snapshot
allocated, pages = areas_of(busy, base, 2000, "*", capacity)
assert pages > 1, f"{len(allocated)} areas fit one page: the test disk should hold more than 2000"
wait(base.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
time.sleep(0.5)  # the guest writes
later = wait(busy.CreateSnapshot_Task(name="later", memory=False, quiesce=False))
changed, _ = areas_of(busy, later, 2000, base_disk.backing.changeId, capacity)
assert changed, "the guest wrote nothing"
assert sum(length for _, length in changed) < capacity
unknown = "00 00 00 00 00 00 00 00-00 00 00 00 00 00 00 00/1"
fails(vim.fault.FileFault, busy.QueryChangedDiskAreas, snapshot=later, deviceKey=2000, startOffset=0, changeId=unknown)
wait(later.RemoveSnapshot_Task(removeChildren=False, consolidate=True))
assert get(busy, "snapshot") is None and get(busy, "runtime.consolidationNeeded") is False


def request(method, path, body=None, headers=None):
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls)
    connection.request(method, path, body=body, headers=headers or {})
    return connection.getresponse()


def ready(lease):
    deadline = time.time() + 10
    while True:
        state, info, error = get(lease, "state", "info", "error")
        if state != "initializing":
            break
        assert info is None and time.time() < deadline
        time.sleep(0.02)
    assert state == "ready", error
    return info


def path_of(url):
    assert url.startswith("https://*/"), url
    return url.removeprefix("https://*")


step("export lease, judged by qemu-img")
fails(vim.fault.InvalidPowerState, busy.ExportVm)
lease = web.ExportVm()
info = ready(lease)
fails(vim.fault.FileLocked, web.PowerOnVM_Task)
url = next(u for u in info.deviceUrl if u.disk)
assert url.key == "/" + web._GetMoId() + "/ParaVirtualSCSIController0:0" and len(url.sslThumbprint) == 59
answer = request("GET", path_of(url.url))
assert answer.status == 200
with open(f"{folder}/web-01.stream.vmdk", "wb") as out:
    while chunk := answer.read(1 << 20):
        out.write(chunk)
        lease.HttpNfcLeaseProgress(percent=50)
lease.HttpNfcLeaseComplete()
assert get(lease, "state") == "done"
subprocess.run(
    ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", f"{folder}/web-01.stream.vmdk", f"{folder}/web-01.exported.raw"], check=True
)
assert filecmp.cmp(f"{folder}/web-01.raw", f"{folder}/web-01.exported.raw", shallow=False)


def import_spec(name, **changes):
    backing = vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
        fileName="[datastore1]", diskMode="persistent", thinProvisioned=True
    )
    controller = vim.vm.device.ParaVirtualSCSIController(key=-1, busNumber=0, sharedBus="noSharing")
    new_disk = vim.vm.device.VirtualDisk(
        key=-2, backing=backing, controllerKey=-1, unitNumber=0, capacityInKB=disk.capacityInKB
    )
    nic = vim.vm.device.VirtualVmxnet3(
        key=-3,
        backing=vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName="VM Network"),
        connectable=vim.vm.device.VirtualDevice.ConnectInfo(startConnected=False, allowGuestControl=True, connected=False),
        addressType="generated",
    )
    spec = vim.vm.ConfigSpec(
        name=name,
        version="vmx-19",
        guestId="debian12_64Guest",
        files=vim.vm.FileInfo(vmPathName="[datastore1]"),
        numCPUs=2,
        memoryMB=512,
        firmware="bios",
        deviceChange=[
            vim.vm.device.VirtualDeviceSpec(operation="add", device=controller),
            vim.vm.device.VirtualDeviceSpec(operation="add", fileOperation="create", device=new_disk),
            vim.vm.device.VirtualDeviceSpec(operation="add", device=nic),
        ],
    )
    for key, value in changes.items():
        setattr(spec, key, value)
    return vim.vm.VmImportSpec(configSpec=spec)


def upload(url, path):
    headers = {"Content-Type": "application/x-vnd.vmware-streamVmdk", "Content-Length": str(os.path.getsize(path))}
    with open(path, "rb") as body:
        return request("POST", path_of(url), body=body, headers=headers)


step("import lease: what is wrong is refused, an abort leaves nothing")
fails(vim.fault.DuplicateName, pool.ImportVApp, spec=import_spec("web-01"), folder=vm_folder)
fails(vmodl.MethodFault, pool.ImportVApp, spec=import_spec("restored", version="vmx-99"), folder=vm_folder)
lease = pool.ImportVApp(spec=import_spec("restored"), folder=vm_folder)
url = ready(lease).deviceUrl[0]
assert url.importKey.endswith("ParaVirtualSCSIController0:0"), url.importKey
subprocess.run(
    ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", f"{folder}/web-01.raw", f"{folder}/qemu.vmdk"],
    check=True,
)
assert upload(url.url, f"{folder}/qemu.vmdk").status == 500, "a stream without footer was taken"
lease.HttpNfcLeaseAbort()
assert get(lease, "state") == "error" and isinstance(get(lease, "error"), vmodl.fault.RequestCanceled)
assert "restored" not in inventory(vim.VirtualMachine)

step("import lease: the disk reads back, by range")
lease = pool.ImportVApp(spec=import_spec("restored", changeTrackingEnabled=True), folder=vm_folder)
info = ready(lease)
restored = info.entity
fails(vim.fault.FileLocked, restored.PowerOnVM_Task)
assert upload(info.deviceUrl[0].url, f"{folder}/web-01.stream.vmdk").status in (200, 201)
lease.HttpNfcLeaseProgress(percent=100)
lease.HttpNfcLeaseComplete()
assert get(restored, "name", "summary.config.memorySizeMB", "config.changeTrackingEnabled") == ["restored", 512, True]
flat = "/folder/restored/restored-flat.vmdk?dcPath=ha-datacenter&dsName=datastore1"
assert request("GET", flat).status == 401
basic = {"Authorization": "Basic " + base64.b64encode(f"{account}:{password}".encode()).decode()}
first = request("GET", flat, headers={**basic, "Range": "bytes=0-1048575"})
assert first.status == 206 and first.getheader("Accept-Ranges") is None
assert first.getheader("Content-Range") == f"bytes 0-1048575/{disk.capacityInBytes}"
cookie = {"Cookie": first.getheader("Set-Cookie").split(";")[0]}
with open(f"{folder}/web-01.raw", "rb") as raw:
    assert first.read() == raw.read(1 << 20)
    rest = request("GET", flat, headers={**cookie, "Range": f"bytes=1048576-{disk.capacityInBytes - 1}"})
    assert rest.status == 206
    while chunk := rest.read(1 << 20):
        assert chunk == raw.read(len(chunk))
    assert not raw.read(1)
live = "/folder/busy-01/busy-01-flat.vmdk?dcPath=ha-datacenter&dsName=datastore1"
assert request("GET", live, headers={**cookie, "Range": "bytes=0-511"}).status == 500

step("export of a snapshot of a running machine")
snapshot = wait(busy.CreateSnapshot_Task(name="export", memory=False, quiesce=False))
lease = snapshot.ExportSnapshot()
url = ready(lease).deviceUrl[0]
assert request("GET", live, headers={**cookie, "Range": "bytes=0-511"}).status == 500, "a lease and /folder exclude each other"
with open(f"{folder}/busy.stream.vmdk", "wb") as out:
    out.write(request("GET", path_of(url.url)).read())
lease.HttpNfcLeaseComplete()
subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", f"{folder}/busy.stream.vmdk", f"{folder}/busy.raw"], check=True)
hot = request("GET", live, headers=cookie)
assert hot.status == 200
with open(f"{folder}/busy.raw", "rb") as raw:
    while chunk := hot.read(1 << 20):
        assert chunk == raw.read(len(chunk))
wait(snapshot.RemoveSnapshot_Task(removeChildren=False, consolidate=True))

step("remove, find, files, logout")
assert content.searchIndex.FindByUuid(uuid=get(restored, "config.uuid"), vmSearch=True) == restored
wait(restored.Destroy_Task())
assert "restored" not in inventory(vim.VirtualMachine)
browser = get(get(web, "datastore")[0], "browser")
found = wait(browser.SearchDatastore_Task(datastorePath="[datastore1] web-01", searchSpec=None))
assert {"web-01.vmx", "web-01.vmdk", "web-01-flat.vmdk"} <= {f.path for f in found.file}
content.sessionManager.Logout()
fails(vim.fault.NotAuthenticated, si.CurrentTime)
step("done")
print("ok")
