//! Where a device is and how one signs in, as it is typed: the part that adding and changing a device share.
//!
//! Must never: hold the password.

use crate::form::{Fields, Problems};
use db::views::DevicePage;
use db::{HyperVAccess, Platform, Transport};
use serde::{Deserialize, Serialize};

/// Longest name of a device.
const NAME_LENGTH_MAX_CHARS: usize = 200;
/// Longest host name there is.
const HOST_LENGTH_MAX_CHARS: usize = 253;
/// Longest account name.
const ACCOUNT_LENGTH_MAX_CHARS: usize = 200;

/// What was typed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Place {
    #[serde(default)]
    pub platform: Platform,
    pub name: String,
    pub host: String,
    pub port: String,
    pub account: String,
    /// Of Hyper-V only.
    #[serde(default)]
    pub transport: Transport,
    /// Port of its file shares; of Hyper-V only.
    #[serde(default)]
    pub share_port: String,
}

impl Place {
    /// Nothing is typed yet.
    pub fn of_platform(platform: Platform) -> Self {
        Self { platform, ..Self::default() }
    }

    /// As a device has it.
    pub fn of(device: &DevicePage) -> Self {
        Self {
            platform: device.platform,
            name: device.name.clone(),
            host: device.host.clone(),
            port: device.port.to_string(),
            account: device.account.clone(),
            transport: device.hyperv.transport,
            share_port: device.hyperv.share_port.to_string(),
        }
    }

    /// As a form has it; an empty port is the usual one.
    pub fn read(platform: Platform, fields: &Fields) -> Self {
        let or = |field: &str, usual: u16| {
            if fields.has(field) { fields.get(field).to_owned() } else { usual.to_string() }
        };
        let wanted = fields.get("transport");
        let transport = Transport::ALL.into_iter().find(|transport| transport.as_str() == wanted).unwrap_or_default();
        Self {
            platform,
            name: fields.get("name").to_owned(),
            host: fields.get("host").to_owned(),
            port: or("port", usual_port(platform, transport)),
            account: fields.get("account").to_owned(),
            transport,
            share_port: or("share_port", HyperVAccess::SHARE_PORT),
        }
    }

    /// What is wrong with it.
    pub fn problems(&self) -> Problems {
        let mut problems = Problems::default();
        problems.require("name", &self.name, NAME_LENGTH_MAX_CHARS, "The name");
        problems.require("host", &self.host, HOST_LENGTH_MAX_CHARS, "The address");
        problems.require("account", &self.account, ACCOUNT_LENGTH_MAX_CHARS, "The account");
        let host = &self.host;
        if host.contains("://") || host.contains(['/', '\\', '@']) || host.contains(char::is_whitespace) {
            problems.add("host", "Only the name or address, without “https://” and without a path.");
        }
        if self.port().is_none() {
            problems.add("port", format!("A number from 1 to 65535; empty for {}.", self.usual_port()));
        }
        if self.is_hyperv() && self.hyperv().is_none() {
            problems.add("share_port", "A number from 1 to 65535; empty for 445.");
        }
        let other = match self.transport {
            Transport::SealedHttp => Transport::default(),
            Transport::TlsNtlm | Transport::TlsBasic => Transport::SealedHttp,
        };
        if self.is_hyperv() && self.port() == Some(other.default_port()) {
            let (other, usual) = (other.default_port(), self.usual_port());
            problems.add(
                "port",
                format!("{other} is Windows’ port for the other kind of connection; {usual} is the one for this."),
            );
        }
        problems
    }

    /// Port of the API, when it is one.
    pub fn port(&self) -> Option<u16> {
        self.port.parse().ok().filter(|port| *port > 0)
    }

    /// How a Hyper-V host is reached, when its port is one; the default for other platforms.
    pub fn hyperv(&self) -> Option<HyperVAccess> {
        if !self.is_hyperv() {
            return Some(HyperVAccess::default());
        }
        let share_port = self.share_port.parse().ok().filter(|port| *port > 0)?;
        Some(HyperVAccess { transport: self.transport, share_port })
    }

    /// Whether there is a certificate to compare.
    pub fn has_certificate(&self) -> bool {
        HyperVAccess { transport: self.transport, ..HyperVAccess::default() }.has_certificate(self.platform)
    }

    /// Of this platform.
    pub fn is_hyperv(&self) -> bool {
        self.platform == Platform::HyperV
    }

    /// What the fields of the address ask for.
    pub fn host_hint(&self) -> &'static str {
        match self.platform {
            Platform::Esxi => "Name or IP address of the ESXi host, such as esx-01.example.com.",
            Platform::HyperV => "Name or IP address of the Hyper-V host, such as hv-01.example.com.",
        }
    }

    /// What an empty port stands for.
    pub fn usual_port(&self) -> u16 {
        usual_port(self.platform, self.transport)
    }

    /// Where hosts of the platform listen.
    pub fn port_hint(&self) -> &'static str {
        match self.platform {
            Platform::Esxi => "Empty for 443.",
            Platform::HyperV => "Empty for 5986 with TLS, for 5985 without.",
        }
    }

    /// Who can sign in.
    pub fn account_hint(&self) -> &'static str {
        match self.platform {
            Platform::Esxi => "With rights to make snapshots and to create machines.",
            Platform::HyperV => "An administrator of the host, such as Administrator or DOMAIN\\backup.",
        }
    }

    /// The chosen way, by name.
    pub fn connection(&self) -> &'static str {
        transport_words(self.transport).0
    }

    /// The ways to a Hyper-V host: word of the form, name, what to know about it, whether it is chosen.
    pub fn transports(&self) -> Vec<(&'static str, &'static str, &'static str, bool)> {
        Transport::ALL
            .into_iter()
            .map(|transport| {
                let (name, text) = transport_words(transport);
                (transport.as_str(), name, text, transport == self.transport)
            })
            .collect()
    }
}

/// Where hosts of a platform listen if nobody changed it.
pub const fn usual_port(platform: Platform, transport: Transport) -> u16 {
    match platform {
        Platform::Esxi => 443,
        Platform::HyperV => transport.default_port(),
    }
}

/// A transport's name, and what to know about it.
pub const fn transport_words(transport: Transport) -> (&'static str, &'static str) {
    match transport {
        Transport::TlsNtlm => (
            "TLS, signed in with NTLM",
            "The usual choice. The host is known by its certificate, and the password itself is never sent.",
        ),
        Transport::TlsBasic => (
            "TLS, signed in with the password",
            "For hosts that forbid NTLM and allow Basic. The password goes to the confirmed host only, inside TLS.",
        ),
        Transport::SealedHttp => (
            "Without TLS, sealed by NTLM",
            "For hosts without a certificate. Every message is encrypted, but nothing proves which host answers: keep it to a network you trust.",
        ),
    }
}
