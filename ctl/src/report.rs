//! What the two processes tell an operator, as plain values.
//!
//! Born in the data process (most) or the control process (groups, rules' text), carried once over the
//! process socket (postcard) and once over the operator's socket (JSON), printed by [`crate::render`]. So
//! every type here must serialize the same way with a self-describing and a non-self-describing format: no
//! skipped or flattened fields, no untagged enums. Names of fields are the keys of `--json`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::switchover::SwitchoverReport;

/// One named number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Name, as in metrics.
    pub name: String,
    /// Value.
    pub value: u64,
}

impl Count {
    /// A count.
    pub fn new(name: impl Into<String>, value: u64) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

/// State of an HA group, and what a VRF is for its traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleState {
    /// Not decided yet.
    Init,
    /// Standby: applies what the active node sends.
    Backup,
    /// Active: forwards.
    Master,
    /// Can't do its work.
    Fault,
    /// Listens to no group: always active, nothing is replicated.
    Alone,
}

impl RoleState {
    /// The word in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
            Self::Alone => "alone",
        }
    }
}

/// What an operator or the configuration wants a group to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// Take the active role.
    Master,
    /// Leave it to the other node.
    Backup,
}

impl GroupState {
    /// The word in tables, JSON and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Backup => "backup",
        }
    }
}

/// Role of one VRF as the data process plays it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRow {
    /// VRF.
    pub vrf: String,
    /// HA group it listens to.
    pub ha_group: Option<String>,
    /// Role.
    pub role: RoleState,
    /// Term it is held under; 0 when none was seen.
    pub term: u64,
    /// Whether a take-over by this node would lose nothing that is known of.
    pub ready: bool,
    /// Why the role is what it is, in a few words.
    pub cause: String,
    /// The peer isn't heard or lacks something: only this node's own half of the ports is given out.
    pub in_doubt: bool,
}

/// What the data process was last told about a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRow {
    /// Group.
    pub name: String,
    /// State asked for.
    pub state: GroupState,
    /// Whether an operator asked (true) or only the configuration prefers it (false).
    pub explicit: bool,
}

/// A group with everything that follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaGroupReport {
    /// Group.
    pub name: String,
    /// State asked for.
    pub state: GroupState,
    /// Whether an operator asked (true) or the configuration prefers it (false).
    pub explicit: bool,
    /// How VRRP drives it; none for a group whose state is configured or ordered.
    pub vrrp: Option<VrrpReport>,
    /// Virtual addresses with their interface.
    pub virtual_addresses: Vec<InterfaceAddress>,
    /// The switchover that is under way here, or the last one.
    pub switchover: Option<SwitchoverReport>,
    /// Roles of the VRFs that listen to it.
    pub vrfs: Vec<RoleRow>,
}

/// What VRRP and this node make of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpReport {
    /// What keepalived says: master, backup, fault, asked, absent.
    pub says: String,
    /// What its track file holds: 0 full priority, 253 the lowest, 254 fault; none while nothing was written.
    pub track: Option<u8>,
    /// Whether an operator holds the group.
    pub held: bool,
    /// The one thing that keeps this node from being master whenever it is elected.
    pub blocked: Option<String>,
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    /// Interface name.
    pub interface: String,
    /// Address.
    pub address: IpAddr,
}

/// Replicated class of a conntrack's protocol state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// Handshake not finished, or one way only.
    Opening,
    /// Both ends have spoken.
    Established,
    /// FIN or RST seen.
    Closing,
}

impl FlowState {
    /// The word in tables, JSON and filters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

/// Who made an entry what it is: the writer of its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// This node.
    Local,
    /// The peer; this node applied its record.
    Peer,
}

impl Owner {
    /// The word in tables, JSON and filters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Peer => "peer",
        }
    }
}

/// Addresses and ports of one direction, as its packets arrive. For ICMP queries the identifier stands in the
/// requester's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Source port.
    pub src_port: u16,
    /// Destination address.
    pub dst: IpAddr,
    /// Destination port.
    pub dst_port: u16,
}

/// Source NAT of a conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatReport {
    /// Grant id of the port block, as in the log.
    pub grant: u64,
    /// Whether the external port belongs to an endpoint-independent mapping.
    pub mapping: bool,
}

/// What went in one direction of a conntrack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// Packets.
    pub packets: u64,
    /// Bytes of IP packets.
    pub bytes: u64,
}

/// What a node has counted of a conntrack, as its packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// Original direction.
    pub original: FlowCount,
    /// Reply direction.
    pub reply: FlowCount,
}

/// One conntrack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackRow {
    /// IANA protocol number.
    pub protocol: u8,
    /// State.
    pub state: FlowState,
    /// VRF in which the original direction arrives.
    pub vrf: String,
    /// VRF in which the reply direction arrives.
    pub reply_vrf: String,
    /// Original direction.
    pub original: Tuple,
    /// Reply direction; differs from the original reversed exactly by NAT.
    pub reply: Tuple,
    /// Source NAT.
    pub nat: Option<NatReport>,
    /// Owner.
    pub owner: Owner,
    /// Remaining lifetime, in seconds.
    pub lifetime_s: u32,
    /// Packets and bytes; none when this node has counted no packet of it: on a standby, and where `flow_counters` is off.
    pub counted: Option<FlowCounts>,
    /// Worker whose table holds it.
    pub worker: u16,
    /// Slot.
    pub slot: u16,
    /// Term of its version; 0 when it was never emitted or applied.
    pub term: u64,
    /// Counter of its version.
    pub counter: u64,
}

/// Which conntracks. Every given field must match; none matches all.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConntrackFilter {
    /// Source address of the original direction.
    pub src: Option<IpNet>,
    /// Destination address of the original direction.
    pub dst: Option<IpNet>,
    /// Source port of the original direction.
    pub sport: Option<u16>,
    /// Destination port of the original direction.
    pub dport: Option<u16>,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// State.
    pub state: Option<FlowState>,
    /// Owner.
    pub owner: Option<Owner>,
}

impl ConntrackFilter {
    /// Whether a conntrack with these properties is meant.
    #[must_use]
    pub fn matches(&self, protocol: u8, original: &Tuple, state: FlowState, owner: Owner) -> bool {
        self.protocol.is_none_or(|p| p == protocol)
            && self.state.is_none_or(|s| s == state)
            && self.owner.is_none_or(|o| o == owner)
            && self.sport.is_none_or(|p| p == original.src_port)
            && self.dport.is_none_or(|p| p == original.dst_port)
            && self.src.is_none_or(|net| net.contains(&original.src))
            && self.dst.is_none_or(|net| net.contains(&original.dst))
    }
}

/// How much of a long list, and from where on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Rows wanted; the answer may hold fewer even when there are more.
    pub limit: u32,
    /// Where the last answer ended; none starts at the beginning.
    pub cursor: Option<u64>,
}

/// A part of a long list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next part starts; none at the end. Opaque.
    pub next: Option<u64>,
}

impl<T> Rows<T> {
    /// A list that fits in one part.
    #[must_use]
    pub const fn all(rows: Vec<T>) -> Self {
        Self { rows, next: None }
    }
}

/// A pool of public addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// Name.
    pub name: String,
    /// Number of addresses.
    pub addresses: u32,
    /// Ports handed out per address: first.
    pub port_first: u16,
    /// Ports handed out per address: last.
    pub port_last: u16,
    /// Ports per block.
    pub block_size: u16,
    /// Blocks there are.
    pub blocks_total: u64,
    /// Blocks granted.
    pub blocks_granted: u64,
    /// Ports in use, in all blocks.
    pub ports_used: u64,
    /// Freed ports that still rest.
    pub ports_resting: u64,
}

/// A granted port block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Pool.
    pub pool: String,
    /// Public address.
    pub address: Ipv4Addr,
    /// First port.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Inside address it was granted to.
    pub subscriber: IpAddr,
    /// Grant id, as in the log.
    pub grant: u64,
    /// Owner.
    pub owner: Owner,
    /// Ports in use.
    pub ports_used: u16,
    /// Worker.
    pub worker: u16,
    /// Slot.
    pub slot: u16,
}

/// A subscriber with its share of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// Inside address.
    pub subscriber: IpAddr,
    /// Pool.
    pub pool: String,
    /// Its public address (pooling is paired).
    pub address: Ipv4Addr,
    /// Blocks held.
    pub blocks: u16,
    /// Ports in use.
    pub ports_used: u32,
    /// Endpoint-independent mappings.
    pub mappings: u32,
}

/// How often a rule decided about a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHits {
    /// Rule id; none for the default action.
    pub id: Option<u32>,
    /// First packets decided.
    pub hits: u64,
    /// Of those, dropped because of a limit.
    pub limited: u64,
}

/// A firewall rule as configured, with its hits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// Rule id; none for the default action.
    pub id: Option<u32>,
    /// Interface the packet comes in on.
    pub inbound: Option<String>,
    /// Interface it leaves by.
    pub outbound: Option<String>,
    /// Source prefixes; empty matches all.
    pub source: Vec<IpNet>,
    /// Destination prefixes.
    pub destination: Vec<IpNet>,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// Source ports, `80` or `1000-2000`.
    pub source_ports: Vec<String>,
    /// Destination ports.
    pub destination_ports: Vec<String>,
    /// accept, drop or reject.
    pub action: String,
    /// Whether first packets are logged.
    pub log: bool,
    /// First packets decided; none while the data process isn't reachable.
    pub hits: Option<u64>,
    /// New flows per second that it lets in, if limited.
    pub new_flows_per_s: Option<u32>,
    /// The same of one source.
    pub new_flows_per_source_per_s: Option<u32>,
    /// First packets dropped because of a limit; none while the data process isn't reachable.
    pub limited: Option<u64>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Number.
    pub worker: u16,
    /// Core it is pinned to.
    pub core: u16,
    /// Slots that it has, of all VRFs.
    #[serde(default)]
    pub slots: u64,
    /// Conntracks in its table.
    pub conntracks: u64,
    /// Conntracks its table can hold.
    pub conntracks_max: u64,
    /// Receive queues it polls, `port/queue`.
    pub queues: Vec<String>,
    /// Everything it has counted but drops.
    pub counters: Vec<Count>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// Name.
    pub name: String,
    /// PCI address or vdev string.
    pub device: String,
    /// DPDK driver.
    pub driver: String,
    /// Link up.
    pub up: bool,
    /// Why its device is away, when it is.
    #[serde(default)]
    pub away: Option<String>,
    /// How often its device was made anew.
    #[serde(default)]
    pub renewed: u64,
    /// Link speed in Mbit/s; 0 when unknown.
    pub speed_mbps: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// Receive queues.
    pub rx_queues: u16,
    /// How the card chooses one.
    pub rss: RssRow,
    /// Checksums that its device verifies; the workers do the others.
    #[serde(default)]
    pub rx_checksums: Vec<String>,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets lost for want of a descriptor.
    pub rx_missed: u64,
    /// Packets received damaged.
    pub rx_errors: u64,
    /// Packets lost for want of an mbuf.
    pub rx_nombuf: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets that couldn't be sent.
    pub tx_errors: u64,
    /// By receive queue.
    pub rx: Vec<RxQueueRow>,
    /// By transmit queue: one per worker, which has its number.
    pub tx: Vec<TxQueueRow>,
    /// Packets that came in here and were another worker's, by what made them so: their subscriber, the holder of their
    /// public port, the other pieces of their packet, or the receiver of a hairpin.
    pub handoffs: Vec<Count>,
    /// What came in here for the kernel, by class; none on a port without a tap.
    #[serde(default)]
    pub exceptions: Vec<ExceptionRow>,
    /// The driver's own statistics.
    pub xstats: Vec<Count>,
}

/// Frames of one class that are the kernel's, of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionRow {
    /// Class.
    pub class: String,
    /// Frames that pass to the tap, per second and worker.
    pub packets_per_s: u32,
    /// Frames that passed.
    pub passed: u64,
    /// Frames beyond the limit.
    pub refused: u64,
}

/// How the card of a port chooses a receive queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RssRow {
    /// What the configuration asks it to hash.
    pub asked: String,
    /// What it hashes.
    pub hashed: String,
    /// Entries of its table of queues; 0 when it isn't known.
    pub table_entries: u32,
    /// What that brings, or what keeps it from being known.
    pub note: String,
}

/// A receive queue of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RxQueueRow {
    /// Worker that polls it.
    pub worker: Option<u16>,
    /// Frames that worker has taken.
    pub packets: u64,
    /// Of these, frames that came in several segments and were copied into one buffer.
    pub joined: u64,
    /// Frames dropped because their segments don't fit into one buffer.
    pub segmented: u64,
    /// Frames dropped because they were longer than the port's MTU allows.
    pub too_long: u64,
    /// Frames that the driver has counted as lost or damaged, where it counts by queue.
    pub errors: u64,
}

/// A transmit queue of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxQueueRow {
    /// Frames that the port has accepted.
    pub packets: u64,
    /// Frames that it has not accepted, and that were dropped.
    pub refused: u64,
}

/// An event thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRow {
    /// `event0`, `event1`, …
    pub name: String,
    /// Core.
    pub core: u16,
    /// Lanes to peers that are up.
    pub lanes_up: u16,
    /// Lanes it drives.
    pub lanes: u16,
    /// Everything it has counted.
    pub counters: Vec<Count>,
}

/// Packets dropped for one reason, over all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// Reason.
    pub reason: String,
    /// What it means.
    pub meaning: String,
    /// Packets.
    pub packets: u64,
}

/// One use of memory or of a fixed store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRow {
    /// What it is, such as `mbufs` or `worker0 conntracks`.
    pub name: String,
    /// `entries` or `bytes`.
    pub unit: String,
    /// In use.
    pub used: u64,
    /// There are.
    pub total: u64,
}

/// Version of one process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// `control` or `dataplane`.
    pub process: String,
    /// Package version.
    pub version: String,
    /// Version of DPDK, where it is linked.
    pub dpdk: Option<String>,
    /// Node name.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
}

/// Who polls what, and the memory it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReport {
    /// Workers with their queues.
    pub workers: Vec<PlanThread>,
    /// Event threads with what they drain.
    pub events: Vec<PlanThread>,
    /// Memory needed.
    pub memory: Vec<MemoryRow>,
}

/// A thread of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanThread {
    /// `worker0`, `event0`, …
    pub name: String,
    /// Core.
    pub core: u16,
    /// What it polls, such as `lan0/0` or `ring worker0`.
    pub polls: Vec<String>,
}
