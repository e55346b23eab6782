//! Where a host is, how long to wait for it, and the sorting of what goes wrong underneath.

use crate::tls;
use crate::{ErrorKind, HostError};
use std::net::IpAddr;
use std::time::Duration;
use url::Host;

/// The path WS-Management listens on.
pub(super) const PATH: &str = "/wsman";

/// How a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TLS to the pinned certificate (usually 5986), logging in with NTLM.
    TlsNtlm,
    /// TLS to the pinned certificate, logging in with Basic: the host reads the password within TLS.
    TlsBasic,
    /// HTTP (usually 5985): NTLM logs in, and seals every message. No password ever goes over it.
    SealedHttp,
}

impl Transport {
    /// The port Windows listens on for it.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::TlsNtlm | Self::TlsBasic => 5986,
            Self::SealedHttp => 5985,
        }
    }

    pub(super) const fn is_tls(self) -> bool {
        !matches!(self, Self::SealedHttp)
    }
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection, its TLS handshake and each step of the login.
    pub connect: Duration,
    /// For the answer to one request.
    pub call: Duration,
    /// For a job that changes a setting, a state or a machine.
    pub job: Duration,
    /// For a checkpoint to be made.
    pub create_snapshot: Duration,
    /// For a checkpoint to be removed, and its disks to be merged.
    pub remove_snapshot: Duration,
    /// For the effect of a call whose answer was lost, or of a job that was given up, to show.
    pub settle: Duration,
    /// Longest silence of the host's files.
    pub files_silent: Duration,
    /// For the host's files to come back when they were lost in mid-copy.
    pub files_lost: Duration,
    /// First pause before another try, or another look; doubled each time.
    pub back_off: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            call: Duration::from_secs(90),
            job: Duration::from_secs(10 * 60),
            create_snapshot: Duration::from_secs(30 * 60),
            remove_snapshot: Duration::from_secs(6 * 60 * 60),
            settle: Duration::from_secs(120),
            files_silent: Duration::from_secs(20),
            files_lost: Duration::from_secs(90),
            back_off: Duration::from_millis(500),
        }
    }
}

impl Timeouts {
    /// Between looks at a machine that works on what was asked.
    pub(in crate::hyperv) fn look_again(&self) -> Duration {
        self.back_off * 5
    }
}

/// Address of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hyperv) struct Endpoint {
    /// As in a URL: an IPv6 address is in brackets.
    pub host: String,
    pub port: u16,
    pub is_tls: bool,
}

impl Endpoint {
    /// Refuses what is not a plain host name or address, and addresses that are never dialled.
    pub(in crate::hyperv) fn new(host: &str, port: u16, transport: Transport) -> Result<Self, HostError> {
        let plain = host.trim_matches(['[', ']']);
        let endpoint = Self { host: plain.to_owned(), port, is_tls: transport.is_tls() };
        let refuse = |reason: &str| HostError {
            hint: "Enter the host's name or address alone, without https:// and without a path.".into(),
            ..endpoint.error(ErrorKind::Unreachable, "host.bad_address", "connect", reason)
        };
        let written = if plain.contains(':') { format!("[{plain}]") } else { plain.to_owned() };
        let parsed = Host::parse(&written).map_err(|_| refuse("this is no host name"))?;
        let address = match &parsed {
            Host::Ipv4(v4) => Some(IpAddr::V4(*v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(*v6)),
            Host::Domain(_) => None,
        };
        if address.is_some_and(tls::is_forbidden) {
            return Err(refuse("link-local, multicast and metadata addresses are not allowed for a host"));
        }
        Ok(Self { host: parsed.to_string(), ..endpoint })
    }

    /// The host without brackets, as it is looked up and dialled.
    pub(super) fn plain(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    pub(super) fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// What a request's `To` says.
    pub(in crate::hyperv) fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}:{}{PATH}", self.host, self.port)
    }

    pub(in crate::hyperv) fn name(&self) -> String {
        if matches!(self.port, 5985 | 5986) { self.host.clone() } else { self.authority() }
    }

    pub(in crate::hyperv) fn error(
        &self,
        kind: ErrorKind,
        code: &'static str,
        attempt: impl Into<String>,
        reason: impl Into<String>,
    ) -> HostError {
        let hint = match kind {
            ErrorKind::Interrupted | ErrorKind::Unreachable | ErrorKind::Timeout => {
                "Check that the host is up, that WinRM listens on this port, and that a firewall lets this server reach it."
            }
            ErrorKind::Protocol => {
                "The host answered in a way it should not; please report it with the host's version."
            }
            _ => "",
        };
        HostError {
            kind,
            code,
            host: self.name(),
            attempt: attempt.into(),
            reason: reason.into(),
            hint: hint.into(),
            source: None,
        }
    }

    pub(super) fn login_refused(&self, reason: impl Into<String>) -> HostError {
        HostError {
            hint:
                "Check account and password (DOMAIN\\user, user@domain, or a local user). A local account other than \
                the built-in Administrator must be in the group Remote Management Users or Administrators."
                    .into(),
            ..self.error(ErrorKind::Login, "hyperv.login_refused", "log in", reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_plain_and_allowed() {
        let endpoint = |host| Endpoint::new(host, 5986, Transport::TlsNtlm);
        assert_eq!(endpoint("hv1.example.org").unwrap().url(), "https://hv1.example.org:5986/wsman");
        assert_eq!(endpoint("::1").unwrap().url(), "https://[::1]:5986/wsman");
        assert_eq!(endpoint("::1").unwrap().plain(), "::1");
        assert_eq!(Endpoint::new("h", 5985, Transport::SealedHttp).unwrap().url(), "http://h:5985/wsman");
        for bad in [
            "",
            "https://h",
            "h/wsman",
            "user@h",
            "h 1",
            "h?x",
            "169.254.169.254",
            "2852039166",
            "[fe80::1]",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
