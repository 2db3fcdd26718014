//! The loop that packets go round in: two ring devices as LAN and WAN ports, a worker's queues on them, and a feeder's
//! queues that fill what the worker receives and empty what it sends. Feeder and worker take turns on one pinned
//! thread, which is the EAL's main one; only the worker's part is timed.
//!
//! ```text
//!   feeder ─tx queue 1─► ring ─rx queue 1─► worker ─tx queue 0─► ring ─rx queue 0─► feeder      (on each port)
//! ```
//!
//! A second such loop on other queues is for the standby, whose half of it goes to the standby's thread and back.
//!
//! Packet buffers are the feeder's and go round for ever: a worker that forwards everything allocates and frees none.

use anyhow::{Context, bail, ensure};
use dataplane::io::{BURST, Burst, Io, Packet, PortId, RxQueue};
use dataplane::rss::Rss;
use dataplane::time::Instant;
use twinpath::clock::Clock;
use twinpath::dpdk::mempool::ROOM_DEFAULT;
use twinpath::dpdk::{Device, Eal, EalOptions, Mbuf, Memory, Mempool, PortConfig, PortSet, Ports, tsc};

use super::machine::Watch;
use super::scene::{LAN, WAN};
use super::stats::{Timed, as_f64};

/// Queue that the worker under test polls.
pub(crate) const WORKER_QUEUE: u16 = 1;
/// Queue that a standby's worker polls.
pub(crate) const STANDBY_QUEUE: u16 = 3;
/// A ring leads from transmit queue n to receive queue n, and the n-th handle transmits on queue n: so these are the
/// queues that the four handles poll.
const POLLED: [u16; 4] = [WORKER_QUEUE, 0, STANDBY_QUEUE, 2];
/// Bursts per port in a batch.
pub(crate) const TURNS: usize = 4;
/// Packets per port in a batch.
pub(crate) const BATCH: usize = TURNS * BURST;
const MBUFS: u32 = 4_095;
/// For packets, and for the hash table that the lookup is measured against.
const MEMORY_MB: u32 = 224;

/// See the module.
#[derive(Debug)]
pub(crate) struct Rig {
    eal: Eal,
    pool: Mempool,
    set: PortSet,
    /// The worker's queues.
    pub(crate) io: Ports,
    pub(crate) feeder: Feeder,
    /// The standby's queues, while no standby has them.
    pub(crate) standby_io: Option<Ports>,
    pub(crate) standby_feeder: Feeder,
    pub(crate) clock: Clock,
    pub(crate) watch: Watch,
    /// Clock and counter when the rig was made.
    since: (Instant, u64),
    /// Whether packet buffers are in huge pages.
    pub(crate) huge: bool,
    /// Core of the calling thread.
    pub(crate) core: usize,
}

/// The other end of a worker's queues.
#[derive(Debug)]
pub(crate) struct Feeder {
    ports: Ports,
    queue: u16,
    spare: Vec<Mbuf>,
    staged: Burst<Mbuf>,
}

impl Rig {
    /// Starts the EAL with the calling thread pinned to `core`.
    pub(crate) fn start(core: usize) -> anyhow::Result<Self> {
        let huge = twinpath::machine::hugepages_free_mb() >= MEMORY_MB;
        let devices = ["net_ring0", "net_ring1"].map(Device::parse);
        let [Some(lan), Some(wan)] = devices else {
            bail!("ring devices have no such names");
        };
        let eal = Eal::start(&EalOptions {
            program: "twinpath-bench".to_owned(),
            file_prefix: format!("twinpath-bench-{}", std::process::id()),
            memory: if huge {
                Memory::Huge { mb: MEMORY_MB }
            } else {
                Memory::Plain { mb: MEMORY_MB }
            },
            main_core: core,
            worker_cores: vec![],
            devices: vec![lan.clone(), wan.clone()],
            log_level: "error".to_owned(),
            extra_args: vec![],
        })?;
        let pool = Mempool::create(&eal, "packets", MBUFS, ROOM_DEFAULT)?;
        let configs = [("lan", lan), ("wan", wan)].map(|(name, device)| PortConfig {
            name: name.to_owned(),
            device,
            netns: None,
            tap: None,
            rx_queues: 4,
            rss: Rss::Flow,
            rss_key: Vec::new(),
            mtu: 1_500,
            descriptors: 512,
        });
        let mut set = PortSet::open(&eal, &pool, &configs, 4)?;
        let queues = POLLED.map(|queue| [LAN, WAN].map(|port| RxQueue { port, queue }).to_vec());
        let Ok([io, feeder, standby_io, standby_feeder]) = <[Ports; 4]>::try_from(set.split(&queues)?) else {
            bail!("four handles were asked for");
        };
        let clock = Clock::start();
        Ok(Self {
            watch: Watch::new(),
            since: (clock.now(), tsc::read()),
            eal,
            pool,
            set,
            io,
            feeder: Feeder::new(feeder),
            standby_io: Some(standby_io),
            standby_feeder: Feeder::new(standby_feeder),
            clock,
            huge,
            core,
        })
    }

    /// Clocks of `work` with the worker's ports and a clock to read.
    pub(crate) fn timed(&mut self, work: impl FnOnce(&mut Ports, &Clock)) -> Timed {
        self.watch.start();
        let start = tsc::read();
        work(&mut self.io, &self.clock);
        let clocks = tsc::read() - start;
        Timed {
            clocks,
            disturbed: self.watch.disturbed(),
        }
    }

    /// Gives both feeders as many spare buffers: what one has fed, the other may have collected.
    pub(crate) fn even_out(&mut self) {
        let (few, many) = if self.feeder.spare.len() < self.standby_feeder.spare.len() {
            (&mut self.feeder.spare, &mut self.standby_feeder.spare)
        } else {
            (&mut self.standby_feeder.spare, &mut self.feeder.spare)
        };
        let half = many.len() - (many.len() - few.len()) / 2;
        few.extend(many.drain(half..));
    }

    /// The packet buffers.
    pub(crate) const fn pool(&self) -> &Mempool {
        &self.pool
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Clocks per second, measured from the rig's start until now: on a busy machine DPDK's own short measurement
    /// is off by percents.
    pub(crate) fn hz(&self) -> f64 {
        let clocks = tsc::read() - self.since.1;
        as_f64(clocks) / self.now().since(self.since.0).as_secs_f64()
    }

    /// Clocks as nanoseconds.
    pub(crate) fn ns(&self, clocks: f64) -> f64 {
        clocks * 1e9 / self.hz()
    }

    /// The same of many.
    pub(crate) fn all_ns(&self, clocks: &[f64]) -> Vec<f64> {
        clocks.iter().map(|&c| self.ns(c)).collect()
    }

    /// Ends everything in order; an error if a packet buffer is missing. Returns how many came back.
    pub(crate) fn stop(self) -> anyhow::Result<u32> {
        let Self {
            eal,
            pool,
            set,
            io,
            feeder,
            standby_io,
            standby_feeder,
            ..
        } = self;
        drop((io, feeder, standby_io, standby_feeder));
        Ok(eal.stop(vec![set], pool)?.mbufs)
    }
}

impl Feeder {
    fn new(ports: Ports) -> Self {
        Self {
            queue: ports.rx_queues().first().map_or(0, |rx| rx.queue),
            ports,
            spare: Vec::new(),
            staged: Burst::new(),
        }
    }

    /// Puts frames into the worker's receive queue of `port`: at most [`BATCH`], given one by one by `next`.
    pub(crate) fn feed<F: AsRef<[u8]>>(
        &mut self,
        port: PortId,
        frames: impl Iterator<Item = F>,
    ) -> anyhow::Result<()> {
        for frame in frames {
            let frame = frame.as_ref();
            let mut packet = match self.spare.pop() {
                Some(packet) => packet,
                None => self.ports.alloc().context("no packet buffer left")?,
            };
            ensure!(
                packet.set_len(frame.len()),
                "a packet buffer is shorter than a frame"
            );
            packet.data_mut().copy_from_slice(frame);
            self.staged.push(packet);
            if self.staged.is_full() {
                self.send(port)?;
            }
        }
        self.send(port)
    }

    fn send(&mut self, port: PortId) -> anyhow::Result<()> {
        let count = self.staged.len();
        ensure!(
            self.ports.tx(port, &mut self.staged) == count,
            "the ring of {port:?} is full"
        );
        Ok(())
    }

    /// Takes what the worker has sent by `port`; returns how many frames that was.
    pub(crate) fn collect(&mut self, port: PortId, mut look: impl FnMut(usize, &[u8])) -> usize {
        let mut collected = 0;
        let mut burst = Burst::new();
        loop {
            let queue = RxQueue {
                port,
                queue: self.queue,
            };
            self.ports.rx(queue, &mut burst);
            if burst.is_empty() {
                return collected;
            }
            for packet in burst.drain(..) {
                look(collected, packet.data());
                collected += 1;
                self.spare.push(packet);
            }
        }
    }
}
