//! What both ends of a connection have told each other about VRFs: handles bound to names, roles, terms.
//!
//! Born empty with the connection, dies with it: nothing a peer said on an old connection is believed on a new
//! one. Both ends open every VRF they have, so that outside tuples can name VRFs that are not replicated.

use std::sync::Arc;

use dataplane::delta::Term;
use dataplane::flow::VrfId;
use dataplane::role::Role;
use dataplane::time::Instant;

use crate::board::PeerVrf;
use crate::cause::Cause;
use crate::config::SyncConfig;
use crate::conn::Conn;
use crate::fingerprint::{Difference, Section, Strength, differences};
use crate::handover::Handover;
use crate::hello::{INVITATIONS, REDIRECTS};
use crate::record::{Bound, VrfOpen, VrfState, put_vrf_handover, put_vrf_open, put_vrf_state};
use crate::shared::Shared;
use crate::wire::Wire;

/// Most VRFs that a connection may open: handles are below it.
const HANDLES_MAX: usize = 4_096;

/// This node's role, term and readiness for a VRF, as of this turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) role: Role,
    pub(crate) term: Term,
    pub(crate) ready: bool,
    pub(crate) handover: Handover,
}

/// One connection's VRFs.
#[derive(Debug)]
pub(crate) struct Peering {
    peer: u8,
    /// The peer may be invited to take over.
    takes_invitations: bool,
    /// Packets may be redirected to it.
    takes_redirects: bool,
    /// Our VRF by the peer's handle; none where the peer names a VRF this node hasn't got.
    handles: Vec<Option<VrfId>>,
    /// By our VRF.
    known: Vec<Option<Known>>,
    /// What we said last, by our VRF.
    announced: Vec<Own>,
    /// Configuration fingerprint by our VRF: ours as we said it, the peer's.
    sections: Arc<[Vec<Section>]>,
    theirs: Vec<Vec<Section>>,
}

/// A VRF that both nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) state: PeerVrf,
    /// Common slot count when both nodes replicate the VRF with one another and agree on it, else 0.
    pub(crate) slots: u16,
    /// The peer was active when it opened the VRF on this connection first. It may have said something else since, before
    /// anybody has looked.
    pub(crate) came_active: bool,
}

/// What a VRF-OPEN told.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) vrf: VrfId,
    pub(crate) differences: Vec<Difference>,
}

impl Peering {
    /// Of a connection with a peer that has announced so many optional features.
    pub(crate) fn new(peer: u8, features: u32, sections: &Arc<[Vec<Section>]>) -> Self {
        let nothing = Own {
            role: Role::Fault,
            term: Term::NONE,
            ready: false,
            handover: Handover::None,
        };
        let vrfs = sections.len();
        Self {
            peer,
            takes_invitations: features & INVITATIONS != 0,
            takes_redirects: features & REDIRECTS != 0,
            handles: Vec::new(),
            known: vec![None; vrfs],
            announced: vec![nothing; vrfs],
            sections: Arc::clone(sections),
            theirs: vec![Vec::new(); vrfs],
        }
    }

    /// Opens all our VRFs towards the peer.
    pub(crate) fn open_all<W: Wire>(
        &mut self,
        conn: &mut Conn<W>,
        config: &SyncConfig,
        own: &[Own],
        now: Instant,
    ) {
        for ((id, vrf), own) in (0u16..).zip(&config.vrfs).zip(own) {
            let open = VrfOpen {
                handle: id,
                slots: if vrf.has_peer(self.peer) { vrf.slots } else { 0 },
                role: own.role,
                ready: own.ready,
                term: own.term,
                capacity: vrf.capacity,
                name: vrf.name.clone(),
                sections: self.sections[usize::from(id)].clone(),
            };
            conn.put(now, |out| put_vrf_open(out, &open));
            self.announced[usize::from(id)] = Own {
                handover: Handover::None,
                ..*own
            };
        }
    }

    /// Opens all VRFs again when this node's configuration has changed; gives what differs
    /// then, of each that the peer has opened.
    pub(crate) fn reopen<W: Wire>(&mut self, conn: &mut Conn<W>, s: &Shared) -> Vec<Opened> {
        if Arc::ptr_eq(&self.sections, &s.sections) {
            return Vec::new();
        }
        self.sections = Arc::clone(&s.sections);
        self.open_all(conn, &s.config, &s.own, s.now);
        let sections = self.sections.iter().zip(&self.theirs);
        let vrfs = (0u16..).map(VrfId).zip(sections).zip(&mut self.known);
        vrfs.filter_map(|((vrf, (ours, theirs)), known)| {
            let known = known.as_mut()?;
            let differences = differences(ours, theirs);
            known.state.equal = known.slots != 0 && !must_differ(&differences);
            Some(Opened { vrf, differences })
        })
        .collect()
    }

    /// Tells what has changed since.
    pub(crate) fn announce<W: Wire>(&mut self, conn: &mut Conn<W>, own: &[Own], now: Instant) {
        for ((handle, said), own) in (0u16..).zip(&mut self.announced).zip(own) {
            // A peer that doesn't know the word is told nothing.
            let untold = matches!(own.handover, Handover::Invites(_)) && !self.takes_invitations;
            let own = Own {
                handover: if untold { Handover::None } else { own.handover },
                ..*own
            };
            let before = core::mem::replace(said, own);
            if before.handover != own.handover {
                conn.put(now, |out| put_vrf_handover(out, handle, own.handover));
            }
            let state_before = Own {
                handover: own.handover,
                ..before
            };
            if state_before != own {
                let state = VrfState {
                    handle,
                    role: own.role,
                    ready: own.ready,
                    term: own.term,
                };
                conn.put(now, |out| put_vrf_state(out, &state));
            }
        }
    }

    /// Takes in a VRF-OPEN; none when this node has no VRF of that name.
    pub(crate) fn opened(&mut self, open: &VrfOpen, config: &SyncConfig) -> Result<Option<Opened>, Cause> {
        let handle = usize::from(open.handle);
        if handle >= HANDLES_MAX {
            return Err(Cause::HandlesFull);
        }
        if self.handles.len() <= handle {
            self.handles.resize(handle + 1, None);
        }
        let found = (0u16..).zip(&config.vrfs).find(|(_, v)| v.name == open.name);
        self.handles[handle] = found.map(|(id, _)| VrfId(id));
        let Some((id, vrf)) = found else { return Ok(None) };
        let differences = differences(&self.sections[usize::from(id)], &open.sections);
        self.theirs[usize::from(id)].clone_from(&open.sections);
        let replicated = vrf.has_peer(self.peer) && open.slots != 0;
        let same = replicated && open.slots == vrf.slots;
        let equal = same && !must_differ(&differences);
        let state = PeerVrf {
            role: open.role,
            term: open.term,
            ready: open.ready,
            equal,
            handover: Handover::None,
            takes_invitations: self.takes_invitations,
        };
        let known = &mut self.known[usize::from(id)];
        // Opened again, it is no newcomer.
        let came_active = known.map_or(open.role == Role::Master, |k| k.came_active);
        *known = Some(Known {
            state,
            slots: if same { vrf.slots } else { 0 },
            came_active,
        });
        Ok(Some(Opened {
            vrf: VrfId(id),
            differences,
        }))
    }

    /// Takes in a VRF-STATE; gives our VRF.
    pub(crate) fn changed(&mut self, state: &VrfState) -> Result<VrfId, Cause> {
        let handle = self.handles.get(usize::from(state.handle)).copied().flatten();
        let vrf = handle.ok_or(Cause::RecordUnknownVrf)?;
        let known = self.known[vrf.index()].as_mut().ok_or(Cause::RecordUnknownVrf)?;
        let (role, term, ready) = (state.role, state.term, state.ready);
        known.state = PeerVrf {
            role,
            term,
            ready,
            ..known.state
        };
        Ok(vrf)
    }

    /// Takes in a VRF-HANDOVER.
    pub(crate) fn handed(&mut self, handle: u16, handover: Handover) -> Result<(), Cause> {
        let vrf = self.handles.get(usize::from(handle)).copied().flatten();
        let known = vrf.and_then(|vrf| self.known[vrf.index()].as_mut());
        known.ok_or(Cause::RecordUnknownVrf)?.state.handover = handover;
        Ok(())
    }

    /// Whether packets may be redirected to the peer.
    pub(crate) const fn takes_redirects(&self) -> bool {
        self.takes_redirects
    }

    /// A handle of the peer's, as records use it.
    pub(crate) fn resolve(&self, handle: u16) -> Option<Bound> {
        let vrf = self.handles.get(usize::from(handle)).copied().flatten()?;
        let known = self.known(vrf)?;
        Some(Bound {
            vrf,
            slots: known.slots,
        })
    }

    /// What the peer has said about a VRF of ours.
    pub(crate) fn known(&self, vrf: VrfId) -> Option<Known> {
        self.known.get(vrf.index()).copied().flatten()
    }
}

fn must_differ(differences: &[Difference]) -> bool {
    differences.iter().any(|d| d.strength == Strength::MustEqual)
}
