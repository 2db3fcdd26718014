//! The immutable view of one moment: interfaces, VRFs, routes, neighbours, addresses, and the pools of its time.

use core::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::routes::Table;
use super::{AddressSet, Lpm, Neighbors, PrefixSet, Routes};
use crate::config::{
    CommitIntent, FirstPacketsPercent, Forwarding, Intent, InterfaceId, InterfaceIntent, NextHop, PoolIntent,
    StandbyPolicy, Timeouts,
};
use crate::exception::ExceptionLimits;
use crate::fingerprint::name_hash;
use crate::flow::{Addr, VrfId};
use crate::io::PortId;
use crate::nat::Pools;
use crate::policy::{NatPolicy, Policies, Policy};
use crate::wire::ethernet::Mac;
use crate::wire::vlan::VlanTags;

/// What the packet path forwards by. See the module for its life.
#[derive(Debug)]
pub struct Snapshot {
    interfaces: Vec<Interface>,
    vrfs: Vec<Vrf>,
    counts_flows: bool,
    /// By hash of the name.
    named: Vec<(u64, InterfaceId)>,
    ports: Vec<PortTable>,
    exceptions: Vec<Option<ExceptionLimits>>,
    first_packets: FirstPacketsPercent,
    neighbors: Neighbors,
    pools: Arc<Pools>,
}

/// What a port knows of itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PortInfo {
    /// MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet it carries untagged, in bytes.
    pub mtu: u16,
}

/// A logical interface.
#[derive(Debug)]
pub struct Interface {
    /// Name used by rules, ctl and logs.
    pub name: String,
    /// What peers call it: [`name_hash`] of the name.
    pub name_hash: u64,
    /// Port it is on.
    pub port: PortId,
    /// Tags to put on.
    pub tags: VlanTags,
    /// VRF of its packets.
    pub vrf: VrfId,
    /// Source of its frames.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Carrier and administrative state; up as long as nothing says otherwise.
    pub up: bool,
    /// Source of ICMP errors: the node's first IPv4 address, else a virtual one.
    pub primary_v4: Option<Addr>,
    /// Source of `ICMPv6` errors: the node's first global IPv6 address, else a virtual one, else link-local.
    pub primary_v6: Option<Addr>,
    virtual_addresses: Vec<Addr>,
    virtual_macs: Vec<[u8; 6]>,
    has_tap: bool,
    answered: AddressSet,
}

impl Interface {
    /// Whether frames to `mac` are for this station. Of a virtual one too when it is the peer's at present: what
    /// arrives here nevertheless is dropped, and counted, as a standby's.
    #[must_use]
    pub fn is_station(&self, mac: &[u8; 6]) -> bool {
        self.mac == *mac || self.virtual_macs.contains(mac)
    }

    /// Whether frames from `mac` are this node's own, which a packet socket shows again. By a tap what the kernel sends comes as
    /// that, so on its port a virtual router's frames are the peer's.
    #[must_use]
    pub fn is_own(&self, mac: &[u8; 6]) -> bool {
        self.mac == *mac || (!self.has_tap && self.virtual_macs.contains(mac))
    }
}

/// A VRF.
#[derive(Debug)]
pub struct Vrf {
    /// Name: its identity towards the peer.
    pub name: String,
    /// Slot count S.
    pub slots: u16,
    /// Inside prefixes of the shard function.
    pub inside: PrefixSet,
    /// Index of its HA group in [`Intent::ha_groups`]; none is always active.
    pub ha_group: Option<u16>,
    /// Lifetimes.
    pub timeouts: Timeouts,
    /// Check TCP sequence windows.
    pub tcp_window_check: bool,
    /// Count packets and bytes per flow.
    pub flow_counters: bool,
    /// Output commit, for rules that say nothing about it.
    pub output_commit: CommitIntent,
    /// What becomes of packets that come while this node isn't active.
    pub standby: StandbyPolicy,
    /// Pools as configured.
    pub pools: Vec<PoolIntent>,
    /// The firewall, compiled.
    pub policy: Arc<Policy>,
    /// Which first packets are translated, and from which pool.
    pub nat: Arc<NatPolicy>,
    v4: Lpm,
    v6: Lpm,
    hops: Hops,
    locals: Vec<(Addr, Local)>,
    announcements: Vec<(InterfaceId, Addr)>,
}

/// Nothing is routed to multicast, loopback or limited broadcast (RFC 1812 section 5.3.7) or to IPv6 link-local addresses
/// (RFC 4291 section 2.5.6).
impl Vrf {
    /// As [`Snapshot::set_of_ways`], of an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub fn set_of_ways_v4(&self, dst: u32) -> Option<u32> {
        let first = dst >> 24;
        if first >= 127 && (first == 127 || first >> 4 == 0xe || dst == u32::MAX) {
            return None;
        }
        self.v4.get_v4(dst)
    }

    /// As [`Snapshot::set_of_ways`], of an IPv6 address.
    #[must_use]
    #[inline]
    pub fn set_of_ways_v6(&self, dst: u128) -> Option<u32> {
        if dst >> 120 == 0xff || dst >> 118 == 0xfe80 >> 6 || dst == 1 {
            return None;
        }
        self.v6.get(dst)
    }
}

/// The way out for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Interface to send on.
    pub interface: InterfaceId,
    /// None when the destination itself is on the link.
    gateway: Option<Addr>,
    /// The gateway's MAC address, looked up once per snapshot.
    gateway_mac: Option<Mac>,
}

impl Way {
    /// Whose MAC address to send to: the gateway, or the destination itself on a link.
    #[must_use]
    pub const fn next_hop(&self, dst: &Addr) -> Addr {
        match self.gateway {
            Some(gateway) => gateway,
            None => *dst,
        }
    }
}

/// Whose a local address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Local {
    /// The node's own: its packets are the kernel's.
    Own,
    /// Moves with the active role: the packet path answers.
    Virtual,
}

impl Snapshot {
    /// Builds everything. `policies` and `pools` are those of `intent`; `ports` is indexed by [`PortId`]; entries of `forwarding`
    /// that name an interface or a VRF which doesn't exist (the kernel is ahead of the configuration) are left out.
    #[must_use]
    pub fn build(
        intent: &Intent,
        policies: &Policies,
        pools: &Arc<Pools>,
        forwarding: &Forwarding,
        ports: &[PortInfo],
    ) -> Self {
        let routes = Routes::of(&forwarding.routes, intent.interfaces.len());
        Self::assemble(intent, policies, pools, (forwarding, &routes), ports)
    }

    /// As [`Self::build`], with routes that are kept and changed elsewhere instead of those of `forwarding`.
    #[must_use]
    pub fn assemble(
        intent: &Intent,
        policies: &Policies,
        pools: &Arc<Pools>,
        (forwarding, routes): (&Forwarding, &Routes),
        ports: &[PortInfo],
    ) -> Self {
        let mut interfaces: Vec<Interface> = (0..)
            .zip(&intent.interfaces)
            .map(|(n, i)| build_interface(InterfaceId(n), i, intent, forwarding, ports))
            .collect();
        let known: Vec<_> = forwarding
            .neighbors
            .iter()
            .filter(|n| n.interface.index() < interfaces.len())
            .copied()
            .collect();
        let neighbors = Neighbors::new(&known);
        let vrfs: Vec<Vrf> = (0..)
            .map(VrfId)
            .take(intent.vrfs.len())
            .map(|id| {
                build_vrf(
                    id,
                    (intent, policies),
                    (forwarding, routes),
                    &interfaces,
                    &neighbors,
                )
            })
            .collect();
        set_answered(&mut interfaces, &vrfs);
        let hashes = interfaces.iter().map(|i| i.name_hash);
        let mut named: Vec<_> = hashes.zip((0..).map(InterfaceId)).collect();
        named.sort_unstable();
        Self {
            named,
            ports: build_ports(intent),
            exceptions: intent.exceptions.clone(),
            first_packets: intent.first_packets,
            pools: Arc::clone(pools),
            neighbors,
            interfaces,
            counts_flows: vrfs.iter().any(|vrf| vrf.flow_counters),
            vrfs,
        }
    }

    /// Interface of a frame on `port` with these VLAN ids, as [`VlanTags::ids`] packs them.
    #[must_use]
    #[inline]
    pub fn interface_of(&self, port: PortId, ids: u32) -> Option<InterfaceId> {
        self.ports.get(usize::from(port.0))?.get(ids)
    }

    /// What of a port reaches the kernel by its tap.
    #[must_use]
    pub fn exception_limits(&self, port: PortId) -> ExceptionLimits {
        let own = self.exceptions.get(port.index());
        own.copied().flatten().unwrap_or_default()
    }

    /// An interface of this snapshot.
    #[must_use]
    #[inline]
    pub fn interface(&self, id: InterfaceId) -> &Interface {
        &self.interfaces[id.index()]
    }

    /// The interface that a peer means.
    #[must_use]
    pub fn interface_named(&self, name_hash: u64) -> Option<InterfaceId> {
        let found = self.named.binary_search_by_key(&name_hash, |named| named.0);
        found.ok().map(|at| self.named[at].1)
    }

    /// All interfaces; the index is the [`InterfaceId`].
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// A VRF of this snapshot.
    #[must_use]
    #[inline]
    pub fn vrf(&self, id: VrfId) -> &Vrf {
        &self.vrfs[id.index()]
    }

    /// All VRFs; the index is the [`VrfId`].
    #[must_use]
    pub fn vrfs(&self) -> &[Vrf] {
        &self.vrfs
    }

    /// Whether any VRF counts packets and bytes per flow: for what has to be known before a packet's VRF is.
    #[inline]
    #[must_use]
    pub const fn counts_flows(&self) -> bool {
        self.counts_flows
    }

    /// What first packets may have of the time of a worker that is overrun.
    #[must_use]
    pub const fn first_packets(&self) -> FirstPacketsPercent {
        self.first_packets
    }

    /// Public addresses and who holds their blocks.
    #[must_use]
    #[inline]
    pub const fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// Way to `dst`; `flow_hash` chooses among equal ones, so a flow keeps its path.
    #[must_use]
    #[inline]
    pub fn route(&self, vrf: VrfId, dst: &Addr, flow_hash: u32) -> Option<&Way> {
        Some(self.way(vrf, self.set_of_ways(vrf, dst)?, flow_hash))
    }

    /// Number of the equal ways to `dst`, in its VRF.
    #[must_use]
    #[inline]
    pub fn set_of_ways(&self, vrf: VrfId, dst: &Addr) -> Option<u32> {
        let vrf = self.vrf(vrf);
        if dst.is_v4() {
            vrf.set_of_ways_v4(dst.v4_number())
        } else {
            vrf.set_of_ways_v6(dst.number())
        }
    }

    /// One of the ways of a set.
    #[must_use]
    #[inline]
    pub fn way(&self, vrf: VrfId, set: u32, flow_hash: u32) -> &Way {
        self.vrfs[vrf.index()].hops.choose(set, flow_hash)
    }

    /// Whether a set is one way, and that through a gateway: whatever goes there goes to the same station.
    #[must_use]
    pub fn is_one_gateway(&self, vrf: VrfId, set: u32) -> bool {
        let hops = &self.vrfs[vrf.index()].hops;
        hops.sets[set as usize].1 == 1 && hops.choose(set, 0).gateway.is_some()
    }

    /// MAC address of the next hop to `dst`; none while it isn't resolved.
    #[must_use]
    #[inline]
    pub fn next_mac(&self, way: &Way, dst: &Addr) -> Option<Mac> {
        if way.gateway.is_some() {
            way.gateway_mac
        } else {
            self.neighbors.get(way.interface, dst)
        }
    }

    /// Whether the active node answers ARP or ND for `address` on `interface`: its virtual addresses there, and
    /// the pool addresses that a NAT rule hands out on it. The caller checks the role.
    #[must_use]
    pub fn answers_for(&self, interface: InterfaceId, address: &Addr) -> bool {
        self.interfaces[interface.index()].answered.contains(address)
    }

    /// Whether packets to `address` end at this node.
    #[must_use]
    pub fn is_local(&self, vrf: VrfId, address: &Addr) -> Option<Local> {
        let locals = &self.vrfs[vrf.index()].locals;
        locals
            .binary_search_by_key(address, |l| l.0)
            .ok()
            .map(|at| locals[at].1)
    }

    /// What a node that becomes active announces: next hops first, so that traffic comes back soonest, then pool
    /// addresses.
    pub fn announcements(&self, vrf: VrfId) -> impl Iterator<Item = (InterfaceId, Addr)> + '_ {
        self.vrfs[vrf.index()].announcements.iter().copied()
    }
}

impl Interface {
    /// Addresses that move with the active role.
    #[must_use]
    pub fn virtual_addresses(&self) -> &[Addr] {
        &self.virtual_addresses
    }
}

/// Interfaces of one port.
#[derive(Debug, Default)]
struct PortTable {
    untagged: Option<InterfaceId>,
    /// Sorted by ids, as [`VlanTags::ids`] packs them.
    tagged: Vec<(u32, InterfaceId)>,
}

impl PortTable {
    #[inline]
    fn get(&self, ids: u32) -> Option<InterfaceId> {
        if ids == 0 {
            return self.untagged;
        }
        self.tagged
            .binary_search_by_key(&ids, |t| t.0)
            .ok()
            .map(|at| self.tagged[at].1)
    }
}

fn build_ports(intent: &Intent) -> Vec<PortTable> {
    let mut ports: Vec<PortTable> = Vec::new();
    for (n, interface) in (0..).zip(&intent.interfaces) {
        let at = usize::from(interface.port.0);
        if ports.len() <= at {
            ports.resize_with(at + 1, PortTable::default);
        }
        match VlanTags::from_ids(&interface.vlans).map(|tags| tags.ids()) {
            Some(0) => ports[at].untagged = Some(InterfaceId(n)),
            Some(ids) => ports[at].tagged.push((ids, InterfaceId(n))),
            None => {}
        }
    }
    for port in &mut ports {
        port.tagged.sort_unstable();
    }
    ports
}

/// Next-hop sets, deduplicated: many routes share few of them.
#[derive(Debug, Default)]
struct Hops {
    /// Where each set lies in `ways`: first and count.
    sets: Vec<(u32, u32)>,
    ways: Vec<Way>,
}

impl Hops {
    #[inline]
    fn choose(&self, set: u32, flow_hash: u32) -> &Way {
        let (first, count) = self.sets[set as usize];
        // Multiply and shift spreads a hash over any count without a division.
        let nth = if count == 1 {
            0
        } else {
            (u64::from(flow_hash) * u64::from(count)) >> 32
        };
        #[expect(clippy::cast_possible_truncation, reason = "below count")]
        let way = first as usize + nth as usize;
        &self.ways[way]
    }
}

/// The ways of each set, in the order of their numbers. Ways over interfaces that are down only count when there is no other.
fn build_hops<'a>(
    sets: impl Iterator<Item = &'a [NextHop]>,
    interfaces: &[Interface],
    neighbors: &Neighbors,
) -> Hops {
    let mut hops = Hops::default();
    for via in sets {
        let is_up = |hop: &&NextHop| interfaces.get(hop.interface.index()).is_some_and(|i| i.up);
        let any_up = via.iter().any(|hop| is_up(&hop));
        let first = hops.ways.len();
        let ways = via.iter().filter(|hop| !any_up || is_up(hop)).map(|hop| {
            let gateway = hop.gateway.map(Addr::from);
            Way {
                interface: hop.interface,
                gateway,
                gateway_mac: gateway.and_then(|gateway| neighbors.get(hop.interface, &gateway)),
            }
        });
        hops.ways.extend(ways);
        #[expect(clippy::cast_possible_truncation, reason = "far fewer than 2^32 ways")]
        hops.sets.push((first as u32, (hops.ways.len() - first) as u32));
    }
    hops
}

fn build_interface(
    id: InterfaceId,
    configured: &InterfaceIntent,
    intent: &Intent,
    forwarding: &Forwarding,
    ports: &[PortInfo],
) -> Interface {
    let port = ports
        .get(usize::from(configured.port.0))
        .copied()
        .unwrap_or_default();
    let link = forwarding.links.iter().rev().find(|l| l.interface == id);
    let learnt = forwarding
        .addresses
        .iter()
        .filter(|a| a.0 == id)
        .map(|a| a.1.addr());
    let own: Vec<IpAddr> = configured
        .addresses
        .iter()
        .map(IpNet::addr)
        .chain(learnt)
        .collect();
    let virtual_addresses: Vec<IpAddr> = intent
        .ha_groups
        .iter()
        .flat_map(|g| &g.virtual_addresses)
        .filter(|v| v.interface == id)
        .map(|v| v.address)
        .collect();
    let candidates = || own.iter().chain(&virtual_addresses);
    let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
    Interface {
        name: configured.name.clone(),
        name_hash: name_hash(&configured.name),
        port: configured.port,
        tags: VlanTags::from_ids(&configured.vlans).unwrap_or_default(),
        vrf: configured.vrf,
        mac: link.and_then(|l| l.mac).unwrap_or(port.mac),
        mtu: if port.mtu == 0 {
            configured.mtu
        } else {
            configured.mtu.min(port.mtu)
        },
        up: link.is_none_or(|l| l.up),
        primary_v4: candidates().find(|a| a.is_ipv4()).map(|&a| a.into()),
        primary_v6: candidates()
            .find(|a| a.is_ipv6() && !link_local(a))
            .or_else(|| candidates().find(|a| a.is_ipv6()))
            .map(|&a| a.into()),
        virtual_addresses: virtual_addresses.into_iter().map(Addr::from).collect(),
        virtual_macs: intent
            .ha_groups
            .iter()
            .flat_map(|g| &g.virtual_macs)
            .filter(|m| m.interface == id)
            .map(|m| m.mac)
            .collect(),
        has_tap: matches!(intent.exceptions.get(configured.port.index()), Some(Some(_))),
        answered: AddressSet::default(),
    }
}

fn build_vrf(
    id: VrfId,
    (intent, policies): (&Intent, &Policies),
    (forwarding, routes): (&Forwarding, &Routes),
    interfaces: &[Interface],
    neighbors: &Neighbors,
) -> Vrf {
    let configured = &intent.vrfs[id.index()];
    let table = routes.table(id);
    let inside = PrefixSet::new(&configured.inside);
    Vrf {
        name: configured.name.clone(),
        slots: configured.slots,
        ha_group: configured
            .ha_group
            .as_ref()
            .and_then(|name| intent.ha_groups.iter().position(|g| g.name == *name))
            .and_then(|at| u16::try_from(at).ok()),
        timeouts: configured.timeouts,
        tcp_window_check: configured.tcp_window_check,
        flow_counters: configured.flow_counters,
        output_commit: configured.output_commit,
        standby: configured.standby,
        pools: configured.pools.clone(),
        policy: Arc::clone(&policies.vrf(id).firewall),
        nat: Arc::clone(&policies.vrf(id).nat),
        locals: locals(id, intent, forwarding, interfaces),
        announcements: announcements(id, intent, (forwarding, routes), interfaces, &inside),
        inside,
        v4: table.map_or_else(Lpm::default, Table::v4),
        v6: table.map_or_else(Lpm::default, Table::v6),
        hops: table.map_or_else(Hops::default, |table| {
            build_hops(table.sets(), interfaces, neighbors)
        }),
    }
}

/// Addresses that end at this node, sorted; one that is both own and virtual (keepalived put it on the kernel's
/// interface) is virtual.
fn locals(
    id: VrfId,
    intent: &Intent,
    forwarding: &Forwarding,
    interfaces: &[Interface],
) -> Vec<(Addr, Local)> {
    let mut locals = Vec::new();
    for (n, interface) in (0..).zip(interfaces).filter(|i| i.1.vrf == id) {
        let configured = &intent.interfaces[usize::from(n)].addresses;
        let learnt = forwarding
            .addresses
            .iter()
            .filter(|a| a.0 == InterfaceId(n))
            .map(|a| &a.1);
        locals.extend(
            configured
                .iter()
                .chain(learnt)
                .map(|a| (Addr::from(a.addr()), Local::Own)),
        );
        locals.extend(interface.virtual_addresses.iter().map(|&a| (a, Local::Virtual)));
    }
    locals.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    locals.dedup_by_key(|l| l.0);
    locals
}

fn announcements(
    id: VrfId,
    intent: &Intent,
    (forwarding, routes): (&Forwarding, &Routes),
    interfaces: &[Interface],
    inside: &PrefixSet,
) -> Vec<(InterfaceId, Addr)> {
    let of_vrf = || (0..).map(InterfaceId).zip(interfaces).filter(|i| i.1.vrf == id);
    let mut list: Vec<_> = of_vrf()
        .flat_map(|(n, i)| i.virtual_addresses.iter().map(move |&a| (n, a)))
        .collect();
    let configured = &intent.vrfs[id.index()];
    for (nth, pool) in (0..).zip(&configured.pools) {
        let rules = || configured.nat_rules.iter().filter(|r| r.pool == nth);
        let anywhere = rules().any(|r| r.outbound.is_none());
        for (n, _) in of_vrf() {
            let named = rules().any(|r| r.outbound == Some(n));
            if named || (anywhere && !is_inside(n, intent, (forwarding, routes), interfaces, inside)) {
                list.extend(pool.addresses.iter().map(|&a| (n, Addr::from(a))));
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    list.retain(|entry| seen.insert(*entry));
    list
}

/// Whether an interface faces subscribers: one of its addresses, or a prefix on its link, is inside.
fn is_inside(
    id: InterfaceId,
    intent: &Intent,
    (forwarding, routes): (&Forwarding, &Routes),
    interfaces: &[Interface],
    inside: &PrefixSet,
) -> bool {
    let learnt = forwarding.addresses.iter().filter(|a| a.0 == id).map(|a| &a.1);
    let vrf = interfaces[id.index()].vrf;
    let on_link = routes
        .table(vrf)
        .into_iter()
        .flat_map(|table| table.on_link(id))
        .filter(|p| p.prefix_len() > 0);
    intent.interfaces[id.index()]
        .addresses
        .iter()
        .chain(learnt)
        .any(|a| inside.contains(&a.addr().into()))
        || interfaces[id.index()]
            .virtual_addresses
            .iter()
            .any(|a| inside.contains(a))
        || on_link.into_iter().any(|p| inside.overlaps(p))
}

/// The answered set of an interface is what its VRF announces on it.
fn set_answered(interfaces: &mut [Interface], vrfs: &[Vrf]) {
    for (n, interface) in (0..).map(InterfaceId).zip(interfaces) {
        let Some(vrf) = vrfs.get(interface.vrf.index()) else {
            continue;
        };
        let answered = vrf.announcements.iter().filter(|a| a.0 == n).map(|a| a.1.ip());
        interface.answered = AddressSet::of_addresses(answered);
    }
}
