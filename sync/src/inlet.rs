//! The local node's end of a peer's lane: what the peer streams to us, steered to the workers that own the
//! slots here, and acknowledged when they have applied it.
//!
//! Born when a HELLO was accepted, dies with the connection or when a newer one of the same lane arrives. The
//! old one is gone before the first byte of the new one is read, so late bytes of an old connection are never
//! mixed in. When a worker's ring is full, reading stops in the middle of a frame and nothing is lost.
//!
//! The modules stand in the order of a delta's path: it is steered to its worker, the worker's answer goes back, and the
//! frame it came in is acknowledged.

mod steer;

mod answers;
mod checkpoints;
mod imports;

use dataplane::delta::{LaneTag, Term};
use dataplane::flow::VrfId;
use dataplane::mutant::{self, Mutant};
use dataplane::time::Instant;

use self::checkpoints::Checkpoints;
use self::imports::Imports;
use crate::board::PeerVrf;
use crate::cause::Cause;
use crate::config::CONTROL_LANE;
use crate::conn::Conn;
use crate::hello::{Answer, FEATURES, Hello, VERSIONS, encode_answer};
use crate::peering::Peering;
use crate::port::{Arrival, End, PumpEvent};
use crate::record::{self, SlotFailure};
use crate::report::{LocalReport, LocalVrfReport};
use crate::role::outranks;
use crate::shared::Shared;
use crate::tally::Tallies;
use crate::wire::Wire;

/// Reads per turn.
const READS_MAX: usize = 4;

/// Entries of a slot listed for one question.
pub(crate) const LIST_MAX: u16 = 1_024;

/// Least credit: with smaller rings than this, reading waits for workers again.
const CREDIT_MIN: u32 = 64;

/// An accepted connection of a peer.
#[derive(Debug)]
pub(crate) struct Inlet<W> {
    tag: LaneTag,
    hello: Hello,
    conn: Conn<W>,
    peering: Peering,
    imports: Imports,
    checkpoints: Checkpoints,
}

impl<W: Wire> Inlet<W> {
    /// Accepts the connection: the answer goes out first, then all our VRFs.
    pub(crate) fn new(arrival: Arrival<W>, s: &mut Shared) -> Self {
        let answer = Answer {
            status: 0,
            version: VERSIONS.1.min(arrival.hello.versions.1),
            features: FEATURES & arrival.hello.features,
            node_id: s.config.node_id,
            boot_id: s.config.boot_id,
            node_name: s.config.node_name.clone(),
        };
        let (peer, hello) = (arrival.peer, arrival.hello);
        let mut conn = Conn::new(arrival.wire, &encode_answer(&answer), false, s.now);
        let mut peering = Peering::new(peer, hello.features, &s.sections);
        peering.open_all(&mut conn, &s.config, &s.own, s.now);
        let credit = credit(s, hello.lanes);
        conn.put(s.now, |out| record::put_credit(out, credit));
        s.changed = true;
        s.tell(PumpEvent::LaneUp {
            peer,
            lane: hello.lane,
            end: End::LocalNode,
        });
        if hello.lane == CONTROL_LANE && hello.node_name == s.config.node_name {
            s.tell(PumpEvent::NamedAlike { peer });
        }
        Self {
            tag: LaneTag {
                peer,
                lane: hello.lane,
                incarnation: hello.incarnation,
            },
            hello,
            conn,
            peering,
            imports: Imports::new(s.config.vrfs.len()),
            checkpoints: Checkpoints::new(s.rings.pushed().len()),
        }
    }

    /// Peer, the peer's lane number and its incarnation.
    pub(crate) const fn tag(&self) -> LaneTag {
        self.tag
    }

    /// What the peer said of itself.
    pub(crate) const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What the peer has said about a VRF on this connection.
    pub(crate) fn peer_vrf(&self, vrf: VrfId) -> Option<PeerVrf> {
        self.peering.known(vrf).map(|k| k.state)
    }

    /// Whether the peer was active when it opened a VRF.
    pub(crate) fn came_active(&self, vrf: VrfId) -> bool {
        self.peering.known(vrf).is_some_and(|k| k.came_active)
    }

    /// Slots of a VRF that were imported over this connection.
    pub(crate) fn verified(&self, vrf: VrfId) -> u32 {
        self.imports.verified(vrf)
    }

    /// Adds what has gone over the connection.
    pub(crate) fn tally(&self, to: &mut Tallies) {
        self.conn.tally(to);
    }

    /// First half of a turn: read, steer, acknowledge.
    pub(crate) fn turn(&mut self, s: &mut Shared, stats: &mut LocalReport) -> Result<usize, Cause> {
        s.changed |= !self.peering.reopen(&mut self.conn, s).is_empty();
        self.peering.announce(&mut self.conn, &s.own, s.now);
        for vrf in 0..u16::try_from(self.imports.vrfs()).unwrap_or(u16::MAX) {
            self.direct(s, stats, VrfId(vrf));
        }
        let mut work = 0;
        for _ in 0..READS_MAX {
            // What was left by the last turn comes first; bytes are read only when it is done.
            let (records, full) = self.read(s, stats)?;
            work += records;
            if full {
                stats.waits += 1;
                break;
            }
            if self.conn.pauses(s) {
                break;
            }
            let Some(bytes) = self.conn.fill(s.now)? else {
                break;
            };
            stats.bytes += bytes as u64;
            work += 1;
        }
        self.acknowledge(s);
        Ok(work)
    }

    /// Second half of a turn: send.
    pub(crate) fn finish(&mut self, s: &Shared) -> Result<(), Cause> {
        self.conn.finish(s.now, &s.config.timing, false, true)
    }

    /// Says good-bye before the process ends.
    pub(crate) fn farewell(&mut self, s: &Shared) {
        self.conn.put(s.now, record::put_bye);
        // The peer notices the closed connection too; failing to say so first changes nothing.
        let _ = self.finish(s);
    }

    /// The connection is over: no slot is awaited by it any more.
    pub(crate) fn abandon(&self, stats: &mut LocalReport, now: Instant) {
        for vrf in (0u16..).map(VrfId).take(self.imports.vrfs()) {
            self.give_up(stats, vrf, now);
        }
    }

    fn give_up(&self, stats: &mut LocalReport, vrf: VrfId, now: Instant) {
        let awaited = self.imports.awaited(vrf);
        if awaited > 0 {
            let stats = vrf_stats(stats, vrf);
            stats.resync.interrupt();
            settle(stats, awaited, now);
        }
    }

    /// Decides anew whether state of a VRF may come in: a change of direction closes its slots. The peer is
    /// told, since it may see no change: what it sends before the direction turns back would be missing here.
    fn direct(&mut self, s: &mut Shared, stats: &mut LocalReport, vrf: VrfId) {
        let accepts = self.may_accept(s, vrf);
        if accepts == self.imports.is_accepting(vrf) {
            return;
        }
        let slots = accepts.then(|| self.peering.known(vrf).map_or(0, |known| known.slots));
        s.changed = true;
        self.give_up(stats, vrf, s.now);
        for (at, generation) in self.imports.turn(vrf, slots) {
            self.fail(s, at, generation, SlotFailure::NotAccepting);
        }
    }

    /// Whether this node stands by, and the peer has state of the VRF that this one lacks.
    fn may_accept(&self, s: &Shared, vrf: VrfId) -> bool {
        let known = self.peering.known(vrf);
        let own = s.own.get(vrf.index());
        self.tag.lane != CONTROL_LANE
            && s.is_standing_by(vrf.index())
            && known.zip(own).is_some_and(|(known, own)| {
                let theirs = known.state.term;
                // A higher term of this very peer that another lane was faster to tell: its word here is only late.
                let late = self.imports.is_accepting(vrf)
                    && theirs != Term::NONE
                    && own.term.node() == self.hello.node_id;
                known.slots > 0 && (late || outranks(theirs, self.hello.node_id, own.term))
            })
    }

    /// Acknowledges every frame whose items have all been processed by their workers.
    fn acknowledge(&mut self, s: &Shared) {
        let is_applied = |pushed: &[u64]| s.rings.applied(pushed) || mutant::on(Mutant::AckOnReceive);
        if let Some(sequence) = self.checkpoints.pass(is_applied) {
            self.conn.put(s.now, |out| record::put_ack(out, sequence));
        }
    }
}

/// Records that a connection may have under way: its share of the smallest ring to a worker, so that whatever arrives finds
/// room and reading never has to wait for a worker.
fn credit(s: &Shared, lanes: u8) -> u32 {
    let per_thread = usize::from(lanes).div_ceil(usize::from(s.config.events.max(1)));
    let sharers = (per_thread * s.config.peers.len()).max(1);
    let share = s.rings.capacity() / sharers;
    u32::try_from(share).unwrap_or(u32::MAX).max(CREDIT_MIN)
}

/// The peer has to send a slot.
fn expect(stats: &mut LocalVrfReport, why: &str, now: Instant) {
    stats.slots_awaited += 1;
    stats.resync.join(why, now);
}

/// Slots are verified or given up.
fn settle(stats: &mut LocalVrfReport, slots: u32, now: Instant) {
    stats.slots_awaited -= slots;
    if stats.slots_awaited == 0 {
        stats.resync.end(now);
    }
}

/// Counters of a VRF, made when it is first seen.
fn vrf_stats(stats: &mut LocalReport, vrf: VrfId) -> &mut LocalVrfReport {
    let place = stats.vrfs.iter().position(|v| v.vrf == vrf.0).unwrap_or_else(|| {
        stats.vrfs.push(LocalVrfReport {
            vrf: vrf.0,
            ..LocalVrfReport::default()
        });
        stats.vrfs.len() - 1
    });
    &mut stats.vrfs[place]
}
