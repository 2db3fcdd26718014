//! The peers of a VRF as operators see them: the reports of all event threads joined into one tree.

use crossbeam_channel::{Receiver, Sender, bounded};
use ctl::report::{Count, EventRow, RoleRow};
use ctl::sync_report::{
    ClientReport, ConnectionStatus, LagReport, LaneSecurity, LocalNodeReport, PeerAddress, PeerReport,
    ResyncReport, SlotsReport, SyncReport,
};
use ctl::sync_view::ResyncState;
use dataplane::flow::VrfId;
use state_sync::config::CONTROL_LANE;
use state_sync::port::PumpCommand;
use state_sync::report::{self, ClientVrfReport, LocalVrfReport, PumpReport};

use super::facts::Facts;
use super::view::last_resync;

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
        let lanes = Lanes::of(reports, index, vrf);
        for (event, lane) in &lanes.clients {
            add_client(tree, *event, lane, vrf, security);
        }
        for local in &lanes.received {
            tree.local_node.receive += local.receive;
            tree.local_node.receive_error += local.receive_error;
        }
        tree.resync.swept = swept;
        add_progress(tree, &lanes);
    }
    report
}

/// What goes to a peer of a VRF and what comes from it.
struct Lanes<'a> {
    /// By event thread; without control lanes.
    clients: Vec<(u16, &'a report::ClientReport)>,
    sent: Vec<&'a ClientVrfReport>,
    received: Vec<&'a LocalVrfReport>,
}

impl<'a> Lanes<'a> {
    fn of(reports: &'a [PumpReport], peer: u8, vrf: VrfId) -> Self {
        let clients = |report: &'a PumpReport| {
            let lanes = report.clients.iter();
            let lanes = lanes.filter(move |c| c.peer == peer && c.lane != CONTROL_LANE);
            lanes.map(move |lane| (report.event, lane))
        };
        let clients: Vec<_> = reports.iter().flat_map(clients).collect();
        let sent = clients.iter().flat_map(|(_, lane)| &lane.vrfs);
        let locals = reports.iter().flat_map(|r| &r.local_nodes);
        let received = locals.filter(|l| l.peer == peer).flat_map(|l| &l.vrfs);
        Self {
            sent: sent.filter(|v| v.vrf == vrf.0).collect(),
            received: received.filter(|v| v.vrf == vrf.0).collect(),
            clients,
        }
    }
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
}

/// How far the slots are that this node sends or, when it sends none, receives.
fn add_progress(tree: &mut PeerReport, lanes: &Lanes<'_>) {
    let sent: Vec<_> = lanes.sent.iter().filter(|lane| lane.streaming).collect();
    let resync = if sent.is_empty() {
        for event in &lanes.received {
            tree.slots.in_sync += event.slots_verified;
            tree.slots.walking += event.slots_awaited;
        }
        tree.resync.slots_total = tree.slots.total;
        last_resync(lanes.received.iter().map(|event| &event.resync))
    } else {
        for lane in &sent {
            tree.slots.in_sync += lane.slots_verified;
            tree.slots.walking += lane.slots_total.saturating_sub(lane.slots_verified);
            tree.slots.dirty += lane.slots_dirty;
            tree.resync.slots_total += lane.slots_total;
        }
        last_resync(sent.iter().map(|lane| &lane.resync))
    };
    tree.resync.slots_done = tree.slots.in_sync;
    tree.resync.running = resync.state == Some(ResyncState::Running);
    tree.resync.reason = resync.reason;
    tree.resync.records = resync.records;
    tree.resync.elapsed_ms = resync.elapsed_ms;
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
