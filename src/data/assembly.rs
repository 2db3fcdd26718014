//! Puts the data process together and takes it apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use dataplane::applied::AppliedCounters;
use dataplane::outlook::Outlook;
use dataplane::role::Roles;
use dataplane::rss::Spread;
use dataplane::tables::Tables;
use dataplane::wiring::{Counts, EventEnds, REDIRECT_BYTES, Wiring};
use dataplane::worker::{Links, Shared, Worker};
use state_sync::board::Board;
use state_sync::config::SyncConfig;
use state_sync::port::{Arrival, PumpCommand, PumpEvent, PumpPorts};
use state_sync::pump::Pump;

use super::agent::Agent;
use super::answer::Sources;
use super::apply::Running;
use super::carrier::Carriers;
use super::devices::Devices;
use super::facts::Facts;
use super::jobs::Jobs;
use super::journal::Journal;
use super::publisher::{Publisher, Unpublishable};
use super::rates::Rates;
use super::roles::RoleKeeper;
use super::room::Rooms;
use super::settings;
use super::syslog::{LogLines, Syslog};
use crate::clock::Clock;
use crate::config::{self, Config, Fault};
use crate::dpdk::large::PagePolicy;
use crate::dpdk::{
    Eal, EalError, Lifeline, Mbuf, Mempool, PoolError, PortError, PortSet, Ports, WorkerHandle,
};
use crate::ipc::{IpcError, Server};
use crate::plan::{Plan, PlanError};
use crate::secure::{SecureNet, SecureWire};
use crate::socket::{SocketError, SyncNet, SyncWire};
use crate::supervisor::Supervisor;
use crate::thread::Idle;
use crate::{machine, thread};

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
    /// Rules that can't be compiled.
    #[error(transparent)]
    Unpublishable(#[from] Unpublishable),
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
    /// Keys of the sync link, located in the configuration.
    #[error("{0}")]
    Keys(Fault),
    /// A thread could not be started.
    #[error("thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl StartError {
    /// The fault of the configuration that it is, if it is one.
    #[must_use]
    pub const fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Keys(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<Fault> for StartError {
    fn from(fault: Fault) -> Self {
        Self::Keys(fault)
    }
}

impl Start {
    /// Plans a configuration for this machine.
    ///
    /// # Errors
    /// When it doesn't fit.
    pub fn new(config: Config) -> Result<Self, StartError> {
        let plan = Plan::make(&settings::plan_input(&config))?;
        Ok(Self { config, plan })
    }
}

/// What signals ask of the process.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    /// End in order.
    pub stop: Arc<AtomicBool>,
    /// Read the configuration and the keys of the sync link again; taken back when that has been done.
    pub reload: Arc<AtomicBool>,
}

/// Runs the data process until it is told to stop.
///
/// # Errors
/// When something of it can't be had; what was started is stopped again.
pub fn run(start: &Start, signals: &Signals) -> Result<(), StartError> {
    let Start { config, plan } = start;
    let clock = Clock::start();
    let server = Server::bind(&ctl::paths::data_socket(&config.node.name))?;
    let sync = Arc::new(settings::sync_config(config));
    // By this thread, which lives until the end, and before the first greeting, which tells the same boot number.
    let lifeline = hold_lifeline(&config.node.name, sync.boot_id);
    let keys = config::open_keys(config)?.map(Arc::new);
    let sockets = settings::open_sockets(config, &sync, keys.as_ref())?;

    let configured = settings::port_configs(config)?;
    let eal = Eal::start(&settings::eal_options(config, plan, &configured))?;
    let pool = Mempool::create(&eal, "packets", plan.mbufs, plan.mbuf_room)?;
    let mut ports = PortSet::open(&eal, &pool, &configured, sync.workers)?;
    let queues = ports.split(&plan.assignment())?;
    let infos = settings::port_infos(config.ports.len(), &ports);
    let spreads = settings::spreads(config, &ports);
    let publisher = Publisher::new(&config.intent, config.forwarding.clone(), infos, clock)?;

    let board = Arc::new(Board::new(
        usize::from(sync.events),
        sync.peers.len(),
        sync.vrfs.len(),
    ));
    let roles = Arc::new(Roles::new(sync.vrfs.len()));
    let outlook = Arc::new(Outlook::new(usize::from(sync.workers), sync.vrfs.len()));
    let shared = Arc::new(Shared {
        snapshot: ArcSwap::from_pointee(publisher.snapshot(&config.intent)),
        roles: Arc::clone(&roles),
        applied: Arc::new(AppliedCounters::new(
            usize::from(sync.workers),
            usize::from(sync.events),
        )),
        outlook: Arc::clone(&outlook),
        owners: Arc::new(sync.owners()),
    });
    let wiring = Wiring::new(Counts {
        workers: usize::from(sync.workers),
        events: usize::from(sync.events),
        ring_entries: config.dataplane.delta_ring_entries as usize,
        redirect_bytes: REDIRECT_BYTES,
    });

    let halt = Halt::default();
    let threads = Threads {
        config,
        plan,
        sync: &sync,
        shared: &shared,
        spreads: &spreads,
        clock: &clock,
        halt: &halt,
    };
    let keeper = RoleKeeper::new(
        config,
        &sync,
        Duration::from_millis(u64::from(config.sync.as_ref().map_or(0, |s| s.boot_wait_ms))),
        roles,
        outlook,
        Arc::clone(&board),
        clock.now(),
    );
    let workers = threads.launch_workers(&eal, wiring.workers, queues)?;
    let (events, pumps) = threads.spawn_events(wiring.events, sockets, &board)?;
    let rooms = Rooms::new(config, wiring.main.asks.clone(), plan.main_core);
    let mut agent = Agent {
        server,
        running: Running::new(config.clone(), keys),
        sources: Sources {
            log_lines: LogLines::default(),
            rates: Rates::default(),
            journal: Journal::new(sync.boot_id),
            shared: Arc::clone(&shared),
            keeper,
            workers: wiring.main.asks,
            pump_commands: pumps.commands,
            intent: config.intent.clone(),
            facts: Facts::new(config, plan, &sync, clock.now()),
            unknown_pools: Vec::new(),
        },
        syslog: Syslog::new(config.log.syslog.clone(), config.node.name.clone()),
        notices: wiring.main.notices,
        pump_events: pumps.events,
        publisher,
        pending: Vec::new(),
        announcing: Vec::new(),
        jobs: Jobs::default(),
        devices: Devices::new(&ports),
        rooms,
    };
    if PagePolicy::of_kernel() == PagePolicy::Never {
        tracing::warn!(
            "the kernel gives no huge pages for tables: each packet of a large table takes a fifth longer and more; \
             allow them with echo madvise >/sys/kernel/mm/transparent_hugepage/enabled"
        );
    }
    tracing::info!(
        node = config.node.name,
        workers = sync.workers,
        events = sync.events,
        "running"
    );
    let mut carriers = Carriers::open(config, |port| configured.get(port.index())?.netns.clone());
    let mut supervisor = Supervisor::ready(clock.now());
    thread::run(Idle::Calm, &signals.stop, &clock, |now| {
        supervisor.turn(now);
        if signals.reload.swap(false, Ordering::Relaxed) {
            agent.reload(now);
        }
        carriers.turn(now, &ports) + agent.turn(now, &mut ports)
    });

    supervisor.stopping();
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
    drop(lifeline);
    let stopped = eal.stop(vec![ports], pool)?;
    tracing::info!(
        mbufs = stopped.mbufs,
        drained = stopped.drained,
        "every mbuf is back; stopped"
    );
    Ok(())
}

/// Without it everything works; the control process only learns later of a sudden death.
fn hold_lifeline(node: &str, boot: u64) -> Option<Lifeline> {
    Lifeline::hold(&ctl::paths::data_lifeline(node), boot)
        .inspect_err(|error| tracing::warn!(%error, "a death of this process would be noticed late"))
        .ok()
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
    spreads: &'a Arc<[Option<Spread>]>,
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
        let limits = settings::limits(self.config);
        for (number, (links, mut ports)) in (0..).zip(links.into_iter().zip(queues)) {
            let (shared, spreads) = (Arc::clone(self.shared), Arc::clone(self.spreads));
            let (slots, stop, clock) = (Arc::clone(&slots), Arc::clone(&self.halt.workers), *self.clock);
            let (idle, workers, events) = (self.config.dataplane.idle, self.sync.workers, self.sync.events);
            let (port_count, seed) = (self.config.ports.len(), machine::random_seed() ^ number);
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let handle = eal.launch(usize::from(number), move || {
                // Tables are made on the core that uses them.
                let place = (number, workers);
                let pools = Arc::clone(shared.snapshot.load().pools());
                let tables = Tables::new(place, usize::from(events), &slots, limits, pools, seed);
                let rx = ports.rx_queues().to_vec();
                let worker = Worker::new(place, rx, port_count, shared, tables, links);
                let worker = worker.with_taps(ports.taps(), ports.count());
                let mut worker = worker.with_spreads(&spreads);
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
        mut sockets: Vec<SecureNet<SyncNet>>,
        board: &Arc<Board>,
    ) -> Result<(Vec<JoinHandle<()>>, Pumps), StartError> {
        let (events_in, events) = bounded(PUMP_EVENTS);
        let (hand_over, arrivals): (Vec<_>, Vec<_>) = ends
            .iter()
            .map(|_| bounded::<Arrival<SecureWire<SyncWire>>>(ARRIVALS))
            .unzip();
        let mut commands = Vec::new();
        let mut threads = Vec::new();
        for (number, (ends, arrivals)) in (0_u16..).zip(ends.into_iter().zip(arrivals)) {
            let (command, commanded) = bounded(PUMP_COMMANDS);
            commands.push(command);
            let ports = PumpPorts {
                from_workers: ends.from_workers,
                to_workers: ends.to_workers,
                redirects_from_workers: ends.redirects_from_workers,
                redirects_to_workers: ends.redirects_to_workers,
                applied: Arc::clone(&self.shared.applied),
                owners: Arc::clone(&self.shared.owners),
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
