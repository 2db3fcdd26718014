//! HA groups that VRRP drives: keepalived elects, this process passes its word on to the data process, and tells
//! keepalived, through a file per group, what this node is good for.
//!
//! ```text
//! keepalived ── notify FIFO ──► keepalived ── notify ──┐             ┌─► SetGroup ──► data process
//!            ◄── JSON signal ──     (edge)             ├─► machine ──┤
//! data process ── readiness ───────────────────────────┘             └─► track file ─► keepalived
//! ```
//!
//! A switchover drains first, in the data process; then this process takes keepalived out of the election, and the role
//! stays until the peer has it.
//!
//! [`machine`] is the table that decides, [`notify`] reads what keepalived writes, [`keepalived`] is the edge to it,
//! [`fragment`] writes what its configuration has to include. What is remembered here is only what each side said
//! last; a restarted process asks both again.

pub mod fragment;
pub mod keepalived;
pub mod machine;
pub mod notify;

use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ctl::protocol::{Refusal, RefusalKind};
use ctl::report::{GroupRow, GroupState, RoleRow, VrrpReport};
use ctl::switchover::{SwitchoverPhase, SwitchoverReport};
use dataplane::time::Instant;

use self::keepalived::{Heard, Keepalived, Places};
use self::machine::{Cause, Data, Decision, Move, Said, Track, decide};
use super::link::DataLink;
use super::mirror::Mirror;
use super::netlink::{Kernel, NetlinkError};
use crate::config::Config;
use crate::ipc::{Reply, Request};

/// How long keepalived has for its first answer before its check is let through without one.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// The peer takes over after three advert intervals and a part of one (RFC 5798, section 6.1).
const ADVERTS_UNTIL_MISSED: u32 = 4;

/// From the first advert that is missed to the election: a part of an interval, and the time of two processes.
const ELECTION_WAIT: Duration = Duration::from_secs(1);

/// What a dying master's last advert may take until it is heard, beyond an advert interval.
const FAREWELL_SPARE: Duration = Duration::from_millis(100);

/// All groups driven by VRRP.
#[derive(Debug)]
pub struct Vrrp {
    groups: Vec<Group>,
    edge: Option<Keepalived>,
    roles: Vec<RoleRow>,
    /// Connection to the data process that `roles` and `told` are about.
    connection: Option<u64>,
    met: bool,
    /// From then on a data process that wasn't met is down.
    patience_until: Instant,
}

#[derive(Debug)]
struct Group {
    name: String,
    /// Of its VRRP instances.
    instances: Vec<String>,
    addresses: Vec<IpAddr>,
    notice_after: Duration,
    /// See [`Self::patient`].
    farewell: Duration,
    /// Since when a node that stands by lacks something.
    lacks_since: Option<Instant>,
    said: Said,
    /// Since when `said` has been one that time changes.
    since: Instant,
    /// A line has come since keepalived was last asked: it is as new as the answer.
    heard: bool,
    held: bool,
    /// With preempt the preferred node would take back at once what it has handed over.
    preempt: bool,
    moves: Move,
    moves_since: Instant,
    told: Option<GroupState>,
    written: Option<Track>,
    blocked: Option<Cause>,
    track_file: PathBuf,
    hold_file: PathBuf,
}

impl Vrrp {
    /// The groups of a configuration, below the node's run directory `dir`.
    #[must_use]
    pub fn new(config: &Config, dir: &Path, now: Instant) -> Self {
        let groups: Vec<Group> = config
            .ha_groups
            .iter()
            .filter_map(|group| {
                let vrrp = group.vrrp.as_ref()?;
                let hold_file = dir.join(format!("{}.held", group.name));
                Some(Group {
                    name: group.name.clone(),
                    instances: fragment::routers(config, vrrp)
                        .iter()
                        .map(|r| r.instance(&group.name))
                        .collect(),
                    addresses: fragment::addresses(vrrp),
                    notice_after: Duration::from_millis(u64::from(
                        vrrp.advert_interval_ms * ADVERTS_UNTIL_MISSED,
                    )),
                    farewell: Duration::from_millis(u64::from(vrrp.advert_interval_ms)) + FAREWELL_SPARE,
                    lacks_since: None,
                    said: Said::Leaving,
                    since: now,
                    heard: false,
                    held: hold_file.exists(),
                    preempt: vrrp.preempt,
                    moves: Move::Stays,
                    moves_since: now,
                    told: None,
                    written: None,
                    blocked: None,
                    track_file: track_file(dir, &group.name),
                    hold_file,
                })
            })
            .collect();
        let places = Places {
            fifo: fifo(dir),
            pid_file: config.keepalived.pid_file.clone().into(),
            state_file: config.keepalived.state_file.clone().into(),
        };
        Self {
            edge: (!groups.is_empty()).then(|| Keepalived::new(places, now)),
            groups,
            roles: Vec::new(),
            connection: None,
            met: false,
            patience_until: now + Duration::from_secs(u64::from(config.keepalived.restart_grace_s)),
        }
    }

    /// Hears keepalived and the data process, decides, and tells both.
    pub fn turn(&mut self, now: Instant, data: &mut DataLink) {
        let Some(edge) = &mut self.edge else { return };
        let groups = &mut self.groups;
        edge.turn(now, |heard| hear(groups, heard, now));
        self.meet(data);
        for n in 0..self.groups.len() {
            let state = self.data_of(&self.groups[n].name, now);
            let group = &mut self.groups[n];
            if group.grow_old(now) && self.edge.as_ref().is_some_and(|edge| edge.process().is_err()) {
                group.take_back();
            }
            group.settle_down(now);
            let state = group.patient(state, now);
            let decision = decide(group.said, state, group.held, group.moves);
            group.carry_out(decision, data);
        }
    }

    /// A VRF's role or readiness, as the data process has just said.
    pub fn note(&mut self, row: RoleRow) {
        match self.roles.iter_mut().find(|r| r.vrf == row.vrf) {
            Some(known) => *known = row,
            None => self.roles.push(row),
        }
    }

    /// Readable when keepalived has something to say.
    #[must_use]
    pub fn readable(&self) -> Option<BorrowedFd<'_>> {
        self.edge.as_ref()?.readable()
    }

    /// When [`Self::turn`] has something to do even if nothing becomes readable and the data process stays as it is.
    #[must_use]
    pub fn next_turn(&self) -> Option<Instant> {
        let leaving = self.groups.iter().filter(|g| g.said == Said::Leaving);
        let aged = leaving.map(|g| g.since + g.notice_after);
        let returning = self.groups.iter().filter(|g| g.moves == Move::Returns);
        let back = returning.map(|g| g.moves_since + g.return_wait());
        let lacking = self.groups.iter().filter_map(Group::patient_until);
        aged.chain(back)
            .chain(lacking)
            .chain(self.edge.as_ref()?.next_turn())
            .min()
    }

    /// Whether VRRP drives this group.
    #[must_use]
    pub fn drives(&self, name: &str) -> bool {
        self.groups.iter().any(|g| g.name == name)
    }

    /// The groups with the state they are told.
    pub fn rows(&self) -> impl Iterator<Item = GroupRow> {
        self.groups.iter().map(|g| GroupRow {
            name: g.name.clone(),
            state: g.told.unwrap_or(GroupState::Backup),
            explicit: false,
        })
    }

    /// What VRRP and this node make of a group.
    #[must_use]
    pub fn report(&self, name: &str) -> Option<VrrpReport> {
        let group = self.groups.iter().find(|g| g.name == name)?;
        let unready = self
            .roles
            .iter()
            .find(|r| r.ha_group.as_deref() == Some(name) && !r.ready && !r.cause.is_empty());
        let text = |cause: Cause| match (cause, unready) {
            (Cause::Unready, Some(row)) => format!("VRF {}: {}", row.vrf, row.cause),
            _ => cause.text().to_owned(),
        };
        Some(VrrpReport {
            says: group.said.name().to_owned(),
            track: group.written.map(|t| t as u8),
            held: group.held,
            blocked: group.blocked.map(text),
        })
    }

    /// Holds a group, or lets it go; kept across restarts of this process, until the machine boots.
    ///
    /// # Errors
    /// When VRRP doesn't drive it, or the hold can't be kept.
    pub fn hold(&mut self, name: &str, held: bool) -> Result<(), Refusal> {
        let Some(group) = self.groups.iter_mut().find(|g| g.name == name) else {
            let message = format!("the HA group {name} isn't driven by VRRP: set its state instead");
            return Err(Refusal::new(RefusalKind::Refused, message));
        };
        let kept = if held {
            std::fs::write(&group.hold_file, "")
        } else {
            match std::fs::remove_file(&group.hold_file) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        };
        kept.map_err(|error| {
            let message = format!("{}: {error}", group.hold_file.display());
            Refusal::new(RefusalKind::Refused, message)
        })?;
        group.held = held;
        tracing::info!(group = name, held, "an operator has held or released a group");
        Ok(())
    }

    /// Whether a group could be switched over from here.
    ///
    /// # Errors
    /// When keepalived hasn't elected this node: then there is nothing that it could leave.
    pub fn check_switchover(&self, name: &str) -> Result<(), Refusal> {
        let said = self.groups.iter().find(|g| g.name == name).map(|g| g.said);
        match said {
            Some(Said::Master) | None => Ok(()),
            Some(other) => {
                let message = format!(
                    "keepalived's state of the HA group {name} is {} here, and has to be master",
                    other.name()
                );
                Err(Refusal::new(RefusalKind::Refused, message))
            }
        }
    }

    /// A switchover has come a step further.
    pub fn switchover(&mut self, report: &SwitchoverReport, now: Instant) {
        let Some(n) = self.groups.iter().position(|g| g.name == report.group) else {
            return;
        };
        let group = &mut self.groups[n];
        let left = group.moves == Move::Leaves;
        group.moves = match report.phase {
            SwitchoverPhase::HandingOver => Move::Leaves,
            SwitchoverPhase::RolledBack if left => Move::Returns,
            _ => Move::Stays,
        };
        group.moves_since = now;
        if report.phase == SwitchoverPhase::Done
            && group.preempt
            && let Err(refusal) = self.hold(&report.group, true)
        {
            tracing::error!(group = report.group, %refusal, "the group isn't held, and may come back");
        }
    }

    /// The answer to keepalived's own check: that this process lives, knows its data process, and has written what
    /// keepalived shall find in the track files.
    ///
    /// # Errors
    /// What is missing. Keepalived then stays, or after some seconds goes, out of the election.
    pub fn check(&self, now: Instant) -> Result<(), Refusal> {
        let refuse = |message: String| Err(Refusal::new(RefusalKind::Refused, message));
        if self.connection.is_none() {
            return refuse(Cause::DataDown.text().to_owned());
        }
        let unwritten = |g: &&Group| {
            let answering = g.said == Said::Asked && now.since(g.since) < ANSWER_WAIT;
            answering || (g.written.is_none() && !matches!(g.said, Said::Asked | Said::Master))
        };
        match self.groups.iter().find(unwritten) {
            Some(group) => refuse(format!(
                "the track file of the HA group {} isn't written yet",
                group.name
            )),
            None => Ok(()),
        }
    }

    /// Notices a new connection to the data process, or the loss of one.
    fn meet(&mut self, data: &mut DataLink) {
        if data.connection() == self.connection {
            return;
        }
        self.connection = None;
        self.roles.clear();
        for group in &mut self.groups {
            group.told = None;
            // Whatever it was doing, it does no longer.
            group.moves = Move::Stays;
        }
        if data.connection().is_some()
            && let Ok(Reply::Roles(roles)) = data.call(Request::Roles)
        {
            self.roles = roles;
            self.connection = data.connection();
            self.met = true;
        }
    }

    fn data_of(&self, group: &str, now: Instant) -> Data {
        if self.connection.is_none() {
            return if self.met || now >= self.patience_until {
                Data::Down
            } else {
                Data::Unknown
            };
        }
        let mut listening = self.roles.iter().filter(|r| r.ha_group.as_deref() == Some(group));
        if listening.all(|r| r.ready) {
            Data::Ready
        } else {
            Data::Unready
        }
    }
}

impl Group {
    fn now_says(&mut self, said: Said, now: Instant) {
        if self.said != said {
            tracing::info!(group = self.name, says = said.name(), "keepalived");
            (self.said, self.since) = (said, now);
        }
    }

    /// How long keepalived has to elect this node again.
    fn return_wait(&self) -> Duration {
        self.notice_after + ELECTION_WAIT
    }

    /// A node that stands by and was ready stays so for a moment after it has come to lack something. What it lacks may be a
    /// peer that has just died: that one's last advert (priority 0) has keepalived take over within less than an advert
    /// interval, and another priority meanwhile would have it count the whole time until a master is missed, from the
    /// beginning. A master that lives isn't harmed: being elected against it takes three intervals.
    fn patient(&mut self, data: Data, now: Instant) -> Data {
        let was_ready = self.said == Said::Backup && self.written == Some(Track::Clear);
        if data != Data::Unready || !was_ready {
            self.lacks_since = None;
            return data;
        }
        let since = *self.lacks_since.get_or_insert(now);
        if now.since(since) < self.farewell {
            Data::Ready
        } else {
            data
        }
    }

    fn patient_until(&self) -> Option<Instant> {
        self.lacks_since.map(|since| since + self.farewell)
    }

    /// A switchover that was rolled back is forgotten when keepalived has elected this node again, or somebody else.
    fn settle_down(&mut self, now: Instant) {
        let waited = now.since(self.moves_since) >= self.return_wait();
        if self.moves == Move::Returns && (self.said == Said::Master || waited) {
            self.moves = Move::Stays;
        }
    }

    /// Whether it has just become certain that keepalived is gone.
    fn grow_old(&mut self, now: Instant) -> bool {
        let gone = self.said == Said::Leaving && now.since(self.since) >= self.notice_after;
        if gone {
            self.now_says(Said::Absent, now);
        }
        gone
    }

    /// A keepalived that was killed leaves addresses behind, and the peer has them by now: two nodes would answer.
    fn take_back(&self) {
        if let Err(error) = withdraw(&self.addresses) {
            tracing::error!(group = self.name, %error, "virtual addresses can't be taken back");
        }
    }

    fn carry_out(&mut self, decision: Decision, data: &mut DataLink) {
        // First the role: packets wait for it.
        if let Some(state) = decision.order.filter(|state| self.told != Some(*state))
            && data.connection().is_some()
        {
            let request = Request::SetGroup {
                name: self.name.clone(),
                state,
                explicit: true,
            };
            match data.call(request) {
                Ok(_) => tracing::info!(group = self.name, state = state.name(), "VRRP has decided"),
                Err(error) => {
                    tracing::error!(group = self.name, %error, "VRRP has decided, and wasn't obeyed")
                }
            }
            self.told = Some(state);
        }
        if let Some(track) = decision.track.filter(|track| self.written != Some(*track)) {
            match keepalived::write_track(&self.track_file, track) {
                Ok(()) => {
                    tracing::info!(group = self.name, value = track as u8, "track file");
                    self.written = Some(track);
                }
                // Not counted as written: keepalived's check fails, and the next turn tries again.
                Err(error) => {
                    self.written = None;
                    tracing::error!(path = %self.track_file.display(), %error, "the track file can't be written");
                }
            }
        }
        if self.blocked != decision.blocked {
            self.blocked = decision.blocked;
            let cause = decision.blocked.map_or("nothing", Cause::text);
            tracing::info!(group = self.name, cause, "in the way of being master");
        }
    }
}

/// Takes addresses from whichever interface of this namespace has them.
fn withdraw(addresses: &[IpAddr]) -> Result<(), NetlinkError> {
    let mut kernel = Kernel::open(None)?;
    let mirror = Mirror::of(kernel.read_interfaces()?);
    for (link, net) in mirror
        .addresses()
        .filter(|(_, net)| addresses.contains(&net.addr()))
    {
        tracing::warn!(address = %net, "a virtual address without a keepalived is taken back");
        kernel.withdraw(link, net)?;
    }
    Ok(())
}

/// Takes down what keepalived has said.
fn hear(groups: &mut [Group], heard: Heard, now: Instant) {
    match heard {
        Heard::Appeared => {
            for group in groups {
                // The file may have been changed, or lost, while nobody read it.
                group.written = None;
                group.now_says(Said::Asked, now);
            }
        }
        Heard::Asked => groups.iter_mut().for_each(|g| g.heard = false),
        Heard::Group(name, said) => {
            if let Some(group) = groups.iter_mut().find(|g| fragment::sync_group(&g.name) == name) {
                group.heard = true;
                group.now_says(said, now);
            }
        }
        Heard::Instances(list) => {
            for group in groups {
                let mine = list.iter().filter(|(name, _)| group.instances.contains(name));
                let said = notify::joined(mine.map(|(_, said)| *said));
                if !group.heard {
                    group.now_says(said, now);
                }
            }
        }
        Heard::Gone => {
            for group in groups {
                if group.said != Said::Absent {
                    group.now_says(Said::Leaving, now);
                }
            }
        }
    }
}

/// The FIFO of a node.
#[must_use]
pub fn fifo(dir: &Path) -> PathBuf {
    dir.join("vrrp.fifo")
}

/// The track file of a group.
#[must_use]
pub fn track_file(dir: &Path, group: &str) -> PathBuf {
    dir.join(format!("{group}.track"))
}

#[cfg(test)]
mod tests;
