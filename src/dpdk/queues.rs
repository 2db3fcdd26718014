//! One worker's queues: its receive queues on some ports and one transmit queue on each. Born in
//! `PortSet::split`, moved into the worker's job, dropped when the worker ends, which `Eal::stop` waits for.

use std::sync::Arc;

use arrayvec::ArrayVec;
use dataplane::exception::Tap;
use dataplane::io::{BURST, Burst, Io, PortId, RxQueue};

use super::gate::Gates;
use super::mempool::Pool;
use super::tally::{PortTally, RxTally};
use super::{Mbuf, sys};

/// What one worker counted on one port beyond what the packet path counts itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames handed to the packet path.
    pub rx_packets: u64,
    /// Frames that came in several segments and were copied into one buffer.
    pub rx_joined: u64,
    /// Frames freed because they came in several segments that don't fit into one buffer.
    pub rx_segmented: u64,
    /// Frames freed because they were longer than MTU, Ethernet header and two VLAN tags.
    pub rx_too_long: u64,
    /// Frames the port accepted.
    pub tx_packets: u64,
    /// Frames the port did not accept, freed.
    pub tx_refused: u64,
}

/// One worker's queue handles, by port.
#[derive(Debug)]
pub struct Ports {
    lanes: Vec<Lane>,
    rx_queues: Vec<RxQueue>,
    taps: Vec<Tap>,
    pool: Arc<Pool>,
    alloc_failed: u64,
    worker: u16,
    gates: Arc<Gates>,
    /// The change of gates that the lanes are of.
    followed: u32,
    // Its count tells Eal::stop whether a worker still has queues.
    _alive: Arc<()>,
}

/// What a worker may do on one port.
#[derive(Debug)]
pub(super) struct Lane {
    /// DPDK's number of the port; none while its device is away.
    pub(super) id: Option<u16>,
    /// Receive queues of this worker, as bits.
    pub(super) rx_mask: u64,
    /// The transmit queue that is this worker's alone.
    pub(super) tx_queue: u16,
    /// Longest frame to take.
    pub(super) frame_max: u16,
    /// What is counted of the port; this worker writes what belongs to its own queues.
    pub(super) tally: Arc<PortTally>,
}

const BURST_U16: u16 = {
    assert!(BURST <= u16::MAX as usize);
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    {
        BURST as u16
    }
};

impl Ports {
    pub(super) fn new(
        lanes: Vec<Lane>,
        (rx_queues, taps): (Vec<RxQueue>, Vec<Tap>),
        pool: Arc<Pool>,
        (worker, gates): (u16, Arc<Gates>),
        alive: Arc<()>,
    ) -> Self {
        Self {
            lanes,
            rx_queues,
            taps,
            pool,
            alloc_failed: 0,
            worker,
            gates,
            followed: 0,
            _alive: alive,
        }
    }

    /// The receive queues to poll, in order.
    #[must_use]
    pub fn rx_queues(&self) -> &[RxQueue] {
        &self.rx_queues
    }

    /// The ports' ways to the kernel; this worker alone reads the taps that have queues here.
    #[must_use]
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// Number of ports, taps included.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.lanes.len()
    }

    /// What this worker counted on a port.
    #[must_use]
    pub fn counters(&self, port: PortId) -> Option<PortCounters> {
        self.lanes.get(port.index()).map(Lane::counters)
    }

    /// How often `alloc` found the pool empty.
    #[must_use]
    pub const fn alloc_failed(&self) -> u64 {
        self.alloc_failed
    }

    #[cold]
    fn follow(&mut self, change: u32) {
        for (port, lane) in self.lanes.iter_mut().enumerate() {
            lane.id = self.gates.id(port);
        }
        self.followed = change;
        self.gates.follow(self.worker, change);
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        self.gates.leave(self.worker);
    }
}

impl Io for Ports {
    type Packet = Mbuf;

    fn begin_turn(&mut self) {
        if let Some(change) = self.gates.changed(self.followed) {
            self.follow(change);
        }
    }

    fn rx(&mut self, queue: RxQueue, into: &mut Burst<Mbuf>) {
        into.clear();
        let Some(lane) = self.lanes.get_mut(queue.port.index()) else {
            return;
        };
        // Polling a queue of another worker would be a data race inside the driver.
        if u32::from(queue.queue) >= u64::BITS || lane.rx_mask >> queue.queue & 1 == 0 {
            debug_assert!(false, "{queue:?} belongs to another worker");
            return;
        }
        let Some(id) = lane.id else { return };
        let room = into.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        // SAFETY: an Mbuf is one non-null pointer (asserted in mbuf.rs), `into` is empty and has room for
        // BURST of them; the queue is this worker's alone, and its port stays open until this worker has followed
        // its gate, which it doesn't within a turn.
        let count = unsafe { sys::twinpath_rx_burst(id, queue.queue, room, BURST_U16) };
        // SAFETY: the driver wrote `count` ≤ BURST live mbufs that it no longer refers to.
        unsafe { into.set_len(usize::from(count.min(BURST_U16))) };
        lane.keep_well_formed(queue.queue, into);
    }

    fn tx(&mut self, port: PortId, burst: &mut Burst<Mbuf>) -> usize {
        let Some(lane) = self.lanes.get_mut(port.index()) else {
            debug_assert!(false, "{port:?} is not configured");
            burst.clear();
            return 0;
        };
        let count = burst.len();
        if count == 0 {
            return 0;
        }
        let first = burst.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
        // From here on the handles are given up without drop; every mbuf is either the port's or freed below.
        // SAFETY: shrinking to 0 leaves nothing uninitialised in range; the elements stay in place behind it.
        unsafe { burst.set_len(0) };
        #[expect(clippy::cast_possible_truncation, reason = "count ≤ BURST, which fits u16")]
        // SAFETY: `count` live mbufs owned by us; the transmit queue is this worker's alone, its port open as for `rx`.
        let sent = lane.id.map_or(0, |id| unsafe {
            sys::twinpath_tx_burst(id, lane.tx_queue, first, count as u16)
        });
        let sent = usize::from(sent).min(count);
        if sent < count {
            free_range(first, sent, count);
        }
        if let Some(tally) = lane.tally.tx.get(usize::from(lane.tx_queue)) {
            tally.packets.add(sent as u64);
            if sent < count {
                tally.refused.add((count - sent) as u64);
            }
        }
        sent
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        let packet = self.pool.alloc();
        self.alloc_failed += u64::from(packet.is_none());
        packet
    }

    fn free(&mut self, burst: &mut Burst<Mbuf>) {
        let count = burst.len();
        if count != 0 {
            let first = burst.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
            // SAFETY: shrinking to 0; the elements are freed right below instead of being dropped.
            unsafe { burst.set_len(0) };
            free_range(first, 0, count);
        }
    }
}

/// Frees the mbufs `[from, to)` of an array whose handles were given up.
fn free_range(first: *mut *mut sys::rte_mbuf, from: usize, to: usize) {
    // SAFETY: callers pass an array of at least `to` pointers.
    let rest = unsafe { first.add(from) };
    #[expect(clippy::cast_possible_truncation, reason = "at most BURST")]
    // SAFETY: each of them is a live mbuf that nothing else owns.
    unsafe {
        sys::rte_pktmbuf_free_bulk(rest, (to - from) as u32);
    }
}

impl Lane {
    /// What this worker's queues of the port have counted together.
    fn counters(&self) -> PortCounters {
        let mut sum = PortCounters::default();
        for (_, queue) in (0_u32..64)
            .zip(&self.tally.rx)
            .filter(|(bit, _)| self.rx_mask >> bit & 1 == 1)
        {
            sum.rx_packets += queue.packets.get();
            sum.rx_joined += queue.joined.get();
            sum.rx_segmented += queue.segmented.get();
            sum.rx_too_long += queue.too_long.get();
        }
        if let Some(queue) = self.tally.tx.get(usize::from(self.tx_queue)) {
            sum.tx_packets = queue.packets.get();
            sum.tx_refused = queue.refused.get();
        }
        sum
    }

    /// Frees what the packet path can't hold in one piece or the port may not carry, joins what came in segments, and asks
    /// for the first line of the others.
    fn keep_well_formed(&self, queue: u16, burst: &mut ArrayVec<Mbuf, BURST>) {
        let Some(tally) = self.tally.rx.get(usize::from(queue)) else {
            return;
        };
        let mut all_good = true;
        for packet in burst.iter() {
            let head = packet.head();
            all_good &= head.nb_segs == 1 && head.data_len <= self.frame_max;
            packet.prefetch();
        }
        if !all_good {
            burst.retain(|packet| self.mend(packet, tally));
        }
        tally.packets.add(burst.len() as u64);
    }

    /// Makes one piece of a frame; false when it has to go.
    #[cold]
    fn mend(&self, packet: &mut Mbuf, tally: &RxTally) -> bool {
        let segmented = packet.head().nb_segs != 1;
        if segmented && !packet.join() {
            tally.segmented.add(1);
            return false;
        }
        if packet.head().pkt_len > u32::from(self.frame_max) {
            tally.too_long.add(1);
            return false;
        }
        tally.joined.add(u64::from(segmented));
        true
    }
}
