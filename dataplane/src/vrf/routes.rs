//! The routes of all VRFs, kept beside the snapshots that are made of them: a change of a few routes costs what it
//! changes, and a changed neighbour or link nothing here, however many routes there are.
//!
//! Routes share few sets of next hops; a prefix's number in the tries is that of its set. A snapshot gets the tries, which
//! are shared, and resolves each set once, since what a link or a neighbour is like belongs to a moment.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::{Lpm, Prefixes};
use crate::config::{InterfaceId, NextHop, Route};
use crate::flow::VrfId;

/// See the module. What is set counts from the next [`Self::settle`] on.
#[derive(Debug, Default)]
pub struct Routes {
    vrfs: Vec<Table>,
}

/// Routes of one VRF.
#[derive(Debug, Default)]
pub(super) struct Table {
    v4: Prefixes,
    v6: Prefixes,
    sets: Sets,
    /// Those with a destination on a link: few, and asked for by interface.
    on_link: BTreeMap<IpNet, Vec<InterfaceId>>,
}

/// Sets of next hops, each once.
#[derive(Debug, Default)]
struct Sets {
    numbers: HashMap<Vec<NextHop>, u32>,
    /// By number, with the count of prefixes that have it, or will from the next settling on. One that nobody has any more is
    /// empty, and given out again.
    known: Vec<(Vec<NextHop>, usize)>,
    free: Vec<u32>,
}

impl Routes {
    /// All of these, settled.
    #[must_use]
    pub fn of(routes: &[Route], interfaces: usize) -> Self {
        let mut all = Self::default();
        for route in routes {
            all.set(route, interfaces);
        }
        all.settle();
        all
    }

    /// Takes a route in, or takes it away where it has no next hop. Next hops over interfaces beyond the first
    /// `interfaces` (the kernel is ahead of the configuration) are left out.
    pub fn set(&mut self, route: &Route, interfaces: usize) {
        let at = route.vrf.index();
        if self.vrfs.len() <= at {
            self.vrfs.resize_with(at + 1, Table::default);
        }
        self.vrfs[at].set(&route.prefix, &route.via, interfaces);
    }

    /// Has everything that was set count.
    pub fn settle(&mut self) {
        for table in &mut self.vrfs {
            table.v4.settle(|number| table.sets.give_back(number));
            table.v6.settle(|number| table.sets.give_back(number));
        }
    }

    /// Next hops of a prefix itself, as of the last [`Self::settle`]; none when it has no route.
    #[must_use]
    pub fn get(&self, vrf: VrfId, prefix: &IpNet) -> Option<&[NextHop]> {
        let table = self.vrfs.get(vrf.index())?;
        let (bits, len) = key(prefix);
        let number = match prefix {
            IpNet::V4(_) => table.v4.get(bits, len),
            IpNet::V6(_) => table.v6.get(bits, len),
        };
        number.map(|number| table.sets.get(number))
    }

    /// How many there are, as of the last [`Self::settle`].
    #[must_use]
    pub fn len(&self) -> usize {
        self.vrfs
            .iter()
            .map(|table| table.v4.len() + table.v6.len())
            .sum()
    }

    /// Whether there are none, as of the last [`Self::settle`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn table(&self, vrf: VrfId) -> Option<&Table> {
        self.vrfs.get(vrf.index())
    }
}

impl Table {
    fn set(&mut self, prefix: &IpNet, via: &[NextHop], interfaces: usize) {
        let via: Vec<NextHop> = via
            .iter()
            .filter(|hop| hop.interface.index() < interfaces)
            .copied()
            .collect();
        let on_link: Vec<InterfaceId> = via
            .iter()
            .filter(|hop| hop.gateway.is_none())
            .map(|hop| hop.interface)
            .collect();
        if on_link.is_empty() {
            self.on_link.remove(prefix);
        } else {
            self.on_link.insert(*prefix, on_link);
        }
        let (bits, len) = key(prefix);
        let number = (!via.is_empty()).then(|| self.sets.take(via));
        match prefix {
            IpNet::V4(_) => self.v4.set(bits, len, number),
            IpNet::V6(_) => self.v6.set(bits, len, number),
        }
    }

    pub(super) fn v4(&self) -> Lpm {
        self.v4.lpm()
    }

    pub(super) fn v6(&self) -> Lpm {
        self.v6.lpm()
    }

    /// Next hops of every set, by number.
    pub(super) fn sets(&self) -> impl Iterator<Item = &[NextHop]> {
        self.sets.known.iter().map(|(via, _)| via.as_slice())
    }

    /// Prefixes on the link of an interface.
    pub(super) fn on_link(&self, interface: InterfaceId) -> impl Iterator<Item = &IpNet> {
        self.on_link
            .iter()
            .filter(move |(_, interfaces)| interfaces.contains(&interface))
            .map(|(prefix, _)| prefix)
    }
}

impl Sets {
    fn get(&self, number: u32) -> &[NextHop] {
        &self.known[number as usize].0
    }

    /// Number of this set, for one prefix more.
    fn take(&mut self, via: Vec<NextHop>) -> u32 {
        if let Some(&number) = self.numbers.get(&via) {
            self.known[number as usize].1 += 1;
            return number;
        }
        let entry = (via.clone(), 1);
        let number = match self.free.pop() {
            Some(number) => {
                self.known[number as usize] = entry;
                number
            }
            None => {
                self.known.push(entry);
                #[expect(clippy::cast_possible_truncation, reason = "no more sets than prefixes")]
                let number = (self.known.len() - 1) as u32;
                number
            }
        };
        self.numbers.insert(via, number);
        number
    }

    /// One prefix less has it.
    fn give_back(&mut self, number: u32) {
        let (via, holders) = &mut self.known[number as usize];
        *holders -= 1;
        if *holders == 0 {
            self.numbers.remove(via);
            via.clear();
            self.free.push(number);
        }
    }
}

/// Bits aligned to the left, and length.
fn key(prefix: &IpNet) -> (u128, u8) {
    match prefix {
        IpNet::V4(p) => (u128::from(u32::from(p.network())) << 96, p.prefix_len()),
        IpNet::V6(p) => (u128::from(p.network()), p.prefix_len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VRF: VrfId = VrfId(0);

    fn hop(interface: u16, gateway: Option<u8>) -> NextHop {
        NextHop {
            interface: InterfaceId(interface),
            gateway: gateway.map(|last| [10, 0, 0, last].into()),
        }
    }

    fn route(prefix: &str, via: &[NextHop]) -> Route {
        Route {
            vrf: VRF,
            prefix: prefix.parse().unwrap(),
            via: via.to_vec(),
        }
    }

    fn sets_in_use(routes: &Routes) -> usize {
        routes.vrfs[0]
            .sets
            .known
            .iter()
            .filter(|(_, holders)| *holders > 0)
            .count()
    }

    #[test]
    fn sets_are_shared_and_given_out_again_when_their_last_prefix_has_gone() {
        let one = [hop(0, Some(1))];
        let mut routes = Routes::of(&[route("10.0.0.0/8", &one), route("2001:db8::/32", &one)], 2);
        assert_eq!((routes.len(), sets_in_use(&routes)), (2, 1));
        for turn in 0..100 {
            let other = [hop(1, Some(turn))];
            routes.set(&route("10.0.0.0/8", &[hop(1, Some(200))]), 2);
            routes.set(&route("10.0.0.0/8", &other), 2);
            routes.settle();
            assert_eq!(
                routes.get(VRF, &"10.0.0.0/8".parse().unwrap()),
                Some(other.as_slice())
            );
            assert_eq!(sets_in_use(&routes), 2);
        }
        assert!(routes.vrfs[0].sets.known.len() <= 5);
        routes.set(&route("10.0.0.0/8", &[]), 2);
        routes.set(&route("2001:db8::/32", &[]), 2);
        routes.settle();
        assert!(routes.is_empty());
        assert_eq!(sets_in_use(&routes), 0);
    }

    #[test]
    fn what_leads_over_interfaces_that_are_not_there_is_no_route() {
        let routes = Routes::of(
            &[
                route("10.0.0.0/8", &[hop(7, None)]),
                route("10.1.0.0/16", &[hop(7, None), hop(1, None)]),
            ],
            2,
        );
        assert_eq!(routes.get(VRF, &"10.0.0.0/8".parse().unwrap()), None);
        assert_eq!(
            routes.get(VRF, &"10.1.0.0/16".parse().unwrap()),
            Some([hop(1, None)].as_slice())
        );
    }

    #[test]
    fn what_is_on_a_link_is_known_by_its_interface() {
        let mut routes = Routes::of(
            &[
                route("10.0.0.0/8", &[hop(0, None)]),
                route("10.1.0.0/16", &[hop(1, Some(1))]),
            ],
            2,
        );
        let on = |routes: &Routes, n| routes.vrfs[0].on_link(InterfaceId(n)).count();
        assert_eq!((on(&routes, 0), on(&routes, 1)), (1, 0));
        routes.set(&route("10.0.0.0/8", &[hop(0, Some(1))]), 2);
        assert_eq!(on(&routes, 0), 0);
    }
}
