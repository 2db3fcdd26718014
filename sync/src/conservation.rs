//! Nothing is lost silently: every change and every record is in exactly one of some counters (DESIGN.md, I9). The
//! equations are here once, for the operator who looks at them and for the tests that assert them.
//!
//! An equation over one thread's counters holds at any moment. One between threads leaves a remainder: what is under way
//! in the rings between them. It is never negative when the end of the way was read before its beginning, and 0 at rest.

use core::fmt;

use arrayvec::ArrayVec;
use dataplane::counters::Counters;
use dataplane::lane_counts::LaneCounts;
use dataplane::verdict::Drop;

use crate::report::{PumpReport, RedirectReport};

/// A name and its value.
type Term = (&'static str, u64);

/// Most parts of an equation.
const PARTS: usize = 16;

/// Something that was counted, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Equation {
    /// What was counted.
    pub whole: Term,
    /// What became of it.
    pub parts: ArrayVec<Term, PARTS>,
    /// Whether it holds at any moment; otherwise there may be a remainder under way.
    pub exact: bool,
}

impl Equation {
    /// What is in none of the parts.
    #[must_use]
    pub fn remainder(&self) -> i128 {
        let parts: i128 = self.parts.iter().map(|(_, n)| i128::from(*n)).sum();
        i128::from(self.whole.1) - parts
    }

    /// Whether nothing is missing, and nothing too much.
    #[must_use]
    pub fn holds(&self) -> bool {
        if self.exact {
            self.remainder() == 0
        } else {
            self.remainder() >= 0
        }
    }
}

impl fmt::Display for Equation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} =", self.whole.0, self.whole.1)?;
        for (n, (name, value)) in self.parts.iter().enumerate() {
            let plus = if n == 0 { "" } else { " +" };
            write!(f, "{plus} {name} {value}")?;
        }
        match self.remainder() {
            0 => Ok(()),
            left => write!(f, " + {left}"),
        }
    }
}

fn parts(of: &[Term]) -> ArrayVec<Term, PARTS> {
    of.iter().copied().take(PARTS).collect()
}

/// Those of one worker. `listed` changes wait to be emitted.
#[must_use]
pub fn of_worker(c: &Counters, listed: u64) -> [Equation; 2] {
    [
        Equation {
            whole: ("produced", c.deltas_produced),
            parts: parts(&[
                ("coalesced", c.deltas_coalesced),
                ("cancelled", c.deltas_cancelled),
                ("suppressed", c.deltas_suppressed),
                ("unsent", c.deltas_unsent),
                ("emitted", c.deltas_emitted),
                ("listed", listed),
            ]),
            exact: true,
        },
        Equation {
            whole: ("received", c.absorb_received),
            parts: [("applied", c.absorb_applied), ("confirmed", c.absorb_confirmed)]
                .into_iter()
                .chain(LaneCounts::whole(c).refused.named())
                .take(PARTS)
                .collect(),
            exact: true,
        },
    ]
}

/// Those of the event threads, and between them and all workers together. `before` was reported before the workers'
/// counters were read, `after` later.
#[must_use]
pub fn between_threads(workers: &Counters, before: &[PumpReport], after: &[PumpReport]) -> Vec<Equation> {
    let sum = |of: fn(&PumpReport) -> u64| before.iter().map(of).sum::<u64>();
    let lanes = |of: fn(&crate::report::ClientReport) -> u64| {
        before.iter().flat_map(|r| &r.clients).map(of).sum::<u64>()
    };
    let transmit = lanes(|c| c.vrfs.iter().map(|v| v.transmit).sum());
    let handed_on: u64 = after
        .iter()
        .flat_map(|r| &r.local_nodes)
        .flat_map(|l| &l.vrfs)
        .map(|v| v.receive)
        .sum();
    let (taken, copied) = (sum(|r| r.records_taken), sum(|r| r.records_copied));
    vec![
        Equation {
            whole: (
                "emitted-and-walked",
                workers.deltas_emitted + workers.walk_records,
            ),
            parts: parts(&[("taken", taken)]),
            exact: false,
        },
        Equation {
            whole: ("taken-and-copied", taken + copied),
            parts: parts(&[
                ("transmitted", transmit),
                ("without-lane", sum(|r| r.records_untaken)),
            ]),
            exact: true,
        },
        Equation {
            whole: ("sent", lanes(|c| c.records_sent)),
            parts: parts(&[
                ("applied-by-peer", lanes(|c| c.records_acked)),
                ("in-flight", lanes(|c| c.lag_records)),
                ("abandoned", lanes(|c| c.records_abandoned)),
            ]),
            exact: true,
        },
        Equation {
            whole: ("handed-on", handed_on),
            parts: parts(&[("received", workers.absorb_received)]),
            exact: false,
        },
    ]
    .into_iter()
    .chain(of_redirects(workers, before, after))
    .collect()
}

/// Those of packets that came to the node which isn't active.
fn of_redirects(workers: &Counters, before: &[PumpReport], after: &[PumpReport]) -> [Equation; 4] {
    let sum = |reports: &[PumpReport], of: fn(&RedirectReport) -> u64| {
        reports.iter().map(|r| of(&r.redirects)).sum::<u64>()
    };
    let leaving = |of| sum(before, of);
    let arriving = |of| sum(after, of);
    let dropped = |reason: Drop| (reason.name(), workers.dropped(reason));
    [
        Equation {
            whole: dropped(Drop::Redirected),
            parts: parts(&[("redirects-taken-from-workers", leaving(|r| r.taken))]),
            exact: false,
        },
        Equation {
            whole: ("redirects-taken-from-workers", leaving(|r| r.taken)),
            parts: parts(&[
                ("sent", leaving(|r| r.sent)),
                ("turned-back", leaving(|r| r.turned_back)),
                ("unsent", leaving(|r| r.unsent)),
            ]),
            exact: true,
        },
        Equation {
            whole: (
                "redirects-received-and-turned-back",
                arriving(|r| r.received + r.turned_back),
            ),
            parts: parts(&[
                ("handed-on", arriving(|r| r.handed_on)),
                ("full", arriving(|r| r.full)),
            ]),
            exact: true,
        },
        Equation {
            whole: ("redirects-handed-on", arriving(|r| r.handed_on)),
            parts: parts(&[
                ("taken", workers.redirects_taken),
                dropped(Drop::RedirectInterface),
                dropped(Drop::RedirectBuffer),
            ]),
            exact: false,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equation(whole: u64, part: u64, exact: bool) -> Equation {
        Equation {
            whole: ("whole", whole),
            parts: parts(&[("part", part), ("other", 1)]),
            exact,
        }
    }

    #[test]
    fn what_is_under_way_may_be_missing_between_threads_and_nothing_may_be_too_much() {
        assert!(equation(3, 2, true).holds());
        assert!(!equation(4, 2, true).holds());
        assert!(equation(4, 2, false).holds());
        assert!(!equation(2, 2, false).holds());
        assert_eq!(
            equation(4, 2, false).to_string(),
            "whole 4 = part 2 + other 1 + 1"
        );
    }
}
