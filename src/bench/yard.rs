//! The yardsticks that take turns with established flows, in slices of the same run and on the same packets.

use anyhow::ensure;
use dataplane::io::Burst;
use twinpath::dpdk::Mbuf;

use super::established::Loaded;
use super::frame;
use super::order::{Order, Way};
use super::report::Report;
use super::rig::{BATCH, Rig};
use super::run::Extent;
use super::scene::{LAN, WAN};
use super::stats::{Batches, as_f64};
use super::yardstick::{Arena, bare, stateless};

/// One output frame in so many is looked at.
const CHECK_EVERY: usize = 8;
/// Lines in a batch.
const LINES: usize = 4_096;

/// Clocks of the yardsticks, per slice.
#[derive(Debug)]
pub(crate) struct Yard {
    pub(crate) b0: Vec<f64>,
    pub(crate) b1: Vec<f64>,
    pub(crate) r: Vec<f64>,
    order: Order,
    pub(crate) packets: u64,
    pub(crate) verified: u64,
}

impl Yard {
    /// For the packets of `loaded`.
    pub(crate) fn new(loaded: &Loaded) -> Self {
        Self {
            b0: Vec::new(),
            b1: Vec::new(),
            r: Vec::new(),
            order: loaded.order(Way::Random, 3),
            packets: 0,
            verified: 0,
        }
    }

    pub(crate) fn slice(
        &mut self,
        rig: &mut Rig,
        extent: Extent,
        arena: &mut Arena,
        batches: &mut Batches,
        frames: &Loaded,
    ) -> anyhow::Result<()> {
        let packets = as_f64(2 * BATCH as u64);
        self.bursts(rig, extent, batches, frames, false)?;
        self.b0.push(batches.mean() / packets);
        self.bursts(rig, extent, batches, frames, true)?;
        self.b1.push(batches.mean() / packets);
        for _ in 0..extent.batches / 4 {
            batches.add(rig.timed(|_, _| arena.read(LINES)));
        }
        self.r.push(batches.mean() / as_f64(LINES as u64));
        Ok(())
    }

    fn bursts(
        &mut self,
        rig: &mut Rig,
        extent: Extent,
        batches: &mut Batches,
        frames: &Loaded,
        touch: bool,
    ) -> anyhow::Result<()> {
        let mut burst: Burst<Mbuf> = Burst::new();
        for _ in 0..extent.batches {
            let (forth, back) = (self.order.draw(BATCH, 0), self.order.draw(BATCH, 1));
            rig.feeder.feed(LAN, forth.iter().map(|&n| frames.forth.get(n)))?;
            rig.feeder.feed(WAN, back.iter().map(|&n| frames.back.get(n)))?;
            let clocks = rig.timed(|io, _| {
                if touch {
                    stateless(io, &mut burst);
                } else {
                    bare(io, &mut burst);
                }
            });
            batches.add(clocks);
            for port in [LAN, WAN] {
                let mut bad = 0;
                let mut looked = 0;
                let sent = rig.feeder.collect(port, |index, out| {
                    if touch && index % CHECK_EVERY == 0 {
                        looked += 1;
                        bad += usize::from(!frame::is_header_sound(out));
                    }
                });
                ensure!(
                    sent == BATCH && bad == 0,
                    "yardstick: {sent} packets, {bad} damaged"
                );
                self.packets += sent as u64;
                self.verified += looked;
            }
        }
        Ok(())
    }

    pub(crate) fn tell(&self, rig: &Rig, report: &mut Report) {
        let rows = [
            (
                "path.b0_ns",
                &self.b0,
                "ns/packet",
                "bare receive and send, two ring ports both ways, burst 32",
            ),
            (
                "path.b1_ns",
                &self.b1,
                "ns/packet",
                "stateless forwarder on the same packets",
            ),
            (
                "path.r_ns",
                &self.r,
                "ns/line",
                "independent random lines of 1 GiB",
            ),
        ];
        for (id, clocks, unit, note) in rows {
            report.add(id, &rig.all_ns(clocks), unit, note);
        }
    }
}
