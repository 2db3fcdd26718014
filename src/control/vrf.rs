//! Where the kernel keeps what a VRF and its interfaces need, and how mirrors become a [`Forwarding`]. Fixed by the
//! configuration; the mirrors change under it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane::config::{Forwarding, InterfaceId, Link, Neighbor, NextHop, Route};
use dataplane::flow::VrfId;
use ipnet::IpNet;

use super::message::Hop;
use super::mirror::Mirror;

/// The main routing table of a namespace.
const TABLE_MAIN: u32 = 254;

/// Where a VRF's routes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// The main table of the process's own namespace.
    #[default]
    Main,
    /// The table of this VRF device, in the process's own namespace.
    Device(String),
    /// The main table of this network namespace.
    Netns(String),
}

impl Source {
    /// The namespace; none is the process's own.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        match self {
            Self::Netns(name) => Some(name),
            Self::Main | Self::Device(_) => None,
        }
    }
}

/// Which kernel thing is which of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelMap {
    /// Per VRF.
    pub vrfs: Vec<Source>,
    /// Per interface: VRF, and kernel interface when there is one.
    pub interfaces: Vec<(VrfId, Option<String>)>,
    /// What doesn't come from the kernel.
    pub fixed: Forwarding,
}

impl KernelMap {
    /// The namespaces to watch, each once; none is the process's own.
    #[must_use]
    pub fn namespaces(&self) -> Vec<Option<String>> {
        let mut found: Vec<Option<String>> = Vec::new();
        for source in &self.vrfs {
            let netns = source.netns().map(str::to_owned);
            if !found.contains(&netns) {
                found.push(netns);
            }
        }
        found
    }

    /// Namespace and number of the table that a VRF's routes come from; none while its device isn't there.
    #[must_use]
    pub fn table(&self, vrf: VrfId, mirrors: &Mirrors) -> Option<(Option<String>, u32)> {
        let source = self.source(vrf)?;
        let netns = source.netns().map(str::to_owned);
        let table = table_of(source, mirrors.get(&netns)?)?;
        Some((netns, table))
    }

    /// The source of a VRF.
    fn source(&self, vrf: VrfId) -> Option<&Source> {
        self.vrfs.get(vrf.index())
    }

    /// Interface index and namespace of one of our interfaces.
    #[must_use]
    pub fn locate(&self, interface: InterfaceId, mirrors: &Mirrors) -> Option<(Option<String>, u32)> {
        let (vrf, name) = self.interfaces.get(interface.index())?;
        let netns = self.source(*vrf)?.netns().map(str::to_owned);
        let link = mirrors.get(&netns)?.link_named(name.as_deref()?)?;
        Some((netns, link.index))
    }

    /// Interfaces that the kernel knows, by namespace and index.
    #[must_use]
    pub fn known(&self, mirrors: &Mirrors) -> BTreeMap<(Option<String>, u32), InterfaceId> {
        self.ids()
            .filter_map(|id| Some((self.locate(id, mirrors)?, id)))
            .collect()
    }

    /// Everything about reachability, as of now.
    #[must_use]
    pub fn assemble(&self, mirrors: &Mirrors) -> Forwarding {
        let ground = self.ground(mirrors);
        let mut all = self.without_routes(&ground, mirrors);
        all.routes.extend(self.routes(&ground, mirrors, None));
        all
    }

    /// What routes are understood by.
    #[must_use]
    pub fn ground(&self, mirrors: &Mirrors) -> Ground {
        let mut links: BTreeMap<Option<String>, BTreeMap<u32, InterfaceId>> = BTreeMap::new();
        for ((netns, index), id) in self.known(mirrors) {
            links.entry(netns).or_default().insert(index, id);
        }
        let vrfs = self.vrfs.iter().map(|source| {
            let netns = source.netns().map(str::to_owned);
            Some(Place {
                table: table_of(source, mirrors.get(&netns)?)?,
                links: links.get(&netns).cloned().unwrap_or_default(),
                netns,
            })
        });
        let vrfs = vrfs.collect();
        Ground { vrfs, links }
    }

    /// Links, addresses and neighbours.
    #[must_use]
    pub fn without_routes(&self, ground: &Ground, mirrors: &Mirrors) -> Forwarding {
        let mut all = Forwarding {
            routes: Vec::new(),
            ..self.fixed.clone()
        };
        for id in self.ids() {
            all.links.extend(self.link(id, mirrors));
        }
        for (netns, mirror) in mirrors {
            let Some(links) = ground.links.get(netns) else {
                continue;
            };
            // Those of stations on its link too: keepalived has interfaces of its own for virtual MAC addresses.
            all.addresses.extend(
                mirror
                    .addresses()
                    .filter_map(|(link, net)| Some((*links.get(&mirror.on_link_of(link))?, net))),
            );
            all.neighbors
                .extend(mirror.neighbors().filter_map(|(link, address, neighbor)| {
                    Some(Neighbor {
                        interface: *links.get(&link)?,
                        address,
                        mac: neighbor.mac,
                    })
                }));
        }
        self.drop_shadowed_neighbors(&mut all);
        all
    }

    /// All routes in order, the configuration's first; behind `after`, where some have been told.
    pub fn routes<'a>(
        &'a self,
        ground: &'a Ground,
        mirrors: &'a Mirrors,
        after: Option<(VrfId, IpNet)>,
    ) -> impl Iterator<Item = Route> + 'a {
        let fixed = self.fixed.routes.iter().filter(move |_| after.is_none()).cloned();
        let places = (0..).map(VrfId).zip(&ground.vrfs);
        let learnt = places
            .skip_while(move |(vrf, _)| after.is_some_and(|(last, _)| *vrf < last))
            .filter_map(|(vrf, place)| Some((vrf, place.as_ref()?)))
            .flat_map(move |(vrf, place)| {
                let after = after.filter(|(last, _)| *last == vrf).map(|(_, prefix)| prefix);
                let routes = mirrors.get(&place.netns).into_iter();
                let routes = routes.flat_map(move |mirror| mirror.routes(place.table, after));
                routes.filter_map(move |(prefix, hops)| {
                    let via = place.via(hops);
                    // Written down in the configuration, a route wins over the kernel's for the same prefix.
                    let counts = !via.is_empty() && self.fixed_route(vrf, prefix).is_none();
                    counts.then_some(Route { vrf, prefix, via })
                })
            });
        fixed.chain(learnt)
    }

    /// One route; without a next hop when there is none.
    #[must_use]
    pub fn route(&self, ground: &Ground, mirrors: &Mirrors, vrf: VrfId, prefix: IpNet) -> Route {
        if let Some(fixed) = self.fixed_route(vrf, prefix) {
            return fixed.clone();
        }
        let learnt = || {
            let place = ground.vrfs.get(vrf.index())?.as_ref()?;
            Some(place.via(mirrors.get(&place.netns)?.ways(place.table, prefix)))
        };
        Route {
            vrf,
            prefix,
            via: learnt().unwrap_or_default(),
        }
    }

    /// Of several for one prefix the last one counts.
    fn fixed_route(&self, vrf: VrfId, prefix: IpNet) -> Option<&Route> {
        let mut fixed = self.fixed.routes.iter().rev();
        fixed.find(|route| route.vrf == vrf && route.prefix == prefix)
    }

    /// The gateways of all routes.
    #[must_use]
    pub fn gateways(&self, ground: &Ground, mirrors: &Mirrors) -> BTreeSet<(InterfaceId, IpAddr)> {
        let learnt = ground.vrfs.iter().flatten().flat_map(|place| {
            let mirror = mirrors.get(&place.netns).into_iter();
            let hops = mirror.flat_map(|mirror| mirror.gateways(place.table));
            hops.filter_map(|hop| Some((*place.links.get(&hop.link)?, hop.gateway?)))
        });
        let fixed = self.fixed.routes.iter().flat_map(|route| &route.via);
        let fixed = fixed.filter_map(|hop| Some((hop.interface, hop.gateway?)));
        learnt.chain(fixed).collect()
    }

    fn link(&self, id: InterfaceId, mirrors: &Mirrors) -> Option<Link> {
        let (vrf, name) = self.interfaces.get(id.index())?;
        let name = name.as_deref()?;
        let netns = self.source(*vrf)?.netns().map(str::to_owned);
        let link = mirrors.get(&netns).and_then(|mirror| mirror.link_named(name));
        // A kernel interface that isn't there is down.
        Some(Link {
            interface: id,
            up: link.is_some_and(|l| l.up),
            mac: link.and_then(|l| l.mac),
        })
    }

    /// The configuration's neighbours come first, and one address has one MAC address.
    fn drop_shadowed_neighbors(&self, all: &mut Forwarding) {
        let fixed = self.fixed.neighbors.len();
        let mut at = 0;
        all.neighbors.retain(|n| {
            at += 1;
            at <= fixed
                || !self
                    .fixed
                    .neighbors
                    .iter()
                    .any(|f| f.interface == n.interface && f.address == n.address)
        });
    }

    fn ids(&self) -> impl Iterator<Item = InterfaceId> + use<> {
        (0..u16::try_from(self.interfaces.len()).unwrap_or(u16::MAX)).map(InterfaceId)
    }
}

/// Where each VRF's routes are, and which interface is which: as long as it is the same, a change of a route is a change of
/// that route alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ground {
    vrfs: Vec<Option<Place>>,
    links: BTreeMap<Option<String>, BTreeMap<u32, InterfaceId>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    netns: Option<String>,
    table: u32,
    links: BTreeMap<u32, InterfaceId>,
}

impl Ground {
    /// VRFs that have their routes in this table of a namespace.
    pub fn vrfs_of<'a>(&'a self, netns: &'a Option<String>, table: u32) -> impl Iterator<Item = VrfId> + 'a {
        let places = (0..).map(VrfId).zip(&self.vrfs);
        places
            .filter(move |(_, place)| {
                place
                    .as_ref()
                    .is_some_and(|p| p.table == table && p.netns == *netns)
            })
            .map(|(vrf, _)| vrf)
    }
}

impl Place {
    /// Next hops over interfaces that are ours.
    fn via(&self, hops: &[Hop]) -> Vec<NextHop> {
        let ours = hops.iter().filter_map(|hop| {
            Some(NextHop {
                interface: *self.links.get(&hop.link)?,
                gateway: hop.gateway,
            })
        });
        ours.collect()
    }
}

/// One mirror per namespace.
pub type Mirrors = BTreeMap<Option<String>, Mirror>;

fn table_of(source: &Source, mirror: &Mirror) -> Option<u32> {
    match source {
        Source::Main | Source::Netns(_) => Some(TABLE_MAIN),
        Source::Device(name) => mirror.link_named(name)?.vrf_table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{Change, Hop, KernelLink, KernelNeighbor, KernelRoute, RouteKey};

    fn link(index: u32, name: &str, vrf_table: Option<u32>) -> Change {
        let mac = Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]);
        Change::Link(KernelLink {
            index,
            name: name.into(),
            up: true,
            mac,
            vrf_table,
            station_of: None,
        })
    }

    fn route(table: u32, prefix: &str, link: u32, gateway: &str) -> Change {
        let key = RouteKey {
            table,
            prefix: prefix.parse().unwrap(),
            metric: 0,
            tos: 0,
        };
        let hops = vec![Hop {
            link,
            gateway: Some(gateway.parse().unwrap()),
        }];
        Change::Route(
            key,
            KernelRoute {
                hops,
                appended: false,
                object: None,
            },
        )
    }

    fn neighbor(link: u32, address: &str) -> Change {
        Change::Neighbor(
            link,
            address.parse().unwrap(),
            KernelNeighbor {
                mac: [2; 6],
                stale: false,
            },
        )
    }

    /// Own namespace: lan0 (2) in the main table, red0 (3) under a VRF device of table 10; "blue" has lan0 (2).
    fn mirrors() -> Mirrors {
        let own = [
            link(2, "lan0", None),
            link(3, "red0", None),
            link(4, "vrf-red", Some(10)),
            link(9, "elsewhere", None),
            route(254, "0.0.0.0/0", 2, "10.0.0.1"),
            route(254, "10.9.0.0/16", 9, "10.9.0.1"),
            route(10, "0.0.0.0/0", 3, "10.0.0.2"),
            neighbor(2, "10.0.0.1"),
            neighbor(9, "10.9.0.1"),
            Change::Address(3, "10.0.0.3/24".parse().unwrap()),
        ];
        let blue = [
            link(2, "lan0", None),
            route(254, "0.0.0.0/0", 2, "10.0.0.3"),
            neighbor(2, "10.0.0.1"),
        ];
        Mirrors::from([
            (None, Mirror::of(own)),
            (Some("blue".to_owned()), Mirror::of(blue)),
        ])
    }

    fn map() -> KernelMap {
        KernelMap {
            vrfs: vec![
                Source::Main,
                Source::Device("vrf-red".into()),
                Source::Netns("blue".into()),
            ],
            interfaces: vec![
                (VrfId(0), Some("lan0".into())),
                (VrfId(1), Some("red0".into())),
                (VrfId(2), Some("lan0".into())),
                (VrfId(0), None),
                (VrfId(0), Some("missing".into())),
            ],
            fixed: Forwarding::default(),
        }
    }

    #[test]
    fn each_vrf_gets_the_routes_of_its_table_and_each_interface_what_is_its_own() {
        let got = map().assemble(&mirrors());
        let hop = |interface, gateway: &str| {
            vec![NextHop {
                interface: InterfaceId(interface),
                gateway: Some(gateway.parse().unwrap()),
            }]
        };
        let default = "0.0.0.0/0".parse().unwrap();
        assert_eq!(
            got.routes,
            [
                Route {
                    vrf: VrfId(0),
                    prefix: default,
                    via: hop(0, "10.0.0.1")
                },
                Route {
                    vrf: VrfId(1),
                    prefix: default,
                    via: hop(1, "10.0.0.2")
                },
                Route {
                    vrf: VrfId(2),
                    prefix: default,
                    via: hop(2, "10.0.0.3")
                },
            ],
            "the route over an interface that isn't ours is left out"
        );
        let interfaces: Vec<u16> = got.neighbors.iter().map(|n| n.interface.0).collect();
        assert_eq!(interfaces, [0, 2]);
        assert_eq!(got.addresses, [(InterfaceId(1), "10.0.0.3/24".parse().unwrap())]);
        let links: Vec<(u16, bool)> = got.links.iter().map(|l| (l.interface.0, l.up)).collect();
        assert_eq!(links, [(0, true), (1, true), (2, true), (4, false)]);
    }

    #[test]
    fn the_configuration_wins_over_the_kernel_for_the_same_route_and_neighbor() {
        let mut map = map();
        let fixed_route = Route {
            vrf: VrfId(0),
            prefix: "0.0.0.0/0".parse().unwrap(),
            via: vec![NextHop {
                interface: InterfaceId(3),
                gateway: None,
            }],
        };
        let fixed_neighbor = Neighbor {
            interface: InterfaceId(0),
            address: "10.0.0.1".parse().unwrap(),
            mac: [9; 6],
        };
        map.fixed.routes.push(fixed_route.clone());
        map.fixed.neighbors.push(fixed_neighbor);
        let got = map.assemble(&mirrors());
        let of_vrf_0: Vec<&Route> = got.routes.iter().filter(|r| r.vrf == VrfId(0)).collect();
        assert_eq!(of_vrf_0, [&fixed_route]);
        let of_interface_0: Vec<&Neighbor> = got
            .neighbors
            .iter()
            .filter(|n| n.interface == InterfaceId(0))
            .collect();
        assert_eq!(of_interface_0, [&fixed_neighbor]);
    }
}
