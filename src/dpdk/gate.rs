//! Gates between workers and the drivers of ports, so that a device can be closed, probed and started again while
//! workers run. The agent shuts a port's gate; each worker finds that out at its next turn, calls that driver no more and says
//! so; when all have, nobody but the agent knows the device. Opened again, the port may have another number of DPDK's.
//!
//! A turn without changes costs a worker one load of a line that nobody writes.

use std::sync::atomic::{AtomicU32, Ordering};

/// No number of a port: its gate is shut.
const SHUT: u32 = u32::MAX;

/// The gates of all ports, and how far each worker has followed them.
#[derive(Debug)]
pub(super) struct Gates {
    /// Changes so far.
    changes: AtomicU32,
    ports: Box<[Gate]>,
    followed: Box<[Followed]>,
}

#[derive(Debug)]
struct Gate {
    /// DPDK's number of the port, or [`SHUT`].
    id: AtomicU32,
    /// The change that set it. The agent's alone.
    since: AtomicU32,
}

/// The change up to which a worker knows the gates.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Followed(AtomicU32);

impl Gates {
    /// All open.
    pub(super) fn new(ids: impl Iterator<Item = Option<u16>>, workers: usize) -> Self {
        let gate = |id: Option<u16>| Gate {
            id: AtomicU32::new(id.map_or(SHUT, u32::from)),
            since: AtomicU32::new(0),
        };
        Self {
            changes: AtomicU32::new(0),
            ports: ids.map(gate).collect(),
            followed: (0..workers).map(|_| Followed::default()).collect(),
        }
    }

    /// For the agent: opens the gate of a port under this number, or shuts it.
    pub(super) fn set(&self, port: usize, id: Option<u16>) {
        if let Some(gate) = self.ports.get(port) {
            gate.id.store(id.map_or(SHUT, u32::from), Ordering::Relaxed);
            // Release: whoever sees this change sees the gate, and a device that was set up before it.
            let change = self.changes.fetch_add(1, Ordering::Release) + 1;
            gate.since.store(change, Ordering::Relaxed);
        }
    }

    /// For the agent: the first worker that doesn't know yet how a port's gate was set last.
    pub(super) fn behind(&self, port: usize) -> Option<usize> {
        let since = self.ports.get(port)?.since.load(Ordering::Relaxed);
        // Acquire: what a worker did with a driver before it followed is over.
        self.followed
            .iter()
            .position(|worker| worker.0.load(Ordering::Acquire) < since)
    }

    /// Whether a port's gate was shut.
    pub(super) fn is_shut(&self, port: usize) -> bool {
        self.id(port).is_none()
    }

    /// For a worker: the last change, if it is not `known`.
    pub(super) fn changed(&self, known: u32) -> Option<u32> {
        let last = self.changes.load(Ordering::Acquire);
        (last != known).then_some(last)
    }

    /// DPDK's number of a port whose gate is open.
    pub(super) fn id(&self, port: usize) -> Option<u16> {
        let id = self.ports.get(port)?.id.load(Ordering::Relaxed);
        u16::try_from(id).ok()
    }

    /// For a worker: it knows all gates as of this change, and keeps to them.
    pub(super) fn follow(&self, worker: u16, change: u32) {
        if let Some(followed) = self.followed.get(usize::from(worker)) {
            followed.0.store(change, Ordering::Release);
        }
    }

    /// For a worker that has ended: nobody waits for it any more.
    pub(super) fn leave(&self, worker: u16) {
        self.follow(worker, GONE);
    }
}

/// Of a worker that has ended: more changes than there will ever be.
const GONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_shut_when_every_worker_that_lives_has_followed() {
        let gates = Gates::new([Some(3), Some(4)].into_iter(), 2);
        assert_eq!((gates.behind(1), gates.changed(0)), (None, None));
        gates.set(1, None);
        assert_eq!((gates.id(0), gates.id(1)), (Some(3), None));
        assert_eq!((gates.is_shut(0), gates.is_shut(1)), (false, true));
        let change = gates.changed(0).unwrap();
        assert_eq!((gates.behind(0), gates.behind(1)), (None, Some(0)));
        gates.follow(0, change);
        assert_eq!(gates.behind(1), Some(1));
        gates.leave(1);
        assert_eq!(gates.behind(1), None);
        gates.set(0, Some(9));
        assert_eq!(
            (gates.id(0), gates.behind(0), gates.behind(1)),
            (Some(9), Some(0), None)
        );
    }

    #[test]
    fn a_port_that_there_is_not_changes_nothing() {
        let gates = Gates::new([Some(3)].into_iter(), 1);
        gates.set(1, None);
        assert_eq!((gates.changed(0), gates.id(1)), (None, None));
    }
}
