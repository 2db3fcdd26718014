//! How far the peer is with everything that stood in front of the last mark of each VRF's drain.
//!
//! A drain is noted when all workers have set their marks, with the frame that the last of it went into; it is done when
//! that frame is acknowledged.

use dataplane::flow::VrfId;

/// By VRF.
#[derive(Debug)]
pub(super) struct Drains(Vec<Drain>);

#[derive(Debug, Clone, Copy, Default)]
struct Drain {
    /// Of the drain; 0 before the first one.
    number: u32,
    /// Frame to be acknowledged; none when it was, or when its connection is over: the next one's slots are verified with
    /// it in them.
    frame: Option<u64>,
}

impl Drains {
    /// Of so many VRFs, none drained yet.
    pub(super) fn new(vrfs: usize) -> Self {
        Self(vec![Drain::default(); vrfs])
    }

    /// Everything of the drain is in frames up to this one; none without a connection.
    pub(super) fn mark(&mut self, vrf: VrfId, number: u32, frame: Option<u64>) {
        if let Some(drain) = self.0.get_mut(vrf.index()) {
            *drain = Drain { number, frame };
        }
    }

    /// The last drain of a VRF that the peer has acknowledged everything of; 0 for none.
    pub(super) fn done(&self, vrf: VrfId) -> u32 {
        let drain = self.0.get(vrf.index()).filter(|d| d.frame.is_none());
        drain.map_or(0, |d| d.number)
    }

    /// The peer has applied this frame. True when that completes a drain.
    pub(super) fn acknowledged(&mut self, sequence: u64) -> bool {
        let mut complete = false;
        for drain in self.0.iter_mut().filter(|d| d.frame.is_some()) {
            drain.frame = drain.frame.filter(|frame| *frame > sequence);
            complete |= drain.frame.is_none();
        }
        complete
    }

    /// The connection is over.
    pub(super) fn disconnected(&mut self) {
        self.0.iter_mut().for_each(|drain| drain.frame = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_is_done_when_its_last_frame_is_acknowledged_or_its_connection_over() {
        let (one, other) = (VrfId(0), VrfId(1));
        let mut drains = Drains::new(2);
        drains.mark(one, 7, Some(5));
        assert!(!drains.acknowledged(4));
        assert_eq!((drains.done(one), drains.done(other)), (0, 0));
        assert!(drains.acknowledged(5));
        assert!(!drains.acknowledged(6), "said once");
        assert_eq!((drains.done(one), drains.done(other)), (7, 0));
        drains.mark(one, 8, Some(9));
        assert_eq!(drains.done(one), 0, "an earlier drain is not this one");
        drains.disconnected();
        assert_eq!(drains.done(one), 8);
        drains.mark(other, 3, None);
        assert_eq!(drains.done(other), 3);
    }
}
