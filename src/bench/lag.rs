//! How far the standby is behind: from a delta's emission by the active worker to its application by the standby's,
//! at a steady rate of new connections; first while the standby imports everything, then with nothing else to do.
//!
//! Each node's worker and event thread take turns on a core of the node's own, so that a turn of the one delays the other:
//! what is seen here is an upper bound. Rings and lanes keep order, so a delta is applied when the standby has dealt with
//! as many records as had been told when it was emitted.

use std::collections::VecDeque;

use anyhow::ensure;
use dataplane::flow::FlowKey;
use dataplane::io::BURST;
use dataplane::time::Instant;

use super::flows::{self, Step};
use super::frame;
use super::report::Report;
use super::rig::Rig;
use super::scene::{LAN, WAN};
use super::sync::{Active, Patience, ROLE_EVERY, Standby, Stopped, told};

/// New connections per second.
const RATE: u64 = 100_000;
/// Most connections made while the standby imports, and those made afterwards.
const MADE: [usize; 2] = [40_000, 40_000];

/// Adds the rows; gives the standby back, equal to the active node.
pub(crate) fn run(
    rig: &mut Rig,
    active: &mut Active,
    core: usize,
    report: &mut Report,
) -> anyhow::Result<Stopped> {
    let mut next = active.keys.len();
    active.draw_more(MADE.iter().sum());
    active.part(rig)?;
    let side = active.standby(rig)?;
    let standby = Standby::start(rig, side, None, core)?;
    // What earlier standbys were told is none of this one's business.
    let base = told(&active.side.node);
    let names = ["sync.lag_resync_p99_us", "sync.lag_p99_us"];
    let whens = ["while a standby imports all flows", "with nothing else to do"];
    for (phase, most) in MADE.into_iter().enumerate() {
        let mut lag = Lag {
            base,
            ..Lag::default()
        };
        let first = next;
        let importing = phase == 0;
        lag.watch(rig, active, &standby, &mut next, most, importing)?;
        let mut us: Vec<f64> = lag.samples;
        us.sort_by(f64::total_cmp);
        let at = |percent: usize| us.get(us.len() * percent / 100).copied().unwrap_or(0.0);
        let note = format!(
            "{} new UDP connections, {RATE}/s, {}: emitted to applied, median {:.0} us; the active node's worker and \
             event thread by turns on core {}, the standby's on core {core}",
            next - first,
            whens[phase],
            at(50),
            rig.core
        );
        let goal = (!importing).then_some(1_000.0);
        report.add_with_goal(names[phase], &[at(99)], "us", goal, &note);
    }
    active.keys.truncate(next);
    active.back.truncate(next);
    let stopped = standby.stop(rig)?;
    stopped.side.sync.was_never_paused()?;
    active.side.sync.was_never_paused()?;
    active.compare(&stopped.side.node)?;
    Ok(stopped)
}

/// Deltas under way.
#[derive(Debug, Default)]
struct Lag {
    /// Records told before the standby came.
    base: u64,
    /// Records told it up to and including some delta, and when it was emitted.
    emitted: VecDeque<(u64, Instant)>,
    /// In microseconds.
    samples: Vec<f64>,
}

impl Lag {
    /// Opens up to `most` flows from `next` on, at the rate, until all are open or, when it is `importing`, the standby
    /// has everything; ends when all of them were applied.
    fn watch(
        &mut self,
        rig: &mut Rig,
        active: &mut Active,
        standby: &Standby,
        next: &mut usize,
        most: usize,
        importing: bool,
    ) -> anyhow::Result<()> {
        let patience = Patience::new(&rig.clock);
        let (began, first) = (rig.now(), *next);
        let (mut turns, mut left) = (0_usize, 0);
        loop {
            let now = rig.now();
            if turns.is_multiple_of(ROLE_EVERY) {
                active.side.sync.step_role(now);
                patience.check(&rig.clock, "applying new connections")?;
            }
            turns += 1;
            let imported = standby.is_imported();
            let opening = *next - first < most && !(importing && imported);
            if opening {
                let due = now.since(began).as_nanos() * u128::from(RATE) / 1_000_000_000;
                let due = usize::try_from(due).unwrap_or(most).min(most) + first;
                let until = due.min(*next + BURST).max(*next);
                feed(rig, &active.keys, *next..until)?;
                *next = until;
            }
            let counters = &active.side.node.worker.tables().counters;
            let before = counters.deltas_emitted;
            active.side.node.worker.turn(now, &mut rig.io);
            if active.side.node.worker.tables().counters.deltas_emitted > before {
                let count = told(&active.side.node) - self.base;
                self.emitted.push_back((count, rig.now()));
            }
            active.side.sync.pump.turn(rig.now());
            active.side.node.hush();
            left += collect(rig, &mut active.back);
            let (applied, now) = (standby.received(), rig.now());
            while let Some(&(count, at)) = self.emitted.front()
                && count <= applied
            {
                self.emitted.pop_front();
                self.samples.push(now.since(at).as_secs_f64() * 1e6);
            }
            if !opening && (imported || !importing) && left == *next - first && self.emitted.is_empty() {
                break;
            }
        }
        ensure!(!self.samples.is_empty(), "no delta was emitted");
        Ok(())
    }
}

fn feed(rig: &mut Rig, keys: &[FlowKey], range: core::ops::Range<usize>) -> anyhow::Result<()> {
    let frames: Vec<Vec<u8>> = range
        .map(|n| flows::frame(Step::Open, &keys[n], u32::try_from(n).unwrap_or(u32::MAX)))
        .collect();
    rig.feeder.feed(LAN, frames.iter())
}

/// Takes what has left; returns how many packets that was.
fn collect(rig: &mut Rig, back: &mut [FlowKey]) -> usize {
    rig.feeder.collect(WAN, |_, out| {
        back[flows::number_of(out) as usize] = frame::key_of(out).reversed();
    })
}
