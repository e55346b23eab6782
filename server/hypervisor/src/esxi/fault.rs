//! Faults of a host, and what they mean to an operator.

use super::xml::Node;
use crate::{ErrorKind, HostError};

/// Longest text of a host that is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 500;

/// A fault: its type's name, its words, its fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fault {
    pub name: String,
    pub message: String,
    /// Plain fields, e.g. `privilegeId`, `invalidProperty`, `file`.
    pub fields: Vec<(String, String)>,
}

impl Fault {
    /// From the `Fault` element of a SOAP body.
    pub(super) fn from_soap(fault: &Node) -> Self {
        let detail = fault.child("detail").and_then(|detail| detail.children.first());
        let message = fault.text_at(&["faultstring"]).unwrap_or_default();
        let Some(detail) = detail else {
            return Self { name: "SoapFault".into(), message: shorten(message), fields: Vec::new() };
        };
        let name = detail.xsi_type.clone().unwrap_or_else(|| {
            detail.name.strip_suffix("Fault").filter(|name| !name.is_empty()).unwrap_or(&detail.name).to_owned()
        });
        Self::build(name, message, detail)
    }

    /// From a `LocalizedMethodFault`: a task's error, the reason a property is missing.
    pub(super) fn from_localized(node: &Node) -> Self {
        let message = node.text_at(&["localizedMessage"]).unwrap_or_default();
        let Some(fault) = node.child("fault") else {
            return Self { name: "MethodFault".into(), message: shorten(message), fields: Vec::new() };
        };
        Self::build(fault.xsi_type.clone().unwrap_or_else(|| "MethodFault".into()), message, fault)
    }

    fn build(name: String, message: &str, fault: &Node) -> Self {
        let fields = fault.children.iter().filter(|field| field.children.is_empty() && !field.text.trim().is_empty());
        let fields = fields.map(|field| (field.name.clone(), shorten(field.text.trim()))).collect();
        let mut whole = shorten(message);
        for extra in fault.all("faultMessage").filter_map(|extra| extra.text_at(&["message"])).take(3) {
            if !whole.contains(extra) {
                whole = shorten(&format!("{whole} {extra}"));
            }
        }
        Self { name, message: whole.trim().to_owned(), fields }
    }

    pub(super) fn is_any(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// The host's words with the field that says most, e.g. the missing privilege.
    pub(super) fn reason(&self) -> String {
        let words = if self.message.is_empty() { meaning(&self.name).words } else { &self.message };
        let telling = ["privilegeId", "invalidProperty", "file", "name", "reason"];
        let field = self.fields.iter().find(|(name, _)| telling.contains(&name.as_str()));
        match field {
            Some((name, value)) => format!("{words} ({}, {name}: {value})", self.name),
            None => format!("{words} ({})", self.name),
        }
    }

    pub(super) fn into_error(self, host: &str, attempt: impl Into<String>) -> HostError {
        let meaning = meaning(&self.name);
        HostError {
            kind: meaning.kind,
            code: meaning.code,
            host: host.to_owned(),
            attempt: attempt.into(),
            reason: self.reason(),
            hint: meaning.hint.to_owned(),
            source: None,
        }
    }
}

struct Meaning {
    names: &'static [&'static str],
    kind: ErrorKind,
    code: &'static str,
    /// For hosts that send no words.
    words: &'static str,
    hint: &'static str,
}

pub(super) const FREE_LICENCE: &str = "The host runs on VMware's free licence, which forbids every change by other \
    programs, snapshots too: it cannot be backed up until it has a paid or evaluation licence.";

/// Names are those of the vSphere API reference.
const MEANINGS: &[Meaning] = &[
    Meaning {
        names: &["InvalidLogin", "PasswordExpired"],
        kind: ErrorKind::Login,
        code: "esxi.login_refused",
        words: "Account or password refused.",
        hint: "Check account and password. After several failures ESXi locks the account for 15 minutes.",
    },
    Meaning {
        names: &["NotAuthenticated"],
        kind: ErrorKind::Login,
        code: "esxi.not_authenticated",
        words: "The session is not logged in.",
        hint: "Check that nothing ends the sessions of this account on the host.",
    },
    Meaning {
        names: &["RestrictedVersion"],
        kind: ErrorKind::Licence,
        code: "esxi.free_licence",
        words: "The licence forbids it.",
        hint: FREE_LICENCE,
    },
    Meaning {
        names: &["NotEnoughLicenses", "LicenseExpired", "InvalidLicense", "RestrictedByAdministrator"],
        kind: ErrorKind::Licence,
        code: "esxi.licence",
        words: "The host's licence does not allow it.",
        hint: "Check the licence on the host.",
    },
    Meaning {
        names: &["NoPermission"],
        kind: ErrorKind::Permission,
        code: "esxi.no_permission",
        words: "The account may not do this.",
        hint: "Give the account the named privilege, or the Administrator role on the host.",
    },
    Meaning {
        names: &["ManagedObjectNotFound", "FileNotFound", "NotFound"],
        kind: ErrorKind::NotFound,
        code: "esxi.not_found",
        words: "It is not there any more.",
        hint: "Refresh the inventory; the machine or snapshot may have been removed or moved.",
    },
    Meaning {
        names: &["TaskInProgress", "ConcurrentAccess", "ResourceInUse", "VmConfigFileLocked"],
        kind: ErrorKind::Busy,
        code: "esxi.busy",
        words: "Another task works on the machine.",
        hint: "It is tried again later. See the host's recent tasks.",
    },
    Meaning {
        names: &["FileLocked", "CannotAccessFile", "CannotAccessVmDisk"],
        kind: ErrorKind::Busy,
        code: "esxi.file_locked",
        words: "A file of the machine is locked.",
        hint: "Another backup, a datastore browser or a running export may hold the file.",
    },
    Meaning {
        names: &["NoDiskSpace", "InsufficientStorageSpace"],
        kind: ErrorKind::NoSpace,
        code: "esxi.no_space",
        words: "The datastore is full.",
        hint: "Free space on the datastore: a snapshot grows by what the guest writes while it exists.",
    },
    Meaning {
        names: &["ApplicationQuiesceFault", "FilesystemQuiesceFault", "ToolsUnavailable"],
        kind: ErrorKind::Refused,
        code: "esxi.quiesce_failed",
        words: "The guest could not be quiesced.",
        hint: "Check VMware Tools and, on Windows, the VSS writers of the guest.",
    },
    Meaning {
        names: &[
            "SnapshotFault",
            "TooManySnapshotLevels",
            "SnapshotDisabled",
            "SnapshotNoChange",
            "SnapshotLocked",
            "MultipleSnapshotsNotSupported",
            "MemorySnapshotOnIndependentDisk",
            "InvalidSnapshotFormat",
        ],
        kind: ErrorKind::Refused,
        code: "esxi.snapshot_refused",
        words: "The host refused the snapshot.",
        hint: "Try a snapshot in the host's own console; its event log names the cause.",
    },
    Meaning {
        names: &["InvalidPowerState", "InvalidState", "InvalidVmState"],
        kind: ErrorKind::Refused,
        code: "esxi.invalid_state",
        words: "The machine's state does not allow it.",
        hint: "Check the machine in the host's own console.",
    },
    Meaning {
        names: &["FileFault"],
        kind: ErrorKind::Refused,
        code: "esxi.file_fault",
        words: "The host could not read one of the machine's files.",
        hint: "Check the datastore and the machine's disks.",
    },
    Meaning {
        names: &["InaccessibleDatastore", "InvalidDatastore", "InvalidDatastorePath"],
        kind: ErrorKind::NotFound,
        code: "esxi.datastore",
        words: "The datastore is not usable.",
        hint: "Check that the datastore is mounted on the host.",
    },
    Meaning {
        names: &["NotSupported", "MethodNotFound", "InvalidProperty", "InvalidType"],
        kind: ErrorKind::Unsupported,
        code: "esxi.not_supported",
        words: "This host does not support it.",
        hint: "Check the host's version against the list of supported ones.",
    },
    Meaning {
        names: &["RequestCanceled"],
        kind: ErrorKind::Refused,
        code: "esxi.cancelled",
        words: "The task was cancelled on the host.",
        hint: "",
    },
    Meaning {
        names: &["InvalidArgument", "InvalidRequest", "InvalidDeviceSpec", "GenericVmConfigFault", "VmConfigFault"],
        kind: ErrorKind::Refused,
        code: "esxi.invalid_argument",
        words: "The host did not accept the request.",
        hint: "The host's log (hostd.log) names the cause.",
    },
    Meaning {
        names: &["DuplicateName", "FileAlreadyExists", "AlreadyExists"],
        kind: ErrorKind::Refused,
        code: "esxi.name_taken",
        words: "The name is taken.",
        hint: "Choose another name for the machine.",
    },
    Meaning {
        names: &["Timedout", "HostCommunication", "HostNotReachable"],
        kind: ErrorKind::Timeout,
        code: "esxi.host_timeout",
        words: "The host gave up waiting.",
        hint: "It is tried again later.",
    },
];

const UNKNOWN: Meaning = Meaning {
    names: &[],
    kind: ErrorKind::Refused,
    code: "esxi.fault",
    words: "The host refused.",
    hint: "The host's event log names the cause.",
};

fn meaning(name: &str) -> &'static Meaning {
    MEANINGS.iter().find(|meaning| meaning.names.contains(&name)).unwrap_or(&UNKNOWN)
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esxi::soap::read_answer;
    use crate::esxi::xml::parse;

    const REFUSED: &str = r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
        xmlns:s="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault>
        <faultcode>ServerFaultCode</faultcode><faultstring>Permission to perform this operation was denied.</faultstring>
        <detail><NoPermissionFault xmlns="urn:vim25" s:type="NoPermission"><object type="Folder">ha-root</object>
        <privilegeId>VirtualMachine.State.CreateSnapshot</privilegeId></NoPermissionFault></detail>
        </soapenv:Fault></soapenv:Body></soapenv:Envelope>"#;

    #[test]
    fn a_fault_is_read_with_its_telling_field() {
        let fault = read_answer(REFUSED).unwrap().unwrap_err();
        assert_eq!(fault.name, "NoPermission");
        let error = fault.into_error("esxi1", "snapshot of web");
        assert_eq!(error.kind, ErrorKind::Permission);
        assert_eq!(
            error.to_string(),
            "esxi1: snapshot of web: Permission to perform this operation was denied. \
             (NoPermission, privilegeId: VirtualMachine.State.CreateSnapshot)"
        );
    }

    #[test]
    fn a_fault_without_type_is_named_by_its_element() {
        let fault = parse("<Fault><faultstring/><detail><InvalidLoginFault/></detail></Fault>").unwrap();
        assert_eq!(Fault::from_soap(&fault).name, "InvalidLogin");
        let bare = parse("<Fault><faultstring>Out of HTTP sessions</faultstring></Fault>").unwrap();
        assert_eq!(Fault::from_soap(&bare).message, "Out of HTTP sessions");
    }

    #[test]
    fn a_task_error_keeps_its_message_and_details() {
        let node = parse(
            r#"<error xmlns:x="http://www.w3.org/2001/XMLSchema-instance"><fault x:type="ApplicationQuiesceFault">
               <faultMessage><key>k</key><message>The guest OS has reported an error.</message></faultMessage></fault>
               <localizedMessage>Failed to quiesce.</localizedMessage></error>"#,
        )
        .unwrap();
        let fault = Fault::from_localized(&node);
        assert_eq!(fault.name, "ApplicationQuiesceFault");
        assert_eq!(fault.message, "Failed to quiesce. The guest OS has reported an error.");
    }

    #[test]
    fn known_faults_have_their_kind_and_a_hint() {
        let expected = [
            ("InvalidLogin", ErrorKind::Login),
            ("RestrictedVersion", ErrorKind::Licence),
            ("NoPermission", ErrorKind::Permission),
            ("FileFault", ErrorKind::Refused),
            ("FileLocked", ErrorKind::Busy),
            ("InvalidArgument", ErrorKind::Refused),
            ("TaskInProgress", ErrorKind::Busy),
            ("InvalidPowerState", ErrorKind::Refused),
            ("SnapshotFault", ErrorKind::Refused),
            ("ApplicationQuiesceFault", ErrorKind::Refused),
            ("NoDiskSpace", ErrorKind::NoSpace),
            ("ManagedObjectNotFound", ErrorKind::NotFound),
            ("SomethingNew", ErrorKind::Refused),
        ];
        for (name, kind) in expected {
            let error = Fault { name: name.into(), ..Fault::default() }.into_error("h", "a");
            assert_eq!(error.kind, kind, "{name}");
            assert!(!error.hint.is_empty() && error.reason.contains(name), "{name}: {error:?}");
        }
    }
}
