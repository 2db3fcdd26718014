//! What output commit costs the first packet of a flow: the time until it leaves, while the standby has to say that it holds the
//! flow, beside the time when nobody waits. One packet at a time, so that none waits for another. Each node's worker and
//! event thread take turns on a core of the node's own.

use anyhow::ensure;
use dataplane::config::OutputCommit;

use super::flows::{self, Profile, Step};
use super::frame;
use super::report::Report;
use super::rig::Rig;
use super::scene::{LAN, Scene, WAN};
use super::stats::Spread;
use super::sync::{Active, Patience, ROLE_EVERY, Standby};

/// New flows of a pair.
const FLOWS: usize = 5_000;

/// Adds the row.
pub(crate) fn run(rig: &mut Rig, core: usize, report: &mut Report) -> anyhow::Result<()> {
    let at_once = Spread::of(&first_packets(rig, core, OutputCommit::Off)?);
    let open = Spread::of(&first_packets(rig, core, OutputCommit::Open)?);
    let closed = first_packets(rig, core, OutputCommit::Closed)?;
    let added: Vec<f64> = closed.iter().map(|us| us - at_once.median).collect();
    let note = format!(
        "added to the first packet of a UDP flow under `closed`, one flow at a time over loopback, standby on core {core}, \
         active node on core {}; {:.1} us without output commit, {:.1} us under `open`; {FLOWS} flows each, every one \
         released by the standby's word",
        rig.core, at_once.median, open.median
    );
    report.add_with_goal("sync.commit_us", &added, "us", Some(50.0), &note);
    Ok(())
}

/// Microseconds from the arrival of each flow's first packet until it has left.
fn first_packets(rig: &mut Rig, core: usize, commit: OutputCommit) -> anyhow::Result<Vec<f64>> {
    let scene = Scene {
        replicated: true,
        commit,
        ..Scene::plain(FLOWS)
    };
    let mut active = Active::boot_in(rig, scene, Profile::Udp)?;
    let side = active.standby(rig)?;
    let standby = Standby::start(rig, side, None, core)?;
    let patience = Patience::new(&rig.clock);
    let mut turns = 0_usize;
    let mut turn = |rig: &mut Rig, active: &mut Active| {
        if turns.is_multiple_of(ROLE_EVERY) {
            active.side.sync.step_role(rig.now());
            patience.check(&rig.clock, "first packets")?;
        }
        turns += 1;
        active.side.node.worker.turn(rig.now(), &mut rig.io);
        active.side.sync.pump.turn(rig.now());
        active.side.node.hush();
        anyhow::Ok(())
    };
    while !standby.is_imported() {
        turn(rig, &mut active)?;
    }
    let mut times = Vec::with_capacity(FLOWS);
    for number in 0..FLOWS {
        let frame = flows::frame(
            Step::Open,
            &active.keys[number],
            u32::try_from(number).unwrap_or(u32::MAX),
        );
        rig.feeder.feed(LAN, std::iter::once(&frame))?;
        let arrived = rig.now();
        let mut left = 0;
        while left == 0 {
            turn(rig, &mut active)?;
            left = rig.feeder.collect(WAN, |_, out| {
                active.back[flows::number_of(out) as usize] = frame::key_of(out).reversed();
            });
        }
        times.push(rig.now().since(arrived).as_secs_f64() * 1e6);
    }
    while !standby.has_all_of(&active.side.node) {
        turn(rig, &mut active)?;
    }
    let stopped = standby.stop(rig)?;
    active.compare(&stopped.side.node)?;
    let counters = &active.side.node.worker.tables().counters;
    let held = if commit == OutputCommit::Off {
        0
    } else {
        FLOWS as u64
    };
    ensure!(
        (counters.commit_held, counters.commit_released_ack) == (held, held),
        "{} packets were held, {} let go by the standby",
        counters.commit_held,
        counters.commit_released_ack
    );
    Ok(times)
}
