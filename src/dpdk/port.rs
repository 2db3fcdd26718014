//! The ports of the data process: found by name after the EAL's start, configured, started, described to the
//! agent (MAC, link, counters) while the workers poll their queues, and closed by `Eal::stop`.

mod bring_up;
mod checksums;
mod fallen;
mod renew;
mod rss;

use std::cell::Cell;
use std::ffi::CString;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dataplane::exception::Tap;
use dataplane::io::{BURST, PortId, RxQueue};
use dataplane::rss::Rss;
use thiserror::Error;

pub(super) use bring_up::{bring_up, set_mtu};
use bring_up::{driver_mtu, stop_and_close};
pub use checksums::Checksums;
pub use renew::RenewError;
pub use rss::{PortRss, Unknown};

use super::error::Errno;
use super::gate::Gates;
use super::mempool::{HEADROOM, Pool, ROOM_DEFAULT};
use super::queues::{Lane, Ports};
use super::tally::PortTally;
use super::{Device, Eal, Mempool, netns, sys, tap};

/// Ethernet header and two VLAN tags, on top of the MTU.
const FRAME_OVERHEAD: u16 = 14 + 2 * 4;
/// What DPDK reckons of a frame besides its payload, when the driver doesn't say: Ethernet header and checksum.
const DPDK_OVERHEAD: u32 = 18;
/// What the driver of packet sockets keeps of each `framesz` for itself, as it reckons.
const RING_FRAME_HEADER: u32 = 52;
/// Bytes of a frame of a packet socket's ring besides the MTU: the kernel's header, Ethernet and the inner tag.
pub(crate) const RING_FRAME_OVERHEAD: u32 = 66 + 14 + 4;
/// `framesz` of a packet socket that names none.
pub(crate) const RING_FRAME_DEFAULT: u32 = 2_048;
/// Receive queues of a port that a worker's bit mask can name.
const RX_QUEUES_MAX: u16 = 64;
/// Rounds after which draining a queue that keeps filling gives up.
const DRAIN_ROUNDS: usize = 4096;

/// A port as the configuration wants it.
#[derive(Debug, Clone)]
pub struct PortConfig {
    /// Name in the configuration.
    pub name: String,
    /// Device behind it.
    pub device: Device,
    /// Named network namespace of its kernel interface; none for the process's own. A PCI device is in none, its tap is.
    pub netns: Option<String>,
    /// Name of the kernel interface to make that mirrors it.
    pub tap: Option<String>,
    /// Receive queues, 1 to 64, spread by RSS where the device can.
    pub rx_queues: u16,
    /// What RSS is asked to hash.
    pub rss: Rss,
    /// The key of its hash; empty for the card's own.
    pub rss_key: Vec<u8>,
    /// Bytes of a frame behind its Ethernet header.
    pub mtu: u16,
    /// Descriptors of each queue; the driver may round.
    pub descriptors: u16,
}

impl PortConfig {
    /// Bytes behind the headroom that a buffer needs to take any frame of this port. The driver of packet sockets insists on
    /// room for whatever its ring could hold.
    fn frame_room(&self) -> u32 {
        let frame = u32::from(self.mtu) + u32::from(FRAME_OVERHEAD);
        frame.max(self.ring_frame().unwrap_or(0).saturating_sub(RING_FRAME_HEADER))
    }

    /// Bytes of a frame of the ring, if the device is a packet socket.
    fn ring_frame(&self) -> Option<u32> {
        let said = || self.device.argument("framesz").and_then(|text| text.parse().ok());
        let is_packet_socket = self.device.name().starts_with("net_af_packet");
        is_packet_socket.then(|| said().unwrap_or(RING_FRAME_DEFAULT))
    }

    /// The largest MTU that the device carries. The driver of packet sockets speaks of 1,500 and carries what fits its ring.
    fn mtu_most(&self, info: &sys::rte_eth_dev_info) -> u16 {
        match self.ring_frame() {
            Some(frame) => u16::try_from(frame.saturating_sub(RING_FRAME_OVERHEAD)).unwrap_or(u16::MAX),
            None => driver_mtu(info),
        }
    }

    /// The namespace to step into, if any. A PCI device is in none.
    fn namespace(&self) -> Option<&str> {
        self.netns.as_deref().filter(|_| !self.device.is_pci())
    }
}

/// The devices to name when the EAL starts. Those in other namespaces are probed by [`PortSet::open`].
#[must_use]
pub fn devices_at_start(configs: &[PortConfig]) -> Vec<Device> {
    let own = configs.iter().filter(|config| config.namespace().is_none());
    own.map(|config| config.device.clone()).collect()
}

/// Bytes of each packet buffer, headroom included, so that any frame of any of these ports lies in one buffer.
#[must_use]
pub fn room_for(configs: &[PortConfig]) -> u16 {
    let frame = configs.iter().map(PortConfig::frame_room).max().unwrap_or(0);
    let room = u32::from(HEADROOM).saturating_add(frame).next_multiple_of(64);
    u16::try_from(room).unwrap_or(u16::MAX).max(ROOM_DEFAULT)
}

/// A device that the EAL found no port for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPort {
    /// Name in the configuration.
    pub name: String,
    /// Its device.
    pub device: String,
    /// The likely cause.
    pub hint: String,
}

impl fmt::Display for MissingPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "port {}: device {} was not found: {}",
            self.name, self.device, self.hint
        )
    }
}

/// Why the ports can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PortError {
    /// Every configured port that DPDK did not find.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Missing(Vec<MissingPort>),
    /// More queues than the device has.
    #[error("port {port}: {wanted} {kind} queues are needed, the device offers {offered}{}", queue_hint(.kind))]
    Queues {
        /// Name in the configuration.
        port: String,
        /// `receive` or `transmit`.
        kind: &'static str,
        /// Needed: for transmit, one per worker.
        wanted: u16,
        /// Offered by the device.
        offered: u16,
    },
    /// A frame of this MTU fits neither an mbuf nor, perhaps, the device.
    #[error("port {port}: MTU {mtu} is too large, {most} is possible")]
    Mtu {
        /// Name in the configuration.
        port: String,
        /// Asked for.
        mtu: u16,
        /// Possible.
        most: u16,
    },
    /// Its network namespace can't be entered.
    #[error("port {port}: network namespace {netns}: {cause}")]
    Namespace {
        /// Name in the configuration.
        port: String,
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        cause: String,
    },
    /// The kernel interface that mirrors the port can't be had.
    #[error("port {port}: tap {tap}: {cause}")]
    Tap {
        /// Name in the configuration.
        port: String,
        /// Name of the kernel interface.
        tap: String,
        /// The kernel's answer, or the driver's.
        cause: String,
    },
    /// A step of bringing the port up failed.
    #[error("port {port}: {step}: {cause}")]
    Setup {
        /// Name in the configuration.
        port: String,
        /// What was tried.
        step: &'static str,
        /// DPDK's answer.
        cause: Errno,
    },
    /// The queues were already handed out.
    #[error("the queues were already handed out")]
    AlreadySplit,
    /// More workers than transmit queues were set up for.
    #[error("{workers} workers, but the ports were opened for {most}")]
    TooManyWorkers {
        /// Asked for.
        workers: usize,
        /// Opened for.
        most: u16,
    },
    /// A queue that does not exist or was given to two workers.
    #[error("receive queue {queue} of port {port} does not exist or has two owners")]
    Queue {
        /// Index of the port.
        port: u16,
        /// Number of the queue.
        queue: u16,
    },
}

fn queue_hint(kind: &str) -> &'static str {
    if kind == "transmit" {
        " (one per worker; af_packet: qpairs=)"
    } else {
        ""
    }
}

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// Mbit/s, when the device knows.
    pub speed_mbps: Option<u32>,
}

/// All ports of a configuration, opened and started. [`PortId`] is the index in the configuration; taps come behind them.
/// The agent keeps it; dropping it leaves the ports running until the process ends.
#[derive(Debug)]
pub struct PortSet {
    ports: Vec<OpenPort>,
    /// Ports that have a tap, in the order of the taps behind the ports.
    mirrored: Vec<PortId>,
    pool: Arc<Pool>,
    workers: u16,
    /// From the moment on at which workers have queues.
    gates: Option<Arc<Gates>>,
    alive: Arc<()>,
    // DPDK's port calls other than rx and tx are not thread safe.
    not_sync: PhantomData<Cell<()>>,
}

#[derive(Debug)]
pub(super) struct OpenPort {
    config: PortConfig,
    /// DPDK's number; none while the device is away.
    id: Option<u16>,
    mac: [u8; 6],
    rss: PortRss,
    checksums: Checksums,
    tally: Arc<PortTally>,
    /// By receive queue: the worker that polls it.
    pollers: Vec<Option<u16>>,
}

impl PortSet {
    /// Finds, configures and starts every port, in the order of `configs`, promiscuous, with one transmit
    /// queue for each of `workers`.
    ///
    /// # Errors
    /// Names every port that is missing, or the first that can't be set up; those already started are
    /// closed again.
    pub fn open(_eal: &Eal, pool: &Mempool, configs: &[PortConfig], workers: u16) -> Result<Self, PortError> {
        let mut ids = Vec::new();
        let mut missing = Vec::new();
        for config in configs {
            match in_namespace(config, || probe(config))? {
                Ok(id) => ids.push(id),
                Err(absent) => missing.push(absent),
            }
        }
        if !missing.is_empty() {
            return Err(PortError::Missing(missing));
        }
        fallen::listen();
        let mut set = Self {
            ports: Vec::new(),
            mirrored: Vec::new(),
            pool: Arc::clone(pool.shared()),
            workers,
            gates: None,
            alive: Arc::new(()),
            not_sync: PhantomData,
        };
        let opened = configs
            .iter()
            .zip(ids)
            .try_for_each(|(config, id)| {
                let port =
                    in_namespace(config, || bring_up(&set.pool, config, id, workers, true)).flatten()?;
                set.ports.push(port);
                Ok(())
            })
            .and_then(|()| set.open_taps(configs));
        match opened {
            Ok(()) => Ok(set),
            Err(error) => {
                // The first error is the one to report.
                let _ = set.close();
                Err(error)
            }
        }
    }

    /// Behind the ports: each has the MAC address of its port, which is known now.
    fn open_taps(&mut self, configs: &[PortConfig]) -> Result<(), PortError> {
        for (number, config) in configs.iter().enumerate() {
            let Some(name) = &config.tap else { continue };
            let mac = self.ports[number].mac;
            let open = || tap::open(&self.pool, (number, config, name), mac, self.workers);
            let opened = within(config, config.netns.as_deref(), open).flatten()?;
            self.ports.push(opened);
            self.mirrored.extend(u16::try_from(number).map(PortId));
        }
        Ok(())
    }

    /// Hands every worker its receive queues (`assignment[worker]`) and a transmit queue on each port.
    ///
    /// # Errors
    /// When queues were handed out before, don't exist, or have two owners; then nothing is handed out.
    pub fn split(&mut self, assignment: &[Vec<RxQueue>]) -> Result<Vec<Ports>, PortError> {
        if self.gates.is_some() {
            return Err(PortError::AlreadySplit);
        }
        if assignment.len() > usize::from(self.workers) {
            return Err(PortError::TooManyWorkers {
                workers: assignment.len(),
                most: self.workers,
            });
        }
        let gates = Gates::new(self.ports.iter().map(|port| port.id), assignment.len());
        let gates = Arc::new(gates);
        let mut taken = vec![0_u64; self.ports.len()];
        let mut all = Vec::new();
        for (worker, queues) in (0_u16..).zip(assignment) {
            let mut lanes: Vec<Lane> = self.ports.iter().map(|port| port.lane(worker)).collect();
            for rx in queues {
                let known = self
                    .ports
                    .get(rx.port.index())
                    .is_some_and(|port| rx.queue < port.config.rx_queues);
                let bit = 1_u64.checked_shl(u32::from(rx.queue)).unwrap_or(0);
                if !known || taken[rx.port.index()] & bit != 0 {
                    return Err(PortError::Queue {
                        port: rx.port.0,
                        queue: rx.queue,
                    });
                }
                taken[rx.port.index()] |= bit;
                lanes[rx.port.index()].rx_mask |= bit;
            }
            let taps = self.taps(queues);
            for tap in taps.iter().filter(|tap| tap.queues != 0) {
                lanes[tap.tap.index()].rx_mask = u64::MAX >> (u64::BITS - u32::from(tap.queues));
            }
            all.push(Ports::new(
                lanes,
                (queues.clone(), taps),
                Arc::clone(&self.pool),
                (worker, Arc::clone(&gates)),
                Arc::clone(&self.alive),
            ));
        }
        self.gates = Some(gates);
        for (worker, queues) in (0_u16..).zip(assignment) {
            for rx in queues {
                self.ports[rx.port.index()].pollers[usize::from(rx.queue)] = Some(worker);
            }
        }
        Ok(all)
    }

    /// The taps as a worker with these queues sees them: whoever has the first queue of a port reads its tap.
    fn taps(&self, queues: &[RxQueue]) -> Vec<Tap> {
        let first = (self.ports.len() - self.mirrored.len()..).zip(&self.mirrored);
        let tap = |(tap, &port): (usize, &PortId)| {
            let reads = queues.contains(&RxQueue { port, queue: 0 });
            Some(Tap {
                port,
                tap: PortId(u16::try_from(tap).ok()?),
                queues: if reads { self.workers } else { 0 },
            })
        };
        first.filter_map(tap).collect()
    }

    /// The tap of a port.
    #[must_use]
    pub fn tap_of(&self, port: PortId) -> Option<PortId> {
        let place = self.mirrored.iter().position(|mirrored| *mirrored == port)?;
        u16::try_from(self.ports.len() - self.mirrored.len() + place)
            .ok()
            .map(PortId)
    }

    /// How a port, or a tap, was opened.
    #[must_use]
    pub fn config(&self, port: PortId) -> Option<&PortConfig> {
        self.ports.get(port.index()).map(|port| &port.config)
    }

    /// Number of ports, taps included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.ports.len()
    }

    /// Whether there is no port.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Packet buffers held by packets and queues. Exact only while no worker runs.
    #[must_use]
    pub fn mbufs_in_use(&self) -> u32 {
        self.pool.size - self.pool.available()
    }

    /// The port's MAC address. On `net_af_packet` frames with this source are the kernel's own, going out.
    #[must_use]
    pub fn mac(&self, port: PortId) -> Option<[u8; 6]> {
        self.ports.get(port.index()).map(|port| port.mac)
    }

    /// Bytes of a frame behind its Ethernet header.
    #[must_use]
    pub fn mtu(&self, port: PortId) -> Option<u16> {
        self.ports.get(port.index()).map(|port| port.config.mtu)
    }

    /// How the device spreads packets over its queues.
    #[must_use]
    pub fn rss(&self, port: PortId) -> Option<&PortRss> {
        self.ports.get(port.index()).map(|port| &port.rss)
    }

    /// Which checksums the device verifies.
    #[must_use]
    pub fn checksums(&self, port: PortId) -> Checksums {
        self.ports
            .get(port.index())
            .map_or(Checksums::NONE, |port| port.checksums)
    }

    /// The link now; none for an unknown port, a device that is away or one that can't tell.
    #[must_use]
    pub fn link(&self, port: PortId) -> Option<Link> {
        let id = self.id(port)?;
        let (mut up, mut speed) = (false, 0);
        // SAFETY: the port is open; DPDK fills both values.
        let code = unsafe { sys::twinpath_link(id, &raw mut up, &raw mut speed) };
        Errno::check(code).ok()?;
        Some(Link {
            up,
            speed_mbps: (speed != 0 && speed != u32::MAX).then_some(speed),
        })
    }

    /// What is counted by queue, and who polls each receive queue.
    pub(super) fn tallies(&self, port: PortId) -> Option<(&PortTally, &[Option<u16>])> {
        let port = self.ports.get(port.index())?;
        Some((&port.tally, &port.pollers))
    }

    /// DPDK's number of a port whose device is there.
    pub(super) fn id(&self, port: PortId) -> Option<u16> {
        self.ports.get(port.index())?.id
    }

    /// Workers that still hold queues.
    pub(super) fn handles(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }

    /// Frees what the receive queues hold: with a loopback device, packets already sent sit there. Only to be
    /// called when no worker holds queues.
    pub(super) fn drain(&self) -> u64 {
        let all = self
            .ports
            .iter()
            .filter_map(|port| Some((port.id?, port.config.rx_queues)))
            .flat_map(|(id, queues)| (0..queues).map(move |queue| (id, queue)));
        all.map(|(id, queue)| drain(id, queue)).sum()
    }

    /// Stops and closes every port, all of them even if one fails. Only to be called when no worker holds
    /// queues. Gives the name of the first port that failed.
    pub(super) fn close(self) -> Result<(), (String, Errno)> {
        let mut outcome = Ok(());
        for port in self.ports {
            let Some(id) = port.id else { continue };
            let closed = stop_and_close(id).map_err(|cause| (port.config.name, cause));
            outcome = outcome.and(closed);
        }
        outcome
    }
}

impl OpenPort {
    fn lane(&self, worker: u16) -> Lane {
        Lane {
            id: self.id,
            rx_mask: 0,
            tx_queue: worker,
            frame_max: self.config.mtu.saturating_add(FRAME_OVERHEAD),
            tally: Arc::clone(&self.tally),
        }
    }
}

fn drain(id: u16, queue: u16) -> u64 {
    let mut drained = 0;
    for _ in 0..DRAIN_ROUNDS {
        let mut room = ArrayVec::<*mut sys::rte_mbuf, BURST>::from([core::ptr::null_mut(); BURST]);
        #[expect(clippy::cast_possible_truncation, reason = "BURST fits u16, see queues.rs")]
        // SAFETY: room for BURST pointers; no worker polls the queue any more.
        let count = unsafe { sys::twinpath_rx_burst(id, queue, room.as_mut_ptr(), BURST as u16) };
        if count == 0 {
            break;
        }
        // SAFETY: the driver gave us these live mbufs, and nothing else owns them.
        unsafe { sys::rte_pktmbuf_free_bulk(room.as_mut_ptr(), u32::from(count)) };
        drained += u64::from(count);
    }
    drained
}

/// Runs `act` in the network namespace of the port's device.
fn in_namespace<T>(config: &PortConfig, act: impl FnOnce() -> T) -> Result<T, PortError> {
    within(config, config.namespace(), act)
}

/// Runs `act` in a network namespace, for this port.
fn within<T>(config: &PortConfig, netns: Option<&str>, act: impl FnOnce() -> T) -> Result<T, PortError> {
    netns::within(netns, act).map_err(|cause| PortError::Namespace {
        port: config.name.clone(),
        netns: config.netns.clone().unwrap_or_default(),
        cause: cause.to_string(),
    })
}

/// DPDK's number of the port, which the EAL probed at its start, or which is probed now in its namespace.
fn probe(config: &PortConfig) -> Result<u16, MissingPort> {
    if config.namespace().is_some() && find(&config.device).is_none() {
        return probe_now(config);
    }
    found(config)
}

/// As [`probe`], of a device that the EAL wasn't told of at its start.
pub(super) fn probe_now(config: &PortConfig) -> Result<u16, MissingPort> {
    let spec = CString::new(config.device.spec()).unwrap_or_default();
    // SAFETY: a zero-terminated string; called on the main lcore. Whether it worked shows right below.
    unsafe { sys::rte_dev_probe(spec.as_ptr()) };
    found(config)
}

fn found(config: &PortConfig) -> Result<u16, MissingPort> {
    find(&config.device).ok_or_else(|| MissingPort {
        name: config.name.clone(),
        device: config.device.to_string(),
        hint: hint(&config.device),
    })
}

fn find(device: &Device) -> Option<u16> {
    let name = CString::new(device.name()).ok()?;
    let mut id = 0;
    // SAFETY: a zero-terminated name and room for the answer.
    let code = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut id) };
    (code == 0).then_some(id)
}

/// What most often keeps DPDK from creating a port.
fn hint(device: &Device) -> String {
    if device.is_pci() {
        return "is the device there, and bound to a driver that DPDK can use (vfio-pci)?".to_owned();
    }
    match device
        .argument("iface")
        .filter(|_| !device.name().starts_with("net_tap"))
    {
        Some(iface) if !interface_exists(iface) => {
            format!("there is no interface {iface} in this network namespace")
        }
        _ => "its driver refused it (see DPDK's message above; log level info says more)".to_owned(),
    }
}

/// Looks in the network namespace of the calling thread, which sysfs may not show.
fn interface_exists(iface: &str) -> bool {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .any(|(name, _)| name.trim() == iface)
}
