//! Nodes with scripted workers on an in-memory network that writes partially, stalls and cuts on demand.
//! Everything runs by hand and in one thread; time passes only between steps.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use dataplane::applied::AppliedCounters;
use dataplane::delta::{
    Class, DelRecord, Delta, Handle, LaneTag, Name, PutRecord, Scales, SlotEnd, SlotOffer, SlotRef, Term,
    ToEvent, ToWorker, Version,
};
use dataplane::flow::{Addr, FlowKey, VrfId};
use dataplane::role::{Role, Roles};
use dataplane::shard::{lane_of, mix64, worker_of};
use dataplane::time::Instant;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::board::Board;
use crate::config::{SyncConfig, SyncPeer, SyncVrf, Timing};
use crate::port::{Arrival, PumpEvent, PumpPorts};
use crate::pump::Pump;
use crate::role::{Decision, Desire, PeerView, RoleMachine};
use crate::wire::{Breach, Incoming, Io, Net, Wire};

pub(crate) const SLOTS: u16 = 16;
pub(crate) const VRF: VrfId = VrfId(0);

/// The network: pipes of bytes, and connections waiting to be accepted by address.
#[derive(Debug, Default)]
pub(crate) struct Fabric {
    pipes: Vec<Pipe>,
    waiting: BTreeMap<IpAddr, VecDeque<(usize, IpAddr)>>,
    /// Most bytes per send or receive.
    pub(crate) chunk: usize,
    /// Bytes a pipe holds.
    pub(crate) window: usize,
    /// Bytes until everything is cut.
    pub(crate) fuse: Option<usize>,
    /// Nothing can be connected.
    pub(crate) down: bool,
    /// What every stream finds wrong from now on.
    pub(crate) breach: Option<Breach>,
    pub(crate) carried: usize,
}

#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    broken: bool,
}

/// One end of a connection: writes to one pipe, reads from the next.
#[derive(Debug)]
pub(crate) struct Plug {
    fabric: Rc<RefCell<Fabric>>,
    to: usize,
    from: usize,
}

impl Drop for Plug {
    fn drop(&mut self) {
        let mut fabric = self.fabric.borrow_mut();
        fabric.pipes[self.to].closed = true;
        fabric.pipes[self.from].broken = true;
    }
}

impl Wire for Plug {
    fn send(&mut self, bytes: &[u8]) -> Io {
        let mut fabric = self.fabric.borrow_mut();
        let room = fabric.window.saturating_sub(fabric.pipes[self.to].bytes.len());
        let mut n = bytes.len().min(fabric.chunk).min(room);
        if let Some(fuse) = fabric.fuse {
            n = n.min(fuse);
            fabric.fuse = Some(fuse - n);
            if fuse == n {
                fabric.cut();
            }
        }
        if fabric.pipes[self.to].broken {
            return Io::Failed;
        }
        fabric.carried += n;
        fabric.pipes[self.to].bytes.extend(&bytes[..n]);
        if n == 0 { Io::Wait } else { Io::Done(n) }
    }

    fn breach(&self) -> Option<Breach> {
        self.fabric.borrow().breach
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        let mut fabric = self.fabric.borrow_mut();
        if fabric.breach.is_some() {
            return Io::Failed;
        }
        let chunk = fabric.chunk;
        let pipe = &mut fabric.pipes[self.from];
        let n = pipe.bytes.len().min(buffer.len()).min(chunk);
        if pipe.broken {
            Io::Failed
        } else if n > 0 {
            buffer
                .iter_mut()
                .zip(pipe.bytes.drain(..n))
                .for_each(|(to, byte)| *to = byte);
            Io::Done(n)
        } else if pipe.closed {
            Io::Closed
        } else {
            Io::Wait
        }
    }
}

impl Fabric {
    /// Breaks every connection; bytes on their way are lost.
    pub(crate) fn cut(&mut self) {
        self.fuse = None;
        self.pipes.iter_mut().for_each(|p| p.broken = true);
    }
}

/// What a node's event threads see of the network.
#[derive(Debug, Clone)]
pub(crate) struct Socket {
    pub(crate) fabric: Rc<RefCell<Fabric>>,
    address: IpAddr,
}

impl Socket {
    pub(crate) fn new(fabric: &Rc<RefCell<Fabric>>, node: u8) -> Self {
        Self {
            fabric: Rc::clone(fabric),
            address: address(node),
        }
    }
}

impl Net for Socket {
    type Wire = Plug;

    fn connect(&mut self, source: IpAddr, address: IpAddr) -> Option<Plug> {
        let mut fabric = self.fabric.borrow_mut();
        if fabric.down {
            return None;
        }
        let to = fabric.pipes.len();
        fabric.pipes.extend([Pipe::default(), Pipe::default()]);
        fabric.waiting.entry(address).or_default().push_back((to, source));
        Some(Plug {
            fabric: Rc::clone(&self.fabric),
            to,
            from: to + 1,
        })
    }

    fn accept(&mut self) -> Option<Incoming<Plug>> {
        let (pipe, remote) = self
            .fabric
            .borrow_mut()
            .waiting
            .get_mut(&self.address)?
            .pop_front()?;
        let wire = Plug {
            fabric: Rc::clone(&self.fabric),
            to: pipe + 1,
            from: pipe,
        };
        Some(Incoming {
            wire,
            local: self.address,
            remote,
        })
    }
}

pub(crate) fn address(node: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, node).into()
}

/// A worker that keeps its slots in ordered maps and follows the rules of the real one to the letter.
#[derive(Debug)]
pub(crate) struct Worker {
    out: Vec<Producer<ToEvent>>,
    inbox: Vec<Consumer<ToWorker>>,
    pub(crate) absorbing: bool,
    pub(crate) seen: Vec<ToWorker>,
    pub(crate) slots: BTreeMap<u16, Slot>,
    /// What had no room in a ring yet, in order, by event thread.
    pending: Vec<VecDeque<ToEvent>>,
    /// Ends that this worker will refuse to verify.
    pub(crate) failing: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) entries: BTreeMap<u32, (Version, u32)>,
    counter: u64,
    streams: Vec<LaneTag>,
    source: Option<(LaneTag, u32)>,
    since: bool,
}

impl Slot {
    fn offer(&self, generation: u32) -> SlotOffer {
        let (count, digest) = digest(&self.entries, None);
        SlotOffer {
            generation,
            count,
            digest,
            version: Version {
                term: Term(1),
                counter: self.counter,
            },
            absent: 0,
            same: false,
            exact: false,
        }
    }
}

fn key(n: u32) -> FlowKey {
    let octets = n.to_be_bytes();
    FlowKey {
        src: Addr::v4(octets),
        dst: Addr::v4([9; 4]),
        src_port: 1,
        dst_port: 2,
        vrf: VRF,
        proto: 17,
    }
}

fn put(n: u32, version: Version) -> Delta {
    let original = key(n);
    let reply = original.reversed();
    Delta::Put(PutRecord {
        original,
        reply,
        nat: None,
        class: Class::Opening,
        scales: Scales::NONE,
        lifetime_s: 9,
        version,
        handle: Handle::of(n),
    })
}

fn digest(entries: &BTreeMap<u32, (Version, u32)>, generation: Option<u32>) -> (u32, u64) {
    let chosen = entries
        .iter()
        .filter(|(_, (_, stamp))| generation.is_none_or(|g| *stamp == g));
    chosen.fold((0, 0u64), |(count, sum), (n, (version, _))| {
        (
            count + 1,
            sum.wrapping_add(mix64(u64::from(*n) ^ mix64(version.counter ^ version.term.0))),
        )
    })
}

impl Worker {
    fn turn(&mut self, event: usize, applied: &AppliedCounters, number: usize) {
        while let Some(item) = self.pending[event].pop_front() {
            if self.out[event].push(item).is_err() {
                self.pending[event].push_front(item);
                return;
            }
        }
        if self.absorbing {
            for _ in 0..64 {
                let Ok(item) = self.inbox[event].pop() else { break };
                self.seen.push(item);
                self.absorb(event, item);
                applied.add(number, event, 1);
            }
        }
    }

    fn absorb(&mut self, event: usize, item: ToWorker) {
        match item {
            ToWorker::SendSlot {
                at,
                lane,
                generation,
                offer,
            } => {
                let slot = self.slots.entry(at.slot).or_default();
                slot.streams.retain(|tag| tag.peer != lane.peer);
                slot.streams.push(lane);
                let version = Version {
                    term: Term(1),
                    counter: slot.counter,
                };
                let (count, digest) = digest(&slot.entries, None);
                let since = offer
                    .filter(|o| (o.count, o.digest) == (count, digest))
                    .map(|o| o.version);
                let out = &mut self.pending[event];
                out.push_back(ToEvent::SlotBegin {
                    at,
                    lane,
                    generation,
                    version,
                    since,
                });
                let sent = slot.entries.iter().filter(|_| since.is_none());
                out.extend(sent.map(|(n, (v, _))| ToEvent::Record {
                    at,
                    only: Some(lane),
                    delta: put(*n, *v),
                }));
                let end = SlotEnd {
                    generation,
                    count,
                    digest,
                    version,
                };
                out.push_back(ToEvent::SlotEnd { at, lane, end });
            }
            // Real workers compare entry by entry: tests/it/compare.rs.
            ToWorker::MarkSlot { .. } | ToWorker::SlotMark { .. } | ToWorker::ListSlot { .. } => {}
            // Of a former reign that these have none of: tests/it/doubt.rs.
            ToWorker::SlotTail { .. } => {}
            // Real workers hold packets: tests/it/commit.rs.
            ToWorker::Commit { .. } | ToWorker::Committed { .. } => {}
            ToWorker::StopSlot { at, lane } => {
                self.slots
                    .entry(at.slot)
                    .or_default()
                    .streams
                    .retain(|tag| *tag != lane);
            }
            // Nothing is refused here: tests/it/missing.rs.
            ToWorker::GiveEntry { .. } => {}
            ToWorker::DigestSlot { at } => {
                let slot = self.slots.entry(at.slot).or_default();
                let (count, digest) = digest(&slot.entries, None);
                let end = SlotEnd {
                    generation: 0,
                    count,
                    digest,
                    version: Version {
                        term: Term(1),
                        counter: slot.counter,
                    },
                };
                self.pending[event].push_back(ToEvent::SlotDigest { at, end });
            }
            ToWorker::SlotBegin {
                at,
                lane,
                generation,
                since,
                ..
            } => {
                let slot = self.slots.entry(at.slot).or_default();
                (slot.source, slot.since) = (Some((lane, generation)), since.is_some());
            }
            ToWorker::SlotQuery { at, lane, generation } => {
                let offer = self.slots.entry(at.slot).or_default().offer(generation);
                self.pending[event].push_back(ToEvent::SlotOffer { at, lane, offer });
            }
            ToWorker::SlotDigest { at, lane, end } => {
                let mut offer = self.slots.entry(at.slot).or_default().offer(end.generation);
                offer.same = (offer.count, offer.digest) == (end.count, end.digest);
                self.pending[event].push_back(ToEvent::SlotOffer { at, lane, offer });
            }
            ToWorker::Record { at, lane, delta } => {
                let slot = self.slots.entry(at.slot).or_default();
                let Some((source, generation)) = slot.source else {
                    return;
                };
                assert_eq!(source, lane, "fenced by the event thread");
                let n = |key: &FlowKey| u32::from_be_bytes(key.src.v4_octets());
                match delta {
                    Delta::Put(put) => {
                        slot.entries.insert(n(&put.original), (put.version, generation));
                    }
                    Delta::Del(del) => {
                        let gone = match del.name {
                            Name::Handle(handle) => handle.0,
                            Name::Key(key) => n(&key),
                        };
                        slot.entries.remove(&gone);
                    }
                    Delta::State(_) | Delta::Refresh(_) | Delta::Block(_) => {}
                }
            }
            ToWorker::SlotEnd { at, lane, end } => {
                let slot = self.slots.entry(at.slot).or_default();
                let generation = end.generation;
                let touched = (!slot.since).then_some(generation);
                let good = digest(&slot.entries, touched) == (end.count, end.digest);
                let answer = if good && self.failing == 0 {
                    slot.entries
                        .retain(|_, (_, stamp)| slot.since || *stamp == generation);
                    slot.counter = slot.counter.max(end.version.counter);
                    ToEvent::SlotVerified {
                        at,
                        lane,
                        generation,
                        refused: 0,
                    }
                } else {
                    self.failing = self.failing.saturating_sub(1);
                    ToEvent::SlotFailed { at, lane, generation }
                };
                self.pending[event].push_back(answer);
            }
        }
    }
}

/// A node, running.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: Arc<SyncConfig>,
    pub(crate) pumps: Vec<Pump<Socket>>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) board: Arc<Board>,
    pub(crate) machine: Option<RoleMachine>,
    pub(crate) decision: Option<Decision>,
    pub(crate) events: Receiver<PumpEvent>,
    applied: Arc<AppliedCounters>,
}

/// Shape of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) id: u8,
    pub(crate) workers: u16,
    pub(crate) events: u16,
    pub(crate) ring: usize,
    pub(crate) boot: u64,
}

impl Shape {
    pub(crate) const fn new(id: u8, workers: u16, events: u16) -> Self {
        Self {
            id,
            workers,
            events,
            ring: 64,
            boot: 1,
        }
    }
}

pub(crate) fn config(shape: Shape, peers: &[u8]) -> SyncConfig {
    let own = address(shape.id);
    SyncConfig {
        node_id: shape.id,
        node_name: format!("node{}", shape.id),
        boot_id: shape.boot << 8 | u64::from(shape.id),
        workers: shape.workers,
        events: shape.events,
        peers: peers
            .iter()
            .map(|p| SyncPeer {
                name: format!("node{p}"),
                source: own,
                address: address(*p),
            })
            .collect(),
        vrfs: vec![SyncVrf {
            name: "main".to_owned(),
            slots: SLOTS,
            peers: (0..u8::try_from(peers.len()).unwrap()).collect(),
            ..SyncVrf::default()
        }],
        timing: Timing::default(),
    }
}

impl Node {
    pub(crate) fn new(fabric: &Rc<RefCell<Fabric>>, shape: Shape, config: SyncConfig) -> Self {
        let (workers_n, events_n) = (usize::from(shape.workers), usize::from(shape.events));
        let config = Arc::new(config);
        let applied = Arc::new(AppliedCounters::new(workers_n, events_n));
        let roles = Arc::new(Roles::new(config.vrfs.len()));
        let board = Arc::new(Board::new(events_n, config.peers.len(), config.vrfs.len()));
        let (events_in, events) = unbounded();
        let mut workers: Vec<Worker> = (0..workers_n)
            .map(|_| Worker {
                out: Vec::new(),
                inbox: Vec::new(),
                absorbing: true,
                seen: Vec::new(),
                slots: BTreeMap::new(),
                pending: vec![VecDeque::new(); events_n],
                failing: 0,
            })
            .collect();
        let doors: Vec<_> = (0..events_n).map(|_| unbounded::<Arrival<Plug>>()).collect();
        let hand_over: Vec<_> = doors.iter().map(|(to, _)| to.clone()).collect();
        let pumps = (0u16..)
            .zip(doors)
            .map(|(event, (_, arrivals))| {
                let (mut from_workers, mut to_workers) = (Vec::new(), Vec::new());
                for worker in &mut workers {
                    let (out, from) = RingBuffer::new(shape.ring);
                    let (to, inbox) = RingBuffer::new(shape.ring);
                    worker.out.push(out);
                    worker.inbox.push(inbox);
                    from_workers.push(from);
                    to_workers.push(to);
                }
                let ports = PumpPorts {
                    from_workers,
                    to_workers,
                    applied: Arc::clone(&applied),
                    roles: Arc::clone(&roles),
                    board: Arc::clone(&board),
                    events: events_in.clone(),
                    commands: crossbeam_channel::never(),
                    arrivals,
                    hand_over: hand_over.clone(),
                };
                let net = Socket::new(fabric, shape.id);
                Pump::new(Arc::clone(&config), event, net, ports, shape.boot)
            })
            .collect();
        Self {
            config,
            pumps,
            workers,
            roles,
            board,
            machine: None,
            decision: None,
            events,
            applied,
        }
    }

    /// The machine decides from now on.
    pub(crate) fn with_machine(mut self, desire: Desire, boot_wait: Duration, now: Instant) -> Self {
        let peers = self.config.peers.len();
        self.machine = Some(RoleMachine::new(
            (self.config.node_id, self.config.boot_id),
            true,
            desire,
            peers,
            boot_wait,
            now,
        ));
        self
    }

    pub(crate) fn set(&self, role: Role, term: Term) {
        self.roles.set(VRF, role, term);
    }

    pub(crate) fn step(&mut self, now: Instant) {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            for event in 0..self.pumps.len() {
                worker.turn(event, &self.applied, number);
            }
        }
        for pump in &mut self.pumps {
            pump.turn(now);
        }
        if let Some(machine) = &mut self.machine {
            let peers = 0..u8::try_from(self.config.peers.len()).unwrap();
            let views: Vec<PeerView> = peers.map(|p| self.board.view(p, VRF, SLOTS)).collect();
            let decision = machine.step(now, &views);
            self.roles.set(VRF, decision.role, decision.term);
            self.board.set_handover(VRF, decision.handover);
            let number = decision.drain;
            if number != 0 && self.decision.is_none_or(|last| last.drain != number) {
                // Nothing is kept back here, so the marks are due at once.
                for pending in self.workers.iter_mut().flat_map(|worker| &mut worker.pending) {
                    pending.push_back(ToEvent::Drained { vrf: VRF, number });
                }
            }
            self.decision = Some(decision);
        }
    }

    fn place(&mut self, n: u32) -> (&mut Worker, SlotRef, usize) {
        let slot = u16::try_from(n % u32::from(SLOTS)).unwrap();
        let worker = usize::from(worker_of(slot, self.config.workers));
        let event = usize::from(lane_of(slot, self.config.workers, self.config.events));
        (&mut self.workers[worker], SlotRef { vrf: VRF, slot }, event)
    }

    /// A packet changes entry `n`.
    pub(crate) fn put(&mut self, n: u32) {
        let (_, term) = self.roles.get(VRF);
        let (worker, at, event) = self.place(n);
        let slot = worker.slots.entry(at.slot).or_default();
        slot.counter += 1;
        let version = Version {
            term,
            counter: slot.counter,
        };
        slot.entries.insert(n, (version, 0));
        if !slot.streams.is_empty() {
            worker.pending[event].push_back(ToEvent::Record {
                at,
                only: None,
                delta: put(n, version),
            });
        }
    }

    /// Entry `n` ends.
    pub(crate) fn del(&mut self, n: u32) {
        let (_, term) = self.roles.get(VRF);
        let (worker, at, event) = self.place(n);
        let slot = worker.slots.entry(at.slot).or_default();
        if slot.entries.remove(&n).is_none() {
            return;
        }
        slot.counter += 1;
        let version = Version {
            term,
            counter: slot.counter,
        };
        if !slot.streams.is_empty() {
            let delta = Delta::Del(DelRecord {
                name: Name::Handle(Handle::of(n)),
                version,
            });
            worker.pending[event].push_back(ToEvent::Record {
                at,
                only: None,
                delta,
            });
        }
    }

    /// Loses a change of the slot of `n`, and says so.
    pub(crate) fn lose(&mut self, n: u32) {
        let (worker, at, event) = self.place(n);
        worker.slots.entry(at.slot).or_default().entries.remove(&n);
        worker.pending[event].push_back(ToEvent::SlotDirty { at });
    }

    /// Puts an item into the ring of worker 0 to event thread 0 as it is.
    pub(crate) fn inject(&mut self, item: ToEvent) {
        self.workers[0].pending[0].push_back(item);
    }

    /// All entries with their versions.
    pub(crate) fn table(&self) -> BTreeMap<u32, Version> {
        let slots = self.workers.iter().flat_map(|w| w.slots.values());
        slots
            .flat_map(|s| s.entries.iter().map(|(n, (v, _))| (*n, *v)))
            .collect()
    }

    /// Slots imported from the first peer.
    pub(crate) fn verified(&self) -> u32 {
        self.board.view(0, VRF, SLOTS).verified
    }

    /// Count of a cause over all event threads.
    pub(crate) fn cause(&self, name: &str) -> u64 {
        let causes = self.pumps.iter().flat_map(|p| p.report().causes);
        causes.filter(|(n, _)| n == name).map(|(_, count)| count).sum()
    }
}

/// Nodes on one network.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) fabric: Rc<RefCell<Fabric>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Instant,
    pub(crate) tick: Duration,
}

impl Cluster {
    /// Nodes of these shapes, each the others' peer, all in fault.
    pub(crate) fn new(shapes: &[Shape]) -> Self {
        let fabric = Fabric {
            chunk: 700,
            window: 1 << 20,
            ..Fabric::default()
        };
        let mut cluster = Self {
            fabric: Rc::new(RefCell::new(fabric)),
            nodes: Vec::new(),
            now: Instant::from_secs(1),
            tick: Duration::from_micros(50),
        };
        for shape in shapes {
            let peers: Vec<u8> = shapes.iter().map(|s| s.id).filter(|id| *id != shape.id).collect();
            let node = Node::new(&cluster.fabric, *shape, config(*shape, &peers));
            cluster.nodes.push(node);
        }
        cluster
    }

    pub(crate) fn step(&mut self) {
        self.now = self.now + self.tick;
        for node in &mut self.nodes {
            node.step(self.now);
        }
    }

    pub(crate) fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// Steps until `done`; fails with `what` when that takes more than `steps`.
    pub(crate) fn until(&mut self, what: &str, steps: usize, done: impl Fn(&Self) -> bool) {
        for _ in 0..steps {
            if done(self) {
                return;
            }
            self.step();
        }
        let reports: Vec<_> = self
            .nodes
            .iter()
            .flat_map(|n| n.pumps.iter().map(Pump::report))
            .collect();
        assert!(done(self), "never: {what}\n{reports:#?}");
    }
}
