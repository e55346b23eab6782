//! What a guest says of itself by its integration services: which system it is, and its addresses. Nothing but words for
//! people comes of it; a guest may say anything.

use super::model::all;
use super::wire::Wsman;
use super::wmi::{Instance, read_embedded};
use crate::MachineInfo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The integration service that passes a guest's words on.
const EXCHANGE: &str = "Msvm_KvpExchangeComponent";
/// Words of one guest, their length, and the addresses of one word that are looked at.
const MAX_ITEMS: usize = 64;
const MAX_ITEM_BYTES: usize = 8192;
const MAX_NAME_CHARS: usize = 100;
const MAX_ADDRESSES: usize = 32;

/// Adds what guests say to their machines. A host that does not tell is no error.
pub(super) async fn add(wsman: &dyn Wsman, machines: &mut [MachineInfo]) {
    let rows = match all(wsman, EXCHANGE).await {
        Ok(rows) => rows,
        Err(error) => {
            tracing::debug!(host = wsman.host(), cause = error.reason(), "guests' own words are not to be had");
            return;
        }
    };
    for machine in machines {
        let own = rows.iter().find(|row| row.word("SystemName").eq_ignore_ascii_case(&machine.reference.0));
        if let Some(row) = own {
            (machine.guest_name, machine.guest_address) = read(row);
        }
    }
}

/// Name of the system, and the first address that others can reach.
fn read(row: &Instance) -> (String, Option<String>) {
    let items = row.list("GuestIntrinsicExchangeItems");
    let items = items.into_iter().take(MAX_ITEMS).filter(|item| item.len() <= MAX_ITEM_BYTES).filter_map(read_embedded);
    let (mut name, mut v4, mut v6) = (String::new(), None, None);
    for item in items {
        let data = item.word("Data");
        match item.word("Name") {
            "OSName" => name = data.chars().filter(|c| !c.is_control()).take(MAX_NAME_CHARS).collect(),
            "NetworkAddressIPv4" => v4 = v4.or_else(|| addresses(data).find(IpAddr::is_ipv4)),
            "NetworkAddressIPv6" => v6 = v6.or_else(|| addresses(data).find(IpAddr::is_ipv6)),
            _ => {}
        }
    }
    (name.trim().to_owned(), v4.or(v6).map(|address| address.to_string()))
}

/// The addresses of a list, without those that mean nothing outside of the guest.
fn addresses(list: &str) -> impl Iterator<Item = IpAddr> {
    let parsed = list.split(';').take(MAX_ADDRESSES).filter_map(|text| text.trim().parse::<IpAddr>().ok());
    parsed.filter(|address| match address {
        IpAddr::V4(v4) => is_plain_v4(*v4),
        IpAddr::V6(v6) => is_plain_v6(*v6),
    })
}

const fn is_plain_v4(address: Ipv4Addr) -> bool {
    let is_everybody = address.is_multicast() || address.is_broadcast();
    !(address.is_unspecified() || address.is_loopback() || address.is_link_local() || is_everybody)
}

const fn is_plain_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_unicast_link_local() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, data: &str) -> String {
        format!(
            "<INSTANCE CLASSNAME=\"Msvm_KvpExchangeDataItem\"><PROPERTY NAME=\"Data\" TYPE=\"string\"><VALUE>{data}\
             </VALUE></PROPERTY><PROPERTY NAME=\"Name\" TYPE=\"string\"><VALUE>{name}</VALUE></PROPERTY></INSTANCE>"
        )
    }

    fn said(items: &[String]) -> (String, Option<String>) {
        let items: Vec<(&str, &str)> =
            items.iter().map(|item| ("GuestIntrinsicExchangeItems", item.as_str())).collect();
        read(&Instance::of(EXCHANGE, &items))
    }

    #[test]
    fn a_guest_says_its_system_and_an_address_that_others_reach() {
        let found = said(&[
            item("NetworkAddressIPv6", "fe80::1;2001:db8::5"),
            item("OSName", " Windows Server 2022 Datacenter "),
            item("NetworkAddressIPv4", "127.0.0.1;169.254.3.4;192.0.2.10;192.0.2.11"),
        ]);
        assert_eq!(found, ("Windows Server 2022 Datacenter".to_owned(), Some("192.0.2.10".to_owned())));
        assert_eq!(said(&[item("NetworkAddressIPv6", "fe80::1;2001:db8::5")]).1.as_deref(), Some("2001:db8::5"));
    }

    #[test]
    fn whatever_a_guest_says_does_no_harm() {
        let long = item("OSName", &"x".repeat(MAX_ITEM_BYTES));
        let many = "192.0.2.300;".repeat(1000) + "192.0.2.1";
        for items in [
            vec![],
            vec!["no xml".to_owned(), "<INSTANCE/>".to_owned(), String::new()],
            vec![long],
            vec![item("NetworkAddressIPv4", "&lt;b&gt;;;0.0.0.0;::1;224.0.0.1")],
            vec![item("NetworkAddressIPv4", &many)],
        ] {
            assert_eq!(said(&items), (String::new(), None), "{items:?}");
        }
        assert_eq!(said(&[item("OSName", &"x".repeat(500))]).0.len(), MAX_NAME_CHARS);
        assert_eq!(said(&[item("OSName", "a&#7;b")]).0, "ab");
    }
}
