//! Our end of a lane: the client connection of one event thread to one peer's local node.
//!
//! Created at start, one per peer (and a control lane per peer on event thread 0); connects for ever, with a
//! growing pause. Each connection has an incarnation and knows nothing of the one before: when it is made, every
//! slot that flows in this direction is sent whole; when it is lost, workers are told to stop and nothing else
//! changes. What it takes in are answers only, so it never waits for a worker.
//!
//! The modules stand in the order of what a delta needs: the connection is made, workers are asked for slots, what they
//! hand over goes into frames, and the peer's answers come back.

mod greet;
mod redirect;
mod slots;
mod stream;

mod answers;
mod drain;
mod report;

use std::collections::VecDeque;

use dataplane::delta::{LaneTag, SlotRef};
use dataplane::flow::VrfId;
use dataplane::shard::lane_of;
use dataplane::time::Instant;

use self::drain::Drains;
use self::report::Past;
use crate::board::PeerVrf;
use crate::cause::Cause;
use crate::config::{CONTROL_LANE, SyncConfig, SyncLink};
use crate::conn::Conn;
use crate::export::Export;
use crate::hello::Preface;
use crate::peering::Peering;
use crate::port::{End, PumpEvent};
use crate::record;
use crate::report::ClientReport;
use crate::shared::Shared;
use crate::wire::{Net, Wire};

/// A lane with its present connection, if any.
#[derive(Debug)]
pub(crate) struct Lane<W> {
    tag: LaneTag,
    /// The ways to the peer.
    links: Vec<SyncLink>,
    /// The one it is on, or tries next, by place.
    link: usize,
    state: State<W>,
    /// Doublings of the pause before the next attempt.
    attempts: u32,
    /// By VRF; those not shared with the peer have no slots.
    exports: Vec<Export>,
    drains: Drains,
    todo: VecDeque<SlotRef>,
    reminded: Instant,
    report: ClientReport,
    /// Counts of earlier connections.
    past: Past,
}

#[derive(Debug)]
enum State<W> {
    Down {
        until: Instant,
    },
    Greeting {
        conn: Box<Conn<W>>,
        answer: Preface,
        since: Instant,
    },
    Up {
        conn: Box<Conn<W>>,
        peering: Peering,
        node: u8,
        acked: u64,
    },
}

impl<W: Wire> Lane<W> {
    /// A lane to `peer`, not yet connected.
    pub(crate) fn new(config: &SyncConfig, peer: u8, number: u8, incarnation: u32) -> Self {
        let exports = (0u16..).zip(&config.vrfs).map(|(id, vrf)| {
            let slots = if vrf.has_peer(peer) && number != CONTROL_LANE {
                vrf.slots
            } else {
                0
            };
            let first = config.first_stream(VrfId(id));
            Export::new(VrfId(id), slots, first, |slot| {
                lane_of(slot, config.events) == u16::from(number)
            })
        });
        let report = ClientReport {
            peer,
            lane: number,
            ..ClientReport::default()
        };
        Self {
            tag: LaneTag {
                peer,
                lane: number,
                incarnation,
            },
            links: config.peers[usize::from(peer)].links().collect(),
            link: 0,
            state: State::Down {
                until: Instant::default(),
            },
            attempts: 0,
            exports: exports.collect(),
            drains: Drains::new(config.vrfs.len()),
            todo: VecDeque::new(),
            reminded: Instant::default(),
            report,
            past: Past::default(),
        }
    }

    /// Peer, lane number and incarnation.
    pub(crate) const fn tag(&self) -> LaneTag {
        self.tag
    }

    /// Whether the handshake is done.
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// The peer's node id, once the handshake is done.
    pub(crate) const fn node(&self) -> Option<u8> {
        if let State::Up { node, .. } = self.state {
            Some(node)
        } else {
            None
        }
    }

    /// What the peer has said about a VRF on this connection.
    pub(crate) fn peer_vrf(&self, vrf: VrfId) -> Option<PeerVrf> {
        if let State::Up { peering, .. } = &self.state {
            peering.known(vrf).map(|k| k.state)
        } else {
            None
        }
    }

    /// Whether the peer was active when it opened a VRF.
    pub(crate) fn came_active(&self, vrf: VrfId) -> bool {
        if let State::Up { peering, .. } = &self.state {
            peering.known(vrf).is_some_and(|k| k.came_active)
        } else {
            false
        }
    }

    /// Everything that the workers kept back of a VRF was put in by now.
    pub(crate) fn mark_drained(&mut self, vrf: VrfId, number: u32) {
        let frame = match &mut self.state {
            State::Up { conn, .. } => conn.last_frame(),
            _ => None,
        };
        self.drains.mark(vrf, number, frame);
    }

    /// The last drain of a VRF that the peer has acknowledged everything of.
    pub(crate) fn drained(&self, vrf: VrfId) -> u32 {
        self.drains.done(vrf)
    }

    /// Whether records for this lane should wait in the workers' rings.
    pub(crate) fn is_full(&self) -> bool {
        if let State::Up { conn, .. } = &self.state {
            conn.out.is_full() || conn.credit() == 0
        } else {
            false
        }
    }

    /// Whether records of walks for this lane should wait in the workers' rings.
    pub(crate) fn holds_walks(&self) -> bool {
        matches!(&self.state, State::Up { conn, .. } if conn.holds_walks())
    }

    /// First half of a turn: connect, read answers, follow the direction, ask workers for slots.
    pub(crate) fn turn(&mut self, s: &mut Shared, net: &mut impl Net<Wire = W>) -> usize {
        let result = match &self.state {
            State::Down { until } if *until <= s.now => self.connect(s, net),
            State::Down { .. } => Ok(0),
            State::Greeting { .. } => self.greet(s),
            State::Up { .. } => self.receive(s),
        };
        let work = result.unwrap_or_else(|cause| self.down(s, cause));
        if self.is_up() {
            self.direct(s);
        }
        work + self.ask(s)
    }

    /// Second half of a turn: send. `idle` means that workers have nothing more to say for now.
    pub(crate) fn finish(&mut self, s: &mut Shared, shared: bool, idle: bool) {
        let State::Up { conn, .. } = &mut self.state else {
            return;
        };
        if let Err(cause) = conn.finish(s.now, &s.config.timing, shared, idle) {
            self.down(s, cause);
        }
    }

    /// Says good-bye before the process ends.
    pub(crate) fn farewell(&mut self, s: &mut Shared) {
        if let State::Up { conn, .. } = &mut self.state {
            conn.put(s.now, record::put_bye);
            // The peer notices the closed connection too; failing to say so first changes nothing.
            let _ = conn.finish(s.now, &s.config.timing, false, true);
            self.down(s, Cause::Closed);
        }
    }

    /// The connection is over, or could not be made.
    fn down(&mut self, s: &mut Shared, cause: Cause) -> usize {
        s.count(cause);
        let pause = s.config.timing.reconnect_min * (1 << self.attempts.min(16));
        let pause = pause.min(s.config.timing.reconnect_max);
        // Jitter of up to half: lanes that died together must not come back together.
        let pause = pause / 2 + pause / 2 * (s.random() & 0xff) / 255;
        self.attempts += 1;
        // The other link may carry what this one doesn't.
        self.link = (self.link + 1) % self.links.len();
        let old = core::mem::replace(&mut self.state, State::Down { until: s.now + pause });
        self.report.last_down = Some(cause.name().to_owned());
        if let State::Up { conn, acked, .. } = old {
            conn.tally(&mut s.past);
            self.report.reconnects += 1;
            self.report.records_abandoned += conn.out.records() - acked;
            self.past.frames += conn.out.sequence();
            self.past.records += conn.out.records();
            self.past.bytes += conn.out.bytes_sent();
            for export in self.exports.iter_mut().filter(|e| e.is_streaming()) {
                export.stop(self.tag.incarnation, s.now, &mut self.todo);
            }
            self.drains.disconnected();
            s.changed = true;
            let (peer, lane, reason) = (self.tag.peer, self.tag.lane, cause.name());
            s.tell(PumpEvent::LaneDown {
                peer,
                lane,
                end: End::Client,
                reason,
            });
        }
        1
    }
}
