//! A peer's fences on their way through this node's workers (sync/PROTOCOL.md R-59).
//!
//! A peer that has taken over asks whether packets are still on their way to it. This node's event thread puts the question into
//! every worker's ring of packets; each one empties its receive queues and puts it into its ring back, behind what it has
//! redirected. What it has handed to another worker instead may still be there: so the question goes round twice. When all have
//! answered, it goes back to the peer by the lane that the packets went by, behind them.

use bytes::{Buf, BufMut};
use dataplane::delta::SlotRef;
use dataplane::redirect::{Fence, PacketSender};

use crate::record::{Bound, RecordError, kind, record};

/// Rounds through the workers: what was received, and what was handed over then.
const ROUNDS: u8 = 2;

/// Questions at a time. A further one takes the oldest one's place, which was lost on its way.
const FENCES_MAX: usize = 64;

/// Questions of peers that workers have not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Fences {
    open: Vec<Open>,
    tickets: u64,
}

#[derive(Debug)]
struct Open {
    /// Its number in this node's rings: peers number theirs as they like.
    ticket: u64,
    peer: u8,
    fence: Fence,
    /// The round it is in, from 1 on.
    round: u8,
    /// Workers that have not answered in this round.
    left: usize,
}

impl Fences {
    /// A peer asks.
    pub(crate) fn begin(&mut self, peer: u8, fence: &Fence, rings: &mut [PacketSender]) {
        self.tickets += 1;
        if self.open.len() >= FENCES_MAX {
            self.open.remove(0);
        }
        let open = Open {
            ticket: self.tickets,
            peer,
            fence: *fence,
            round: 1,
            left: rings.len(),
        };
        if open.go_round(rings) {
            self.open.push(open);
        }
    }

    /// A worker has answered. Gives the peer that asked, and what it gets, when that was the last answer.
    pub(crate) fn let_through(&mut self, answer: &Fence, rings: &mut [PacketSender]) -> Option<(u8, Fence)> {
        let place = self.open.iter().position(|open| open.ticket == answer.number)?;
        let open = &mut self.open[place];
        open.left -= 1;
        if open.left > 0 {
            return None;
        }
        if open.round < ROUNDS {
            (open.round, open.left) = (open.round + 1, rings.len());
            if open.go_round(rings) {
                return None;
            }
            self.open.remove(place);
            return None;
        }
        let Open { peer, fence, .. } = self.open.remove(place);
        Some((peer, Fence { back: true, ..fence }))
    }
}

impl Open {
    /// Asks every worker; false when one has no room for the question, which is then not asked.
    fn go_round(&self, rings: &mut [PacketSender]) -> bool {
        let fence = Fence {
            number: self.ticket,
            ..self.fence
        };
        rings.iter_mut().all(|ring| ring.push_fence(&fence))
    }
}

/// Appends FENCE.
pub(crate) fn put_fence(out: &mut Vec<u8>, fence: &Fence) {
    record(out, kind::FENCE, |out| {
        out.put_u16(fence.at.vrf.0);
        out.put_u16(fence.at.slot);
        out.put_u64(fence.number);
        out.put_u8(u8::from(fence.back));
    });
}

/// Decodes the body of FENCE.
pub(crate) fn get_fence(
    mut from: &[u8],
    resolve: impl Fn(u16) -> Option<Bound>,
) -> Result<Fence, RecordError> {
    let bound = resolve(from.try_get_u16()?).ok_or(RecordError::UnknownVrf)?;
    let slot = from.try_get_u16()?;
    let (number, back) = (from.try_get_u64()?, from.try_get_u8()?);
    let fence = Fence {
        at: SlotRef { vrf: bound.vrf, slot },
        number,
        back: back == 1,
    };
    // No slot: none is missing anything.
    (slot < bound.slots && back <= 1)
        .then_some(fence)
        .ok_or(RecordError::Malformed(None))
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
