//! Tables that grow: what the worst burst of first packets waits while there comes to be more room, beyond what a burst takes
//! anyway. What the agent does, pages and empty indexes, a second thread does beside the worker.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use crossbeam_channel::{Receiver, Sender, TryRecvError, after, bounded};
use dataplane::flow::FlowKey;
use dataplane::inbox::{Ask, Visited, Visitor};
use dataplane::io::BURST;
use dataplane::nat::NatLimits;
use dataplane::notice::Notice;
use dataplane::room::{Room, Sizes, Standing, Step as RoomStep};
use dataplane::tables::Tables;
use dataplane::verdict::Drop;
use twinpath::dpdk::large;

use super::flows::{self, Profile, Step};
use super::report::Report;
use super::rig::{Rig, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{LAN, Node, Scene, WAN};
use super::stats::{Spread, as_f64};

/// Bytes of a flow in everything that is held for it here, frames' tuples included.
const FLOW_BYTES: u64 = 600;
/// How long the worker may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(300);
/// Between two looks of the thread that gives room, and how often it looks.
const LOOK_AFTER: Duration = Duration::from_micros(200);
const LOOKS_MAX: usize = 1_500_000;

/// Growths of as many tables. A timer of the kernel or another guest of the machine holds up one burst or another, and a burst
/// says little of the code for that; what the code does at some point of a growth it does in each of them.
const GROWTHS: usize = 5;

/// The row.
pub(crate) fn run(rig: &mut Rig, extent: Extent, other: usize, report: &mut Report) -> anyhow::Result<()> {
    let (begin, end) = sizes(extent);
    let scene = Scene::plain(end);
    let keys = flows::draw(Profile::Udp, scene.flows, scene.subscribers(), 92);
    let mut growths = Vec::new();
    for _ in 0..GROWTHS {
        growths.push(growth(rig, begin, scene, other, &keys)?);
    }
    let resting: Vec<f64> = growths
        .iter()
        .flat_map(|growth| &growth.resting)
        .copied()
        .collect();
    let median = Spread::of(&resting).median;
    let beyond = |clocks: f64| rig.ns(clocks - median) / 1_000.0;
    let doublings = growths.iter().map(|growth| growth.growing.len()).min();
    let each: Vec<f64> = (0..doublings.unwrap_or_default())
        .map(|n| {
            let same: Vec<&Doubling> = growths.iter().map(|growth| &growth.growing[n]).collect();
            beyond(
                Phase::ALL
                    .iter()
                    .map(|&phase| always(&same, phase))
                    .fold(0.0, f64::max),
            )
        })
        .collect();
    let worst = |clocks: &[f64]| beyond(clocks.iter().copied().fold(0.0, f64::max));
    let bursts: Vec<Vec<f64>> = growths
        .iter()
        .flat_map(|growth| &growth.growing)
        .map(Doubling::bursts)
        .collect();
    let single: Vec<f64> = bursts.iter().map(|bursts| worst(bursts)).collect();
    let parts = resting.len().div_ceil(bursts.len().max(1)).max(1);
    let beside: Vec<f64> = resting.chunks(parts).map(worst).collect();
    let refused: usize = growths.iter().map(|growth| growth.refused).sum();
    let note = format!(
        "worst burst of {BURST} first packets while room is made and keys are carried over, beyond the median of {:.1} us, of what that \
         burst took at least in {GROWTHS} growths; a run is a doubling, from {begin} flows to {end}; worst single burst of a doubling \
         {:.1}, of as many without growth {:.1} (medians); {refused} found the table full, room still on its way",
        rig.ns(median) / 1_000.0,
        Spread::of(&single).median,
        Spread::of(&beside).median,
    );
    report.add_with_goal("path.grow_worst_us", &each, "us", Some(20.0), &note);
    Ok(())
}

/// A table that grows from `begin` conntracks to what the scene has.
fn growth(
    rig: &mut Rig,
    begin: usize,
    scene: Scene,
    other: usize,
    keys: &[FlowKey],
) -> anyhow::Result<Bursts> {
    let most = scene.limits();
    let start = Scene::plain(begin).limits();
    let (mut node, _events) = Node::growing(scene, start, WORKER_QUEUE, 91)?;
    let stop = Arc::new(AtomicBool::new(false));
    let supplier = Supplier {
        ask: node.asks[0].clone(),
        notices: node.notices.clone(),
        most: Sizes {
            conntracks: most.conntracks,
            nat: most.nat,
        },
        stop: Arc::clone(&stop),
    };
    let supplier = twinpath::thread::spawn("room", other, move || supplier.run())?;
    let measured = fill(rig, &mut node, keys);
    stop.store(true, Ordering::Relaxed);
    let given = serve_until(rig, &mut node, || supplier.is_finished());
    let grown = supplier.join().ok().context("the thread that gives room")??;
    given?;
    let bursts = measured?;
    let full = node.worker.tables().counters.dropped(Drop::TableFull);
    ensure!(
        full == bursts.refused as u64 && grown > 0,
        "{} were lost: {}",
        bursts.refused,
        super::connect::drops(&node)
    );
    Ok(bursts)
}

/// The worst burst of a phase of the same doubling, of what each burst took at least. Counted is as far as all of them came.
fn always(same: &[&Doubling], phase: Phase) -> f64 {
    let of = |doubling: &'_ Doubling| doubling.0[phase as usize].len();
    let length = same.iter().map(|doubling| of(doubling)).min().unwrap_or_default();
    let least = |n: usize| {
        let took = same.iter().filter_map(|doubling| doubling.0[phase as usize][n]);
        took.fold(f64::INFINITY, f64::min)
    };
    (0..length)
        .map(least)
        .filter(|clocks| clocks.is_finite())
        .fold(0.0, f64::max)
}

/// From how many flows to how many: as far as memory goes.
fn sizes(extent: Extent) -> (usize, usize) {
    if extent.quick {
        return (1 << 15, 1 << 18);
    }
    let mut end = 1 << 24;
    while end > 1 << 20 && end as u64 * FLOW_BYTES > twinpath::machine::memory_available() {
        end /= 2;
    }
    (end / 16, end)
}

/// What a growing table is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Room was asked for.
    Asked,
    /// Keys are carried over, until the former index has gone.
    Moving,
    /// Nothing is left to be carried over, and the last limits are yet to go up.
    Rising,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Asked, Self::Moving, Self::Rising];

    const fn of(standing: &Standing) -> Option<Self> {
        let rising = standing.sizes.conntracks < standing.indexed;
        match (standing.moving, rising, standing.asked) {
            (true, ..) => Some(Self::Moving),
            (false, true, _) => Some(Self::Rising),
            (false, false, true) => Some(Self::Asked),
            (false, false, false) => None,
        }
    }
}

/// Clocks of the bursts of a doubling, by phase and in order; none where the worker lost its core.
#[derive(Debug, Default)]
struct Doubling([Vec<Option<f64>>; 3]);

impl Doubling {
    fn bursts(&self) -> Vec<f64> {
        self.0.iter().flatten().copied().flatten().collect()
    }
}

/// Clocks of bursts.
#[derive(Debug, Default)]
struct Bursts {
    growing: Vec<Doubling>,
    /// Of those that weren't disturbed.
    resting: Vec<f64>,
    /// First packets that found the table full, because room was still on its way.
    refused: usize,
}

/// First packets, a burst per turn, until the table is as full as it may be.
fn fill(rig: &mut Rig, node: &mut Node, keys: &[FlowKey]) -> anyhow::Result<Bursts> {
    let mut bursts = Bursts::default();
    let mut before = None;
    for (chunk, first) in keys.chunks(BURST).zip((0_u32..).step_by(BURST)) {
        let frames = chunk
            .iter()
            .zip(first..)
            .map(|(key, n)| flows::frame(Step::Open, key, n));
        rig.feeder.feed(LAN, frames)?;
        let timed = rig.timed(|io, clock| {
            node.worker.turn(clock.now(), io);
        });
        // What the turn has done is of the phase that it has left things in.
        let phase = Phase::of(&node.worker.tables().standing());
        let sent = rig.feeder.collect(WAN, |_, _| {});
        bursts.refused += chunk.len() - sent;
        if phase.is_some() && (before.is_none() || phase == Some(Phase::Asked) && before != phase) {
            bursts.growing.push(Doubling::default());
        }
        before = phase;
        let clocks = (!timed.disturbed).then_some(as_f64(timed.clocks));
        match (phase, bursts.growing.last_mut()) {
            (Some(phase), Some(doubling)) => doubling.0[phase as usize].push(clocks),
            _ => bursts.resting.extend(clocks),
        }
    }
    Ok(bursts)
}

/// Turns without packets, so that questions are answered.
fn serve_until(rig: &mut Rig, node: &mut Node, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let begin = rig.now();
    while !done() {
        ensure!(
            rig.now().since(begin) < 2 * ANSWER_WAIT,
            "the thread that gives room doesn't end"
        );
        let now = rig.now();
        node.worker.turn(now, &mut rig.io);
    }
    Ok(())
}

/// The agent's part.
struct Supplier {
    ask: Sender<Ask>,
    notices: Receiver<Notice>,
    most: Sizes,
    stop: Arc<AtomicBool>,
}

impl Supplier {
    /// Gives room whenever it is wanted, in the agent's steps; returns how often.
    fn run(self) -> anyhow::Result<u32> {
        let mut given = 0;
        while !self.stop.load(Ordering::Relaxed) {
            match self.notices.try_recv() {
                Ok(Notice::RoomWanted { .. }) => {
                    self.double()?;
                    given += 1;
                }
                Ok(_) => {}
                Err(_) => rest(),
            }
        }
        Ok(given)
    }

    fn double(&self) -> anyhow::Result<()> {
        let Sizes { conntracks, nat } = self.visit(|tables| tables.standing().sizes)?;
        let twice = Sizes {
            conntracks: 2 * conntracks,
            nat: NatLimits {
                mappings: 2 * nat.mappings,
                ..nat
            },
        };
        while self.step(twice.least(&self.most))? {}
        // Freed here, when everything has been carried over.
        self.await_some(Tables::take_spent).map(drop)
    }

    /// A step towards what is wanted; false when there is none left.
    fn step(&self, wanted: Sizes) -> anyhow::Result<bool> {
        let (step, spans) = self.visit(move |tables| {
            let step = tables.standing().next(&wanted);
            let spans = match step {
                RoomStep::Give(sizes) => vec![tables.room_span(&sizes)],
                RoomStep::Raise(sizes) => tables.spans(&sizes),
                _ => vec![],
            };
            (step, spans)
        })?;
        for span in spans {
            large::populate(span)?;
        }
        let taken = match step {
            RoomStep::Give(sizes) => {
                let mut room = Some(Room::new(sizes));
                self.visit(move |tables| room.take().is_some_and(|room| tables.adopt(room).is_ok()))?
            }
            RoomStep::Raise(sizes) => self.visit(move |tables| tables.raise(&sizes))?,
            RoomStep::Done => return Ok(false),
            RoomStep::Lower(_) | RoomStep::Wait => false,
        };
        ensure!(taken, "room that was asked for was refused");
        Ok(true)
    }

    fn visit<T: Send + 'static>(
        &self,
        mut look: impl FnMut(&mut Tables) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.await_some(move |tables| Some(look(tables)))
    }

    /// What a look at the tables, one per turn, finds in the end.
    fn await_some<T: Send + 'static>(
        &self,
        mut look: impl FnMut(&mut Tables) -> Option<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (to, from) = bounded(1);
        let visitor = Visitor::new(move |tables, _| {
            let Some(found) = look(tables) else {
                return Visited::More;
            };
            // Whoever asked waits for it.
            let _ = to.try_send(found);
            Visited::Done
        });
        ensure!(self.ask.send(Ask::Visit(visitor)).is_ok(), "the worker is gone");
        // Nobody sleeps on the channel, as the agent doesn't: waking somebody is a system call of the worker's.
        for _ in 0..LOOKS_MAX {
            match from.try_recv() {
                Ok(found) => return Ok(found),
                Err(TryRecvError::Empty) => rest(),
                Err(error) => return Err(error.into()),
            }
        }
        bail!("the worker doesn't answer")
    }
}

/// Until it looks again.
fn rest() {
    let _ = after(LOOK_AFTER).recv();
}
