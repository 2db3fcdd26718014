//! Checked intent: what the packet path is told to do. Built by the configuration reader, which has already
//! refused everything contradictory; carried from the control process to the data process; turned into an
//! immutable [`crate::vrf::Snapshot`] there. Names identify things across nodes, indexes only inside one.

use core::net::{IpAddr, Ipv4Addr};
use core::num::NonZeroU32;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::exception::ExceptionLimits;
use crate::flow::VrfId;
use crate::io::PortId;

/// Index of a logical interface.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InterfaceId(pub u16);

impl InterfaceId {
    /// The id as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Everything that is configured and doesn't follow the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Logical interfaces; the index is the [`InterfaceId`].
    pub interfaces: Vec<InterfaceIntent>,
    /// VRFs; the index is the [`VrfId`].
    pub vrfs: Vec<VrfIntent>,
    /// HA groups.
    pub ha_groups: Vec<HaGroupIntent>,
    /// What of each port reaches the kernel by its tap, by [`PortId`]. Ports without, and those that aren't listed, have no tap:
    /// if the kernel knows them, it sees all of their frames.
    pub exceptions: Vec<Option<ExceptionLimits>>,
    /// What first packets may have of the time of a worker that is overrun.
    pub first_packets: FirstPacketsPercent,
}

/// A share of a worker's time, in percent: 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstPacketsPercent(pub u8);

impl Default for FirstPacketsPercent {
    fn default() -> Self {
        Self(10)
    }
}

/// A port, or one VLAN of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceIntent {
    /// Name used by rules, ctl and logs.
    pub name: String,
    /// Port it is on.
    pub port: PortId,
    /// Tags from the outside in: none, one or two VLAN ids (1 to 4094).
    pub vlans: Vec<u16>,
    /// VRF of its packets.
    pub vrf: VrfId,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Addresses of the node itself (for errors and ND source addresses), from TOML.
    pub addresses: Vec<IpNet>,
}

/// A VRF with its policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrfIntent {
    /// Name: its identity towards the peer.
    pub name: String,
    /// Slot count S, the same on both nodes.
    pub slots: u16,
    /// Inside prefixes of the shard function.
    pub inside: Vec<IpNet>,
    /// HA group it listens to; without one it is always active.
    pub ha_group: Option<String>,
    /// Firewall.
    pub firewall: FirewallIntent,
    /// Address pools.
    pub pools: Vec<PoolIntent>,
    /// Source NAT rules, in order.
    pub nat_rules: Vec<NatRuleIntent>,
    /// Lifetimes.
    pub timeouts: Timeouts,
    /// Check TCP sequence windows.
    pub tcp_window_check: bool,
    /// Count packets and bytes per flow, on this node.
    pub flow_counters: bool,
    /// Output commit, for rules that say nothing about it.
    pub output_commit: CommitIntent,
    /// What becomes of packets that come while this node isn't active.
    pub standby: StandbyPolicy,
}

/// What a node that isn't active for a VRF does with the VRF's packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StandbyPolicy {
    /// Drop them, but for the time that a switchover moves the traffic: then as [`Self::Redirect`].
    #[default]
    Drop,
    /// Send them to the active node over the sync link: for routing that brings one direction of a flow to either node.
    Redirect,
}

/// Ordered rules and what happens when none matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallIntent {
    /// In order of evaluation.
    pub rules: Vec<RuleIntent>,
    /// When no rule matches.
    pub default: Action,
    /// What a change of any of this does to the flows that there are.
    pub on_change: OnChange,
}

/// What becomes of live flows when the firewall's rules change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// They go on: rules judge first packets alone.
    #[default]
    Keep,
    /// They are judged again, and end if the rules wouldn't let them in any more.
    Recheck,
}

/// What a rule does with the first packet of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Let it through and track it.
    Accept,
    /// Drop silently.
    #[default]
    Drop,
    /// Drop and answer with TCP RST or ICMP administratively prohibited.
    Reject,
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// Lowest port.
    pub first: u16,
    /// Highest port.
    pub last: u16,
}

impl PortRange {
    /// Whether `port` is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

/// A firewall rule. An empty list matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleIntent {
    /// Number, unique in the VRF; its identity.
    pub id: u32,
    /// Interface the packet came in on.
    pub inbound: Option<InterfaceId>,
    /// Interface it leaves by.
    pub outbound: Option<InterfaceId>,
    /// Source prefixes.
    pub source: Vec<IpNet>,
    /// Destination prefixes.
    pub destination: Vec<IpNet>,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// Source ports.
    pub source_ports: Vec<PortRange>,
    /// Destination ports.
    pub destination_ports: Vec<PortRange>,
    /// What to do.
    pub action: Action,
    /// Log the first packet of each flow (rate-limited).
    pub log: bool,
    /// How many new flows it lets in.
    pub limit: FlowLimit,
    /// How its flows are protected.
    pub care: Care,
}

impl RuleIntent {
    /// A rule that matches everything and says no more than what to do.
    #[must_use]
    pub const fn any(id: u32, action: Action) -> Self {
        Self {
            id,
            inbound: None,
            outbound: None,
            source: Vec::new(),
            destination: Vec::new(),
            protocol: None,
            source_ports: Vec::new(),
            destination_ports: Vec::new(),
            action,
            log: false,
            limit: FlowLimit {
                per_s: None,
                per_source_per_s: None,
            },
            care: Care {
                sync: None,
                output_commit: None,
            },
        }
    }
}

/// Most new flows per second that a limit can be set to.
pub const FLOWS_PER_S_MAX: u32 = 10_000_000;

/// How many new flows per second a rule lets in; as many as a second's may come at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLimit {
    /// Of all sources together.
    pub per_s: Option<NonZeroU32>,
    /// Of one source: an IPv4 address, or an IPv6 /64.
    pub per_source_per_s: Option<NonZeroU32>,
}

/// What a rule says about the protection of its flows; what it leaves open, the NAT rule says, and then the VRF.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Care {
    /// When peers are told of a flow.
    pub sync: Option<SyncPolicy>,
    /// What becomes of its first packets while no peer knows it.
    pub output_commit: Option<OutputCommit>,
}

impl Care {
    /// Itself, with what it leaves open taken from `other`.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            sync: if self.sync.is_some() {
                self.sync
            } else {
                other.sync
            },
            output_commit: if self.output_commit.is_some() {
                self.output_commit
            } else {
                other.output_commit
            },
        }
    }
}

/// When peers are told of a flow. Port blocks travel always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncPolicy {
    /// At once.
    #[default]
    Always,
    /// When it has lived for so many seconds.
    After(u32),
    /// Not at all.
    Never,
}

/// What becomes of a flow's first packets while no peer knows the flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputCommit {
    /// They leave at once.
    #[default]
    Off,
    /// They wait for the peer, and leave without its word when it doesn't come in time.
    Open,
    /// They wait for the peer, and the flow ends when its word doesn't come in time.
    Closed,
}

/// Output commit of a VRF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommitIntent {
    /// For rules that say nothing.
    pub policy: OutputCommit,
    /// How long packets wait at most, in milliseconds.
    pub timeout_ms: u32,
}

impl Default for CommitIntent {
    fn default() -> Self {
        Self {
            policy: OutputCommit::Off,
            timeout_ms: 20,
        }
    }
}

/// A pool of public addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolIntent {
    /// Name: its identity.
    pub name: String,
    /// Public addresses, ascending, without duplicates.
    pub addresses: Vec<Ipv4Addr>,
    /// Ports handed out.
    pub ports: PortRange,
    /// Ports per block: a multiple of 64; the range is cut to whole blocks.
    pub block_size: u16,
    /// Blocks a subscriber may hold.
    pub blocks_per_subscriber_max: u8,
    /// How long a freed port rests, in seconds.
    pub port_rest_s: u32,
    /// How long an empty block stays granted, in seconds.
    pub block_idle_s: u32,
    /// Who may send to a mapping (RFC 4787 section 5).
    pub filtering: Filtering,
    /// What happens to a first packet when this node's own half of the ports is used up in doubt.
    pub in_doubt: InDoubt,
}

/// What a node does when it would need ports that its peer, which it doesn't hear, may be giving out as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InDoubt {
    /// Uses them, and counts each.
    #[default]
    Borrow,
    /// Refuses the flow.
    Refuse,
}

/// Which outside endpoints may use a mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Only endpoints the inside has sent to.
    #[default]
    EndpointDependent,
}

/// A source NAT rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatRuleIntent {
    /// Number, unique in the VRF.
    pub id: u32,
    /// Interface the packet leaves by.
    pub outbound: Option<InterfaceId>,
    /// Inside source prefixes.
    pub source: Vec<IpNet>,
    /// Index of the pool in the VRF.
    pub pool: u16,
    /// How its flows are protected, where the firewall's rule leaves it open.
    pub care: Care,
}

/// Lifetimes in seconds. Defaults keep RFC 4787 REQ-5, RFC 5382 REQ-5 and RFC 5508 REQ-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// TCP handshake not finished.
    pub tcp_opening_s: u32,
    /// TCP established.
    pub tcp_established_s: u32,
    /// TCP after FIN in one or both directions.
    pub tcp_closing_s: u32,
    /// TCP after RST.
    pub tcp_reset_s: u32,
    /// UDP, one way seen.
    pub udp_opening_s: u32,
    /// UDP, both ways seen.
    pub udp_established_s: u32,
    /// ICMP query.
    pub icmp_s: u32,
    /// Any other protocol.
    pub other_s: u32,
}

impl Timeouts {
    /// The longest of them.
    #[must_use]
    pub fn longest_s(&self) -> u32 {
        let all = [
            self.tcp_opening_s,
            self.tcp_established_s,
            self.tcp_closing_s,
            self.tcp_reset_s,
            self.udp_opening_s,
            self.udp_established_s,
            self.icmp_s,
            self.other_s,
        ];
        all.into_iter().max().unwrap_or_default()
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            // RFC 5382 REQ-5: transitory at least 4 minutes, established at least 2 hours 4 minutes.
            tcp_opening_s: 240,
            tcp_established_s: 7_440,
            tcp_closing_s: 240,
            // RFC 7857 section 2.1 lets a RST shorten the lifetime to 4 minutes.
            tcp_reset_s: 240,
            // RFC 4787 REQ-5: at least 2 minutes, 5 minutes recommended.
            udp_opening_s: 120,
            udp_established_s: 300,
            // RFC 5508 REQ-2: at least 60 seconds.
            icmp_s: 60,
            other_s: 600,
        }
    }
}

/// An HA group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaGroupIntent {
    /// Name.
    pub name: String,
    /// Addresses the packet path answers for and announces while active.
    pub virtual_addresses: Vec<VirtualAddress>,
    /// MAC addresses that move with the role too (RFC 5798, section 7.3), and are answered by the kernel.
    pub virtual_macs: Vec<VirtualMac>,
}

/// A station that is whichever node is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualMac {
    /// Interface it is on.
    pub interface: InterfaceId,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// A next hop that moves with the active role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualAddress {
    /// Interface it lives on.
    pub interface: InterfaceId,
    /// The address.
    pub address: IpAddr,
}

/// What the kernel (or TOML, for ports without a kernel interface) says about reachability. Replaced whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    /// Link state per interface: up, MAC address.
    pub links: Vec<Link>,
    /// Addresses of the node per interface.
    pub addresses: Vec<(InterfaceId, IpNet)>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Resolved neighbours.
    pub neighbors: Vec<Neighbor>,
}

/// Reachability, told in parts: a full table of routes is more than one message, and most changes are of few routes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardingPart {
    /// The first of all there is. Otherwise what is told is different from before.
    pub begins: bool,
    /// Nothing more belongs to it: from now on it counts.
    pub ends: bool,
    /// Links, addresses and neighbours: all of them, always. Routes: those of this part; one without a next hop is gone.
    pub forwarding: Forwarding,
}

impl From<Forwarding> for ForwardingPart {
    /// Everything at once.
    fn from(forwarding: Forwarding) -> Self {
        Self {
            begins: true,
            ends: true,
            forwarding,
        }
    }
}

/// State of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface.
    pub interface: InterfaceId,
    /// Carrier and administrative state.
    pub up: bool,
    /// Its MAC address, when the kernel knows better than the port.
    pub mac: Option<[u8; 6]>,
}

/// A route of a VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// VRF.
    pub vrf: VrfId,
    /// Destination.
    pub prefix: IpNet,
    /// Next hops; more than one is ECMP.
    pub via: Vec<NextHop>,
}

/// One way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NextHop {
    /// Interface.
    pub interface: InterfaceId,
    /// Gateway; none when the destination is on the link.
    pub gateway: Option<IpAddr>,
}

/// A resolved neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Interface.
    pub interface: InterfaceId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}
