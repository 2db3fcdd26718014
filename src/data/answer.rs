//! What each question of the control process is answered with: values the agent has, or answers collected from
//! workers and event threads.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;
use ctl::protocol::{Refusal, RefusalKind};
use ctl::report::{
    Count, DropRow, EventRow, ExceptionRow, MemoryRow, PoolRow, PortRow, RssRow, RuleHits, RxQueueRow,
    TxQueueRow, VersionRow, WorkerRow,
};
use ctl::sync_report::{SlotRow, SyncState};
use dataplane::config::Intent;
use dataplane::counters::Counters;
use dataplane::exception::{Class, PuntCounts};
use dataplane::flow::{Addr, VrfId};
use dataplane::inbox::Ask;
use dataplane::io::PortId;
use dataplane::nat::{PoolRef, PoolUsage, Pools};
use dataplane::policy::BYTES_MAX;
use dataplane::stage::handoff::{Cause, HandoffCounts};
use dataplane::tables::RuleCount;
use dataplane::time::Instant;
use dataplane::worker::Shared;
use state_sync::port::{Heard, PumpCommand};

use super::ask::{self, Flush, Gather};
use super::devices::Devices;
use super::facts::{Facts, PortFacts, not_found};
use super::journal::Journal;
use super::peers::{self, PumpGather};
use super::rates::{Counting, Rates};
use super::roles::RoleKeeper;
use super::syslog::LogLines;
use super::view::{self, Balance, Counted, Frame};
use crate::dpdk::{PortRss, PortSet, RxQueueStats, TxQueueStats, large};
use crate::ipc::{Reply, Request};

/// Where answers come from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub(crate) shared: Arc<Shared>,
    pub(crate) keeper: RoleKeeper,
    pub(crate) workers: Vec<Sender<Ask>>,
    pub(crate) pump_commands: Vec<Sender<PumpCommand>>,
    pub(crate) intent: Intent,
    pub(crate) facts: Facts,
    /// Public addresses that the peer has port blocks of and this node no pool, as far as they have been noted.
    pub(crate) unknown_pools: Vec<(VrfId, Addr)>,
    pub(crate) rates: Rates,
    pub(crate) journal: Journal,
    /// What became of the lines about port blocks.
    pub(crate) log_lines: LogLines,
}

/// How a request is answered.
#[derive(Debug)]
pub(crate) enum Served {
    Now(Reply),
    Later(Pending),
}

/// Polled until it has an answer.
pub(crate) struct Pending(Box<dyn FnMut() -> Option<Result<Reply, Refusal>>>);

impl core::fmt::Debug for Pending {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Pending")
    }
}

impl Pending {
    pub(crate) fn poll(&mut self) -> Option<Result<Reply, Refusal>> {
        (self.0)()
    }
}

/// Answers a question.
///
/// # Errors
/// When it names something that doesn't exist.
pub(crate) fn answer(
    request: Request,
    sources: &Sources,
    now: Instant,
    ports: &PortSet,
) -> Result<Served, Refusal> {
    let facts = &sources.facts;
    let workers = &sources.workers;
    Ok(match request {
        Request::Groups => Served::Now(Reply::Groups(sources.keeper.groups())),
        Request::Switchovers => Served::Now(Reply::Switchovers(sources.keeper.switchovers())),
        Request::Roles => Served::Now(Reply::Roles(sources.keeper.rows())),
        Request::Plan => Served::Now(Reply::Plan(facts.plan.clone())),
        Request::Version => Served::Now(Reply::Version(version(facts, now))),
        Request::Workers => worker_rows(sources),
        Request::Drops => drops(sources),
        Request::Memory => memory(sources, ports),
        Request::Events => events(sources),
        Request::Conntracks { vrf, filter, page } => {
            let vrf = facts.vrf(&vrf)?;
            match ask::conntracks(workers, vrf, filter, page, facts.names.clone()) {
                Some(gather) => one(gather, Reply::Conntracks),
                None => Served::Now(Reply::Conntracks(ctl::report::Rows::all(vec![]))),
            }
        }
        Request::ConntrackCount { vrf, filter } => {
            let vrf = facts.vrf(&vrf)?;
            sum(ask::count(workers, Some(vrf), &filter, &facts.names, None))
        }
        Request::FlushConntracks { vrf, filter, lose } => {
            let vrf = vrf.map(|name| facts.vrf(&name)).transpose()?;
            let flush = if lose { losing()? } else { Flush::End };
            sum(ask::count(workers, vrf, &filter, &facts.names, Some(flush)))
        }
        Request::Sync { vrf } => {
            let vrf = vrf.map(|name| facts.vrf(&name)).transpose()?;
            overview(sources, view::frame(sources, vrf))
        }
        Request::Operations => operations(sources, now),
        Request::Conservation => conservation(sources),
        Request::Protection => protection(view::frame(sources, None), workers),
        Request::Journal { from } => Served::Now(Reply::Journal(sources.journal.page(from))),
        Request::Users { vrf, page } => {
            match ask::users(workers, facts.vrf(&vrf)?, page, facts.names.clone()) {
                Some(gather) => one(gather, Reply::Users),
                None => Served::Now(Reply::Users(ctl::report::Rows::all(vec![]))),
            }
        }
        Request::Blocks { vrf, page } => {
            match ask::blocks(workers, facts.vrf(&vrf)?, page, facts.names.clone()) {
                Some(gather) => one(gather, Reply::Blocks),
                None => Served::Now(Reply::Blocks(ctl::report::Rows::all(vec![]))),
            }
        }
        Request::NatStatistics { vrf } => nat_statistics(sources, facts.vrf(&vrf)?),
        Request::Pools { vrf } => pool_rows(sources, facts.vrf(&vrf)?),
        Request::RuleHits { vrf } => rule_hits(sources, facts.vrf(&vrf)?),
        Request::SyncState { vrf } => Served::Now(Reply::SyncState(sync_state(sources, facts.vrf(&vrf)?)?)),
        Request::SyncReport { vrf } => sync_report(sources, facts.vrf(&vrf)?)?,
        Request::Slots { vrf } => slot_rows(sources, facts.vrf(&vrf)?),
        Request::Hello { .. }
        | Request::SetConfig { .. }
        | Request::CheckConfig(_)
        | Request::RollBack
        | Request::SetForwarding(_)
        | Request::Compare(_)
        | Request::Resync { .. }
        | Request::Rebalance(_)
        | Request::Job { .. }
        | Request::Ports
        | Request::ResetPort { .. }
        | Request::DeclareDead { .. }
        | Request::Switchover { .. }
        | Request::SetGroup { .. } => {
            return Err(Refusal::new(RefusalKind::Protocol, "not a question".to_owned()));
        }
    })
}

impl Pending {
    pub(crate) fn later(poll: impl FnMut() -> Option<Result<Reply, Refusal>> + 'static) -> Served {
        Served::Later(Self(Box::new(poll)))
    }
}

/// An answer made from those of all workers.
fn all<T: Send + 'static>(mut gather: Gather<T>, reply: impl Fn(Vec<T>) -> Reply + 'static) -> Served {
    Pending::later(move || match gather.poll() {
        Ok(None) => None,
        Ok(Some(answers)) => Some(Ok(reply(answers))),
        Err(gone) => Some(Err(Refusal::new(RefusalKind::Unreachable, gone.to_string()))),
    })
}

/// The answer of one worker.
fn one<T: Send + 'static>(mut gather: Gather<T>, reply: fn(T) -> Reply) -> Served {
    Pending::later(move || match gather.poll() {
        Ok(None) => None,
        Ok(Some(mut answers)) => answers.pop().map(|answer| Ok(reply(answer))),
        Err(gone) => Some(Err(Refusal::new(RefusalKind::Unreachable, gone.to_string()))),
    })
}

fn sum(gather: Gather<u64>) -> Served {
    all(gather, |counts| Reply::Count(counts.iter().sum()))
}

/// Entries may be lost on purpose only where nobody relies on them.
fn losing() -> Result<Flush, Refusal> {
    if cfg!(debug_assertions) {
        Ok(Flush::Lose)
    } else {
        let message = "entries are lost on purpose only by builds with assertions";
        Err(Refusal::new(RefusalKind::Refused, message))
    }
}

fn overview(sources: &Sources, frame: Frame) -> Served {
    let mut pumps = PumpGather::ask(&sources.pump_commands);
    let mut reports = None;
    let mut workers = Gather::once(&sources.workers, |tables, _| Counted::by(tables));
    Pending::later(move || {
        if reports.is_none() {
            reports = pumps.poll();
        }
        let reports = reports.as_ref()?;
        Some(match workers.poll() {
            Ok(None) => return None,
            Ok(Some(answers)) => {
                let mut total = Counted::default();
                answers.iter().for_each(|c| total.add(c));
                Ok(Reply::Sync(view::overview(frame.clone(), reports, &total)))
            }
            Err(gone) => Err(Refusal::new(RefusalKind::Unreachable, gone.to_string())),
        })
    })
}

fn protection(frame: Frame, workers: &[Sender<Ask>]) -> Served {
    let vrfs = frame.vrfs();
    let gather = Gather::once(workers, move |tables, _| {
        vrfs.iter().map(|vrf| tables.protection(*vrf)).collect()
    });
    all(gather, move |answers| {
        Reply::Protection(view::protection(&frame, &answers))
    })
}

fn operations(sources: &Sources, now: Instant) -> Served {
    let bases = sources.rates.bases(now);
    let mut counting = Counting::ask(&sources.pump_commands, &sources.workers);
    Pending::later(move || {
        let operations = counting.poll()?;
        Some(Ok(Reply::Operations(bases.rows(operations, now))))
    })
}

fn conservation(sources: &Sources) -> Served {
    let mut balance = Balance::ask(sources);
    Pending::later(move || {
        Some(match balance.poll()? {
            Ok(rows) => Ok(Reply::Conservation(rows)),
            Err(gone) => Err(Refusal::new(RefusalKind::Unreachable, gone.to_string())),
        })
    })
}

fn version(facts: &Facts, now: Instant) -> VersionRow {
    VersionRow {
        process: "dataplane".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        dpdk: Some(crate::dpdk::eal::version()),
        node: facts.node.clone(),
        pid: std::process::id(),
        uptime_s: now.since(facts.started).as_secs(),
    }
}

/// What is known of ports here, and of the workers.
pub(crate) fn port_report(sources: &Sources, devices: &Devices, ports: &PortSet) -> Served {
    let numbered = (0..).map(PortId).zip(&sources.facts.ports);
    let rows = numbered.map(|(id, port)| {
        let (away, renewed) = devices.report(id);
        PortRow {
            away,
            renewed,
            exceptions: exception_rows(sources, id),
            ..port_row(id, port, ports)
        }
    });
    with_counts(sources, rows.collect())
}

/// The limits of a port with a tap. Nothing is counted yet.
fn exception_rows(sources: &Sources, id: PortId) -> Vec<ExceptionRow> {
    let Some(limits) = sources.intent.exceptions.get(id.index()).copied().flatten() else {
        return Vec::new();
    };
    let row = |class: Class| ExceptionRow {
        class: class.name().to_owned(),
        packets_per_s: limits.of(class),
        passed: 0,
        refused: 0,
    };
    Class::ALL.map(row).into()
}

/// What the workers alone know is added to the rows.
fn with_counts(sources: &Sources, rows: Vec<PortRow>) -> Served {
    let gather = Gather::once(&sources.workers, |tables, _| {
        (tables.handoffs.clone(), tables.punts.clone())
    });
    all(gather, move |answers: Vec<(HandoffCounts, PuntCounts)>| {
        let mut rows = rows.clone();
        for (port, row) in (0..).map(PortId).zip(&mut rows) {
            for (class, row) in Class::ALL.iter().zip(&mut row.exceptions) {
                let counted = || answers.iter().map(|counts| counts.1.of(port, *class));
                row.passed = counted().map(|punted| punted.passed).sum();
                row.refused = counted().map(|punted| punted.refused).sum();
            }
            let of = |cause: Cause| answers.iter().map(move |counts| counts.0.of(port, cause)).sum();
            row.handoffs = Cause::ALL
                .iter()
                .map(|cause| Count::new(cause.name(), of(*cause)))
                .collect();
        }
        Reply::Ports(rows)
    })
}

fn port_row(id: PortId, port: &PortFacts, ports: &PortSet) -> PortRow {
    let stats = ports.stats(id).unwrap_or_default();
    let link = ports.link(id);
    let (rx, tx) = ports.queue_stats(id);
    PortRow {
        name: port.name.clone(),
        device: port.device.clone(),
        driver: port.driver.clone(),
        up: link.is_some_and(|l| l.up),
        speed_mbps: link.and_then(|l| l.speed_mbps).unwrap_or(0),
        mac: ports.mac(id).unwrap_or_default(),
        away: None,
        renewed: 0,
        rx_queues: port.rx_queues,
        rss: ports.rss(id).map(rss_row).unwrap_or_default(),
        rx_checksums: ports.checksums(id).names().map(str::to_owned).collect(),
        tx_queues: port.tx_queues,
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        rx_missed: stats.rx_missed,
        rx_errors: stats.rx_errors,
        rx_nombuf: stats.rx_no_mbuf,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        tx_errors: stats.tx_errors,
        rx: rx.into_iter().map(rx_queue_row).collect(),
        tx: tx.into_iter().map(tx_queue_row).collect(),
        handoffs: Vec::new(),
        exceptions: Vec::new(),
        xstats: ports
            .xstats(id)
            .into_iter()
            .map(|(name, value)| Count::new(name, value))
            .collect(),
    }
}

fn rss_row(rss: &PortRss) -> RssRow {
    let entries = rss.spread.as_ref().map_or(0, |spread| spread.queues().len());
    RssRow {
        asked: rss.asked.name().to_owned(),
        hashed: rss.hashed.name().to_owned(),
        table_entries: u32::try_from(entries).unwrap_or(u32::MAX),
        note: rss.to_string(),
    }
}

const fn rx_queue_row(queue: RxQueueStats) -> RxQueueRow {
    RxQueueRow {
        worker: queue.worker,
        packets: queue.packets,
        joined: queue.joined,
        segmented: queue.segmented,
        too_long: queue.too_long,
        errors: queue.errors,
    }
}

const fn tx_queue_row(queue: TxQueueStats) -> TxQueueRow {
    TxQueueRow {
        packets: queue.packets,
        refused: queue.refused,
    }
}

fn worker_rows(sources: &Sources) -> Served {
    let facts = sources.facts.worker_facts.clone();
    let gather = Gather::once(&sources.workers, |tables, _| {
        let table = &tables.conntracks;
        let vrfs = (0..).map(VrfId).take(tables.roles.len());
        let slots = vrfs.map(|vrf| tables.slots.of_vrf(vrf).count() as u64);
        (
            tables.counters.clone(),
            slots.sum(),
            table.len() as u64,
            table.capacity() as u64,
        )
    });
    all(gather, move |answers| {
        let rows = (0..).zip(answers).zip(&facts).map(
            |((worker, (counters, slots, held, most)), (core, queues))| WorkerRow {
                worker,
                core: *core,
                slots,
                conntracks: held,
                conntracks_max: most,
                queues: queues.clone(),
                counters: counters
                    .named()
                    .map(|(name, value)| Count::new(name, value))
                    .collect(),
            },
        );
        Reply::Workers(rows.collect())
    })
}

fn drops(sources: &Sources) -> Served {
    all(
        Gather::once(&sources.workers, |tables, _| tables.counters.clone()),
        |answers| {
            let mut total = Counters::default();
            answers.iter().for_each(|c| total.add(c));
            let rows = total.drops().map(|(reason, packets)| DropRow {
                reason: reason.name().to_owned(),
                meaning: reason.doc().trim().to_owned(),
                packets,
            });
            Reply::Drops(rows.collect())
        },
    )
}

/// What the compiled rules of each VRF take of what they may.
fn rule_memory(sources: &Sources) -> Vec<MemoryRow> {
    let mut rows = Vec::new();
    for vrf in sources.shared.snapshot.load().vrfs() {
        for (kind, bytes) in [("firewall", vrf.policy.bytes()), ("cg-nat", vrf.nat.bytes())] {
            rows.push(MemoryRow {
                name: format!("{} {kind} rules", vrf.name),
                unit: "bytes".to_owned(),
                used: bytes as u64,
                total: BYTES_MAX as u64,
            });
        }
    }
    rows
}

fn memory(sources: &Sources, ports: &PortSet) -> Served {
    let mbufs = MemoryRow {
        name: "mbufs".to_owned(),
        unit: "entries".to_owned(),
        used: u64::from(ports.mbufs_in_use()),
        total: u64::from(sources.facts.mbufs),
    };
    let pages = large::usage().ok().map(|usage| MemoryRow {
        name: "in huge pages".to_owned(),
        unit: "bytes".to_owned(),
        used: usage.huge,
        total: usage.anonymous,
    });
    let rules = rule_memory(sources);
    let gather = Gather::once(&sources.workers, |tables, _| {
        let table = &tables.conntracks;
        let bytes = table.memory_bytes() + tables.slots.memory_bytes();
        (table.len() as u64, table.capacity() as u64, bytes as u64)
    });
    all(gather, move |answers| {
        let mut rows = vec![mbufs.clone()];
        rows.extend(pages.clone());
        rows.extend(rules.clone());
        for (worker, (used, total, bytes)) in answers.into_iter().enumerate() {
            let row = |what: &str, unit: &str, used, total| MemoryRow {
                name: format!("worker{worker} {what}"),
                unit: unit.to_owned(),
                used,
                total,
            };
            rows.push(row("conntracks", "entries", used, total));
            rows.push(row("tables", "bytes", bytes, bytes));
        }
        Reply::Memory(rows)
    })
}

fn events(sources: &Sources) -> Served {
    let cores = sources.facts.event_cores.clone();
    let mut gather = PumpGather::ask(&sources.pump_commands);
    Pending::later(move || {
        let reports = gather.poll()?;
        let rows: Vec<EventRow> = reports
            .iter()
            .zip(&cores)
            .map(|(report, core)| peers::event_row(report, *core))
            .collect();
        Some(Ok(Reply::Events(rows)))
    })
}

fn pools(sources: &Sources) -> Arc<Pools> {
    Arc::clone(sources.shared.snapshot.load().pools())
}

fn nat_statistics(sources: &Sources, vrf: VrfId) -> Served {
    let pools: Vec<PoolRef> = pools(sources).refs().filter(|p| p.vrf == vrf).collect();
    let gather = Gather::once(&sources.workers, move |tables, _| usage(&tables.nat, &pools));
    let lines = sources.log_lines;
    all(gather, move |answers| {
        let mut total = PoolUsage::default();
        answers.into_iter().flatten().for_each(|u| total += u);
        let counts = [
            ("subscribers", u64::from(total.subscribers)),
            ("blocks-held", u64::from(total.blocks)),
            ("ports-tcp", u64::from(total.ports[0])),
            ("ports-udp", u64::from(total.ports[1])),
            ("ports-icmp", u64::from(total.ports[2])),
            ("ports-resting", u64::from(total.resting)),
            ("blocks-granted", total.granted),
            ("blocks-released", total.released),
            ("refused-pool-exhausted", total.pool_exhausted),
            ("refused-address-exhausted", total.address_exhausted),
            ("refused-quota", total.quota_reached),
            ("ports-borrowed", total.ports_borrowed),
            ("ports-homed", total.ports_homed),
            ("ports-unhomed", total.ports_unhomed),
            ("refused-in-doubt", total.refused_in_doubt),
            ("rests-cut-short", total.rests_cut_short),
            ("node-log-lines-sent", lines.sent),
            ("node-log-lines-waiting", lines.waiting),
            ("node-log-lines-lost", lines.lost),
        ];
        Reply::NatStatistics(counts.map(|(name, value)| Count::new(name, value)).into())
    })
}

fn usage(nat: &dataplane::nat::Nat, pools: &[PoolRef]) -> Vec<PoolUsage> {
    pools
        .iter()
        .map(|&pool| nat.usage(pool).unwrap_or_default())
        .collect()
}

fn pool_rows(sources: &Sources, vrf: VrfId) -> Served {
    let shared = pools(sources);
    let pools: Vec<PoolRef> = shared.refs().filter(|p| p.vrf == vrf).collect();
    let intents = sources
        .intent
        .vrfs
        .get(vrf.index())
        .map(|v| v.pools.clone())
        .unwrap_or_default();
    let asked = pools.clone();
    let gather = Gather::once(&sources.workers, move |tables, _| usage(&tables.nat, &asked));
    all(gather, move |answers| {
        let row = |(nth, &pool): (usize, &PoolRef)| {
            let intent = intents.get(usize::from(pool.pool))?;
            let size = shared.size(pool)?;
            let mut used = PoolUsage::default();
            answers.iter().filter_map(|a| a.get(nth)).for_each(|&u| used += u);
            let blocks_per_address = size.blocks / size.addresses.max(1);
            let last = u32::from(intent.ports.first) + blocks_per_address * u32::from(size.block_size) - 1;
            Some(PoolRow {
                name: intent.name.clone(),
                addresses: size.addresses,
                port_first: intent.ports.first,
                port_last: u16::try_from(last).unwrap_or(u16::MAX),
                block_size: size.block_size,
                blocks_total: u64::from(size.blocks),
                blocks_granted: u64::from(size.blocks_held),
                ports_used: used.ports.iter().map(|&p| u64::from(p)).sum(),
                ports_resting: u64::from(used.resting),
            })
        };
        Reply::Pools(pools.iter().enumerate().filter_map(row).collect())
    })
}

fn rule_hits(sources: &Sources, vrf: VrfId) -> Served {
    all(
        Gather::once(&sources.workers, move |tables, _| tables.rule_hits(vrf)),
        |answers| {
            let mut total: BTreeMap<Option<u32>, RuleHits> = BTreeMap::new();
            for RuleCount { id, hits, limited } in answers.into_iter().flatten() {
                let none = RuleHits {
                    id,
                    hits: 0,
                    limited: 0,
                };
                let total = total.entry(id).or_insert(none);
                total.hits += hits;
                total.limited += limited;
            }
            Reply::RuleHits(total.into_values().collect())
        },
    )
}

fn sync_state(sources: &Sources, vrf: VrfId) -> Result<SyncState, Refusal> {
    let row = sources
        .keeper
        .row(vrf)
        .ok_or_else(|| not_found("no such VRF".to_owned()))?;
    Ok(SyncState {
        vrf: row.vrf,
        enabled: sources
            .facts
            .vrf_peers
            .get(vrf.index())
            .is_some_and(|p| !p.is_empty()),
        listen_ha_group: row.ha_group,
        role: row.role,
        term: row.term,
        cause: row.cause,
        in_doubt: row.in_doubt,
        peers: peers::addresses(&sources.facts, vrf),
    })
}

fn sync_report(sources: &Sources, vrf: VrfId) -> Result<Served, Refusal> {
    let row = sources
        .keeper
        .row(vrf)
        .ok_or_else(|| not_found("no such VRF".to_owned()))?;
    let skeleton = peers::skeleton(&sources.facts, vrf, &row);
    let mut pumps = PumpGather::ask(&sources.pump_commands);
    let mut reports = None;
    let mut swept = Gather::once(&sources.workers, |tables, _| tables.counters.swept);
    Ok(Pending::later(move || {
        if reports.is_none() {
            reports = pumps.poll();
        }
        let reports = reports.as_ref()?;
        let swept: u64 = match swept.poll() {
            Ok(None) => return None,
            Ok(Some(answers)) => answers.iter().sum(),
            Err(_) => 0,
        };
        Some(Ok(Reply::SyncReport(peers::fill(
            skeleton.clone(),
            vrf,
            reports,
            swept,
        ))))
    }))
}

fn slot_rows(sources: &Sources, vrf: VrfId) -> Served {
    let mut gather = Gather::once(&sources.workers, move |tables, _| {
        let row = |(slot, held): (u16, &dataplane::slot::Slot)| SlotRow {
            slot,
            worker: 0,
            event: u16::try_from(tables.lane_of(slot)).unwrap_or(0),
            term: held.version.term.0,
            counter: held.version.counter,
            entries: held.count,
            digest: held.digest,
            peer_digest: None,
            dirty: !held.walks.is_empty() || held.source.as_ref().is_some_and(|s| s.open),
        };
        tables.slots.of_vrf(vrf).map(row).collect::<Vec<_>>()
    });
    let mut pumps = PumpGather::with(&sources.pump_commands, |to| PumpCommand::Heard { vrf, to });
    let (mut heard, mut rows) = (None, None);
    Pending::later(move || {
        if rows.is_none() {
            match gather.poll() {
                Ok(answers) => rows = Some(joined(answers?)),
                Err(gone) => return Some(Err(Refusal::new(RefusalKind::Unreachable, gone.to_string()))),
            }
        }
        if heard.is_none() {
            heard = pumps.poll();
        }
        let heard: &Vec<Vec<Heard>> = heard.as_ref()?;
        let mut rows = rows.take()?;
        for said in heard.iter().flatten() {
            // Of another version it says nothing about this one.
            if let Ok(at) = rows.binary_search_by_key(&said.slot, |row| row.slot)
                && rows[at].counter == said.version.counter
            {
                rows[at].peer_digest = Some(said.digest);
            }
        }
        Some(Ok(Reply::Slots(rows)))
    })
}

/// Rows of all workers in the order of slots.
fn joined(answers: Vec<Vec<SlotRow>>) -> Vec<SlotRow> {
    let mut rows: Vec<SlotRow> = (0..)
        .zip(answers)
        .flat_map(|(worker, rows)| rows.into_iter().map(move |row| SlotRow { worker, ..row }))
        .collect();
    rows.sort_by_key(|row| row.slot);
    rows
}
