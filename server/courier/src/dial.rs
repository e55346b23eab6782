//! Which addresses are dialled.

use domain::address::is_forbidden;
use std::io;
use std::net::{IpAddr, SocketAddr};

const NOT_ALLOWED: &str = "the address is link-local or otherwise not allowed";

/// Addresses of a name, or the address itself, that may be dialled.
pub async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await?.collect();
    let allowed: Vec<SocketAddr> = found.iter().copied().filter(|address| !is_forbidden(address.ip())).collect();
    if allowed.is_empty() {
        let why = if found.is_empty() { "the name has no address" } else { NOT_ALLOWED };
        return Err(io::Error::other(why));
    }
    Ok(allowed)
}

/// The same where the HTTP client resolves names.
#[derive(Debug, Clone, Copy)]
pub struct GuardedResolver;

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let addresses = resolve(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// An address in a URL is not resolved, so the client would not ask.
pub fn refuse_literal(url: &url::Url) -> Result<(), &'static str> {
    let address = match url.host() {
        Some(url::Host::Ipv4(v4)) => IpAddr::V4(v4),
        Some(url::Host::Ipv6(v6)) => IpAddr::V6(v6),
        Some(url::Host::Domain(_)) => return Ok(()),
        None => return Err("it names no server"),
    };
    if is_forbidden(address) { Err(NOT_ALLOWED) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn metadata_and_link_local_addresses_are_not_dialled() {
        for host in ["169.254.169.254", "[fe80::1]", "::ffff:169.254.169.254", "0.0.0.0", "fd00:ec2::254"] {
            assert!(resolve(host, 80).await.is_err(), "{host}");
        }
        assert!(resolve("127.0.0.1", 80).await.is_ok());
        for url in ["http://169.254.169.254/latest", "http://2852039166/", "http://[fe80::1]/", "http://0xa9fea9fe/"] {
            assert!(refuse_literal(&url.parse().unwrap()).is_err(), "{url}");
        }
        assert!(refuse_literal(&"https://127.0.0.1/".parse().unwrap()).is_ok());
    }
}
