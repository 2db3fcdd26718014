//! What a seed means: the shape of both nodes, and a list of events between which threads run in random order.

use core::time::Duration;

use dataplane::config::{PortRange, Timeouts};
use dataplane::flow::FlowKey;
use dataplane::role::Role;
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::{MAIN, Setup, server, subscriber};
use testkit::network::Weather;
use testkit::packet;
use testkit::random::Random;

/// Events of one schedule.
const EVENTS: u64 = 60;

/// Subscribers that talk.
const HOSTS: u64 = 24;

/// A schedule under way.
struct Play {
    cluster: Cluster,
    random: Random,
    /// Tuples that were sent from inside, with what they became.
    flows: Vec<(FlowKey, FlowKey)>,
    next_port: u16,
}

/// Plays a seed.
///
/// # Panics
/// When an invariant is violated.
pub(crate) fn play(seed: u64) {
    let mut random = Random::new(seed);
    let setups = shapes(&mut random);
    let mut cluster = Cluster::of(setups, seed);
    cluster.watch.every_entry = true;
    cluster.fabric.set_weather(weather(&mut random));
    let mut play = Play {
        cluster,
        random,
        flows: Vec::new(),
        next_port: 1_024,
    };
    for _ in 0..EVENTS {
        play.event();
        play.chaos();
    }
    play.rest();
}

fn shapes(random: &mut Random) -> [Setup; 2] {
    let slots = [4, 16, 64][random.index(3)];
    let expiring = random.one_in(2);
    let mut shape = || Setup {
        workers: u16::try_from(random.between(1, 4)).unwrap(),
        events: u16::try_from(random.between(1, 3)).unwrap(),
        ring_entries: [64, 128, 1_024][random.index(3)],
        slots,
        conntracks: 4_096,
        mappings: 4_096,
        pool_addresses: 2,
        pool_ports: PortRange {
            first: 1_024,
            last: 1_024 + 64 * 24 - 1,
        },
        block_size: 64,
        port_rest_s: 3,
        block_idle_s: 3,
        boot_wait: Duration::from_millis(600),
        timeouts: if expiring { short() } else { Timeouts::default() },
        ..Setup::default()
    };
    [shape(), shape()]
}

/// Far below what the RFCs allow, so that much ends while much else happens.
fn short() -> Timeouts {
    Timeouts {
        tcp_opening_s: 4,
        tcp_established_s: 20,
        tcp_closing_s: 3,
        tcp_reset_s: 3,
        udp_opening_s: 5,
        udp_established_s: 9,
        icmp_s: 4,
        other_s: 6,
    }
}

fn weather(random: &mut Random) -> Weather {
    Weather {
        delay: Duration::from_micros(random.between(10, 3_000)),
        jitter: Duration::from_micros(random.below(4_000)),
        room: [600, 5_000, 1 << 20][random.index(3)],
        partial: random.one_in(2),
    }
}

impl Play {
    fn event(&mut self) {
        match self.random.below(20) {
            0..=7 => self.traffic(),
            8 => self.cluster.fabric.cut(!self.cluster.fabric.is_cut()),
            9 => self.cluster.fabric.reset_all(),
            10 => {
                let node = self.random.index(2);
                let clogged = self.random.one_in(2);
                self.cluster.fabric.clog(node, clogged);
            }
            11 => self.kill_or_start(),
            12 => {
                let desire = if self.random.one_in(3) {
                    Desire::Backup
                } else {
                    Desire::Ordered
                };
                let node = self.random.index(2);
                self.cluster.order(node, desire);
            }
            13 => {
                let node = self.random.index(2);
                let stop = self.random.one_in(2);
                if let Some(node) = &mut self.cluster.nodes[node] {
                    node.stop_absorb(stop);
                }
            }
            14 => {
                let node = self.random.index(2);
                if let Some(node) = &mut self.cluster.nodes[node] {
                    let thread = self.random.index(node.threads());
                    node.stopped[thread] = !node.stopped[thread];
                }
            }
            15 => {
                let calm = weather(&mut self.random);
                self.cluster.fabric.set_weather(calm);
            }
            16 => self.failover(),
            17 | 18 => self.rest(),
            _ => {
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
        }
    }

    /// Packets of old and new flows, both ways, to either node: what isn't active must not forward.
    fn traffic(&mut self) {
        for _ in 0..self.random.between(1, 80) {
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
                    self.cluster.out(node, &inside);
                } else {
                    self.cluster.back(node, &outside);
                }
            }
        }
    }

    fn can_forward(&self, node: usize) -> bool {
        self.cluster.nodes[node].as_ref().is_some_and(|n| {
            let threads = n.workers();
            n.packets.alive() < 1_000 && n.stopped[..threads].iter().all(|stopped| !stopped)
        })
    }

    fn open(&mut self, node: usize) {
        let host = subscriber(u8::try_from(self.random.between(1, HOSTS)).unwrap());
        let to = server(u8::try_from(self.random.between(1, 5)).unwrap());
        self.next_port = self.next_port.wrapping_add(1).max(1_024);
        let key = match self.random.below(4) {
            0 => packet::tcp(host, self.next_port, to, 80),
            1 => packet::echo(host, self.next_port, to),
            _ => packet::udp(host, self.next_port, to, 53),
        };
        if let Some(outside) = self.cluster.out(node, &key) {
            self.flows.push((key, outside));
        }
    }

    fn kill_or_start(&mut self) {
        let node = self.random.index(2);
        if self.cluster.nodes[node].is_none() {
            self.cluster.start(node);
        } else {
            let death = if self.random.one_in(2) {
                Death::Process
            } else {
                Death::Power
            };
            self.cluster.kill(node, death);
        }
    }

    /// Everything heals; then both nodes must come to rest with equal tables.
    fn rest(&mut self) {
        self.cluster.fabric.cut(false);
        for node in 0..2 {
            self.cluster.fabric.clog(node, false);
            if self.cluster.nodes[node].is_none() {
                self.cluster.start(node);
            }
            if let Some(node) = &mut self.cluster.nodes[node] {
                node.stop_absorb(false);
                node.stopped.fill(false);
            }
        }
        self.cluster.settle();
    }

    /// The active node dies with everything in sync: the other one must have every conntrack, and forward it.
    fn failover(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        let before = view(self.cluster.node(active));
        let death = if self.random.one_in(2) {
            Death::Process
        } else {
            Death::Power
        };
        self.cluster.kill(active, death);
        self.cluster.order(1 - active, Desire::Ordered);
        self.cluster.run(Duration::from_millis(1_500));
        assert_eq!(self.cluster.node(1 - active).role(MAIN).0, Role::Master);
        let after = view(self.cluster.node(1 - active));
        for (key, row) in &before.conntracks {
            assert!(
                after.conntracks.contains_key(key),
                "lost by the failover: {row:?}"
            );
        }
        for row in before.conntracks.values() {
            let sent = self.cluster.out(1 - active, &row.original);
            let expected = row.reply.reversed();
            assert_eq!(sent, Some(expected), "{:?} after the failover", row.original);
        }
    }
}
