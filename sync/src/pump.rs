//! One event thread: drains the workers' rings into lanes, and the peers' lanes into the workers' rings.
//!
//! Created at start with its ports, driven by `turn` until the process ends. Owns one lane to each peer, the
//! peers' lanes that fall to it, and on thread 0 the door and the control lanes. Never touches a table, never
//! blocks, never waits: what can't be done now is done in a later turn.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use dataplane::delta::{Delta, LaneTag, SlotRef, ToEvent};
use dataplane::flow::VrfId;
use dataplane::mutant::{self, Mutant};
use dataplane::role::Roles;
use dataplane::time::Instant;
use rtrb::Consumer;

use crate::board::{Board, Progress};
use crate::cause::Cause;
use crate::compare_record::Said;
use crate::config::{CONTROL_LANE, SyncConfig};
use crate::door::Door;
use crate::inlet::Inlet;
use crate::lane::Lane;
use crate::port::{Arrival, CompareAsk, End, PumpCommand, PumpEvent, PumpPorts, Resyncing};
use crate::redirect::{Arriving, Leaving};
use crate::report::{LocalReport, PumpReport};
use crate::shared::{Rings, Shared};
use crate::tally::Tallies;
use crate::wire::{Net, Wire};

/// Items taken from one worker's ring per turn.
const DRAIN_MAX: usize = 512;
/// Commands handled per turn.
const COMMANDS_MAX: usize = 8;

/// An event thread's work.
#[derive(Debug)]
pub struct Pump<N: Net> {
    net: N,
    shared: Shared,
    roles: Arc<Roles>,
    board: Arc<Board>,
    from_workers: Vec<Consumer<ToEvent>>,
    leaving: Leaving,
    commands: Receiver<PumpCommand>,
    arrivals: Receiver<Arrival<N::Wire>>,
    hand_over: Vec<Sender<Arrival<N::Wire>>>,
    /// By peer.
    lanes: Vec<Lane<N::Wire>>,
    /// By peer, on event thread 0; empty elsewhere.
    controls: Vec<Lane<N::Wire>>,
    inlets: Vec<Inlet<N::Wire>>,
    door: Door<N::Wire>,
    /// By VRF: the drain under way, and the workers that have set their marks.
    drains: Vec<(u32, usize)>,
    /// By peer.
    stats: Vec<LocalReport>,
    records_taken: u64,
    records_untaken: u64,
    records_copied: u64,
}

impl<N: Net> Pump<N> {
    /// Event thread `event` of `config.events`. `seed` is a random number; incarnations and pauses come from it.
    #[must_use]
    pub fn new(config: Arc<SyncConfig>, event: u16, net: N, ports: PumpPorts<N::Wire>, seed: u64) -> Self {
        let vrfs = config.vrfs.len();
        let rings = Rings::new(ports.to_workers, Arc::clone(&ports.owners), ports.applied, event);
        let arriving = Arriving::new(ports.redirects_to_workers, ports.owners, vrfs);
        let mut shared = Shared::new(Arc::clone(&config), event, (rings, arriving), ports.events, seed);
        let peers = || 0..u8::try_from(config.peers.len()).unwrap_or(u8::MAX);
        let number = u8::try_from(event).unwrap_or(CONTROL_LANE - 1);
        let mut lanes = |number| {
            peers()
                .map(|p| Lane::new(&config, p, number, shared.random()))
                .collect()
        };
        Self {
            lanes: lanes(number),
            controls: if event == 0 {
                lanes(CONTROL_LANE)
            } else {
                Vec::new()
            },
            net,
            shared,
            roles: ports.roles,
            board: ports.board,
            from_workers: ports.from_workers,
            leaving: Leaving::new(ports.redirects_from_workers),
            commands: ports.commands,
            arrivals: ports.arrivals,
            hand_over: ports.hand_over,
            inlets: Vec::new(),
            door: Door::new(&config),
            drains: vec![(0, 0); config.vrfs.len()],
            records_taken: 0,
            records_untaken: 0,
            records_copied: 0,
            stats: peers()
                .map(|peer| LocalReport {
                    peer,
                    ..LocalReport::default()
                })
                .collect(),
        }
    }

    /// One pass over everything; gives how much there was to do. 0 means that the thread may rest a little.
    pub fn turn(&mut self, now: Instant) -> usize {
        self.shared.rings.owners().look_as_event(self.shared.event);
        self.shared.refresh(now, &self.roles, &self.board);
        let mut work = self.serve_commands() + self.welcome();
        for lane in self.lanes.iter_mut().chain(&mut self.controls) {
            work += lane.turn(&mut self.shared, &mut self.net);
        }
        let drained = self.drain();
        work += drained + self.take_in();
        // Behind the records.
        work += self.leaving.turn(&mut self.shared, &self.board, &mut self.lanes);
        self.send(drained == 0);
        self.publish();
        work
    }

    /// Says good-bye to all peers. The pump may be dropped then.
    pub fn shutdown(&mut self, now: Instant) {
        self.shared.refresh(now, &self.roles, &self.board);
        for lane in self.lanes.iter_mut().chain(&mut self.controls) {
            lane.farewell(&mut self.shared);
        }
        for inlet in &mut self.inlets {
            inlet.farewell(&self.shared);
        }
        self.inlets.clear();
    }

    /// Counters as of the last turn.
    #[must_use]
    pub fn report(&self) -> PumpReport {
        let now = self.shared.now;
        let local_nodes = self.stats.iter().map(|stats| {
            let mut local = stats.clone();
            for inlet in self.inlets.iter().filter(|i| i.tag().peer == stats.peer) {
                local.lanes.push(inlet.tag().lane);
                for vrf in &mut local.vrfs {
                    vrf.slots_verified += inlet.verified(VrfId(vrf.vrf));
                }
            }
            for vrf in &mut local.vrfs {
                vrf.resync = vrf.resync.as_of(now);
            }
            local
        });
        PumpReport {
            event: self.shared.event,
            clients: self
                .lanes
                .iter()
                .chain(&self.controls)
                .map(|lane| lane.report(now))
                .collect(),
            local_nodes: local_nodes.collect(),
            operations: self.tallies().operations(),
            records_taken: self.records_taken,
            records_untaken: self.records_untaken,
            records_copied: self.records_copied,
            redirects: self.shared.arriving.report,
            causes: self.shared.causes.seen(),
            events_lost: self.shared.events_lost,
        }
    }

    fn tallies(&self) -> Tallies {
        let mut sum = self.shared.past.clone();
        for lane in self.lanes.iter().chain(&self.controls) {
            lane.tally(&mut sum);
        }
        for inlet in &self.inlets {
            inlet.tally(&mut sum);
        }
        sum
    }

    fn serve_commands(&mut self) -> usize {
        for served in 0..COMMANDS_MAX {
            match self.commands.try_recv() {
                // Whoever asked has gone or is asked too much: its loss.
                Ok(PumpCommand::Report(to)) => drop(to.try_send(self.report())),
                Ok(PumpCommand::Resync { vrf, slot, to }) => {
                    let begun = self.resync(vrf, slot);
                    // Whoever asked may have gone.
                    let _ = to.map(|to| to.try_send(begun));
                }
                Ok(PumpCommand::Compare(ask)) => self.compare(ask),
                Ok(PumpCommand::Sections(sections)) => self.shared.sections = sections,
                // Whoever asked may have gone.
                Ok(PumpCommand::Heard { vrf, to }) => {
                    drop(to.try_send(self.lanes.iter().flat_map(|lane| lane.heard(vrf)).collect()));
                }
                Err(_) => return served,
            }
        }
        COMMANDS_MAX
    }

    fn resync(&mut self, vrf: Option<VrfId>, slot: Option<u16>) -> Resyncing {
        let config = Arc::clone(&self.shared.config);
        let mut begun = Resyncing {
            event: self.shared.event,
            ..Resyncing::default()
        };
        let vrfs = (0u16..).map(VrfId).zip(&config.vrfs);
        for (id, known) in vrfs.filter(|(id, _)| vrf.is_none_or(|v| v == *id)) {
            for number in (0..known.slots).filter(|n| slot.is_none_or(|s| s == *n)) {
                let at = SlotRef {
                    vrf: id,
                    slot: number,
                };
                begun.sent += self.again(at, "requested");
                for inlet in &mut self.inlets {
                    let stats = &mut self.stats[usize::from(inlet.tag().peer)];
                    begun.asked += u32::from(inlet.request(&mut self.shared, stats, at));
                }
            }
        }
        begun
    }

    fn compare(&mut self, ask: CompareAsk) {
        self.shared.compare_for(ask.to.clone());
        if let Some(lane) = self.lanes.get_mut(usize::from(ask.peer)) {
            lane.compare(&mut self.shared, &ask);
        }
    }

    /// Sends a slot again; gives to how many peers.
    fn again(&mut self, at: SlotRef, reason: &str) -> u32 {
        self.shared.changed = true;
        let now = self.shared.now;
        self.lanes
            .iter_mut()
            .map(|lane| u32::from(lane.again(at, reason, now)))
            .sum()
    }

    /// Connections of peers: from the door to the thread of their lane, and from other threads' door to here.
    fn welcome(&mut self) -> usize {
        let mut work = 0;
        if self.shared.event == 0 {
            for arrival in self.door.turn(&mut self.shared, &mut self.net) {
                let threads = self.hand_over.len().max(1);
                let thread = usize::from(arrival.hello.lane) % threads;
                let thread = if arrival.hello.lane == CONTROL_LANE {
                    0
                } else {
                    thread
                };
                let taken = self
                    .hand_over
                    .get(thread)
                    .is_some_and(|to| to.try_send(arrival).is_ok());
                if !taken {
                    self.shared.refuse(Cause::ArrivalsFull);
                }
                work += 1;
            }
        }
        while let Ok(arrival) = self.arrivals.try_recv() {
            self.replace(&arrival);
            let inlet = Inlet::new(arrival, &mut self.shared);
            self.inlets.push(inlet);
            work += 1;
        }
        work
    }

    /// Closes what a new connection replaces: the same lane's older one, and all of the peer's former process.
    fn replace(&mut self, arrival: &Arrival<N::Wire>) {
        let (shared, stats) = (&mut self.shared, &mut self.stats);
        self.inlets.retain(|inlet| {
            let (tag, hello) = (inlet.tag(), inlet.hello());
            let cause = if tag.peer != arrival.peer {
                return true;
            } else if hello.boot_id != arrival.hello.boot_id {
                Cause::PeerRebooted
            } else if tag.lane == arrival.hello.lane && !mutant::on(Mutant::OldIncarnation) {
                Cause::Replaced
            } else {
                return true;
            };
            lost(shared, &mut stats[usize::from(tag.peer)], inlet, cause);
            false
        });
    }

    /// From the workers' rings to the lanes.
    fn drain(&mut self) -> usize {
        // Out of the pump's hands while it steers what is in them.
        let mut rings = core::mem::take(&mut self.from_workers);
        let work = rings.iter_mut().map(|ring| self.drain_one(ring)).sum();
        self.from_workers = rings;
        work
    }

    /// What is in a worker's ring. Stops while a lane has no room: entries then wait in the tables, where changes of one
    /// entry fold into one, instead of in ever longer buffers.
    fn drain_one(&mut self, ring: &mut Consumer<ToEvent>) -> usize {
        let Ok(chunk) = ring.read_chunk(ring.slots().min(DRAIN_MAX)) else {
            return 0;
        };
        let (first, second) = chunk.as_slices();
        let mut done = 0;
        for item in first.iter().chain(second) {
            if self.lanes.iter().any(Lane::is_full) || self.holds(item) {
                break;
            }
            self.steer(item);
            done += 1;
        }
        chunk.commit(done);
        done
    }

    /// A worker has set its mark behind what it kept back. With the last one of a drain, this thread has it all.
    fn drained(&mut self, vrf: VrfId, number: u32) {
        let drain = &mut self.drains[vrf.index()];
        if number < drain.0 {
            // Of one that was cancelled: its worker was slower than others are with the next.
            return;
        }
        if drain.0 != number {
            *drain = (number, 0);
        }
        drain.1 += 1;
        if drain.1 == usize::from(self.shared.config.workers) {
            for lane in &mut self.lanes {
                lane.mark_drained(vrf, number);
            }
            self.shared.changed = true;
        }
    }

    /// Whether an item is a walk's record whose lane has enough on its way.
    fn holds(&self, item: &ToEvent) -> bool {
        let ToEvent::Record {
            only: Some(LaneTag { peer, .. }),
            ..
        } = item
        else {
            return false;
        };
        self.lanes.get(usize::from(*peer)).is_some_and(Lane::holds_walks)
    }

    fn steer(&mut self, item: &ToEvent) {
        let now = self.shared.now;
        let vrf = match item {
            ToEvent::Drained { vrf, .. } => *vrf,
            ToEvent::SlotBegin { at, .. }
            | ToEvent::Record { at, .. }
            | ToEvent::SlotEnd { at, .. }
            | ToEvent::SlotVerified { at, .. }
            | ToEvent::SlotFailed { at, .. }
            | ToEvent::SlotMissed { at, .. }
            | ToEvent::SlotOffer { at, .. }
            | ToEvent::SlotAsk { at, .. }
            | ToEvent::SlotDigest { at, .. }
            | ToEvent::Commit { at, .. }
            | ToEvent::Committed { at, .. }
            | ToEvent::SlotMark { at, .. }
            | ToEvent::SlotMarked { at, .. }
            | ToEvent::SlotListed { at, .. }
            | ToEvent::SlotTail { at, .. }
            | ToEvent::SlotLeft { at, .. }
            | ToEvent::SlotDirty { at } => at.vrf,
        };
        let record = u64::from(matches!(item, ToEvent::Record { .. }));
        self.records_taken += record;
        if vrf.index() >= self.shared.config.vrfs.len() {
            self.records_untaken += record;
            return self.shared.count(Cause::ItemUnopened);
        }
        let done = match item {
            ToEvent::SlotBegin {
                at,
                lane,
                generation,
                version,
                since,
            } => self
                .lane(*lane)
                .is_some_and(|l| l.begin(now, *at, *generation, *version, *since)),
            ToEvent::Record {
                at,
                only: Some(lane),
                delta,
            } => self.walked(*lane, *at, delta),
            ToEvent::Record {
                at,
                only: None,
                delta,
            } => {
                let shared = &mut self.shared;
                let sent = self
                    .lanes
                    .iter_mut()
                    .map(|l| usize::from(l.record(shared, *at, delta, false)))
                    .sum::<usize>();
                self.records_copied += sent.saturating_sub(1) as u64;
                if sent == 0 {
                    self.records_untaken += record;
                    return self.shared.count(Cause::ItemUnopened);
                }
                true
            }
            ToEvent::SlotEnd { at, lane, end } => self.lane(*lane).is_some_and(|l| l.end(now, *at, end)),
            ToEvent::SlotVerified {
                at,
                lane,
                generation,
                refused,
            } => self.answer(*lane, |inlet, s, stats| {
                inlet.slot_verified(s, stats, *at, *generation, *refused)
            }),
            ToEvent::SlotFailed { at, lane, generation } => self.answer(*lane, |inlet, s, stats| {
                inlet.slot_failed(s, stats, *at, *generation)
            }),
            ToEvent::SlotMissed { at, lane, generation } => self.answer(*lane, |inlet, s, stats| {
                inlet.slot_missed(s, stats, *at, *generation);
            }),
            ToEvent::SlotOffer { at, lane, offer } => self.answer(*lane, |inlet, s, stats| {
                inlet.slot_offer(s, stats, *at, offer);
            }),
            ToEvent::Commit { at, counter } => {
                let asked = self
                    .lanes
                    .iter_mut()
                    .map(|l| usize::from(l.commit(now, *at, *counter)))
                    .sum::<usize>();
                asked > 0
            }
            ToEvent::Committed {
                at,
                lane,
                counter,
                applied,
            } => self.answer(*lane, |inlet, s, _| {
                inlet.slot_committed(s, *at, *counter, *applied);
            }),
            ToEvent::SlotAsk {
                at,
                lane,
                generation,
                wanted,
            } => self.answer(*lane, |inlet, s, _| inlet.slot_ask(s, *at, *generation, *wanted)),
            ToEvent::SlotDigest { at, end } => {
                for lane in &mut self.lanes {
                    lane.digest(now, *at, end);
                }
                true
            }
            ToEvent::SlotMark { at, lane, mark } => {
                let found = self.lanes.get_mut(usize::from(lane.peer));
                found
                    .filter(|l| l.is_up() && l.tag() == *lane)
                    .is_some_and(|l| l.mark(&self.shared, *at, mark))
            }
            ToEvent::SlotTail { at, lane, put } => self.answer(*lane, |inlet, s, _| inlet.tail(s, *at, put)),
            ToEvent::SlotMarked { at, lane, marked } => self.answer(*lane, |inlet, s, _| {
                inlet.comparison(s, *at, marked.round, &Said::Marked(*marked));
            }),
            ToEvent::SlotListed {
                at,
                lane,
                round,
                listed,
            } => self.answer(*lane, |inlet, s, _| {
                inlet.comparison(s, *at, *round, &Said::Listed(*listed));
            }),
            ToEvent::SlotDirty { at } => {
                self.again(*at, "dirty");
                true
            }
            ToEvent::SlotLeft { number, .. } => {
                self.shared.rings.owners().leave(*number);
                true
            }
            ToEvent::Drained { vrf, number } => {
                self.drained(*vrf, *number);
                true
            }
        };
        if !done {
            self.records_untaken += record;
            self.shared.count(Cause::ItemStale);
        }
    }

    /// A record of a walk, for one lane.
    fn walked(&mut self, tag: LaneTag, at: SlotRef, delta: &Delta) -> bool {
        let lane = self.lanes.get_mut(usize::from(tag.peer));
        lane.filter(|lane| lane.is_up() && lane.tag() == tag)
            .is_some_and(|lane| lane.record(&mut self.shared, at, delta, true))
    }

    /// Our lane of this very connection.
    fn lane(&mut self, tag: LaneTag) -> Option<&mut Lane<N::Wire>> {
        self.lanes
            .get_mut(usize::from(tag.peer))
            .filter(|lane| lane.is_up() && lane.tag() == tag)
    }

    /// Gives a worker's answer to the peer's lane it is for, if that very connection still exists.
    fn answer(
        &mut self,
        tag: LaneTag,
        give: impl FnOnce(&mut Inlet<N::Wire>, &mut Shared, &mut LocalReport),
    ) -> bool {
        let Some(inlet) = self.inlets.iter_mut().find(|inlet| inlet.tag() == tag) else {
            return false;
        };
        give(inlet, &mut self.shared, &mut self.stats[usize::from(tag.peer)]);
        true
    }

    /// From the peers' lanes to the workers' rings.
    fn take_in(&mut self) -> usize {
        let (shared, stats) = (&mut self.shared, &mut self.stats);
        let mut work = 0;
        self.inlets.retain_mut(|inlet| {
            let tag = inlet.tag();
            match inlet.turn(shared, &mut stats[usize::from(tag.peer)]) {
                Ok(n) => work += n,
                Err(cause) => {
                    lost(shared, &mut stats[usize::from(tag.peer)], inlet, cause);
                    return false;
                }
            }
            true
        });
        work
    }

    fn send(&mut self, idle: bool) {
        let several = self.lanes.len() > 1;
        for lane in self.lanes.iter_mut().chain(&mut self.controls) {
            lane.finish(&mut self.shared, several, idle);
        }
        let (shared, stats) = (&mut self.shared, &mut self.stats);
        self.inlets.retain_mut(|inlet| match inlet.finish(shared) {
            Ok(()) => true,
            Err(cause) => {
                lost(shared, &mut stats[usize::from(inlet.tag().peer)], inlet, cause);
                false
            }
        });
    }

    /// Shows the role machines what is known, when something of it has changed.
    fn publish(&mut self) {
        if !core::mem::take(&mut self.shared.changed) {
            return;
        }
        let event = usize::from(self.shared.event);
        let vrfs = u16::try_from(self.shared.config.vrfs.len()).unwrap_or(u16::MAX);
        for peer in (0..self.lanes.len()).filter_map(|n| u8::try_from(n).ok()) {
            let clients = || {
                self.lanes
                    .iter()
                    .chain(&self.controls)
                    .filter(|l| l.tag().peer == peer)
            };
            let inlets = || self.inlets.iter().filter(|i| i.tag().peer == peer);
            for (vrf, heard) in (0..vrfs).map(VrfId).zip(&self.shared.heard) {
                self.board.hear(vrf, *heard);
                let said = clients().filter_map(|l| l.peer_vrf(vrf));
                let heard = inlets().filter_map(|i| i.peer_vrf(vrf));
                let newest = said.chain(heard).max_by_key(|v| v.term);
                let progress = Progress {
                    verified: inlets().map(|i| i.verified(vrf)).sum(),
                    exported: clients().map(|l| l.exported(vrf)).sum(),
                    drained: self.lanes[usize::from(peer)].drained(vrf),
                };
                let came_active =
                    clients().any(|l| l.came_active(vrf)) || inlets().any(|i| i.came_active(vrf));
                if came_active {
                    self.board.meet(event, peer, vrf);
                }
                self.board.set_vrf(event, peer, vrf, newest, progress);
            }
            let up = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let total = inlets()
                .map(|i| u32::from(i.hello().lanes) + 1)
                .max()
                .unwrap_or(0);
            let said = clients().find_map(Lane::node);
            let node = said
                .or_else(|| inlets().map(|i| i.hello().node_id).next())
                .unwrap_or(0);
            let clients_up = clients().filter(|l| l.is_up()).count();
            self.board
                .set_lanes(event, peer, up(clients_up), up(inlets().count()), total, node);
        }
    }
}

/// A peer's lane is gone.
fn lost<W: Wire>(shared: &mut Shared, stats: &mut LocalReport, inlet: &Inlet<W>, cause: Cause) {
    let tag = inlet.tag();
    inlet.abandon(stats, shared.now);
    inlet.tally(&mut shared.past);
    shared.count(cause);
    shared.changed = true;
    let reason = cause.name();
    shared.tell(PumpEvent::LaneDown {
        peer: tag.peer,
        lane: tag.lane,
        end: End::LocalNode,
        reason,
    });
}

#[cfg(test)]
#[path = "pump_tests.rs"]
mod tests;
