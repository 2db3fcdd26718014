//! The role flip, and what real processes in the lab have shown about a failover.
//!
//! Flip: a standby that has imported everything gets a packet of an established flow into its receive queue; the role
//! is stored and the announcements are asked for, as the agent does; timed until that packet has left, translated.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use dataplane::inbox::Ask;
use dataplane::role::Role;
use dataplane::verdict::Drop;
use serde::Deserialize;
use twinpath::dpdk::tsc;

use super::flows::{self, Profile, Step};
use super::frame;
use super::random::Random;
use super::report::Report;
use super::rig::Rig;
use super::run::Extent;
use super::scene::{LAN, MAIN, Node, WAN};
use super::stats::as_f64;
use super::sync::{Active, Stopped};

/// Flips measured; each is of another flow.
const FLIPS: usize = 15;
/// Turns a standby takes before each flip, with a packet that it has to drop.
const STANDING_BY: usize = 200;

/// Flips of a pair that exists, and of a small one.
pub(crate) fn flips(
    rig: &mut Rig,
    core: usize,
    large: (Active, Stopped),
    report: &mut Report,
) -> anyhow::Result<()> {
    let (active, stopped) = large;
    let millions = active.keys.len() >= 1_000_000;
    let id = if millions {
        "failover.flip_us_1m".to_owned()
    } else {
        format!("failover.flip_us_{}k", active.keys.len() / 1_000)
    };
    flip(rig, &active, stopped, &id, report)?;
    let mut active = Active::boot(rig, 10_000, Profile::Udp)?;
    active.fill(rig)?;
    let (stopped, _) = active.resync(rig, core)?;
    flip(rig, &active, stopped, "failover.flip_us_10k", report)
}

/// A large pair, for when nothing else has made one.
pub(crate) fn pair(rig: &mut Rig, extent: Extent, core: usize) -> anyhow::Result<(Active, Stopped)> {
    let mut active = Active::boot(rig, extent.resync_flows, Profile::Udp)?;
    active.fill(rig)?;
    let (stopped, _) = active.resync(rig, core)?;
    Ok((active, stopped))
}

fn flip(
    rig: &mut Rig,
    active: &Active,
    stopped: Stopped,
    id: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut node = stopped.side.node;
    let own = stopped.side.sync.id;
    let mut random = Random::new(3);
    let mut times = Vec::new();
    for _ in 0..FLIPS {
        let number = random.below(active.keys.len());
        let frame = flows::frame(
            Step::Forth,
            &active.keys[number],
            u32::try_from(number).unwrap_or(0),
        );
        let (role, term) = node.shared.roles.get(MAIN);
        ensure!(role == Role::Backup, "the standby is {role:?}");
        let dropped = node.worker.tables().counters.dropped(Drop::StandbyMatched);
        rig.standby_feeder.feed(LAN, std::iter::once(&frame))?;
        rest(&mut node, rig)?;
        let now_dropped = node.worker.tables().counters.dropped(Drop::StandbyMatched);
        ensure!(
            now_dropped == dropped + 1,
            "a standby did not drop a packet of its flow"
        );

        rig.standby_feeder.feed(LAN, std::iter::once(&frame))?;
        let io = rig.standby_io.as_mut().context("a standby has the queues")?;
        let start = tsc::read();
        node.shared.roles.set(MAIN, Role::Master, term.next_of(own, 0));
        let asked = node.asks[0].try_send(Ask::Announce(MAIN)).is_ok();
        node.worker.turn(rig.clock.now(), io);
        let clocks = tsc::read() - start;
        ensure!(asked, "the worker takes no question");
        let mut right = 0;
        rig.standby_feeder.collect(WAN, |_, out| {
            let expected = active.back[number].reversed();
            right += usize::from(frame::key_of(out) == expected && frame::is_sound(out));
        });
        ensure!(
            right == 1,
            "the old flow's packet did not leave in the first turn"
        );
        times.push(rig.ns(as_f64(clocks)) / 1e3);
        // The announcements, and back to where it was.
        rest(&mut node, rig)?;
        rig.standby_feeder.collect(WAN, |_, _| {});
        rig.standby_feeder.collect(LAN, |_, _| {});
        node.shared.roles.set(MAIN, Role::Backup, term);
        node.hush();
    }
    report.add_with_goal(
        id,
        &times,
        "us",
        Some(1_000.0),
        "from the role's store to the first old flow's packet sent, in the worker's thread, detection not included",
    );
    Ok(())
}

/// A while without packets.
fn rest(node: &mut Node, rig: &mut Rig) -> anyhow::Result<()> {
    let io = rig.standby_io.as_mut().context("a standby has the queues")?;
    for _ in 0..STANDING_BY {
        node.worker.turn(rig.clock.now(), io);
    }
    Ok(())
}

/// Figures of one kind, a value per run, as `tests/netns/bench.py` writes them.
#[derive(Debug, Deserialize)]
struct LabRow {
    id: String,
    unit: String,
    values: Vec<f64>,
    goal: Option<f64>,
    note: String,
}

/// All of them.
#[derive(Debug, Deserialize)]
struct LabRows {
    rows: Vec<LabRow>,
}

/// Takes over what real processes in the lab have shown. The worst run is part of the note.
pub(crate) fn lab(path: &Path, report: &mut Report) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let found: LabRows = serde_json::from_str(&text).context("the lab's figures")?;
    for row in found.rows {
        let unit = match row.unit.as_str() {
            "ms" => "ms",
            "packets" => "packets",
            _ => "",
        };
        // Of a share the least is the worst.
        let worst = if unit.is_empty() { f64::min } else { f64::max };
        let worst = row.values.iter().copied().reduce(worst).unwrap_or_default();
        let note = format!("worst {worst}; {}", row.note);
        report.add_with_goal(&row.id, &row.values, unit, row.goal, &note);
    }
    Ok(())
}
