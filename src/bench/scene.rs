//! The appliance under test: one VRF with a firewall rule and source NAT, a router on either side, tables of a size
//! that the flows fill to about 90 %. Made anew for each table size.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender};
use dataplane::applied::AppliedCounters;
use dataplane::config::{
    Action, Care, CommitIntent, Filtering, FirewallIntent, FirstPacketsPercent, Forwarding, HaGroupIntent,
    InDoubt, Intent, InterfaceId, InterfaceIntent, NatRuleIntent, Neighbor, NextHop, OnChange, OutputCommit,
    PoolIntent, PortRange, Route, RuleIntent, StandbyPolicy, Timeouts, VirtualAddress, VrfIntent,
};
use dataplane::delta::Term;
use dataplane::flow::VrfId;
use dataplane::inbox::Ask;
use dataplane::io::{PortId, RxQueue};
use dataplane::nat::{NatLimits, Pools};
use dataplane::notice::Notice;
use dataplane::outlook::Outlook;
use dataplane::owners::Owners;
use dataplane::policy::{Policies, PolicyError};
use dataplane::role::{Role, Roles};
use dataplane::room::Sizes;
use dataplane::tables::{Limits, Tables};
use dataplane::vrf::{PortInfo, Snapshot};
use dataplane::wire::ethernet::Mac;
use dataplane::wiring::{Counts, EventEnds, REDIRECT_BYTES, Wiring};
use dataplane::worker::{Shared, Worker};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use twinpath::dpdk::Ports;

pub(crate) const LAN: PortId = PortId(0);
pub(crate) const WAN: PortId = PortId(1);
pub(crate) const MAIN: VrfId = VrfId(0);
/// Both nodes of a pair have the same MAC addresses here, so that one set of frames is for either.
pub(crate) const LAN_MAC: Mac = [2, 0, 0, 0, 0xa0, 0];
pub(crate) const WAN_MAC: Mac = [2, 0, 0, 0, 0xa0, 1];
pub(crate) const LAN_ROUTER_MAC: Mac = [2, 0, 0, 0, 0xb0, 0];
pub(crate) const WAN_ROUTER_MAC: Mac = [2, 0, 0, 0, 0xb0, 1];
/// Subscribers' and servers' addresses in IPv6 begin with these.
pub(crate) const INSIDE_V6: [u8; 8] = [0x2a, 0, 0, 1, 0, 0, 0, 0];
pub(crate) const OUTSIDE_V6: [u8; 8] = [0x2a, 0, 0, 2, 0, 0, 0, 0];
/// Slots of the VRF: the default.
pub(crate) const SLOTS: u16 = 1_024;
/// Entries of a delta ring: the default.
const RING_ENTRIES: usize = 4_096;
/// Mean number of flows of a subscriber.
const FLOWS_PER_SUBSCRIBER: usize = 64;
pub(crate) const BLOCK_SIZE: u16 = 512;
/// How long first packets may wait for the standby: the whole wait is wanted, on a busy machine, too.
const COMMIT_TIMEOUT_MS: u32 = 1_000;
/// Blocks of one public address, above the well-known ports.
pub(crate) const BLOCKS_PER_ADDRESS: usize = 126;

/// How large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    pub(crate) flows: usize,
    /// Whether the VRF belongs to an HA group, that is: whether changes are replicated.
    pub(crate) replicated: bool,
    /// What becomes of a flow's first packets until the standby has the flow.
    pub(crate) commit: OutputCommit,
    pub(crate) service: Service,
}

/// What the appliance does for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// A firewall rule lets it in, and its source is translated.
    Both,
    /// A firewall rule lets it in.
    Firewall,
    /// The same for IPv6.
    FirewallV6,
    /// Its source is translated.
    Nat,
}

impl Service {
    pub(crate) const fn translates(self) -> bool {
        matches!(self, Self::Both | Self::Nat)
    }
}

impl Scene {
    /// One node that tells nobody, with firewall and NAT.
    pub(crate) const fn plain(flows: usize) -> Self {
        Self {
            flows,
            replicated: false,
            commit: OutputCommit::Off,
            service: Service::Both,
        }
    }

    pub(crate) fn subscribers(self) -> usize {
        (self.flows / FLOWS_PER_SUBSCRIBER).max(16)
    }

    pub(crate) fn intent(self) -> Intent {
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        let addresses = self.subscribers() / (BLOCKS_PER_ADDRESS / 2) + 2;
        let pool = PoolIntent {
            name: "public".to_owned(),
            addresses: (first..).take(addresses).map(Ipv4Addr::from).collect(),
            ports: PortRange {
                first: 1_024,
                last: 65_535,
            },
            block_size: BLOCK_SIZE,
            blocks_per_subscriber_max: 4,
            port_rest_s: 120,
            block_idle_s: 60,
            filtering: Filtering::EndpointDependent,
            in_doubt: InDoubt::Borrow,
        };
        let rule = RuleIntent {
            inbound: Some(InterfaceId(0)),
            outbound: Some(InterfaceId(1)),
            source: self.inside(),
            ..RuleIntent::any(10, Action::Accept)
        };
        let nat_rule = NatRuleIntent {
            id: 1,
            outbound: Some(InterfaceId(1)),
            source: vec![inside()],
            pool: 0,
            care: Care::default(),
        };
        Intent {
            interfaces: vec![interface("lan", LAN), interface("wan", WAN)],
            vrfs: vec![VrfIntent {
                name: "main".to_owned(),
                slots: SLOTS,
                inside: self.inside(),
                ha_group: self.replicated.then(|| "group1".to_owned()),
                firewall: FirewallIntent {
                    rules: if self.service == Service::Nat {
                        vec![]
                    } else {
                        vec![rule]
                    },
                    default: if self.service == Service::Nat {
                        Action::Accept
                    } else {
                        Action::Drop
                    },
                    on_change: OnChange::Keep,
                },
                pools: vec![pool],
                nat_rules: if self.service.translates() {
                    vec![nat_rule]
                } else {
                    vec![]
                },
                timeouts: Timeouts::default(),
                standby: StandbyPolicy::Drop,
                tcp_window_check: true,
                flow_counters: true,
                output_commit: CommitIntent {
                    policy: self.commit,
                    timeout_ms: COMMIT_TIMEOUT_MS,
                },
            }],
            ha_groups: vec![HaGroupIntent {
                name: "group1".to_owned(),
                virtual_macs: vec![],
                virtual_addresses: vec![
                    virtual_address(0, Ipv4Addr::new(10, 0, 0, 1)),
                    virtual_address(1, Ipv4Addr::new(192, 0, 2, 1)),
                ],
            }],
            exceptions: vec![],
            first_packets: FirstPacketsPercent(100),
        }
    }

    fn inside(self) -> Vec<IpNet> {
        match self.service {
            Service::FirewallV6 => vec![prefix_v6(INSIDE_V6)],
            _ => vec![inside()],
        }
    }

    pub(crate) fn limits(self) -> Limits {
        let room = u32::try_from(self.flows / 9 * 10 + 64).unwrap_or(u32::MAX);
        let subscribers = u32::try_from(self.subscribers() + 64).unwrap_or(u32::MAX);
        Limits {
            conntracks: room as usize,
            nat: NatLimits {
                subscribers,
                blocks: 2 * subscribers,
                mappings: room,
                events: 65_536,
            },
            reserve: None,
            held_packets: 512,
            limited_sources: 64,
            redirect_packets_per_s: 0,
        }
    }
}

fn inside() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10))
}

/// The addresses that begin so.
fn prefix_v6(begin: [u8; 8]) -> IpNet {
    let bits = u128::from(u64::from_be_bytes(begin)) << 64;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), 64))
}

fn interface(name: &str, port: PortId) -> InterfaceIntent {
    InterfaceIntent {
        name: name.to_owned(),
        port,
        vlans: vec![],
        vrf: MAIN,
        mtu: 1_500,
        addresses: vec![],
    }
}

fn virtual_address(interface: u16, address: Ipv4Addr) -> VirtualAddress {
    VirtualAddress {
        interface: InterfaceId(interface),
        address: address.into(),
    }
}

/// A router of each side is all that the appliance sees: the subscribers' and the Internet's.
fn forwarding(service: Service) -> Forwarding {
    let everywhere = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let [lan, wan] = [InterfaceId(0), InterfaceId(1)];
    let routers: [(InterfaceId, IpAddr, Mac, IpNet); 2] = if service == Service::FirewallV6 {
        let gateway = |n| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n).into();
        [
            (lan, gateway(1), LAN_ROUTER_MAC, prefix_v6(INSIDE_V6)),
            (wan, gateway(2), WAN_ROUTER_MAC, prefix_v6(OUTSIDE_V6)),
        ]
    } else {
        let gateway = |[a, b, c]: [u8; 3]| Ipv4Addr::new(a, b, c, 254).into();
        [
            (lan, gateway([10, 0, 0]), LAN_ROUTER_MAC, inside()),
            (wan, gateway([192, 0, 2]), WAN_ROUTER_MAC, everywhere),
        ]
    };
    Forwarding {
        links: vec![],
        addresses: vec![],
        routes: routers
            .iter()
            .map(|(interface, gateway, _, prefix)| Route {
                vrf: MAIN,
                prefix: *prefix,
                via: vec![NextHop {
                    interface: *interface,
                    gateway: Some(*gateway),
                }],
            })
            .collect(),
        neighbors: routers
            .iter()
            .map(|(interface, gateway, mac, _)| Neighbor {
                interface: *interface,
                address: *gateway,
                mac: *mac,
            })
            .collect(),
    }
}

/// One worker with everything around it but the ports and the event thread.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) worker: Worker<Ports>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) asks: Vec<Sender<Ask>>,
    pub(crate) notices: Receiver<Notice>,
}

impl Node {
    /// The node and the event thread's ends of its rings. It polls queue `queue` of both ports. Without an HA group
    /// it is active at once.
    pub(crate) fn new(scene: Scene, queue: u16, seed: u64) -> Result<(Self, EventEnds), PolicyError> {
        Self::with(&scene.intent(), scene, queue, seed)
    }

    /// As [`Self::new`], with an intent of the scene that was changed.
    pub(crate) fn with(
        intent: &Intent,
        scene: Scene,
        queue: u16,
        seed: u64,
    ) -> Result<(Self, EventEnds), PolicyError> {
        Ok(Self::of(Site::new(intent, scene, &[queue], seed)?))
    }

    /// As [`Self::new`], with room for the conntracks and mappings of `start` at first, and address space for all.
    pub(crate) fn growing(
        scene: Scene,
        start: Limits,
        queue: u16,
        seed: u64,
    ) -> Result<(Self, EventEnds), PolicyError> {
        let all = scene.limits();
        let limits = Limits {
            conntracks: start.conntracks,
            nat: NatLimits {
                mappings: start.nat.mappings,
                ..all.nat
            },
            reserve: Some(Sizes {
                conntracks: all.conntracks,
                nat: all.nat,
            }),
            ..all
        };
        let mut node = Self::of(Site::sized(&scene.intent(), scene, limits, &[queue], seed)?);
        node.0.worker.tables_mut().set_most(all.conntracks);
        Ok(node)
    }

    fn of(mut site: Site) -> (Self, EventEnds) {
        let node = Self {
            worker: site.workers.remove(0),
            shared: site.shared,
            asks: site.asks,
            notices: site.notices,
        };
        (node, site.events)
    }

    /// Throws away what the worker had to say.
    pub(crate) fn hush(&self) {
        while self.notices.try_recv().is_ok() {}
    }
}

/// A node of several workers.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) workers: Vec<Worker<Ports>>,
    shared: Arc<Shared>,
    asks: Vec<Sender<Ask>>,
    pub(crate) notices: Receiver<Notice>,
    events: EventEnds,
}

impl Site {
    /// One worker for each of `queues`, which it polls on both ports. Each has tables for all flows of the scene.
    pub(crate) fn new(intent: &Intent, scene: Scene, queues: &[u16], seed: u64) -> Result<Self, PolicyError> {
        Self::sized(intent, scene, scene.limits(), queues, seed)
    }

    fn sized(
        intent: &Intent,
        scene: Scene,
        limits: Limits,
        queues: &[u16],
        seed: u64,
    ) -> Result<Self, PolicyError> {
        let count = u16::try_from(queues.len()).unwrap_or(u16::MAX);
        let ports = [LAN_MAC, WAN_MAC].map(|mac| PortInfo { mac, mtu: 1_500 });
        let policies = Policies::compile(intent, &Policies::default())?;
        let pools = Arc::new(Pools::new(intent));
        let snapshot = Snapshot::build(intent, &policies, &pools, &forwarding(scene.service), &ports);
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(snapshot),
            roles: Arc::new(Roles::new(1)),
            applied: Arc::new(AppliedCounters::new(queues.len(), 1)),
            outlook: Arc::new(Outlook::new(queues.len(), 1)),
            owners: Arc::new(Owners::new(count, 1, &[SLOTS])),
        });
        if !scene.replicated {
            shared.roles.set(MAIN, Role::Alone, Term::NONE.next_of(1, 0));
        }
        let mut wiring = Wiring::new(Counts {
            workers: queues.len(),
            events: 1,
            ring_entries: RING_ENTRIES,
            redirect_bytes: REDIRECT_BYTES,
        });
        let worker = |((number, queue), links)| {
            let tables = Tables::new(
                (number, count),
                1,
                &[SLOTS],
                limits,
                Arc::clone(&pools),
                seed ^ u64::from(number),
            );
            let queues = [LAN, WAN].map(|port| RxQueue { port, queue }).to_vec();
            Worker::new((number, count), queues, 2, Arc::clone(&shared), tables, links)
        };
        let queues = (0..).zip(queues.iter().copied());
        Ok(Self {
            workers: queues.zip(wiring.workers.drain(..)).map(worker).collect(),
            shared: Arc::clone(&shared),
            asks: wiring.main.asks,
            notices: wiring.main.notices,
            events: wiring.events.remove(0),
        })
    }
}
