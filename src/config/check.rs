//! What can only be said when the whole file is read: things used twice, overlaps, and tables that need each other.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};

use dataplane::exception::Class;
use dataplane::io::PortId;
use dataplane::rss::Rss;
use state_sync::config::STREAMS_MAX;

use super::locate::{Place, Report};
use super::node::SyncRead;
use super::topology::{HaGroupRead, PortPlaces, Topology};
use super::values::device_argument;
use super::vrf::VrfRead;
use super::{DataplaneConfig, Exception, KernelBinding, PeerConfig, PortConfig, Security, vrrp};
use crate::dpdk::port::{RING_FRAME_DEFAULT, RING_FRAME_OVERHEAD};
use crate::dpdk::tap;

/// The whole file as read.
pub(super) struct Everything<'e> {
    pub topology: &'e Topology,
    pub vrfs: &'e [VrfRead],
    pub ha_groups: &'e [HaGroupRead],
    pub sync: &'e Option<SyncRead>,
    pub dataplane: &'e DataplaneConfig,
}

/// Adds every fault of the file as a whole.
pub(super) fn all(report: &Report<'_>, file: &Everything<'_>) {
    ports(report, file);
    adverts_pass(report, file);
    interfaces(report, file);
    addresses(report, file);
    vrrp::check(report, file);
    slots(report, file);
    streams(report, file);
    sync(report, file);
    peer_keys(report, file);
    kernel_tables(report, file);
    pools(report, file);
    shared_pools(report, file);
}

/// Finds the second use of a thing.
struct Uses<K> {
    what: &'static str,
    advice: &'static str,
    seen: HashMap<K, Place>,
}

impl<K: Hash + Eq> Uses<K> {
    fn new(what: &'static str, advice: &'static str) -> Self {
        Self {
            what,
            advice,
            seen: HashMap::new(),
        }
    }

    fn add(&mut self, report: &Report<'_>, key: K, shown: &str, place: Place) {
        if let Some(first) = self.seen.get(&key) {
            let what = format!(
                "{} {shown} is already used in line {}",
                self.what,
                report.line(*first)
            );
            report.add(place, what, self.advice);
            return;
        }
        self.seen.insert(key, place);
    }
}

impl Everything<'_> {
    /// Network namespace of a port's kernel interface: that of the first VRF it carries.
    fn netns_of_port(&self, port: usize) -> Option<&str> {
        let interface = self.topology.intents.iter().find(|i| i.port.index() == port)?;
        self.netns_of_vrf(interface.vrf.index())
    }

    pub(super) fn netns_of_vrf(&self, vrf: usize) -> Option<&str> {
        self.vrfs.get(vrf)?.config.kernel.netns()
    }
}

fn ports(report: &Report<'_>, file: &Everything<'_>) {
    let mut devices = Uses::new("device", "give each port a device of its own");
    let mut below = Uses::new("interface", "give each port an interface of its own");
    let mut kernel = Uses::new("kernel interface", "give each port its own");
    for (n, (port, places)) in file
        .topology
        .ports
        .iter()
        .zip(&file.topology.port_places)
        .enumerate()
    {
        let netns = file.netns_of_port(n);
        let device = port.device.split(',').next().unwrap_or_default();
        if device.is_empty() {
            continue;
        }
        devices.add(report, device, device, places.device);
        if let Some(iface) = device_argument(&port.device, "iface") {
            below.add(report, (netns, iface), iface, places.device);
        }
        if let Some(interface) = &port.kernel_interface {
            kernel.add(
                report,
                (netns, interface.as_str()),
                interface,
                places.kernel_interface,
            );
        }
        queue_pairs(report, &port.device, port.rx_queues, places.rx_queues);
        spreading(report, port, places);
        tap(report, file, port, places);
    }
}

/// Fields are hashed to choose one of several queues.
fn spreading(report: &Report<'_>, port: &PortConfig, places: &PortPlaces) {
    report.check(
        port.rx_queues > 1 || matches!(port.rss, Rss::Flow | Rss::Off),
        places.rss,
        || {
            format!(
                "rss = \"{}\" chooses among queues, and there is one",
                port.rss.name()
            )
        },
        "add rx_queues, at best one for each worker, or remove rss",
    );
}

/// A tap is an interface of its own, which the data process makes.
fn tap(report: &Report<'_>, file: &Everything<'_>, port: &PortConfig, places: &PortPlaces) {
    if port.exception != Exception::Tap {
        return report.check(
            !places.has_exception_limits,
            places.exception_limits,
            || {
                format!(
                    "exception_packets_per_s limits what goes to a tap, and port \"{}\" has none",
                    port.name
                )
            },
            "add exception = \"tap\", or remove it",
        );
    }
    let Some(name) = port.tap() else {
        let what = format!("the tap of port \"{}\" has no name", port.name);
        let advice = "add kernel_interface: the kernel interface of that name is made, and mirrors the port";
        return report.add(places.exception, what, advice);
    };
    let odd = |c: char| c == '/' || c == ',' || c == '=' || c == '%' || !c.is_ascii_graphic();
    report.check(
        (1..=tap::NAME_MAX).contains(&name.len()) && !name.contains(odd) && name != "." && name != "..",
        places.kernel_interface,
        || format!("no kernel interface can be called \"{name}\""),
        "use at most 15 letters, digits, dots and dashes",
    );
    let below = file.topology.ports.iter().find_map(|other| {
        let iface = device_argument(&other.device, "iface")?;
        (iface == name).then_some(&other.name)
    });
    if let Some(other) = below {
        report.add(
            places.kernel_interface,
            format!("\"{name}\" is the interface below port \"{other}\", and can't be made as a tap"),
            "give the tap another name, or leave exception out: the kernel sees the frames of that interface",
        );
    }
    let workers = file.dataplane.workers;
    report.check(
        workers <= tap::QUEUES_MAX,
        places.exception,
        || format!("{workers} workers are too many for a tap"),
        "use at most 16 workers",
    );
}

/// Adverts that the limit of their class refuses make a master of every node.
fn adverts_pass(report: &Report<'_>, file: &Everything<'_>) {
    let ports = file.topology.ports.iter().zip(&file.topology.port_places);
    for (n, (port, places)) in ports.enumerate() {
        let passing = port.exception_limits.of(Class::Ha);
        let adverts_per_s = vrrp::adverts_per_s(file, PortId(u16::try_from(n).unwrap_or(u16::MAX)));
        report.check(
            port.exception != Exception::Tap || passing >= adverts_per_s,
            places.exception_limits,
            || {
                format!(
                    "{passing} packets a second of the class ha pass to the tap of port \"{}\", and its VRRP groups send {adverts_per_s} adverts",
                    port.name
                )
            },
            format!("write exception_packets_per_s = {{ ha = {adverts_per_s} }} at least, or use a longer advert_interval_ms"),
        );
    }
}

/// An `AF_PACKET` device has one queue pair unless `qpairs` says more. The kernel spreads frames over all of them, so one that
/// nobody polls would swallow its share.
fn queue_pairs(report: &Report<'_>, device: &str, rx_queues: u16, place: Place) {
    if !device.starts_with("net_af_packet") {
        return;
    }
    let pairs = device_argument(device, "qpairs")
        .and_then(|q| q.parse().ok())
        .unwrap_or(1_u16);
    let what = || format!("rx_queues = {rx_queues}, but the device has {pairs}");
    report.check(
        rx_queues <= pairs,
        place,
        what,
        format!("add qpairs={rx_queues} to device, or use fewer queues"),
    );
    report.check(
        rx_queues >= pairs,
        place,
        || format!("rx_queues = {rx_queues}, but the kernel spreads frames over the {pairs} queue pairs of the device"),
        format!("use rx_queues = {pairs}, or frames in the other queues are lost"),
    );
}

/// An `AF_PACKET` device cuts off what doesn't fit into a frame of its ring: 2,048 bytes, unless `framesz` says more.
fn ring_frame(report: &Report<'_>, device: &str, mtu: u16, place: Place) {
    if !device.starts_with("net_af_packet") {
        return;
    }
    let has = device_argument(device, "framesz")
        .and_then(|size| size.parse().ok())
        .unwrap_or(RING_FRAME_DEFAULT);
    let needed = u32::from(mtu) + RING_FRAME_OVERHEAD;
    let what = || format!("mtu = {mtu} takes {needed} bytes of the device's ring, whose frames have {has}");
    let size = needed.next_multiple_of(1_024);
    report.check(
        needed <= has,
        place,
        what,
        format!(
            "add blocksz={},framesz={size} to device, with a framecnt that is a multiple of 4, or lower mtu",
            4 * size
        ),
    );
}

fn interfaces(report: &Report<'_>, file: &Everything<'_>) {
    let mut tags = Uses::new(
        "port and vlan",
        "use another vlan, or remove one of the interfaces",
    );
    let mut kernel = Uses::new("kernel interface", "give each interface its own");
    let topology = file.topology;
    for (n, intent) in topology.intents.iter().enumerate() {
        let places = &topology.interface_places[n];
        let Some(port) = topology.ports.get(intent.port.index()) else {
            continue;
        };
        ring_frame(report, &port.device, intent.mtu, places.mtu);
        let vlans: Vec<String> = intent.vlans.iter().map(u16::to_string).collect();
        let vlans = if vlans.is_empty() {
            "untagged".to_owned()
        } else {
            vlans.join(".")
        };
        let shown = format!("{} {vlans}", port.name);
        if places.is_clean {
            tags.add(report, (intent.port, intent.vlans.clone()), &shown, places.whole);
        }
        if let Some(name) = topology.interfaces[n]
            .kernel_interface
            .as_ref()
            .filter(|_| places.has_own)
        {
            let key = (file.netns_of_vrf(intent.vrf.index()), name.clone());
            kernel.add(report, key, name, places.kernel_interface);
        }
    }
}

/// Addresses given in TOML: once per VRF, and virtual ones only where their group decides.
fn addresses(report: &Report<'_>, file: &Everything<'_>) {
    let topology = file.topology;
    let mut uses = Uses::new("address", "use each address once in a VRF");
    for (intent, places) in topology.intents.iter().zip(&topology.interface_places) {
        for (address, place) in intent.addresses.iter().zip(&places.addresses) {
            uses.add(
                report,
                (intent.vrf, address.addr()),
                &address.addr().to_string(),
                *place,
            );
        }
    }
    for group in file.ha_groups {
        for (address, place) in group.intent.virtual_addresses.iter().zip(&group.places) {
            let Some(interface) = topology.intents.get(address.interface.index()) else {
                continue;
            };
            let ip = address.address;
            uses.add(report, (interface.vrf, ip), &ip.to_string(), *place);
            let Some(vrf) = file.vrfs.get(interface.vrf.index()) else {
                continue;
            };
            let listens = vrf.config.listen_ha_group.as_ref() == Some(&group.name);
            let what = || {
                let (interface, vrf) = (&interface.name, &vrf.config.name);
                format!(
                    "{ip} is on \"{interface}\", whose VRF \"{vrf}\" doesn't listen to \"{}\"",
                    group.name
                )
            };
            let advice = "set listen_ha_group of that VRF, or move the address to its group";
            report.check(listens || !vrf.group_is_known, *place, what, advice);
            let what = || format!("{ip} is both virtual and in a pool");
            report.check(
                pool_range(vrf, ip).is_none(),
                *place,
                what,
                "take it out of one of them",
            );
        }
    }
}

fn pool_range(vrf: &VrfRead, ip: IpAddr) -> Option<Place> {
    let IpAddr::V4(ip) = ip else { return None };
    vrf.pools
        .iter()
        .flat_map(|p| &p.ranges)
        .find(|r| r.0 <= ip && ip <= r.1)
        .map(|r| r.2)
}

/// Every worker must feed every lane.
fn slots(report: &Report<'_>, file: &Everything<'_>) {
    let (workers, lanes) = (
        usize::from(file.dataplane.workers),
        usize::from(file.dataplane.event_threads),
    );
    for vrf in file.vrfs {
        let enough = usize::from(vrf.intent.slots) >= workers * lanes;
        let what = || {
            format!(
                "slots = {} can't occupy {workers} workers × {lanes} event threads",
                vrf.intent.slots
            )
        };
        let advice = format!("use at least {} on both nodes", workers * lanes);
        report.check(enough, vrf.slots, what, advice);
    }
}

/// A connection tells slots apart by two bytes (sync/PROTOCOL.md R-18).
fn streams(report: &Report<'_>, file: &Everything<'_>) {
    let mut total = 0_u32;
    for vrf in file.vrfs.iter().filter(|vrf| !vrf.peers.is_empty()) {
        total += u32::from(vrf.intent.slots);
        let what = || format!("replicated VRFs have {total} slots up to here, and {STREAMS_MAX} is the most");
        report.check(
            total <= STREAMS_MAX,
            vrf.slots,
            what,
            "use fewer slots on both nodes",
        );
    }
}

/// With protection, each peer needs a key to prove. Of its keys, and of its second link, only one word counts.
fn peer_keys(report: &Report<'_>, file: &Everything<'_>) {
    let is_tls = |s: &SyncRead| s.config.security == Security::Tls;
    let peers = || file.vrfs.iter().flat_map(|v| v.config.peers.iter().zip(&v.peers));
    for (n, (peer, place)) in peers().enumerate() {
        let known = !peer.public_keys.is_empty() || !file.sync.as_ref().is_some_and(is_tls);
        let what = || format!("peer \"{}\" has no public_keys to prove who it is", peer.name);
        let advice =
            "add public_keys = [\"tpk1...\"] with the line that twinpathctl key generate prints there";
        report.check(known, *place, what, advice);
        let same = |p: &PeerConfig| (p.source, p.address) == (peer.source, peer.address);
        let Some((other, earlier)) = peers().take(n).find(|(p, _)| same(p)) else {
            continue;
        };
        let line = report.line(*earlier);
        let what = |what: &str| format!("the peer at {} has {what} in line {line}", peer.address);
        report.check(
            other.second == peer.second,
            *place,
            || what("another second link"),
            "give the same second_source and second_address wherever a VRF names this peer",
        );
        report.check(
            other.public_keys == peer.public_keys,
            *place,
            || what("other public_keys"),
            "give the same list wherever a VRF names this peer",
        );
    }
}

fn sync(report: &Report<'_>, file: &Everything<'_>) {
    let Some(sync) = file.sync else {
        if let Some(place) = file.vrfs.iter().flat_map(|v| &v.peers).next() {
            let advice = "add [sync] with interface and security";
            report.add(
                *place,
                "a VRF has a peer, but there is no [sync] to reach it",
                advice,
            );
        }
        return;
    };
    let second = sync.config.second_interface.as_deref();
    let links = || file.vrfs.iter().flat_map(|v| v.config.peers.iter().zip(&v.peers));
    if let Some((_, place)) = links().find(|(p, _)| p.second.is_some() && second.is_none()) {
        report.add(
            *place,
            "a peer has a second link, and no interface for it",
            "add second_interface to [sync]",
        );
    }
    if second == Some(sync.config.interface.as_str()) {
        report.add(
            sync.second_interface,
            "both links would fail together: second_interface is interface",
            "use another kernel interface",
        );
    }
    kept_apart(report, file, &sync.config.interface, sync.interface);
    if let Some(second) = second {
        kept_apart(report, file, second, sync.second_interface);
    }
}

/// A sync interface carries no user traffic.
fn kept_apart(report: &Report<'_>, file: &Everything<'_>, name: &str, place: Place) {
    let advice = "use a kernel interface that no port owns";
    let port = file.topology.ports.iter().enumerate().find(|(n, port)| {
        let carried = port.kernel_interface.as_deref() == Some(name)
            || device_argument(&port.device, "iface") == Some(name);
        carried && file.netns_of_port(*n).is_none()
    });
    if let Some((_, port)) = port {
        let (what, why) = (
            "is the fast-path port",
            "user traffic could delay the lanes, or reach them",
        );
        report.add(
            place,
            format!("sync interface \"{name}\" {what} \"{}\": {why}", port.name),
            advice,
        );
        return;
    }
    let tagged = file
        .topology
        .interfaces
        .iter()
        .zip(&file.topology.intents)
        .find(|(interface, intent)| {
            let carried = interface.kernel_interface.as_deref() == Some(name);
            carried && file.netns_of_vrf(intent.vrf.index()).is_none()
        });
    if let Some((interface, _)) = tagged {
        let what = format!(
            "sync interface \"{name}\" is the fast-path interface \"{}\"",
            interface.name
        );
        report.add(place, what, advice);
    }
}

/// One kernel VRF is one VRF.
fn kernel_tables(report: &Report<'_>, file: &Everything<'_>) {
    let mut devices = Uses::new("kernel VRF", "bind each VRF to a kernel VRF of its own");
    for vrf in file.vrfs {
        if let KernelBinding::Device(device) = &vrf.config.kernel {
            devices.add(report, device.as_str(), device, vrf.kernel);
        }
    }
}

/// Pool addresses belong to one pool, once, and aren't inside.
fn pools(report: &Report<'_>, file: &Everything<'_>) {
    for vrf in file.vrfs {
        let ranges: Vec<_> = vrf
            .pools
            .iter()
            .flat_map(|p| p.ranges.iter().map(move |r| (&p.name, r)))
            .collect();
        for (n, (pool, (first, last, place))) in ranges.iter().enumerate() {
            for (other, (from, to, earlier)) in &ranges[..n] {
                let shared = (*first).max(*from);
                let what = || {
                    format!(
                        "pool \"{pool}\" has {shared}, which pool \"{other}\" has in line {}",
                        report.line(*earlier)
                    )
                };
                report.check(
                    shared > (*last).min(*to),
                    *place,
                    what,
                    "take it out of one of them",
                );
            }
            for inside in vrf.intent.inside.iter().filter_map(|p| match p {
                ipnet::IpNet::V4(p) => Some(p),
                ipnet::IpNet::V6(_) => None,
            }) {
                let overlaps = *first <= inside.broadcast() && inside.network() <= *last;
                let what = || format!("pool \"{pool}\" overlaps the inside prefix {inside}");
                report.check(
                    !overlaps,
                    *place,
                    what,
                    "use public addresses that are not inside",
                );
            }
        }
    }
}

/// VRFs with the same public addresses must become active together: the other node would hand out ports in use.
fn shared_pools(report: &Report<'_>, file: &Everything<'_>) {
    for (n, vrf) in file.vrfs.iter().enumerate() {
        for other in &file.vrfs[..n] {
            if vrf.config.listen_ha_group == other.config.listen_ha_group {
                continue;
            }
            let theirs = || other.pools.iter().flat_map(|p| &p.ranges);
            let overlap = |r: &&(Ipv4Addr, Ipv4Addr, Place)| theirs().any(|o| r.0 <= o.1 && o.0 <= r.1);
            if let Some(range) = vrf.pools.iter().flat_map(|p| &p.ranges).find(overlap) {
                let (a, b) = (&vrf.config.name, &other.config.name);
                let what =
                    format!("the VRFs \"{a}\" and \"{b}\" share pool addresses, but not their HA group");
                report.add(
                    range.2,
                    what,
                    "let both listen to one HA group, or use other addresses",
                );
            }
        }
    }
}
