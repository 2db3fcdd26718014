//! When to look at which entry: a lazy timer wheel of one-second ticks.
//!
//! Made once, at start, with a link for every possible id. A packet that prolongs an entry's life doesn't touch the
//! wheel: the worker writes the new deadline into the entry, and when the old one comes the visitor answers
//! [`Visit::Keep`] with the new one. Only an *earlier* deadline must be scheduled. Deadlines beyond the wheel's reach
//! are parked at its far end and moved on when the hand gets there. Work is bounded by a budget per call; what
//! isn't done is done first by the next call.

use crate::slot::NIL;

/// Ticks of one turn of the wheel; a power of two.
const TICKS: u32 = 1024;

/// What to do with an entry whose deadline has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// It lives: come back at this second. A second that isn't in the future means the next one.
    Keep(u32),
    /// It is gone, or wants no timer.
    Gone,
}

/// Place of an id in the list of its tick.
#[derive(Debug, Clone, Copy)]
struct Link {
    next: u32,
    prev: u32,
    /// Second in whose list it is; [`UNARMED`] when in none.
    parked_s: u32,
    /// Second at which to visit.
    deadline_s: u32,
}

const UNARMED: u32 = u32::MAX;

impl Link {
    const FREE: Self = Self {
        next: NIL,
        prev: NIL,
        parked_s: UNARMED,
        deadline_s: UNARMED,
    };
}

/// Deadlines of the ids `0..ids`.
#[derive(Debug)]
pub struct Wheel {
    heads: Box<[u32]>,
    links: Box<[Link]>,
    /// Second the hand stands on; every list of an earlier second is empty.
    hand_s: u32,
    armed: usize,
}

impl Wheel {
    /// A wheel for the ids `0..ids` that starts at `now_s`.
    #[must_use]
    pub fn new(ids: usize, now_s: u32) -> Self {
        Self {
            heads: vec![NIL; TICKS as usize].into_boxed_slice(),
            links: vec![Link::FREE; ids].into_boxed_slice(),
            hand_s: now_s,
            armed: 0,
        }
    }

    /// Visits `id` at `deadline_s`, or by the next [`Self::advance`] if that has passed, instead of any earlier
    /// arrangement.
    pub fn schedule(&mut self, id: u32, deadline_s: u32) {
        self.cancel(id);
        self.link(id, deadline_s);
    }

    /// Forgets `id`. False when it wasn't scheduled.
    pub fn cancel(&mut self, id: u32) -> bool {
        let link = self.links[id as usize];
        if link.parked_s == UNARMED {
            return false;
        }
        match link.prev {
            NIL => self.heads[tick(link.parked_s)] = link.next,
            prev => self.links[prev as usize].next = link.next,
        }
        if link.next != NIL {
            self.links[link.next as usize].prev = link.prev;
        }
        self.links[id as usize] = Link::FREE;
        self.armed -= 1;
        true
    }

    /// Visits entries whose deadline is `now_s` or earlier, touching at most `budget` links. Answers how many links
    /// it touched: fewer than `budget` means that nothing due is left.
    pub fn advance(&mut self, now_s: u32, budget: usize, mut visit: impl FnMut(u32) -> Visit) -> usize {
        let mut touched = 0;
        while self.hand_s <= now_s {
            let id = self.heads[tick(self.hand_s)];
            if id == NIL {
                if self.hand_s == now_s {
                    break;
                }
                self.hand_s = if self.armed == 0 { now_s } else { self.hand_s + 1 };
                continue;
            }
            if touched == budget {
                break;
            }
            touched += 1;
            let deadline_s = self.links[id as usize].deadline_s;
            self.cancel(id);
            if deadline_s > self.hand_s {
                self.link(id, deadline_s);
            } else if let Visit::Keep(later_s) = visit(id) {
                self.link(id, later_s.max(now_s.saturating_add(1)));
            }
        }
        touched
    }

    /// Scheduled ids.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.armed
    }

    /// Whether no id is scheduled.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// When `id` will be visited, if it is scheduled.
    #[must_use]
    pub fn deadline_s(&self, id: u32) -> Option<u32> {
        let link = self.links.get(id as usize)?;
        (link.parked_s != UNARMED).then_some(link.deadline_s)
    }

    /// Memory of lists and links, in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.heads.len() * size_of::<u32>() + self.links.len() * size_of::<Link>()
    }

    fn link(&mut self, id: u32, deadline_s: u32) {
        let reach_s = self.hand_s.saturating_add(TICKS - 1);
        let parked_s = deadline_s.clamp(self.hand_s, reach_s).min(UNARMED - 1);
        let head = core::mem::replace(&mut self.heads[tick(parked_s)], id);
        if head != NIL {
            self.links[head as usize].prev = id;
        }
        self.links[id as usize] = Link {
            next: head,
            prev: NIL,
            parked_s,
            deadline_s,
        };
        self.armed += 1;
    }
}

const fn tick(second: u32) -> usize {
    (second % TICKS) as usize
}
