//! The way out of the active role, as a worker sees it: before a node gives a VRF up in order, its peers are told
//! whatever was kept from them for the time being.
//!
//! ```text
//!   role machine: a drain with a number      (Roles::set_drain)
//!     worker: nothing waits for its age any more; a review tells what did; each lane gets, behind all of that, a mark
//!       event thread: all workers' marks have come → the frames up to here are acknowledged (R-15)
//!   role machine: every peer has it, or there is none, or the time is over → the role is given up
//! ```
//!
//! Traffic goes on meanwhile: what it changes is told at the end of the turn, as always. A drain ends with the role, or
//! with the order that has begun it, and leaves nothing behind. What a rule wants told never is not told here either.

use crate::delta::ToEvent;
use crate::flow::VrfId;
use crate::protection::Kept;
use crate::tables::Tables;

/// The drains of a worker.
#[derive(Debug)]
pub(crate) struct Drains {
    /// By VRF.
    vrfs: Vec<Drain>,
    /// How many of them are under way.
    open: usize,
    /// VRFs that were given up, for the main thread. Each once at most.
    given_up: Vec<GivenUp>,
}

/// What has become, on one worker, of the conntracks that a VRF had kept back when it was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// VRF.
    pub vrf: VrfId,
    /// Put on their way to the peers by the drain.
    pub told: u64,
    /// Still kept back.
    pub untold: u64,
}

#[derive(Debug, Clone)]
struct Drain {
    /// 0 when none is under way.
    number: u32,
    /// Conntracks that it has put on their way.
    told: u64,
    /// By lane: the mark has been set.
    marked: Vec<bool>,
}

impl Drains {
    pub(crate) fn new(vrfs: usize, lanes: usize) -> Self {
        let none = Drain {
            number: 0,
            told: 0,
            marked: vec![false; lanes],
        };
        Self {
            vrfs: vec![none; vrfs],
            open: 0,
            given_up: Vec::with_capacity(vrfs),
        }
    }

    /// Whether nothing of the VRF may wait for its age.
    pub(crate) fn is_open(&self, vrf: VrfId) -> bool {
        self.vrfs.get(vrf.index()).is_some_and(|drain| drain.number != 0)
    }

    /// A conntrack of the VRF that was kept back is on its way.
    pub(crate) fn tell(&mut self, vrf: VrfId) {
        if let Some(drain) = self.vrfs.get_mut(vrf.index()).filter(|d| d.number != 0) {
            drain.told += 1;
        }
    }

    /// Takes over a drain's number, 0 for none; true when one has begun.
    fn observe(&mut self, vrf: VrfId, number: u32) -> bool {
        let Some(drain) = self.vrfs.get_mut(vrf.index()).filter(|d| d.number != number) else {
            return false;
        };
        (drain.number, drain.told) = (number, 0);
        drain.marked.fill(false);
        self.open = self.vrfs.iter().filter(|d| d.number != 0).count();
        number != 0
    }
}

impl Tables {
    /// Takes over whether a VRF is being drained.
    pub(crate) fn observe_drain(&mut self, vrf: VrfId, number: u32) {
        if self.protect.drains.observe(vrf, number) {
            self.protect.review_all();
        }
    }

    /// The mark that a lane gets next: it has everything of a VRF that is being drained. Each is given once.
    pub(crate) fn next_mark(&mut self, lane: usize) -> Option<ToEvent> {
        if self.protect.drains.open == 0 || self.first_changed(lane).is_some() || self.protect.is_reviewing()
        {
            return None;
        }
        for index in 0..self.protect.drains.vrfs.len() {
            let drain = &self.protect.drains.vrfs[index];
            let vrf = VrfId(u16::try_from(index).unwrap_or(u16::MAX));
            let due = drain.number != 0 && !drain.marked[lane];
            if due && self.waiting_for_age(vrf) == 0 && self.lost.iter().all(|at| at.vrf != vrf) {
                let drain = &mut self.protect.drains.vrfs[index];
                drain.marked[lane] = true;
                let number = drain.number;
                return Some(ToEvent::Drained { vrf, number });
            }
        }
        None
    }

    /// The VRF is given up: what was still kept back is counted. To be called before the end of its drain is taken over.
    pub(crate) fn given_up(&mut self, vrf: VrfId) {
        let untold = self.waiting_for_age(vrf);
        self.counters.conntracks_untold += untold;
        let drains = &mut self.protect.drains;
        let told = drains.vrfs[vrf.index()].told;
        if told + untold == 0 {
            return;
        }
        // Nobody has asked since it was given up before: the newer word counts.
        drains.given_up.retain(|known| known.vrf != vrf);
        drains.given_up.push(GivenUp { vrf, told, untold });
    }

    /// What has become of a VRF that was given up.
    pub(crate) fn pop_given_up(&mut self) -> Option<GivenUp> {
        self.protect.drains.given_up.pop()
    }

    /// Conntracks of which the peers are to be told later.
    fn waiting_for_age(&self, vrf: VrfId) -> u64 {
        self.protect.kept(vrf, Kept::Delay) + self.protect.kept(vrf, Kept::Overload)
    }
}
