//! `show sync` and its kin: what all threads know about replication, put together for one look.

use crossbeam_channel::Sender;
use ctl::report::Count;
use ctl::sync_report::ConnectionStatus;
use ctl::sync_view::{
    ConservationRow, Direction, IncomingLane, IncomingRow, LaneRow, ProtectionRow, ResyncState, SectionRow,
    SyncOverview, SyncPeer, SyncResync, SyncVrf,
};
use dataplane::counters::Counters;
use dataplane::flow::VrfId;
use dataplane::inbox::Ask;
use dataplane::lane_counts::LaneCounts;
use dataplane::protection::Protection;
use dataplane::tables::Tables;
use state_sync::config::CONTROL_LANE;
use state_sync::conservation::{Equation, between_threads, of_worker};
use state_sync::port::PumpCommand;
use state_sync::report::{ClientReport, ClientVrfReport, LocalReport, LocalVrfReport, PumpReport};
use state_sync::resync::{Generations, Resync};

use super::answer::Sources;
use super::ask::{Gather, WorkerGone};
use super::peers::{PumpGather, status};
use super::roles::Flow;
use crate::ipc::role_state;

/// What is known without asking a thread: mirrored VRFs with their peers.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    vrfs: Vec<(VrfId, SyncVrf, Vec<u8>)>,
    peers: Vec<String>,
    security: ctl::sync_report::LaneSecurity,
}

impl Frame {
    /// The VRFs in it.
    pub(crate) fn vrfs(&self) -> Vec<VrfId> {
        self.vrfs.iter().map(|(vrf, ..)| *vrf).collect()
    }
}

/// The frame of `show sync`.
pub(crate) fn frame(sources: &Sources, only: Option<VrfId>) -> Frame {
    let facts = &sources.facts;
    let mirrored = (0..).map(VrfId).zip(&facts.vrf_peers);
    let mirrored = mirrored.filter(|(vrf, peers)| !peers.is_empty() && only.is_none_or(|o| o == *vrf));
    let vrfs = mirrored.filter_map(|(vrf, peers)| {
        let row = sources.keeper.row(vrf)?;
        let peer = |(index, name): &(u8, String)| peer(sources, vrf, *index, name);
        let shown = SyncVrf {
            vrf: row.vrf,
            role: row.role,
            term: row.term,
            ready: sources.keeper.is_ready(vrf),
            cause: row.cause,
            peers: peers.iter().map(peer).collect(),
        };
        Some((vrf, shown, peers.iter().map(|(index, _)| *index).collect()))
    });
    Frame {
        vrfs: vrfs.collect(),
        peers: facts.peers.iter().map(|p| p.name.clone()).collect(),
        security: facts.security,
    }
}

fn peer(sources: &Sources, vrf: VrfId, index: u8, name: &str) -> SyncPeer {
    let facts = &sources.facts;
    let (flow, view) = (sources.keeper.flow(vrf, index), sources.keeper.view(vrf, index));
    let theirs = view.vrf;
    let differing = facts
        .differences
        .iter()
        .find(|(p, v, _)| (*p, *v) == (index, vrf));
    let equal =
        |section: &String| theirs.map(|_| differing.is_none_or(|(.., sections)| !sections.contains(section)));
    let sections = facts.sections.get(vrf.index()).map_or(&[][..], Vec::as_slice);
    let (direction, cause) = match flow {
        Flow::Sends => (Direction::Sends, ""),
        Flow::Receives => (Direction::Receives, ""),
        Flow::Nothing(cause) => (Direction::Nothing, cause),
    };
    SyncPeer {
        name: name.to_owned(),
        address: facts.peers[usize::from(index)].address,
        role: theirs.map(|v| role_state(v.role)),
        term: theirs.map_or(0, |v| v.term.0),
        ready: theirs.is_some_and(|v| v.ready),
        direction,
        direction_cause: cause.to_owned(),
        sections: sections
            .iter()
            .map(|name| SectionRow {
                name: name.clone(),
                equal: equal(name),
            })
            .collect(),
        slots_total: view.slots,
        slots_verified: if direction == Direction::Receives {
            view.verified
        } else {
            view.exported
        },
        slots_dirty: 0,
        resync: SyncResync::default(),
        resync_received: SyncResync::default(),
        digests: 0,
        digests_different: 0,
    }
}

/// What all workers have counted together.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counted {
    counters: Counters,
    /// By event thread.
    lanes: Vec<LaneCounts>,
}

impl Counted {
    /// What one worker has counted.
    pub(crate) fn by(tables: &Tables) -> Self {
        Self {
            counters: tables.counters.clone(),
            lanes: tables.lane_counts().to_vec(),
        }
    }

    /// Adds what another worker has counted; all have as many event threads.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counters.add(&other.counters);
        self.lanes.resize(other.lanes.len(), LaneCounts::default());
        for (sum, one) in self.lanes.iter_mut().zip(&other.lanes) {
            sum.add(one);
        }
    }

    fn of_event(&self, event: u16) -> LaneCounts {
        self.lanes.get(usize::from(event)).copied().unwrap_or_default()
    }
}

/// Adds what the event threads and the workers have counted.
pub(crate) fn overview(frame: Frame, reports: &[PumpReport], counted: &Counted) -> SyncOverview {
    let counters = &counted.counters;
    let Frame {
        vrfs,
        peers,
        security,
    } = frame;
    let mut shown = Vec::new();
    for (vrf, mut row, indexes) in vrfs {
        for (peer, index) in row.peers.iter_mut().zip(indexes) {
            let clients = reports
                .iter()
                .flat_map(|r| &r.clients)
                .filter(|c| c.peer == index);
            let sent = clients.flat_map(|c| &c.vrfs).filter(|v| v.vrf == vrf.0);
            add_sent(peer, &sent.collect::<Vec<_>>());
            let locals = reports
                .iter()
                .flat_map(|r| &r.local_nodes)
                .filter(|l| l.peer == index);
            let received = locals.flat_map(|l| &l.vrfs).filter(|v| v.vrf == vrf.0);
            add_received(peer, &received.collect::<Vec<_>>());
            if peer.direction == Direction::Receives {
                (peer.digests, peer.digests_different) = (
                    counters.digests_equal + counters.digests_unsure + counters.digest_mismatch,
                    counters.digest_mismatch,
                );
            }
        }
        shown.push(row);
    }
    let lanes = reports.iter().flat_map(|report| {
        let peers = &peers;
        let coalesced = counted.of_event(report.event).coalesced;
        let row = move |client| lane_row((report.event, coalesced), peers, security, client);
        report.clients.iter().map(row)
    });
    let incoming = reports.iter().map(|report| incoming_row(report, &peers, counted));
    SyncOverview {
        vrfs: shown,
        lanes: lanes.collect(),
        incoming: incoming.collect(),
        refused: refused(reports, counters),
    }
}

/// The last resync, and how all generations have ended.
fn resync<'a>(lanes: impl Iterator<Item = (&'a Resync, &'a Generations)> + Clone) -> SyncResync {
    let mut ended = Generations::default();
    lanes.clone().for_each(|(_, generations)| ended.add(generations));
    SyncResync {
        slots_equal: ended.equal,
        slots_caught_up: ended.caught_up,
        slots_whole: ended.whole,
        slots_failed: ended.failed,
        ..last_resync(lanes.map(|(resync, _)| resync))
    }
}

fn add_sent(peer: &mut SyncPeer, lanes: &[&ClientVrfReport]) {
    peer.resync = resync(lanes.iter().map(|lane| (&lane.resync, &lane.generations)));
    for lane in lanes {
        peer.slots_dirty += lane.slots_dirty;
        peer.digests += lane.digests;
        peer.digests_different += lane.digest_mismatch;
    }
}

fn add_received(peer: &mut SyncPeer, events: &[&LocalVrfReport]) {
    peer.resync_received = resync(events.iter().map(|event| (&event.resync, &event.generations)));
}

/// Lanes whose resyncs are no further apart have had one together: they connect one after the other.
const TOGETHER_MS: u64 = 1_000;

/// The last resync of several lanes: the newest one's and those of the same time, so that a slot that was sent again is
/// not shown with what another lane did last week.
pub(crate) fn last_resync<'a>(lanes: impl Iterator<Item = &'a Resync>) -> SyncResync {
    let mut shown = SyncResync::default();
    let mut all: Vec<&Resync> = lanes.filter(|resync| resync.reason.is_some()).collect();
    all.sort_by_key(|resync| std::cmp::Reverse(resync.began_ms));
    let Some(newest) = all.first() else {
        return shown;
    };
    shown.reason = newest.reason.clone().unwrap_or_default();
    let mut from = newest.began_ms;
    let (mut running, mut interrupted) = (false, false);
    for resync in all {
        shown.completed += resync.completed;
        if resync.began_ms + resync.took_ms + TOGETHER_MS < from {
            continue;
        }
        from = resync.began_ms;
        running |= resync.running;
        interrupted |= resync.interrupted;
        shown.slots += u64::from(resync.slots);
        shown.refused += resync.refused;
        shown.records += resync.records;
        shown.bytes += resync.bytes;
        shown.elapsed_ms = shown.elapsed_ms.max(resync.took_ms);
    }
    shown.state = Some(match (running, interrupted) {
        (true, _) => ResyncState::Running,
        (false, true) => ResyncState::Interrupted,
        (false, false) => ResyncState::Complete,
    });
    shown
}

fn lane_row(
    (event, coalesced): (u16, u64),
    peers: &[String],
    security: ctl::sync_report::LaneSecurity,
    client: &ClientReport,
) -> LaneRow {
    let status: ConnectionStatus = status(&client.status);
    let control = client.lane == CONTROL_LANE;
    LaneRow {
        event,
        peer: peer_name(peers, client.peer),
        control,
        status,
        security,
        incarnation: client.incarnation,
        link: client.link,
        link_changes: client.link_changes,
        reconnects: client.reconnects,
        last_down: client.last_down.clone().unwrap_or_default(),
        sent: client.records_sent,
        applied: client.records_acked,
        abandoned: client.records_abandoned,
        refused: client.vrfs.iter().map(|vrf| vrf.refused).sum(),
        coalesced: if control { 0 } else { coalesced },
        lag_records: client.lag_records,
        lag_ms: client.lag_ms,
        credit: client.credit,
        bytes: client.bytes_sent,
        unsent_bytes: client.bytes_queued,
    }
}

fn incoming_row(report: &PumpReport, peers: &[String], counted: &Counted) -> IncomingRow {
    let of_peer = |local: &LocalReport| {
        let peer = peer_name(peers, local.peer);
        let lanes = local.lanes.iter().filter(|lane| **lane != CONTROL_LANE);
        let lane = move |lane: &u8| IncomingLane {
            peer: peer.clone(),
            lane: *lane,
        };
        lanes.map(lane).collect::<Vec<_>>()
    };
    let refused = counted.of_event(report.event).refused;
    IncomingRow {
        event: report.event,
        lanes: report.local_nodes.iter().flat_map(of_peer).collect(),
        refused: refused.named().map(|(cause, n)| Count::new(cause, n)).into(),
    }
}

fn peer_name(peers: &[String], peer: u8) -> String {
    peers.get(usize::from(peer)).cloned().unwrap_or_default()
}

/// Records that workers refused, then what event threads refused or closed.
fn refused(reports: &[PumpReport], c: &Counters) -> Vec<Count> {
    let by_workers = LaneCounts::whole(c).refused.named();
    let mut rows: Vec<Count> = by_workers
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(cause, n)| Count::new(format!("record-{cause}"), *n))
        .collect();
    for (name, n) in reports.iter().flat_map(|r| &r.causes) {
        match rows.iter_mut().find(|row| row.name == *name) {
            Some(row) => row.value += n,
            None => rows.push(Count::new(name.clone(), *n)),
        }
    }
    rows
}

/// All threads' counters for the equations: event threads, then workers, then event threads again, because what is under
/// way must not look like too much.
#[derive(Debug)]
pub(crate) struct Balance {
    pumps: Vec<Sender<PumpCommand>>,
    workers: Vec<Sender<Ask>>,
    before: PumpGather,
    first: Option<Vec<PumpReport>>,
    counting: Option<Gather<(Counters, u64)>>,
    counted: Option<(Counters, u64)>,
    after: Option<PumpGather>,
}

impl Balance {
    pub(crate) fn ask(sources: &Sources) -> Self {
        Self {
            before: PumpGather::ask(&sources.pump_commands),
            pumps: sources.pump_commands.clone(),
            workers: sources.workers.clone(),
            first: None,
            counting: None,
            counted: None,
            after: None,
        }
    }

    /// The equations, once everybody has answered.
    pub(crate) fn poll(&mut self) -> Option<Result<Vec<ConservationRow>, WorkerGone>> {
        if self.first.is_none() {
            self.first = Some(self.before.poll()?);
            let look = |tables: &mut Tables, _| (tables.counters.clone(), tables.listed());
            self.counting = Some(Gather::once(&self.workers, look));
        }
        if self.counted.is_none() {
            let answers = match self.counting.as_mut()?.poll() {
                Ok(answers) => answers?,
                Err(gone) => return Some(Err(gone)),
            };
            let mut sum = (Counters::default(), 0);
            for (counters, listed) in answers {
                sum.0.add(&counters);
                sum.1 += listed;
            }
            self.counted = Some(sum);
            self.after = Some(PumpGather::ask(&self.pumps));
        }
        let after = self.after.as_mut()?.poll()?;
        let (counters, listed) = self.counted.as_ref()?;
        let before = self.first.as_ref()?;
        let equations = of_worker(counters, *listed).into_iter();
        let all = equations.chain(between_threads(counters, before, &after));
        Some(Ok(all.map(|equation| balance_row(&equation)).collect()))
    }
}

fn balance_row(equation: &Equation) -> ConservationRow {
    let count = |(name, value): &(&str, u64)| Count::new(*name, *value);
    ConservationRow {
        whole: count(&equation.whole),
        parts: equation.parts.iter().map(count).collect(),
        under_way: i64::try_from(equation.remainder()).unwrap_or(i64::MAX),
        holds: equation.holds(),
    }
}

/// A row per mirrored VRF.
pub(crate) fn protection(frame: &Frame, answers: &[Vec<Protection>]) -> Vec<ProtectionRow> {
    let row = |(nth, (_, shown, _)): (usize, &(VrfId, SyncVrf, Vec<u8>))| {
        let mut sum = Protection::default();
        answers
            .iter()
            .filter_map(|a| a.get(nth))
            .for_each(|one| sum.add(one));
        let reasons = [
            ("delay", sum.delay),
            ("no-sync", sum.no_sync),
            ("no-peer", sum.no_peer),
            ("overload", sum.overload),
        ];
        ProtectionRow {
            vrf: shown.vrf.clone(),
            role: shown.role,
            flows: sum.conntracks,
            protected: sum.protected(),
            unprotected: reasons.map(|(name, n)| Count::new(name, n)).into(),
        }
    };
    frame.vrfs.iter().enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use dataplane::lane_counts::Refusals;

    use super::*;

    fn lane(number: u8, vrfs: Vec<ClientVrfReport>) -> PumpReport {
        let client = ClientReport {
            lane: number,
            vrfs,
            ..ClientReport::default()
        };
        PumpReport {
            event: u16::from(number),
            clients: vec![client],
            ..PumpReport::default()
        }
    }

    fn on_lane(vrf: u16, refused: u64) -> ClientVrfReport {
        ClientVrfReport {
            vrf,
            refused,
            ..ClientVrfReport::default()
        }
    }

    fn resync(reason: &str, began_ms: u64, took_ms: u64, slots: u32) -> Resync {
        Resync {
            reason: Some(reason.to_owned()),
            began_ms,
            took_ms,
            slots,
            records: 10,
            bytes: 320,
            completed: 1,
            ..Resync::default()
        }
    }

    #[test]
    fn a_resync_is_the_sum_of_its_lanes_and_takes_as_long_as_the_longest() {
        let lanes = [resync("connected", 70, 12, 7), resync("connected", 900, 5, 9)];
        let wanted = SyncResync {
            state: Some(ResyncState::Complete),
            reason: "connected".to_owned(),
            slots: 16,
            records: 20,
            bytes: 640,
            elapsed_ms: 12,
            completed: 2,
            ..SyncResync::default()
        };
        assert_eq!(last_resync(lanes.iter()), wanted);
        assert_eq!(last_resync([Resync::default()].iter()), SyncResync::default());
    }

    #[test]
    fn a_slot_that_is_sent_again_is_not_shown_with_what_another_lane_did_before() {
        let mut lanes = [
            resync("connected", 70, 12, 7),
            resync("connected", 71, 15, 7),
            resync("diverged", 90_000, 3, 1),
        ];
        let shown = last_resync(lanes.iter());
        assert_eq!(
            (
                shown.reason.as_str(),
                shown.slots,
                shown.elapsed_ms,
                shown.completed
            ),
            ("diverged", 1, 3, 3)
        );
        // One that has gone on until then is the same one still.
        (lanes[1].took_ms, lanes[1].running) = (90_500, true);
        let shown = last_resync(lanes.iter());
        assert_eq!((shown.slots, shown.state), (15, Some(ResyncState::Running)));
        (lanes[1].running, lanes[1].interrupted) = (false, true);
        assert_eq!(last_resync(lanes.iter()).state, Some(ResyncState::Interrupted));
    }

    #[test]
    fn a_lane_shows_what_was_refused_of_all_vrfs_that_it_carries() {
        let frame = Frame {
            vrfs: vec![],
            peers: vec!["peer1".to_owned()],
            security: ctl::sync_report::LaneSecurity::None,
        };
        let reports = [
            lane(0, vec![on_lane(0, 3), on_lane(1, 4)]),
            lane(1, vec![on_lane(0, 5)]),
        ];
        let shown = overview(frame, &reports, &Counted::default());
        let rows: Vec<_> = shown
            .lanes
            .iter()
            .map(|l| (l.event, l.peer.as_str(), l.refused))
            .collect();
        assert_eq!(rows, [(0, "peer1", 7), (1, "peer1", 5)]);
    }

    fn counted(coalesced: [u64; 2], refused: [Refusals; 2]) -> Counted {
        let lanes = coalesced.into_iter().zip(refused);
        Counted {
            counters: Counters::default(),
            lanes: lanes
                .map(|(coalesced, refused)| LaneCounts { coalesced, refused })
                .collect(),
        }
    }

    #[test]
    fn an_event_thread_shows_what_all_workers_have_coalesced_and_refused_for_it() {
        let full = |full| Refusals {
            full,
            ..Refusals::default()
        };
        let stale = Refusals {
            stale: 9,
            no_pool: 1,
            ..Refusals::default()
        };
        let mut sum = Counted::default();
        sum.add(&counted([10, 20], [full(3), stale]));
        sum.add(&counted([1, 2], [full(4), full(5)]));
        let frame = Frame {
            vrfs: vec![],
            peers: vec!["peer1".to_owned()],
            security: ctl::sync_report::LaneSecurity::None,
        };
        let mut reports = [lane(0, vec![]), lane(1, vec![])];
        let control = ClientReport {
            lane: CONTROL_LANE,
            ..ClientReport::default()
        };
        reports[0].clients.push(control);
        reports[0].local_nodes = vec![LocalReport {
            lanes: vec![CONTROL_LANE, 2],
            ..LocalReport::default()
        }];
        let shown = overview(frame, &reports, &sum);
        let coalesced: Vec<_> = shown
            .lanes
            .iter()
            .map(|l| (l.event, l.control, l.coalesced))
            .collect();
        assert_eq!(coalesced, [(0, false, 11), (0, true, 0), (1, false, 22)]);
        let connected = IncomingLane {
            peer: "peer1".to_owned(),
            lane: 2,
        };
        let incoming: Vec<_> = shown
            .incoming
            .iter()
            .map(|row| (row.event, &row.lanes[..]))
            .collect();
        assert_eq!(incoming, [(0, &[connected][..]), (1, &[])]);
        let refused = |event: usize| {
            let causes = shown.incoming[event].refused.iter().filter(|c| c.value > 0);
            causes.map(|c| (c.name.as_str(), c.value)).collect::<Vec<_>>()
        };
        assert_eq!(refused(0), [("full", 7)]);
        assert_eq!(refused(1), [("stale", 9), ("full", 5), ("no-pool", 1)]);
    }
}
