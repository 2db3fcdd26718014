//! Two workers: what it costs that every second packet arrives at the wrong one and is handed over.
//!
//! One thread drives both in turn, and the clocks of both count. So no line moves from one core's cache to another's here: on
//! two cores a handoff costs that in addition, which is what a ring's element costs (S). Slices in which packets
//! arrive at either worker, whoever's they are, take turns with slices in which each arrives at its own.

use anyhow::{Context, ensure};
use dataplane::flow::FlowKey;
use dataplane::shard::{first_worker_of, slot_of_address};
use dataplane::worker::Worker;
use twinpath::dpdk::Ports;

use super::established::{Traffic, expected, frames};
use super::flows::{self, Profile, Step};
use super::frame::{self, Frames};
use super::order::{Order, Way};
use super::random::Random;
use super::report::Report;
use super::rig::{BATCH, Rig, STANDBY_QUEUE, TURNS, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{LAN, SLOTS, Scene, Site, WAN};
use super::stats::{Batches, Spread, Timed, as_f64};

const FLOWS: usize = 65_536;
const SEED: u64 = 61;
const TRAFFIC: Traffic = Traffic::of(Profile::Udp);
const WORKERS: u16 = 2;
/// One output frame in so many is compared.
const CHECK_EVERY: usize = 8;
/// What the goal allows above a packet that is not handed over, in clocks.
const GOAL: f64 = 40.0;

/// Both rows.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let second = rig.standby_io.take().context("the second queues are in use")?;
    let mut twins = Twins::new(rig, second)?;
    let mut batches = Batches::default();
    let (mut own, mut any, mut more, mut shares) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..extent.slices {
        let mut clocks = [0.0; 2];
        for (clocks, astray) in clocks.iter_mut().zip([false, true]) {
            let before = twins.handed_over();
            let warming = extent.batches / 8;
            for count in 0..extent.batches / 2 + warming {
                let timed = twins.batch(rig, astray)?;
                if count >= warming {
                    batches.add(timed);
                }
            }
            let packets = (extent.batches / 2 + warming) * 4 * BATCH;
            let share = as_f64(twins.handed_over() - before) / as_f64(packets as u64);
            ensure!(astray || share == 0.0, "{share} of the packets went astray");
            if astray {
                shares.push(share);
            }
            *clocks = batches.mean() / as_f64(4 * BATCH as u64);
        }
        own.push(clocks[0]);
        any.push(clocks[1]);
        more.push(clocks[1] - clocks[0]);
    }
    ensure!(twins.wrong == 0, "{} wrong packets of two workers", twins.wrong);
    rig.standby_io = Some(twins.second);
    let note = format!(
        "more per packet when every second one is handed over ({:.1} ns) than when none is ({:.1} ns); {FLOWS} UDP flows, two \
         workers that one thread drives in turn, clocks of both: moving lines between cores comes on top",
        rig.ns(Spread::of(&any).median),
        rig.ns(Spread::of(&own).median)
    );
    report.add_with_goal("path.t64k_handoff", &more, "clocks", Some(GOAL), &note);
    let note = "of the packets, in the slices in which they arrive at either worker";
    report.add("path.handoff_share", &shares, "share", note);
    Ok(())
}

struct Twins {
    site: Site,
    second: Ports,
    forth: Frames,
    back: Frames,
    /// Whose each flow is.
    owners: Vec<usize>,
    order: Order,
    random: Random,
    seen: usize,
    wrong: u64,
}

impl Twins {
    fn new(rig: &mut Rig, second: Ports) -> anyhow::Result<Self> {
        let scene = Scene::plain(FLOWS);
        let mut intent = scene.intent();
        intent.vrfs[0].flow_counters = TRAFFIC.counted;
        let site = Site::new(&intent, scene, &[WORKER_QUEUE, STANDBY_QUEUE], SEED)?;
        let keys = flows::draw(TRAFFIC.profile, FLOWS, scene.subscribers(), SEED);
        let owner =
            |key: &FlowKey| usize::from(first_worker_of(slot_of_address(&key.src, SLOTS), WORKERS, 1));
        let mut back = vec![FlowKey::default(); FLOWS];
        let mut twins = Self {
            site,
            second,
            forth: frames(Step::Forth, &keys, TRAFFIC),
            back: Frames::of(0, flows::FRAME_LEN, std::iter::empty()),
            owners: keys.iter().map(owner).collect(),
            order: Order::new(Way::Random, FLOWS, |n| keys[n], SEED),
            random: Random::new(SEED),
            seen: 0,
            wrong: 0,
        };
        twins.establish(rig, &keys, &mut back)?;
        twins.back = frames(Step::Back, &back, TRAFFIC);
        Ok(twins)
    }

    fn establish(&mut self, rig: &mut Rig, keys: &[FlowKey], back: &mut [FlowKey]) -> anyhow::Result<()> {
        let numbers: Vec<u32> = (0..).take(keys.len()).collect();
        for chunk in numbers.chunks(BATCH) {
            for (step, enter, leave) in [(Step::Open, LAN, WAN), (Step::Answer, WAN, LAN)] {
                let tuples: &[FlowKey] = if step == Step::Open { keys } else { back };
                let frames = chunk.iter().map(|&n| flows::frame(step, &tuples[n as usize], n));
                rig.feeder.feed(enter, frames)?;
                self.turns(rig);
                let mut sent = 0;
                for feeder in [&mut rig.feeder, &mut rig.standby_feeder] {
                    sent += feeder.collect(leave, |_, out| {
                        if step == Step::Open {
                            back[flows::number_of(out) as usize] = frame::key_of(out).reversed();
                        }
                    });
                }
                ensure!(sent == chunk.len(), "{sent} of {} flows were let in", chunk.len());
            }
        }
        Ok(())
    }

    /// Both workers, in turn, until everything was received and nothing is between them.
    fn turns(&mut self, rig: &mut Rig) -> Timed {
        let (workers, second) = (&mut self.site.workers, &mut self.second);
        let timed = rig.timed(|io, clock| {
            let mut turns = 0;
            while turns < TURNS || between(workers) {
                workers[0].turn(clock.now(), io);
                workers[1].turn(clock.now(), second);
                turns += 1;
            }
        });
        while self.site.notices.try_recv().is_ok() {}
        rig.even_out();
        timed
    }

    /// As many packets for each worker as it receives in [`TURNS`]: its own, or `astray` anybody's.
    fn batch(&mut self, rig: &mut Rig, astray: bool) -> anyhow::Result<Timed> {
        for (side, port) in [LAN, WAN].into_iter().enumerate() {
            let mut arriving = [const { Vec::new() }; 2];
            while arriving.iter().any(|list: &Vec<usize>| list.len() < BATCH) {
                let flow = self.order.draw(1, side)[0];
                let at = if astray {
                    self.random.below(2)
                } else {
                    self.owners[flow]
                };
                if arriving[at].len() < BATCH {
                    arriving[at].push(flow);
                }
            }
            let frames = if port == LAN { &self.forth } else { &self.back };
            for (feeder, list) in [&mut rig.feeder, &mut rig.standby_feeder]
                .into_iter()
                .zip(&arriving)
            {
                feeder.feed(port, list.iter().map(|&n| frames.get(n)))?;
            }
        }
        let timed = self.turns(rig);
        for port in [WAN, LAN] {
            let mut sent = 0;
            for feeder in [&mut rig.feeder, &mut rig.standby_feeder] {
                sent += feeder.collect(port, |_, out| {
                    self.seen += 1;
                    if self.seen.is_multiple_of(CHECK_EVERY) {
                        let right = expected(&self.forth, &self.back, out, port == WAN);
                        self.wrong += u64::from(right.as_deref() != Some(out));
                    }
                });
            }
            ensure!(
                sent == 2 * BATCH,
                "{sent} of {} packets came through two workers",
                2 * BATCH
            );
        }
        Ok(timed)
    }

    fn handed_over(&self) -> u64 {
        self.site
            .workers
            .iter()
            .map(|worker| worker.tables().counters.handoff_in)
            .sum()
    }
}

/// Whether one has handed over what the other hasn't taken.
fn between(workers: &[Worker<Ports>]) -> bool {
    let counters = || workers.iter().map(|worker| &worker.tables().counters);
    counters().map(|c| c.handoff_out).sum::<u64>() != counters().map(|c| c.handoff_in).sum::<u64>()
}
