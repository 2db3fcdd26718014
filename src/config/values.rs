//! The small languages inside quotes: names, prefixes, address and port ranges, MAC addresses, protocols. Each
//! function is pure; its error says what to write instead.

use std::net::{IpAddr, Ipv4Addr};

use ctl::key::PublicKey;
use dataplane::config::PortRange;
use dataplane::flow::proto;
use ipnet::IpNet;

/// Longest name of anything: it goes into paths, metrics and handshakes.
const NAME_CHARS_MAX: usize = 32;
/// More addresses than this in one pool is surely a typing error.
const POOL_ADDRESSES_MAX: u64 = 65_536;

/// A name.
pub(super) fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let good = !text.is_empty()
        && text.len() <= NAME_CHARS_MAX
        && text.chars().all(plain)
        && !text.starts_with(['.', '-']);
    if good {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 32 of a-z A-Z 0-9 _ - .".to_owned())
    }
}

/// A prefix, without host bits.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
    let prefix = interface_address(text)?;
    if prefix.trunc() == prefix {
        Ok(prefix)
    } else {
        Err(format!("write {}, without host bits", prefix.trunc()))
    }
}

/// A prefix; a single address stands for itself.
pub(super) fn prefix_or_address(text: &str) -> Result<IpNet, String> {
    text.parse::<IpAddr>().map(IpNet::from).or_else(|_| prefix(text))
}

/// An address with the length of its link's prefix.
pub(super) fn interface_address(text: &str) -> Result<IpNet, String> {
    text.parse()
        .map_err(|_| "write an address and a prefix length, as 192.0.2.0/24 or 2001:db8::/64".to_owned())
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse()
        .map_err(|_| "write an address, as 192.0.2.1 or 2001:db8::1".to_owned())
}

/// The path of a file, from the root on: the daemons' folder is nobody's business.
pub(super) fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.ends_with('/') {
        Ok(text.to_owned())
    } else {
        Err("write the whole path of a file, as /etc/twinpath/sync.key".to_owned())
    }
}

/// A public key of a node.
pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    text.parse().map_err(|error| {
        if text.starts_with("tsk1") {
            return "this is a private key and no longer secret: make a new one on the other node".to_owned();
        }
        format!("{error}: use the line that twinpathctl key generate has printed on the other node")
    })
}

/// A MAC address of one station.
pub(super) fn mac(text: &str) -> Result<[u8; 6], String> {
    let advice = || "write six pairs of hex digits, as 02:00:00:00:00:01".to_owned();
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|p| p.len() == 2 && !p.starts_with('+'))
            .ok_or_else(advice)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| advice())?;
    }
    if parts.next().is_some() {
        return Err(advice());
    }
    if mac[0] & 1 == 1 {
        return Err("use the MAC address of one station, not a group address".to_owned());
    }
    Ok(mac)
}

/// One port, or `first-last`.
pub(super) fn port_range(text: &str) -> Result<PortRange, String> {
    let advice = || "write a port or a range of ports, as 443 or 1000-2000".to_owned();
    let port = |t: &str| t.trim().parse::<u16>().map_err(|_| advice());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = PortRange {
        first: port(first)?,
        last: port(last)?,
    };
    if range.first > range.last {
        return Err(format!(
            "write the lower port first: {}-{}",
            range.last, range.first
        ));
    }
    Ok(range)
}

/// Public addresses: one, `first-last`, or a prefix, of which every address counts. First and last are returned.
pub(super) fn address_range(text: &str) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let advice =
        || "write IPv4 addresses, as 198.51.100.1, 198.51.100.1-198.51.100.4 or 198.51.100.8/30".to_owned();
    let one = |t: &str| t.trim().parse::<Ipv4Addr>().map_err(|_| advice());
    let (first, last) = if text.contains('/') {
        let IpNet::V4(prefix) = prefix(text)? else {
            return Err(advice());
        };
        (prefix.network(), prefix.broadcast())
    } else {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        (one(first)?, one(last)?)
    };
    if first > last {
        return Err(format!("write the lower address first: {last}-{first}"));
    }
    if u64::from(u32::from(last)) - u64::from(u32::from(first)) >= POOL_ADDRESSES_MAX {
        return Err(format!("use at most {POOL_ADDRESSES_MAX} addresses"));
    }
    let unusable = |a: Ipv4Addr| a.is_loopback() || a.is_unspecified() || a.octets()[0] >= 224;
    if unusable(first) || unusable(last) {
        return Err("use unicast addresses".to_owned());
    }
    Ok((first, last))
}

/// A protocol by name or number.
pub(super) fn protocol(text: &str) -> Result<u8, String> {
    const NAMES: [(&str, u8); 10] = [
        ("tcp", proto::TCP),
        ("udp", proto::UDP),
        ("icmp", proto::ICMP),
        ("icmp6", proto::ICMP6),
        ("ipv6-icmp", proto::ICMP6),
        ("igmp", 2),
        ("gre", 47),
        ("esp", 50),
        ("ah", 51),
        ("sctp", 132),
    ];
    let named = NAMES.iter().find(|n| n.0.eq_ignore_ascii_case(text)).map(|n| n.1);
    named.or_else(|| text.parse().ok()).ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|n| n.0).collect();
        format!("use a number from 0 to 255 or one of: {}", names.join(", "))
    })
}

/// Bytes of a card's key, as pairs of hex digits.
pub(super) fn rss_key(text: &str) -> Result<Vec<u8>, String> {
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let digits = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    (digits && text.len().is_multiple_of(2) && (80..=128).contains(&text.len()))
        .then(|| text.as_bytes().chunks(2).map(pair).collect())
        .flatten()
        .ok_or_else(|| {
            "write 40 to 64 bytes as pairs of hex digits, as openssl rand -hex 52 makes them".to_owned()
        })
}

/// One word out of a list.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words.iter().find(|w| w.0 == text).map(|w| w.1).ok_or_else(|| {
        let known: Vec<String> = words.iter().map(|w| format!("\"{}\"", w.0)).collect();
        format!("use {}", known.join(" or "))
    })
}

/// Value of `key` in a vdev string: `net_af_packet0,iface=lan0` has `iface` = `lan0`.
pub(super) fn device_argument<'d>(device: &'d str, key: &str) -> Option<&'d str> {
    device
        .split(',')
        .skip(1)
        .filter_map(|part| part.split_once('='))
        .find(|(k, _)| k.trim() == key)
        .map(|(_, v)| v.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_whole_bytes_of_a_length_that_cards_have() {
        assert_eq!(rss_key(&"0aF0".repeat(20)), Ok([0x0a, 0xf0].repeat(20)));
        assert_eq!(rss_key(&"00".repeat(64)).map(|key| key.len()), Ok(64));
        for wrong in [
            "",
            "zz",
            &"0".repeat(81),
            &"00".repeat(39),
            &"00".repeat(65),
            &"+1".repeat(40),
        ] {
            assert!(rss_key(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_of_ports_and_addresses_are_read_or_explained() {
        assert_eq!(port_range("80"), Ok(PortRange { first: 80, last: 80 }));
        assert_eq!(
            port_range("1000-2000"),
            Ok(PortRange {
                first: 1000,
                last: 2000
            })
        );
        assert_eq!(
            port_range("20-10"),
            Err("write the lower port first: 10-20".to_owned())
        );
        assert!(port_range("70000").is_err());
        let range = |text: &str| address_range(text).map(|(a, b)| (a.to_string(), b.to_string()));
        assert_eq!(
            range("198.51.100.8/30"),
            Ok(("198.51.100.8".into(), "198.51.100.11".into()))
        );
        assert_eq!(
            range("198.51.100.1-198.51.100.4"),
            Ok(("198.51.100.1".into(), "198.51.100.4".into()))
        );
        assert_eq!(
            range("198.51.100.9/30"),
            Err("write 198.51.100.8/30, without host bits".into())
        );
        assert_eq!(range("224.0.0.1"), Err("use unicast addresses".into()));
        assert_eq!(range("0.0.0.0/0"), Err("use at most 65536 addresses".into()));
        assert!(range("2001:db8::/64").is_err());
    }

    #[test]
    fn mac_addresses_are_of_one_station() {
        assert_eq!(mac("02:00:00:00:00:fe"), Ok([2, 0, 0, 0, 0, 0xfe]));
        for wrong in [
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "01:00:5e:00:00:01",
        ] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments_of_a_device_are_found_by_name() {
        let device = "net_af_packet0,iface=lan0,qpairs=2";
        assert_eq!(device_argument(device, "iface"), Some("lan0"));
        assert_eq!(device_argument(device, "qpairs"), Some("2"));
        assert_eq!(device_argument("0000:01:00.0", "iface"), None);
    }
}
