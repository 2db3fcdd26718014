//! The TOML configuration. Read by both daemons at start and by `config check`; the text is walked table by
//! table, every fault is collected with its place, and only a faultless file becomes a [`Config`]. From then on
//! nothing is checked again: the types can't hold what a check would refuse.
//!
//! `example.toml` beside this file names every key with its default. Reading order: `locate` (faults),
//! `section` and `values` (typed access), `node`, `topology`, `vrrp`, `vrf`, `policy` (one table kind each),
//! `check` (what needs more than one table), `host` (what needs the machine), `keys` (what proves who the nodes
//! are), `diff` (what a change takes).

mod care;
mod check;
mod diff;
mod host;
mod keys;
mod locate;
mod node;
mod policy;
mod section;
mod topology;
mod values;
mod vrf;
mod vrrp;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::iter;
use std::net::{IpAddr, SocketAddr};

use ctl::key::PublicKey;
use dataplane::config::{FirstPacketsPercent, Forwarding, Intent, VirtualAddress};
use dataplane::exception::ExceptionLimits;
use dataplane::rss::Rss;
use state_sync::config::SyncLink;
use toml::de::DeTable;

use crate::plan::Hugepages;
use crate::thread::Idle;

pub use self::diff::{diff, settings};
pub use self::host::{Host, check_host};
pub use self::keys::{open_keys, replace_keys, same_keys};
pub use self::locate::{Fault, Faults};
use self::locate::{Place, Report};
use self::section::Section;

/// The example file: every key, its default, what it does.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this node is.
    pub node: NodeConfig,
    /// Threads and memory of the data process.
    pub dataplane: DataplaneConfig,
    /// Ports; the index is the [`dataplane::io::PortId`].
    pub ports: Vec<PortConfig>,
    /// What interfaces have beyond `intent.interfaces`; same index.
    pub interfaces: Vec<InterfaceConfig>,
    /// What VRFs have beyond `intent.vrfs`; same index.
    pub vrfs: Vec<VrfConfig>,
    /// What HA groups have beyond `intent.ha_groups`; same index.
    pub ha_groups: Vec<HaGroupConfig>,
    /// Who speaks VRRP for the groups that follow it.
    pub keepalived: KeepalivedConfig,
    /// Lanes; present when a VRF has a peer.
    pub sync: Option<SyncConfig>,
    /// Logs.
    pub log: LogConfig,
    /// What the packet path is told to do.
    pub intent: Intent,
    /// Static routes and neighbours, and the links of addresses given in TOML. Added to the kernel's.
    pub forwarding: Forwarding,
    places: Places,
}

/// Who this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name of its run directory, `/run/twinpath/NAME/`.
    pub name: String,
    /// Part of every term it takes: 1 to 255, another one on each node.
    pub id: u8,
}

/// Conntracks that a node may be configured for.
pub const CONNTRACKS_MOST: u32 = 268_435_456;

/// Threads and memory of the data process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataplaneConfig {
    /// Workers.
    pub workers: u16,
    /// Core of each worker, when given.
    pub worker_cores: Option<Vec<usize>>,
    /// Event threads.
    pub event_threads: u16,
    /// Core of each event thread, when given.
    pub event_cores: Option<Vec<usize>>,
    /// What a thread without work does.
    pub idle: Idle,
    /// Memory of EAL without hugepages, in MiB.
    pub memory_mb: u32,
    /// Use of hugepages.
    pub hugepages: Hugepages,
    /// Packet buffers.
    pub mbufs: u32,
    /// Conntracks over all workers.
    pub conntracks_max: u32,
    /// Conntracks over all workers that there is room for at the start; there is more when it is needed.
    pub conntracks_start: u32,
    /// Entries of each delta ring (one per worker and event thread).
    pub delta_ring_entries: u32,
    /// Packets of each worker that may wait until the peer knows their flow.
    pub held_packets: u32,
    /// Sources of each worker whose new flows are counted where a rule limits them.
    pub limited_sources: u32,
    /// Key of the hash by which cards choose receive queues; none for each card's own.
    pub rss_key: Option<Vec<u8>>,
    /// Packets that each worker may send to the active node.
    pub redirect_packets_per_s: u32,
    /// What first packets may have of the time of a worker that is overrun.
    pub first_packets: FirstPacketsPercent,
    /// Further arguments for EAL.
    pub eal_args: Vec<String>,
}

/// A DPDK port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Name.
    pub name: String,
    /// PCI address or vdev string.
    pub device: String,
    /// Receive queues.
    pub rx_queues: u16,
    /// What the card hashes to choose one.
    pub rss: Rss,
    /// Kernel interface from which link state, addresses and neighbours are learnt.
    pub kernel_interface: Option<String>,
    /// How the kernel comes by the frames that are its business.
    pub exception: Exception,
    /// How much of that, by class.
    pub exception_limits: ExceptionLimits,
}

impl PortConfig {
    /// Name of the kernel interface that the data process makes to mirror the port.
    #[must_use]
    pub fn tap(&self) -> Option<&str> {
        let name = self.kernel_interface.as_deref();
        name.filter(|_| self.exception == Exception::Tap)
    }

    /// What reaches the kernel by its tap, when it has one.
    fn limits(&self) -> Option<ExceptionLimits> {
        self.tap().map(|_| self.exception_limits)
    }
}

/// How the kernel comes by the frames of a port that are its business, and the port by the kernel's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Exception {
    /// By itself: the device is one of its interfaces. Or not at all.
    #[default]
    None,
    /// By a kernel interface that mirrors the port.
    Tap,
}

/// An interface, beyond its intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Name, as in the intent.
    pub name: String,
    /// Kernel interface to learn from: its own, or the port's for an untagged one.
    pub kernel_interface: Option<String>,
}

/// A VRF, beyond its intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrfConfig {
    /// Name, as in the intent.
    pub name: String,
    /// Where its routes and neighbours come from.
    pub kernel: KernelBinding,
    /// HA group that decides its role.
    pub listen_ha_group: Option<String>,
    /// Whether the kernel has routes for its pools while it is active.
    pub announce_pools: bool,
    /// Remote nodes.
    pub peers: Vec<PeerConfig>,
}

/// Where a VRF's routes, addresses and neighbours come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum KernelBinding {
    /// Main table of the process's own namespace.
    #[default]
    Main,
    /// Table of this VRF device.
    Device(String),
    /// Main table of this network namespace.
    Netns(String),
}

impl KernelBinding {
    /// Network namespace to look in; none is the process's own.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        match self {
            Self::Netns(name) => Some(name),
            Self::Main | Self::Device(_) => None,
        }
    }
}

/// A remote node of a VRF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Name in ctl and metrics.
    pub name: String,
    /// Address the lanes start from.
    pub source: IpAddr,
    /// Address of the remote node; same family.
    pub address: IpAddr,
    /// The same on the second sync interface.
    pub second: Option<SyncLink>,
    /// Keys it may prove to hold; at least one when lanes are protected.
    pub public_keys: Vec<PublicKey>,
}

impl PeerConfig {
    /// The ways to it, the first one first.
    pub fn links(&self) -> impl Iterator<Item = SyncLink> {
        let (source, address) = (self.source, self.address);
        iter::once(SyncLink { source, address }).chain(self.second)
    }
}

/// An HA group, beyond its intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaGroupConfig {
    /// Name, as in the intent.
    pub name: String,
    /// Initial preference; backup when VRRP decides.
    pub state: InitialState,
    /// How VRRP decides, when it does.
    pub vrrp: Option<VrrpConfig>,
}

/// A group driven by VRRP: one virtual router per interface and address family of its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrrpConfig {
    /// Virtual router id, the same on both nodes.
    pub vrid: u8,
    /// Priority while nothing is in the way; the highest becomes master.
    pub priority: u8,
    /// Whether a node of higher priority takes over from a master that works.
    pub preempt: bool,
    /// Time between two adverts, in milliseconds; a multiple of 10.
    pub advert_interval_ms: u32,
    /// Use the virtual router's MAC addresses instead of the interfaces'.
    pub virtual_mac: bool,
    /// Addresses that keepalived gives the master's kernel.
    pub addresses: Vec<VirtualAddress>,
}

/// The keepalived on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepalivedConfig {
    /// File with its process id.
    pub pid_file: String,
    /// File that it writes its state to when asked.
    pub state_file: String,
    /// How long the control process may be away before keepalived gives the role up, in seconds.
    pub restart_grace_s: u8,
    /// Real-time priority of its VRRP process; 0 is none.
    pub realtime_priority: u8,
}

/// State a group prefers at boot; the peers' terms decide first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InitialState {
    /// Become active when no peer is.
    Master,
    /// Stand by.
    #[default]
    Backup,
}

/// Lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncConfig {
    /// Kernel interface they are bound to.
    pub interface: String,
    /// Kernel interface of the peers' second links.
    pub second_interface: Option<String>,
    /// TCP port of the local node.
    pub port: u16,
    /// Code point of the lanes' packets.
    pub dscp: u8,
    /// Protection of the lanes.
    pub security: Security,
    /// File of this node's private key; present when lanes are protected.
    pub private_key: Option<String>,
    /// Silence after which a lane counts as dead, in milliseconds.
    pub dead_after_ms: u32,
    /// How long a booting node waits for a peer that doesn't answer, in milliseconds.
    pub boot_wait_ms: u32,
}

/// Protection of the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Plain TCP: whoever can send to the sync port can write to the tables.
    None,
    /// TLS 1.3 between nodes that prove to hold the keys configured for them.
    Tls,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Where lines about port blocks go.
    pub syslog: Syslog,
    /// Least important lines of the daemons that are written: error, warn, info, debug or trace.
    pub level: &'static str,
}

/// A receiver of RFC 5424 lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Syslog {
    /// Unix datagram socket.
    Unix(String),
    /// UDP (RFC 5426).
    Udp(SocketAddr),
}

/// Where things stand in the file, for faults found later.
#[derive(Debug, Clone, Default)]
struct Places {
    file: String,
    text: String,
    /// Line and column by path, such as `port.lan0.kernel_interface`.
    marks: HashMap<String, (usize, usize)>,
}

impl Config {
    /// The file it was read from, as it was named to us.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.places.file
    }

    /// Takes over what needs no restart whatever else a file says: what the packet path is told to do. The result is no
    /// file's configuration, so it has no text.
    pub fn take_intent(&mut self, from: Self) {
        let taps = core::mem::take(&mut self.intent.exceptions);
        (self.intent, self.forwarding) = (from.intent, from.forwarding);
        // A tap comes and goes with the data process, and only its limits change.
        for (now, before) in self.intent.exceptions.iter_mut().zip(taps) {
            if now.is_some() != before.is_some() {
                *now = before;
            }
        }
        self.places.text.clear();
    }

    /// What was read, as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.places.text
    }
}

impl Places {
    fn mark(&mut self, report: &Report<'_>, path: String, place: Place) {
        self.marks.insert(path, report.line_and_column(place));
    }

    fn fault(&self, path: &str, what: String, advice: &str) -> Fault {
        let (line, column) = self.marks.get(path).copied().unwrap_or((1, 1));
        Fault {
            file: self.file.clone(),
            line,
            column,
            what,
            advice: advice.to_owned(),
        }
    }
}

/// Reads a configuration. `file` is how faults call it; `cores` are the cores of the machine it is for, empty
/// when unknown.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(file: &str, text: &str, cores: &[usize]) -> Result<Config, Faults> {
    let report = Report::new(file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().map_or(Place(0), Place::from);
        report.add_syntax(place, error.message().trim_end());
    }
    let root = Section::new(document.get_ref(), &report, Place(0), "the file".to_owned());
    let mut places = Places {
        file: file.to_owned(),
        text: text.to_owned(),
        marks: HashMap::new(),
    };

    let node = node::read_node(&root);
    let topology = topology::read(&root, &mut places);
    let vrfs = vrf::read(&root, &topology, &mut places);
    let ha_groups = topology::read_ha_groups(&root, &topology);
    let dataplane = node::read_dataplane(&root, cores, &mut places);
    let keepalived = vrrp::read_keepalived(&root);
    let sync = node::read_sync(&root, &mut places);
    let log = node::read_log(&root);
    root.finish();
    check::all(
        &report,
        &check::Everything {
            topology: &topology,
            vrfs: &vrfs,
            ha_groups: &ha_groups,
            sync: &sync,
            dataplane: &dataplane,
        },
    );

    report.into_result()?;
    let mut forwarding = topology.connected();
    let mut intent = Intent {
        interfaces: topology.intents,
        exceptions: topology.ports.iter().map(PortConfig::limits).collect(),
        first_packets: dataplane.first_packets,
        ..Intent::default()
    };
    let mut bindings = Vec::new();
    for read in vrfs {
        intent.vrfs.push(read.intent);
        bindings.push(read.config);
        forwarding.routes.extend(read.routes);
        forwarding.neighbors.extend(read.neighbors);
    }
    let mut states = Vec::new();
    for mut read in ha_groups {
        if let Some(vrrp) = &mut read.vrrp {
            vrrp.addresses = core::mem::take(&mut read.intent.virtual_addresses);
            read.intent.virtual_macs = vrrp::virtual_macs(vrrp);
        }
        intent.ha_groups.push(read.intent);
        states.push(HaGroupConfig {
            name: read.name,
            state: read.state,
            vrrp: read.vrrp,
        });
    }
    Ok(Config {
        node,
        dataplane,
        ports: topology.ports,
        interfaces: topology.interfaces,
        vrfs: bindings,
        ha_groups: states,
        keepalived,
        sync: sync.map(|s| s.config),
        log,
        intent,
        forwarding,
        places,
    })
}
