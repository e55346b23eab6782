//! What a host refuses, by fault, by return value or by a job's end, and what it means to an operator.

use super::xml::Node;
use crate::{ErrorKind, HostError};

/// Longest text of a host that is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 500;

/// A refusal: its names, the most telling first (`0x80041003`, `5`, `AccessDenied`, `32775` …), and the host's words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::hyperv) struct Fault {
    pub names: Vec<String>,
    pub message: String,
}

impl Fault {
    /// From the `Fault` element of a SOAP body: subcode, `WSManFault`'s code, the WMI provider's own.
    pub(in crate::hyperv) fn from_soap(fault: &Node) -> Self {
        let detail = fault.child("Detail");
        let wsman = detail.and_then(|detail| detail.child("WSManFault"));
        let wmi = detail.and_then(|detail| detail.find("error_Code"));
        let code = |text: &str| text.trim().parse::<u32>().ok();
        let mut names: Vec<String> = Vec::new();
        names.extend(wmi.and_then(|node| code(&node.text)).map(code_name));
        names.extend(wsman.and_then(|node| code(node.attribute("Code")?)).map(code_name));
        let subcode = fault.text_at(&["Code", "Subcode", "Value"]).unwrap_or_default();
        let local = subcode.rsplit_once(':').map_or(subcode, |(_, local)| local);
        names.extend(Some(shorten(local)).filter(|name| !name.is_empty()));
        names.dedup();
        let reason = fault.text_at(&["Reason", "Text"]).unwrap_or_default();
        let provider = wsman.and_then(|node| node.find("ProviderFault")).map(all_text).unwrap_or_default();
        let said = wsman.and_then(|node| node.child("Message")).map(all_text).unwrap_or_default();
        let mut message = shorten(reason);
        for more in [said, provider] {
            let more = shorten(&more);
            if !more.is_empty() && !message.contains(&more) {
                message = shorten(&format!("{message} {more}"));
            }
        }
        Self { names, message: message.trim().to_owned() }
    }

    /// A method's return value that is not success. Small ones are CIM's own, and no codes of Windows.
    pub(in crate::hyperv) fn from_return(value: u64) -> Self {
        let name = if value < 32_768 { format!("return {value}") } else { value.to_string() };
        Self { names: vec![name], message: String::new() }
    }

    /// A job's error code, with its words.
    pub(in crate::hyperv) fn from_code(code: u32, message: &str) -> Self {
        Self { names: vec![code.to_string()], message: shorten(message).trim().to_owned() }
    }

    pub(in crate::hyperv) fn is_any(&self, names: &[&str]) -> bool {
        self.names.iter().any(|name| names.contains(&name.as_str()))
    }

    /// The thing that was asked for does not exist (any more).
    pub(in crate::hyperv) fn is_not_found(&self) -> bool {
        self.meaning().kind == ErrorKind::NotFound
    }

    /// The host knows no such class: its Windows is too old, or has no Hyper-V.
    pub(in crate::hyperv) fn is_missing_class(&self) -> bool {
        matches!(self.meaning().kind, ErrorKind::Unsupported | ErrorKind::NotFound)
    }

    /// The host's words with the telling names.
    pub(in crate::hyperv) fn reason(&self) -> String {
        let words = if self.message.is_empty() { self.meaning().words } else { &self.message };
        if self.names.is_empty() { words.to_owned() } else { format!("{words} ({})", self.names.join(", ")) }
    }

    pub(in crate::hyperv) fn into_error(self, host: &str, attempt: impl Into<String>) -> HostError {
        let meaning = self.meaning();
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

    fn meaning(&self) -> &'static Meaning {
        let known = |name: &String| MEANINGS.iter().find(|meaning| meaning.names.contains(&name.as_str()));
        self.names.iter().find_map(known).unwrap_or(&UNKNOWN)
    }
}

/// Small codes are Windows' own, large ones are written as its documentation does.
fn code_name(code: u32) -> String {
    if code < 0x8000_0000 { code.to_string() } else { format!("0x{code:08X}") }
}

fn all_text(node: &Node) -> String {
    let mut text = node.text.trim().to_owned();
    for child in &node.children {
        let inner = all_text(child);
        if !inner.is_empty() {
            text = format!("{text} {inner}");
        }
    }
    text
}

fn shorten(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect()
}

struct Meaning {
    names: &'static [&'static str],
    kind: ErrorKind,
    code: &'static str,
    /// For hosts that send no words.
    words: &'static str,
    hint: &'static str,
}

pub(in crate::hyperv) const RIGHTS_HINT: &str = "Put the account into the group Hyper-V Administrators (and Remote \
    Management Users), or make it a local administrator. Windows strips the rights of local administrators over the \
    network unless LocalAccountTokenFilterPolicy is 1 or the account is the built-in Administrator.";

/// Subcodes of DSP0226, codes of winerror.h, wbemcli.h and the return values of `hyperv_v2`.
const MEANINGS: &[Meaning] = &[
    Meaning {
        names: &["AccessDenied", "5", "0x80041003", "0x80070005", "32769"],
        kind: ErrorKind::Permission,
        code: "hyperv.no_permission",
        words: "The account may not do this.",
        hint: RIGHTS_HINT,
    },
    Meaning {
        names: &[
            "InvalidSelectors",
            "0x80041002",
            "0x80338000",
            "0x8033803D",
            "0x8033805B",
            "32779",
            "DestinationUnreachable",
        ],
        kind: ErrorKind::NotFound,
        code: "hyperv.not_found",
        words: "It is not there (any more).",
        hint: "Refresh the inventory; the machine or checkpoint may have been removed or moved.",
    },
    Meaning {
        names: &["0x8004100E", "0x80041010", "0x8033803B"],
        kind: ErrorKind::Unsupported,
        code: "hyperv.not_hyperv",
        words: "The host knows no such class.",
        hint: "Check that the Hyper-V role is installed, and that the host is Windows Server 2016, Windows 10 or newer.",
    },
    Meaning {
        names: &["QuotaLimit", "0x803381A4", "0x803381A5", "0x803381A6", "Concurrency", "0x80041069"],
        kind: ErrorKind::Busy,
        code: "hyperv.quota",
        words: "The host's limit of requests or memory is reached.",
        hint: "It is tried again later. Raise MaxConcurrentOperationsPerUser or MemoryLimit of WinRM if it stays.",
    },
    Meaning {
        names: &["EncodingLimit", "0x80338048"],
        kind: ErrorKind::Refused,
        code: "hyperv.answer_too_large",
        words: "The answer is larger than the host may send.",
        hint: "Raise MaxEnvelopeSizekb of WinRM on the host.",
    },
    Meaning {
        names: &["TimedOut", "0x80338029", "32772"],
        kind: ErrorKind::Timeout,
        code: "hyperv.timed_out",
        words: "The host gave up waiting.",
        hint: "It is tried again later; see the load of the host.",
    },
    Meaning {
        names: &[
            "SchemaValidationError",
            "InvalidParameter",
            "InvalidMessageInformationHeader",
            "MessageInformationHeaderRequired",
            "InvalidXml",
            "32773",
            "32776",
            "0x80041008",
            "0x80041017",
            "0x8004102F",
        ],
        kind: ErrorKind::Refused,
        code: "hyperv.invalid_argument",
        words: "The host did not accept the request.",
        hint: "Please report it with the host's version and this text.",
    },
    Meaning {
        names: &[
            "CannotProcessFilter",
            "FilteringNotSupported",
            "FilterDialectRequestedUnavailable",
            "ActionNotSupported",
            "0x80338001",
            "UnsupportedFeature",
            "32770",
            "return 1",
        ],
        kind: ErrorKind::Unsupported,
        code: "hyperv.not_supported",
        words: "This host does not support it.",
        hint: "Check the host's version: Windows Server 2016, Windows 10 or newer is needed.",
    },
    Meaning {
        names: &["32775"],
        kind: ErrorKind::Busy,
        code: "hyperv.invalid_state",
        words: "The machine's state does not allow it now.",
        hint: "Another operation may work on the machine; see it in Hyper-V Manager. It is tried again later.",
    },
    Meaning {
        names: &["32774"],
        kind: ErrorKind::Busy,
        code: "hyperv.in_use",
        words: "The machine or a file of it is in use.",
        hint: "Another backup or a running export may hold it. It is tried again later.",
    },
    Meaning {
        names: &["32777", "32778", "EndpointUnavailable"],
        kind: ErrorKind::Busy,
        code: "hyperv.host_unavailable",
        words: "The host's service or its memory is not available.",
        hint: "Check the Virtual Machine Management service and the host's free memory.",
    },
    Meaning {
        names: &["112", "39", "0x80070070", "0x80070027"],
        kind: ErrorKind::NoSpace,
        code: "hyperv.no_space",
        words: "A volume of the host is full.",
        hint: "Free space on the volume: a checkpoint grows by what the guest writes while it exists.",
    },
    Meaning {
        names: &["InternalError", "32768", "return 2", "return 4"],
        kind: ErrorKind::Refused,
        code: "hyperv.failed",
        words: "The host failed to do it.",
        hint: "The host's event log (Hyper-V-VMMS, Hyper-V-Worker) names the cause.",
    },
];

const UNKNOWN: Meaning = Meaning {
    names: &[],
    kind: ErrorKind::Refused,
    code: "hyperv.fault",
    words: "The host refused.",
    hint: "The host's event log (Hyper-V-VMMS, Windows Remote Management) names the cause.",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperv::wire::xml::parse;

    const DENIED: &str = r#"<s:Fault xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Code><s:Value>s:Sender</s:Value>
        <s:Subcode><s:Value>w:AccessDenied</s:Value></s:Subcode></s:Code>
        <s:Reason><s:Text xml:lang="en-US">The WS-Management service cannot process the request.</s:Text></s:Reason>
        <s:Detail><f:WSManFault xmlns:f="http://schemas.microsoft.com/wbem/wsman/1/wsmanfault" Code="5" Machine="hv1">
        <f:Message><f:ProviderFault provider="WMI Provider" path="WsmWmiPl.dll"><f:WSManFault Code="2147749891"
        Machine="hv1"><f:Message>Access denied </f:Message></f:WSManFault></f:ProviderFault></f:Message>
        </f:WSManFault></s:Detail></s:Fault>"#;

    #[test]
    fn a_fault_says_what_to_do() {
        let error = Fault::from_soap(&parse(DENIED).unwrap()).into_error("hv1", "list machines");
        assert_eq!((error.kind, error.code), (ErrorKind::Permission, "hyperv.no_permission"));
        assert!(error.hint.contains("Hyper-V Administrators"));
        assert_eq!(
            error.to_string(),
            "hv1: list machines: The WS-Management service cannot process the request. Access denied (5, AccessDenied)"
        );
    }

    #[test]
    fn a_wmi_code_says_more_than_the_rest() {
        let fault = r#"<Fault><Code><Value>s:Receiver</Value><Subcode><Value>w:InternalError</Value></Subcode></Code>
            <Detail><p:MSFT_WmiError xmlns:p="x"><p:error_Code>2147749890</p:error_Code></p:MSFT_WmiError></Detail></Fault>"#;
        let fault = Fault::from_soap(&parse(fault).unwrap());
        assert_eq!(fault.names, ["0x80041002", "InternalError"]);
        assert!(fault.is_not_found());
    }

    #[test]
    fn codes_have_their_kind_and_a_hint() {
        for (code, kind) in [
            (32768, ErrorKind::Refused),
            (32769, ErrorKind::Permission),
            (32770, ErrorKind::Unsupported),
            (32773, ErrorKind::Refused),
            (32774, ErrorKind::Busy),
            (32775, ErrorKind::Busy),
            (32779, ErrorKind::NotFound),
            (47111, ErrorKind::Refused),
        ] {
            let error = Fault::from_code(code, "").into_error("h", "a");
            assert_eq!(error.kind, kind, "{code}");
            assert!(!error.hint.is_empty() && error.reason.contains(&code.to_string()), "{error:?}");
        }
    }
}
