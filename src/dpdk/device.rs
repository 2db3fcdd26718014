//! The name of a device as the configuration writes it: a vdev with its arguments
//! (`net_af_packet0,iface=lan0,qpairs=2`) or a PCI address (`0000:01:00.0`, `01:00.0,arg=1`). Parsed once
//! from the configuration; the EAL gets it as an argument, and the port is found again by its name.

use std::fmt;

/// A device to be probed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    spec: String,
    name_len: usize,
    pci: bool,
}

/// Longest name DPDK keeps, without its final zero.
const NAME_MAX: usize = super::sys::TWINPATH_ETH_NAME_MAX as usize - 1;

impl Device {
    /// Reads a vdev string or PCI address; none when it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.split(',').next().unwrap_or_default();
        if let Some(prefix) = pci_domain(name) {
            return Some(Self {
                spec: format!("{prefix}{text}"),
                name_len: prefix.len() + name.len(),
                pci: true,
            });
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let known = name.starts_with("net_") || name.starts_with("eth_");
        (known && name.len() <= NAME_MAX && name.chars().all(plain)).then(|| Self {
            spec: text.to_owned(),
            name_len: name.len(),
            pci: false,
        })
    }

    /// The name DPDK gives to the port.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec[..self.name_len]
    }

    /// Whether it sits on the PCI bus.
    #[must_use]
    pub const fn is_pci(&self) -> bool {
        self.pci
    }

    /// The value of a vdev argument.
    #[must_use]
    pub fn argument(&self, key: &str) -> Option<&str> {
        self.spec
            .split(',')
            .skip(1)
            .find_map(|pair| pair.split_once('=').filter(|(k, _)| *k == key))
            .map(|p| p.1)
    }

    /// All of it, as DPDK reads it when a device is added later.
    pub(super) fn spec(&self) -> &str {
        &self.spec
    }

    /// The EAL argument that makes it probe the device.
    pub(super) fn eal_argument(&self) -> String {
        if self.pci {
            format!("--allow={}", self.spec)
        } else {
            format!("--vdev={}", self.spec)
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec)
    }
}

/// For a PCI address, what is missing in front of its full form `DDDD:BB:DD.F`.
fn pci_domain(name: &str) -> Option<&'static str> {
    let hex = |text: &str, digits: usize| {
        text.len() == digits
            && text
                .bytes()
                .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    };
    let (rest, function) = name.rsplit_once('.')?;
    if !matches!(function.as_bytes(), [b'0'..=b'7']) {
        return None;
    }
    let parts: Vec<&str> = rest.split(':').collect();
    match parts.as_slice() {
        [domain, bus, device] if hex(domain, 4) && hex(bus, 2) && hex(device, 2) => Some(""),
        [bus, device] if hex(bus, 2) && hex(device, 2) => Some("0000:"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vdev_strings_keep_name_and_arguments_apart() {
        let device = Device::parse("net_af_packet0,iface=lan0,qpairs=2").unwrap();
        assert_eq!(device.name(), "net_af_packet0");
        assert_eq!(device.argument("iface"), Some("lan0"));
        assert_eq!(device.argument("qpairs"), Some("2"));
        assert_eq!(device.argument("missing"), None);
        assert_eq!(device.eal_argument(), "--vdev=net_af_packet0,iface=lan0,qpairs=2");
        assert!(!device.is_pci());
    }

    #[test]
    fn pci_addresses_get_their_domain() {
        for (text, name, argument) in [
            ("0000:01:00.0", "0000:01:00.0", "--allow=0000:01:00.0"),
            ("3b:1f.7", "0000:3b:1f.7", "--allow=0000:3b:1f.7"),
            ("0001:3b:00.1,rx=2", "0001:3b:00.1", "--allow=0001:3b:00.1,rx=2"),
        ] {
            let device = Device::parse(text).unwrap();
            assert_eq!((device.name(), device.eal_argument().as_str()), (name, argument));
            assert!(device.is_pci());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("net_{}", "x".repeat(NAME_MAX));
        for text in [
            "",
            "lan0",
            "01:00.8",
            "1:00.0",
            "00:01:00.0",
            "net_null 0",
            "net_\u{e9}",
            &long,
        ] {
            assert_eq!(Device::parse(text), None, "{text}");
        }
    }
}
