//! What each source has used up of a rule's limit, at the worker that owns its flows.
//!
//! A table of fixed size: somebody who hasn't opened a flow for a second has the whole limit again and may be forgotten. If
//! nobody of a set may be, the one who has used least is, and the newcomer goes on with what that one has used: an attack
//! from more sources than there are places gets no more for it.

use crate::flow::{Addr, VrfId};
use crate::policy::Spacing;
use crate::shard::mix64;
use crate::time::Instant;

/// Places of a set: together one cache line.
const WAYS: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Used {
    name: u64,
    whole_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sources {
    seed: u64,
    sets: Box<[[Used; WAYS]]>,
}

impl Sources {
    /// Room for `sources` at least.
    pub(crate) fn new(sources: usize, seed: u64) -> Self {
        let sets = sources.div_ceil(WAYS).max(1);
        Self {
            seed,
            sets: vec![[Used::default(); WAYS]; sets].into_boxed_slice(),
        }
    }

    /// Whether a rule lets one more flow of a source in.
    pub(crate) fn take(&mut self, rule: (VrfId, u32), source: &Addr, spacing: Spacing, now: Instant) -> bool {
        let name = self.name(rule, source);
        #[expect(clippy::cast_possible_truncation, reason = "below the number of sets")]
        let set = &mut self.sets[(name % self.sets.len() as u64) as usize];
        let place = set.iter().position(|used| used.name == name).unwrap_or_else(|| {
            let least = (0..WAYS).min_by_key(|&place| set[place].whole_ns);
            least.unwrap_or_default()
        });
        let used = &mut set[place];
        used.name = name;
        let whole_ns = spacing.after(used.whole_ns, now);
        used.whole_ns = whole_ns.unwrap_or(used.whole_ns);
        whole_ns.is_some()
    }

    /// Nobody outside can choose sources that share a set: the seed is drawn when the process starts.
    fn name(&self, (vrf, rule): (VrfId, u32), source: &Addr) -> u64 {
        let (high, low) = source.halves();
        // The other half of an IPv6 address is its owner's to choose.
        let low = if source.is_v4() { low } else { 0 };
        let rule = u64::from(vrf.0) << 32 | u64::from(rule);
        mix64(mix64(mix64(self.seed ^ rule).wrapping_add(high)).wrapping_add(low))
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU32;

    use super::*;

    const RULE: (VrfId, u32) = (VrfId(1), 10);
    const NOW: Instant = Instant::from_secs(100);

    fn spacing(per_s: u32) -> Spacing {
        Spacing::new(NonZeroU32::new(per_s).unwrap())
    }

    fn source(n: u32) -> Addr {
        Addr::from(core::net::IpAddr::from(core::net::Ipv4Addr::from(
            0x6440_0000 + n,
        )))
    }

    fn taken(sources: &mut Sources, rule: (VrfId, u32), from: &Addr, times: usize) -> usize {
        (0..times)
            .filter(|_| sources.take(rule, from, spacing(3), NOW))
            .count()
    }

    #[test]
    fn each_source_and_each_rule_has_a_limit_of_its_own() {
        let mut sources = Sources::new(4_096, 7);
        for n in 0..50 {
            assert_eq!(taken(&mut sources, RULE, &source(n), 10), 3);
        }
        assert_eq!(taken(&mut sources, (VrfId(1), 11), &source(0), 10), 3);
        assert_eq!(taken(&mut sources, (VrfId(2), 10), &source(0), 10), 3);
        assert_eq!(taken(&mut sources, RULE, &source(0), 10), 0);
    }

    #[test]
    fn hosts_of_an_ipv6_subnet_are_one_source() {
        let mut sources = Sources::new(4_096, 7);
        let host = |text: &str| Addr::from(text.parse::<core::net::IpAddr>().unwrap());
        assert_eq!(taken(&mut sources, RULE, &host("2001:db8:0:1::1"), 2), 2);
        assert_eq!(taken(&mut sources, RULE, &host("2001:db8:0:1:ff::2"), 2), 1);
        assert_eq!(taken(&mut sources, RULE, &host("2001:db8:0:2::1"), 2), 2);
    }

    #[test]
    fn more_sources_than_places_get_no_more_than_the_places() {
        let mut sources = Sources::new(8, 7);
        let taken: usize = (0..10_000)
            .map(|n| taken(&mut sources, RULE, &source(n), 1))
            .sum();
        assert_eq!(taken, 8 * 3);
    }

    #[test]
    fn whoever_was_quiet_for_a_second_makes_room() {
        let mut sources = Sources::new(4, 7);
        (0..4).for_each(|n| assert_eq!(taken(&mut sources, RULE, &source(n), 5), 3));
        let later = Instant::from_secs(102);
        assert!(sources.take(RULE, &source(9), spacing(3), later));
    }
}
