//! One configuration with knobs, from which both nodes of a test pair are made: a LAN port, a WAN port, one VRF with
//! a pool, a firewall that lets the inside out, and static routes and neighbours. A test changes the fields it is
//! about; whatever it doesn't name is the default, so that a test says what it depends on.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use dataplane::config::{
    Action, Care, CommitIntent, Filtering, FirewallIntent, FirstPacketsPercent, Forwarding, HaGroupIntent,
    InDoubt, Intent, InterfaceId, InterfaceIntent, NatRuleIntent, Neighbor, NextHop, OnChange, PoolIntent,
    PortRange, Route, RuleIntent, StandbyPolicy, Timeouts, VirtualAddress, VrfIntent,
};
use dataplane::exception::{ExceptionLimits, Tap};
use dataplane::flow::{Addr, VrfId};
use dataplane::io::PortId;
use dataplane::nat::NatLimits;
use dataplane::room::Sizes;
use dataplane::rss::{Rss, Spread};
use dataplane::tables::Limits;
use dataplane::vrf::PortInfo;
use dataplane::wire::ethernet::Mac;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use state_sync::config::{SyncConfig, SyncPeer, SyncVrf, Timing};

/// Port towards the subscribers.
pub const LAN: PortId = PortId(0);
/// Port towards the network.
pub const WAN: PortId = PortId(1);
/// Tap of [`LAN`], read by the first worker.
pub const LAN_TAP: PortId = PortId(2);
/// Tap of [`WAN`], read by the last worker.
pub const WAN_TAP: PortId = PortId(3);
/// Interface on [`LAN`] in the first VRF.
pub const LAN_IF: InterfaceId = InterfaceId(0);
/// Interface on [`WAN`] in the first VRF.
pub const WAN_IF: InterfaceId = InterfaceId(1);
/// The VRF that every test has.
pub const MAIN: VrfId = VrfId(0);
/// Next hop of the subscribers, moves with the role.
pub const LAN_VIP: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
/// Next hop of the network, moves with the role.
pub const WAN_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The network's router.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// The network's router, IPv6.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe);
/// MAC address of the network's router.
pub const ROUTER_MAC: Mac = [2, 0, 0, 0xff, 0, 0xfe];
/// Subscribers that neighbours are known for: 100.64.1.1 on, and 2001:db8:1::1 on.
pub const SUBSCRIBERS: u8 = 250;

/// The knobs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Worker threads.
    pub workers: u16,
    /// Event threads.
    pub events: u16,
    /// Slots of each VRF; must be equal on both nodes.
    pub slots: u16,
    /// Entries of each ring between a worker and an event thread.
    pub ring_entries: usize,
    /// Conntracks of each worker.
    pub conntracks: usize,
    /// Conntracks that each worker may get room for while it runs; none: no more than at the start.
    pub conntracks_most: Option<usize>,
    /// Mappings of each worker.
    pub mappings: u32,
    /// Blocks of each worker.
    pub blocks: u32,
    /// Subscribers of each worker.
    pub subscribers: u32,
    /// Packet buffers of the node.
    pub packets: usize,
    /// Public addresses of the pool: that many from 198.51.100.1 on; 0 for no NAT.
    pub pool_addresses: u8,
    /// Ports of the pool.
    pub pool_ports: PortRange,
    /// Ports per block.
    pub block_size: u16,
    /// Blocks per subscriber.
    pub blocks_max: u8,
    /// Rest of a freed port, in seconds.
    pub port_rest_s: u32,
    /// How long an empty block stays granted, in seconds.
    pub block_idle_s: u32,
    /// Who may send to a mapping.
    pub filtering: Filtering,
    /// What is done when the own half of the ports is used up in doubt.
    pub in_doubt: InDoubt,
    /// Check TCP windows.
    pub tcp_window_check: bool,
    /// Count packets and bytes per flow.
    pub flow_counters: bool,
    /// Lifetimes.
    pub timeouts: Timeouts,
    /// Firewall rules; by default the LAN may open anything to the WAN.
    pub rules: Vec<RuleIntent>,
    /// When no rule matches.
    pub default: Action,
    /// What a change of rules does to the flows that there are.
    pub on_change: OnChange,
    /// A second VRF with the same addresses, on VLAN 200 of both ports and with a pool at 203.0.113.1 on.
    pub second_vrf: bool,
    /// The second VRF is configured before the first, so that each has the other's number.
    pub vrfs_swapped: bool,
    /// Tags of the LAN interface, outer first.
    pub lan_vlans: Vec<u16>,
    /// Tags of the WAN interface, outer first.
    pub wan_vlans: Vec<u16>,
    /// Whether the VRFs listen to an HA group; otherwise the node is alone.
    pub grouped: bool,
    /// Whether an election decides the group's role, so that orders come behind the traffic.
    pub elected: bool,
    /// How long a booted node waits for a silent peer.
    pub boot_wait: Duration,
    /// Timings of connections.
    pub timing: Timing,
    /// IPv6 instead of IPv4 between the nodes.
    pub sync_v6: bool,
    /// Largest packet of the WAN interface, in bytes.
    pub wan_mtu: u16,
    /// How translated flows are protected.
    pub nat_care: Care,
    /// Output commit of the VRFs.
    pub output_commit: CommitIntent,
    /// Packets of each worker that may wait for the peer.
    pub held_packets: usize,
    /// What becomes of packets that come to a node that isn't active.
    pub standby: StandbyPolicy,
    /// Packets that each worker redirects.
    pub redirect_packets_per_s: u32,
    /// Bytes of each ring of redirected packets.
    pub redirect_bytes: usize,
    /// Both ports have a tap: the kernel sees nothing of them otherwise.
    pub taps: bool,
    /// What of each port reaches the kernel by its tap.
    pub exception_limits: ExceptionLimits,
    /// What the WAN port's card hashes, if it tells its key and its table.
    pub rss: Option<Rss>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            workers: 2,
            events: 2,
            slots: 16,
            ring_entries: 1_024,
            conntracks: 4_096,
            conntracks_most: None,
            mappings: 4_096,
            blocks: 512,
            subscribers: 512,
            packets: 16_384,
            pool_addresses: 4,
            pool_ports: PortRange {
                first: 1_024,
                last: 65_535,
            },
            block_size: 256,
            blocks_max: 4,
            port_rest_s: 120,
            block_idle_s: 60,
            filtering: Filtering::EndpointDependent,
            in_doubt: InDoubt::Borrow,
            tcp_window_check: true,
            flow_counters: true,
            timeouts: Timeouts::default(),
            rules: vec![accept(10, Some(LAN_IF), Some(WAN_IF))],
            default: Action::Drop,
            on_change: OnChange::Keep,
            second_vrf: false,
            vrfs_swapped: false,
            lan_vlans: vec![],
            wan_vlans: vec![],
            grouped: true,
            elected: false,
            boot_wait: Duration::from_millis(1_500),
            timing: Timing::default(),
            sync_v6: false,
            wan_mtu: 1_500,
            nat_care: Care::default(),
            output_commit: CommitIntent::default(),
            held_packets: 256,
            standby: StandbyPolicy::Drop,
            redirect_packets_per_s: 100_000,
            redirect_bytes: 65_536,
            taps: false,
            exception_limits: ExceptionLimits::default(),
            rss: None,
        }
    }
}

/// A rule that accepts everything between two interfaces.
#[must_use]
pub const fn accept(id: u32, inbound: Option<InterfaceId>, outbound: Option<InterfaceId>) -> RuleIntent {
    let mut rule = RuleIntent::any(id, Action::Accept);
    rule.inbound = inbound;
    rule.outbound = outbound;
    rule
}

/// IPv4 prefix.
#[must_use]
pub fn net4(address: Ipv4Addr, len: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, len))
}

/// IPv6 prefix.
#[must_use]
pub fn net6(address: Ipv6Addr, len: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(address, len))
}

/// IPv4 address of subscriber `n`, counted from 1.
#[must_use]
pub const fn subscriber(n: u8) -> Addr {
    Addr::v4([100, 64, 1, n])
}

/// IPv6 address of subscriber `n`.
#[must_use]
pub const fn subscriber6(n: u8) -> Addr {
    Addr::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
}

/// MAC address of subscriber `n`.
#[must_use]
pub const fn subscriber_mac(n: u8) -> Mac {
    [2, 0, 0, 1, 0, n]
}

/// IPv4 address of server `n` on the Internet.
#[must_use]
pub const fn server(n: u8) -> Addr {
    Addr::v4([203, 0, 113, n])
}

/// IPv6 address of server `n`.
#[must_use]
pub const fn server6(n: u8) -> Addr {
    Addr::v6([0x20, 1, 0xd, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
}

/// Public address `n` of the pool, counted from 0.
#[must_use]
pub const fn public(n: u8) -> Addr {
    Addr::v4([198, 51, 100, 1 + n])
}

/// MAC address of a node's port.
#[must_use]
pub fn node_mac(node: u8, port: PortId) -> Mac {
    [2, 0, 0, 0xa0, node, port.0.to_be_bytes()[1]]
}

/// Address of a node on the sync link.
#[must_use]
pub fn sync_address(node: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0x150, 0, 0, 0, 0, 0, u16::from(node)).into()
    } else {
        Ipv4Addr::new(10, 150, 0, node).into()
    }
}

const fn inside6() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0)
}

/// Key of the cards that tell theirs.
const RSS_KEY: [u8; 40] = *b"a card's secret, of two score of bytes..";
/// Entries of the table of such a card.
const RSS_ENTRIES: u16 = 128;

impl Setup {
    /// How the WAN port's card spreads packets over the workers' queues, where it tells.
    #[must_use]
    pub fn spread(&self) -> Option<Spread> {
        let fields = self.rss?.fields(true, true);
        let queues: Vec<u16> = (0..RSS_ENTRIES).map(|entry| entry % self.workers).collect();
        Spread::new(&RSS_KEY, fields, &queues).ok()
    }

    /// Number of VRFs.
    #[must_use]
    pub const fn vrfs(&self) -> u16 {
        1 + self.second_vrf as u16
    }

    /// The number of the first VRF (0) or of the second one (1) on this node.
    #[must_use]
    pub const fn vrf_id(&self, vrf: u16) -> VrfId {
        VrfId(if self.vrfs_swapped { 1 - vrf } else { vrf })
    }

    /// What the node is told to do.
    #[must_use]
    pub fn intent(&self) -> Intent {
        let mut interfaces = vec![
            interface("lan", LAN, &self.lan_vlans, self.vrf_id(0), 1_500),
            interface("wan", WAN, &self.wan_vlans, self.vrf_id(0), self.wan_mtu),
        ];
        let mut vrfs = vec![self.vrf("main", [198, 51, 100, 1], WAN_IF)];
        if self.second_vrf {
            interfaces.push(interface("lan2", LAN, &[200], self.vrf_id(1), 1_500));
            interfaces.push(interface("wan2", WAN, &[200], self.vrf_id(1), 1_500));
            let mut second = self.vrf("second", [203, 0, 113, 201], InterfaceId(3));
            second.firewall.rules = vec![accept(10, Some(InterfaceId(2)), Some(InterfaceId(3)))];
            vrfs.insert(self.vrf_id(1).index(), second);
        }
        let virtual_addresses = vec![
            VirtualAddress {
                interface: LAN_IF,
                address: LAN_VIP.into(),
            },
            VirtualAddress {
                interface: WAN_IF,
                address: WAN_VIP.into(),
            },
        ];
        Intent {
            interfaces,
            vrfs,
            ha_groups: vec![HaGroupIntent {
                name: "group1".to_owned(),
                virtual_macs: vec![],
                virtual_addresses,
            }],
            exceptions: vec![self.taps.then_some(self.exception_limits); 2],
            first_packets: FirstPacketsPercent::default(),
        }
    }

    fn vrf(&self, name: &str, public: [u8; 4], wan: InterfaceId) -> VrfIntent {
        let first = u32::from_be_bytes(public);
        let pool = PoolIntent {
            name: "public".to_owned(),
            addresses: (0..u32::from(self.pool_addresses))
                .map(|n| Ipv4Addr::from(first + n))
                .collect(),
            ports: self.pool_ports,
            block_size: self.block_size,
            blocks_per_subscriber_max: self.blocks_max,
            port_rest_s: self.port_rest_s,
            block_idle_s: self.block_idle_s,
            filtering: self.filtering,
            in_doubt: self.in_doubt,
        };
        let rule = NatRuleIntent {
            id: 1,
            outbound: Some(wan),
            source: vec![net4(Ipv4Addr::new(100, 64, 0, 0), 10)],
            pool: 0,
            care: self.nat_care,
        };
        let translated = self.pool_addresses > 0;
        VrfIntent {
            name: name.to_owned(),
            slots: self.slots,
            inside: vec![net4(Ipv4Addr::new(100, 64, 0, 0), 10), net6(inside6(), 48)],
            ha_group: self.grouped.then(|| "group1".to_owned()),
            firewall: FirewallIntent {
                rules: self.rules.clone(),
                default: self.default,
                on_change: self.on_change,
            },
            pools: if translated { vec![pool] } else { vec![] },
            nat_rules: if translated { vec![rule] } else { vec![] },
            timeouts: self.timeouts,
            standby: self.standby,
            tcp_window_check: self.tcp_window_check,
            flow_counters: self.flow_counters,
            output_commit: self.output_commit,
        }
    }

    /// Routes and neighbours, as the kernel would tell them.
    #[must_use]
    pub fn forwarding(&self) -> Forwarding {
        let mut routes = Vec::new();
        let mut neighbors = Vec::new();
        let mut addresses = Vec::new();
        for vrf in 0..self.vrfs() {
            let (lan, wan) = (InterfaceId(2 * vrf), InterfaceId(2 * vrf + 1));
            let mut route = |prefix, interface, gateway: Option<IpAddr>| {
                routes.push(Route {
                    vrf: self.vrf_id(vrf),
                    prefix,
                    via: vec![NextHop { interface, gateway }],
                });
            };
            route(net4(Ipv4Addr::UNSPECIFIED, 0), wan, Some(ROUTER.into()));
            route(net4(Ipv4Addr::new(100, 64, 0, 0), 10), lan, None);
            route(net6(Ipv6Addr::UNSPECIFIED, 0), wan, Some(ROUTER6.into()));
            route(net6(inside6(), 48), lan, None);
            for gateway in [IpAddr::from(ROUTER), IpAddr::from(ROUTER6)] {
                neighbors.push(Neighbor {
                    interface: wan,
                    address: gateway,
                    mac: ROUTER_MAC,
                });
            }
            for n in 1..=SUBSCRIBERS {
                for address in [subscriber(n).ip(), subscriber6(n).ip()] {
                    neighbors.push(Neighbor {
                        interface: lan,
                        address,
                        mac: subscriber_mac(n),
                    });
                }
            }
            addresses.push((lan, net4(Ipv4Addr::new(100, 64, 0, 2), 10)));
            addresses.push((lan, net6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0xff02), 48)));
            addresses.push((wan, net4(Ipv4Addr::new(192, 0, 2, 2), 24)));
        }
        Forwarding {
            links: vec![],
            addresses,
            routes,
            neighbors,
        }
    }

    /// Ports of node `node`.
    #[must_use]
    pub fn ports(&self, node: u8) -> Vec<PortInfo> {
        [LAN, WAN]
            .map(|port| PortInfo {
                mac: node_mac(node, port),
                mtu: self.wan_mtu.max(1_500),
            })
            .to_vec()
    }

    /// What `worker` has of the ports' taps.
    #[must_use]
    pub fn taps(&self, worker: u16) -> Vec<Tap> {
        let read_by = [(LAN, LAN_TAP, 0), (WAN, WAN_TAP, self.workers - 1)];
        let tap = |(port, tap, reader)| Tap {
            port,
            tap,
            queues: if reader == worker { self.workers } else { 0 },
        };
        read_by.map(tap).into_iter().filter(|_| self.taps).collect()
    }

    /// What a worker's arenas hold that have room for so many conntracks.
    #[must_use]
    pub const fn sizes(&self, conntracks: usize) -> Sizes {
        Sizes {
            conntracks,
            nat: NatLimits {
                subscribers: self.subscribers,
                blocks: self.blocks,
                // Other room for other conntracks, but no rest is ever cut short for want of it.
                mappings: if conntracks > self.conntracks {
                    2 * self.mappings
                } else {
                    self.mappings
                },
                events: 4_096,
            },
        }
    }

    /// Sizes of one worker's tables.
    #[must_use]
    pub const fn limits(&self) -> Limits {
        Limits {
            conntracks: self.conntracks,
            nat: NatLimits {
                subscribers: self.subscribers,
                blocks: self.blocks,
                mappings: self.mappings,
                events: 4_096,
            },
            reserve: match self.conntracks_most {
                Some(most) => Some(self.sizes(most)),
                None => None,
            },
            held_packets: self.held_packets,
            limited_sources: 64,
            redirect_packets_per_s: self.redirect_packets_per_s,
        }
    }

    /// What event threads are told, on node `node` of the pair (1 and 2).
    #[must_use]
    pub fn sync(&self, node: u8, boot_id: u64) -> SyncConfig {
        let intent = self.intent();
        let vrfs = (0..).map(VrfId).zip(&intent.vrfs).map(|(id, vrf)| SyncVrf {
            name: vrf.name.clone(),
            slots: vrf.slots,
            peers: if self.grouped { vec![0] } else { vec![] },
            sections: dataplane::fingerprint::sections(&intent, id),
            capacity: self.conntracks as u64 * u64::from(self.workers),
        });
        SyncConfig {
            node_id: node,
            node_name: format!("node{node}"),
            boot_id,
            workers: self.workers,
            events: self.events,
            peers: vec![SyncPeer {
                name: "peer1".to_owned(),
                source: sync_address(node, self.sync_v6),
                address: sync_address(3 - node, self.sync_v6),
                second: None,
            }],
            vrfs: vrfs.collect(),
            timing: self.timing,
        }
    }
}

fn interface(name: &str, port: PortId, vlans: &[u16], vrf: VrfId, mtu: u16) -> InterfaceIntent {
    InterfaceIntent {
        name: name.to_owned(),
        port,
        vlans: vlans.to_vec(),
        vrf,
        mtu,
        addresses: vec![],
    }
}
