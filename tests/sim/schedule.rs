//! What a seed means: the shape of both nodes, and a list of events between which threads run in random order. Each event
//! draws from a stream of its own, so that a list with some events left out still means the same by the others.

use core::fmt;
use core::net::Ipv4Addr;
use core::time::Duration;
use std::collections::{BTreeMap, HashSet};

use dataplane::config::Timeouts;
use dataplane::delta::SlotRef;
use dataplane::flow::{FlowKey, VrfId};
use dataplane::protection::Kept;
use dataplane::role::Role;
use dataplane::shard::mix64;
use dataplane::tables::Tables;
use state_sync::handover::DRAIN_MAX;
use state_sync::port::PumpCommand;
use state_sync::report::PumpReport;
use state_sync::role::{Desire, SwitchoverError, SwitchoverPhase};
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, server, subscriber, subscriber6};
use testkit::expect::{counters, moved, named};
use testkit::node::Node;
use testkit::packet;
use testkit::random::Random;

use crate::shape::{Scale, rules, short, weather};
use crate::versions;

/// Flows that are remembered: packets of them come again.
const FLOWS_MAX: usize = 512;

/// A seed, and which of its events are left out.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    seed: u64,
    /// By number; true where it is left out.
    without: Vec<bool>,
    scale: Scale,
}

/// A schedule under way.
pub(crate) struct Play {
    pub(crate) cluster: Cluster,
    pub(crate) random: Random,
    pub(crate) scale: Scale,
    /// Tuples that were sent from inside, with what they became.
    flows: Vec<(FlowKey, FlowKey)>,
    next_port: u16,
    /// Some lifetimes are, or were, a few seconds.
    hurried: bool,
    /// Nodes with other public addresses than they were started with.
    repooled: [bool; 2],
}

/// Something that happens at one moment.
#[derive(Debug, Clone, Copy)]
enum Event {
    Traffic,
    Cut,
    Reset,
    Clog,
    KillOrStart,
    Order,
    StopAbsorb,
    StopThread,
    Weather,
    Configure,
    Failover,
    Demotion,
    Acknowledged,
    Restart,
    Calm,
    Split,
    Regrant,
    Late,
    Damage,
    Room,
    Rest,
    Idle,
}

/// How often each comes, out of their sum.
const EVENTS: [(Event, u64); 22] = [
    (Event::Traffic, 8),
    (Event::Cut, 1),
    (Event::Reset, 1),
    (Event::Clog, 1),
    (Event::KillOrStart, 1),
    (Event::Order, 1),
    (Event::StopAbsorb, 1),
    (Event::StopThread, 1),
    (Event::Weather, 1),
    (Event::Configure, 1),
    (Event::Failover, 1),
    (Event::Demotion, 1),
    (Event::Acknowledged, 1),
    (Event::Restart, 1),
    (Event::Calm, 1),
    (Event::Split, 1),
    (Event::Regrant, 1),
    (Event::Late, 1),
    (Event::Damage, 1),
    (Event::Room, 1),
    (Event::Rest, 2),
    (Event::Idle, 1),
];

/// Streams of chance from here on decide which slots change hands.
const MOVES: u64 = 1 << 32;

/// What may come between two turns of threads, where a schedule is furious.
const SUDDEN: [(Event, u64); 6] = [
    (Event::Cut, 2),
    (Event::Reset, 2),
    (Event::KillOrStart, 1),
    (Event::Order, 2),
    (Event::StopAbsorb, 1),
    (Event::StopThread, 1),
];

/// A conntrack of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Held {
    keys: [FlowKey; 2],
    slot: u16,
}

/// Those that the peer is told of, now or when they are older.
fn told_some_day(node: &Node) -> impl Iterator<Item = Held> {
    let live = node.tables().flat_map(|tables| tables.conntracks.iter_live());
    live.filter(|(_, c)| c.sync.kept != Kept::NoSync)
        .map(|(_, c)| Held {
            keys: c.keys(),
            slot: c.slot,
        })
}

fn draw(from: &[(Event, u64)], random: &mut Random) -> Event {
    let mut at = random.below(from.iter().map(|(_, weight)| weight).sum());
    for &(event, weight) in from {
        if at < weight {
            return event;
        }
        at -= weight;
    }
    unreachable!("below the sum of weights")
}

impl Schedule {
    pub(crate) fn of(seed: u64) -> Self {
        let scale = Scale::of(&mut Random::new(seed));
        Self {
            seed,
            without: vec![false; scale.events],
            scale,
        }
    }

    /// Numbers of the events that are played.
    pub(crate) fn events(&self) -> Vec<usize> {
        (0..self.without.len()).filter(|&n| !self.without[n]).collect()
    }

    /// The same with some events less.
    pub(crate) fn without(&self, events: &[usize]) -> Self {
        let mut less = self.clone();
        for &event in events {
            less.without[event] = true;
        }
        less
    }

    fn stream(&self, number: u64) -> Random {
        Random::new(mix64(self.seed) ^ number)
    }

    /// Plays it; with `tell`, says what it does.
    ///
    /// # Panics
    /// When an invariant is violated.
    pub(crate) fn play(&self, tell: bool) {
        let mut play = self.begin();
        if tell {
            println!("{self}");
        }
        for number in self.events() {
            play.random = self.stream(1 + number as u64);
            let event = draw(&EVENTS, &mut play.random);
            if tell {
                println!("{:>12} us  {number:>2} {event:?}", play.cluster.now.ns() / 1_000);
            }
            play.event(event);
            play.move_slots(&mut self.stream(MOVES + number as u64), tell);
            play.chaos();
        }
        play.rest();
    }

    fn begin(&self) -> Play {
        let mut random = self.stream(0);
        let setups = self.scale.pair(&mut random);
        let hurried = setups[0].timeouts != Timeouts::default();
        let mut cluster = Cluster::of(setups, self.seed);
        cluster.watch.every_entry = true;
        cluster.fabric.set_weather(weather(&mut random));
        versions::mix(&cluster, self.seed, random.clone());
        Play {
            cluster,
            random,
            scale: self.scale,
            flows: Vec::new(),
            next_port: 1_024,
            hurried,
            repooled: [false; 2],
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setups = self.scale.pair(&mut self.stream(0));
        write!(f, "seed {}: {} events", self.seed, self.events().len())?;
        for s in setups {
            write!(
                f,
                "; {} slots, {} workers, {} lanes, rings of {}, {} conntracks each",
                s.slots, s.workers, s.events, s.ring_entries, s.conntracks
            )?;
        }
        Ok(())
    }
}

impl Play {
    /// Slots change hands, by chance of their own.
    fn move_slots(&mut self, random: &mut Random, tell: bool) {
        let now = self.cluster.now;
        for (index, node) in self.cluster.nodes.iter_mut().enumerate() {
            let Some(node) = node else { continue };
            let vrf = VrfId(u16::try_from(random.index(usize::from(node.setup.vrfs()))).unwrap());
            let slot = u16::try_from(random.index(usize::from(node.setup.slots))).unwrap();
            let to = u16::try_from(random.index(node.workers())).unwrap();
            if random.one_in(2) && node.is_at_rest() {
                // One that is there already stays.
                let begun = node.move_slot(SlotRef { vrf, slot }, to, now);
                if tell && begun.is_ok() {
                    println!("{:>12}       node {index} slot {slot} goes to worker {to}", "");
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Traffic => self.traffic(),
            Event::Cut => self.cluster.fabric.cut(!self.cluster.fabric.is_cut()),
            Event::Reset => self.cluster.fabric.reset_all(),
            Event::Clog => {
                let (node, clogged) = (self.random.index(2), self.random.one_in(2));
                self.cluster.fabric.clog(node, clogged);
            }
            Event::KillOrStart => self.kill_or_start(),
            Event::Order => {
                let desire = if self.random.one_in(3) {
                    Desire::Backup
                } else {
                    Desire::Ordered
                };
                let node = self.random.index(2);
                self.cluster.order(node, desire);
            }
            Event::StopAbsorb => {
                let (node, stop) = (self.random.index(2), self.random.one_in(2));
                if let Some(node) = &mut self.cluster.nodes[node] {
                    node.stop_absorb(stop);
                }
            }
            Event::StopThread => {
                let node = self.random.index(2);
                if let Some(node) = &mut self.cluster.nodes[node] {
                    let thread = self.random.index(node.threads());
                    node.stopped[thread] = !node.stopped[thread];
                }
            }
            Event::Weather => {
                let weather = weather(&mut self.random);
                self.cluster.fabric.set_weather(weather);
            }
            Event::Configure => self.configure(),
            Event::Failover => self.failover(),
            Event::Demotion => self.demotion(),
            Event::Acknowledged => self.acknowledged(),
            Event::Restart => self.restart(),
            Event::Calm => self.calm(),
            Event::Split => self.split(),
            Event::Regrant => self.regrant(),
            Event::Late => self.late(),
            Event::Damage => self.damage(),
            Event::Room => self.room(),
            Event::Rest => self.rest(),
            Event::Idle => {
                let seconds = self.random.between(1, 6);
                self.cluster.idle(Duration::from_secs(seconds));
            }
        }
    }

    /// Threads of both nodes run in random order, and time passes in random steps.
    fn chaos(&mut self) {
        for _ in 0..self.random.between(10, 120) {
            let node = self.random.index(2);
            let threads = self.cluster.nodes[node].as_ref().map_or(1, |n| 1 + n.threads());
            let thread = self.random.index(threads);
            self.cluster.turn_thread(node, thread);
            let longest = if self.random.one_in(20) { 30_000 } else { 300 };
            let step = self.random.below(longest);
            self.cluster.now = self.cluster.now + Duration::from_micros(step);
            if self.scale.fury > 0 && self.random.one_in(self.scale.fury) {
                let event = draw(&SUDDEN, &mut self.random);
                self.event(event);
            }
        }
    }

    /// Packets of old and new flows, both ways, to either node: what isn't active must not forward.
    fn traffic(&mut self) {
        for _ in 0..self.random.between(1, self.scale.packets) {
            let Some(node) = [self.random.index(2), 0, 1]
                .into_iter()
                .find(|&n| self.can_forward(n))
            else {
                return;
            };
            if self.flows.is_empty() || self.random.one_in(2) {
                self.open(node);
            } else {
                let (inside, outside) = self.flows[self.random.index(self.flows.len())];
                if self.random.one_in(2) {
                    self.must_leave(node, &inside);
                } else {
                    self.cluster.back(node, &outside);
                }
            }
        }
    }

    /// I11: a packet of a flow that the node knows is forwarded, whatever becomes of replication.
    fn must_leave(&mut self, node: usize, inside: &FlowKey) {
        let known = self.forwards(node, inside);
        let before = self.cluster.node(node).counters();
        if self.cluster.out(node, inside).is_some() || !known {
            return;
        }
        let why = moved(&named(&before), &counters(self.cluster.node(node)));
        // A flow whose first packet still waits for the peer, by order of its rule, is excepted; so is one whose waiting
        // ends in this turn because no peer is left that could know it, if the rule says that nobody else may then; one
        // whose public address was taken away; and packets that wait, for their slot or for redirected ones in front of them.
        let held = [
            "commit_held",
            "drop:commit-full",
            "drop:commit-unknown",
            "retired_ended",
            "slot_awaited",
            "lined_up",
        ]
        .iter()
        .any(|name| why.contains_key(*name));
        assert!(held, "I11: {inside:?} is not forwarded: {why:?}");
    }

    /// Whether a node must forward a packet of a flow from inside: it knows it, whatever becomes of replication.
    fn forwards(&mut self, node: usize, inside: &FlowKey) -> bool {
        let node = self.cluster.node(node);
        let known = |tables: &Tables| {
            tables
                .conntracks
                .find(tables.conntracks.hash(inside), inside)
                .is_some()
        };
        node.is_active(MAIN) && node.tables().any(known)
    }

    pub(crate) fn can_forward(&self, node: usize) -> bool {
        self.cluster.nodes[node].as_ref().is_some_and(|n| {
            let threads = n.workers();
            n.packets.alive() < 1_000 && n.stopped[..threads].iter().all(|stopped| !stopped)
        })
    }

    pub(crate) fn open(&mut self, node: usize) {
        let key = self.tuple();
        if let Some(outside) = self.cluster.out(node, &key) {
            let place = self.random.index(FLOWS_MAX);
            match self.flows.get_mut(place) {
                Some(flow) => *flow = (key, outside),
                None => self.flows.push((key, outside)),
            }
        }
    }

    /// A new inside endpoint and somebody it talks to.
    pub(crate) fn tuple(&mut self) -> FlowKey {
        let host = u8::try_from(self.random.between(1, self.scale.hosts)).unwrap();
        let to = u8::try_from(self.random.between(1, 5)).unwrap();
        let (host, to) = if self.random.one_in(8) {
            (subscriber6(host), testkit::config::server6(to))
        } else {
            (subscriber(host), server(to))
        };
        self.next_port = self.next_port.wrapping_add(1).max(1_024);
        match self.random.below(4) {
            0 => packet::tcp(host, self.next_port, to, 80),
            1 => packet::echo(host, self.next_port, to),
            _ => packet::udp(host, self.next_port, to, 53),
        }
    }

    /// A dead node comes back, perhaps with other threads; a live one dies.
    fn kill_or_start(&mut self) {
        let node = self.random.index(2);
        if self.cluster.nodes[node].is_none() {
            if self.random.one_in(3) {
                self.scale
                    .rethread(&mut self.cluster.setups[node], &mut self.random);
            }
            self.cluster.start(node);
        } else {
            let death = self.death();
            self.cluster.kill(node, death);
        }
    }

    fn death(&mut self) -> Death {
        if self.random.one_in(2) {
            Death::Process
        } else {
            Death::Power
        }
    }

    /// Other room for the tables of a node, more or less than there is, or by need; or an agent that doesn't come to it.
    fn room(&mut self) {
        let (node, rooms) = (
            self.random.index(2),
            [None, Some(4), Some(16), Some(64), Some(1_024)],
        );
        let (room, no_room) = (rooms[self.random.index(5)], self.random.one_in(4));
        if let Some(node) = &mut self.cluster.nodes[node] {
            (node.room, node.no_room) = (room, no_room);
        }
    }

    /// Another configuration of one node, while packets flow: rules, lifetimes, public addresses.
    fn configure(&mut self) {
        let timeouts = if self.random.one_in(2) {
            self.hurried = true;
            short()
        } else {
            Timeouts::default()
        };
        let rules = rules(&mut self.random);
        let node = self.random.index(2);
        let pools = self.pools(node);
        if let Some(node) = &mut self.cluster.nodes[node] {
            node.publish(|intent, _| {
                intent.vrfs[0].timeouts = timeouts;
                intent.vrfs[0].firewall.rules = rules;
                if let Some(addresses) = pools {
                    intent.vrfs[0].pools[0].addresses = addresses;
                }
            });
        }
    }

    /// Other public addresses for a node, sometimes: some that it has, some that both nodes could have, one at least. They are
    /// as they were before both nodes have to be equal.
    fn pools(&mut self, node: usize) -> Option<Vec<Ipv4Addr>> {
        // Not from the stream itself: what else happens doesn't depend on it.
        let mut random = self.random.clone();
        if !random.one_in(3) {
            return None;
        }
        self.repooled[node] = true;
        let mut addresses: Vec<Ipv4Addr> = (1..=4).map(|last| Ipv4Addr::new(198, 51, 100, last)).collect();
        addresses.retain(|_| random.one_in(2));
        if addresses.is_empty() {
            addresses.push(Ipv4Addr::new(198, 51, 100, 1));
        }
        Some(addresses)
    }

    /// Both nodes have the pools again that they were started with.
    fn restore_pools(&mut self) {
        for node in 0..2 {
            let changed = core::mem::take(&mut self.repooled[node]);
            let first = self.cluster.setups[node].vrf_id(0).index();
            let configured = self.cluster.setups[node].intent().vrfs[first].pools[0]
                .addresses
                .clone();
            if let Some(node) = &mut self.cluster.nodes[node]
                && changed
            {
                node.publish(|intent, _| intent.vrfs[0].pools[0].addresses = configured);
            }
        }
    }

    /// Everything heals, and where nobody is to be active somebody is ordered to; then both nodes must come to rest with
    /// equal tables. The link is one on which digests and heartbeats, which never end, leave moments of silence.
    pub(crate) fn rest(&mut self) {
        self.cluster.fabric.cut(false);
        let weather = testkit::network::Weather {
            delay: Duration::from_micros(self.random.between(10, 500)),
            jitter: Duration::from_micros(self.random.below(500)),
            spread: Duration::ZERO,
            room: [5_000, 1 << 20][self.random.index(2)],
            partial: self.random.one_in(2),
            fragile: 0,
        };
        self.cluster.fabric.set_weather(weather);
        for node in 0..2 {
            self.cluster.fabric.clog(node, false);
            if self.cluster.nodes[node].is_none() {
                self.cluster.start(node);
            }
            if let Some(node) = &mut self.cluster.nodes[node] {
                node.stop_absorb(false);
                node.stopped.fill(false);
                // What there is, or may be, for everybody: who lacks room has refused for good otherwise.
                (node.room, node.no_room) = (node.setup.conntracks_most, false);
            }
        }
        self.restore_pools();
        // Also when nobody is to be active, both have to hold the same in the end.
        if self.cluster.active().is_none() && !self.random.one_in(3) {
            let node = self.random.index(2);
            self.cluster.order(node, Desire::Ordered);
        }
        self.cluster.settle();
        versions::assert_understood(&self.cluster);
        for node in self.cluster.nodes.iter().flatten() {
            let c = node.counters();
            let wrong = (c.audit_entries_wrong, c.audit_slots_wrong, c.audit_index_lost);
            let damaged = self.cluster.watch.damaged;
            assert!(
                damaged || wrong == (0, 0, 0),
                "the audit found what nobody has damaged"
            );
        }
    }

    /// The standby applies nothing: what the active node holds acknowledged of new flows must be there all the same.
    fn acknowledged(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        let standby = 1 - active;
        self.cluster.node(standby).stop_absorb(true);
        for _ in 0..4 {
            self.open(active);
        }
        for _ in 0..10 {
            self.cluster.run(Duration::from_millis(40));
            let node = self.cluster.node(active);
            let waiting: usize = node.tables().map(Tables::waiting).sum();
            let behind = |report: &PumpReport| report.clients.iter().map(|c| c.lag_records).sum::<u64>();
            let told = waiting == 0 && node.reports().iter().map(behind).sum::<u64>() == 0;
            if told && node.is_active(MAIN) {
                let (whole, copy) = (view(node), view(self.cluster.node(standby)));
                for (key, row) in &whole.conntracks {
                    assert!(
                        copy.conntracks.contains_key(key) || copy.lacking.contains_key(&(key.0, row.slot)),
                        "acknowledged and not applied: {row:?}"
                    );
                }
            }
        }
        self.cluster.node(standby).stop_absorb(false);
    }

    /// The active node's process dies and is back, empty, before anybody takes over: what its standby holds must be there
    /// in the end, and nothing but lifetimes may take it away.
    fn restart(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        let before = view(self.cluster.node(1 - active));
        self.cluster.kill(active, Death::Process);
        self.cluster.start(active);
        self.rest();
        if self.hurried {
            return;
        }
        let after = [0, 1].map(|node| view(self.cluster.node(node)));
        // Slots that had changed hands are where the hash puts them again, and may not have room there.
        let refused: u64 = self
            .cluster
            .node(active)
            .tables()
            .map(|t| t.counters.absorb_full)
            .sum();
        if refused > 0 {
            return;
        }
        for (key, row) in &before.conntracks {
            let held = after.iter().any(|view| view.conntracks.contains_key(key));
            assert!(held, "lost by the restart: {row:?}");
        }
    }

    /// Nothing goes wrong while slots are sent anew, flows come and others end: then no comparison may say so either.
    fn calm(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        let before = self.failures();
        for _ in 0..self.random.between(2, 5) {
            if self.random.one_in(2) {
                self.resend(active);
            }
            for _ in 0..self.random.between(1, self.scale.packets) {
                self.open(active);
                if self.random.one_in(3) {
                    self.end_some(active, 8);
                }
                self.cluster.turn(Duration::from_micros(200));
            }
            let ms = self.random.between(1, 2_000);
            self.cluster.stroll(Duration::from_millis(ms));
        }
        self.rest();
        let (unsure, failed) = before;
        let (are_unsure, have_failed) = self.failures();
        assert!(
            are_unsure > unsure || have_failed == failed,
            "false alarms: {failed} slots failed before, {have_failed} now"
        );
    }

    /// About one conntrack in so many ends on a node.
    pub(crate) fn end_some(&mut self, node: usize, one_in: u64) {
        let random = &mut self.random;
        self.cluster.flush(node, |_| random.one_in(one_in));
    }

    fn resend(&mut self, node: usize) {
        let node = self.cluster.node(node);
        for event in 0..usize::from(node.setup.events) {
            let all = PumpCommand::Resync {
                vrf: None,
                slot: None,
                to: None,
            };
            assert!(node.command(event, all), "the event thread takes no command");
        }
    }

    /// Records that were refused for a cause, and slots that were not verified.
    fn failures(&self) -> (u64, u64) {
        let mut failures = (0, 0);
        for node in self.cluster.nodes.iter().flatten() {
            let c = node.counters();
            failures.0 += c.absorb_full + c.absorb_conflict + c.absorb_no_pool + c.absorb_evicted;
            let vrfs = node
                .reports()
                .into_iter()
                .flat_map(|r| r.clients)
                .flat_map(|c| c.vrfs);
            failures.1 += vrfs.map(|vrf| vrf.generations.failed).sum::<u64>();
        }
        failures
    }

    /// The active node is told to stand by, or to hand the role over, or the other one to be active, and it dies when that is so:
    /// the other one must have every conntrack but those that a rule keeps from it for ever, and those that it says it lacks, and
    /// forward it.
    fn demotion(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        let standby = 1 - active;
        // Whoever asks doesn't wait for an answer for longer than on a link that is as good as this one should be.
        while self.cluster.fabric.lingers() {
            self.cluster.turn(Duration::from_millis(1));
        }
        for _ in 0..self.random.between(1, self.scale.packets) {
            self.open(active);
        }
        let held: Vec<_> = told_some_day(self.cluster.node(active)).collect();
        // Where an election decides, an order to the other one comes too late to tell anything.
        let elected = self.cluster.setups[0].elected;
        let (asks, gives_up) = match self.random.below(3) {
            0 if !elected => (true, false),
            1 => (false, false),
            _ => (false, true),
        };
        let now = self.cluster.now;
        if asks {
            self.cluster.order(standby, Desire::Ordered);
        } else if gives_up {
            self.cluster.order(active, Desire::Backup);
        } else if let Err(cause) = self.cluster.node(active).switch_over(now) {
            assert_ne!(cause, SwitchoverError::NotActive);
            return;
        }
        let end = now + DRAIN_MAX;
        let handed = |cluster: &mut Cluster| {
            if gives_up {
                !cluster.node(active).is_active(MAIN)
            } else {
                cluster.node(standby).is_active(MAIN)
            }
        };
        // As long as it stands by: later it says nothing about that any more.
        let mut lacking = BTreeMap::new();
        while !handed(&mut self.cluster) {
            lacking = view(self.cluster.node(standby)).lacking;
            assert!(self.cluster.now < end, "nothing is in the way of the drain");
            if elected && self.cluster.node(active).switchover(MAIN) == Some(SwitchoverPhase::HandingOver) {
                self.cluster.order(standby, Desire::Ordered);
            }
            self.cluster.turn(Duration::from_micros(200));
            if !asks && !gives_up {
                let one_is = (0..2).any(|n| self.cluster.node(n).is_active(MAIN));
                assert!(one_is, "between two nodes a switchover leaves the role to nobody");
            }
        }
        let left: HashSet<_> = told_some_day(self.cluster.node(active)).collect();
        if gives_up {
            lacking = view(self.cluster.node(standby)).lacking;
        }
        let death = self.death();
        self.cluster.kill(active, death);
        self.cluster.order(standby, Desire::Ordered);
        self.cluster.run(Duration::from_millis(1_500));
        for flow in held.iter().filter(|flow| left.contains(*flow)) {
            let [original, reply] = flow.keys;
            if lacking.contains_key(&(original.vrf.0, flow.slot)) {
                continue;
            }
            assert!(
                self.forwards(standby, &original),
                "lost by the demotion: {original:?}"
            );
            let sent = self.cluster.out(standby, &original);
            assert_eq!(sent, Some(reply.reversed()), "{original:?} after the demotion");
        }
    }

    /// The active node dies with everything in sync: the other one must have every conntrack that it doesn't say it
    /// lacks, and forward it.
    fn failover(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        let standby = 1 - active;
        let before = view(self.cluster.node(active));
        let lacking = view(self.cluster.node(standby)).lacking;
        let death = self.death();
        self.cluster.kill(active, death);
        self.cluster.order(standby, Desire::Ordered);
        self.cluster.stroll(Duration::from_millis(1_500));
        assert_eq!(self.cluster.node(standby).role(MAIN).0, Role::Master);
        let after = view(self.cluster.node(standby));
        for (key, row) in &before.conntracks {
            if lacking.contains_key(&(key.0, row.slot)) {
                continue;
            }
            assert!(
                after.conntracks.contains_key(key),
                "lost by the failover: {row:?}"
            );
            let sent = self.cluster.out(standby, &row.original);
            let expected = row.reply.reversed();
            assert_eq!(sent, Some(expected), "{:?} after the failover", row.original);
        }
    }
}
