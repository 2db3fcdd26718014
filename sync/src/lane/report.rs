//! What a lane has done, over all its connections, for those who ask.

use dataplane::flow::VrfId;
use dataplane::time::Instant;

use super::{Lane, State};
use crate::export::Export;
use crate::port::Heard;
use crate::report::ClientReport;
use crate::tally::Tallies;
use crate::wire::Wire;

/// Sums over earlier connections.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) frames: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl<W: Wire> Lane<W> {
    /// What the peer has last said of a VRF's slots.
    pub(crate) fn heard(&self, vrf: VrfId) -> impl Iterator<Item = Heard> + '_ {
        self.exports.get(vrf.index()).into_iter().flat_map(Export::heard)
    }

    /// Adds what has gone over the present connection.
    pub(crate) fn tally(&self, to: &mut Tallies) {
        if let State::Up { conn, .. } = &self.state {
            conn.tally(to);
        }
    }

    /// Counters as of now.
    pub(crate) fn report(&self, now: Instant) -> ClientReport {
        let mut report = self.report.clone();
        report.incarnation = self.tag.incarnation;
        report.frames_sent = self.past.frames;
        report.records_sent = self.past.records;
        report.bytes_sent = self.past.bytes;
        report.status = match &self.state {
            State::Down { .. } => "down",
            State::Greeting { conn, .. } if conn.out.queued() > 0 => "connecting",
            State::Greeting { .. } => "handshake",
            State::Up { .. } => "established",
        }
        .to_owned();
        if let State::Up { conn, acked, .. } = &self.state {
            report.frames_sent += conn.out.sequence();
            report.records_sent += conn.out.records();
            report.bytes_sent += conn.out.bytes_sent();
            report.bytes_queued = conn.out.queued() as u64;
            report.lag_records = conn.out.records() - acked;
            report.lag_ms = conn.lag_ms(now);
            report.credit = conn.credit();
        }
        let shared = self.exports.iter().filter(|e| e.report.slots_total > 0);
        report.vrfs = shared
            .map(|export| {
                let mut vrf = export.report.clone();
                vrf.streaming = export.is_streaming();
                vrf.slots_verified = export.verified();
                vrf.slots_dirty = export.dirty();
                vrf.resync = export.resync(now);
                vrf
            })
            .collect();
        report
    }
}
