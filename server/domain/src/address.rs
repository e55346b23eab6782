//! Addresses that the server never dials, whatever an operator or a name server says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The instance-metadata addresses of clouds that lie outside the link-local ranges.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// Link-local, metadata, unspecified and multicast addresses are never dialled: nothing there is a hypervisor or takes
/// notices, and a console must not be a way to reach what only its own machine can reach. Loopback is allowed, for
/// simulated hosts and relays on the server itself.
pub fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_forbidden_v4(v4),
            None => v6.is_unicast_link_local() || v6 == METADATA_V6 || v6.is_unspecified() || v6.is_multicast(),
        },
    }
}

const fn is_forbidden_v4(v4: Ipv4Addr) -> bool {
    v4.is_link_local() || v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast()
}
