//! The switchovers of HA groups: every VRF that listens to a group goes to the same peer, and none before the peer has
//! everything of all of them.
//!
//! Begun by an operator's order, followed once per step of the role machines, over when every VRF has gone or one can't
//! go: then all that have not gone yet stay. The last one of each group is kept, for whoever asks how it ended.

use std::time::Duration;

use ctl::protocol::{Refusal, RefusalKind};
use ctl::switchover::{SwitchoverPhase, SwitchoverReport};
use dataplane::flow::VrfId;
use dataplane::time::Instant;
use state_sync::role::{self, PeerView, SwitchoverEnd, SwitchoverError};

use super::{RoleKeeper, Vrf};

/// Keepalived announces the winner of an election at once. So it is moved a while after the peer was invited, which redirects
/// from then on: packets that come to it before it has the role aren't lost.
const INVITATION_LEAD: Duration = Duration::from_millis(50);

/// A group's switchover.
#[derive(Debug)]
pub(super) struct Switchover {
    report: SwitchoverReport,
    begun: Instant,
    /// When the peer was invited.
    invited: Option<Instant>,
    /// How long after that the election may be moved.
    lead: Duration,
    /// By place of the VRF; an end once it has one.
    vrfs: Vec<(usize, Option<SwitchoverEnd>)>,
}

impl RoleKeeper {
    /// Begins to hand a group to `to`, or to the only peer there is.
    ///
    /// # Errors
    /// What is in the way; nothing has begun then.
    pub(crate) fn switch_over(
        &mut self,
        now: Instant,
        group: &str,
        to: Option<&str>,
    ) -> Result<SwitchoverReport, Refusal> {
        let listening: Vec<usize> = (0..self.vrfs.len())
            .filter(|&n| self.vrfs[n].group.as_deref() == Some(group))
            .collect();
        if !self.groups.iter().any(|g| g.name == group) {
            return Err(Refusal::not_found("HA group", group));
        }
        if listening.is_empty() {
            return Err(refused(format!("no VRF listens to the HA group {group}")));
        }
        let peer = self.peer_for(group, &listening, to)?;
        let mut chosen = Vec::with_capacity(listening.len());
        for n in listening {
            let vrf = &self.vrfs[n];
            let views = self.views(n);
            let place = vrf.peer_names.iter().position(|name| *name == peer);
            let place = place.ok_or_else(|| {
                let message = format!("VRF {} has no peer named \"{peer}\"", vrf.name);
                Refusal::new(RefusalKind::NotFound, message)
            })?;
            vrf.machine
                .check_switchover(place, &views)
                .map_err(|error| refusal(vrf, &peer, error))?;
            chosen.push((n, place, views));
        }
        for (n, place, views) in &chosen {
            let vrf = &mut self.vrfs[*n];
            vrf.machine
                .switch_over(now, *place, views)
                .map_err(|error| refusal(vrf, &peer, error))?;
        }
        let elected = chosen.iter().any(|(n, ..)| self.vrfs[*n].machine.is_elected());
        let lead = if elected { INVITATION_LEAD } else { Duration::ZERO };
        let report = SwitchoverReport {
            group: group.to_owned(),
            peer,
            phase: SwitchoverPhase::Draining,
            end: String::new(),
            took_ms: 0,
        };
        self.switchovers.retain(|known| known.report.group != group);
        self.switchovers.push(Switchover {
            report: report.clone(),
            begun: now,
            invited: None,
            lead,
            vrfs: chosen.into_iter().map(|(n, ..)| (n, None)).collect(),
        });
        self.switchover_news.push(report.clone());
        Ok(report)
    }

    /// The switchovers that are under way, and the last one of each other group.
    pub(crate) fn switchovers(&self) -> Vec<SwitchoverReport> {
        self.switchovers.iter().map(|s| s.report.clone()).collect()
    }

    /// Those that have come a step further since the last call.
    pub(crate) fn take_switchover_news(&mut self) -> Vec<SwitchoverReport> {
        core::mem::take(&mut self.switchover_news)
    }

    /// Groups that this node has taken over because a peer has handed them to it.
    pub(crate) fn take_handed(&mut self) -> Vec<String> {
        core::mem::take(&mut self.handed)
    }

    /// Looks at what the machines have made of it.
    pub(super) fn follow_switchovers(&mut self, now: Instant) {
        for switchover in self.switchovers.iter_mut().filter(|s| !s.report.phase.is_over()) {
            let before = switchover.report.phase;
            switchover.follow(now, &mut self.vrfs);
            if switchover.report.phase != before {
                let took = now.since(switchover.begun).as_millis();
                switchover.report.took_ms = u64::try_from(took).unwrap_or(u64::MAX);
                self.switchover_news.push(switchover.report.clone());
            }
        }
    }

    fn views(&self, n: usize) -> Vec<PeerView> {
        let id = VrfId(u16::try_from(n).unwrap_or(u16::MAX));
        let vrf = &self.vrfs[n];
        let peers = vrf.peers.iter();
        peers.map(|&peer| self.board.view(peer, id, vrf.slots)).collect()
    }

    fn peer_for(&self, group: &str, listening: &[usize], to: Option<&str>) -> Result<String, Refusal> {
        if let Some(name) = to {
            return Ok(name.to_owned());
        }
        let mut names: Vec<&str> = listening
            .iter()
            .flat_map(|&n| self.vrfs[n].peer_names.iter().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        match names.as_slice() {
            [] => Err(refused(format!("no VRF of the HA group {group} has a peer"))),
            [name] => Ok((*name).to_owned()),
            several => {
                let several = several.join(", ");
                Err(refused(format!(
                    "the HA group {group} has several peers: say which with --to: {several}"
                )))
            }
        }
    }
}

impl Switchover {
    fn follow(&mut self, now: Instant, all: &mut [Vrf]) {
        for (n, end) in &mut self.vrfs {
            *end = end.or(all[*n].machine.take_switchover_end().map(|(end, _)| end));
        }
        let failed = |end: Option<SwitchoverEnd>| end.filter(|&end| end != SwitchoverEnd::Done);
        if let Some((first, cause)) = self.vrfs.iter().find_map(|&(n, end)| Some((n, failed(end)?))) {
            if self.report.end.is_empty() {
                self.report.end = format!("VRF {}: {}", all[first].name, cause.text());
            }
            let open = self.vrfs.iter().filter(|(_, end)| end.is_none());
            open.clone()
                .for_each(|(n, _)| all[*n].machine.cancel_switchover());
            if open.count() == 0 {
                let gone = self
                    .vrfs
                    .iter()
                    .filter(|(_, end)| *end == Some(SwitchoverEnd::Done));
                for (n, _) in gone {
                    self.report.end += &format!("; VRF {}: {}", all[*n].name, SwitchoverEnd::Done.text());
                }
                self.report.phase = SwitchoverPhase::RolledBack;
            }
        } else if self.vrfs.iter().all(|(_, end)| end.is_some()) {
            SwitchoverEnd::Done.text().clone_into(&mut self.report.end);
            self.report.phase = SwitchoverPhase::Done;
        } else if self
            .vrfs
            .iter()
            .all(|(n, _)| all[*n].machine.switchover() == Some(role::SwitchoverPhase::Confirmed))
        {
            for (n, _) in &self.vrfs {
                all[*n].machine.hand_over(now);
            }
            self.invited = Some(now);
        }
        let due = self.invited.is_some_and(|at| now.since(at) >= self.lead);
        if due && self.report.end.is_empty() {
            self.report.phase = SwitchoverPhase::HandingOver;
        }
    }
}

fn refused(message: String) -> Refusal {
    Refusal::new(RefusalKind::Refused, message)
}

fn refusal(vrf: &Vrf, peer: &str, error: SwitchoverError) -> Refusal {
    let place = match error {
        SwitchoverError::NotActive | SwitchoverError::UnderWay => format!("VRF {}", vrf.name),
        _ => format!("VRF {}, peer {peer}", vrf.name),
    };
    refused(format!("{place}: {error}"))
}
