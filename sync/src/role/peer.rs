//! A peer as the role machine sees it, and which of two nodes sends its state to the other.

use dataplane::delta::Term;
use dataplane::role::Role;

use crate::board::PeerVrf;
use crate::handover::Handover;

/// What a peer looks like from here, joined over all connections by [`crate::board::Board::view`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Its VRF; none while no live connection has said anything about it.
    pub vrf: Option<PeerVrf>,
    /// The highest term that any peer ever had for the VRF, or offered entries of.
    pub heard: Term,
    /// Its node id; 0 while unknown.
    pub node: u8,
    /// Slot count S of the VRF.
    pub slots: u32,
    /// Slots imported from it on the connections that are up.
    pub verified: u32,
    /// Slots it has verified of ours.
    pub exported: u32,
    /// The last drain of which it has acknowledged everything; 0 for none.
    pub drained: u32,
    /// Our lanes that are up, control lane included.
    pub clients_up: u32,
    /// Our lanes.
    pub clients_total: u32,
    /// Its lanes that are up here.
    pub locals_up: u32,
    /// Its lanes, as it said itself; 0 while unknown.
    pub locals_total: u32,
}

impl PeerView {
    /// Whether peer and this node, at `own`, have the same table, and only this node can be giving out ports.
    #[must_use]
    pub fn is_settled(&self, own: Term) -> bool {
        self.vrf.is_some_and(|v| {
            let done = if outranks(v.term, self.node, own) {
                self.verified
            } else {
                self.exported
            };
            !v.role.is_active() && done == self.slots
        })
    }

    /// Whether it is active.
    pub(crate) fn is_master(&self) -> bool {
        self.vrf.is_some_and(|v| v.role == Role::Master)
    }

    /// Number of its wish to be active, if it has one.
    pub(super) fn asked(&self) -> Option<u8> {
        match self.vrf?.handover {
            Handover::Asked(number) => Some(number),
            _ => None,
        }
    }

    /// Whether the peer lives and lacks something of what a drain tells, or a slot.
    #[must_use]
    pub const fn lacks(&self, drain: u32) -> bool {
        self.vrf.is_some() && (self.drained != drain || self.exported < self.slots)
    }

    /// Whether the peer holds state of the VRF that this node, at `own`, lacks. An equal term belongs to its
    /// owner: the other node imports.
    #[must_use]
    pub fn importing(&self, own: Term) -> bool {
        self.vrf.is_some_and(|v| outranks(v.term, self.node, own)) && self.verified < self.slots
    }
}

/// Direction of replication (sync/PROTOCOL.md R-30): whether state flows from the holder of `theirs`, which is
/// node `node`, to the holder of `own`.
#[must_use]
pub fn outranks(theirs: Term, node: u8, own: Term) -> bool {
    theirs > own || (theirs == own && theirs != Term::NONE && theirs.node() == node)
}
