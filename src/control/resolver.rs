//! Which neighbours the kernel shall resolve, and when. The packet path can't send ARP or ND itself: it names the
//! neighbour that packets wait for, and gateways are asked for before anybody waits.
//!
//! ```text
//! wanted (event, or gateway of a route) ── ask ──► resolved ── stale ── ask ──► confirmed, or removed as failed
//!    ▲                                 └── no answer: ask again, every second
//!    └── forgotten after FORGET_AFTER without a new event (gateways stay)
//! ```
//!
//! Everything is bounded: scanning a subnet fills the set, not the memory nor the kernel's queue.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use dataplane::config::InterfaceId;
use dataplane::time::Instant;

/// Neighbours in the set.
const WANTED_MAX: usize = 4_096;
/// Between two questions for one neighbour.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A neighbour nobody has named for this long is no longer asked for.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// Between two questions for one stale neighbour. The kernel itself takes about 8 s to give one up.
const CONFIRM_AFTER: Duration = Duration::from_secs(10);
/// Questions per turn of the loop, and between two turns that ask.
const ASKS_PER_TURN: usize = 64;
const TURN: Duration = Duration::from_millis(100);

/// A neighbour of one of our interfaces.
pub type Name = (InterfaceId, IpAddr);

/// The set of wanted neighbours.
#[derive(Debug, Default)]
pub struct Resolver {
    wanted: BTreeMap<Name, Wanted>,
    gateways: BTreeSet<Name>,
    /// When stale ones were last asked for.
    confirmed: BTreeMap<Name, Instant>,
    next_turn: Instant,
    refused: u64,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    named: Instant,
    ask: Instant,
}

/// What the kernel knows about a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    No,
    /// A MAC address that nobody has confirmed lately.
    Stale,
    /// A MAC address.
    Yes,
}

impl Resolver {
    /// A packet waits for this neighbour.
    pub fn want(&mut self, name: Name, now: Instant) {
        if let Some(wanted) = self.wanted.get_mut(&name) {
            wanted.named = now;
        } else if self.wanted.len() < WANTED_MAX {
            self.wanted.insert(name, Wanted { named: now, ask: now });
            // Somebody waits: don't wait for the regular turn.
            self.next_turn = self.next_turn.min(now);
        } else {
            self.refused += 1;
        }
    }

    /// The gateways of all routes, as of now.
    pub fn set_gateways(&mut self, gateways: BTreeSet<Name>, now: Instant) {
        if self.gateways != gateways {
            self.gateways = gateways;
            self.next_turn = self.next_turn.min(now);
        }
    }

    /// When [`Self::turn`] has something to do.
    #[must_use]
    pub const fn next_turn(&self) -> Instant {
        self.next_turn
    }

    /// Neighbours not taken in because the set was full.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// The questions to ask now. `known` tells what the kernel knows; `stale` lists what is stale.
    pub fn turn(
        &mut self,
        now: Instant,
        known: impl Fn(&Name) -> Known,
        stale: impl Iterator<Item = Name>,
    ) -> Vec<Name> {
        if now < self.next_turn {
            return Vec::new();
        }
        self.next_turn = now + TURN;
        let mut asks = Vec::new();
        for gateway in &self.gateways {
            if known(gateway) == Known::No && self.wanted.len() < WANTED_MAX {
                let fresh = Wanted { named: now, ask: now };
                self.wanted.entry(*gateway).or_insert(fresh).named = now;
            }
        }
        self.wanted.retain(|name, wanted| {
            if known(name) != Known::No || now.since(wanted.named) > FORGET_AFTER {
                return false;
            }
            if wanted.ask <= now && asks.len() < ASKS_PER_TURN {
                wanted.ask = now + ASK_AGAIN_AFTER;
                asks.push(*name);
            }
            true
        });
        self.confirmed.retain(|_, at| now.since(*at) < CONFIRM_AFTER);
        for name in stale {
            if asks.len() >= ASKS_PER_TURN || self.confirmed.len() >= WANTED_MAX {
                break;
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = self.confirmed.entry(name) {
                entry.insert(now);
                asks.push(name);
            }
        }
        asks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: std::iter::Empty<Name> = std::iter::empty();

    fn name(last: u8) -> Name {
        (InterfaceId(1), IpAddr::from([10, 0, 0, last]))
    }

    fn at(ms: u64) -> Instant {
        Instant::from_ns(1_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_wanted_neighbor_is_asked_for_at_once_then_every_second_until_it_is_known() {
        let mut resolver = Resolver::default();
        resolver.turn(at(0), |_| Known::No, NOTHING);
        resolver.want(name(1), at(1));
        assert_eq!(resolver.turn(at(1), |_| Known::No, NOTHING), [name(1)]);
        assert!(resolver.turn(at(900), |_| Known::No, NOTHING).is_empty());
        assert_eq!(resolver.turn(at(1_100), |_| Known::No, NOTHING), [name(1)]);
        assert!(resolver.turn(at(2_200), |_| Known::Yes, NOTHING).is_empty());
        assert!(
            resolver.turn(at(3_300), |_| Known::No, NOTHING).is_empty(),
            "nobody wants it any more"
        );
    }

    #[test]
    fn what_nobody_names_again_is_forgotten_but_a_gateway_never() {
        let mut resolver = Resolver::default();
        resolver.want(name(1), at(0));
        resolver.set_gateways([name(2)].into(), at(0));
        assert_eq!(resolver.turn(at(0), |_| Known::No, NOTHING), [name(1), name(2)]);
        assert_eq!(resolver.turn(at(60_000), |_| Known::No, NOTHING), [name(2)]);
        resolver.set_gateways(BTreeSet::new(), at(60_000));
        assert!(resolver.turn(at(120_000), |_| Known::No, NOTHING).is_empty());
    }

    #[test]
    fn a_stale_neighbor_is_asked_for_once_per_interval() {
        let mut resolver = Resolver::default();
        let stale = || [name(3)].into_iter();
        assert_eq!(resolver.turn(at(0), |_| Known::Stale, stale()), [name(3)]);
        assert!(resolver.turn(at(5_000), |_| Known::Stale, stale()).is_empty());
        assert_eq!(resolver.turn(at(10_000), |_| Known::Stale, stale()), [name(3)]);
    }

    #[test]
    fn a_scanned_subnet_fills_the_set_and_asks_a_bounded_number_of_questions() {
        let mut resolver = Resolver::default();
        for n in 0..10_000_u32 {
            resolver.want((InterfaceId(0), IpAddr::from(n.to_be_bytes())), at(0));
        }
        assert_eq!(resolver.refused(), 10_000 - WANTED_MAX as u64);
        assert_eq!(resolver.turn(at(0), |_| Known::No, NOTHING).len(), ASKS_PER_TURN);
        assert!(resolver.turn(at(50), |_| Known::No, NOTHING).is_empty());
    }
}
