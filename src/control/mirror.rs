//! What the kernel of one network namespace has told: links, addresses, routes, neighbours. Filled by a full
//! reading, kept up by changes, thrown away and read anew whenever a change can't be applied safely.
//!
//! The kernel doesn't tell everything: IPv4 routes vanish silently with their link or source address, and a
//! notification about one of several routes of the same key can't say what is left. Those cases ask for a new
//! reading instead of guessing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::message::{Change, Hop, KernelLink, KernelNeighbor, KernelRoute, RouteKey};

/// Copy of the kernel's state of one namespace.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mirror {
    links: BTreeMap<u32, KernelLink>,
    addresses: BTreeSet<(u32, IpNet)>,
    routes: BTreeMap<RouteKey, KernelRoute>,
    neighbors: BTreeMap<(u32, IpAddr), KernelNeighbor>,
}

/// What a change has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is different.
    Same,
    /// The mirror is different and right.
    Changed,
    /// The mirror may be wrong: read everything again.
    Unsure,
}

impl Mirror {
    /// The state that a full reading tells.
    #[must_use]
    pub fn of(reading: impl IntoIterator<Item = Change>) -> Self {
        let mut mirror = Self::default();
        for change in reading {
            match change {
                // In a reading the first of several routes of one key is the one the kernel uses.
                Change::Route(key, route) => {
                    let shared = mirror.routes.contains_key(&key);
                    let entry = mirror.routes.entry(key).or_insert(route);
                    entry.appended |= shared;
                }
                other => {
                    mirror.apply(other);
                }
            }
        }
        mirror
    }

    /// Takes in one change.
    pub fn apply(&mut self, change: Change) -> Outcome {
        match change {
            Change::Link(link) => self.link(link),
            Change::NoLink(index) => {
                if self.links.remove(&index).is_none() {
                    return Outcome::Same;
                }
                Outcome::Unsure
            }
            Change::Address(link, net) => changed(self.addresses.insert((link, net))),
            Change::NoAddress(link, net) => {
                if self.addresses.remove(&(link, net)) {
                    Outcome::Unsure
                } else {
                    Outcome::Same
                }
            }
            Change::Route(key, route) => self.route(key, route),
            Change::NoRoute(key, hops) => self.no_route(key, &hops),
            Change::Neighbor(link, address, neighbor) => {
                changed(self.neighbors.insert((link, address), neighbor) != Some(neighbor))
            }
            Change::NoNeighbor(link, address) => changed(self.neighbors.remove(&(link, address)).is_some()),
        }
    }

    fn link(&mut self, link: KernelLink) -> Outcome {
        match self.links.insert(link.index, link.clone()) {
            None => Outcome::Changed,
            Some(before) if before == link => Outcome::Same,
            Some(before) if before.up == link.up && before.name == link.name => Outcome::Changed,
            Some(_) => Outcome::Unsure,
        }
    }

    fn route(&mut self, key: RouteKey, route: KernelRoute) -> Outcome {
        match self.routes.get(&key) {
            Some(before) if before.hops == route.hops => Outcome::Same,
            // IPv4 keeps the old one in use, IPv6 merges both.
            Some(before) if route.appended || before.appended => Outcome::Unsure,
            _ => {
                self.routes.insert(key, route);
                Outcome::Changed
            }
        }
    }

    fn no_route(&mut self, key: RouteKey, hops: &[Hop]) -> Outcome {
        let Some(known) = self.routes.get(&key) else {
            return Outcome::Same;
        };
        // One leg of an IPv6 multipath route went, or one of several routes of this key. A route whose next
        // hops were down was stored without them.
        if known.appended || known.hops.len() > 1 || known.hops != hops {
            return Outcome::Unsure;
        }
        self.routes.remove(&key);
        Outcome::Changed
    }

    /// Interface of this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&KernelLink> {
        self.links.values().find(|link| link.name == name)
    }

    /// All interfaces.
    pub fn links(&self) -> impl Iterator<Item = &KernelLink> {
        self.links.values()
    }

    /// Addresses with the index of their interface.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpNet)> + '_ {
        self.addresses.iter().copied()
    }

    /// The routes of a table that count: for each prefix the one with the lowest metric that has a living next
    /// hop, no matter for which type of service the others are.
    pub fn routes(&self, table: u32) -> impl Iterator<Item = (IpNet, &[Hop])> + '_ {
        let first = RouteKey {
            table,
            prefix: IpNet::default(),
            metric: 0,
            tos: 0,
        };
        let mut last = None;
        self.routes
            .range(first..)
            .take_while(move |(key, _)| key.table == table)
            .filter(|(key, route)| key.tos == 0 && !route.hops.is_empty())
            .filter(move |(key, _)| last.replace(key.prefix) != Some(key.prefix))
            .map(|(key, route)| (key.prefix, route.hops.as_slice()))
    }

    /// Resolved neighbours with the index of their interface.
    pub fn neighbors(&self) -> impl Iterator<Item = (u32, IpAddr, KernelNeighbor)> + '_ {
        self.neighbors
            .iter()
            .map(|(&(link, address), &neighbor)| (link, address, neighbor))
    }

    /// The entry of one neighbour.
    #[must_use]
    pub fn neighbor(&self, link: u32, address: IpAddr) -> Option<KernelNeighbor> {
        self.neighbors.get(&(link, address)).copied()
    }
}

const fn changed(changed: bool) -> Outcome {
    if changed { Outcome::Changed } else { Outcome::Same }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(prefix: &str, metric: u32) -> RouteKey {
        RouteKey {
            table: 254,
            prefix: prefix.parse().unwrap(),
            metric,
            tos: 0,
        }
    }

    fn via(gateway: &str) -> Hop {
        Hop {
            link: 2,
            gateway: Some(gateway.parse().unwrap()),
        }
    }

    fn route(hops: &[Hop]) -> KernelRoute {
        KernelRoute {
            hops: hops.to_vec(),
            appended: false,
        }
    }

    fn link(name: &str, up: bool) -> Change {
        Change::Link(KernelLink {
            index: 2,
            name: name.into(),
            up,
            mac: None,
            vrf_table: None,
        })
    }

    #[test]
    fn the_lowest_metric_with_a_living_next_hop_counts_in_its_own_table() {
        let mut mirror = Mirror::default();
        mirror.apply(Change::Route(key("0.0.0.0/0", 20), route(&[via("10.0.0.2")])));
        mirror.apply(Change::Route(key("0.0.0.0/0", 10), route(&[via("10.0.0.1")])));
        mirror.apply(Change::Route(key("0.0.0.0/0", 5), route(&[])));
        let other = RouteKey {
            table: 7,
            ..key("0.0.0.0/0", 1)
        };
        mirror.apply(Change::Route(other, route(&[via("10.0.0.9")])));
        let for_tos = RouteKey {
            tos: 4,
            ..key("0.0.0.0/0", 1)
        };
        mirror.apply(Change::Route(for_tos, route(&[via("10.0.0.8")])));
        mirror.apply(Change::Route(key("::/0", 1024), route(&[via("fe80::1")])));
        let routes: Vec<_> = mirror
            .routes(254)
            .map(|(prefix, hops)| (prefix.to_string(), hops.to_vec()))
            .collect();
        assert_eq!(
            routes,
            [
                ("0.0.0.0/0".to_owned(), vec![via("10.0.0.1")]),
                ("::/0".to_owned(), vec![via("fe80::1")])
            ]
        );
    }

    #[test]
    fn what_the_kernel_does_not_tell_in_full_asks_for_a_new_reading() {
        let plain = route(&[via("10.0.0.1")]);
        let two = route(&[via("10.0.0.1"), via("10.0.0.2")]);
        let appended = KernelRoute {
            appended: true,
            ..route(&[via("10.0.0.2")])
        };
        let k = key("10.9.0.0/16", 0);
        let net: IpNet = "10.0.0.5/24".parse().unwrap();
        for (name, before, change, outcome) in [
            (
                "replaced",
                vec![Change::Route(k, plain.clone())],
                Change::Route(k, two.clone()),
                Outcome::Changed,
            ),
            (
                "repeated",
                vec![Change::Route(k, plain.clone())],
                Change::Route(k, plain.clone()),
                Outcome::Same,
            ),
            (
                "appended",
                vec![Change::Route(k, plain.clone())],
                Change::Route(k, appended),
                Outcome::Unsure,
            ),
            (
                "deleted",
                vec![Change::Route(k, plain.clone())],
                Change::NoRoute(k, plain.hops.clone()),
                Outcome::Changed,
            ),
            (
                "another deleted",
                vec![Change::Route(k, plain.clone())],
                Change::NoRoute(k, vec![]),
                Outcome::Unsure,
            ),
            (
                "a leg deleted",
                vec![Change::Route(k, two.clone())],
                Change::NoRoute(k, plain.hops),
                Outcome::Unsure,
            ),
            (
                "unknown deleted",
                vec![],
                Change::NoRoute(k, two.hops),
                Outcome::Same,
            ),
            (
                "address gone",
                vec![Change::Address(2, net)],
                Change::NoAddress(2, net),
                Outcome::Unsure,
            ),
            (
                "link down",
                vec![link("a", true)],
                link("a", false),
                Outcome::Unsure,
            ),
            (
                "link renamed",
                vec![link("a", true)],
                link("b", true),
                Outcome::Unsure,
            ),
            ("link same", vec![link("a", true)], link("a", true), Outcome::Same),
            (
                "link gone",
                vec![link("a", true)],
                Change::NoLink(2),
                Outcome::Unsure,
            ),
        ] {
            let mut mirror = Mirror::of(before);
            assert_eq!(mirror.apply(change), outcome, "{name}");
        }
    }

    #[test]
    fn of_two_routes_of_one_key_a_reading_uses_the_first_and_remembers_the_other() {
        let k = key("10.9.0.0/16", 0);
        let mut mirror = Mirror::of([
            Change::Route(k, route(&[via("10.0.0.1")])),
            Change::Route(k, route(&[via("10.0.0.2")])),
        ]);
        assert_eq!(mirror.routes(254).next().unwrap().1, [via("10.0.0.1")]);
        assert_eq!(
            mirror.apply(Change::NoRoute(k, vec![via("10.0.0.1")])),
            Outcome::Unsure
        );
    }
}
