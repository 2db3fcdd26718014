//! What a lane carries beside plain TCP: both event threads of a pair by turns on one core, kept busy by a complete
//! resync, against bare writing and reading in the same place.

use anyhow::Context;

use super::report::Report;
use super::rig::Rig;
use super::run::Extent;
use super::scene::SLOTS;
use super::stats::{Spread, as_f64};
use super::sync::{Active, Patience, ROLE_EVERY};
use super::tls;

/// Adds the row.
pub(crate) fn run(
    rig: &mut Rig,
    extent: Extent,
    active: &mut Active,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut ratios, mut lanes) = (Vec::new(), Vec::new());
    for _ in 0..extent.resyncs {
        let plain = Spread::of(&tls::plain(rig, extent)?).median;
        let lane = carry(rig, active)?;
        ratios.push(plain / lane);
        lanes.push(lane);
    }
    let note = format!(
        "bytes per clock of a lane's two event threads as a share of plain loopback TCP's, both ends on one core; {:.2} \
         clocks per byte while all flows are sent",
        Spread::of(&lanes).median
    );
    report.add_with_goal("sync.lane_vs_tcp", &ratios, "", Some(0.2), &note);
    Ok(())
}

/// One complete resync; gives the event threads' clocks of a byte.
fn carry(rig: &mut Rig, active: &mut Active) -> anyhow::Result<f64> {
    let mut standby = active.standby(rig)?;
    let before = sent(active);
    let mut io = rig.standby_io.take().context("a standby is already at work")?;
    let patience = Patience::new(&rig.clock);
    let mut clocks = 0;
    let mut turns = 0_usize;
    loop {
        let now = rig.now();
        if turns.is_multiple_of(ROLE_EVERY) {
            active.side.sync.step_role(now);
            standby.sync.step_role(now);
            patience.check(&rig.clock, "complete resync on one core")?;
            let view = standby.sync.view();
            if view.locals_up > 0 && view.verified >= u32::from(SLOTS) {
                break;
            }
        }
        turns += 1;
        active.side.node.worker.turn(now, &mut rig.io);
        let mut work = 0;
        let timed = rig.timed(|_, _| {
            work = active.side.sync.pump.turn(now) + standby.sync.pump.turn(now);
        });
        if work > 0 {
            clocks += timed.clocks;
        }
        standby.node.worker.turn(now, &mut io);
        standby.node.hush();
    }
    rig.standby_io = Some(io);
    Ok(as_f64(clocks) / as_f64((sent(active) - before).max(1)))
}

/// Bytes that the active node's lanes have ever sent.
fn sent(active: &Active) -> u64 {
    let report = active.side.sync.pump.report();
    report.clients.iter().map(|client| client.bytes_sent).sum()
}
