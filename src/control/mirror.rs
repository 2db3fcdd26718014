//! What the kernel of one network namespace has told: links, addresses, routes, neighbours. Filled by a full
//! reading, kept up by changes, and read anew whenever a change can't be applied safely.
//!
//! The kernel doesn't tell everything: IPv4 routes vanish silently with their link or source address, and a
//! notification about one of several routes of the same key can't say what is left. Those cases ask for a new
//! reading instead of guessing.
//!
//! A reading of a full table takes seconds, and meanwhile changes go on to be followed. It goes over what is there, table by
//! table, marks what it meets, and at the end of a table takes away what neither it nor a change has met
//! ([`Mirror::end_table`]). What the kernel had already put into its answer when it changed is put right by going over the
//! changes once more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use super::message::{Change, Hop, KernelLink, KernelNeighbor, KernelRoute, RouteKey};

/// Copy of the kernel's state of one namespace.
#[derive(Debug, Default, Clone)]
pub struct Mirror {
    links: BTreeMap<u32, KernelLink>,
    addresses: BTreeSet<(u32, IpNet)>,
    routes: BTreeMap<RouteKey, Entry>,
    neighbors: BTreeMap<(u32, IpAddr), KernelNeighbor>,
    /// Gateways of routes, and of how many.
    gateways: BTreeMap<(u32, Hop), usize>,
    /// Next-hop objects that routes refer to, and how many do.
    objects: BTreeMap<u32, usize>,
    /// Number of the reading that is under way, or was last.
    reading: u32,
    /// What the reading has met of the small tables.
    met: Met,
    /// Prefixes, with their table, that may have other ways than when this was last taken.
    changed: Option<BTreeSet<(u32, IpNet)>>,
}

/// A route, and the number of the reading that it was last met in: by itself, and by a change meanwhile.
#[derive(Debug, Clone)]
struct Entry {
    route: KernelRoute,
    read: u32,
    told: u32,
}

#[derive(Debug, Default, Clone)]
struct Met {
    links: BTreeSet<u32>,
    addresses: BTreeSet<(u32, IpNet)>,
    neighbors: BTreeSet<(u32, IpAddr)>,
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
        mirror.begin_table();
        for change in reading {
            mirror.read(change);
        }
        mirror
    }

    /// The reading of a table begins, or begins again.
    pub fn begin_table(&mut self) {
        self.reading = self.reading.wrapping_add(1).max(1);
        self.met = Met::default();
    }

    /// Takes in what a reading tells.
    pub fn read(&mut self, change: Change) {
        match change {
            Change::Route(key, route) => self.read_route(key, route),
            Change::Link(link) => {
                self.met.links.insert(link.index);
                self.links.insert(link.index, link);
            }
            Change::Address(link, net) => {
                self.met.addresses.insert((link, net));
                self.addresses.insert((link, net));
            }
            Change::Neighbor(link, address, neighbor) => {
                self.met.neighbors.insert((link, address));
                self.neighbors.insert((link, address), neighbor);
            }
            Change::NoLink(_)
            | Change::NoAddress(..)
            | Change::NoRoute(..)
            | Change::NextHopObject(_)
            | Change::NoNeighbor(..) => {}
        }
    }

    /// In a reading the first of several routes of one key is the one the kernel uses.
    fn read_route(&mut self, key: RouteKey, route: KernelRoute) {
        let reading = self.reading;
        if let Some(entry) = self.routes.get_mut(&key) {
            if entry.read == reading {
                entry.route.appended = true;
                return;
            }
            entry.read = reading;
            if entry.route.hops == route.hops && entry.route.object == route.object {
                entry.route.appended = route.appended;
                return;
            }
        }
        self.put(key, route);
        if let Some(entry) = self.routes.get_mut(&key) {
            entry.read = reading;
        }
    }

    /// A reading has met everything in its table: what it hasn't met isn't there. `changes` came while it was read.
    pub fn end_table(&mut self, table: usize, changes: impl IntoIterator<Item = Change>) {
        let met = core::mem::take(&mut self.met);
        let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
        match table {
            0 => self.links.retain(|index, _| met.links.contains(index)),
            1 => self.addresses.retain(|address| met.addresses.contains(address)),
            2 => self.sweep_routes(is_v4),
            3 => self.sweep_routes(|net| !is_v4(net)),
            4 => self
                .neighbors
                .retain(|key, _| key.1.is_ipv6() || met.neighbors.contains(key)),
            _ => self
                .neighbors
                .retain(|key, _| key.1.is_ipv4() || met.neighbors.contains(key)),
        }
        for change in changes {
            // What is uncertain about it was seen when it came.
            self.apply(change);
        }
    }

    fn sweep_routes(&mut self, of_table: impl Fn(&IpNet) -> bool) {
        let reading = self.reading;
        let unmet = |(key, entry): &(&RouteKey, &Entry)| {
            of_table(&key.prefix) && entry.read != reading && entry.told != reading
        };
        let gone: Vec<RouteKey> = self.routes.iter().filter(unmet).map(|(key, _)| *key).collect();
        for key in gone {
            self.take(&key);
        }
    }

    /// From now on the prefixes that change are noted.
    pub fn note_changes(&mut self) {
        self.changed.get_or_insert_default();
    }

    /// The prefixes that were noted, with their tables.
    pub fn take_changes(&mut self) -> BTreeSet<(u32, IpNet)> {
        self.changed.as_mut().map(core::mem::take).unwrap_or_default()
    }

    fn put(&mut self, key: RouteKey, route: KernelRoute) {
        self.take(&key);
        for hop in route.hops.iter().filter(|hop| hop.gateway.is_some()) {
            *self.gateways.entry((key.table, *hop)).or_default() += 1;
        }
        if let Some(object) = route.object {
            *self.objects.entry(object).or_default() += 1;
        }
        if let Some(changed) = &mut self.changed {
            changed.insert((key.table, key.prefix));
        }
        let entry = Entry {
            route,
            read: 0,
            told: 0,
        };
        self.routes.insert(key, entry);
    }

    fn take(&mut self, key: &RouteKey) {
        let Some(entry) = self.routes.remove(key) else {
            return;
        };
        for hop in entry.route.hops.iter().filter(|hop| hop.gateway.is_some()) {
            one_less(&mut self.gateways, (key.table, *hop));
        }
        if let Some(object) = entry.route.object {
            one_less(&mut self.objects, object);
        }
        if let Some(changed) = &mut self.changed {
            changed.insert((key.table, key.prefix));
        }
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
            // Routing daemons take the routes away first, and make objects before routes: then nobody refers to it.
            Change::NextHopObject(id) if self.objects.contains_key(&id) => Outcome::Unsure,
            Change::NextHopObject(_) => Outcome::Same,
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
        let reading = self.reading;
        if let Some(before) = self.routes.get_mut(&key) {
            before.told = reading;
            if before.route.hops == route.hops && before.route.object == route.object {
                return Outcome::Same;
            }
            // IPv4 keeps the old one in use, IPv6 merges both.
            if route.appended || before.route.appended {
                return Outcome::Unsure;
            }
        }
        self.put(key, route);
        if let Some(entry) = self.routes.get_mut(&key) {
            entry.told = reading;
        }
        Outcome::Changed
    }

    fn no_route(&mut self, key: RouteKey, hops: &[Hop]) -> Outcome {
        let Some(known) = self.routes.get(&key) else {
            return Outcome::Same;
        };
        // One leg of an IPv6 multipath route went, or one of several routes of this key. A route whose next
        // hops were down was stored without them.
        if known.route.appended || known.route.hops.len() > 1 || known.route.hops != hops {
            return Outcome::Unsure;
        }
        self.take(&key);
        Outcome::Changed
    }

    /// Interface of this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&KernelLink> {
        self.links.values().find(|link| link.name == name)
    }

    /// The interface on whose link an interface is: for a macvlan the one below it, else itself.
    #[must_use]
    pub fn on_link_of(&self, index: u32) -> u32 {
        let below = self.links.get(&index).and_then(|link| link.station_of);
        below.unwrap_or(index)
    }

    /// All interfaces.
    pub fn links(&self) -> impl Iterator<Item = &KernelLink> {
        self.links.values()
    }

    /// Addresses with the index of their interface.
    pub fn addresses(&self) -> impl Iterator<Item = (u32, IpNet)> + '_ {
        self.addresses.iter().copied()
    }

    /// The routes of a table that count, by prefix, of those behind `after`: for each prefix the one with the lowest metric
    /// that has a living next hop, no matter for which type of service the others are.
    pub fn routes(&self, table: u32, after: Option<IpNet>) -> impl Iterator<Item = (IpNet, &[Hop])> + '_ {
        let key = |prefix, metric, tos| RouteKey {
            table,
            prefix,
            metric,
            tos,
        };
        let first = match after {
            Some(prefix) => Bound::Excluded(key(prefix, u32::MAX, u8::MAX)),
            None => Bound::Included(key(IpNet::default(), 0, 0)),
        };
        let mut last = None;
        self.routes
            .range((first, Bound::Unbounded))
            .take_while(move |(key, _)| key.table == table)
            .filter(|(key, entry)| counts(key, entry))
            .filter(move |(key, _)| last.replace(key.prefix) != Some(key.prefix))
            .map(|(key, entry)| (key.prefix, entry.route.hops.as_slice()))
    }

    /// The ways to one prefix of a table; none when it has no route that counts.
    #[must_use]
    pub fn ways(&self, table: u32, prefix: IpNet) -> &[Hop] {
        let key = |metric, tos| RouteKey {
            table,
            prefix,
            metric,
            tos,
        };
        self.routes
            .range(key(0, 0)..=key(u32::MAX, u8::MAX))
            .find(|(key, entry)| counts(key, entry))
            .map_or(&[], |(_, entry)| entry.route.hops.as_slice())
    }

    /// Next hops with a gateway of the routes of a table, each once.
    pub fn gateways(&self, table: u32) -> impl Iterator<Item = Hop> + '_ {
        self.gateways
            .keys()
            .filter(move |(of, _)| *of == table)
            .map(|(_, hop)| *hop)
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

fn one_less<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

fn counts(key: &RouteKey, entry: &Entry) -> bool {
    key.tos == 0 && !entry.route.hops.is_empty()
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
            object: None,
        }
    }

    fn link(name: &str, up: bool) -> Change {
        Change::Link(KernelLink {
            index: 2,
            name: name.into(),
            up,
            mac: None,
            vrf_table: None,
            station_of: None,
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
            .routes(254, None)
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
        assert_eq!(mirror.routes(254, None).next().unwrap().1, [via("10.0.0.1")]);
        assert_eq!(
            mirror.apply(Change::NoRoute(k, vec![via("10.0.0.1")])),
            Outcome::Unsure
        );
    }

    fn ways(mirror: &Mirror, prefix: &str) -> Vec<Hop> {
        mirror.ways(254, prefix.parse().unwrap()).to_vec()
    }

    /// Table 2 is the one of IPv4 routes.
    fn reread(mirror: &mut Mirror, read: &[(&str, &str)], meanwhile: Vec<Change>) {
        mirror.begin_table();
        for change in &meanwhile {
            mirror.apply(change.clone());
        }
        for (prefix, gateway) in read {
            mirror.read(Change::Route(key(prefix, 0), route(&[via(gateway)])));
        }
        mirror.end_table(2, meanwhile);
    }

    #[test]
    fn a_reading_changes_what_differs_and_takes_away_what_it_has_not_met() {
        let (a, b, c) = ("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16");
        let mut mirror = Mirror::of(
            [(a, "10.0.0.1"), (b, "10.0.0.1")].map(|(p, g)| Change::Route(key(p, 0), route(&[via(g)]))),
        );
        mirror.apply(Change::Route(key("2001:db8::/32", 0), route(&[via("fe80::1")])));
        mirror.note_changes();
        reread(&mut mirror, &[(b, "10.0.0.1"), (c, "10.0.0.3")], vec![]);
        assert_eq!(
            (ways(&mirror, a), ways(&mirror, c)),
            (vec![], vec![via("10.0.0.3")])
        );
        assert_eq!(
            ways(&mirror, "2001:db8::/32"),
            [via("fe80::1")],
            "of another table"
        );
        let changed: Vec<String> = mirror.take_changes().iter().map(|(_, p)| p.to_string()).collect();
        assert_eq!(changed, [a, c], "and what is as before isn't noted");
        assert!(mirror.take_changes().is_empty());
    }

    /// The kernel fills a datagram of its answer ahead of the reader.
    #[test]
    fn what_changes_while_it_is_read_ends_as_the_last_change_says() {
        let (gone, new) = ("10.1.0.0/16", "10.2.0.0/16");
        let mut mirror = Mirror::of([Change::Route(key(gone, 0), route(&[via("10.0.0.1")]))]);
        let meanwhile = vec![
            Change::NoRoute(key(gone, 0), vec![via("10.0.0.1")]),
            Change::Route(key(new, 0), route(&[via("10.0.0.2")])),
        ];
        // Read though it is gone, and not read though it is there.
        reread(&mut mirror, &[(gone, "10.0.0.1")], meanwhile);
        assert_eq!(
            (ways(&mirror, gone), ways(&mirror, new)),
            (vec![], vec![via("10.0.0.2")])
        );
        assert_eq!(
            mirror.apply(Change::NoRoute(key(new, 0), vec![via("10.0.0.2")])),
            Outcome::Changed,
            "it isn't taken for one of several"
        );
    }

    #[test]
    fn a_gateway_is_known_as_long_as_a_route_has_it() {
        let mut mirror = Mirror::default();
        let gateways = |mirror: &Mirror| mirror.gateways(254).count();
        mirror.apply(Change::Route(
            key("10.1.0.0/16", 0),
            route(&[via("10.0.0.1"), via("10.0.0.2")]),
        ));
        mirror.apply(Change::Route(key("10.2.0.0/16", 0), route(&[via("10.0.0.1")])));
        assert_eq!(gateways(&mirror), 2);
        mirror.apply(Change::Route(key("10.1.0.0/16", 0), route(&[via("10.0.0.1")])));
        assert_eq!(gateways(&mirror), 1);
        mirror.apply(Change::NoRoute(key("10.1.0.0/16", 0), vec![via("10.0.0.1")]));
        mirror.apply(Change::NoRoute(key("10.2.0.0/16", 0), vec![via("10.0.0.1")]));
        assert_eq!(gateways(&mirror), 0);
        assert_eq!(mirror.gateways(7).count(), 0);
    }

    #[test]
    fn a_next_hop_object_that_routes_refer_to_asks_for_a_new_reading() {
        let by_object = KernelRoute {
            object: Some(7),
            ..route(&[via("10.0.0.1")])
        };
        let k = key("10.9.0.0/16", 0);
        let mut mirror = Mirror::default();
        assert_eq!(mirror.apply(Change::NextHopObject(7)), Outcome::Same);
        mirror.apply(Change::Route(k, by_object.clone()));
        assert_eq!(mirror.apply(Change::NextHopObject(8)), Outcome::Same);
        assert_eq!(mirror.apply(Change::NextHopObject(7)), Outcome::Unsure);
        mirror.apply(Change::NoRoute(k, by_object.hops));
        assert_eq!(mirror.apply(Change::NextHopObject(7)), Outcome::Same);
    }
}
