//! Established flows: a node that has them, their packets, and what has become of each packet.

use core::ops::AddAssign;
use core::time::Duration;

use anyhow::ensure;
use dataplane::config::Intent;
use dataplane::flow::FlowKey;
use dataplane::worker::Worker;
use twinpath::clock::Clock;
use twinpath::dpdk::Ports;
use twinpath::dpdk::counted::allocations;

use super::connect::{create, drops};
use super::flows::{self, FRAME_LEN, Profile, Step};
use super::frame::{self, Frames};
use super::order::{Order, Way};
use super::rig::{BATCH, Rig, TURNS, WORKER_QUEUE};
use super::scene::{LAN, LAN_MAC, LAN_ROUTER_MAC, Node, Scene, Service, WAN, WAN_MAC, WAN_ROUTER_MAC};
use super::stats::Timed;

/// One output frame in so many is checked in full while there are others to time.
const CHECK_EVERY: usize = 8;
/// How long a flow lives without packets: longer than a run takes.
pub(crate) const IDLE_S: u32 = 7_440;
/// Longest frame of the mix.
const LONGEST: usize = 1_514;

/// What has gone through, and what was looked at.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Proof {
    pub(crate) forwarded: u64,
    /// Those that had to be translated, and those that were.
    pub(crate) to_translate: u64,
    pub(crate) translated: u64,
    /// Compared byte by byte with what a plain router makes of them.
    pub(crate) compared: u64,
    pub(crate) wrong: u64,
    /// What the worker has allocated meanwhile.
    pub(crate) allocations: u64,
}

impl AddAssign for Proof {
    fn add_assign(&mut self, other: Self) {
        self.forwarded += other.forwarded;
        self.to_translate += other.to_translate;
        self.translated += other.translated;
        self.compared += other.compared;
        self.wrong += other.wrong;
        self.allocations += other.allocations;
    }
}

/// Kinds of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) profile: Profile,
    pub(crate) service: Service,
    /// Whether they are of the usual mix of lengths; else the shortest.
    pub(crate) mixed: bool,
    /// Whether packets and bytes of each flow are counted.
    pub(crate) counted: bool,
}

impl Traffic {
    /// As the goals define the profile: UDP without counters per flow, TCP with them.
    pub(crate) const fn of(profile: Profile) -> Self {
        Self {
            profile,
            service: Service::Both,
            mixed: false,
            counted: matches!(profile, Profile::Tcp),
        }
    }
}

/// A node with established flows and their packets.
pub(crate) struct Loaded {
    pub(crate) node: Node,
    pub(crate) forth: Frames,
    pub(crate) back: Frames,
    translates: bool,
    /// How far its clock is ahead.
    pub(crate) shift: Duration,
}

impl Loaded {
    /// Makes `flows` flows of random tuples, and the node that has them.
    pub(crate) fn new(rig: &mut Rig, flows: usize, traffic: Traffic, seed: u64) -> anyhow::Result<Self> {
        Self::within(rig, Scene::plain(flows), flows, traffic, seed, |_| {})
    }

    /// As [`Self::new`], in a scene that may have room for more, and with what else its node is told.
    pub(crate) fn within(
        rig: &mut Rig,
        scene: Scene,
        flows: usize,
        traffic: Traffic,
        seed: u64,
        tell: impl FnOnce(&mut Intent),
    ) -> anyhow::Result<Self> {
        let scene = Scene {
            service: traffic.service,
            ..scene
        };
        let mut intent = scene.intent();
        tell(&mut intent);
        intent.vrfs[0].timeouts.udp_established_s = IDLE_S;
        intent.vrfs[0].flow_counters = traffic.counted;
        let (mut node, _events) = Node::with(&intent, scene, WORKER_QUEUE, 11)?;
        let mut keys = flows::draw(traffic.profile, flows, scene.subscribers(), seed);
        if traffic.service == Service::FirewallV6 {
            flows::as_ipv6(&mut keys);
        }
        let mut back = vec![FlowKey::default(); flows];
        establish(rig, &mut node, traffic.profile, &keys, &mut back)?;
        Ok(Self {
            forth: frames(Step::Forth, &keys, traffic),
            back: frames(Step::Back, &back, traffic),
            node,
            translates: traffic.service.translates(),
            shift: Duration::ZERO,
        })
    }

    /// An order of its flows.
    pub(crate) fn order(&self, way: Way, seed: u64) -> Order {
        Order::new(
            way,
            self.forth.count(),
            |n| frame::key_of(self.forth.get(n)),
            seed,
        )
    }

    /// What a plain router makes of the packet that has come out as `out`.
    pub(crate) fn expected(&self, out: &[u8], from_inside: bool) -> Option<Vec<u8>> {
        expected(&self.forth, &self.back, out, from_inside)
    }

    /// A batch of packets, both ways.
    pub(crate) fn batch(
        &mut self,
        rig: &mut Rig,
        order: &mut Order,
        proof: &mut Proof,
    ) -> anyhow::Result<Timed> {
        let (forth, back) = (order.draw(BATCH, 0), order.draw(BATCH, 1));
        self.pass(rig, &forth, &back, CHECK_EVERY, proof)
    }

    /// Takes packets of the flows `forth` from inside and `back` from outside through the worker, at most [`BATCH`] of each;
    /// every `check`-th that comes out is compared.
    pub(crate) fn pass(
        &mut self,
        rig: &mut Rig,
        forth: &[usize],
        back: &[usize],
        check: usize,
        proof: &mut Proof,
    ) -> anyhow::Result<Timed> {
        rig.feeder.feed(LAN, forth.iter().map(|&n| self.forth.get(n)))?;
        rig.feeder.feed(WAN, back.iter().map(|&n| self.back.get(n)))?;
        let before = self.node.worker.tables().counters.translated;
        let (worker, shift) = (&mut self.node.worker, self.shift);
        let allocated = allocations();
        let timed = rig.timed(|io, clock| established_turns(worker, io, clock, shift));
        proof.allocations += allocations() - allocated;
        proof.translated += self.node.worker.tables().counters.translated - before;
        for (port, fed) in [(WAN, forth.len()), (LAN, back.len())] {
            let sent = rig.feeder.collect(port, |index, out| {
                if index % check == 0 {
                    proof.compared += 1;
                    proof.wrong += u64::from(self.expected(out, port == WAN).as_deref() != Some(out));
                }
            });
            ensure!(
                sent == fed,
                "{sent} of {fed} packets came through: {}",
                drops(&self.node)
            );
            proof.forwarded += sent as u64;
            proof.to_translate += if self.translates { sent as u64 } else { 0 };
        }
        Ok(timed)
    }

    /// Compares packets of up to `most` flows, both ways, each with what a plain router makes of it.
    pub(crate) fn compare(&mut self, rig: &mut Rig, most: usize, proof: &mut Proof) -> anyhow::Result<()> {
        let step = self.forth.count().div_ceil(most).max(1);
        let flows: Vec<usize> = (0..self.forth.count()).step_by(step).collect();
        for chunk in flows.chunks(BATCH) {
            self.pass(rig, chunk, chunk, 1, proof)?;
        }
        Ok(())
    }
}

/// What a plain router makes of the packet that has come out as `out`, given which flow that is: none if there is none.
pub(crate) fn expected(forth: &Frames, back: &Frames, out: &[u8], from_inside: bool) -> Option<Vec<u8>> {
    let number = flows::number_of_established(out, from_inside) as usize;
    let (own, other, stations) = if from_inside {
        (forth, back, [WAN_ROUTER_MAC, WAN_MAC])
    } else {
        (back, forth, [LAN_ROUTER_MAC, LAN_MAC])
    };
    (number < own.count()).then(|| {
        let tuple = frame::key_of(other.get(number)).reversed();
        frame::translated(own.get(number), stations, &tuple)
    })
}

/// Takes flows through the steps that make them established, on a node that has nothing else.
pub(crate) fn establish(
    rig: &mut Rig,
    node: &mut Node,
    profile: Profile,
    keys: &[FlowKey],
    back: &mut [FlowKey],
) -> anyhow::Result<()> {
    let steps: &[Step] = match profile {
        Profile::Udp => &[Step::Open, Step::Answer],
        Profile::Tcp => &[Step::Open, Step::Answer, Step::Establish],
    };
    create(rig, node, |_| true, steps, keys, back, 0..keys.len())?;
    let live = node.worker.tables().conntracks.iter_live().count();
    ensure!(
        live == keys.len(),
        "{live} of {} flows are in the table",
        keys.len()
    );
    Ok(())
}

pub(crate) fn frames(step: Step, keys: &[FlowKey], traffic: Traffic) -> Frames {
    let longest = if traffic.mixed {
        LONGEST
    } else if traffic.service == Service::FirewallV6 {
        FRAME_LEN + 6
    } else {
        FRAME_LEN
    };
    let one = |(n, key): (u32, &FlowKey)| {
        let len = if traffic.mixed { flows::mixed_len(n) } else { 0 };
        flows::sized(step, key, n, len)
    };
    Frames::of(keys.len(), longest, (0..).zip(keys).map(one))
}

/// The timed part of a batch. A function that is called, because callgrind is told where to count by name.
#[inline(never)]
fn established_turns(worker: &mut Worker<Ports>, io: &mut Ports, clock: &Clock, shift: Duration) {
    for _ in 0..TURNS {
        worker.turn(clock.now() + shift, io);
    }
}
