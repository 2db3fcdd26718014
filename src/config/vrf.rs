//! `[[vrf]]`: slots, inside prefixes, static routes and neighbours, timeouts, peers.

use std::net::IpAddr;

use dataplane::config::{Neighbor, NextHop, Route, Timeouts, VrfIntent};
use dataplane::flow::VrfId;
use state_sync::config::SyncLink;

use super::care::{Around, read_commit, read_standby};
use super::locate::{At, Place, Report};
use super::policy::{self, PoolPlaces};
use super::section::Section;
use super::topology::{Topology, add_route};
use super::values;
use super::{KernelBinding, PeerConfig, Places, VrfConfig};

/// Slot count of a VRF, unless configured.
const SLOTS: u16 = 1_024;
/// Most slots a VRF may have: what a handshake with one digest per slot still carries comfortably.
const SLOTS_MAX: u16 = 4_096;
/// 30 days; anything longer is a typing error.
const TIMEOUT_S_MAX: u32 = 2_592_000;

/// A VRF as read.
pub(super) struct VrfRead {
    pub intent: VrfIntent,
    pub config: VrfConfig,
    pub routes: Vec<Route>,
    pub neighbors: Vec<Neighbor>,
    pub pools: Vec<PoolPlaces>,
    pub slots: Place,
    pub kernel: Place,
    pub peers: Vec<Place>,
    /// Its HA group exists, or it has none and needs none.
    pub group_is_known: bool,
}

pub(super) fn read(root: &Section<'_>, topology: &Topology, places: &mut Places) -> Vec<VrfRead> {
    let mut sections = root.sections("vrf", "[[vrf]]");
    if sections.is_empty() {
        // A file without [[vrf]] has the one VRF "main", all defaults.
        sections.push(root.section("no [[vrf]]", "[[vrf]]"));
    }
    (0..)
        .map(VrfId)
        .zip(sections)
        .map(|(id, section)| read_vrf(section, id, topology, places))
        .collect()
}

fn read_vrf(section: Section<'_>, id: VrfId, topology: &Topology, places: &mut Places) -> VrfRead {
    let name = topology.vrf_names.get(id.index()).value.clone();
    let _ = section.text("name");
    let report = section.report();
    let inside: Vec<_> = section
        .list("inside", values::prefix_or_address)
        .into_iter()
        .map(|p| p.value)
        .collect();
    let kernel = kernel_binding(&section);
    let kernel_key = if section.has("netns") {
        "netns"
    } else {
        "kernel_vrf"
    };
    places.mark(report, format!("vrf.{name}.kernel"), section.place_of(kernel_key));
    let replicated = section.nested_has("ha_fp_conntrack", "peer");
    let output_commit = read_commit(&section, replicated);
    let around = Around {
        replicated,
        output_commit: output_commit.policy,
    };
    let firewall = section.section("firewall", "[vrf.firewall]");
    let firewall = policy::read_firewall(firewall, id, topology, around);
    // A faulty inside prefix is one fault; what it does to NAT rules isn't another.
    let known_inside = section.took_all("inside", &inside).then_some(inside.as_slice());
    let nat = section.section("cg_nat", "[vrf.cg_nat]");
    let (pools, pool_places, nat_rules) = policy::read_nat(nat, id, topology, known_inside, around);
    let (listen_ha_group, peers) = read_ha(
        section.section("ha_fp_conntrack", "[vrf.ha_fp_conntrack]"),
        topology,
        &name,
        places,
    );
    let announce_pools = section.flag("announce_pools", false);
    section.report().check(
        !announce_pools || !pools.is_empty() || section.nested_has("cg_nat", "pool"),
        section.place_of("announce_pools"),
        || format!("VRF \"{name}\" has no pool to announce"),
        "add a [[vrf.cg_nat.pool]], or leave announce_pools out",
    );
    let named = section.nested_has("ha_fp_conntrack", "listen_ha_group");
    let read = VrfRead {
        group_is_known: listen_ha_group.is_some() || (!named && peers.is_empty()),
        intent: VrfIntent {
            name: name.clone(),
            slots: section.number("slots", 1..=SLOTS_MAX, SLOTS),
            inside,
            ha_group: listen_ha_group.clone(),
            firewall,
            pools,
            nat_rules,
            timeouts: read_timeouts(section.section("timeouts", "[vrf.timeouts]")),
            tcp_window_check: section.flag("tcp_window_check", true),
            flow_counters: section.flag("flow_counters", true),
            output_commit,
            standby: read_standby(&section, replicated),
        },
        routes: read_routes(&section, id, topology),
        neighbors: read_neighbors(&section, id, topology),
        pools: pool_places,
        slots: section.place_of("slots"),
        kernel: section.place_of(kernel_key),
        peers: peers.iter().map(|p| p.place).collect(),
        config: VrfConfig {
            name,
            kernel,
            listen_ha_group,
            announce_pools,
            peers: peers.into_iter().map(|p| p.value).collect(),
        },
    };
    section.finish();
    read
}

fn kernel_binding(section: &Section<'_>) -> KernelBinding {
    let device = section.parsed("kernel_vrf", values::name);
    let netns = section.parsed("netns", values::name);
    match (device, netns) {
        (Some(_), Some(netns)) => {
            let what = "a VRF has both kernel_vrf and netns";
            section
                .report()
                .add(netns.place, what, "keep the one its routes come from");
            KernelBinding::Main
        }
        (Some(device), None) => KernelBinding::Device(device.value),
        (None, Some(netns)) => KernelBinding::Netns(netns.value),
        (None, None) => KernelBinding::Main,
    }
}

fn read_routes(vrf: &Section<'_>, id: VrfId, topology: &Topology) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for section in vrf.sections("route", "[[vrf.route]]") {
        let report = section.report();
        let prefix = section.required("prefix", "\"0.0.0.0/0\"");
        let prefix = prefix.and_then(|_| section.parsed("prefix", values::prefix));
        let interface = section.required("interface", "the name of an interface");
        let interface = interface.and_then(|i| topology.interface_in(report, &i, id));
        let gateway = section.parsed("gateway", values::address);
        if let (Some(prefix), Some(interface)) = (prefix, interface) {
            if let Some(gateway) = &gateway {
                let same = gateway.value.is_ipv4() == prefix.value.addr().is_ipv4();
                let what = || {
                    format!(
                        "gateway {} is of another family than {}",
                        gateway.value, prefix.value
                    )
                };
                report.check(same, gateway.place, what, "use a gateway of the prefix's family");
                check_on_link(&section, topology, usize::from(interface.0), gateway);
            }
            let via = NextHop {
                interface,
                gateway: gateway.map(|g| g.value),
            };
            let twice = routes
                .iter()
                .any(|r| r.prefix == prefix.value && r.via.contains(&via));
            let what = || format!("the route to {} is there twice", prefix.value);
            report.check(
                !twice,
                prefix.place,
                what,
                "remove one, or give it another interface or gateway",
            );
            add_route(&mut routes, id, prefix.value, via);
        }
        section.finish();
    }
    routes
}

/// A gateway must be on the link, as far as the file tells what that is.
fn check_on_link(section: &Section<'_>, topology: &Topology, interface: usize, gateway: &At<IpAddr>) {
    let (Some(intent), Some(config)) = (
        topology.intents.get(interface),
        topology.interfaces.get(interface),
    ) else {
        return;
    };
    let known = config.kernel_interface.is_none() && !intent.addresses.is_empty();
    let link_local = matches!(gateway.value, IpAddr::V6(a) if a.is_unicast_link_local());
    let on_link = link_local || intent.addresses.iter().any(|a| a.contains(&gateway.value));
    let what = || {
        format!(
            "gateway {} is not on the link of \"{}\"",
            gateway.value, intent.name
        )
    };
    let advice = "use a gateway inside one of the interface's addresses, or add such an address";
    section
        .report()
        .check(!known || on_link, gateway.place, what, advice);
}

fn read_neighbors(vrf: &Section<'_>, id: VrfId, topology: &Topology) -> Vec<Neighbor> {
    let mut neighbors: Vec<Neighbor> = Vec::new();
    for section in vrf.sections("neighbor", "[[vrf.neighbor]]") {
        let report = section.report();
        let interface = section.required("interface", "the name of an interface");
        let interface = interface.and_then(|i| topology.interface_in(report, &i, id));
        let address = section.required("address", "\"192.0.2.254\"");
        let address = address.and_then(|_| section.parsed("address", values::address));
        let mac = section.required("mac", "\"02:00:00:00:00:01\"");
        let mac = mac.and_then(|_| section.parsed("mac", values::mac));
        if let (Some(interface), Some(address), Some(mac)) = (interface, address, mac) {
            let twice = neighbors
                .iter()
                .any(|n| n.interface == interface && n.address == address.value);
            let what = || format!("neighbour {} is there twice", address.value);
            report.check(!twice, address.place, what, "remove one");
            neighbors.push(Neighbor {
                interface,
                address: address.value,
                mac: mac.value,
            });
        }
        section.finish();
    }
    neighbors
}

/// A timeout: key, field, least value in seconds, the rule that says so.
type TimeoutRule = (&'static str, fn(&mut Timeouts) -> &mut u32, u32, &'static str);

const TIMEOUTS: [TimeoutRule; 8] = [
    (
        "tcp_opening_s",
        |t| &mut t.tcp_opening_s,
        240,
        "RFC 5382 section 5, REQ-5",
    ),
    (
        "tcp_established_s",
        |t| &mut t.tcp_established_s,
        7_440,
        "RFC 5382 section 5, REQ-5",
    ),
    (
        "tcp_closing_s",
        |t| &mut t.tcp_closing_s,
        240,
        "RFC 5382 section 5, REQ-5",
    ),
    ("tcp_reset_s", |t| &mut t.tcp_reset_s, 240, "RFC 7857 section 2.2"),
    (
        "udp_opening_s",
        |t| &mut t.udp_opening_s,
        120,
        "RFC 4787 section 4.3, REQ-5",
    ),
    (
        "udp_established_s",
        |t| &mut t.udp_established_s,
        120,
        "RFC 4787 section 4.3, REQ-5",
    ),
    ("icmp_s", |t| &mut t.icmp_s, 60, "RFC 5508 section 3.2, REQ-2"),
    ("other_s", |t| &mut t.other_s, 1, ""),
];

fn read_timeouts(section: Section<'_>) -> Timeouts {
    let mut timeouts = Timeouts::default();
    let allow_short = section.flag("allow_short_timeouts", false);
    for (key, field, least_s, rule) in TIMEOUTS {
        let Some(value) = section.number_at(key, 1..=TIMEOUT_S_MAX) else {
            continue;
        };
        let what = || format!("{key} = {} is below the {least_s} s of {rule}", value.value);
        let advice = format!("use {least_s} or more, or allow_short_timeouts = true in [vrf.timeouts]");
        section
            .report()
            .check(allow_short || value.value >= least_s, value.place, what, advice);
        *field(&mut timeouts) = value.value;
    }
    section.finish();
    timeouts
}

fn read_ha(
    section: Section<'_>,
    topology: &Topology,
    vrf: &str,
    places: &mut Places,
) -> (Option<String>, Vec<At<PeerConfig>>) {
    let report = section.report();
    let group = section.text("listen_ha_group");
    let group = group.filter(|g| topology.ha_group_names.resolve(report, g).is_some());
    let mut peers: Vec<At<PeerConfig>> = Vec::new();
    for item in section.sections("peer", "[[vrf.ha_fp_conntrack.peer]]") {
        peers.extend(read_peer(item, &peers, vrf, places));
    }
    if let Some(peer) = peers.first().filter(|_| !section.has("listen_ha_group")) {
        let what = "a VRF with a peer listens to no HA group, so both nodes would be active";
        report.add(
            peer.place,
            what,
            "add listen_ha_group = \"...\" to [vrf.ha_fp_conntrack]",
        );
    }
    section.finish();
    (group.map(|g| g.value.to_owned()), peers)
}

/// The other way to a peer: both addresses, or none.
fn read_second(section: &Section<'_>, peer: &str) -> Option<At<SyncLink>> {
    let keys = ["second_source", "second_address"];
    if !keys.iter().any(|key| section.has(key)) {
        return None;
    }
    let source = section.required(
        "second_source",
        "this node's address on the second sync interface",
    );
    let source = source.and_then(|_| section.parsed("second_source", values::address));
    let address = section.required("second_address", "the other node's address there");
    let address = address.and_then(|_| section.parsed("second_address", values::address));
    let (source, address) = (source?, address?);
    check_ends(section.report(), peer, &source, &address);
    Some(At {
        place: source.place,
        value: SyncLink {
            source: source.value,
            address: address.value,
        },
    })
}

fn check_ends(report: &Report<'_>, peer: &str, source: &At<IpAddr>, address: &At<IpAddr>) {
    let (from, to) = (source.value, address.value);
    report.check(
        from.is_ipv4() == to.is_ipv4(),
        address.place,
        || format!("source {from} and address {to} are of different families"),
        "use two IPv4 or two IPv6 addresses",
    );
    report.check(
        from != to,
        address.place,
        || format!("peer \"{peer}\" has this node's own address"),
        "use the other node's address",
    );
}

fn read_peer(
    section: Section<'_>,
    others: &[At<PeerConfig>],
    vrf: &str,
    places: &mut Places,
) -> Option<At<PeerConfig>> {
    let report = section.report();
    let name = section
        .required("name", "\"peer1\"")
        .and_then(|_| section.parsed("name", values::name));
    let source = section.required("source", "this node's address on the sync interface");
    let source = source.and_then(|_| section.parsed("source", values::address));
    let address = section.required("address", "the other node's address on the sync link");
    let address = address.and_then(|_| section.parsed("address", values::address));
    let second = read_second(&section, name.as_ref().map_or("", |n| n.value.as_str()));
    let public_keys = section.list("public_keys", values::public_key);
    let (place, keys_place) = (section.place, section.place_of("public_keys"));
    section.finish();
    let (name, source, address) = (name?, source?, address?);
    places.mark(
        report,
        format!("vrf.{vrf}.peer.{}.public_keys", name.value),
        keys_place,
    );
    check_ends(report, &name.value, &source, &address);
    if let Some(second) = &second {
        let same = [second.value.source, second.value.address]
            .iter()
            .any(|end| [source.value, address.value].contains(end));
        let what = || format!("both links to peer \"{}\" use the same address", name.value);
        report.check(
            !same,
            second.place,
            what,
            "use addresses of the second sync interface",
        );
        let path = format!("vrf.{vrf}.peer.{}.second_source", name.value);
        places.mark(report, path, second.place);
    }
    for other in others {
        let what = || {
            format!(
                "peer \"{}\" is already defined in line {}",
                name.value,
                report.line(other.place)
            )
        };
        report.check(
            other.value.name != name.value,
            name.place,
            what,
            "choose another name",
        );
        let twice = (other.value.source, other.value.address) == (source.value, address.value);
        let what = || {
            format!(
                "the peer at {} is already \"{}\"",
                address.value, other.value.name
            )
        };
        report.check(!twice, address.place, what, "remove one of the two");
    }
    places.mark(
        report,
        format!("vrf.{vrf}.peer.{}.source", name.value),
        source.place,
    );
    Some(At {
        value: PeerConfig {
            name: name.value,
            source: source.value,
            address: address.value,
            second: second.map(|s| s.value),
            public_keys: public_keys.into_iter().map(|k| k.value).collect(),
        },
        place,
    })
}
