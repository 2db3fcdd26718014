//! Compiled conditions: prefixes as masks, lists as spans of shared arrays.

use ipnet::IpNet;

use crate::config::PortRange;
use crate::flow::{Addr, FlowKey, proto};

/// A run in one of [`Lists`]' arrays. An empty one matches everything.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    from: u32,
    to: u32,
}

impl Span {
    fn of<T>(self, all: &[T]) -> &[T] {
        &all[self.from as usize..self.to as usize]
    }
}

/// The lists of all rules of a policy, end to end.
#[derive(Debug, Clone, Default)]
pub(super) struct Lists {
    prefixes: Vec<Prefix>,
    ports: Vec<PortRange>,
}

impl Lists {
    pub(super) fn add_prefixes(&mut self, prefixes: &[IpNet]) -> Span {
        append(&mut self.prefixes, prefixes.iter().map(Prefix::new))
    }

    pub(super) fn add_ports(&mut self, ports: &[PortRange]) -> Span {
        append(&mut self.ports, ports.iter().copied())
    }

    pub(super) fn prefixes_match(&self, span: Span, address: &Addr) -> bool {
        let prefixes = span.of(&self.prefixes);
        prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(address))
    }

    /// `port` is none for protocols without ports.
    pub(super) fn ports_match(&self, span: Span, port: Option<u16>) -> bool {
        let ranges = span.of(&self.ports);
        ranges.is_empty() || port.is_some_and(|port| ranges.iter().any(|range| range.contains(port)))
    }
}

fn append<T>(all: &mut Vec<T>, more: impl Iterator<Item = T>) -> Span {
    let end = |all: &Vec<T>| u32::try_from(all.len()).unwrap_or(u32::MAX);
    let from = end(all);
    all.extend(more);
    Span { from, to: end(all) }
}

/// Source and destination port, for protocols whose header has them where TCP and UDP do.
pub(super) fn ports(key: &FlowKey) -> Option<(u16, u16)> {
    matches!(key.proto, proto::TCP | proto::UDP).then_some((key.src_port, key.dst_port))
}

/// Addresses of one family that are equal under a mask.
#[derive(Debug, Clone, Copy)]
struct Prefix {
    network: (u64, u64),
    mask: (u64, u64),
    /// `::/0` and its like cover the place where [`Addr`] keeps IPv4, so the family is compared apart.
    v4: bool,
}

impl Prefix {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    fn new(prefix: &IpNet) -> Self {
        let v4 = matches!(prefix, IpNet::V4(_));
        let bits = u32::from(prefix.prefix_len()) + if v4 { 96 } else { 0 };
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        let mask = ((mask >> 64) as u64, mask as u64);
        let (high, low) = Addr::from(prefix.network()).halves();
        Self {
            network: (high & mask.0, low & mask.1),
            mask,
            v4,
        }
    }

    fn contains(&self, address: &Addr) -> bool {
        let (high, low) = address.halves();
        (high & self.mask.0, low & self.mask.1) == self.network && address.is_v4() == self.v4
    }
}
