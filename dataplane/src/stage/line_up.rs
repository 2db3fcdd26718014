//! Packets that come straight to a node which has just taken over wait behind those that come redirected (sync/PROTOCOL.md R-59).
//!
//! In a switchover one packet of a flow may still come by the node that has handed over, while the next one comes straight and is
//! faster. So in the first seconds of a reign that was handed over straight ones stand in a line, as long as redirected packets
//! come, or may come back that this node has redirected itself just before. The worker puts fences into its rings to the event
//! threads; they come back behind all packets that were on their way, and then everybody goes on who stood in the line when the
//! worker asked. Then it asks for those who have come since.
//!
//! Nobody is dropped for it: what finds no room goes on out of order, a peer that says nothing delays nobody for longer
//! than [`PATIENCE`], and both are counted. Without redirected packets, or a peer that is connected, nobody waits at all.

use core::time::Duration;

use super::hold::Waiting;
use super::{Batch, Context};
use crate::counters::Counters;
use crate::flow::VrfId;
use crate::stage::meta::Kind;
use crate::store::{Queue, Store};
use crate::tables::VrfRole;
use crate::time::Instant;
use crate::verdict::Verdict;

/// Packets that stand in a worker's line at most: at 10 million per second, what comes while a fence goes to the other node and
/// back in 100 us.
pub const LINED_UP: u32 = 1_024;

/// How long after a redirected packet straight ones line up.
const WATCH: Duration = Duration::from_millis(20);

/// How long a fence is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// Seconds of a reign in which packets line up. Whoever still comes by the other node then comes that way for good.
const REIGN_S: u32 = 5;

/// A worker's line.
#[derive(Debug)]
pub(crate) struct Line<P> {
    store: Store<(VrfId, Waiting<P>)>,
    queue: Queue,
    vrfs: Box<[Place]>,
    /// The latest of the VRFs' times.
    until: Instant,
    asked: Option<Asked>,
    /// Packets that may go on.
    due: u32,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// Until when packets of the VRF line up.
    until: Instant,
    /// The last switchover's word on that.
    expected: Instant,
    /// How many do.
    waiting: u32,
}

/// A fence is on its way.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// Packets that stood in the line then.
    covers: u32,
    /// The end of patience.
    until: Instant,
}

/// Marks what has to wait behind redirected packets.
#[cold]
pub(crate) fn line_up<P>(batch: &mut Batch<P>, line: &Line<P>, cx: &mut Context<'_>) {
    let mut room = line.store.capacity() - line.store.len();
    batch.each(|meta, work| {
        let users = matches!(meta.kind, Kind::Flow | Kind::IcmpError | Kind::Fragment);
        let straight = work.redirects == 0 && !work.lined_up;
        let waits = line.is_for(work.at.vrf, cx.now) && cx.tables.is_active(work.at.vrf);
        if !users || !straight || !waits {
            return;
        }
        if room == 0 {
            cx.tables.counters.lined_up_full += 1;
            return;
        }
        room -= 1;
        work.verdict = Verdict::LineUp;
    });
}

impl<P> Line<P> {
    pub(crate) fn new(vrfs: usize) -> Self {
        let place = Place {
            until: Instant::default(),
            expected: Instant::default(),
            waiting: 0,
        };
        Self {
            store: Store::new(LINED_UP),
            queue: Queue::EMPTY,
            vrfs: vec![place; vrfs].into(),
            until: Instant::default(),
            asked: None,
            due: 0,
        }
    }

    /// A redirected packet of a VRF has come. In a reign that was not handed over, the traffic may as well turn away from here.
    pub(crate) fn watch(&mut self, vrf: VrfId, seen: &VrfRole, now: Instant) {
        let handed_over = seen.role.is_active() && seen.redirects_until != Instant::default();
        if handed_over && now.secs().saturating_sub(seen.since_s) <= REIGN_S {
            self.open(vrf, now);
        }
    }

    /// Switchovers have just made this node active: what comes redirected may come later than what comes straight.
    #[cold]
    pub(crate) fn expect(&mut self, seen: &[VrfRole], now: Instant) {
        for (place, seen) in self.vrfs.iter_mut().zip(seen) {
            let expected = seen.redirects_until;
            if seen.role.is_active() && now < expected && place.expected != expected {
                (place.expected, place.until) = (expected, place.until.max(expected));
                self.until = self.until.max(place.until);
            }
        }
    }

    /// A redirected packet is on its way: one that has come, and others behind it; or one of this node's own, which comes back
    /// if this node takes over meanwhile.
    pub(crate) fn open(&mut self, vrf: VrfId, now: Instant) {
        let place = &mut self.vrfs[vrf.index()];
        place.until = place.until.max(now + WATCH);
        self.until = self.until.max(place.until);
    }

    /// Whether packets that come now may have to wait.
    #[inline]
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        now < self.until || !self.is_empty()
    }

    /// Whether nobody waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.store.len() == 0
    }

    fn is_for(&self, vrf: VrfId, now: Instant) -> bool {
        let place = &self.vrfs[vrf.index()];
        now < place.until || place.waiting > 0
    }

    /// A marked packet waits.
    ///
    /// # Errors
    /// The packet, when there is no room: [`line_up`] has marked more than there is.
    pub(crate) fn keep(&mut self, vrf: VrfId, waiting: Waiting<P>, counters: &mut Counters) -> Result<(), P> {
        self.store
            .push(&mut self.queue, (vrf, waiting))
            .map_err(|(_, waiting)| waiting.packet)?;
        self.vrfs[vrf.index()].waiting += 1;
        counters.lined_up += 1;
        Ok(())
    }

    /// Decides who may go on. `back`: the fence that was asked with last has come back.
    pub(crate) fn review(&mut self, back: bool, now: Instant, counters: &mut Counters) {
        let Some(asked) = self.asked else { return };
        if back {
            // Of those who came later, too, when nothing redirected has come for a while.
            self.due = if now < self.until {
                asked.covers
            } else {
                self.store.len()
            };
            self.asked = None;
        } else if now >= asked.until {
            self.asked = None;
            self.give_up(now, counters);
        }
    }

    /// Nobody waits for a peer that doesn't answer, until something comes from it.
    fn give_up(&mut self, now: Instant, counters: &mut Counters) {
        self.due = self.store.len();
        counters.lined_up_late += u64::from(self.due);
        self.until = now;
        for place in &mut self.vrfs {
            place.until = place.until.min(now);
        }
    }

    /// Whether a fence has to be sent for those who wait.
    pub(crate) fn asks(&self) -> bool {
        self.due == 0 && self.asked.is_none() && !self.is_empty()
    }

    /// A fence has been sent; gives a VRF of those who wait. None when nobody does.
    pub(crate) fn ask(&mut self, now: Instant) -> Option<VrfId> {
        self.asked = Some(Asked {
            covers: self.store.len(),
            until: now + PATIENCE,
        });
        self.store.front(&self.queue).map(|(vrf, _)| *vrf)
    }

    /// The next packet that may go on.
    pub(crate) fn pop(&mut self) -> Option<Waiting<P>> {
        self.due = self.due.checked_sub(1)?;
        self.take()
    }

    /// The next packet, whether it may go on or not: the worker stops.
    pub(crate) fn take(&mut self) -> Option<Waiting<P>> {
        let (vrf, waiting) = self.store.pop(&mut self.queue)?;
        self.vrfs[vrf.index()].waiting -= 1;
        Some(waiting)
    }
}

#[cfg(test)]
#[path = "line_up_tests.rs"]
mod tests;
