//! Faults as a Windows host gives them, with the codes of `wsmerror.h`.

use std::fmt::Write as _;

use super::names;
use crate::hyperv::crimes::Rule;
use crate::xml::escape_into;

/// Codes of faults, `wsmerror.h` and `wbemcli.h`.
pub(crate) mod code {
    pub const RESOURCE_NOT_FOUND: u32 = 0x8033_8000;
    pub const INVALID_ACTION: u32 = 0x8033_8001;
    pub const CANNOT_PROCESS_FILTER: u32 = 0x8033_801A;
    pub const INVALID_CONTEXT: u32 = 0x8033_801B;
    pub const INVALID_RESOURCE_URI: u32 = 0x8033_803B;
    pub const INVALID_SELECTORS: u32 = 0x8033_803D;
    pub const SCHEMA_VALIDATION: u32 = 0x8033_8041;
    pub const INVALID_XML: u32 = 0x8033_8043;
    pub const ENVELOPE_SIZE: u32 = 0x8033_8047;
    pub const WBEM_NOT_FOUND: u32 = 0x8004_1002;
    pub const WBEM_INVALID_METHOD_PARAMETERS: u32 = 0x8004_102F;
}

/// A SOAP fault.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub receiver: bool,
    /// Qualified with the envelope's prefixes: `a:`, `n:`, `w:`, or empty.
    pub subcode: String,
    pub code: u32,
    pub reason: String,
    /// The rule of the wire that the client broke.
    pub broken: Option<Rule>,
}

impl Fault {
    pub fn new(subcode: impl Into<String>, code: u32, reason: impl Into<String>) -> Self {
        Self { receiver: false, subcode: subcode.into(), code, reason: reason.into(), broken: None }
    }

    /// The same, with the blame.
    #[must_use]
    pub fn breaks(mut self, rule: Rule) -> Self {
        self.broken = Some(rule);
        self
    }

    pub fn schema(reason: impl std::fmt::Display) -> Self {
        let reason = format!(
            "The SOAP XML in the message does not match the corresponding XML schema definition. Change the XML and retry. {reason}"
        );
        Self::new("w:SchemaValidationError", code::SCHEMA_VALIDATION, reason)
    }

    pub fn not_found(what: impl std::fmt::Display) -> Self {
        let reason = format!(
            "The WS-Management service cannot process the request. The service cannot find the resource identified by the resource URI and selectors. {what}"
        );
        Self::new("a:DestinationUnreachable", code::RESOURCE_NOT_FOUND, reason)
    }

    pub fn filter(reason: impl std::fmt::Display) -> Self {
        let reason = format!(
            "The data source could not process the filter. The filter might be missing or it might be invalid. {reason}"
        );
        Self::new("n:CannotProcessFilter", code::CANNOT_PROCESS_FILTER, reason)
    }

    pub fn header(name: &str) -> Self {
        let reason = format!("A required WS-Addressing or WS-Management header is missing: {name}.");
        Self::new("a:MessageInformationHeaderRequired", code::INVALID_XML, reason).breaks(Rule::Envelope)
    }

    pub fn internal(code: u32, reason: impl Into<String>) -> Self {
        Self { receiver: true, ..Self::new("w:InternalError", code, reason) }
    }

    /// The body's content.
    pub fn write(&self, machine: &str) -> String {
        let mut out = String::from("<s:Fault><s:Code><s:Value>");
        out += if self.receiver { "s:Receiver" } else { "s:Sender" };
        out += "</s:Value>";
        if !self.subcode.is_empty() {
            let _ = write!(out, "<s:Subcode><s:Value>{}</s:Value></s:Subcode>", self.subcode);
        }
        out += "</s:Code><s:Reason><s:Text xml:lang=\"en-US\">";
        escape_into(&mut out, &self.reason);
        let _ = write!(
            out,
            "</s:Text></s:Reason><s:Detail><f:WSManFault xmlns:f=\"{}\" Code=\"{}\" Machine=\"",
            names::WSMAN_FAULT,
            self.code
        );
        escape_into(&mut out, machine);
        out += "\"><f:Message>";
        escape_into(&mut out, &self.reason);
        out += "</f:Message></f:WSManFault></s:Detail></s:Fault>";
        out
    }
}
