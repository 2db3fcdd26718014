//! Situations that chance brings about too rarely: several things that have to meet, each drawn from the schedule's stream.
//! What must hold is what must hold always; here it is only put to the test.

use core::time::Duration;

use dataplane::delta::SlotRef;
use dataplane::flow::FlowKey;
use dataplane::tables::Faults;
use state_sync::role::Desire;
use testkit::config::{MAIN, server};
use testkit::network::Weather;

use crate::schedule::Play;

/// Longer than lanes take to find out that the link is cut.
const DEAF: Duration = Duration::from_millis(1_300);

/// A lane that is this much slower than others is still taken for alive.
const SLOW: Duration = Duration::from_millis(300);

/// So late may bytes be of which nobody knows that their connection is gone.
const LATE: Duration = Duration::from_millis(800);

/// Longest wait for a lane to come up again and tell that its slots don't add up.
const FOUND_TURNS: usize = 1_000;

/// Longest wait for blocks that are idle to be released.
const IDLE_TURNS: usize = 400;

impl Play {
    /// Both nodes are active behind a cut and give ports to the same inside endpoints. Then they hear each other again.
    pub(crate) fn split(&mut self) {
        self.rest();
        let Some(first) = self.cluster.active() else {
            return;
        };
        self.cluster.fabric.cut(true);
        self.cluster.stroll(DEAF);
        self.cluster.order(1 - first, Desire::Ordered);
        self.cluster.stroll(DEAF);
        for _ in 0..self.random.between(1, self.scale.packets) {
            let key = self.tuple();
            let elsewhere = FlowKey {
                dst: server(u8::try_from(self.random.between(1, 5)).unwrap()),
                ..key
            };
            self.cluster.out(first, &key);
            let other = if key.src.is_v4() { elsewhere } else { key };
            self.cluster.out(1 - first, &other);
        }
        for node in 0..2 {
            self.end_some(node, 6);
        }
        let ms = self.random.between(0, 40);
        self.cluster.run(Duration::from_millis(ms));
        self.rest();
    }

    /// Blocks are released on lanes of which some are slow, and granted again on others at once.
    pub(crate) fn regrant(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        self.cluster.fabric.set_weather(Weather {
            spread: SLOW,
            ..Weather::default()
        });
        self.end_some(active, 1);
        let released = |play: &mut Self| play.cluster.node(active).counters().blocks_released;
        let before = released(self);
        for _ in 0..IDLE_TURNS {
            self.cluster.turn(Duration::from_millis(20));
            if !self.can_forward(active) || released(self) > before {
                break;
            }
        }
        for _ in 0..self.random.between(1, 8) {
            self.open(active);
            self.cluster.turn(Duration::from_millis(1));
            if self.random.one_in(2) {
                self.end_some(active, 2);
            }
        }
        self.rest();
    }

    /// Connections of the active node are half open while new flows are on their way; new ones take their place, the flows
    /// end, and then the old ones' bytes arrive.
    pub(crate) fn late(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        self.cluster.fabric.set_weather(Weather {
            delay: LATE,
            ..Weather::default()
        });
        for _ in 0..self.random.between(1, 4) {
            self.open(active);
        }
        self.cluster.run(LATE / 32);
        self.cluster.fabric.desert(active);
        self.cluster.fabric.set_weather(Weather::default());
        self.cluster.stroll(LATE / 2);
        self.end_some(active, 2);
        self.cluster.stroll(LATE);
        self.rest();
    }

    /// All slots of the active node are damaged, and sent whole while their receiver holds entries that have ended: nothing is
    /// swept before the damage is found, and everything is equal then.
    pub(crate) fn damage(&mut self) {
        self.rest();
        let Some(active) = self.cluster.active() else {
            return;
        };
        self.cluster.watch.damaged = true;
        self.cluster.fabric.cut(true);
        self.cluster.stroll(DEAF);
        self.end_some(active, 2);
        self.break_faults(
            active,
            Faults {
                no_catch_up: true,
                no_audit: true,
            },
        );
        let bit = 1 << self.random.below(64);
        let node = self.cluster.node(active);
        for slot in 0..node.setup.slots {
            for worker in 0..node.workers() {
                let slots = &mut node.tables_mut(worker).slots;
                if let Some(slot) = slots.get_mut(SlotRef { vrf: MAIN, slot }) {
                    slot.digest ^= bit;
                }
            }
        }
        self.cluster.fabric.cut(false);
        for _ in 0..FOUND_TURNS {
            self.cluster.turn(Duration::from_millis(4));
            if self.cluster.node(1 - active).counters().slots_differing > 0 {
                break;
            }
        }
        self.break_faults(active, Faults::default());
        self.rest();
        self.cluster.watch.damaged = false;
        for node in self.cluster.nodes.iter_mut().flatten() {
            for worker in 0..node.workers() {
                let c = &mut node.tables_mut(worker).counters;
                (c.audit_entries_wrong, c.audit_slots_wrong, c.audit_index_lost) = (0, 0, 0);
            }
        }
    }

    fn break_faults(&mut self, node: usize, faults: Faults) {
        let node = self.cluster.node(node);
        for worker in 0..node.workers() {
            node.tables_mut(worker).faults = faults;
        }
    }
}
