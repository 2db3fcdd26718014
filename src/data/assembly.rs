//! Puts the data process together and takes it apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use ctl::report::{MemoryRow, PlanReport, PlanThread};
use dataplane::applied::AppliedCounters;
use dataplane::config::Intent;
use dataplane::fingerprint;
use dataplane::flow::VrfId;
use dataplane::io::PortId;
use dataplane::nat::{NatLimits, Pools};
use dataplane::role::Roles;
use dataplane::tables::{Limits, Tables};
use dataplane::vrf::{PortInfo, Snapshot};
use dataplane::wiring::{Counts, EventEnds, Wiring};
use dataplane::worker::{Links, Shared, Worker};
use state_sync::board::Board;
use state_sync::config::{SyncConfig, SyncPeer, SyncVrf, Timing};
use state_sync::port::{Arrival, PumpCommand, PumpEvent, PumpPorts};
use state_sync::pump::Pump;

use super::agent::Agent;
use super::answer::{PortFacts, Static};
use super::ask::Names;
use super::roles::RoleKeeper;
use super::syslog::Syslog;
use crate::clock::Clock;
use crate::config::Config;
use crate::dpdk::mempool::ROOM_DEFAULT;
use crate::dpdk::{
    Device, Eal, EalError, EalOptions, Mbuf, Memory, Mempool, PoolError, PortConfig, PortError, PortSet,
    Ports, WorkerHandle, devices_at_start,
};
use crate::ipc::{IpcError, Server};
use crate::plan::{Plan, PlanError, PlanInput, PlanPort};
use crate::socket::{SocketError, SyncNet, SyncSettings, SyncWire};
use crate::thread::Idle;
use crate::{machine, thread};

/// Descriptors of each queue.
const DESCRIPTORS: u16 = 512;

/// Requests that may wait for one event thread, and its messages to the agent.
const PUMP_COMMANDS: usize = 16;
const PUMP_EVENTS: usize = 1_024;
const ARRIVALS: usize = 64;

/// Turns an event thread spends on what is left when the process stops.
const LAST_TURNS: usize = 2_000;

/// A checked configuration with its plan: what `--plan` prints and `run` starts.
#[derive(Debug)]
pub struct Start {
    /// Configuration.
    pub config: Config,
    /// Who polls what.
    pub plan: Plan,
}

/// Why the data process did not start, or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Cores, queues or memory don't fit.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// DPDK.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// Packet buffers.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The process socket.
    #[error("process socket: {0}")]
    Ipc(#[from] IpcError),
    /// The sync sockets.
    #[error("sync sockets: {0}")]
    Socket(#[from] SocketError),
    /// A device that is neither a PCI address nor a vdev string.
    #[error("port {port}: {device} is neither a PCI address nor a vdev string")]
    Device {
        /// Port.
        port: String,
        /// What the configuration says.
        device: String,
    },
    /// A thread could not be started.
    #[error("thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl Start {
    /// Plans a configuration for this machine.
    ///
    /// # Errors
    /// When it doesn't fit.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let plan = Plan::make(&plan_input(&config))?;
        Ok(Self { config, plan })
    }
}

/// Runs the data process until `stop` is set.
///
/// # Errors
/// When something of it can't be had; what was started is stopped again.
pub fn run(start: &Start, stop: &AtomicBool) -> Result<(), StartError> {
    let Start { config, plan } = start;
    let clock = Clock::start();
    let server = Server::bind(&ctl::paths::data_socket(&config.node.name))?;
    let sync = Arc::new(sync_config(config));
    let sockets = open_sockets(config, &sync)?;

    let configured = port_configs(config)?;
    let eal = Eal::start(&eal_options(config, plan, &configured))?;
    let pool = Mempool::create(&eal, "packets", plan.mbufs, ROOM_DEFAULT)?;
    let mut ports = PortSet::open(&eal, &pool, &configured, sync.workers)?;
    let queues = ports.split(&plan.assignment())?;
    let infos = port_infos(config, &ports);

    let board = Arc::new(Board::new(
        usize::from(sync.events),
        sync.peers.len(),
        sync.vrfs.len(),
    ));
    let roles = Arc::new(Roles::new(sync.vrfs.len()));
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(Snapshot::build(&config.intent, &config.forwarding, &infos)),
        roles: Arc::clone(&roles),
        pools: Arc::new(Pools::new(&config.intent)),
        applied: Arc::new(AppliedCounters::new(
            usize::from(sync.workers),
            usize::from(sync.events),
        )),
    });
    let wiring = Wiring::new(Counts {
        workers: usize::from(sync.workers),
        events: usize::from(sync.events),
        ring_entries: config.dataplane.delta_ring_entries as usize,
    });

    let halt = Halt::default();
    let threads = Threads {
        config,
        plan,
        sync: &sync,
        shared: &shared,
        clock: &clock,
        halt: &halt,
    };
    let keeper = RoleKeeper::new(
        config,
        &sync,
        Duration::from_millis(u64::from(config.sync.as_ref().map_or(0, |s| s.boot_wait_ms))),
        roles,
        Arc::clone(&board),
        clock.now(),
    );
    let workers = threads.launch_workers(&eal, wiring.workers, queues)?;
    let (events, pumps) = threads.spawn_events(wiring.events, sockets, &board)?;
    let mut agent = Agent {
        server,
        shared: Arc::clone(&shared),
        keeper,
        syslog: Syslog::new(config.log.syslog.clone(), config.node.name.clone()),
        workers: wiring.main.asks,
        notices: wiring.main.notices,
        pump_commands: pumps.commands,
        pump_events: pumps.events,
        intent: config.intent.clone(),
        forwarding: config.forwarding.clone(),
        ports: infos,
        facts: facts(config, plan, &sync, &clock),
        pending: Vec::new(),
        announcing: Vec::new(),
    };
    tracing::info!(
        node = config.node.name,
        workers = sync.workers,
        events = sync.events,
        "running"
    );
    thread::run(Idle::Calm, stop, &clock, |now| agent.turn(now, &ports));

    tracing::info!("stopping");
    halt.workers.store(true, Ordering::Relaxed);
    for worker in workers {
        if worker.join().is_none() {
            tracing::error!("a worker had panicked");
        }
    }
    halt.events.store(true, Ordering::Relaxed);
    for event in events {
        if event.join().is_err() {
            tracing::error!("an event thread had panicked");
        }
    }
    drop(agent);
    let stopped = eal.stop(vec![ports], pool)?;
    tracing::info!(
        mbufs = stopped.mbufs,
        drained = stopped.drained,
        "every mbuf is back; stopped"
    );
    Ok(())
}

/// Stop flags: workers first, so that their last deltas still find an event thread.
#[derive(Debug, Default)]
struct Halt {
    workers: Arc<AtomicBool>,
    events: Arc<AtomicBool>,
}

/// What every thread is made from.
struct Threads<'a> {
    config: &'a Config,
    plan: &'a Plan,
    sync: &'a Arc<SyncConfig>,
    shared: &'a Arc<Shared>,
    clock: &'a Clock,
    halt: &'a Halt,
}

/// The agent's ends of the event threads.
struct Pumps {
    commands: Vec<Sender<PumpCommand>>,
    events: Receiver<PumpEvent>,
}

impl Threads<'_> {
    fn launch_workers(
        &self,
        eal: &Eal,
        links: Vec<Links<Mbuf>>,
        queues: Vec<Ports>,
    ) -> Result<Vec<WorkerHandle<()>>, StartError> {
        let mut handles = Vec::new();
        let slots: Arc<[u16]> = self.sync.vrfs.iter().map(|v| v.slots).collect();
        let limits = limits(self.config);
        for (number, (links, mut ports)) in (0..).zip(links.into_iter().zip(queues)) {
            let shared = Arc::clone(self.shared);
            let (slots, stop, clock) = (Arc::clone(&slots), Arc::clone(&self.halt.workers), *self.clock);
            let (idle, workers, events) = (self.config.dataplane.idle, self.sync.workers, self.sync.events);
            let (port_count, seed) = (self.config.ports.len(), machine::random_seed() ^ number);
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let handle = eal.launch(usize::from(number), move || {
                // Tables are made on the core that uses them.
                let place = (number, workers);
                let pools = Arc::clone(&shared.pools);
                let tables = Tables::new(place, usize::from(events), &slots, limits, pools, seed);
                let rx = ports.rx_queues().to_vec();
                let mut worker = Worker::new(place, rx, port_count, shared, tables, links);
                thread::run(idle, &stop, &clock, |now| worker.turn(now, &mut ports));
                worker.drain(&mut ports);
            })?;
            handles.push(handle);
        }
        Ok(handles)
    }

    fn spawn_events(
        &self,
        ends: Vec<EventEnds>,
        mut sockets: Vec<SyncNet>,
        board: &Arc<Board>,
    ) -> Result<(Vec<JoinHandle<()>>, Pumps), StartError> {
        let (events_in, events) = bounded(PUMP_EVENTS);
        let (hand_over, arrivals): (Vec<_>, Vec<_>) = ends
            .iter()
            .map(|_| bounded::<Arrival<SyncWire>>(ARRIVALS))
            .unzip();
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        for (number, (ends, arrivals)) in (0_u16..).zip(ends.into_iter().zip(arrivals)) {
            let (command, commanded) = bounded(PUMP_COMMANDS);
            commands.push(command);
            let ports = PumpPorts {
                from_workers: ends.from_workers,
                to_workers: ends.to_workers,
                applied: Arc::clone(&self.shared.applied),
                roles: Arc::clone(&self.shared.roles),
                board: Arc::clone(board),
                events: events_in.clone(),
                commands: commanded,
                arrivals,
                hand_over: hand_over.clone(),
            };
            let net = sockets.remove(0);
            let (sync, clock, stop) = (Arc::clone(self.sync), *self.clock, Arc::clone(&self.halt.events));
            let (idle, seed) = (self.config.dataplane.idle, machine::random_seed());
            let core = self
                .plan
                .event_cores
                .get(usize::from(number))
                .copied()
                .unwrap_or(0);
            threads.push(thread::spawn(&format!("event{number}"), core, move || {
                let mut pump = Pump::new(sync, number, net, ports, seed);
                thread::run(idle, &stop, &clock, |now| pump.turn(now));
                for _ in 0..LAST_TURNS {
                    if pump.turn(clock.now()) == 0 {
                        break;
                    }
                }
                pump.shutdown(clock.now());
            })?);
        }
        Ok((threads, Pumps { commands, events }))
    }
}

fn plan_input(config: &Config) -> PlanInput {
    let threads = &config.dataplane;
    PlanInput {
        cores: machine::cores(),
        hugepages_free_mb: machine::hugepages_free_mb(),
        workers: usize::from(threads.workers),
        worker_cores: threads.worker_cores.clone(),
        event_threads: usize::from(threads.event_threads),
        event_cores: threads.event_cores.clone(),
        ports: config
            .ports
            .iter()
            .map(|port| PlanPort {
                name: port.name.clone(),
                device: port.device.clone(),
                rx_queues: port.rx_queues,
            })
            .collect(),
        mbufs: threads.mbufs,
        mbuf_room: ROOM_DEFAULT,
        descriptors: DESCRIPTORS,
        memory_mb: threads.memory_mb,
        hugepages: threads.hugepages,
        conntracks_max: u64::from(threads.conntracks_max),
    }
}

fn eal_options(config: &Config, plan: &Plan, ports: &[PortConfig]) -> EalOptions {
    let mb = plan.memory.mb;
    EalOptions {
        program: "twinpath-dataplane".to_owned(),
        file_prefix: format!("twinpath-{}-{}", config.node.name, std::process::id()),
        memory: if plan.memory.huge {
            Memory::Huge { mb }
        } else {
            Memory::Plain { mb }
        },
        main_core: plan.main_core,
        worker_cores: plan.worker_cores(),
        devices: devices_at_start(ports),
        log_level: "error".to_owned(),
        extra_args: config.dataplane.eal_args.clone(),
    }
}

fn port_configs(config: &Config) -> Result<Vec<PortConfig>, StartError> {
    (0..)
        .map(PortId)
        .zip(&config.ports)
        .map(|(id, port)| port_config(config, id, port))
        .collect()
}

/// A port carries the largest packet of its interfaces, and lives where their VRF's kernel interfaces do.
fn port_config(
    config: &Config,
    id: PortId,
    port: &crate::config::PortConfig,
) -> Result<PortConfig, StartError> {
    let interfaces = || config.intent.interfaces.iter().filter(|i| i.port == id);
    let netns = interfaces().find_map(|i| config.vrfs.get(i.vrf.index())?.kernel.netns());
    Ok(PortConfig {
        name: port.name.clone(),
        device: Device::parse(&port.device).ok_or_else(|| StartError::Device {
            port: port.name.clone(),
            device: port.device.clone(),
        })?,
        netns: netns.map(str::to_owned),
        rx_queues: port.rx_queues,
        mtu: interfaces().map(|i| i.mtu).max().unwrap_or(1_500),
        descriptors: DESCRIPTORS,
    })
}

fn port_infos(config: &Config, ports: &PortSet) -> Vec<PortInfo> {
    (0..)
        .map(PortId)
        .take(config.ports.len())
        .map(|id| PortInfo {
            mac: ports.mac(id).unwrap_or_default(),
            mtu: ports.mtu(id).unwrap_or(0),
        })
        .collect()
}

/// Sizes of one worker's tables. Slots are spread by hash, so each worker gets its share with room for unevenness.
fn limits(config: &Config) -> Limits {
    let workers = u32::from(config.dataplane.workers.max(1));
    let share = config.dataplane.conntracks_max.div_ceil(workers);
    let conntracks = if workers > 1 { share + share / 8 } else { share };
    let blocks = block_count(&config.intent);
    let nat = NatLimits {
        subscribers: blocks.min(conntracks).max(1),
        blocks: blocks + blocks / 4 + 64,
        mappings: conntracks + conntracks / 4,
        events: 4_096,
    };
    Limits {
        conntracks: conntracks as usize,
        nat,
    }
}

fn block_count(intent: &Intent) -> u32 {
    let of_pool = |pool: &dataplane::config::PoolIntent| {
        let ports = u32::from(pool.ports.last) - u32::from(pool.ports.first) + 1;
        let per_address = ports / u32::from(pool.block_size.max(1));
        u32::try_from(pool.addresses.len())
            .unwrap_or(u32::MAX)
            .saturating_mul(per_address)
    };
    intent
        .vrfs
        .iter()
        .flat_map(|v| &v.pools)
        .map(of_pool)
        .fold(0, u32::saturating_add)
}

/// Peers of several VRFs with the same addresses are one peer with one set of lanes.
fn sync_config(config: &Config) -> SyncConfig {
    let mut peers: Vec<SyncPeer> = Vec::new();
    let vrfs = (0..)
        .map(VrfId)
        .zip(config.vrfs.iter().zip(&config.intent.vrfs))
        .map(|(id, (vrf, intent))| SyncVrf {
            name: vrf.name.clone(),
            slots: intent.slots,
            peers: vrf
                .peers
                .iter()
                .map(|peer| peer_index(&mut peers, peer))
                .collect(),
            sections: fingerprint::sections(&config.intent, id),
            capacity: u64::from(config.dataplane.conntracks_max),
        })
        .collect();
    SyncConfig {
        node_id: config.node.id,
        node_name: config.node.name.clone(),
        boot_id: machine::random_seed(),
        workers: config.dataplane.workers,
        events: config.dataplane.event_threads,
        peers,
        vrfs,
        timing: Timing::default(),
    }
}

fn peer_index(peers: &mut Vec<SyncPeer>, peer: &crate::config::PeerConfig) -> u8 {
    let same = |p: &SyncPeer| p.source == peer.source && p.address == peer.address;
    let index = peers.iter().position(same).unwrap_or_else(|| {
        peers.push(SyncPeer {
            name: peer.name.clone(),
            source: peer.source,
            address: peer.address,
        });
        peers.len() - 1
    });
    u8::try_from(index).unwrap_or(u8::MAX)
}

fn facts(config: &Config, plan: &Plan, sync: &SyncConfig, clock: &Clock) -> Static {
    let core = |core: usize| u16::try_from(core).unwrap_or(u16::MAX);
    let queue_names = |queues: &[dataplane::io::RxQueue]| -> Vec<String> {
        let name = |port: PortId| config.ports.get(port.index()).map_or("?", |p| p.name.as_str());
        queues
            .iter()
            .map(|q| format!("{}/{}", name(q.port), q.queue))
            .collect()
    };
    let workers: Vec<(u16, Vec<String>)> = plan
        .workers
        .iter()
        .map(|w| (core(w.core), queue_names(&w.rx_queues)))
        .collect();
    let event_cores: Vec<u16> = plan.event_cores.iter().map(|&c| core(c)).collect();
    let rings: Vec<String> = (0..workers.len()).map(|w| format!("ring worker{w}")).collect();
    let thread = |name: &str, n: usize, core: u16, polls: Vec<String>| PlanThread {
        name: format!("{name}{n}"),
        core,
        polls,
    };
    let megabytes = |name: &str, mb: u32| MemoryRow {
        name: name.to_owned(),
        unit: "bytes".to_owned(),
        used: u64::from(mb) << 20,
        total: u64::from(mb) << 20,
    };
    Static {
        node: config.node.name.clone(),
        boot_id: sync.boot_id,
        started: clock.now(),
        names: Names {
            node: config.node.id,
            vrfs: config.vrfs.iter().map(|v| v.name.clone()).collect(),
            pools: config
                .intent
                .vrfs
                .iter()
                .map(|v| v.pools.iter().map(|p| p.name.clone()).collect())
                .collect(),
        },
        ports: config
            .ports
            .iter()
            .map(|port| PortFacts {
                name: port.name.clone(),
                device: port.device.clone(),
                driver: driver(&port.device),
                rx_queues: port.rx_queues,
                tx_queues: config.dataplane.workers,
            })
            .collect(),
        plan: PlanReport {
            workers: workers
                .iter()
                .enumerate()
                .map(|(n, (core, queues))| thread("worker", n, *core, queues.clone()))
                .collect(),
            events: event_cores
                .iter()
                .enumerate()
                .map(|(n, &core)| thread("event", n, core, rings.clone()))
                .collect(),
            memory: vec![
                megabytes("packets", plan.memory.needed_mb),
                megabytes("conntracks", plan.memory.conntracks_mb),
            ],
        },
        worker_facts: workers,
        event_cores,
        peers: sync.peers.clone(),
        vrf_peers: config
            .vrfs
            .iter()
            .zip(&sync.vrfs)
            .map(|(vrf, replicated)| {
                let names = vrf.peers.iter().map(|p| p.name.clone());
                replicated.peers.iter().copied().zip(names).collect()
            })
            .collect(),
        slots: sync.vrfs.iter().map(|v| v.slots).collect(),
        mbufs: plan.mbufs,
        differences: Vec::new(),
    }
}

/// The driver's name as in a vdev string; PCI devices are bound to theirs by the host.
fn driver(device: &str) -> String {
    let name = device.split(',').next().unwrap_or_default();
    if name.contains(':') {
        "pci".to_owned()
    } else {
        name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    }
}

/// One set of sockets per event thread; the first one listens.
fn open_sockets(config: &Config, sync: &SyncConfig) -> Result<Vec<SyncNet>, StartError> {
    let settings = SyncSettings {
        interface: config.sync.as_ref().map(|s| s.interface.clone()),
        port: config.sync.as_ref().map_or(0, |s| s.port),
    };
    let addresses: Vec<std::net::IpAddr> = sync.peers.iter().map(|p| p.source).collect();
    let mut nets = vec![SyncNet::listener(settings.clone(), &addresses)?];
    nets.resize_with(usize::from(sync.events), || SyncNet::connector(settings.clone()));
    Ok(nets)
}
