//! How often each operation of replication was done, and how fast lately. Workers and event threads only count; the main
//! thread takes a sample every second and keeps those of the last minute, so that rates cost the packet path nothing.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::Sender;
use ctl::sync_view::OperationRow;
use dataplane::counters::Counters;
use dataplane::inbox::Ask;
use dataplane::time::Instant;
use state_sync::port::PumpCommand;
use state_sync::report::{Operation, PumpReport};

use super::ask::Gather;
use super::peers::PumpGather;

const EVERY: Duration = Duration::from_secs(1);
/// A sample that has not come by then isn't coming.
const PATIENCE: Duration = Duration::from_secs(3);
/// Samples kept: one more than the longest window has seconds.
const SAMPLES: usize = 62;
/// Steps of the overload ladder at which something is left out. The one below them is taken by every burst.
const STEPS: [&str; 3] = ["cancel", "stretch", "age"];
const WINDOWS_S: [u64; 3] = [1, 10, 60];

/// Samples of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    samples: VecDeque<Sample>,
    asking: Option<(Instant, Counting)>,
    ask_at: Instant,
    /// How often each step of the overload ladder had been taken at the last sample, and since then.
    steps: [u64; STEPS.len()],
    taken: [u64; STEPS.len()],
}

#[derive(Debug, Clone)]
struct Sample {
    at: Instant,
    operations: Vec<Operation>,
}

/// The sample before each window.
#[derive(Debug, Clone)]
pub(crate) struct Bases([Option<Sample>; WINDOWS_S.len()]);

impl Rates {
    /// Takes a sample when it is time to; returns how much there was to do.
    pub(crate) fn turn(
        &mut self,
        pumps: &[Sender<PumpCommand>],
        workers: &[Sender<Ask>],
        now: Instant,
    ) -> usize {
        let Some((since, counting)) = &mut self.asking else {
            if now < self.ask_at {
                return 0;
            }
            self.ask_at = now + EVERY;
            self.asking = Some((now, Counting::ask(pumps, workers)));
            return 1;
        };
        let Some(operations) = counting.poll() else {
            if now.since(*since) >= PATIENCE {
                self.asking = None;
            }
            return 0;
        };
        let climbed = counting.counters.as_ref().map(steps);
        self.asking = None;
        if let Some(climbed) = climbed {
            self.climb(climbed);
        }
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at: now, operations });
        1
    }

    fn climb(&mut self, steps: [u64; STEPS.len()]) {
        for (n, step) in steps.into_iter().enumerate() {
            self.taken[n] += step.saturating_sub(self.steps[n]);
        }
        self.steps = steps;
    }

    /// Steps of the overload ladder that were taken since the last call, with how often.
    pub(crate) fn overload(&mut self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let taken = core::mem::take(&mut self.taken);
        STEPS.into_iter().zip(taken).filter(|(_, times)| *times > 0)
    }

    /// What rates as of now are computed from.
    pub(crate) fn bases(&self, now: Instant) -> Bases {
        Bases(WINDOWS_S.map(|window| {
            let old = |s: &&Sample| now.since(s.at) >= Duration::from_secs(window);
            self.samples.iter().rev().find(old).cloned()
        }))
    }
}

impl Bases {
    /// Rows with rates, `now` being what has been counted.
    pub(crate) fn rows(&self, operations: Vec<Operation>, now: Instant) -> Vec<OperationRow> {
        operations
            .into_iter()
            .map(|operation| {
                let [per_s_1, per_s_10, per_s_60] = [0, 1, 2].map(|n| self.rate(n, &operation, now));
                OperationRow {
                    name: operation.name,
                    calls: operation.calls,
                    bytes: operation.bytes,
                    per_s_1,
                    per_s_10,
                    per_s_60,
                }
            })
            .collect()
    }

    fn rate(&self, window: usize, operation: &Operation, now: Instant) -> Option<u64> {
        let base = self.0[window].as_ref()?;
        let before = base.operations.iter().find(|o| o.name == operation.name);
        let calls = operation.calls.saturating_sub(before.map_or(0, |o| o.calls));
        let time_ms = u64::try_from(now.since(base.at).as_millis()).ok()?.max(1);
        Some(calls.saturating_mul(1_000) / time_ms)
    }
}

/// Everything that is counted, being collected.
#[derive(Debug)]
pub(crate) struct Counting {
    pumps: PumpGather,
    reports: Option<Vec<PumpReport>>,
    workers: Gather<Counters>,
    counters: Option<Counters>,
}

impl Counting {
    pub(crate) fn ask(pumps: &[Sender<PumpCommand>], workers: &[Sender<Ask>]) -> Self {
        Self {
            pumps: PumpGather::ask(pumps),
            reports: None,
            workers: Gather::once(workers, |tables, _| tables.counters.clone()),
            counters: None,
        }
    }

    /// All operations, once they are there.
    pub(crate) fn poll(&mut self) -> Option<Vec<Operation>> {
        if self.reports.is_none() {
            self.reports = self.pumps.poll();
        }
        if self.counters.is_none()
            && let Ok(Some(answers)) = self.workers.poll()
        {
            let mut sum = Counters::default();
            answers.iter().for_each(|c| sum.add(c));
            self.counters = Some(sum);
        }
        Some(operations(self.reports.as_ref()?, self.counters.as_ref()?))
    }
}

/// How often each step was taken.
const fn steps(c: &Counters) -> [u64; STEPS.len()] {
    [c.overload_cancel, c.overload_stretch, c.overload_age]
}

/// Operations of all threads, those of workers first.
fn operations(reports: &[PumpReport], c: &Counters) -> Vec<Operation> {
    let compared = c.digests_equal + c.digests_unsure + c.digest_mismatch;
    let of_workers = [
        ("worker emit", c.deltas_emitted),
        ("worker coalesce", c.deltas_coalesced),
        ("worker cancel", c.deltas_cancelled),
        ("worker walk", c.walk_records),
        ("worker apply", c.absorb_applied),
        ("worker confirm", c.absorb_confirmed),
        (
            "worker refuse",
            c.absorb_received - c.absorb_applied - c.absorb_confirmed,
        ),
        ("worker sweep", c.swept),
        ("worker digest", c.digests_emitted),
        ("worker compare-digest", compared),
        ("worker mark", c.marks_emitted),
        ("worker compare-mark", c.marks_equal + c.marks_different),
        ("worker list", c.entries_listed),
    ];
    let mut rows: Vec<Operation> = of_workers
        .map(|(name, calls)| Operation {
            name: name.to_owned(),
            calls,
            bytes: 0,
        })
        .into();
    for operation in reports.iter().flat_map(|r| &r.operations) {
        match rows.iter_mut().find(|row| row.name == operation.name) {
            Some(row) => {
                row.calls += operation.calls;
                row.bytes += operation.bytes;
            }
            None => rows.push(operation.clone()),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(calls: u64) -> Vec<Operation> {
        vec![Operation {
            name: "send PUT".into(),
            calls,
            bytes: 0,
        }]
    }

    #[test]
    fn a_rate_is_what_was_counted_since_the_sample_before_its_window() {
        let mut rates = Rates::default();
        for second in 0..=30_u64 {
            rates.samples.push_back(Sample {
                at: Instant::from_secs(second),
                operations: counted(second * 100),
            });
        }
        let now = Instant::from_secs(30) + Duration::from_millis(500);
        let rows = rates.bases(now).rows(counted(30 * 100 + 250), now);
        // Since 29 s: 350 in 1.5 s; since 20 s: 1,250 in 10.5 s; a minute has not passed.
        assert_eq!(
            (rows[0].per_s_1, rows[0].per_s_10, rows[0].per_s_60),
            (Some(233), Some(119), None)
        );
    }

    #[test]
    fn a_step_of_the_ladder_is_told_once_with_how_often_it_was_taken() {
        let mut rates = Rates::default();
        rates.climb([2, 1, 0]);
        rates.climb([5, 1, 0]);
        assert_eq!(
            rates.overload().collect::<Vec<_>>(),
            [("cancel", 5), ("stretch", 1)]
        );
        rates.climb([5, 1, 1]);
        assert_eq!(rates.overload().collect::<Vec<_>>(), [("age", 1)]);
    }

    #[test]
    fn an_operation_that_is_new_was_not_done_before() {
        let mut rates = Rates::default();
        rates.samples.push_back(Sample {
            at: Instant::from_secs(1),
            operations: vec![],
        });
        let now = Instant::from_secs(3);
        assert_eq!(rates.bases(now).rows(counted(8), now)[0].per_s_1, Some(4));
    }
}
