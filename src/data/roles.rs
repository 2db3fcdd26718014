//! One role machine per VRF, stepped by the agent: reads what the event threads know of the peers, writes the one
//! word that workers read.

mod switchover;

use std::sync::Arc;
use std::time::Duration;

use ctl::report::{GroupRow, GroupState, RoleRow};
use ctl::switchover::SwitchoverReport;
use dataplane::delta::Term;
use dataplane::flow::VrfId;
use dataplane::outlook::Outlook;
use dataplane::role::{Role, Roles};
use dataplane::share::Share;
use dataplane::time::Instant;
use state_sync::board::Board;
use state_sync::config::SyncConfig;
use state_sync::handover::DrainEnd;
use state_sync::role::{Decision, DeclareError, Desire, PeerView, RoleMachine, outranks};

use self::switchover::Switchover;
use crate::config::{Config, InitialState};
use crate::ipc::role_state;

/// Which way the state of a VRF flows between this node and a peer (sync/PROTOCOL.md R-30).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Sends,
    Receives,
    /// Neither, and why.
    Nothing(&'static str),
}

/// All VRFs' roles.
#[derive(Debug)]
pub(crate) struct RoleKeeper {
    node_id: u8,
    roles: Arc<Roles>,
    outlook: Arc<Outlook>,
    board: Arc<Board>,
    vrfs: Vec<Vrf>,
    groups: Vec<GroupRow>,
    switchovers: Vec<Switchover>,
    switchover_news: Vec<SwitchoverReport>,
    /// Groups that peers have handed over.
    handed: Vec<String>,
}

/// What a step has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Role or term.
    Role(VrfId),
    /// This node was active when a peer came that was, too; whether it still is.
    SplitBrain(VrfId, bool),
    /// Only readiness, or what is in its way.
    Readiness(VrfId),
    /// How, and after how long, a drain has ended.
    Drained(VrfId, DrainEnd, Duration),
}

#[derive(Debug)]
struct Vrf {
    name: String,
    group: Option<String>,
    slots: u16,
    peers: Vec<u8>,
    /// In the same order.
    peer_names: Vec<String>,
    /// What this node may give out, without doubt and in doubt.
    shares: [Share; 2],
    machine: RoleMachine,
    last: Option<Decision>,
}

impl RoleKeeper {
    /// Machines in their boot state.
    pub(crate) fn new(
        config: &Config,
        sync: &SyncConfig,
        boot_wait: Duration,
        roles: Arc<Roles>,
        outlook: Arc<Outlook>,
        board: Arc<Board>,
        now: Instant,
    ) -> Self {
        let groups: Vec<GroupRow> = config
            .ha_groups
            .iter()
            .map(|group| GroupRow {
                name: group.name.clone(),
                state: match group.state {
                    InitialState::Master => GroupState::Master,
                    InitialState::Backup => GroupState::Backup,
                },
                explicit: false,
            })
            .collect();
        let vrfs = config
            .vrfs
            .iter()
            .zip(&sync.vrfs)
            .map(|(vrf, replicated)| {
                let group = vrf.listen_ha_group.clone();
                let prefers_master = group.as_ref().is_some_and(|name| {
                    groups
                        .iter()
                        .any(|g| g.name == *name && g.state == GroupState::Master)
                });
                let desire = if prefers_master {
                    Desire::Preferred
                } else {
                    Desire::Backup
                };
                let peers = replicated.peers.len();
                let machine = RoleMachine::new(
                    (sync.node_id, sync.boot_id),
                    group.is_some(),
                    desire,
                    peers,
                    boot_wait,
                    now,
                )
                .foreseeing();
                let elected = config
                    .ha_groups
                    .iter()
                    .any(|g| Some(&g.name) == group.as_ref() && g.vrrp.is_some());
                Vrf {
                    name: vrf.name.clone(),
                    slots: replicated.slots,
                    peers: replicated.peers.clone(),
                    peer_names: vrf.peers.iter().map(|peer| peer.name.clone()).collect(),
                    shares: [false, true].map(|in_doubt| sync.share(replicated, in_doubt)),
                    machine: if elected { machine.elected() } else { machine },
                    group,
                    last: None,
                }
            })
            .collect();
        let keeper = Self {
            node_id: sync.node_id,
            roles,
            outlook,
            board,
            vrfs,
            groups,
            switchovers: Vec::new(),
            switchover_news: Vec::new(),
            handed: Vec::new(),
        };
        keeper.start_lone_vrfs(sync);
        keeper
    }

    /// A VRF without a group is active from the start; grants still need a term to be named under.
    fn start_lone_vrfs(&self, sync: &SyncConfig) {
        for (id, vrf) in (0..).map(VrfId).zip(&self.vrfs) {
            if vrf.group.is_none() {
                self.roles
                    .set(id, Role::Alone, Term::NONE.next_of(sync.node_id, sync.boot_id));
            }
        }
    }

    /// Steps every machine; returns the VRFs of which there is something new to say.
    pub(crate) fn step(&mut self, now: Instant) -> Vec<Change> {
        let mut changed = Vec::new();
        for (id, vrf) in (0..).map(VrfId).zip(&mut self.vrfs) {
            if vrf.group.is_none() {
                continue;
            }
            let views: Vec<_> = vrf
                .peers
                .iter()
                .map(|&peer| self.board.view(peer, id, vrf.slots))
                .collect();
            let missing = self.outlook.missing(id, vrf.machine.look());
            vrf.machine.foresee(missing);
            let decision = vrf.machine.step(now, &views);
            self.roles
                .set_share(id, vrf.shares[usize::from(decision.in_doubt)]);
            self.roles.set_owned(id, vrf.machine.sees_owner(&views));
            if decision.role.is_active()
                && vrf.last.map(|l| (l.role, l.in_doubt)) != Some((decision.role, decision.in_doubt))
            {
                tell_doubt(&vrf.name, decision.in_doubt);
            }
            self.roles.set_redirects_until(id, decision.redirects_until);
            let was_master = vrf.last.is_some_and(|l| l.role == Role::Master);
            if self.board.take_rival(id) && was_master {
                changed.push(Change::SplitBrain(id, decision.role == Role::Master));
            }
            let known = vrf.last.map(|l| (l.role, l.term));
            if known != Some((decision.role, decision.term)) {
                self.roles.set(id, decision.role, decision.term);
                changed.push(Change::Role(id));
            } else if vrf.last != Some(decision) {
                changed.push(Change::Readiness(id));
            }
            self.roles.set_drain(id, decision.drain);
            self.outlook.ask(id, vrf.machine.look());
            self.board.set_handover(id, decision.handover);
            if let Some((end, took)) = vrf.machine.take_drain_end() {
                changed.push(Change::Drained(id, end, took));
            }
            self.board.set_ready(id, decision.ready);
            vrf.last = Some(decision);
            if vrf.machine.take_invited()
                && let Some(group) = self
                    .groups
                    .iter_mut()
                    .find(|g| Some(&g.name) == vrf.group.as_ref())
            {
                // As good as an order to this node.
                (group.state, group.explicit) = (GroupState::Master, true);
                self.handed.push(group.name.clone());
            }
        }
        self.follow_switchovers(now);
        changed
    }

    /// An order for a group; false when there is no such group.
    pub(crate) fn set_group(&mut self, name: &str, state: GroupState, explicit: bool) -> bool {
        let Some(group) = self.groups.iter_mut().find(|g| g.name == name) else {
            return false;
        };
        if group.explicit && !explicit {
            // A configured preference, said again by a restarted control process, doesn't undo an order.
            return true;
        }
        group.state = state;
        group.explicit = explicit;
        let desire = match (state, explicit) {
            (GroupState::Backup, _) => Desire::Backup,
            (GroupState::Master, true) => Desire::Ordered,
            (GroupState::Master, false) => Desire::Preferred,
        };
        for vrf in self.vrfs.iter_mut().filter(|v| v.group.as_deref() == Some(name)) {
            vrf.machine.order(desire);
        }
        true
    }

    /// The peer of that name gives out nothing any more, in every VRF that has it.
    ///
    /// # Errors
    /// When no VRF has such a peer, or one of them hears it.
    pub(crate) fn declare_dead(&mut self, name: &str) -> Result<(), DeclareError> {
        let mut found = Err(DeclareError::NoPeer);
        for vrf in &mut self.vrfs {
            for (place, _) in (0..).zip(&vrf.peer_names).filter(|(_, known)| *known == name) {
                found = Ok(());
                vrf.machine.declare_dead(place)?;
            }
        }
        found
    }

    /// What groups were last told.
    pub(crate) fn groups(&self) -> Vec<GroupRow> {
        self.groups.clone()
    }

    /// Whether the VRF is active now.
    pub(crate) fn is_active(&self, vrf: VrfId) -> bool {
        self.roles.get(vrf).0.is_active()
    }

    /// Whether this node could take over the VRF now.
    pub(crate) fn is_ready(&self, vrf: VrfId) -> bool {
        self.vrfs
            .get(vrf.index())
            .and_then(|v| v.last)
            .is_some_and(|l| l.ready)
    }

    /// What a peer looks like from here.
    pub(crate) fn view(&self, vrf: VrfId, peer: u8) -> PeerView {
        let slots = self.vrfs.get(vrf.index()).map_or(0, |v| v.slots);
        self.board.view(peer, vrf, slots)
    }

    /// Which way a VRF's state flows.
    pub(crate) fn flow(&self, vrf: VrfId, peer: u8) -> Flow {
        let (role, own) = self.roles.get(vrf);
        if role == Role::Alone {
            return Flow::Nothing("it follows no HA group");
        }
        let Some(theirs) = self.view(vrf, peer).vrf else {
            return Flow::Nothing("the peer is not connected");
        };
        if own != Term::NONE && outranks(own, self.node_id, theirs.term) {
            Flow::Sends
        } else if theirs.term != Term::NONE {
            Flow::Receives
        } else {
            Flow::Nothing("no node has been active yet")
        }
    }

    /// One VRF's role.
    pub(crate) fn row(&self, id: VrfId) -> Option<RoleRow> {
        let vrf = self.vrfs.get(id.index())?;
        let (role, term) = self.roles.get(id);
        let cause = vrf
            .last
            .and_then(|l| l.cause)
            .map_or_else(String::new, |c| c.text().into_owned());
        Some(RoleRow {
            vrf: vrf.name.clone(),
            ha_group: vrf.group.clone(),
            role: role_state(role),
            term: term.0,
            ready: vrf.last.map_or(role == Role::Alone, |l| l.ready),
            cause,
            in_doubt: self.roles.share(id).is_in_doubt(),
        })
    }

    /// Every VRF's role.
    pub(crate) fn rows(&self) -> Vec<RoleRow> {
        (0..)
            .map(VrfId)
            .take(self.vrfs.len())
            .filter_map(|id| self.row(id))
            .collect()
    }
}

/// The alarm of an active node, and its end.
fn tell_doubt(vrf: &str, in_doubt: bool) {
    if in_doubt {
        tracing::warn!(
            vrf,
            "in doubt: a peer isn't heard or lacks something; only this node's half of the ports is given out"
        );
    } else {
        tracing::info!(
            vrf,
            "no doubt: the peer has everything or is declared dead; all ports are given out"
        );
    }
}
