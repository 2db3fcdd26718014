//! What the return of a standby costs after a short cut: bytes against those of a complete resync.
//!
//! The standby stands still for two seconds, longer than its lanes are waited for, and keeps what it has. Meanwhile one
//! conntrack in a hundred ends on the active node and is opened again.

use anyhow::{Context, ensure};
use state_sync::report::ClientVrfReport;

use super::connect::create;
use super::flows::Step;
use super::rig::Rig;
use super::scene::SLOTS;
use super::stats::as_f64;
use super::sync::{Active, Patience, ROLE_EVERY, Standby, Stopped};

/// How long the standby is away.
const CUT: core::time::Duration = core::time::Duration::from_secs(2);
/// One conntrack in so many is replaced meanwhile.
const CHURN: usize = 100;

/// A cut and the return from it, after which `stopped` holds everything again: its share of `complete` bytes, and a note.
pub(crate) fn flap(
    active: &mut Active,
    rig: &mut Rig,
    core: usize,
    stopped: Stopped,
    complete: u64,
) -> anyhow::Result<(Stopped, f64, String)> {
    let replaced = active.keys.len() / CHURN;
    let back = rig.now() + CUT;
    alone(active, rig, back);
    replace(active, rig, replaced)?;
    ensure!(active.side.sync.view().clients_up == 0, "the cut was not noticed");
    let before = client(active)?;
    let standby = Standby::start(rig, stopped.side, None, core)?;
    let patience = Patience::new(&rig.clock);
    let mut turns = 0_usize;
    while active.side.sync.view().exported < u32::from(SLOTS) || !standby.is_imported() {
        let now = rig.now();
        if turns.is_multiple_of(ROLE_EVERY) {
            active.side.sync.step_role(now);
            patience.check(&rig.clock, "resync after a cut")?;
        }
        turns += 1;
        active.side.node.worker.turn(now, &mut rig.io);
        active.side.sync.pump.turn(now);
    }
    let stopped = standby.stop(rig)?;
    active.compare(&stopped.side.node)?;
    let after = client(active)?;
    let note = format!(
        "bytes after a cut of 2 s in which {replaced} of {} conntracks ended and came back, against a complete resync of \
         {complete} B; {} records, slots equal {}, caught up {}, whole {}; then every conntrack compared equal",
        active.keys.len(),
        after.resync.records,
        after.generations.equal - before.generations.equal,
        after.generations.caught_up - before.generations.caught_up,
        after.generations.whole - before.generations.whole,
    );
    Ok((
        stopped,
        as_f64(after.resync.bytes) / as_f64(complete.max(1)),
        note,
    ))
}

/// The active node works without its peer.
fn alone(active: &mut Active, rig: &mut Rig, until: dataplane::time::Instant) {
    let mut turns = 0_usize;
    while rig.now() < until {
        let now = rig.now();
        if turns.is_multiple_of(ROLE_EVERY) {
            active.side.sync.step_role(now);
        }
        turns += 1;
        active.side.node.worker.turn(now, &mut rig.io);
        active.side.sync.pump.turn(now);
    }
}

/// The first `replaced` conntracks end and are opened again by their packets.
fn replace(active: &mut Active, rig: &mut Rig, replaced: usize) -> anyhow::Result<()> {
    for n in 0..replaced {
        let key = active.keys[n];
        let now = rig.now();
        let tables = active.side.node.worker.tables_mut();
        let found = tables.conntracks.find(tables.conntracks.hash(&key), &key);
        let (id, _) = found.context("a flow is gone")?;
        tables.remove(now, id);
        if n % 64 == 0 {
            active.side.node.worker.turn(now, &mut rig.io);
            active.side.sync.pump.turn(now);
        }
    }
    let Active { side, keys, back, .. } = active;
    create(
        rig,
        &mut side.node,
        |_| true,
        &[Step::Open, Step::Answer],
        keys,
        back,
        0..replaced,
    )?;
    Ok(())
}

/// The lane's counters.
fn client(active: &Active) -> anyhow::Result<ClientVrfReport> {
    let report = active.side.sync.pump.report();
    let vrfs = report.clients.into_iter().flat_map(|c| c.vrfs);
    vrfs.max_by_key(|v| v.slots_total).context("no lane has reported")
}
