//! How many frames of each class reach the kernel, and what became of them: by port, each worker for itself.

use serde::{Deserialize, Serialize};

use super::Class;
use crate::io::PortId;
use crate::stage::respond::TokenBucket;

/// Most that a class can be given.
pub const PACKETS_PER_S_MAX: u32 = 1_000_000;

/// However small its rate is, so many frames of a class may come at once: adverts of several groups come together.
const BURST_MIN: u32 = 10;

/// Frames per second that pass, by class: of one port, in one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionLimits {
    packets_per_s: [u32; Class::ALL.len()],
}

impl Default for ExceptionLimits {
    /// Together they are some 3 % of a core.
    ///
    /// * LACP is one frame a second at most, a spanning tree's hello one every two.
    /// * A segment of a few thousand hosts asks for some hundred neighbours a second.
    /// * Twenty groups with adverts of 10 ms are 2,000 a second.
    /// * A full table of routes comes with the speed of its router, some 100 Mbit/s.
    /// * A shell, metrics and a file that is copied: some 20 Mbit/s.
    fn default() -> Self {
        let mut limits = Self {
            packets_per_s: [0; Class::ALL.len()],
        };
        for (class, packets_per_s) in [
            (Class::Link, 100),
            (Class::Neighbor, 1_000),
            (Class::Ha, 4_000),
            (Class::Routing, 10_000),
            (Class::Local, 2_000),
        ] {
            limits.set(class, packets_per_s);
        }
        limits
    }
}

impl ExceptionLimits {
    /// Frames of a class per second.
    #[must_use]
    pub const fn of(&self, class: Class) -> u32 {
        self.packets_per_s[class as usize]
    }

    /// Gives a class another limit; 0 lets nothing of it pass.
    pub const fn set(&mut self, class: Class, packets_per_s: u32) {
        self.packets_per_s[class as usize] = packets_per_s;
    }

    /// Frames of a class that may come at once. Roles are decided by few frames that come evenly, and a flood of what looks like
    /// them must not fill the kernel's queue; a router's answers come in bursts.
    #[must_use]
    pub fn burst(&self, class: Class) -> u32 {
        let packets_per_s = self.of(class);
        let share = match class {
            Class::Link => 2,
            Class::Neighbor | Class::Local => 4,
            Class::Routing => 5,
            Class::Ha => 20,
        };
        if packets_per_s == 0 {
            0
        } else {
            (packets_per_s / share).max(BURST_MIN)
        }
    }

    pub(super) fn bucket(&self, class: Class) -> TokenBucket {
        TokenBucket::new(self.of(class), self.burst(class))
    }
}

/// Frames of one class that came for the kernel.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Punted {
    /// Within the limit.
    pub passed: u64,
    /// Beyond it.
    pub refused: u64,
}

/// Frames that came for the kernel, by the port they came in by and by class.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PuntCounts {
    ports: Box<[[Punted; Class::ALL.len()]]>,
}

impl PuntCounts {
    pub(crate) fn new(ports: usize) -> Self {
        Self {
            ports: vec![[Punted::default(); Class::ALL.len()]; ports].into(),
        }
    }

    pub(super) fn count(&mut self, port: PortId, class: Class, passes: bool) {
        if let Some(classes) = self.ports.get_mut(port.index()) {
            let punted = &mut classes[class as usize];
            *(if passes {
                &mut punted.passed
            } else {
                &mut punted.refused
            }) += 1;
        }
    }

    /// Those of a class that came in by a port.
    #[must_use]
    pub fn of(&self, port: PortId, class: Class) -> Punted {
        self.ports
            .get(port.index())
            .map_or(Punted::default(), |classes| classes[class as usize])
    }
}
