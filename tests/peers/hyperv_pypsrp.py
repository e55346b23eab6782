"""Talks to a simulated Hyper-V host as an independent client: pypsrp's WSMan with its own envelopes, NTLM and sealing.

usage: hyperv_pypsrp.py TLS_PORT HTTP_PORT ACCOUNT PASSWORD

The host holds `web-01` (on, generation 2, two disks that the guest keeps writing to), `old-01` (off, generation 1) and `stiff-01`
(on, no application-consistent checkpoints). Everything is done over each of: TLS with Basic, TLS with NTLM, HTTP with sealed
messages."""

import base64
import http.client
import ssl
import struct
import sys
import time
import warnings
import xml.etree.ElementTree as ET

import spnego
from pypsrp.encryption import WinRMEncryption
from pypsrp.exceptions import AuthenticationError, WinRMError, WSManFaultError
from pypsrp.wsman import SelectorSet, WSMan
from spnego.channel_bindings import GssChannelBindings

warnings.simplefilter("ignore")
tls_port, http_port, account, password = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
started = time.monotonic()

SOAP = "http://www.w3.org/2003/05/soap-envelope"
ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
WSMAN = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/common"
WMI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/"
VIRTUALIZATION = WMI + "root/virtualization/v2/"
CIMV2 = WMI + "root/cimv2/"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"
ANONYMOUS = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous"
GIB = 1 << 30


def step(text):
    print(f"-- {time.monotonic() - started:.1f} s: {text}", flush=True)


def connect(kind, secret=password, **more):
    ssl, auth, port = {
        "basic over TLS": (True, "basic", tls_port),
        "NTLM over TLS": (True, "ntlm", tls_port),
        "Negotiate over TLS": (True, "negotiate", tls_port),
        "sealed NTLM": (False, "ntlm", http_port),
        "sealed Negotiate": (False, "negotiate", http_port),
    }[kind]
    return WSMan(
        "127.0.0.1", port=port, ssl=ssl, auth=auth, username=account, password=secret, cert_validation=False, **more
    )


def selectors(**named):
    chosen = SelectorSet()
    for name, value in named.items():
        chosen.add_option(name, value)
    return chosen


def local(tag):
    return tag.rsplit("}", 1)[1]


def value(element):
    if element.get(f"{{{XSI}}}nil") == "true":
        return None
    uri = element.find(f".//{{{WSMAN}}}ResourceURI")
    if uri is not None:
        chosen = {s.get("Name"): s.text for s in element.iter(f"{{{WSMAN}}}Selector")}
        return uri.text.rsplit("/", 1)[1], chosen
    inner = element.find(f"{{{CIM}}}Datetime")
    return (element if inner is None else inner).text or ""


def properties(element):
    """Single values, and lists of what is there more than once."""
    found = {}
    for child in element:
        found.setdefault(local(child.tag), []).append(value(child))
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def many(values):
    return values if isinstance(values, list) else [] if values is None else [values]


def enumerate_all(client, uri, query=None, page=None, optimize=False):
    request = ET.Element(f"{{{ENUMERATION}}}Enumerate")
    if optimize:
        ET.SubElement(request, f"{{{WSMAN}}}OptimizeEnumeration")
        ET.SubElement(request, f"{{{WSMAN}}}MaxElements").text = str(page)
    if query:
        ET.SubElement(request, f"{{{WSMAN}}}Filter", Dialect=WQL).text = query
    response = client.enumerate(uri, request)[0]
    rows, pulls = [], 0
    items = response.find(f"{{{WSMAN}}}Items")
    if items is not None:
        rows += list(items)
    ended = response.find(f"{{{WSMAN}}}EndOfSequence") is not None
    context = response.find(f"{{{ENUMERATION}}}EnumerationContext").text
    while not ended:
        request = ET.Element(f"{{{ENUMERATION}}}Pull")
        ET.SubElement(request, f"{{{ENUMERATION}}}EnumerationContext").text = context
        if page:
            ET.SubElement(request, f"{{{ENUMERATION}}}MaxElements").text = str(page)
        response = client.pull(uri, request)[0]
        pulls += 1
        rows += list(response.find(f"{{{ENUMERATION}}}Items"))
        ended = response.find(f"{{{ENUMERATION}}}EndOfSequence") is not None
        if not ended:
            context = response.find(f"{{{ENUMERATION}}}EnumerationContext").text
    return [(local(row.tag), properties(row)) for row in rows], pulls


def wql(client, query, page=50):
    return [row for _, row in enumerate_all(client, VIRTUALIZATION + "*", query, page, optimize=True)[0]]


def reference(name, namespace, cls, wrapped=False, **keys):
    element = ET.Element(f"{{{namespace}}}{name}")
    inside = ET.SubElement(element, f"{{{ADDRESSING}}}EndpointReference") if wrapped else element
    ET.SubElement(inside, f"{{{ADDRESSING}}}Address").text = ANONYMOUS
    parameters = ET.SubElement(inside, f"{{{ADDRESSING}}}ReferenceParameters")
    ET.SubElement(parameters, f"{{{WSMAN}}}ResourceURI").text = VIRTUALIZATION + cls
    chosen = ET.SubElement(parameters, f"{{{WSMAN}}}SelectorSet")
    for key, text in keys.items():
        ET.SubElement(chosen, f"{{{WSMAN}}}Selector", Name=key).text = text
    return element


def instance(cls, **values):
    types = {bool: "boolean", int: "uint8", str: "string"}
    text = "".join(
        f'<PROPERTY NAME="{name}" TYPE="{types[type(v)]}"><VALUE>{str(v).lower() if type(v) is bool else v}</VALUE></PROPERTY>'
        for name, v in values.items()
    )
    return f'<INSTANCE CLASSNAME="{cls}">{text}</INSTANCE>'


def invoke(client, cls, method, *arguments, chosen=None, **texts):
    uri = VIRTUALIZATION + cls
    body = ET.Element(f"{{{uri}}}{method}_INPUT")
    for argument in arguments:
        body.append(argument)
    for name, text in texts.items():
        ET.SubElement(body, f"{{{uri}}}{name}").text = str(text)
    chosen = selectors(CreationClassName=cls) if chosen is None else chosen
    response = client.invoke(f"{uri}/{method}", uri, body, None, chosen)
    output = response.find(f"{{{SOAP}}}Body")[0]
    assert local(output.tag) == f"{method}_OUTPUT", output.tag
    return properties(output)


def get(client, cls, base=VIRTUALIZATION, **keys):
    return properties(client.get(base + cls, selector_set=selectors(**keys))[0])


def finish(client, answer):
    """Follows the job of an answer to its end."""
    assert answer["ReturnValue"] == "4096", answer
    cls, keys = answer["Job"]
    deadline = time.monotonic() + 20
    while True:
        job = get(client, cls, **keys)
        if int(job["JobState"]) >= 7:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.02)


def done(client, answer):
    job = finish(client, answer)
    assert (job["JobState"], job["ErrorCode"]) == ("7", "0"), job


def faults(code, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except WSManFaultError as fault:
        assert fault.code == code, (hex(code), fault.code, fault.message)
        return fault
    raise AssertionError(f"{call} gave no fault")


IDENTIFY = (
    f'<s:Envelope xmlns:s="{SOAP}" xmlns:i="http://schemas.dmtf.org/wbem/wsman/identify/1/wsmanidentity.xsd">'
    "<s:Header/><s:Body><i:Identify/></s:Body></s:Envelope>"
).encode()


def identify(client):
    assert b"simulated" in client.transport.send(IDENTIFY)


def snapshot(client, machine, consistency=1, **settings):
    cls = "Msvm_VirtualSystemSnapshotService"
    return invoke(
        client,
        cls,
        "CreateSnapshot",
        reference("AffectedSystem", VIRTUALIZATION + cls, "Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=machine),
        SnapshotSettings=instance("Msvm_VirtualSystemSnapshotSettingData", ConsistencyLevel=consistency, **settings),
        SnapshotType=32768,
    )


def of_snapshot(client, method, found, **more):
    cls = "Msvm_VirtualSystemSnapshotService"
    settings = reference("AffectedSnapshot", VIRTUALIZATION + cls, "Msvm_VirtualSystemSettingData", InstanceID=found["InstanceID"])
    return invoke(client, cls, method, settings, **more)


def recovery(client, machine):
    return wql(
        client,
        f"SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemIdentifier='{machine}'"
        " AND VirtualSystemType = 'Microsoft:Hyper-V:Snapshot:Recovery'",
    )


def backup(client, machine, limits):
    """One turn of a hot backup; answers the new tracking ids by disk and what changed since `limits`."""
    answer = snapshot(client, machine)
    assert "ResultingSnapshot" not in answer, answer
    done(client, answer)
    keys = answer["Job"][1]["InstanceID"]
    made = wql(
        client,
        f'ASSOCIATORS OF {{Msvm_ConcreteJob.InstanceID="{keys}"}} WHERE AssocClass=Msvm_AffectedJobElement'
        " ResultClass=Msvm_VirtualSystemSettingData",
    )
    assert [row["InstanceID"] for row in made] == [row["InstanceID"] for row in recovery(client, machine)], made
    settings = made[0]
    escaped = settings["InstanceID"].replace("\\", "\\\\")
    disks = wql(
        client,
        f"ASSOCIATORS OF {{Msvm_VirtualSystemSettingData.InstanceID='{escaped}'}}"
        " WHERE AssocClass = Msvm_VirtualSystemSettingDataComponent ResultClass = Msvm_StorageAllocationSettingData",
    )
    assert len(disks) == 2 and all(disk["ResourceType"] == "31" for disk in disks), disks
    changed = {}
    for disk in disks:
        path, place = disk["HostResource"], disk["InstanceID"].split("\\", 1)[1]
        assert path.lower().endswith("vhdx"), path
        described = invoke(client, "Msvm_ImageManagementService", "GetVirtualHardDiskSettingData", Path=path)
        assert 'NAME="MaxInternalSize"' in described["SettingData"], described
        if place in limits:
            changed[place] = changes(client, path, limits[place])
    done(client, of_snapshot(client, "ConvertToReferencePoint", settings))
    assert recovery(client, machine) == []
    points = wql(client, f"SELECT * FROM Msvm_VirtualSystemReferencePoint WHERE VirtualSystemIdentifier = '{machine}'")
    point = [p for p in points if p["InstanceID"] not in known_points][-1]
    known_points.add(point["InstanceID"])
    ids = zip(many(point["VirtualDiskIdentifiers"]), many(point["ResilientChangeTrackingIdentifiers"]))
    return point, {disk.split("\\", 1)[1]: tracking for disk, tracking in ids}, changed


known_points = set()


def changes(client, path, limit, size=GIB):
    offset, ranges, calls = 0, [], 0
    while offset < size:
        answer = invoke(
            client,
            "Msvm_ImageManagementService",
            "GetVirtualDiskChanges",
            Path=path,
            LimitId=limit,
            ByteOffset=offset,
            ByteLength=size - offset,
        )
        assert answer["ReturnValue"] == "0", answer
        calls += 1
        ranges += zip(map(int, many(answer.get("ChangedByteOffsets"))), map(int, many(answer.get("ChangedByteLengths"))))
        processed = int(answer["ProcessedByteLength"])
        assert processed > 0, answer
        offset += processed
    assert ranges == sorted(ranges), ranges
    return ranges, calls


def whole_turn(kind):
    step(f"{kind}: identify, enumerate, get")
    client = connect(kind)
    identify(client)
    rows, pulls = enumerate_all(client, VIRTUALIZATION + "Msvm_ComputerSystem")
    assert (len(rows), pulls) == (4, 4), (rows, pulls)
    host = [row for _, row in rows if row["Caption"] == "Hosting Computer System"]
    assert len(host) == 1 and len(host[0]["Name"]) < 16, host
    rows, pulls = enumerate_all(client, VIRTUALIZATION + "Msvm_ComputerSystem", page=3)
    assert (len(rows), pulls) == (4, 2), (rows, pulls)
    rows, pulls = enumerate_all(client, VIRTUALIZATION + "CIM_ResourceAllocationSettingData", page=5, optimize=True)
    kinds = {cls for cls, _ in rows}
    assert {"Msvm_StorageAllocationSettingData", "Msvm_MemorySettingData"} <= kinds and pulls > 1, (kinds, pulls)
    system = get(client, "Win32_OperatingSystem", base=CIMV2)
    assert "simulated" in system["Caption"] and system["Version"].startswith("10.0."), system
    machine = wql(client, "select * from Msvm_ComputerSystem where ElementName = 'web-01' and EnabledState = 2")[0]["Name"]
    assert get(client, "Msvm_ComputerSystem", CreationClassName="Msvm_ComputerSystem", Name=machine)["ElementName"] == "web-01"

    step(f"{kind}: checkpoint, convert, changes, destroy")
    first, limits, _ = backup(client, machine, {})
    time.sleep(0.2)
    second, _, changed = backup(client, machine, limits)
    assert len(changed) == 2 and any(ranges for ranges, _ in changed.values()), changed
    for point in (first, second):
        cls = "Msvm_VirtualSystemReferencePointService"
        chosen = reference("AffectedReferencePoint", VIRTUALIZATION + cls, "Msvm_VirtualSystemReferencePoint", InstanceID=point["InstanceID"])
        done(client, invoke(client, cls, "DestroyReferencePoint", chosen))
    done(client, snapshot(client, machine, consistency=2))
    done(client, of_snapshot(client, "DestroySnapshot", recovery(client, machine)[0]))

    step(f"{kind}: a checkpoint that cannot be consistent")
    stiff = wql(client, "select Name from Msvm_ComputerSystem where ElementName = 'stiff-01'")[0]["Name"]
    job = finish(client, snapshot(client, stiff))
    assert job["JobState"] == "10" and "Production checkpoints" in job["ErrorDescription"], job
    assert recovery(client, stiff) == []
    client.close()


def rules():
    step("rules that are broken")
    client = connect("sealed NTLM")
    machine = wql(client, "select * from Msvm_ComputerSystem where ElementName = 'old-01'")[0]["Name"]
    faults(0x8033801A, enumerate_all, client, VIRTUALIZATION + "Msvm_ComputerSystem", "select * from Msvm_ComputerSystem")
    faults(0x8033801A, enumerate_all, client, VIRTUALIZATION + "*")
    faults(0x8033801A, wql, client, "select * from Msvm_VirtualSystemSettingData where InstanceID = 'Microsoft:A\\B'")
    cls = "Msvm_VirtualSystemSnapshotService"
    wrapped = reference("AffectedSystem", VIRTUALIZATION + cls, "Msvm_ComputerSystem", wrapped=True, Name=machine)
    faults(0x80338041, invoke, client, cls, "CreateSnapshot", wrapped, SnapshotType=32768)
    affected = reference("AffectedSystem", VIRTUALIZATION + cls, "Msvm_ComputerSystem", Name=machine)
    tree = ET.Element(f"{{{VIRTUALIZATION}{cls}}}SnapshotSettings")
    ET.SubElement(tree, "ConsistencyLevel").text = "1"
    faults(0x80338041, invoke, client, cls, "CreateSnapshot", affected, tree, SnapshotType=32768)
    faults(0x8004102F, invoke, client, cls, "CreateSnapshot", affected, chosen=SelectorSet(), SnapshotType=32768)
    faults(0x80338041, invoke, client, cls, "CreateSnapshot", affected, Nonsense=1)
    faults(0x80338000, get, client, "Msvm_ComputerSystem", Name="00000000-0000-0000-0000-000000000000")
    faults(0x8033803B, get, client, "Msvm_Nothing", InstanceID="x")
    faults(0x8033803D, get, client, "Msvm_ComputerSystem", ElementName="old-01")
    faults(0x80338001, invoke, client, cls, "FormatAllDisks")
    request = ET.Element(f"{{{ENUMERATION}}}Pull")
    ET.SubElement(request, f"{{{ENUMERATION}}}EnumerationContext").text = "uuid:00000000-0000-0000-0000-000000000000"
    faults(0x8033801B, client.pull, VIRTUALIZATION + "Msvm_ComputerSystem", request)
    small = connect("sealed NTLM", max_envelope_size=4096)
    faults(0x80338047, get, small, "Win32_OperatingSystem", base=CIMV2)


def doors():
    step("doors that stay shut")
    for kind in ("basic over TLS", "NTLM over TLS", "sealed NTLM"):
        try:
            identify(connect(kind, secret="wrong"))
        except AuthenticationError:
            continue
        raise AssertionError(f"{kind} took a wrong password")
    clear = WSMan("127.0.0.1", port=http_port, ssl=False, auth="basic", username=account, password=password, encryption="never")
    for attempt in (lambda: identify(clear), lambda: identify(connect("sealed NTLM", encryption="never"))):
        try:
            attempt()
        except (AuthenticationError, WinRMError):
            continue
        raise AssertionError("a message in the clear was taken")


def by_hand(tls, change=lambda token: token, bindings=None):
    """Authenticates with the last token changed: the connection, the context, the status it came to."""
    if tls:
        connection = http.client.HTTPSConnection("127.0.0.1", tls_port, context=ssl._create_unverified_context())
    else:
        connection = http.client.HTTPConnection("127.0.0.1", http_port)
    context = spnego.client(account, password, hostname="127.0.0.1", protocol="ntlm", channel_bindings=bindings)

    def post(token):
        encoded = base64.b64encode(token).decode()
        connection.request("POST", "/wsman", headers={"Authorization": f"Negotiate {encoded}", "Content-Length": "0"})
        response = connection.getresponse()
        response.read()
        return response

    challenge = post(context.step()).headers["WWW-Authenticate"].split()[1]
    return connection, context, post(change(context.step(base64.b64decode(challenge)))).status


def other_workstation(token):
    """Only the MIC covers the workstation's name."""
    (at,) = struct.unpack_from("<I", token, 48)
    return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]


def tampered():
    step("what was tampered with")
    assert by_hand(True)[2] == by_hand(False)[2] == 200
    assert by_hand(False, other_workstation)[2] == 401, "a wrong MIC was taken"
    elsewhere = GssChannelBindings(application_data=b"tls-server-end-point:" + bytes(32))
    assert by_hand(True, bindings=elsewhere)[2] == 401, "an answer that is bound to another channel was taken"
    connection, context, _ = by_hand(False)
    sealer = WinRMEncryption(context, WinRMEncryption.SPNEGO)

    def post(body):
        kind = f'multipart/encrypted;protocol="{WinRMEncryption.SPNEGO}";boundary="Encrypted Boundary"'
        connection.request("POST", "/wsman", body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.read()

    body = sealer.wrap_message(IDENTIFY)[1]
    status, answer = post(body)
    assert status == 200 and b"Identify" not in answer, "an answer in the clear"
    assert b"simulated" in sealer.unwrap_message(answer, "Encrypted Boundary")
    assert post(body)[0] == 401, "a message was taken twice"
    connection, context, _ = by_hand(False)
    body = bytearray(WinRMEncryption(context, WinRMEncryption.SPNEGO).wrap_message(IDENTIFY)[1])
    body[-40] ^= 1
    assert post(bytes(body))[0] == 401, "a broken seal was taken"


for way in ("basic over TLS", "NTLM over TLS", "sealed NTLM"):
    whole_turn(way)
for way in ("Negotiate over TLS", "sealed Negotiate"):
    step(f"{way}: SPNEGO around NTLM")
    wrapped = connect(way)
    identify(wrapped)
    assert len(wql(wrapped, "select * from Msvm_ComputerSystem")) == 4
rules()
doors()
tampered()
print("ok")
