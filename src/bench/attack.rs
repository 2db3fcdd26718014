//! Elephants and attacks: what a packet of each costs, and what share of its throughput established traffic keeps on a core
//! that is full, when as many packets of it come in between.
//!
//! Three kinds of batches take turns: established packets alone, the others alone, and both, shuffled. The share is clocks of
//! the first against clocks of the last: it counts against the worker that the others cost anything at all.

use anyhow::ensure;
use dataplane::config::{FirstPacketsPercent, Intent};
use dataplane::flow::{Addr, FlowKey, proto};
use dataplane::io::{BURST, PortId};
use dataplane::wire::build::{Link, Segment};
use dataplane::wire::tcp::SYN;

use super::connect::drops;
use super::established::{Loaded, Traffic};
use super::flows::{self, Profile};
use super::frame;
use super::order::{Order, Way, shuffle};
use super::random::Random;
use super::report::Report;
use super::rig::{BATCH, Rig};
use super::run::Extent;
use super::scene::{LAN, LAN_MAC, LAN_ROUTER_MAC, MAIN, Scene, WAN, WAN_MAC, WAN_ROUTER_MAC};
use super::stats::{Batches, Spread, Timed, as_f64, ratio};

/// Established flows.
const FLOWS: usize = 65_536;
/// Flows that there is room for where a flood is to find some.
const ROOM: usize = 1 << 20;
/// Established packets of each direction in a batch; and in all, the others.
const HALF: usize = BATCH / 2;
/// Batches before anything is timed: an attack has then filled what it fills, and more of its first packets have come than may go
/// unanswered.
const WARMING: usize = 640;
/// One output frame in so many is compared.
const CHECK_EVERY: usize = 8;
/// Second piece of a packet whose first piece never comes: 1,480 bytes on.
const LAST_PIECE: u16 = 1_480 / 8;
/// Share of throughput that is to be kept.
const GOAL: f64 = 0.8;

/// What comes in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    Subscriber,
    Flow,
    Flood,
    Syn,
    Scan,
    Fragments,
    Miss,
}

impl Attack {
    const ALL: [Self; 7] = [
        Self::Subscriber,
        Self::Flow,
        Self::Flood,
        Self::Syn,
        Self::Scan,
        Self::Fragments,
        Self::Miss,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber",
            Self::Flow => "flow",
            Self::Flood => "flood",
            Self::Syn => "syn",
            Self::Scan => "scan",
            Self::Fragments => "fragments",
            Self::Miss => "miss",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Subscriber => "established flows of one subscriber",
            Self::Flow => "one 5-tuple, from inside",
            Self::Flood => {
                "SYNs of new flows from inside, subscribers and servers drawn at random, and room for a million"
            }
            Self::Syn => "the same, and no room",
            Self::Scan => "SYNs of one source outside to public addresses in use, port after port",
            Self::Fragments => "last fragments from outside whose first ones never come",
            Self::Miss => "UDP from anywhere outside to any port of public addresses in use",
        }
    }

    /// Whether every packet of it goes through.
    const fn is_established(self) -> bool {
        matches!(self, Self::Subscriber | Self::Flow)
    }
}

/// All rows about attacks.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    for attack in Attack::ALL {
        measure(rig, extent, attack, report)?;
    }
    Ok(())
}

/// Clocks of the three kinds of batches, per slice.
#[derive(Debug, Default)]
struct Slices {
    alone: Vec<f64>,
    attack: Vec<f64>,
    both: Vec<f64>,
}

fn measure(rig: &mut Rig, extent: Extent, attack: Attack, report: &mut Report) -> anyhow::Result<()> {
    let mut scenario = Scenario::new(rig, attack)?;
    for _ in 0..WARMING {
        scenario.batch(rig, false, true)?;
    }
    let mut slices = Slices::default();
    let mut batches = [const { Batches::EMPTY }; 3];
    scenario.sent = Sent::default();
    for _ in 0..extent.slices {
        for _ in 0..extent.batches / 4 {
            batches[0].add(scenario.batch(rig, true, false)?);
            batches[1].add(scenario.batch(rig, false, true)?);
            batches[2].add(scenario.batch(rig, true, true)?);
        }
        let [alone, attack, both] = batches.each_mut().map(|b| b.mean() / as_f64(2 * HALF as u64));
        slices.alone.push(alone);
        slices.attack.push(attack);
        slices.both.push(both);
    }
    let Sent {
        fed, through, wrong, ..
    } = scenario.sent;
    ensure!(wrong == 0, "{wrong} wrong packets beside {}", attack.words());
    let delivered = as_f64(through) / as_f64(fed);
    let name = attack.name();
    let reasons = drops(&scenario.loaded.node);
    let note = format!(
        "{}: median {:.0} clocks; dropped by then: {}",
        attack.words(),
        Spread::of(&slices.attack).median,
        if reasons.is_empty() { "none" } else { &reasons }
    );
    let ns = rig.all_ns(&slices.attack);
    report.add(&format!("path.attack_{name}_ns"), &ns, "ns/packet", &note);
    let kept: Vec<f64> = ratio(&slices.alone, &slices.both)
        .iter()
        .map(|share| share * delivered)
        .collect();
    let note = format!(
        "of the throughput of {FLOWS} established UDP flows, as many packets of it in between; {fed} established packets, \
         {through} came through; they alone {:.1} ns, with one of it each {:.1} ns",
        rig.ns(Spread::of(&slices.alone).median),
        rig.ns(Spread::of(&slices.both).median)
    );
    report.add_with_bound(
        &format!("path.attack_{name}_kept"),
        &kept,
        "share",
        [Some(GOAL), Some(1.0)],
        &note,
    );
    Ok(())
}

/// Established packets, and what became of them.
#[derive(Debug, Default)]
struct Sent {
    fed: u64,
    through: u64,
    wrong: u64,
    seen: usize,
}

struct Scenario {
    attack: Attack,
    loaded: Loaded,
    order: Order,
    /// Flows of one subscriber.
    own: Vec<usize>,
    public: Vec<Addr>,
    random: Random,
    port: u16,
    sent: Sent,
}

impl Scenario {
    fn new(rig: &mut Rig, attack: Attack) -> anyhow::Result<Self> {
        let scene = Scene::plain(if attack == Attack::Flood { ROOM } else { FLOWS });
        let traffic = Traffic::of(Profile::Udp);
        // As by default: what a node does about floods is a part of this.
        let loaded = Loaded::within(rig, scene, FLOWS, traffic, 51, |intent| {
            intent.first_packets = FirstPacketsPercent::default();
        })?;
        let source = |n| frame::key_of(loaded.forth.get(n)).src;
        let own = (0..FLOWS).filter(|&n| source(n) == source(0)).collect();
        let intent: Intent = scene.intent();
        let public = intent.vrfs[0].pools[0]
            .addresses
            .iter()
            .map(|&a| a.into())
            .collect();
        Ok(Self {
            attack,
            order: loaded.order(Way::Random, 52),
            own,
            public,
            loaded,
            random: Random::new(53),
            port: 0,
            sent: Sent::default(),
        })
    }

    /// One batch: established packets, the others, or both.
    fn batch(&mut self, rig: &mut Rig, established: bool, attacked: bool) -> anyhow::Result<Timed> {
        let mut frames: [Vec<Vec<u8>>; 2] = [vec![], vec![]];
        if established {
            let (forth, back) = (self.order.draw(HALF, 0), self.order.draw(HALF, 1));
            frames[0].extend(forth.iter().map(|&n| self.loaded.forth.get(n).to_vec()));
            frames[1].extend(back.iter().map(|&n| self.loaded.back.get(n).to_vec()));
        }
        if attacked {
            for count in 0..2 * HALF {
                let (port, frame) = self.packet(count);
                frames[port.index()].push(frame);
            }
        }
        let mut turns = 0;
        for (port, list) in [LAN, WAN].into_iter().zip(&mut frames) {
            shuffle(list, &mut self.random);
            rig.feeder.feed(port, list.iter())?;
            turns = turns.max(list.len().div_ceil(BURST));
        }
        let worker = &mut self.loaded.node.worker;
        let timed = rig.timed(|io, clock| {
            for _ in 0..turns {
                worker.turn(clock.now(), io);
            }
        });
        self.loaded.node.hush();
        let counted = established || self.attack.is_established();
        let fed =
            2 * HALF * (usize::from(established) + usize::from(attacked && self.attack.is_established()));
        let through = self.collect(rig);
        ensure!(
            through == fed || counted && !self.attack.is_established(),
            "{through} of {fed} packets came through: {}",
            drops(&self.loaded.node)
        );
        self.sent.fed += fed as u64;
        self.sent.through += through as u64;
        Ok(timed)
    }

    /// Takes what has come out; returns how many of it are of established flows. A flood's own packets are TCP.
    fn collect(&mut self, rig: &mut Rig) -> usize {
        let mut through = 0;
        for port in [WAN, LAN] {
            rig.feeder.collect(port, |_, out| {
                if frame::proto_of(out) != proto::UDP {
                    return;
                }
                through += 1;
                self.sent.seen += 1;
                if self.sent.seen.is_multiple_of(CHECK_EVERY) {
                    let expected = self.loaded.expected(out, port == WAN);
                    self.sent.wrong += u64::from(expected.as_deref() != Some(out));
                }
            });
        }
        through
    }

    fn packet(&mut self, count: usize) -> (PortId, Vec<u8>) {
        match self.attack {
            Attack::Subscriber => {
                let n = self.own[self.random.below(self.own.len())];
                if count.is_multiple_of(2) {
                    (LAN, self.loaded.forth.get(n).to_vec())
                } else {
                    (WAN, self.loaded.back.get(n).to_vec())
                }
            }
            Attack::Flow => (LAN, self.loaded.forth.get(0).to_vec()),
            Attack::Flood | Attack::Syn => (LAN, self.syn_from_inside()),
            Attack::Scan => {
                self.port = self.port.wrapping_add(1);
                let key = FlowKey {
                    src: Addr::v4([20, 1, 2, 3]),
                    src_port: 40_000,
                    dst_port: self.port.max(1_024),
                    ..self.public_key(proto::TCP)
                };
                (WAN, padded(outside().tcp(&key, &syn())))
            }
            Attack::Fragments => {
                let link = Link {
                    id: self.random.word(0, u16::MAX),
                    fragment: LAST_PIECE,
                    ..outside()
                };
                (WAN, padded(link.ip(&self.public_key(proto::UDP), &[0; 40])))
            }
            Attack::Miss => {
                let key = self.public_key(proto::UDP);
                (WAN, outside().udp(&key, &[0; 18]))
            }
        }
    }

    fn syn_from_inside(&mut self) -> Vec<u8> {
        let n = self.random.below(FLOWS);
        let [a, b, c, ..] = self.random.next().to_be_bytes();
        let key = FlowKey {
            src: frame::key_of(self.loaded.forth.get(n)).src,
            dst: Addr::v4([20, a, b, c]),
            src_port: self.random.word(1_024, u16::MAX),
            dst_port: self.random.word(1_024, u16::MAX),
            vrf: MAIN,
            proto: proto::TCP,
        };
        let link = Link {
            dst_mac: LAN_MAC,
            src_mac: LAN_ROUTER_MAC,
            ..Link::default()
        };
        padded(link.tcp(&key, &syn()))
    }

    fn public_key(&mut self, proto: u8) -> FlowKey {
        let [a, b, c, ..] = self.random.next().to_be_bytes();
        FlowKey {
            src: Addr::v4([20, a, b, c]),
            dst: self.public[self.random.below(self.public.len())],
            src_port: self.random.word(1_024, u16::MAX),
            dst_port: self.random.word(1_024, u16::MAX),
            vrf: MAIN,
            proto,
        }
    }
}

fn outside() -> Link {
    Link {
        dst_mac: WAN_MAC,
        src_mac: WAN_ROUTER_MAC,
        ..Link::default()
    }
}

fn syn() -> Segment<'static> {
    Segment {
        flags: SYN,
        window: u16::MAX,
        ..Segment::default()
    }
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(flows::FRAME_LEN), 0);
    frame
}
