//! Who runs where and polls what: a pure function of the configuration and the machine, computed once before
//! the EAL starts, printed by `--plan`. Nothing else decides about cores, queues or packet memory.

use std::fmt;

use dataplane::io::{PortId, RxQueue};
use thiserror::Error;

/// Megabytes the EAL needs besides the packet pool: its own tables, rings and the drivers'.
const EAL_MB: u64 = 24;
/// Bytes of an mbuf around its data: the mbuf itself, the pool's header and padding.
const MBUF_OVERHEAD: u64 = 128 + 64 + 64;
/// Mbufs that a worker's cache may hold back from everybody else (1.5 times its size).
const CACHED_PER_WORKER: u64 = 384;
/// Fragments that may wait in a worker for their packet's first one.
const FRAGMENTS_HELD: u64 = dataplane::worker::FRAGMENTS_HELD as u64;
/// Packets that may wait in a worker for redirected ones in front of them.
const LINED_UP: u64 = dataplane::worker::LINED_UP as u64;
/// Bytes of process memory of one conntrack with everything that belongs to it, at most.
pub(crate) const CONNTRACK_BYTES: u64 = 400;

/// Whether packet memory comes from hugepages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// If enough of them are free.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Or don't start.
    Require,
}

/// A port, as far as the plan needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPort {
    /// Name in the configuration.
    pub name: String,
    /// Its vdev string or PCI address, for the rendering.
    pub device: String,
    /// Receive queues.
    pub rx_queues: u16,
}

/// What the configuration asks for and the machine offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanInput {
    /// Cores this process may use ([`crate::machine::cores`]).
    pub cores: Vec<usize>,
    /// Free hugepages in megabytes ([`crate::machine::hugepages_free_mb`]).
    pub hugepages_free_mb: u32,
    /// Worker threads.
    pub workers: usize,
    /// Their cores, one each; by default the machine's cores round robin.
    pub worker_cores: Option<Vec<usize>>,
    /// Event threads.
    pub event_threads: usize,
    /// Their cores, one each; by default the cores the workers leave free, else round robin.
    pub event_cores: Option<Vec<usize>>,
    /// Ports in the order of the configuration; [`PortId`] is the index.
    pub ports: Vec<PlanPort>,
    /// Packet buffers.
    pub mbufs: u32,
    /// Bytes of each buffer, headroom included.
    pub mbuf_room: u16,
    /// Descriptors of each queue.
    pub descriptors: u16,
    /// Packets that may wait in each worker until the peer knows their flow. Rules may ask for it at run time.
    pub held_packets: u32,
    /// Megabytes for the EAL when it runs without hugepages.
    pub memory_mb: u32,
    /// Whether to use hugepages.
    pub hugepages: Hugepages,
    /// Conntracks over all workers.
    pub conntracks_max: u64,
}

/// Why there is no plan.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum PlanError {
    /// Nothing to run.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// A core that this process can't use.
    #[error("{what} names core {core}, which this process can't use; it has {}", list(.cores))]
    NoSuchCore {
        /// The configuration key.
        what: &'static str,
        /// The core.
        core: usize,
        /// Those there are.
        cores: Vec<usize>,
    },
    /// A list of cores that does not fit the number of threads.
    #[error("{what} names {named} cores for {threads} threads")]
    CoreCount {
        /// The configuration key.
        what: &'static str,
        /// Cores in the list.
        named: usize,
        /// Threads to place.
        threads: usize,
    },
    /// The process was given no core.
    #[error("no core can be used")]
    NoCores,
    /// Too many receive queues for one port.
    #[error("port {port} has {queues} receive queues; 1 to 64 are possible")]
    RxQueues {
        /// Its name.
        port: String,
        /// As configured.
        queues: u16,
    },
    /// More workers than a port can have transmit queues.
    #[error("{0} workers are too many")]
    Workers(usize),
    /// The pool does not fit the EAL's memory.
    #[error("{mbufs} mbufs need memory_mb = {needed_mb}, which is {memory_mb}")]
    Memory {
        /// Packet buffers.
        mbufs: u32,
        /// Megabytes they need, the EAL included.
        needed_mb: u32,
        /// As configured.
        memory_mb: u32,
    },
    /// Hugepages are required, and too few are free.
    #[error("{needed_mb} MB of hugepages are needed, {free_mb} MB are free")]
    Hugepages {
        /// Megabytes needed.
        needed_mb: u32,
        /// Megabytes free.
        free_mb: u32,
    },
    /// Queues and caches could swallow the whole pool.
    #[error("{mbufs} mbufs are too few: queues, caches and packets that wait can hold {needed}")]
    Mbufs {
        /// As configured.
        mbufs: u32,
        /// The least that keeps packets flowing.
        needed: u64,
    },
}

/// A worker's place and duty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerPlan {
    /// Core it is pinned to.
    pub core: usize,
    /// Queues only it polls; may be empty (it then lives on handed-over packets).
    pub rx_queues: Vec<RxQueue>,
}

/// Where packet memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// From hugepages or from ordinary pages.
    pub huge: bool,
    /// Megabytes the EAL gets.
    pub mb: u32,
    /// Megabytes it needs.
    pub needed_mb: u32,
    /// Megabytes that full conntrack tables take from the process's heap.
    pub conntracks_mb: u32,
}

/// Who runs where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Core of the main lcore: the agent.
    pub main_core: usize,
    /// By worker.
    pub workers: Vec<WorkerPlan>,
    /// Core of each event thread.
    pub event_cores: Vec<usize>,
    /// Packet memory.
    pub memory: MemoryPlan,
    /// As given, for the rendering.
    pub ports: Vec<PlanPort>,
    /// As given.
    pub mbufs: u32,
    /// As given.
    pub mbuf_room: u16,
}

impl Plan {
    /// Makes the plan.
    ///
    /// # Errors
    /// When the configuration asks for what the machine does not have.
    pub fn make(input: &PlanInput) -> Result<Self, PlanError> {
        check_counts(input)?;
        let cores = sorted(&input.cores);
        let worker_cores = place(
            "worker_cores",
            input.workers,
            input.worker_cores.as_deref(),
            &cores,
            &cores,
        )?;
        let free: Vec<usize> = cores
            .iter()
            .copied()
            .filter(|core| !worker_cores.contains(core))
            .collect();
        let spare = if free.is_empty() { &cores } else { &free };
        let event_cores = place(
            "event_cores",
            input.event_threads,
            input.event_cores.as_deref(),
            &cores,
            spare,
        )?;
        // The agent sleeps almost always: any core will do, but a polling worker would starve it.
        let main_core = *spare.last().ok_or(PlanError::NoCores)?;
        let queues = deal(&input.ports, input.workers);
        let workers = worker_cores
            .into_iter()
            .zip(queues)
            .map(|(core, rx_queues)| WorkerPlan { core, rx_queues })
            .collect();
        let memory = memory(input)?;
        Ok(Self {
            main_core,
            workers,
            event_cores,
            memory,
            ports: input.ports.clone(),
            mbufs: input.mbufs,
            mbuf_room: input.mbuf_room,
        })
    }

    /// The workers' cores, in order.
    #[must_use]
    pub fn worker_cores(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.core).collect()
    }

    /// The workers' receive queues, in order, as `PortSet::split` takes them.
    #[must_use]
    pub fn assignment(&self) -> Vec<Vec<RxQueue>> {
        self.workers
            .iter()
            .map(|worker| worker.rx_queues.clone())
            .collect()
    }

    /// Whether some core has to run two threads of ours, so that polling without rest would starve one.
    #[must_use]
    pub fn shares_cores(&self) -> bool {
        let mut all = self.worker_cores();
        all.extend(&self.event_cores);
        all.sort_unstable();
        all.windows(2).any(|pair| pair[0] == pair[1])
    }
}

fn check_counts(input: &PlanInput) -> Result<(), PlanError> {
    for (what, count) in [
        ("workers", input.workers),
        ("event_threads", input.event_threads),
        ("ports", input.ports.len()),
    ] {
        if count == 0 {
            return Err(PlanError::Zero(what));
        }
    }
    if input.workers > 127 {
        return Err(PlanError::Workers(input.workers));
    }
    for port in &input.ports {
        if port.rx_queues == 0 || port.rx_queues > 64 {
            return Err(PlanError::RxQueues {
                port: port.name.clone(),
                queues: port.rx_queues,
            });
        }
    }
    Ok(())
}

/// Cores for `threads` threads: those asked for, which must exist, or `default` round robin.
fn place(
    what: &'static str,
    threads: usize,
    wanted: Option<&[usize]>,
    cores: &[usize],
    default: &[usize],
) -> Result<Vec<usize>, PlanError> {
    let Some(wanted) = wanted else {
        if default.is_empty() {
            return Err(PlanError::NoCores);
        }
        return Ok(default.iter().copied().cycle().take(threads).collect());
    };
    if wanted.len() != threads {
        return Err(PlanError::CoreCount {
            what,
            named: wanted.len(),
            threads,
        });
    }
    match wanted.iter().find(|core| !cores.contains(core)) {
        Some(&core) => Err(PlanError::NoSuchCore {
            what,
            core,
            cores: cores.to_vec(),
        }),
        None => Ok(wanted.to_vec()),
    }
}

/// Deals queues to workers like cards, through all ports without starting over, so that ports with one queue
/// each still spread, and ports with a queue per worker line up (equal hash, equal worker).
fn deal(ports: &[PlanPort], workers: usize) -> Vec<Vec<RxQueue>> {
    let mut hands = vec![Vec::new(); workers];
    let all = (0..).map(PortId).zip(ports);
    let all = all.flat_map(|(port, plan)| (0..plan.rx_queues).map(move |queue| RxQueue { port, queue }));
    for (index, queue) in all.enumerate() {
        hands[index % workers].push(queue);
    }
    hands
}

fn memory(input: &PlanInput) -> Result<MemoryPlan, PlanError> {
    let mbufs = u64::from(input.mbufs);
    let queues: u64 = input
        .ports
        .iter()
        .map(|port| u64::from(port.rx_queues) + input.workers as u64)
        .sum();
    // Descriptors are the drivers' to fill; software devices hold far fewer, so only half is insisted on.
    let per_worker = CACHED_PER_WORKER + FRAGMENTS_HELD + LINED_UP + u64::from(input.held_packets);
    let held = queues * u64::from(input.descriptors) / 2 + input.workers as u64 * per_worker;
    if mbufs < held {
        return Err(PlanError::Mbufs {
            mbufs: input.mbufs,
            needed: held,
        });
    }
    let needed_mb = megabytes(mbufs * (u64::from(input.mbuf_room) + MBUF_OVERHEAD)).saturating_add(EAL_MB);
    let needed_mb = u32::try_from(needed_mb).unwrap_or(u32::MAX);
    let huge = match input.hugepages {
        Hugepages::Off => false,
        Hugepages::Auto => input.hugepages_free_mb >= needed_mb,
        Hugepages::Require if input.hugepages_free_mb < needed_mb => {
            return Err(PlanError::Hugepages {
                needed_mb,
                free_mb: input.hugepages_free_mb,
            });
        }
        Hugepages::Require => true,
    };
    if !huge && input.memory_mb < needed_mb {
        return Err(PlanError::Memory {
            mbufs: input.mbufs,
            needed_mb,
            memory_mb: input.memory_mb,
        });
    }
    // memory_mb speaks of a start without hugepages; with them, more than needed would be taken from others.
    let mb = if huge { needed_mb } else { input.memory_mb };
    let conntracks_mb = megabytes(input.conntracks_max.saturating_mul(CONNTRACK_BYTES));
    Ok(MemoryPlan {
        huge,
        mb,
        needed_mb,
        conntracks_mb: u32::try_from(conntracks_mb).unwrap_or(u32::MAX),
    })
}

const fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

fn sorted(cores: &[usize]) -> Vec<usize> {
    let mut cores = cores.to_vec();
    cores.sort_unstable();
    cores.dedup();
    cores
}

fn list(cores: &[usize]) -> String {
    cores
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for port in &self.ports {
            let (name, device, tx) = (&port.name, &port.device, self.workers.len());
            writeln!(
                f,
                "port {name}: {} rx queues, {tx} tx queues, {device}",
                port.rx_queues
            )?;
        }
        writeln!(f, "main: core {}, agent", self.main_core)?;
        for (index, worker) in self.workers.iter().enumerate() {
            writeln!(
                f,
                "worker {index}: core {}, polls {}",
                worker.core,
                self.queues(&worker.rx_queues)
            )?;
        }
        for (index, core) in self.event_cores.iter().enumerate() {
            writeln!(f, "event{index}: core {core}")?;
        }
        let MemoryPlan {
            huge,
            mb,
            needed_mb,
            conntracks_mb,
        } = self.memory;
        let pages = if huge { "hugepages" } else { "ordinary pages" };
        writeln!(
            f,
            "packet memory: {mb} MB of {pages} ({needed_mb} MB needed for {} mbufs of {} bytes)",
            self.mbufs, self.mbuf_room
        )?;
        writeln!(f, "conntracks: up to {conntracks_mb} MB")
    }
}

impl Plan {
    fn queues(&self, queues: &[RxQueue]) -> String {
        if queues.is_empty() {
            return "nothing (packets are handed over to it)".to_owned();
        }
        let name = |rx: &RxQueue| {
            let port = self
                .ports
                .get(rx.port.index())
                .map_or("?", |port| port.name.as_str());
            format!("{port}/{}", rx.queue)
        };
        queues.iter().map(name).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests;
