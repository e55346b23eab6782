//! SOAP faults: their types, texts and form on the wire.

use std::fmt::Write as _;

use super::schema::Version;
use super::value::{MoRef, Object, Value};
use crate::xml::escape_into;

/// A fault, as an answer to a call or as the error of a task or lease.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SoapFault {
    /// The detail, e.g. an `InvalidLogin`.
    pub detail: Object,
    /// Text for people.
    pub message: String,
}

impl SoapFault {
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { detail: Object::new(kind), message: message.into() }
    }

    fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.detail = self.detail.with(name, value);
        self
    }

    pub fn kind(&self) -> &str {
        &self.detail.kind
    }

    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new("InvalidRequest", message)
    }

    pub fn not_authenticated() -> Self {
        Self::new("NotAuthenticated", "The session is not authenticated.")
            .with("object", MoRef::new("Folder", "ha-folder-root"))
            .with("privilegeId", "System.View")
    }

    pub fn invalid_login() -> Self {
        Self::new("InvalidLogin", "Cannot complete login due to an incorrect user name or password.")
    }

    pub fn restricted() -> Self {
        Self::new(
            "RestrictedVersion",
            "Current license or ESXi version prohibits execution of the requested operation.",
        )
    }

    pub fn invalid_argument(property: &'static str) -> Self {
        Self::new("InvalidArgument", format!("A specified parameter was not correct: {property}"))
            .with("invalidProperty", property)
    }

    pub fn invalid_property(name: &str) -> Self {
        Self::new("InvalidProperty", format!("Property {name} does not exist.")).with("name", name)
    }

    pub fn not_found(object: &MoRef) -> Self {
        Self::new(
            "ManagedObjectNotFound",
            format!(
                "The object '{}:{}' has already been deleted or has not been completely created",
                object.kind, object.id
            ),
        )
        .with("obj", object)
    }

    pub fn power_state(existing: &'static str, wanted: Option<&'static str>) -> Self {
        let fault = Self::new("InvalidPowerState", "The attempted operation cannot be performed in the current state.")
            .with("existingState", Value::enumeration("VirtualMachinePowerState", existing));
        match wanted {
            Some(wanted) => fault.with("requestedState", Value::enumeration("VirtualMachinePowerState", wanted)),
            None => fault,
        }
    }

    pub fn invalid_state(message: impl Into<String>) -> Self {
        Self::new("InvalidState", message)
    }

    pub fn file(kind: &'static str, file: &str, message: impl Into<String>) -> Self {
        Self::new(kind, message).with("file", file)
    }

    pub fn locked(file: &str) -> Self {
        Self::file("FileLocked", file, format!("Unable to access file {file} since it is locked"))
    }

    pub fn busy(task: &MoRef) -> Self {
        Self::new(
            "TaskInProgress",
            "The operation is not allowed in the current state: another task is already in progress.",
        )
        .with("task", task)
    }

    pub fn duplicate_name(name: &str, object: &MoRef) -> Self {
        Self::new("DuplicateName", format!("The name '{name}' already exists."))
            .with("name", name)
            .with("object", object)
    }

    pub fn device(index: usize, property: &str) -> Self {
        Self::new("InvalidDeviceSpec", format!("Invalid configuration for device '{index}'."))
            .with("property", property)
            .with("deviceIndex", index as i32)
    }

    pub fn system(message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new("SystemError", format!("A general system error occurred: {message}")).with("reason", message)
    }

    /// The fault as a `LocalizedMethodFault`, the form in tasks, leases and missing sets.
    pub fn localized(&self) -> Object {
        Object::new("LocalizedMethodFault").with("fault", self.detail.clone()).with("localizedMessage", &self.message)
    }

    /// Appends `<soapenv:Fault>…`.
    pub fn write(&self, out: &mut String, version: Version) {
        out.push_str("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>");
        escape_into(out, &self.message);
        let kind = self.kind();
        let _ = write!(out, "</faultstring><detail><{kind}Fault xmlns=\"urn:vim25\" xsi:type=\"{kind}\">");
        self.detail.write_fields(out, version);
        let _ = write!(out, "</{kind}Fault></detail></soapenv:Fault>");
    }
}

impl From<std::io::Error> for SoapFault {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::StorageFull {
            return Self::new("NoDiskSpace", "Insufficient disk space on datastore.");
        }
        Self::system(error.to_string())
    }
}

impl From<crate::SimulatorError> for SoapFault {
    fn from(error: crate::SimulatorError) -> Self {
        use std::error::Error as _;
        match error.source() {
            Some(source) => Self::system(format!("{error}: {source}")),
            None => Self::system(error.to_string()),
        }
    }
}
