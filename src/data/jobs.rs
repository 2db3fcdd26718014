//! An operator's longer jobs: comparisons, resyncs and rebalancings. One runs at a time; it is started by one question, and the
//! others ask how far it is. The last one's result is kept until the next begins, so that nobody who looks away loses it.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use ctl::job_report::{
    CompareReport, CompareWanted, ComparedVrf, DifferenceRow, EntryName, EntryState, RebalanceWanted,
    Repaired, ResyncOutcome, UndecidedSlot,
};
use ctl::protocol::{Refusal, RefusalKind};
use dataplane::delta::{Delta, SlotRef};
use dataplane::flow::VrfId;
use dataplane::time::Instant;
use dataplane::transit::Mover;
use state_sync::compare::{Compared, Comparison, Difference, Wanted, Ways};
use state_sync::port::{PumpCommand, Resyncing};
use state_sync::report::PumpReport;

use super::answer::Sources;
use super::ask::{flow_state, tuple};
use super::facts::not_found;
use super::peers::PumpGather;
use super::rebalance::RebalanceJob;
use super::roles::Flow;
use crate::ipc::Reply;

/// A resync that takes longer is no longer waited for; it goes on.
const RESYNC_WAIT: Duration = Duration::from_secs(60);
/// Between two looks at a resync.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The job that runs or ran last.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    number: u32,
    job: Option<Job>,
    /// The end of the job has been told.
    told: bool,
}

#[derive(Debug)]
enum Job {
    Compare(CompareJob),
    Resync(ResyncJob),
    Rebalance(RebalanceJob),
}

#[derive(Debug)]
struct CompareJob {
    began: Instant,
    elapsed_ms: u64,
    /// VRF, peer, and what is compared.
    parts: Vec<(String, String, Comparison)>,
}

#[derive(Debug)]
struct ResyncJob {
    began: Instant,
    vrf: Option<VrfId>,
    /// VRFs that this node receives, with their slots.
    received: Vec<(VrfId, u32)>,
    slot: Option<u16>,
    /// Event threads not yet told.
    untold: Vec<Sender<PumpCommand>>,
    to: Sender<Resyncing>,
    begun: Receiver<Resyncing>,
    waiting: usize,
    /// Event threads that send: what the others report of resyncs is older.
    senders: Vec<u16>,
    reports: Option<PumpGather>,
    look_at: Instant,
    outcome: ResyncOutcome,
}

impl Jobs {
    /// Starts a comparison.
    ///
    /// # Errors
    /// When another job runs, or there is nothing that this node could compare.
    pub(crate) fn compare(
        &mut self,
        wanted: &CompareWanted,
        sources: &Sources,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        let only = wanted
            .vrf
            .as_deref()
            .map(|name| sources.facts.vrf(name))
            .transpose()?;
        self.free()?;
        let mut parts = Vec::new();
        let mut cause = "no VRF is mirrored".to_owned();
        for (vrf, peer, name) in pairs(sources, only) {
            let vrf_name = sources.facts.names.vrf(vrf);
            let slots = slots(sources, vrf, wanted.slot)?;
            match sources.keeper.flow(vrf, peer) {
                Flow::Sends => {
                    let comparison = Wanted {
                        vrf,
                        peer,
                        slots,
                        whole: wanted.all,
                        fix: wanted.fix,
                    };
                    // Differs from job to job, so that late answers to an older one are not taken for new ones.
                    let seed = self.number.wrapping_add(1) << 20;
                    parts.push((vrf_name, name, Comparison::new(comparison, seed)));
                }
                Flow::Receives => {
                    cause = format!("VRF {vrf_name} comes from {name}: compare there");
                }
                Flow::Nothing(why) => cause = format!("VRF {vrf_name} does not flow to {name}: {why}"),
            }
        }
        if parts.is_empty() {
            return Err(Refusal::new(RefusalKind::Refused, cause));
        }
        Ok(self.begin(Job::Compare(CompareJob {
            began: now,
            elapsed_ms: 0,
            parts,
        })))
    }

    /// Starts a resync: sends again what this node sends, asks again for what it receives.
    ///
    /// # Errors
    /// When another job runs, or nothing flows in either direction.
    pub(crate) fn resync(
        &mut self,
        vrf: Option<String>,
        slot: Option<u16>,
        sources: &Sources,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        let vrf = vrf.map(|name| sources.facts.vrf(&name)).transpose()?;
        self.free()?;
        let mut cause = "no VRF is mirrored".to_owned();
        let (mut flows, mut received) = (false, Vec::new());
        for (id, peer, name) in pairs(sources, vrf) {
            slots(sources, id, slot)?;
            match sources.keeper.flow(id, peer) {
                Flow::Sends => flows = true,
                Flow::Receives => {
                    flows = true;
                    let total = sources.facts.slots.get(id.index()).copied().unwrap_or(0);
                    received.push((id, u32::from(total)));
                }
                Flow::Nothing(why) => {
                    let vrf = sources.facts.names.vrf(id);
                    cause = format!("VRF {vrf} flows neither to nor from {name}: {why}");
                }
            }
        }
        if !flows {
            return Err(Refusal::new(RefusalKind::Refused, cause));
        }
        let pumps = &sources.pump_commands;
        let (to, begun) = bounded(pumps.len());
        Ok(self.begin(Job::Resync(ResyncJob {
            began: now,
            vrf,
            received,
            slot,
            untold: pumps.clone(),
            to,
            begun,
            waiting: pumps.len(),
            senders: Vec::new(),
            reports: None,
            look_at: now,
            outcome: ResyncOutcome::default(),
        })))
    }

    /// Has slots go to other workers.
    ///
    /// # Errors
    /// When another job runs, or there is no such slot or worker.
    pub(crate) fn rebalance(
        &mut self,
        wanted: &RebalanceWanted,
        sources: &Sources,
        now: Instant,
    ) -> Result<Reply, Refusal> {
        self.free()?;
        let only = match &wanted.only {
            Some(only) => {
                let vrf = sources.facts.vrf(&only.vrf)?;
                slots(sources, vrf, Some(only.slot))?;
                let workers = sources.workers.len();
                if usize::from(only.to) >= workers {
                    let message = format!("there is no worker {}: they are 0 to {}", only.to, workers - 1);
                    return Err(not_found(message));
                }
                let slot = only.slot;
                Some((SlotRef { vrf, slot }, only.to))
            }
            None => None,
        };
        // A move that was under way when its job was no longer asked for has come to its end with it.
        let mover = match self.job.take() {
            Some(Job::Rebalance(job)) => job.into_mover(),
            _ => Mover::default(),
        };
        let job = RebalanceJob::new(only, wanted.dry_run, mover, sources, now);
        Ok(self.begin(Job::Rebalance(job)))
    }

    fn free(&self) -> Result<(), Refusal> {
        if self.job.as_ref().is_some_and(|job| !job.finished()) {
            let message = "another comparison, resync or rebalancing is under way: wait for its end";
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        Ok(())
    }

    fn begin(&mut self, job: Job) -> Reply {
        self.number = self.number.wrapping_add(1);
        (self.job, self.told) = (Some(job), false);
        Reply::Job(self.number)
    }

    /// How far a job is.
    ///
    /// # Errors
    /// When its result is no longer kept.
    pub(crate) fn look(&self, number: u32) -> Result<Reply, Refusal> {
        match &self.job {
            Some(Job::Compare(job)) if number == self.number => Ok(Reply::Compare(job.report())),
            Some(Job::Resync(job)) if number == self.number => Ok(Reply::Resync(job.outcome.clone())),
            Some(Job::Rebalance(job)) if number == self.number => Ok(Reply::Rebalance(job.report().clone())),
            _ => Err(not_found("the result of that job is no longer kept".to_owned())),
        }
    }

    /// The job's end in words, once.
    pub(crate) fn ended(&mut self) -> Option<(&'static str, String)> {
        let job = self.job.as_ref().filter(|job| !self.told && job.finished())?;
        self.told = true;
        Some(match job {
            Job::Compare(job) => {
                let report = job.report();
                let equal: u64 = report.parts.iter().map(|p| p.entries_equal).sum();
                let text = format!("{}: {equal} entries are equal", report.verdict().name());
                ("compared", text)
            }
            Job::Rebalance(job) => {
                let report = job.report();
                let text = format!(
                    "{} slots went to other workers, {} stayed",
                    report.moved(),
                    report.failed()
                );
                ("rebalanced", text)
            }
            Job::Resync(ResyncJob { outcome, .. }) => {
                let slots = outcome.slots_sent + outcome.slots_asked;
                let open = outcome.slots_open;
                (
                    "resync-requested",
                    format!("{slots} slots sent again, {open} not verified yet"),
                )
            }
        })
    }

    /// Goes on with the job; returns how much there was to do.
    pub(crate) fn turn(&mut self, sources: &Sources, now: Instant) -> usize {
        match &mut self.job {
            Some(Job::Compare(job)) => job.turn(sources, now),
            Some(Job::Resync(job)) if !job.outcome.finished => job.turn(sources, now),
            Some(Job::Rebalance(job)) if !job.finished() => job.turn(sources, now),
            _ => 0,
        }
    }
}

impl Job {
    fn finished(&self) -> bool {
        match self {
            Self::Compare(job) => job.finished(),
            Self::Resync(job) => job.outcome.finished,
            Self::Rebalance(job) => job.finished(),
        }
    }
}

/// VRFs that are mirrored, with each peer by index and name.
fn pairs(sources: &Sources, only: Option<VrfId>) -> Vec<(VrfId, u8, String)> {
    let of_vrf = (0..).map(VrfId).zip(&sources.facts.vrf_peers);
    of_vrf
        .filter(|(vrf, _)| only.is_none_or(|o| o == *vrf))
        .flat_map(|(vrf, peers)| peers.iter().map(move |(peer, name)| (vrf, *peer, name.clone())))
        .collect()
}

fn slots(sources: &Sources, vrf: VrfId, only: Option<u16>) -> Result<Vec<u16>, Refusal> {
    let total = sources.facts.slots.get(vrf.index()).copied().unwrap_or(0);
    match only {
        None => Ok((0..total).collect()),
        Some(slot) if slot < total => Ok(vec![slot]),
        Some(slot) => Err(not_found(format!(
            "there is no slot {slot} in VRF {}: they are 0 to {}",
            sources.facts.names.vrf(vrf),
            total.saturating_sub(1)
        ))),
    }
}

impl CompareJob {
    fn finished(&self) -> bool {
        self.parts.iter().all(|(.., comparison)| comparison.is_finished())
    }

    fn turn(&mut self, sources: &Sources, now: Instant) -> usize {
        let ways = Ways {
            pumps: &sources.pump_commands,
            workers: &sources.workers,
            owners: &sources.shared.owners,
        };
        let next = self.parts.iter_mut().find(|(.., c)| !c.is_finished());
        let Some((.., comparison)) = next else { return 0 };
        let work = comparison.turn(now, ways);
        self.elapsed_ms = millis(now.since(self.began));
        work
    }

    fn report(&self) -> CompareReport {
        CompareReport {
            finished: self.finished(),
            elapsed_ms: self.elapsed_ms,
            parts: self
                .parts
                .iter()
                .map(|(vrf, peer, comparison)| part(vrf, peer, comparison))
                .collect(),
        }
    }
}

fn part(vrf: &str, peer: &str, comparison: &Comparison) -> ComparedVrf {
    let found = comparison.found();
    ComparedVrf {
        vrf: vrf.to_owned(),
        peer: peer.to_owned(),
        slots_total: u32::try_from(comparison.wanted().slots.len()).unwrap_or(u32::MAX),
        slots_done: found.slots,
        slots_equal: found.slots_equal,
        entries_equal: found.entries_equal,
        only_here: found.only_here,
        only_there: found.only_there,
        different: found.different,
        lacking: found.lacking,
        differences: found.differences.iter().filter_map(difference).collect(),
        undecided: found
            .undecided
            .iter()
            .map(|(slot, cause)| UndecidedSlot {
                slot: *slot,
                cause: (*cause).to_owned(),
            })
            .collect(),
        repaired: comparison.before().map(repaired),
    }
}

fn repaired(before: &Compared) -> Repaired {
    Repaired {
        slots: u32::try_from(before.differing.len()).unwrap_or(u32::MAX),
        only_here: before.only_here,
        only_there: before.only_there,
        different: before.different,
    }
}

fn difference(difference: &Difference) -> Option<DifferenceRow> {
    let entry = match difference.ours.or(difference.theirs)? {
        Delta::Put(put) => EntryName::Conntrack {
            protocol: put.original.proto,
            original: tuple(&put.original),
        },
        Delta::Block(block) => EntryName::Block {
            grant: block.grant,
            text: format!("{} {} from {}", block.subscriber, block.address, block.port_first),
        },
        _ => return None,
    };
    Some(DifferenceRow {
        slot: difference.slot,
        entry,
        here: difference.ours.and_then(entry_state),
        there: difference.theirs.and_then(entry_state),
    })
}

fn entry_state(entry: Delta) -> Option<EntryState> {
    let (version, put) = match entry {
        Delta::Put(put) => (put.version, Some(put)),
        Delta::Block(block) => (block.version, None),
        _ => return None,
    };
    Some(EntryState {
        term: version.term.0,
        counter: version.counter,
        state: put.map(|p| flow_state(p.class)),
        reply: put.map(|p| tuple(&p.reply)),
        grant: put.and_then(|p| p.nat).map(|n| n.grant),
    })
}

impl ResyncJob {
    fn turn(&mut self, sources: &Sources, now: Instant) -> usize {
        let mut work = 0;
        let command = || PumpCommand::Resync {
            vrf: self.vrf,
            slot: self.slot,
            to: Some(self.to.clone()),
        };
        while let Some(pump) = self.untold.last() {
            if pump.try_send(command()).is_err() {
                break;
            }
            self.untold.pop();
            work += 1;
        }
        while let Ok(begun) = self.begun.try_recv() {
            self.waiting -= 1;
            if begun.sent > 0 {
                self.senders.push(begun.event);
            }
            self.outcome.slots_sent += begun.sent;
            self.outcome.slots_asked += begun.asked;
            self.outcome.slots_open += begun.sent + begun.asked;
            work += 1;
        }
        self.outcome.elapsed_ms = millis(now.since(self.began));
        if now.since(self.began) >= RESYNC_WAIT {
            self.outcome.cause = Some("it takes longer than a minute, and goes on by itself".to_owned());
            self.outcome.finished = true;
        } else if self.waiting == 0 {
            work += self.watch(sources, now);
        }
        work
    }

    /// Looks at the event threads' reports until no slot is open.
    fn watch(&mut self, sources: &Sources, now: Instant) -> usize {
        let Some(gather) = &mut self.reports else {
            if now >= self.look_at {
                self.reports = Some(PumpGather::ask(&sources.pump_commands));
                self.look_at = now + LOOK_AGAIN_AFTER;
            }
            return 0;
        };
        let Some(reports) = gather.poll() else {
            // An event thread that was too busy to take the question is asked again.
            if now >= self.look_at + LOOK_AGAIN_AFTER * 50 {
                self.reports = None;
            }
            return 0;
        };
        self.reports = None;
        self.take(&reports);
        if self.outcome.slots_sent + self.outcome.slots_asked == 0 {
            self.outcome.cause = Some("no slot is open to the peer: are the lanes up?".to_owned());
            self.outcome.finished = true;
        }
        self.outcome.finished |= self.outcome.slots_open == 0;
        1
    }

    fn take(&mut self, reports: &[PumpReport]) {
        let wanted = |vrf: u16| self.vrf.is_none_or(|v| v.0 == vrf);
        let (mut open, mut records, mut bytes) = (0, 0, 0);
        for report in reports {
            let lanes = report.clients.iter().flat_map(|c| &c.vrfs);
            for vrf in lanes.filter(|v| v.streaming && wanted(v.vrf)) {
                open += vrf.slots_total - vrf.slots_verified;
                if self.senders.contains(&report.event) {
                    records += vrf.resync.records;
                    bytes += vrf.resync.bytes;
                }
            }
        }
        for (vrf, total) in &self.received {
            let locals = reports.iter().flat_map(|r| &r.local_nodes).flat_map(|l| &l.vrfs);
            let verified: u32 = locals.filter(|l| l.vrf == vrf.0).map(|l| l.slots_verified).sum();
            open += total.saturating_sub(verified);
        }
        self.outcome.slots_open = open;
        if self.outcome.slots_sent > 0 {
            (self.outcome.records, self.outcome.bytes) = (records, bytes);
        }
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
