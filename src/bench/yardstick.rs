//! What the packet path is measured against, on the same loop and packets: B0 receives and sends, B1 is a stateless
//! forwarder, R is one random line of a large array.

use dataplane::io::{Burst, Io, Packet, RxQueue};
use twinpath::dpdk::{Mbuf, Ports};

use super::random::Random;
use super::rig::{TURNS, WORKER_QUEUE};
use super::scene::{LAN, WAN};

/// B0: nothing is touched. As many bursts as a worker takes for a batch.
pub(crate) fn bare(io: &mut Ports, burst: &mut Burst<Mbuf>) {
    for _ in 0..TURNS {
        for (from, to) in [(LAN, WAN), (WAN, LAN)] {
            let queue = RxQueue {
                port: from,
                queue: WORKER_QUEUE,
            };
            io.rx(queue, burst);
            io.tx(to, burst);
        }
    }
}

/// B1: looks at Ethernet type, version and TTL, swaps the MAC addresses, takes one from the TTL and adjusts the
/// header checksum.
pub(crate) fn stateless(io: &mut Ports, burst: &mut Burst<Mbuf>) {
    for _ in 0..TURNS {
        for (from, to) in [(LAN, WAN), (WAN, LAN)] {
            let queue = RxQueue {
                port: from,
                queue: WORKER_QUEUE,
            };
            io.rx(queue, burst);
            for packet in burst.iter_mut() {
                forward(packet.data_mut());
            }
            io.tx(to, burst);
        }
    }
}

#[inline]
fn forward(frame: &mut [u8]) {
    let Some(head) = frame.first_chunk_mut::<34>() else {
        return;
    };
    if head[12] != 8 || head[13] != 0 || head[14] != 0x45 || head[22] <= 1 {
        return;
    }
    let (dst, rest) = head.split_at_mut(6);
    dst.swap_with_slice(&mut rest[..6]);
    head[22] -= 1;
    // RFC 1624 equation 3 for a word that shrinks by 0x100.
    let sum = u32::from(u16::from_be_bytes([head[24], head[25]])) + 0x100;
    let [_, _, high, low] = (sum + (sum >> 16)).to_be_bytes();
    [head[24], head[25]] = [high, low];
}

/// Bytes of the array for R.
const ARENA: usize = 1 << 30;
const LINE: usize = 64;

/// The array for R.
#[derive(Debug)]
pub(crate) struct Arena {
    lines: Vec<[u64; LINE / 8]>,
    random: Random,
}

impl Arena {
    pub(crate) fn new() -> Self {
        Self {
            lines: vec![[1; LINE / 8]; ARENA / LINE],
            random: Random::new(99),
        }
    }

    /// Reads `count` lines, each independent of the one before, so that the processor fetches many at a time.
    pub(crate) fn read(&mut self, count: usize) {
        let mut sum = 0_u64;
        for _ in 0..count {
            let line = self.random.below(self.lines.len());
            sum = sum.wrapping_add(self.lines[line][0]);
        }
        std::hint::black_box(sum);
    }
}
