//! The packet path: nanoseconds per packet of established flows in random order, beside the yardsticks, in
//! alternating slices of one run; memory per flow; clocks of a new flow.

use dataplane::config::OutputCommit;
use dataplane::flow::FlowKey;
use dataplane::io::{Burst, PortId};
use dataplane::worker::Worker;
use twinpath::clock::Clock;
use twinpath::dpdk::{Mbuf, Ports, tsc};

use anyhow::ensure;

use super::flows::{self, FRAME_LEN, Frame, Profile, Step};
use super::machine::memory_touched;
use super::random::Random;
use super::report::Report;
use super::rig::{BATCH, Rig, TURNS, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{LAN, Node, Scene, WAN};
use super::stats::{Batches, Timed, as_f64};
use super::yardstick::{Arena, bare, stateless};

/// One output frame in so many is checked in full.
const CHECK_EVERY: usize = 8;
/// Turns after which a worker must have told everybody everything.
const TURNS_MAX: usize = 10_000_000;
/// Looks at a standby that makes no progress.
const LOOKS_MAX: usize = 1_000_000_000;

/// Packets that went through while something was timed, and frames checked in full.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Proof {
    pub(crate) forwarded: u64,
    pub(crate) translated: u64,
    pub(crate) verified: u64,
}

/// A node with established flows and their packets.
pub(crate) struct Loaded {
    pub(crate) node: Node,
    pub(crate) forth: Vec<Frame>,
    pub(crate) back: Vec<Frame>,
    random: Random,
}

impl Loaded {
    /// What leaves towards the outside has the tuple that the outside answers, and the other way round.
    fn agrees(&self, out: &[u8], from_inside: bool) -> bool {
        let number = flows::number_of_established(out, from_inside) as usize;
        let other = if from_inside { &self.back } else { &self.forth };
        other
            .get(number)
            .is_some_and(|frame| flows::key_of(out) == flows::key_of(&frame.0).reversed())
    }

    fn draw(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.random.below(self.forth.len())).collect()
    }

    /// One batch of random flows, both ways.
    pub(crate) fn batch(&mut self, rig: &mut Rig, proof: &mut Proof) -> anyhow::Result<Timed> {
        let (forth, back) = (self.draw(BATCH), self.draw(BATCH));
        rig.feeder.feed(LAN, forth.iter().map(|&i| &self.forth[i].0))?;
        rig.feeder.feed(WAN, back.iter().map(|&i| &self.back[i].0))?;
        let before = self.node.worker.tables().counters.translated;
        let worker = &mut self.node.worker;
        let clocks = rig.timed(|io, clock| established_turns(worker, io, clock));
        proof.translated += self.node.worker.tables().counters.translated - before;
        for port in [WAN, LAN] {
            let mut bad = 0;
            let mut verified = 0;
            let sent = rig.feeder.collect(port, |index, frame| {
                if index % CHECK_EVERY == 0 {
                    verified += 1;
                    bad += usize::from(!flows::is_sound(frame) || !self.agrees(frame, port == WAN));
                }
            });
            ensure!(bad == 0, "{bad} of {verified} frames looked at are damaged");
            ensure!(
                sent == BATCH,
                "{sent} of {BATCH} packets came through: {}",
                drops(&self.node)
            );
            proof.forwarded += sent as u64;
            proof.verified += verified;
        }
        Ok(clocks)
    }
}

/// The timed part of a batch. A function that is called, because callgrind is told where to count by name.
#[inline(never)]
fn established_turns(worker: &mut Worker<Ports>, io: &mut Ports, clock: &Clock) {
    for _ in 0..TURNS {
        worker.turn(clock.now(), io);
    }
}

/// Why packets did not come through.
pub(crate) fn drops(node: &Node) -> String {
    let counters = &node.worker.tables().counters;
    let seen = counters.drops().filter(|(_, count)| *count > 0);
    seen.map(|(reason, count)| format!("{} {count}", reason.name()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Takes one step of some flows through the worker, in their order, until nothing is left to do. Timed are the turns in
/// which there was something to do. `back` gets the tuple with which the outside answers.
pub(crate) fn step(
    rig: &mut Rig,
    node: &mut Node,
    step: Step,
    keys: &[FlowKey],
    back: &mut [FlowKey],
    numbers: &[u32],
) -> anyhow::Result<Timed> {
    let (enter, leave): (PortId, PortId) = if step.is_from_inside() {
        (LAN, WAN)
    } else {
        (WAN, LAN)
    };
    let frames: Vec<Frame> = numbers
        .iter()
        .map(|&n| {
            let key = if step.is_from_inside() { keys } else { &*back };
            flows::frame(step, &key[n as usize], n)
        })
        .collect();
    rig.feeder.feed(enter, frames.iter().map(|f| &f.0))?;
    let mut clocks = 0;
    let mut turns = 0;
    rig.watch.start();
    loop {
        let start = tsc::read();
        let work = node.worker.turn(rig.clock.now(), &mut rig.io);
        let took = tsc::read() - start;
        if work > 0 {
            clocks += took;
        } else if node.worker.tables().waiting() == 0 {
            break;
        }
        turns += 1;
        ensure!(
            turns < TURNS_MAX,
            "{} changes were never told",
            node.worker.tables().waiting()
        );
    }
    let disturbed = rig.watch.disturbed();
    let mut bad = 0;
    let sent = rig.feeder.collect(leave, |index, frame| {
        if step == Step::Open {
            back[flows::number_of(frame) as usize] = flows::key_of(frame).reversed();
        }
        bad += usize::from(index % CHECK_EVERY == 0 && !flows::is_sound(frame));
    });
    ensure!(bad == 0, "{bad} damaged frames in step {step:?}");
    ensure!(
        sent == numbers.len(),
        "step {step:?}: {sent} of {} came through: {}",
        numbers.len(),
        drops(node)
    );
    Ok(Timed { clocks, disturbed })
}

/// Steps of a new flow that are timed, and the rest that makes it established.
pub(crate) const fn life(profile: Profile) -> &'static [Step] {
    match profile {
        Profile::Udp => &[Step::Open],
        Profile::Tcp => &[
            Step::Open,
            Step::Answer,
            Step::Establish,
            Step::Close,
            Step::CloseBack,
            Step::Closed,
        ],
    }
}

/// Takes `keys[range]` through `steps`, a batch of flows at a time, each when `ready` says so; returns the mean clocks
/// per flow.
pub(crate) fn create(
    rig: &mut Rig,
    node: &mut Node,
    ready: impl Fn(&Node) -> bool,
    steps: &[Step],
    keys: &[FlowKey],
    back: &mut [FlowKey],
    range: core::ops::Range<usize>,
) -> anyhow::Result<f64> {
    let mut batches = Batches::default();
    let numbers: Vec<u32> = range.filter_map(|n| u32::try_from(n).ok()).collect();
    for chunk in numbers.chunks(BATCH) {
        let mut whole = Timed::default();
        for &one in steps {
            let mut looks = 0;
            while !ready(node) {
                looks += 1;
                ensure!(looks < LOOKS_MAX, "the standby takes nothing any more");
                std::hint::spin_loop();
            }
            let timed = step(rig, node, one, keys, back, chunk)?;
            whole.clocks += timed.clocks;
            whole.disturbed |= timed.disturbed;
        }
        batches.add(whole);
        node.hush();
    }
    let per_batch = as_f64(numbers.len() as u64) / as_f64(numbers.chunks(BATCH).len().max(1) as u64);
    Ok(batches.mean() / per_batch)
}

/// Sets up `scene.flows` established flows in random tuples.
pub(crate) fn load(
    rig: &mut Rig,
    mut node: Node,
    scene: Scene,
    profile: Profile,
    seed: u64,
) -> anyhow::Result<Loaded> {
    let keys = flows::draw(profile, scene.flows, scene.subscribers(), seed);
    let mut back = vec![FlowKey::default(); keys.len()];
    let steps: &[Step] = match profile {
        Profile::Udp => &[Step::Open, Step::Answer],
        Profile::Tcp => &[Step::Open, Step::Answer, Step::Establish],
    };
    create(rig, &mut node, |_| true, steps, &keys, &mut back, 0..keys.len())?;
    let live = node.worker.tables().conntracks.iter_live().count();
    ensure!(
        live == scene.flows,
        "{live} of {} flows are in the table",
        scene.flows
    );
    let frames = |step: Step, keys: &[FlowKey]| {
        (0..)
            .zip(keys)
            .map(|(n, key)| flows::frame(step, key, n))
            .collect()
    };
    Ok(Loaded {
        forth: frames(Step::Forth, &keys),
        back: frames(Step::Back, &back),
        node,
        random: Random::new(seed ^ 0x5eed),
    })
}

struct Size {
    name: &'static str,
    flows: usize,
    profile: Profile,
    loaded: Loaded,
    clocks: Vec<f64>,
}

/// All rows of the packet path.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let mut proof = Proof::default();
    let mut sizes = Vec::new();
    for &(name, flows, profile) in sizes_of(extent) {
        let scene = Scene {
            flows,
            replicated: false,
            commit: OutputCommit::Off,
        };
        let before = memory_touched();
        let (node, _events) = Node::new(scene, WORKER_QUEUE, 11)?;
        let loaded = load(rig, node, scene, profile, 1 + flows as u64)?;
        let frames = 2 * flows * size_of::<Frame>();
        let bytes = as_f64(memory_touched().saturating_sub(before + frames as u64)) / as_f64(flows as u64);
        if flows >= 1 << 19 {
            let (id, what) = match profile {
                Profile::Udp => ("path.bytes_per_flow", "UDP"),
                Profile::Tcp => ("path.tcp_bytes_per_flow", "TCP"),
            };
            report.add(
                id,
                &[bytes],
                "B",
                &format!("memory touched per established {what} flow with NAT: index, arena, wheel, mapping; tables 90 % full, {flows} flows"),
            );
        }
        sizes.push(Size {
            name,
            flows,
            profile,
            loaded,
            clocks: Vec::new(),
        });
    }
    let mut arena = Arena::new();
    let mut yard = Yard::default();
    let mut batches = Batches::default();
    for _ in 0..extent.slices {
        yard.slice(rig, extent, &mut arena, &mut batches, &mut sizes[0].loaded)?;
        for size in &mut sizes {
            for count in 0..extent.batches + extent.batches / 8 {
                let timed = size.loaded.batch(rig, &mut proof)?;
                if count >= extent.batches / 8 {
                    batches.add(timed);
                }
            }
            size.clocks.push(batches.mean() / as_f64(2 * BATCH as u64));
        }
    }
    tell(rig, report, &yard, &sizes);
    println!(
        "packet path: {} packets forwarded in timed slices, {} of them translated, {} output frames verified in full \
         (TTL, addresses, IP and transport checksums), 0 wrong; yardsticks: {} packets, {} headers verified; \
         {} of {} batches left out as interrupted",
        proof.forwarded,
        proof.translated,
        proof.verified,
        yard.packets,
        yard.verified,
        batches.interrupted,
        batches.total
    );
    ensure!(
        proof.translated == proof.forwarded,
        "not every packet was translated"
    );
    drop(sizes);
    new_flows(rig, extent, report)
}

const fn sizes_of(extent: Extent) -> &'static [(&'static str, usize, Profile)] {
    const ALL: &[(&str, usize, Profile)] = &[
        ("t1k", 1_024, Profile::Udp),
        ("t64k", 65_536, Profile::Udp),
        ("t1m", 1 << 20, Profile::Udp),
        ("tcp_t1k", 1_024, Profile::Tcp),
        ("tcp_t64k", 65_536, Profile::Tcp),
        ("tcp_t1m", 1 << 20, Profile::Tcp),
    ];
    if extent.quick { ALL.split_at(3).0 } else { ALL }
}

/// Clocks of the yardsticks, per slice.
#[derive(Debug, Default)]
struct Yard {
    b0: Vec<f64>,
    b1: Vec<f64>,
    r: Vec<f64>,
    packets: u64,
    verified: u64,
}

impl Yard {
    fn slice(
        &mut self,
        rig: &mut Rig,
        extent: Extent,
        arena: &mut Arena,
        batches: &mut Batches,
        frames: &mut Loaded,
    ) -> anyhow::Result<()> {
        let packets = as_f64(2 * BATCH as u64);
        self.bursts(rig, extent, batches, frames, false)?;
        self.b0.push(batches.mean() / packets);
        self.bursts(rig, extent, batches, frames, true)?;
        self.b1.push(batches.mean() / packets);
        let lines = 4_096;
        for _ in 0..extent.batches / 4 {
            batches.add(rig.timed(|_, _| arena.read(lines)));
        }
        self.r.push(batches.mean() / as_f64(lines as u64));
        Ok(())
    }

    fn bursts(
        &mut self,
        rig: &mut Rig,
        extent: Extent,
        batches: &mut Batches,
        frames: &mut Loaded,
        touch: bool,
    ) -> anyhow::Result<()> {
        let mut burst: Burst<Mbuf> = Burst::new();
        for _ in 0..extent.batches {
            let (forth, back) = (frames.draw(BATCH), frames.draw(BATCH));
            let frame = |list: &'_ [Frame], i: usize| -> [u8; FRAME_LEN] { list[i].0 };
            let forth: Vec<_> = forth.iter().map(|&i| frame(&frames.forth, i)).collect();
            let back: Vec<_> = back.iter().map(|&i| frame(&frames.back, i)).collect();
            rig.feeder.feed(LAN, forth.iter())?;
            rig.feeder.feed(WAN, back.iter())?;
            let clocks = rig.timed(|io, _| {
                if touch {
                    stateless(io, &mut burst);
                } else {
                    bare(io, &mut burst);
                }
            });
            batches.add(clocks);
            for port in [LAN, WAN] {
                let mut bad = 0;
                let mut looked = 0;
                let sent = rig.feeder.collect(port, |index, frame| {
                    if touch && index % CHECK_EVERY == 0 {
                        looked += 1;
                        bad += usize::from(!flows::is_header_sound(frame));
                    }
                });
                ensure!(
                    sent == BATCH && bad == 0,
                    "yardstick: {sent} packets, {bad} damaged"
                );
                self.packets += sent as u64;
                self.verified += looked;
            }
        }
        Ok(())
    }
}

fn tell(rig: &Rig, report: &mut Report, yard: &Yard, sizes: &[Size]) {
    let ns = |clocks: &[f64]| clocks.iter().map(|&c| rig.ns(c)).collect::<Vec<_>>();
    report.add(
        "path.b0_ns",
        &ns(&yard.b0),
        "ns/packet",
        "bare receive and send, two ring ports both ways, burst 32",
    );
    report.add(
        "path.b1_ns",
        &ns(&yard.b1),
        "ns/packet",
        "stateless forwarder on the same packets",
    );
    report.add(
        "path.r_ns",
        &ns(&yard.r),
        "ns/line",
        "independent random lines of 1 GiB",
    );
    for size in sizes {
        let note = format!(
            "{} flows of {} subscribers, both directions, drawn at random, no replication: median {:.0} clocks",
            size.flows,
            Scene {
                flows: size.flows,
                replicated: false,
                commit: OutputCommit::Off
            }
            .subscribers(),
            super::stats::Spread::of(&size.clocks).median
        );
        report.add(
            &format!("path.{}_ns", size.name),
            &ns(&size.clocks),
            "ns/packet",
            &note,
        );
    }
    let ratio = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>();
    for (profile, goals) in [(Profile::Udp, [4.0, 5.0, 2.2]), (Profile::Tcp, [4.0, 5.0, 3.2])] {
        let mut of = sizes.iter().filter(|s| s.profile == profile);
        let (Some(small), Some(middle)) = (of.next(), of.next()) else {
            continue;
        };
        for (size, goal) in [(small, goals[0]), (middle, goals[1])] {
            let id = format!("path.{}", size.name);
            report.add_with_goal(&id, &ratio(&size.clocks, &yard.b1), "x B1", Some(goal), "");
        }
        if let Some(large) = of.next() {
            let extra: Vec<f64> = large
                .clocks
                .iter()
                .zip(&small.clocks)
                .map(|(a, b)| a - b)
                .collect();
            report.add_with_goal(
                &format!("path.{}", large.name),
                &ratio(&extra, &yard.r),
                "x R",
                Some(goals[2]),
                "more than with 1k flows",
            );
        }
    }
}

/// Clocks of new flows into a table that fills up, and connections per second from them.
fn new_flows(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    for profile in [Profile::Udp, Profile::Tcp] {
        let scene = Scene {
            flows: extent.new_flows,
            replicated: false,
            commit: OutputCommit::Off,
        };
        let (mut node, _events) = Node::new(scene, WORKER_QUEUE, 21)?;
        let keys = flows::draw(profile, scene.flows, scene.subscribers(), 77);
        let mut back = vec![FlowKey::default(); keys.len()];
        let slice = scene.flows / extent.new_slices;
        let mut clocks = Vec::new();
        for n in 0..extent.new_slices {
            let range = n * slice..(n + 1) * slice;
            clocks.push(create(
                rig,
                &mut node,
                |_| true,
                life(profile),
                &keys,
                &mut back,
                range,
            )?);
        }
        let rates: Vec<f64> = clocks.iter().map(|c| rig.hz() / c).collect();
        let filling = format!("table filling to {} flows, no replication", scene.flows);
        match profile {
            Profile::Udp => {
                report.add(
                    "path.new_flow_cycles",
                    &clocks,
                    "clocks",
                    &format!("one UDP packet: rules, NAT port, insert, forward; {filling}"),
                );
                report.add("path.udp_conn_per_s", &rates, "1/s", &filling);
            }
            Profile::Tcp => report.add(
                "path.tcp_conn_per_s",
                &rates,
                "1/s",
                &format!("whole connections of 6 packets, SYN to last ACK; {filling}"),
            ),
        }
        let created = node.worker.tables().counters.conntracks_created;
        ensure!(
            created == (slice * extent.new_slices) as u64,
            "{created} conntracks were created"
        );
    }
    Ok(())
}
