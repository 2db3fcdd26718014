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
            within(&self.v4, address.v4_number())
        } else {
            within(&self.v6, address.number())
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

/// So many ranges are looked through one by one.
const FEW: usize = 3;

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
    if ranges.len() <= FEW {
        return ranges.iter().any(|range| range.0 <= value && value <= range.1);
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn families_do_not_mix() {
        let all_v6 = PrefixSet::new(&[net("::/0")]);
        assert!(all_v6.contains(&"2001:db8::1".parse::<IpAddr>().unwrap().into()));
        assert!(
            !all_v6.contains(&"192.0.2.1".parse::<IpAddr>().unwrap().into()),
            "although kept as ::ffff:…"
        );
        let all_v4 = PrefixSet::new(&[net("0.0.0.0/0")]);
        assert!(all_v4.contains(&"255.255.255.255".parse::<IpAddr>().unwrap().into()));
        assert!(!all_v4.contains(&"::".parse::<IpAddr>().unwrap().into()));
        assert!(PrefixSet::default().is_empty() && !all_v4.is_empty());
    }

    #[test]
    fn touching_prefixes_are_one_range() {
        let set = PrefixSet::new(&[net("10.1.0.0/16"), net("10.0.0.0/16"), net("10.0.5.0/24")]);
        assert_eq!(set.v4, [(0x0a00_0000, 0x0a01_ffff)]);
        assert!(set.overlaps(&net("10.0.0.0/8")) && set.overlaps(&net("10.1.2.3/32")));
        assert!(!set.overlaps(&net("10.2.0.0/16")) && !set.overlaps(&net("a00::/8")));
    }

    proptest! {
        #[test]
        fn contains_what_one_of_its_prefixes_contains(
            prefixes in prop::collection::vec((any::<u16>(), 16_u8..=32), 0..12),
            probe in any::<u16>(),
            low in any::<u16>(),
        ) {
            // Few different first bits, so that prefixes meet.
            let base = |high: u16| u32::from(high & 7) << 16 | u32::from(high >> 3);
            let list: Vec<IpNet> = prefixes
                .iter()
                .map(|&(high, len)| IpNet::new(core::net::Ipv4Addr::from(base(high)).into(), len).unwrap())
                .collect();
            let address = IpAddr::from(core::net::Ipv4Addr::from(u32::from(probe & 7) << 16 | u32::from(low)));
            let expected = list.iter().any(|p| p.contains(&address));
            prop_assert_eq!(PrefixSet::new(&list).contains(&address.into()), expected);
        }
    }
}
