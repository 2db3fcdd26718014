//! The peers of a VRF as operators see them: the reports of all event threads joined into one tree.

use crossbeam_channel::{Receiver, Sender, bounded};
use ctl::report::{Count, EventRow, RoleRow};
use ctl::sync_report::{
    ClientReport, ConnectionStatus, LagReport, LaneSecurity, LocalNodeReport, PeerAddress, PeerReport,
    ResyncReport, SlotsReport, SyncReport,
};
use dataplane::flow::VrfId;
use state_sync::config::CONTROL_LANE;
use state_sync::port::PumpCommand;
use state_sync::report::{self, PumpReport};

use super::facts::Facts;

/// Answers of all event threads, collected as they come.
#[derive(Debug)]
pub(crate) struct PumpGather<T = PumpReport> {
    waiting: Vec<(Receiver<T>, Option<T>)>,
}

impl PumpGather {
    /// Asks for reports.
    pub(crate) fn ask(pumps: &[Sender<PumpCommand>]) -> Self {
        Self::with(pumps, PumpCommand::Report)
    }
}

impl<T: Clone> PumpGather<T> {
    /// Asks every event thread by a command that names where its answer goes.
    pub(crate) fn with(pumps: &[Sender<PumpCommand>], command: impl Fn(Sender<T>) -> PumpCommand) -> Self {
        let ask = |pump: &Sender<PumpCommand>| {
            let (to, from) = bounded(1);
            // A full command channel is noticed as an answer that never comes.
            let _ = pump.try_send(command(to));
            (from, None)
        };
        Self {
            waiting: pumps.iter().map(ask).collect(),
        }
    }

    /// All answers in event order, once they are there.
    pub(crate) fn poll(&mut self) -> Option<Vec<T>> {
        for (from, got) in &mut self.waiting {
            if got.is_none() {
                *got = Some(from.try_recv().ok()?);
            }
        }
        self.waiting.iter().map(|(_, got)| got.clone()).collect()
    }
}

/// An event thread in one row.
pub(crate) fn event_row(report: &PumpReport, core: u16) -> EventRow {
    let up = report
        .clients
        .iter()
        .filter(|c| c.status == "established")
        .count();
    let total = |of: fn(&report::ClientReport) -> u64| report.clients.iter().map(of).sum();
    let mut counters = vec![
        Count::new("frames_sent", total(|c| c.frames_sent)),
        Count::new("frames_acked", total(|c| c.frames_acked)),
        Count::new("records_sent", total(|c| c.records_sent)),
        Count::new("records_acked", total(|c| c.records_acked)),
        Count::new("records_abandoned", total(|c| c.records_abandoned)),
        Count::new("bytes_sent", total(|c| c.bytes_sent)),
        Count::new("reconnects", total(|c| c.reconnects)),
        Count::new(
            "frames_received",
            report.local_nodes.iter().map(|l| l.frames).sum(),
        ),
        Count::new("bytes_received", report.local_nodes.iter().map(|l| l.bytes).sum()),
        Count::new("records_received", records_received(report)),
        Count::new("reads_waited", report.local_nodes.iter().map(|l| l.waits).sum()),
        Count::new("events_lost", report.events_lost),
    ];
    counters.extend(
        report
            .causes
            .iter()
            .map(|(name, value)| Count::new(name.clone(), *value)),
    );
    EventRow {
        name: format!("event{}", report.event),
        core,
        lanes_up: u16::try_from(up).unwrap_or(u16::MAX),
        lanes: u16::try_from(report.clients.len()).unwrap_or(u16::MAX),
        counters,
    }
}

fn records_received(report: &PumpReport) -> u64 {
    report
        .local_nodes
        .iter()
        .flat_map(|l| &l.vrfs)
        .map(|v| v.receive)
        .sum()
}

/// Configured peers of a VRF.
pub(crate) fn addresses(facts: &Facts, vrf: VrfId) -> Vec<PeerAddress> {
    let of_vrf = facts.vrf_peers.get(vrf.index()).map_or(&[][..], Vec::as_slice);
    of_vrf
        .iter()
        .filter_map(|(peer, name)| {
            let configured = facts.peers.get(usize::from(*peer))?;
            Some(PeerAddress {
                name: name.clone(),
                source: configured.source,
                address: configured.address,
            })
        })
        .collect()
}

/// The tree with everything that needs no event thread; peers' indexes beside it.
#[derive(Debug, Clone)]
pub(crate) struct Skeleton {
    report: SyncReport,
    peers: Vec<u8>,
    security: LaneSecurity,
}

pub(crate) fn skeleton(facts: &Facts, vrf: VrfId, row: &RoleRow) -> Skeleton {
    let slots = facts.slots.get(vrf.index()).copied().unwrap_or(0);
    let of_vrf = facts.vrf_peers.get(vrf.index()).map_or(&[][..], Vec::as_slice);
    let indexes: Vec<u8> = of_vrf.iter().map(|(peer, _)| *peer).collect();
    let peers = addresses(facts, vrf)
        .into_iter()
        .zip(&indexes)
        .map(|(peer, index)| PeerReport {
            name: peer.name,
            source: peer.source,
            address: peer.address,
            clients: vec![],
            local_node: LocalNodeReport {
                address: peer.source,
                receive: 0,
                receive_error: 0,
            },
            lag: LagReport::default(),
            slots: SlotsReport {
                total: u32::from(slots),
                ..SlotsReport::default()
            },
            resync: ResyncReport::default(),
            fingerprint_differs: differing(facts, *index, vrf),
        })
        .collect();
    Skeleton {
        report: SyncReport {
            vrf: row.vrf.clone(),
            role: row.role,
            term: row.term,
            peers,
        },
        peers: indexes,
        security: facts.security,
    }
}

fn differing(facts: &Facts, peer: u8, vrf: VrfId) -> Vec<String> {
    facts
        .differences
        .iter()
        .find(|(p, v, _)| (*p, *v) == (peer, vrf))
        .map_or_else(Vec::new, |(_, _, sections)| sections.clone())
}

/// Adds what the event threads know.
pub(crate) fn fill(skeleton: Skeleton, vrf: VrfId, reports: &[PumpReport], swept: u64) -> SyncReport {
    let Skeleton {
        mut report,
        peers,
        security,
    } = skeleton;
    for (tree, index) in report.peers.iter_mut().zip(peers) {
        for pump in reports {
            for lane in pump
                .clients
                .iter()
                .filter(|c| c.peer == index && c.lane != CONTROL_LANE)
            {
                add_client(tree, pump.event, lane, vrf, security);
            }
            for local in pump.local_nodes.iter().filter(|l| l.peer == index) {
                add_local(tree, local, vrf);
            }
        }
        tree.resync.swept = swept;
    }
    report
}

fn add_client(
    tree: &mut PeerReport,
    event: u16,
    lane: &report::ClientReport,
    vrf: VrfId,
    security: LaneSecurity,
) {
    let of_vrf = lane
        .vrfs
        .iter()
        .find(|v| v.vrf == vrf.0)
        .cloned()
        .unwrap_or_default();
    tree.clients.push(ClientReport {
        name: format!("event{event}"),
        transmit: of_vrf.transmit,
        transmit_error: of_vrf.transmit_error,
        build_error: of_vrf.build_error,
        connection_status: status(&lane.status),
        security,
    });
    tree.lag.records += lane.lag_records;
    tree.lag.oldest_us = tree.lag.oldest_us.max(lane.lag_ms * 1_000);
    let waiting = of_vrf.slots_total - of_vrf.slots_verified.min(of_vrf.slots_total);
    if of_vrf.streaming {
        tree.slots.in_sync += of_vrf.slots_verified;
        tree.slots.walking += waiting;
        tree.slots.dirty += of_vrf.slots_dirty;
        tree.resync.running |= waiting > 0;
        tree.resync.slots_done += of_vrf.slots_verified;
        tree.resync.slots_total += of_vrf.slots_total;
        tree.resync.records += of_vrf.resync_records;
        tree.resync.elapsed_ms = tree.resync.elapsed_ms.max(of_vrf.resync_ms);
        tree.resync.reason = of_vrf.resync_reason.unwrap_or_default();
    }
}

fn add_local(tree: &mut PeerReport, local: &report::LocalReport, vrf: VrfId) {
    let Some(of_vrf) = local.vrfs.iter().find(|v| v.vrf == vrf.0) else {
        return;
    };
    tree.local_node.receive += of_vrf.receive;
    tree.local_node.receive_error += of_vrf.receive_error;
    if tree.resync.slots_total == 0 {
        // This node receives: its progress is what it has verified of the peer's.
        tree.slots.in_sync += of_vrf.slots_verified;
    }
}

pub(crate) fn status(word: &str) -> ConnectionStatus {
    match word {
        "established" => ConnectionStatus::Established,
        "handshake" => ConnectionStatus::Handshake,
        "connecting" => ConnectionStatus::Connecting,
        "refused" => ConnectionStatus::Refused,
        _ => ConnectionStatus::Down,
    }
}
