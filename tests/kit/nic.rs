//! Ports in memory. Packets put into a receive queue come out of [`MemIo::rx`]; what a worker transmits is kept per
//! port until the test takes it. Buffers are counted, so that a leak shows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataplane::io::{Burst, Io, Packet, PortId, RxQueue};

/// Bytes of room in front of a frame, as an mbuf has.
const HEADROOM: usize = 128;

/// Largest frame with its headroom.
const ROOM: usize = 9_216 + HEADROOM;

/// What most packets need of it; the rest is added to those that need more.
const ROOM_USUAL: usize = 2_048 + HEADROOM;

/// A frame in memory. Alive packets are counted by their pool.
#[derive(Debug)]
pub struct MemPacket {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    pool: Arc<Pool>,
}

/// Counts packets.
#[derive(Debug)]
pub struct Pool {
    alive: AtomicUsize,
    size: usize,
}

impl Pool {
    /// A pool of `size` packets.
    #[must_use]
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            alive: AtomicUsize::new(0),
            size,
        })
    }

    /// Packets that have not been dropped.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// An empty packet, unless all are in use.
    #[must_use]
    pub fn alloc(self: &Arc<Self>) -> Option<MemPacket> {
        if self.alive() >= self.size {
            return None;
        }
        self.alive.fetch_add(1, Ordering::Relaxed);
        Some(MemPacket {
            bytes: vec![0; ROOM_USUAL],
            start: HEADROOM,
            end: HEADROOM,
            pool: Arc::clone(self),
        })
    }
}

impl Drop for MemPacket {
    fn drop(&mut self) {
        self.pool.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Packet for MemPacket {
    fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn set_len(&mut self, len: usize) -> bool {
        let fits = self.start + len <= ROOM;
        if fits {
            self.end = self.start + len;
            if self.end > self.bytes.len() {
                self.bytes.resize(ROOM, 0);
            }
        }
        fits
    }

    fn prepend(&mut self, count: usize) -> bool {
        let fits = count <= self.start;
        if fits {
            self.start -= count;
        }
        fits
    }

    fn trim_front(&mut self, count: usize) -> bool {
        let fits = count <= self.end - self.start;
        if fits {
            self.start += count;
        }
        fits
    }
}

/// The ports of one worker.
#[derive(Debug)]
pub struct MemIo {
    pool: Arc<Pool>,
    waiting: Vec<(RxQueue, VecDeque<MemPacket>)>,
    sent: Vec<Vec<Vec<u8>>>,
    /// Packets each further `tx` accepts; none is unlimited.
    pub tx_room: Option<usize>,
}

impl MemIo {
    /// `ports` ports with the given receive queues.
    #[must_use]
    pub fn new(pool: Arc<Pool>, queues: &[RxQueue], ports: usize) -> Self {
        Self {
            pool,
            waiting: queues.iter().map(|&q| (q, VecDeque::new())).collect(),
            sent: vec![Vec::new(); ports],
            tx_room: None,
        }
    }

    /// Puts a frame into a receive queue; false when the pool is empty or there is no such queue.
    pub fn inject(&mut self, queue: RxQueue, frame: &[u8]) -> bool {
        let Some((_, waiting)) = self.waiting.iter_mut().find(|(q, _)| *q == queue) else {
            return false;
        };
        let Some(mut packet) = self.pool.alloc() else {
            return false;
        };
        if !packet.set_len(frame.len()) {
            return false;
        }
        packet.data_mut().copy_from_slice(frame);
        waiting.push_back(packet);
        true
    }

    /// Takes what has left by a port.
    pub fn take_sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.sent
            .get_mut(port.index())
            .map(core::mem::take)
            .unwrap_or_default()
    }
}

impl Io for MemIo {
    type Packet = MemPacket;

    fn rx(&mut self, queue: RxQueue, into: &mut Burst<MemPacket>) {
        let Some((_, waiting)) = self.waiting.iter_mut().find(|(q, _)| *q == queue) else {
            return;
        };
        while !into.is_full() {
            let Some(packet) = waiting.pop_front() else { break };
            into.push(packet);
        }
    }

    fn tx(&mut self, port: PortId, burst: &mut Burst<MemPacket>) -> usize {
        let room = self.tx_room.unwrap_or(usize::MAX);
        let mut accepted = 0;
        for packet in burst.drain(..) {
            if accepted < room
                && let Some(sent) = self.sent.get_mut(port.index())
            {
                sent.push(packet.data().to_vec());
                accepted += 1;
            }
        }
        accepted
    }

    fn alloc(&mut self) -> Option<MemPacket> {
        self.pool.alloc()
    }
}
