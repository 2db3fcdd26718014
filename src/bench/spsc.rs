//! S: one element of 32 bytes through a bare ring from this core to the other one, filled and emptied by bursts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::anyhow;
use rtrb::{Consumer, RingBuffer};
use twinpath::thread;

use super::rig::Rig;
use super::stats::{Batches, as_f64};

type Element = [u64; 4];

const RING: usize = 4_096;
const BURST: usize = 32;
/// Elements in a batch: rings full, so that both ends are at work.
const BATCH: usize = 4 * RING;
const BATCHES: usize = 32;

/// Clocks of an element, in one slice of batches. The other end is on `core`.
pub(crate) fn slice(rig: &mut Rig, core: usize) -> anyhow::Result<f64> {
    let (mut ring, out) = RingBuffer::<Element>::new(RING);
    let ready = Arc::new(AtomicBool::new(false));
    let up = Arc::clone(&ready);
    let thread = thread::spawn("ring", core, move || {
        up.store(true, Ordering::Release);
        empty(out)
    })?;
    while !ready.load(Ordering::Acquire) {
        std::hint::spin_loop();
    }
    let mut batches = Batches::default();
    let mut sent = 0;
    for _ in 0..BATCHES {
        batches.add(rig.timed(|_, _| {
            for _ in 0..BATCH / BURST {
                let chunk = loop {
                    if let Ok(chunk) = ring.write_chunk_uninit(BURST) {
                        break chunk;
                    }
                    std::hint::spin_loop();
                };
                sent += chunk.fill_from_iter((0..).map(|n| [n; 4]).take(BURST)) as u64;
            }
        }));
    }
    drop(ring);
    let received = thread
        .join()
        .map_err(|_| anyhow!("the ring's reader has panicked"))?;
    anyhow::ensure!(received == sent, "{received} of {sent} elements came through");
    Ok(batches.mean() / as_f64(BATCH as u64))
}

/// Takes everything until the writer is gone; returns how much that was.
fn empty(mut ring: Consumer<Element>) -> u64 {
    let mut count = 0;
    let mut sum = 0_u64;
    loop {
        let ready = ring.slots().min(BURST);
        if ready == 0 {
            if ring.is_abandoned() && ring.is_empty() {
                std::hint::black_box(sum);
                return count;
            }
            continue;
        }
        if let Ok(chunk) = ring.read_chunk(ready) {
            for element in chunk {
                sum = sum.wrapping_add(element.iter().sum());
                count += 1;
            }
        }
    }
}
