//! Nodes with scripted workers on an in-memory network that writes partially, stalls and cuts on demand.
//! Everything runs by hand and in one thread; time passes only between steps.

mod fabric;
mod worker;

use core::time::Duration;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use dataplane::applied::AppliedCounters;
use dataplane::delta::{DelRecord, Delta, Handle, Name, SlotRef, Term, ToEvent, Version};
use dataplane::flow::VrfId;
use dataplane::owners::Owners;
use dataplane::redirect;
use dataplane::role::{Role, Roles};
use dataplane::shard::lane_of;
use dataplane::time::Instant;
use rtrb::RingBuffer;

use self::fabric::Fabric;
pub(crate) use self::fabric::{Plug, Socket, address, second_address};
use self::worker::{Worker, put};
use crate::board::Board;
use crate::config::{SyncConfig, SyncLink, SyncPeer, SyncVrf, Timing};
use crate::port::{Arrival, PumpEvent, PumpPorts};
use crate::pump::Pump;
use crate::role::{Decision, Desire, PeerView, RoleMachine};

pub(crate) const SLOTS: u16 = 16;
/// Room of each ring of packets.
pub(crate) const REDIRECT_BYTES: usize = 4_096;
pub(crate) const VRF: VrfId = VrfId(0);

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
    pub(crate) owners: Arc<Owners>,
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
                second: None,
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
        let owners = Arc::new(config.owners());
        let roles = Arc::new(Roles::new(config.vrfs.len()));
        let board = Arc::new(Board::new(events_n, config.peers.len(), config.vrfs.len()));
        let (events_in, events) = unbounded();
        let mut workers: Vec<Worker> = (0..workers_n).map(|_| Worker::new(events_n)).collect();
        let doors: Vec<_> = (0..events_n).map(|_| unbounded::<Arrival<Plug>>()).collect();
        let hand_over: Vec<_> = doors.iter().map(|(to, _)| to.clone()).collect();
        let pumps = (0u16..)
            .zip(doors)
            .map(|(event, (_, arrivals))| {
                let (mut from_workers, mut to_workers) = (Vec::new(), Vec::new());
                let (mut redirects_from_workers, mut redirects_to_workers) = (Vec::new(), Vec::new());
                for worker in &mut workers {
                    let (out, from) = RingBuffer::new(shape.ring);
                    let (to, inbox) = RingBuffer::new(shape.ring);
                    worker.out.push(out);
                    worker.inbox.push(inbox);
                    from_workers.push(from);
                    to_workers.push(to);
                    let (redirect_out, from) = redirect::ring(REDIRECT_BYTES);
                    let (to, redirect_in) = redirect::ring(REDIRECT_BYTES);
                    worker.redirects.push((redirect_out, redirect_in));
                    redirects_from_workers.push(from);
                    redirects_to_workers.push(to);
                }
                let ports = PumpPorts {
                    from_workers,
                    to_workers,
                    redirects_from_workers,
                    redirects_to_workers,
                    applied: Arc::clone(&applied),
                    owners: Arc::clone(&owners),
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
            owners,
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
        let at = SlotRef { vrf: VRF, slot };
        let worker = usize::from(self.owners.worker_of(at));
        let event = usize::from(lane_of(slot, self.config.events));
        (&mut self.workers[worker], at, event)
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
        Self::with(shapes, |_| {})
    }

    /// The same, over two links.
    pub(crate) fn of_two_links(shapes: &[Shape]) -> Self {
        Self::with(shapes, |config| {
            let own = second_address(config.node_id);
            for peer in &mut config.peers {
                let node = shapes.iter().find(|shape| address(shape.id) == peer.address);
                peer.second = node.map(|shape| SyncLink {
                    source: own,
                    address: second_address(shape.id),
                });
            }
        })
    }

    /// The same, configured otherwise.
    pub(crate) fn with(shapes: &[Shape], change: impl Fn(&mut SyncConfig)) -> Self {
        let mut cluster = Self {
            fabric: Rc::new(RefCell::new(Fabric::new(700, 1 << 20))),
            nodes: Vec::new(),
            now: Instant::from_secs(1),
            tick: Duration::from_micros(50),
        };
        for shape in shapes {
            let peers: Vec<u8> = shapes.iter().map(|s| s.id).filter(|id| *id != shape.id).collect();
            let mut config = config(*shape, &peers);
            change(&mut config);
            let node = Node::new(&cluster.fabric, *shape, config);
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
