//! Classic mistakes of replication, to show that the simulator finds them: each can be made again, one at a time, by a
//! test. Without the feature `mutants` every question here is answered by a constant, and nothing is left of it.

use crate::delta::SlotRef;
use crate::resync::Sum;
use crate::slot::{Kind, NIL};
use crate::stage::slots::{first, stored_digest, sync_of};
use crate::tables::Tables;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A verified end sweeps nothing.
    NoSweep,
    /// An end sweeps before it is known whether everything has come.
    SweepBeforeVerify,
    /// A refresh takes a version, although no record carries it.
    RefreshBumpsVersion,
    /// A record that is refused leaves behind what was made before the refusal.
    PartialRefusal,
    /// An entry that was here already is not marked as named by the sender.
    EqualUnconfirmed,
    /// A node that was restarted empty takes its former term over from the standby, and sends it nothing.
    EmptyOverwrites,
    /// What a demoted node wrote last counts as newer than what its successor says.
    TailKept,
    /// The release of a block counts whoever holds it by now.
    SlowRelease,
    /// A port is marked as used without a look at whether it is.
    PortsOred,
    /// A removal is not told while a walk may have sent a copy already.
    RemovalForgotten,
    /// Records of a lane's former connection are read and applied: the new one doesn't end it, and workers don't ask.
    OldIncarnation,
    /// Records are acknowledged when they have come, not when they are applied.
    AckOnReceive,
    /// A worker waits for room in a full ring.
    WorkerWaits,
    /// A slot's end tells the digest of what is in the table, instead of what was emitted.
    DigestOfTable,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::NoSweep,
        Self::SweepBeforeVerify,
        Self::RefreshBumpsVersion,
        Self::PartialRefusal,
        Self::EqualUnconfirmed,
        Self::EmptyOverwrites,
        Self::TailKept,
        Self::SlowRelease,
        Self::PortsOred,
        Self::RemovalForgotten,
        Self::OldIncarnation,
        Self::AckOnReceive,
        Self::WorkerWaits,
        Self::DigestOfTable,
    ];
}

/// Whether the mistake is being made.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use switch::{on, set};

#[cfg(feature = "mutants")]
mod switch {
    use core::cell::Cell;

    use super::Mutant;

    std::thread_local! {
        static NOW: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Whether the mistake is being made on this thread.
    #[must_use]
    pub fn on(mutant: Mutant) -> bool {
        NOW.get() == Some(mutant)
    }

    /// Makes one mistake, or none, on this thread from now on.
    pub fn set(mutant: Option<Mutant>) {
        NOW.set(mutant);
    }
}

/// Count and digest that a slot's end tells.
pub(crate) fn told(tables: &Tables, at: SlotRef) -> Sum {
    if on(Mutant::DigestOfTable) {
        return of_table(tables, at);
    }
    tables.slots.get(at).map_or_else(Sum::default, |slot| Sum {
        count: slot.count,
        digest: slot.digest,
    })
}

/// What is in the table, told or not.
fn of_table(tables: &Tables, at: SlotRef) -> Sum {
    let mut sum = Sum::default();
    for kind in [Kind::Block, Kind::Conntrack] {
        let mut id = first(tables, at, kind);
        while id != NIL {
            sum.add(stored_digest(tables, kind, id));
            id = sync_of(tables, kind, id).next;
        }
    }
    sum
}
