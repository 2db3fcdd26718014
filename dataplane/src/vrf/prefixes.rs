//! Sets of addresses: the inside prefixes of the shard function, and the addresses an interface answers for.
//! Built once with a snapshot; kept as merged, sorted ranges, so that the usual one to three prefixes are one or
//! two comparisons.

use core::net::IpAddr;

use ipnet::IpNet;

use crate::flow::Addr;

/// Which addresses are inside. IPv6 prefixes never cover IPv4 addresses, although [`Addr`] keeps those mapped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PrefixSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

/// Single addresses with the same lookup; runs of neighbouring addresses become one range.
pub type AddressSet = PrefixSet;

impl PrefixSet {
    /// All addresses of `prefixes`.
    #[must_use]
    pub fn new(prefixes: &[IpNet]) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(p) => v4.push((u32::from(p.network()), u32::from(p.broadcast()))),
                IpNet::V6(p) => v6.push((u128::from(p.network()), u128::from(p.broadcast()))),
            }
        }
        Self {
            v4: merge(v4),
            v6: merge(v6),
        }
    }

    /// Exactly `addresses`.
    #[must_use]
    pub fn of_addresses(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for address in addresses {
            match address {
                IpAddr::V4(a) => v4.push((u32::from(a), u32::from(a))),
                IpAddr::V6(a) => v6.push((u128::from(a), u128::from(a))),
            }
        }
        Self {
            v4: merge(v4),
            v6: merge(v6),
        }
    }

    /// Whether `address` is in the set.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: &Addr) -> bool {
        if address.is_v4() {
            within(&self.v4, u32::from_be_bytes(address.v4_octets()))
        } else {
            within(&self.v6, u128::from_be_bytes(*address.octets()))
        }
    }

    /// Whether the set and `prefix` share an address.
    #[must_use]
    pub fn overlaps(&self, prefix: &IpNet) -> bool {
        match prefix {
            IpNet::V4(p) => meets(&self.v4, u32::from(p.network()), u32::from(p.broadcast())),
            IpNet::V6(p) => meets(&self.v6, u128::from(p.network()), u128::from(p.broadcast())),
        }
    }

    /// Whether nothing is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Sorts ranges and joins those that overlap or touch.
fn merge<T: Ord + Copy + Successor>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut merged: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.successor() => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.shrink_to_fit();
    merged
}

#[inline]
fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= value);
    after > 0 && value <= ranges[after - 1].1
}

fn meets<T: Ord + Copy>(ranges: &[(T, T)], first: T, last: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= last);
    after > 0 && first <= ranges[after - 1].1
}

/// The next value; the highest one is its own successor.
trait Successor {
    fn successor(self) -> Self;
}

impl Successor for u32 {
    fn successor(self) -> Self {
        self.saturating_add(1)
    }
}

impl Successor for u128 {
    fn successor(self) -> Self {
        self.saturating_add(1)
    }
}
