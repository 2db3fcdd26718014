//! What workers, or an operator here, have to say to the peer about its slots.
//!
//! About a generation that is over nothing is said, except what the peer waits for.

use dataplane::delta::{PutRecord, SlotOffer, SlotRef, Wanted};

use super::{Inlet, expect, settle, vrf_stats};
use crate::cause::Cause;
use crate::compare_record::{Said, put_said, put_tail};
use crate::record::SlotFailure;
use crate::report::LocalReport;
use crate::shared::Shared;
use crate::slot_record;
use crate::wire::Wire;

impl<W: Wire> Inlet<W> {
    /// A worker has verified a slot that came from here.
    pub(crate) fn slot_verified(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        generation: u32,
        refused: u32,
    ) {
        if generation != 0 && self.imports.generation(at) == generation {
            let sent = self.imports.verify(at);
            let stats = vrf_stats(stats, at.vrf);
            stats.refused += u64::from(refused);
            if let Some(sent) = sent {
                stats.generations.verified(sent);
                stats.resync.verified(refused);
                settle(stats, 1, s.now);
            }
            s.changed = true;
            self.conn.put(s.now, |out| {
                slot_record::put_slot_verified(out, at, generation, refused)
            });
        }
    }

    /// What has become of a record that the peer holds a packet for.
    pub(crate) fn slot_committed(&mut self, s: &Shared, at: SlotRef, counter: u64, applied: bool) {
        self.conn.put_aside(s.now, |out| {
            slot_record::put_slot_committed(out, at, counter, applied);
        });
    }

    /// A worker has said what it holds of a slot: answer to a question, to a digest, or to a begin of too low a term.
    pub(crate) fn slot_offer(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        offer: &SlotOffer,
    ) {
        if self.imports.has_verified(at, offer.generation) && !offer.same {
            vrf_stats(stats, at.vrf).digest_mismatch += 1;
            self.want(s, stats, at, "diverged");
        }
        self.conn
            .put_aside(s.now, |out| slot_record::put_slot_offer(out, at, offer));
    }

    /// A worker may have room now for an entry that it refused.
    pub(crate) fn slot_ask(&mut self, s: &Shared, at: SlotRef, generation: u32, wanted: Wanted) {
        if self.imports.generation(at) == generation {
            self.conn.put_aside(s.now, |out| {
                slot_record::put_slot_ask(out, at, generation, wanted)
            });
        }
    }

    /// A worker could not verify a slot that came from here.
    pub(crate) fn slot_failed(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        generation: u32,
    ) {
        vrf_stats(stats, at.vrf).generations.failed += 1;
        if self.imports.generation(at) == generation {
            self.want(s, stats, at, "damaged here");
        }
        self.fail(s, at, generation, SlotFailure::Unverified);
    }

    /// A worker has let records of a slot pass while this node was active. Where the direction has turned meanwhile the slot
    /// is closed, and the peer knows.
    pub(crate) fn slot_missed(
        &mut self,
        s: &mut Shared,
        stats: &mut LocalReport,
        at: SlotRef,
        generation: u32,
    ) {
        if self.imports.generation(at) == generation {
            self.want(s, stats, at, "active meanwhile");
            self.fail(s, at, generation, SlotFailure::NotAccepting);
        }
    }

    /// An operator wants a slot sent again. False when it isn't received over this connection.
    pub(crate) fn request(&mut self, s: &mut Shared, stats: &mut LocalReport, at: SlotRef) -> bool {
        let generation = self.imports.generation(at);
        if generation == 0 {
            return false;
        }
        self.want(s, stats, at, "requested here");
        self.fail(s, at, generation, SlotFailure::Requested);
        true
    }

    /// The peer has to send a slot again, if it doesn't anyway.
    fn want(&mut self, s: &mut Shared, stats: &mut LocalReport, at: SlotRef, why: &str) {
        s.changed = true;
        if self.imports.want(at) {
            expect(vrf_stats(stats, at.vrf), why, s.now);
        }
    }

    /// The peer hears that a generation of a slot came to nothing here.
    pub(super) fn fail(&mut self, s: &Shared, at: SlotRef, generation: u32, why: SlotFailure) {
        self.conn.put(s.now, |out| {
            slot_record::put_slot_failed(out, at, generation, why)
        });
    }

    /// An entry of this node's former reign, for the peer to take over. One that reads slowly gets no more of them.
    pub(crate) fn tail(&mut self, s: &mut Shared, at: SlotRef, put: &PutRecord) {
        if self.conn.out.is_full() {
            s.count(Cause::TailDropped);
        } else {
            self.conn.put_aside(s.now, |out| put_tail(out, at, put));
        }
    }

    /// A worker has something to say to a comparison of the peer's.
    pub(crate) fn comparison(&mut self, s: &Shared, at: SlotRef, round: u32, said: &Said) {
        self.conn.put_aside(s.now, |out| put_said(out, at, round, said));
    }
}
