//! Two appliances, the link between them, and the hosts around them, on one virtual clock. Tests and the simulator
//! move it turn by turn; after every turn the checker looks at what must hold always, and at quiescence at the rest.

use core::time::Duration;

use dataplane::conntrack::Conntrack;
use dataplane::flow::{FlowKey, VrfId};
use dataplane::io::PortId;
use dataplane::time::Instant;
use state_sync::compare::{Comparison, Wanted};
use state_sync::role::Desire;

use crate::checker::{differences, quiescent};
use crate::committed::Committed;
use crate::config::{LAN, MAIN, Setup, WAN, sync_address};
use crate::network::Fabric;
use crate::node::Node;
use crate::packet;
use crate::random::Random;
use crate::watch::Watch;

/// A frame that a node has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Index of the node.
    pub node: usize,
    /// Port it left by.
    pub port: PortId,
    /// The frame.
    pub frame: Vec<u8>,
}

/// How a node dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process: its kernel closes the connections.
    Process,
    /// The machine: nobody is told.
    Power,
}

/// Longest wait for quiescence.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// Time between two turns of everything while there is something to do.
const BUSY_STEP: Duration = Duration::from_micros(200);

/// The same while there is nothing, at first.
const IDLE_STEP: Duration = Duration::from_millis(4);

/// And at most, where larger steps will do.
const STROLL_STEP_MAX: Duration = Duration::from_millis(32);

/// Turns without a change of any counter that count as quiet.
const QUIET_TURNS: usize = 40;

/// Two nodes and everything around them.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; none is dead. Index 0 has node id 1.
    pub nodes: [Option<Node>; 2],
    /// With what a node boots.
    pub setups: [Setup; 2],
    /// Configured preference of each node.
    pub desires: [Desire; 2],
    /// The link between them.
    pub fabric: Fabric,
    /// The clock.
    pub now: Instant,
    /// Chance of everything that isn't decided by the test.
    pub random: Random,
    /// What must hold always.
    pub watch: Watch,
    /// What must hold under output commit.
    pub committed: Committed,
    /// Frames that have left and that nobody has looked at yet.
    pub sent: Vec<Sent>,
    boots: u64,
}

impl Cluster {
    /// Two nodes of equal setup that have just booted; the first prefers to be master.
    #[must_use]
    pub fn new(setup: Setup, seed: u64) -> Self {
        Self::of([setup.clone(), setup], seed)
    }

    /// Two nodes that have just booted; the first prefers to be master.
    #[must_use]
    pub fn of(setups: [Setup; 2], seed: u64) -> Self {
        let v6 = setups[0].sync_v6;
        let mut cluster = Self {
            nodes: [None, None],
            setups,
            desires: [Desire::Preferred, Desire::Backup],
            fabric: Fabric::new([sync_address(1, v6), sync_address(2, v6)], seed),
            now: Instant::from_secs(1_000),
            random: Random::new(seed),
            watch: Watch::default(),
            committed: Committed::default(),
            sent: Vec::new(),
            boots: seed << 16,
        };
        cluster.start(0);
        cluster.start(1);
        cluster
    }

    /// A pair in which the first node is master and the second one has everything.
    #[must_use]
    pub fn pair(setup: Setup, seed: u64) -> Self {
        let mut cluster = Self::new(setup, seed);
        cluster.settle();
        assert_eq!(cluster.active(), Some(0), "the first node was to become master");
        cluster
    }

    /// Boots a dead node, empty.
    pub fn start(&mut self, node: usize) {
        self.boots += 1;
        let net = self.fabric.open(node, self.boots);
        let id = [1, 2][node];
        self.fabric.set_now(self.now);
        self.nodes[node] = Some(Node::boot(
            id,
            &self.setups[node],
            self.desires[node],
            &net,
            self.boots,
            self.now,
        ));
        self.watch.forget(node);
    }

    /// Kills a node: everything it knew is gone.
    pub fn kill(&mut self, node: usize, death: Death) {
        self.fabric.die(node, death == Death::Process);
        self.nodes[node] = None;
        self.watch.forget(node);
    }

    /// Ends conntracks of a node as its operator would: those that are chosen, where it is active. A standby keeps its
    /// copies, and a worker from or to which a slot is on its way those that it has.
    pub fn flush(&mut self, node: usize, mut chosen: impl FnMut(&Conntrack) -> bool) {
        let now = self.now;
        let Some(node) = &mut self.nodes[node] else { return };
        let now = node.time(now);
        for worker in 0..node.workers() {
            let tables = node.tables_mut(worker);
            if tables.is_changing_hands() {
                continue;
            }
            let live = tables.conntracks.iter_live();
            let ended = |c: &Conntrack| tables.is_active(c.vrf());
            let ids: Vec<u32> = live
                .filter(|(_, c)| ended(c) && chosen(c))
                .map(|(id, _)| id)
                .collect();
            for id in ids {
                tables.remove(now, id);
            }
        }
    }

    /// Orders a node about, as `set ha-group … state` does.
    pub fn order(&mut self, node: usize, desire: Desire) {
        if let Some(node) = &mut self.nodes[node] {
            node.order(desire);
        }
    }

    /// A live node.
    ///
    /// # Panics
    /// When it is dead.
    #[must_use]
    pub fn node(&mut self, node: usize) -> &mut Node {
        assert!(self.nodes[node].is_some(), "node {node} is dead");
        match &mut self.nodes[node] {
            Some(node) => node,
            None => unreachable!(),
        }
    }

    /// The only node that is active, if it is the only one.
    #[must_use]
    pub fn active(&self) -> Option<usize> {
        let active = |n: usize| self.nodes[n].as_ref().is_some_and(|n| n.is_active(MAIN));
        match (active(0), active(1)) {
            (true, false) => Some(0),
            (false, true) => Some(1),
            _ => None,
        }
    }

    /// One turn of everything that lives, then `step` passes. Returns how much there was to do.
    pub fn turn(&mut self, step: Duration) -> usize {
        self.fabric.set_now(self.now);
        let mut work = 0;
        for index in 0..2 {
            let Some(node) = &mut self.nodes[index] else {
                continue;
            };
            work += node.turn(self.now);
        }
        self.after_step();
        self.now = self.now + step;
        work
    }

    /// One turn of one thread of one node: the simulator's way. Roles are stepped as thread 0.
    pub fn turn_thread(&mut self, index: usize, thread: usize) -> usize {
        self.fabric.set_now(self.now);
        let Some(node) = &mut self.nodes[index] else {
            return 0;
        };
        let work = match thread.checked_sub(1) {
            None => node.step_roles(self.now),
            Some(thread) => node.step_thread(thread, self.now),
        };
        self.after_step_of(index);
        work
    }

    /// Collects what was sent and checks what must hold after every step.
    pub fn after_step(&mut self) {
        for index in 0..2 {
            self.after_step_of(index);
        }
    }

    /// As [`Self::after_step`], of one node: the other one has not run.
    fn after_step_of(&mut self, index: usize) {
        let Some(node) = &mut self.nodes[index] else {
            return;
        };
        for port in [LAN, WAN] {
            let frames = node.take_sent(port);
            self.watch.emitted(index, node, &frames);
            if port == WAN {
                self.committed.look(index, node, &frames);
            }
            self.sent.extend(frames.into_iter().map(|frame| Sent {
                node: index,
                port,
                frame,
            }));
        }
        if self.watch.step(index, node) {
            self.committed.learn(index, node);
        }
    }

    /// Lets time pass: small steps while there is something to do, larger ones while there isn't.
    pub fn run(&mut self, time: Duration) {
        self.pass(time, IDLE_STEP);
    }

    /// The same with larger and larger steps while there is nothing to do, up to those by which heartbeats are still in time.
    pub fn stroll(&mut self, time: Duration) {
        self.pass(time, STROLL_STEP_MAX);
    }

    fn pass(&mut self, time: Duration, step_max: Duration) {
        let end = self.now + time;
        let mut idle = IDLE_STEP;
        while self.now < end {
            let work = self.turn(Duration::ZERO);
            let step = if work > 0 { BUSY_STEP } else { idle };
            idle = if work > 0 {
                IDLE_STEP
            } else {
                (2 * idle).min(step_max)
            };
            let left = end.since(self.now);
            self.now = self.now + step.min(left);
        }
    }

    /// Lets much time pass without looking at every millisecond of it: lanes keep up by heartbeats in between.
    pub fn idle(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.turn(Duration::ZERO);
            let left = end.since(self.now);
            self.now = self.now + Duration::from_millis(90).min(left);
        }
    }

    /// Runs until nothing changes any more and the standby, if any, has everything; then checks that both nodes are
    /// equal entry by entry.
    ///
    /// # Panics
    /// When it doesn't come to rest, or when the nodes differ.
    pub fn settle(&mut self) {
        let missing = self.try_settle();
        assert!(
            missing.is_empty(),
            "no quiescence: {missing:#?}\n{}",
            self.counted()
        );
        let differences = self.compare();
        assert!(
            differences.is_empty(),
            "at quiescence: {differences:#?}\n{}",
            self.counted()
        );
    }

    /// Runs until quiescence; returns what was still missing when patience ended.
    pub fn try_settle(&mut self) -> Vec<String> {
        let end = self.now + SETTLE_MAX;
        let mut before = self.totals();
        let (mut quiet, mut looks) = (0, 0);
        let mut missing = vec!["not begun".to_owned()];
        while self.now < end {
            let work = self.turn(Duration::ZERO);
            let step = if work > 0 { BUSY_STEP } else { IDLE_STEP };
            self.now = self.now + step;
            let after = self.totals();
            quiet = if after == before { quiet + 1 } else { 0 };
            before = after;
            if quiet >= QUIET_TURNS {
                // At another distance each time: digests come at a beat of their own, and every look could hit one.
                looks += 1;
                quiet = looks % QUIET_TURNS;
                missing = quiescent(&self.nodes, self.fabric.is_cut());
                if missing.is_empty() {
                    return missing;
                }
            }
        }
        if missing.is_empty() {
            missing.push("counters never stood still".to_owned());
        }
        missing
    }

    /// What each node has counted of records, a line per node and per lane.
    fn counted(&self) -> String {
        let of_records = |(name, value): &(&str, u64)| {
            let about = ["deltas_", "absorb_", "walk_", "swept", "slots_"];
            *value > 0 && about.iter().any(|prefix| name.starts_with(prefix))
        };
        let mut lines = String::new();
        for node in self.nodes.iter().flatten() {
            let counters: Vec<_> = node.counters().named().filter(of_records).collect();
            lines += &format!("node {}: {:?}, {counters:?}\n", node.id, node.role(MAIN));
            for client in node.reports().iter().flat_map(|report| &report.clients) {
                lines += &format!(
                    "node {} lane {}: {}, {} records sent, {} behind, {} bytes queued, down by {:?}\n",
                    node.id,
                    client.lane,
                    client.status,
                    client.records_sent,
                    client.lag_records,
                    client.bytes_queued,
                    client.last_down
                );
            }
        }
        lines
    }

    /// In what the two nodes differ, when both live and are connected; and in what each contradicts itself.
    #[must_use]
    pub fn compare(&self) -> Vec<String> {
        differences(&self.nodes, self.fabric.is_cut())
    }

    /// Compares slots of the first VRF as an operator of node `node` would, `between` turns doing what it likes.
    ///
    /// # Panics
    /// When it doesn't come to an end.
    pub fn compare_by(
        &mut self,
        node: usize,
        wanted: Wanted,
        mut between: impl FnMut(&mut Self),
    ) -> Comparison {
        let mut comparison = Comparison::new(wanted, u32::from(self.boots.to_le_bytes()[0]));
        let end = self.now + SETTLE_MAX;
        while !comparison.is_finished() {
            assert!(self.now < end, "the comparison doesn't end: {comparison:?}");
            between(self);
            self.turn(Duration::from_micros(200));
            let now = self.now;
            comparison.turn(now, self.node(node).ways());
        }
        comparison
    }

    /// What stands still at quiescence, of both nodes.
    fn totals(&self) -> [Option<[u64; 15]>; 2] {
        [0, 1].map(|index| {
            let node = self.nodes[index].as_ref()?;
            let (role, term) = node.role(MAIN);
            let mut totals = [0; 15];
            (totals[0], totals[1]) = (role as u64, term.0);
            for c in node.tables().map(|tables| &tables.counters) {
                let records = [
                    c.deltas_produced,
                    c.deltas_emitted,
                    c.deltas_unsent,
                    c.walk_records,
                    c.absorb_received,
                    c.absorb_applied,
                    c.absorb_fenced,
                    c.slots_fenced,
                    c.swept,
                    c.blocks_released,
                ];
                for (total, more) in totals[2..].iter_mut().zip(records) {
                    *total += more;
                }
            }
            // What was redirected long ago may have waited for a lane.
            totals[14] = node
                .reports()
                .iter()
                .map(|report| report.redirects.handed_on)
                .sum();
            // Not frames and records of lanes: heartbeats never stand still.
            for vrf in (0..node.setup.vrfs()).map(VrfId) {
                let view = node.board.view(0, vrf, node.setup.slots);
                totals[12] += u64::from(view.exported);
                totals[13] += u64::from(view.clients_up);
            }
            Some(totals)
        })
    }

    /// Puts a frame into a random receive queue of a port, lets the workers handle it, and returns what they sent.
    pub fn through(&mut self, node: usize, port: PortId, frame: &[u8]) -> Vec<Sent> {
        let workers = self.node(node).workers();
        let worker = self.random.index(workers);
        self.through_worker(node, worker, port, frame)
    }

    /// As [`Self::through`], by the queue of one worker.
    pub fn through_worker(&mut self, node: usize, worker: usize, port: PortId, frame: &[u8]) -> Vec<Sent> {
        self.after_step_of(node);
        let waiting = self.sent.len();
        let now = self.now;
        let one = self.node(node);
        assert!(one.inject(worker, port, frame), "no buffer for a frame");
        // Rx, a handoff, a hairpin and its handoff: at most four turns.
        for _ in 0..4 {
            let work: usize = (0..one.workers())
                .map(|thread| one.step_thread(thread, now))
                .sum();
            if work == 0 {
                break;
            }
        }
        self.after_step_of(node);
        self.sent.split_off(waiting)
    }

    /// A first or further packet of a flow from inside; the tuple that left by the WAN, if one did.
    pub fn out(&mut self, node: usize, key: &FlowKey) -> Option<FlowKey> {
        let id = [1, 2][node];
        let frame = packet::simple(&packet::to_node(id, LAN, &key.src), key);
        let sent = self.through(node, LAN, &frame);
        // Announcements of a take-over may be among them.
        let mut left = sent.iter().filter(|s| s.port == WAN);
        left.find_map(|s| packet::flow(&s.frame))
    }

    /// The answer to a tuple that left by the WAN; the tuple that left by the LAN, if one did.
    pub fn back(&mut self, node: usize, outside: &FlowKey) -> Option<FlowKey> {
        let id = [1, 2][node];
        let key = outside.reversed();
        let frame = packet::simple(&packet::to_node(id, WAN, &key.src), &key);
        let sent = self.through(node, WAN, &frame);
        // Announcements of a take-over may be among them.
        let mut left = sent.iter().filter(|s| s.port == LAN);
        left.find_map(|s| packet::flow(&s.frame))
    }
}
