//! Tables that grow: what the worst burst of first packets waits while there comes to be more room, beyond what a burst takes
//! anyway. What the agent does, pages and empty indexes, a second thread does beside the worker.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use dataplane::inbox::{Ask, Visited, Visitor};
use dataplane::io::BURST;
use dataplane::nat::NatLimits;
use dataplane::notice::Notice;
use dataplane::room::{Room, Sizes};
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
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// The row.
pub(crate) fn run(rig: &mut Rig, extent: Extent, other: usize, report: &mut Report) -> anyhow::Result<()> {
    let (begin, end) = sizes(extent);
    let scene = Scene::plain(end);
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
    let measured = fill(rig, &mut node, scene);
    stop.store(true, Ordering::Relaxed);
    let given = serve_until(rig, &mut node, || supplier.is_finished());
    let grown = supplier.join().ok().context("the thread that gives room")??;
    given?;
    let Bursts {
        growing,
        resting,
        refused,
    } = measured?;
    let full = node.worker.tables().counters.dropped(Drop::TableFull);
    ensure!(
        full == refused as u64 && grown > 0,
        "{refused} were lost: {}",
        super::connect::drops(&node)
    );
    let median = Spread::of(&resting).median;
    let worst = |clocks: &[f64]| rig.ns(clocks.iter().copied().fold(0.0, f64::max) - median) / 1_000.0;
    let each: Vec<f64> = growing.iter().map(|clocks| worst(clocks)).collect();
    let all = each.iter().copied().fold(0.0, f64::max);
    let parts = resting.len().div_ceil(growing.len().max(1)).max(1);
    let beside: Vec<f64> = resting.chunks(parts).map(worst).collect();
    let note = format!(
        "worst burst of {BURST} first packets while room is made and keys are carried over, beyond the median of {:.1} us; a run is \
         a doubling, from {begin} flows to {end}; worst of all {all:.1}, without growth {:.1} (median of as many runs); {refused} found \
         the table full, room still on its way",
        rig.ns(median) / 1_000.0,
        Spread::of(&beside).median,
    );
    report.add_with_goal("path.grow_worst_us", &each, "us", Some(20.0), &note);
    Ok(())
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

/// Clocks of bursts that weren't disturbed.
#[derive(Debug, Default)]
struct Bursts {
    /// By doubling: from when room was asked for until the former index has gone.
    growing: Vec<Vec<f64>>,
    resting: Vec<f64>,
    /// First packets that found the table full, because room was still on its way.
    refused: usize,
}

/// First packets, a burst per turn, until the table is as full as it may be.
fn fill(rig: &mut Rig, node: &mut Node, scene: Scene) -> anyhow::Result<Bursts> {
    let keys = flows::draw(Profile::Udp, scene.flows, scene.subscribers(), 92);
    let mut bursts = Bursts::default();
    let mut was_growing = false;
    for (chunk, first) in keys.chunks(BURST).zip((0_u32..).step_by(BURST)) {
        let frames = chunk
            .iter()
            .zip(first..)
            .map(|(key, n)| flows::frame(Step::Open, key, n));
        rig.feeder.feed(LAN, frames)?;
        let standing = node.worker.tables().standing();
        let grows = standing.asked || standing.moving;
        let timed = rig.timed(|io, clock| {
            node.worker.turn(clock.now(), io);
        });
        let sent = rig.feeder.collect(WAN, |_, _| {});
        bursts.refused += chunk.len() - sent;
        if grows && !was_growing {
            bursts.growing.push(Vec::new());
        }
        was_growing = grows;
        if timed.disturbed {
            continue;
        }
        match bursts.growing.last_mut() {
            Some(growing) if grows => growing.push(as_f64(timed.clocks)),
            _ => bursts.resting.push(as_f64(timed.clocks)),
        }
    }
    bursts.growing.retain(|clocks| !clocks.is_empty());
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
    /// Gives room whenever it is wanted; returns how often.
    fn run(self) -> anyhow::Result<u32> {
        let mut given = 0;
        while !self.stop.load(Ordering::Relaxed) {
            if let Ok(Notice::RoomWanted { .. }) = self.notices.recv_timeout(Duration::from_millis(1)) {
                self.double()?;
                given += 1;
            }
        }
        Ok(given)
    }

    fn double(&self) -> anyhow::Result<()> {
        let most = self.most;
        let (sizes, spans) = self.visit(move |tables| {
            let Sizes { conntracks, nat } = tables.standing().sizes;
            let twice = Sizes {
                conntracks: 2 * conntracks,
                nat: NatLimits {
                    mappings: 2 * nat.mappings,
                    ..nat
                },
            };
            let sizes = twice.least(&most);
            (sizes, tables.spans(&sizes))
        })?;
        for span in spans {
            large::populate(span)?;
        }
        let mut room = Some(Room::new(sizes));
        let adopted = self.visit(move |tables| room.take().is_some_and(|room| tables.adopt(room).is_ok()))?;
        ensure!(adopted, "room that was asked for was refused");
        // Freed here, when everything has been carried over.
        self.await_some(Tables::take_spent).map(drop)
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
        Ok(from.recv_timeout(ANSWER_WAIT)?)
    }
}
