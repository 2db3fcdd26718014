//! Replication: what a new connection costs the worker with and without it, bytes on the wire, and a complete resync
//! of a standby that boots empty. Two nodes with real event threads over loopback TCP.
//!
//! Creation: the active worker has one core, its event thread and all of the standby share the other. Resync: each
//! node, worker and event thread in turn, has a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow, ensure};
use dataplane::flow::{Direction, FlowKey};
use dataplane::role::Role;
use dataplane::time::Instant;
use twinpath::clock::Clock;
use twinpath::dpdk::Ports;
use twinpath::thread;

use super::connect::{create, life};
use super::flap::flap;
use super::flows::{self, Profile, Step};
use super::pair::{ADDRESSES, Side, Sync, free_port};
use super::report::Report;
use super::rig::{Rig, STANDBY_QUEUE, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{MAIN, Node, SLOTS, Scene};
use super::spent::{FRAME_HEADER, REMOVAL, spent};
use super::stats::as_f64;
use super::{commit, during, lag, lane, tcp_info};

/// Turns between two looks at the roles.
pub(crate) const ROLE_EVERY: usize = 64;
/// Records that may be under way before more flows are made: the worker's own cost is wanted, not that of a full ring.
const BEHIND_MAX: u64 = 2_048;
/// From which flows are drawn.
const SEED: u64 = 5;
/// Nothing here takes longer, in seconds.
const PATIENCE_S: u64 = 120;

/// A standby at work on the other core, perhaps with the active node's event thread beside it.
pub(crate) struct Standby {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Stopped, Ports)>,
    imported: Arc<AtomicBool>,
    /// Records that its worker has dealt with.
    received: Arc<AtomicU64>,
}

/// What the standby's thread gives back.
pub(crate) struct Stopped {
    pub(crate) side: Side,
    guest: Option<Sync>,
    /// When the active node's lane came up, and when the last slot was verified.
    connected: Option<Instant>,
    verified: Option<Instant>,
}

impl Standby {
    pub(crate) fn start(
        rig: &mut Rig,
        mut side: Side,
        mut guest: Option<Sync>,
        core: usize,
    ) -> anyhow::Result<Self> {
        let clock = rig.clock;
        let mut io = rig.standby_io.take().context("a standby is already at work")?;
        let stop = Arc::new(AtomicBool::new(false));
        let imported = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (halt, done, count) = (Arc::clone(&stop), Arc::clone(&imported), Arc::clone(&received));
        let thread = thread::spawn("standby", core, move || {
            let (mut connected, mut verified) = (None, None);
            let mut turns = 0_usize;
            while !halt.load(Ordering::Relaxed) {
                let now = clock.now();
                if turns.is_multiple_of(ROLE_EVERY) {
                    side.sync.step_role(now);
                    if let Some(guest) = &mut guest {
                        guest.step_role(now);
                    }
                }
                turns += 1;
                if let Some(guest) = &mut guest {
                    guest.pump.turn(now);
                }
                side.sync.pump.turn(now);
                side.node.worker.turn(now, &mut io);
                side.node.hush();
                count.store(
                    side.node.worker.tables().counters.absorb_received,
                    Ordering::Release,
                );
                let view = side.sync.view();
                if connected.is_none() && view.locals_up > 0 {
                    connected = Some(clock.now());
                }
                if verified.is_none() && view.locals_up > 0 && view.verified >= u32::from(SLOTS) {
                    verified = Some(clock.now());
                }
                if verified.is_some() && side.node.shared.roles.get(MAIN).0 == Role::Backup {
                    done.store(true, Ordering::Release);
                }
            }
            let stopped = Stopped {
                side,
                guest,
                connected,
                verified,
            };
            (stopped, io)
        })?;
        Ok(Self {
            stop,
            thread,
            imported,
            received,
        })
    }

    /// Whether it is so close behind that the rings between have room for a batch.
    fn is_close_to(&self, active: &Node) -> bool {
        told(active) - self.received() < BEHIND_MAX
    }

    /// Records that its worker has dealt with.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Acquire)
    }

    /// Whether it has dealt with everything that `active` has ever told.
    pub(crate) fn has_all_of(&self, active: &Node) -> bool {
        active.worker.tables().waiting() == 0 && self.received() == told(active)
    }

    pub(crate) fn is_imported(&self) -> bool {
        self.imported.load(Ordering::Acquire)
    }

    pub(crate) fn stop(self, rig: &mut Rig) -> anyhow::Result<Stopped> {
        self.stop.store(true, Ordering::Relaxed);
        let (stopped, io) = self.thread.join().map_err(|_| anyhow!("the standby panicked"))?;
        rig.standby_io = Some(io);
        Ok(stopped)
    }
}

/// Records that a node has ever told.
pub(crate) fn told(node: &Node) -> u64 {
    let counters = &node.worker.tables().counters;
    counters.deltas_emitted + counters.walk_records
}

/// Fails when something that must happen doesn't.
pub(crate) struct Patience(Instant);

impl Patience {
    pub(crate) fn new(clock: &Clock) -> Self {
        Self(clock.now() + core::time::Duration::from_secs(PATIENCE_S))
    }

    pub(crate) fn check(&self, clock: &Clock, what: &str) -> anyhow::Result<()> {
        ensure!(clock.now() < self.0, "{what}: not within {PATIENCE_S} s");
        Ok(())
    }
}

/// An active node of `flows` conntracks that nobody has been told, with the frames to test them by.
pub(crate) struct Active {
    pub(crate) side: Side,
    pub(crate) keys: Vec<FlowKey>,
    pub(crate) back: Vec<FlowKey>,
    scene: Scene,
    profile: Profile,
    port: u16,
    boots: u64,
}

impl Active {
    /// A node that has become active because nobody answers.
    pub(crate) fn boot(rig: &mut Rig, flows: usize, profile: Profile) -> anyhow::Result<Self> {
        let scene = Scene {
            replicated: true,
            ..Scene::plain(flows)
        };
        Self::boot_in(rig, scene, profile)
    }

    /// The same in a scene of its own.
    pub(crate) fn boot_in(rig: &mut Rig, scene: Scene, profile: Profile) -> anyhow::Result<Self> {
        let port = free_port()?;
        let boots = rig.now().ns() | 1 << 60;
        let mut side = Side::boot(1, scene, (WORKER_QUEUE, port), boots, rig.now())?;
        let patience = Patience::new(&rig.clock);
        while side.node.shared.roles.get(MAIN).0 != Role::Master {
            patience.check(&rig.clock, "becoming active")?;
            side.sync.step_role(rig.now());
            side.sync.pump.turn(rig.now());
        }
        let keys = flows::draw(profile, scene.flows, scene.subscribers(), SEED);
        Ok(Self {
            side,
            back: vec![FlowKey::default(); keys.len()],
            keys,
            scene,
            profile,
            port,
            boots,
        })
    }

    /// Parts with the last standby: what is told before a new one is there would never be applied.
    pub(crate) fn part(&mut self, rig: &mut Rig) -> anyhow::Result<()> {
        let patience = Patience::new(&rig.clock);
        while self.is_streaming() {
            patience.check(&rig.clock, "parting with the last standby")?;
            self.side.sync.step_role(rig.now());
            self.side.node.worker.turn(rig.now(), &mut rig.io);
            self.side.sync.pump.turn(rig.now());
        }
        Ok(())
    }

    /// Whether changes go to a standby, perhaps to one that is gone.
    fn is_streaming(&self) -> bool {
        let mut slots = self.side.node.worker.tables().slots.of_vrf(MAIN);
        slots.any(|(_, slot)| !slot.streams.is_empty())
    }

    /// Draws `count` more flows of the same subscribers, to be opened later.
    pub(crate) fn draw_more(&mut self, count: usize) {
        let flows = self.keys.len() + count;
        self.keys = flows::draw(self.profile, flows, self.scene.subscribers(), SEED);
        self.back.resize(flows, FlowKey::default());
    }

    /// Sets all flows up, each with its first packet and the answer.
    pub(crate) fn fill(&mut self, rig: &mut Rig) -> anyhow::Result<()> {
        let steps = [Step::Open, Step::Answer];
        let all = 0..self.keys.len();
        create(
            rig,
            &mut self.side.node,
            |_| true,
            &steps,
            &self.keys,
            &mut self.back,
            all,
        )?;
        Ok(())
    }

    pub(crate) fn standby(&mut self, rig: &Rig) -> anyhow::Result<Side> {
        self.boots += 1;
        Side::boot(
            2,
            self.scene,
            (STANDBY_QUEUE, self.port),
            self.boots << 8,
            rig.now(),
        )
    }

    /// One complete resync of an empty standby: the standby with everything, and the seconds it took.
    pub(crate) fn resync(&mut self, rig: &mut Rig, core: usize) -> anyhow::Result<(Stopped, f64)> {
        let side = self.standby(rig)?;
        let standby = Standby::start(rig, side, None, core)?;
        let patience = Patience::new(&rig.clock);
        let mut turns = 0_usize;
        while !standby.is_imported() {
            let now = rig.now();
            if turns.is_multiple_of(ROLE_EVERY) {
                self.side.sync.step_role(now);
                patience.check(&rig.clock, "complete resync")?;
            }
            turns += 1;
            self.side.node.worker.turn(now, &mut rig.io);
            self.side.sync.pump.turn(now);
        }
        let stopped = standby.stop(rig)?;
        let (Some(connected), Some(verified)) = (stopped.connected, stopped.verified) else {
            return Err(anyhow!("the standby doesn't know when it was connected"));
        };
        self.compare(&stopped.side.node)?;
        stopped.side.sync.was_never_paused()?;
        Ok((stopped, verified.since(connected).as_secs_f64()))
    }

    /// Both tables hold the same, by count and digest of every slot and by looking each conntrack up.
    pub(crate) fn compare(&self, other: &Node) -> anyhow::Result<()> {
        let (ours, theirs) = (self.side.node.worker.tables(), other.worker.tables());
        let slots = |tables: &dataplane::tables::Tables| {
            tables
                .slots
                .of_vrf(MAIN)
                .map(|(n, s)| (n, s.version, s.digest, s.count))
                .collect::<Vec<_>>()
        };
        ensure!(
            slots(ours) == slots(theirs),
            "slots differ in version, digest or count"
        );
        let mut compared = 0_usize;
        for (_, conntrack) in ours.conntracks.iter_live() {
            let key = conntrack.key(Direction::Original);
            let found = theirs.conntracks.find(theirs.conntracks.hash(&key), &key);
            let same = found.is_some_and(|(id, _)| {
                let theirs = &theirs.conntracks[id];
                theirs.keys() == conntrack.keys() && theirs.class == conntrack.class
            });
            ensure!(same, "{key:?} is not what it should be on the standby");
            compared += 1;
        }
        let held = theirs.conntracks.iter_live().count();
        ensure!(
            compared == held && compared == self.keys.len(),
            "{compared} conntracks here, {held} there, {} were made",
            self.keys.len()
        );
        Ok(())
    }
}

/// All rows of replication. Gives back the largest pair, for the role flip.
pub(crate) fn run(
    rig: &mut Rig,
    extent: Extent,
    core: usize,
    report: &mut Report,
) -> anyhow::Result<(Active, Stopped)> {
    for profile in [Profile::Udp, Profile::Tcp] {
        connections(rig, extent, core, profile, report)?;
    }
    commit::run(rig, core, report)?;
    if let Some(flows) = extent.large_flows {
        large(rig, core, flows, report)?;
    }
    let mut active = Active::boot(rig, extent.resync_flows, Profile::Udp)?;
    active.fill(rig)?;
    let mut seconds = Vec::new();
    let mut bytes = Vec::new();
    let mut last = None;
    let mut complete = 0;
    for _ in 0..extent.resyncs {
        drop(last.take());
        let (stopped, took) = active.resync(rig, core)?;
        seconds.push(took);
        let report = active.side.sync.pump.report();
        let vrf = report
            .clients
            .iter()
            .flat_map(|c| &c.vrfs)
            .max_by_key(|v| v.resync.records);
        let vrf = vrf.context("no lane has reported")?;
        bytes.push(as_f64(vrf.resync.bytes) / as_f64(vrf.resync.records.max(1)));
        complete = vrf.resync.bytes;
        last = Some(stopped);
    }
    report.add_with_goal(
        "sync.resync_1m_s",
        &seconds,
        "s",
        Some(0.1),
        "empty standby, lane up to last slot verified; then versions, digests, counts of all slots and every conntrack \
         compared equal; one lane, loopback, one core per node for its worker and event thread, no traffic",
    );
    report.add(
        "sync.walk_bytes",
        &bytes,
        "B",
        "resync bytes per record, each with its version; slot marks and port blocks included",
    );
    let last = last.context("no resync was asked for")?;
    let (last, share, note) = flap(&mut active, rig, core, last, complete)?;
    report.add_with_goal(
        "sync.resync_flap_share",
        &[share],
        "of complete",
        Some(0.05),
        &note,
    );
    drop(last);
    during::run(rig, extent, &mut active, core, report)?;
    lane::run(rig, extent, &mut active, report)?;
    let equal = lag::run(rig, &mut active, core, report)?;
    Ok((active, equal))
}

/// The complete resync of a table of `flows` conntracks, once.
fn large(rig: &mut Rig, core: usize, flows: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut active = Active::boot(rig, flows, Profile::Udp)?;
    active.fill(rig)?;
    let (_, took) = active.resync(rig, core)?;
    report.add_with_goal(
        &format!("sync.resync_{}m_s", flows / 1_000_000),
        &[took],
        "s",
        Some(1.0),
        "the same with this many conntracks",
    );
    Ok(())
}

/// New connections with replication off and on, in alternating slices: each node's table fills up beside the other's.
fn connections(
    rig: &mut Rig,
    extent: Extent,
    core: usize,
    profile: Profile,
    report: &mut Report,
) -> anyhow::Result<()> {
    let scene = Scene::plain(extent.new_flows);
    let (mut off, _events) = Node::new(scene, WORKER_QUEUE, 31)?;
    let mut off_back = vec![FlowKey::default(); scene.flows];
    let mut active = Active::boot(rig, scene.flows, profile)?;
    let standby = active.standby(rig)?;
    let Active {
        side: Side { mut node, sync },
        keys,
        mut back,
        scene: on_scene,
        profile,
        port,
        boots,
    } = active;
    let standby = Standby::start(rig, standby, Some(sync), core)?;
    let patience = Patience::new(&rig.clock);
    while !standby.is_imported() {
        patience.check(&rig.clock, "connecting")?;
        node.worker.turn(rig.now(), &mut rig.io);
    }
    let slice = scene.flows / extent.new_slices;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let emitted_before = node.worker.tables().counters.deltas_emitted;
    for n in 0..extent.new_slices {
        let range = n * slice..(n + 1) * slice;
        let steps = life(profile);
        without.push(create(
            rig,
            &mut off,
            |_| true,
            steps,
            &keys,
            &mut off_back,
            range.clone(),
        )?);
        let ready = |node: &Node| standby.is_close_to(node);
        with.push(create(rig, &mut node, ready, steps, &keys, &mut back, range)?);
    }
    let counters = &node.worker.tables().counters;
    let emitted = counters.deltas_emitted - emitted_before;
    let unsent = counters.deltas_unsent;
    let full = counters.ring_full;
    let made = counters.conntracks_created;
    // The event thread and the standby finish what was sent, then both sides are compared.
    let patience = Patience::new(&rig.clock);
    let theirs = loop {
        patience.check(&rig.clock, "standby catching up")?;
        if standby.has_all_of(&node) {
            break standby.stop(rig)?;
        }
        node.worker.turn(rig.now(), &mut rig.io);
    };
    let sync = theirs.guest.context("the event thread is gone")?;
    let said = sync.pump.report();
    let put = said
        .operations
        .iter()
        .find(|o| o.name == "send PUT")
        .map_or(0.0, |o| as_f64(o.bytes) / as_f64(o.calls.max(1)));
    let client = said.clients.into_iter().max_by_key(|c| c.records_sent);
    let wire = client.context("no lane")?;
    let kernel = tcp_info::bytes_sent(ADDRESSES, port)?;
    if let Some(kernel) = kernel {
        ensure!(
            kernel == wire.bytes_sent,
            "the kernel has sent {kernel} bytes, the lane says {}",
            wire.bytes_sent
        );
    }
    let framing = FRAME_HEADER * as_f64(wire.frames_sent) / as_f64(wire.records_sent.max(1));
    let spent = spent(&said.operations, &wire, made);
    let active = Active {
        side: Side { node, sync },
        keys,
        back,
        scene: on_scene,
        profile,
        port,
        boots,
    };
    active.compare(&theirs.side.node)?;
    let per_flow = as_f64(emitted) / as_f64(made.max(1));
    let hz = rig.hz();
    let rates: Vec<f64> = with.iter().map(|c| hz / c).collect();
    let base: Vec<f64> = without.iter().map(|c| hz / c).collect();
    let costs: Vec<f64> = with
        .iter()
        .zip(&without)
        .map(|(w, o)| (w - o) / per_flow)
        .collect();
    let note = format!(
        "{made} connections, {per_flow:.2} deltas each, {unsent} unsent, ring full in {full} turns; standby then equal \
         entry by entry; from the worker's clocks: event thread and standby share the other core and set the pace"
    );
    match profile {
        Profile::Udp => {
            report.add(
                "sync.udp_conn_per_s_off",
                &base,
                "1/s",
                "same run, replication off",
            );
            report.add("sync.udp_conn_per_s", &rates, "1/s", &note);
            report.add_with_goal(
                "sync.delta_cost",
                &costs,
                "clocks",
                Some(40.0),
                "worker's clocks per delta: (new UDP flow replicated - not) / deltas",
            );
        }
        Profile::Tcp => {
            report.add(
                "sync.tcp_conn_per_s_off",
                &base,
                "1/s",
                "same run, replication off",
            );
            report.add("sync.tcp_conn_per_s", &rates, "1/s", &note);
            report.add_with_goal(
                "sync.put_bytes",
                &[put + framing],
                "B",
                Some(32.0),
                &format!(
                    "a PUT of a new TCP connection with its mapping, {framing:.2} B of frame header included"
                ),
            );
            report.add_with_goal(
                "sync.conn_bytes",
                &[as_f64(wire.bytes_sent) / as_f64(made.max(1)) + REMOVAL],
                "B",
                Some(56.0),
                &format!(
                    "a whole TCP connection: all bytes that the lane took in the run per connection from SYN to last ACK, and \
                     the {REMOVAL} B of its removal: {spent}"
                ),
            );
            if let Some(kernel) = kernel {
                report.add(
                    "sync.conn_bytes_tcp_info",
                    &[as_f64(kernel) / as_f64(made.max(1))],
                    "B",
                    "the same without removal from tcp_info of the lane's socket: bytes sent, less those sent again",
                );
            }
            let extra = with.iter().zip(&without).map(|(w, o)| 100.0 * (w - o) / hz);
            for (id, rate, goal) in [("sync.loss_100k", 1e5, 0.5), ("sync.loss_500k", 5e5, 2.0)] {
                let shares: Vec<f64> = extra.clone().map(|extra| extra * rate).collect();
                let what = format!(
                    "of the worker's cycles at {:.0}k new TCP connections/s: clocks of a connection replicated - not",
                    rate / 1e3
                );
                report.add_with_goal(id, &shares, "%", Some(goal), &what);
            }
        }
    }
    Ok(())
}
