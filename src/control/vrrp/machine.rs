//! What a group does when keepalived and the data process say so: one table, looked up anew whenever either has said
//! something. It remembers nothing, so nothing latches: what is in the way is named, and is gone when its cause is.

use ctl::report::GroupState;

/// What keepalived makes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It runs, and has not answered yet.
    Asked,
    /// It is gone, for less time than the peer takes to notice: until then nobody else is master.
    Leaving,
    /// It isn't there, or doesn't know the group.
    Absent,
    /// Not elected.
    Backup,
    /// Elected.
    Master,
    /// Out of the election: an interface, the track file, or the check.
    Fault,
}

impl Said {
    /// The word in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Leaving => "leaving",
            Self::Absent => "absent",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        }
    }
}

/// What the data process makes of the group's VRFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// This process has just started, and not met it yet.
    Unknown,
    /// It isn't running.
    Down,
    /// A take-over would lose what the peer knows.
    Unready,
    /// It would lose nothing that is known of.
    Ready,
}

/// What the group's track file shall tell keepalived; its weight is -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// Full priority.
    Clear = 0,
    /// The lowest priority: loses every election against a node that lives, wins when nobody else does.
    Lowest = 253,
    /// Out of the election.
    Fault = 254,
}

/// What a switchover makes of the group here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// None is under way.
    Stays,
    /// The peer has everything: keepalived is to leave it the election, and the role stays here until the peer has it.
    Leaves,
    /// The peer hasn't taken over: the role has stayed here, and keepalived is to win the election again.
    Returns,
}

/// The one thing in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No data process.
    DataDown,
    /// No data process yet.
    DataUnknown,
    /// The data process isn't ready; it names its own cause.
    Unready,
    /// No keepalived, or not for this group.
    Absent,
    /// Keepalived hasn't answered.
    Silent,
    /// Keepalived is in fault.
    Fault,
    /// An operator holds the group.
    Held,
    /// A switchover is under way.
    Leaving,
    /// A switchover was not carried out.
    Returning,
}

impl Cause {
    /// One line for operators.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::DataDown => "the data process isn't running",
            Self::DataUnknown => "the data process hasn't answered yet",
            Self::Unready => "the data process isn't ready",
            Self::Absent => "keepalived isn't running, or has no fragment of this group",
            Self::Silent => "keepalived hasn't said its state; see pid_file and state_file of [keepalived]",
            Self::Fault => "keepalived is in fault: an interface, or its check of this process",
            Self::Held => "held by an operator",
            Self::Leaving => "a switchover moves the group to the peer",
            Self::Returning => "the peer has not taken over; keepalived is to elect this node again",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What the data process is told; none leaves it as it is.
    pub order: Option<GroupState>,
    /// What the track file holds; none leaves it as it is.
    pub track: Option<Track>,
    /// What keeps this node from being master whenever it is elected, or from being elected.
    pub blocked: Option<Cause>,
}

struct Row {
    said: &'static [Said],
    data: Option<Data>,
    held: Option<bool>,
    track: Option<Track>,
    blocked: Option<Cause>,
}

const fn row(
    said: &'static [Said],
    data: Option<Data>,
    held: Option<bool>,
    track: Option<Track>,
    blocked: Option<Cause>,
) -> Row {
    Row {
        said,
        data,
        held,
        track,
        blocked,
    }
}

/// The first row that matches decides; no state, or no data or hold, matches every one.
const TABLE: &[Row] = &{
    use Data::{Down, Ready, Unknown, Unready};
    use Said::{Absent, Asked, Backup, Fault, Leaving, Master};
    use Track::{Clear, Lowest};
    const GONE: &[Said] = &[Leaving, Absent];
    [
        // Whoever is elected can't forward.
        row(&[], Some(Down), None, Some(Track::Fault), Some(Cause::DataDown)),
        // It may be master, and a master is never demoted by readiness.
        row(&[Asked], None, None, None, Some(Cause::Silent)),
        row(&[Master], Some(Unknown), None, None, Some(Cause::DataUnknown)),
        row(&[Master], Some(Unready), None, Some(Clear), Some(Cause::Unready)),
        row(&[Master], None, None, Some(Clear), None),
        // What it finds when it comes back is readiness, not what the file held in an earlier life.
        row(GONE, Some(Ready), Some(false), Some(Clear), Some(Cause::Absent)),
        row(GONE, None, None, Some(Lowest), Some(Cause::Absent)),
        row(
            &[Fault],
            Some(Ready),
            Some(false),
            Some(Clear),
            Some(Cause::Fault),
        ),
        row(&[Fault], None, None, Some(Lowest), Some(Cause::Fault)),
        row(
            &[Backup],
            Some(Unknown),
            None,
            Some(Lowest),
            Some(Cause::DataUnknown),
        ),
        row(&[Backup], Some(Unready), None, Some(Lowest), Some(Cause::Unready)),
        row(&[Backup], None, Some(true), Some(Lowest), Some(Cause::Held)),
        row(&[Backup], None, None, Some(Clear), None),
    ]
};

/// What keepalived's word means to the data process.
const fn order(said: Said) -> Option<GroupState> {
    match said {
        Said::Asked | Said::Leaving => None,
        Said::Master => Some(GroupState::Master),
        Said::Backup | Said::Fault | Said::Absent => Some(GroupState::Backup),
    }
}

/// What a switchover changes of what [`decide`] says otherwise: keepalived out of the election, or back in it, means
/// nothing for the role. A keepalived that is gone, or a data process, ends that.
fn moving(said: Said, data: Data, to: Move) -> Option<Decision> {
    let there = matches!(said, Said::Backup | Said::Master | Said::Fault) && data != Data::Down;
    let (track, blocked) = match to {
        Move::Leaves if there => (Track::Fault, Cause::Leaving),
        Move::Returns if there && said != Said::Master => (Track::Clear, Cause::Returning),
        _ => return None,
    };
    Some(Decision {
        order: None,
        track: Some(track),
        blocked: Some(blocked),
    })
}

/// Decides.
#[must_use]
pub fn decide(said: Said, data: Data, held: bool, to: Move) -> Decision {
    if let Some(decision) = moving(said, data, to) {
        return decision;
    }
    let matches = |r: &&Row| {
        (r.said.is_empty() || r.said.contains(&said))
            && r.data.is_none_or(|d| d == data)
            && r.held.is_none_or(|h| h == held)
    };
    let (track, blocked) = TABLE
        .iter()
        .find(matches)
        .map_or((None, None), |r| (r.track, r.blocked));
    Decision {
        order: order(said),
        track,
        blocked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: [Said; 6] = [
        Said::Asked,
        Said::Leaving,
        Said::Absent,
        Said::Backup,
        Said::Master,
        Said::Fault,
    ];
    const DATA: [Data; 4] = [Data::Unknown, Data::Down, Data::Unready, Data::Ready];

    fn every(mut check: impl FnMut(Said, Data, bool, Decision)) {
        for said in SAID {
            for data in DATA {
                for held in [false, true] {
                    check(said, data, held, decide(said, data, held, Move::Stays));
                }
            }
        }
    }

    /// Every cell, free and held: what the file gets. `-` leaves it as it is.
    #[test]
    fn the_whole_table() {
        let mut lines = Vec::new();
        for said in SAID {
            let mut line = format!("{:<8}", said.name());
            for data in DATA {
                let cell = |held| {
                    decide(said, data, held, Move::Stays)
                        .track
                        .map_or("-".to_owned(), |t| (t as u8).to_string())
                };
                line += &format!("{:>4} {:>3}", cell(false), cell(true));
            }
            lines.push(line);
        }
        let wanted = [
            //        unknown   down    unready   ready
            "asked      -   - 254 254   -   -   -   -",
            "leaving  253 253 254 254 253 253   0 253",
            "absent   253 253 254 254 253 253   0 253",
            "backup   253 253 254 254 253 253   0 253",
            "master     -   - 254 254   0   0   0   0",
            "fault    253 253 254 254 253 253   0 253",
        ];
        assert_eq!(lines, wanted);
    }

    #[test]
    fn a_row_decides_every_case_and_whoever_is_blocked_is_told_why() {
        every(|said, data, held, decision| {
            let rows = TABLE.iter().filter(|r| {
                (r.said.is_empty() || r.said.contains(&said)) && r.data.is_none_or(|d| d == data)
            });
            assert!(rows.count() > 0, "{said:?} {data:?}");
            let free = decision.track == Some(Track::Clear) && matches!(said, Said::Master | Said::Backup);
            let can = free && !(said == Said::Master && data != Data::Ready);
            assert_eq!(
                decision.blocked.is_none(),
                can,
                "{said:?} {data:?} {held}: {decision:?}"
            );
        });
    }

    #[test]
    fn readiness_and_holds_never_demote_a_master_and_a_dead_data_process_always_does() {
        every(|said, data, held, decision| {
            if matches!(said, Said::Master | Said::Asked) {
                assert_ne!(decision.track, Some(Track::Lowest), "{said:?} {data:?} {held}");
            }
            assert_eq!(
                decision.track == Some(Track::Fault),
                data == Data::Down,
                "{said:?} {data:?} {held}"
            );
        });
    }

    #[test]
    fn only_a_node_that_is_ready_and_free_has_its_full_priority_before_it_is_master() {
        every(|said, data, held, decision| {
            if said != Said::Master && decision.track == Some(Track::Clear) {
                assert!(data == Data::Ready && !held, "{said:?} {data:?} {held}");
            }
        });
    }

    #[test]
    fn the_role_is_keepaliveds_word_and_its_silence_changes_nothing() {
        let orders: Vec<_> = SAID.iter().map(|&s| order(s)).collect();
        let (master, backup) = (Some(GroupState::Master), Some(GroupState::Backup));
        assert_eq!(orders, [None, None, backup, backup, master, backup]);
    }

    /// Keepalived leaves the election, so that the peer wins it; the data process goes on until the peer is active.
    #[test]
    fn a_switchover_moves_the_election_and_not_the_role() {
        every(|said, data, held, stays| {
            let (leaves, returns) = (
                decide(said, data, held, Move::Leaves),
                decide(said, data, held, Move::Returns),
            );
            let there = matches!(said, Said::Backup | Said::Master | Said::Fault) && data != Data::Down;
            if !there {
                assert_eq!(
                    (leaves, returns),
                    (stays, stays),
                    "{said:?} {data:?}: as without it"
                );
                return;
            }
            let of = |d: Decision| (d.order, d.track, d.blocked);
            assert_eq!(of(leaves), (None, Some(Track::Fault), Some(Cause::Leaving)));
            if said == Said::Master {
                assert_eq!(returns, stays, "it is elected: all is as before");
            } else {
                assert_eq!(of(returns), (None, Some(Track::Clear), Some(Cause::Returning)));
            }
        });
    }
}
