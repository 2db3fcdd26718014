//! What a worker has to tell the main thread, outside the packet path: rare, bounded, and never waited for.

use crossbeam_channel::Sender;

use crate::config::{Action, InterfaceId};
use crate::drain::GivenUp;
use crate::flow::{Addr, FlowKey, VrfId};
use crate::nat::log::BlockEvent;
use crate::time::Instant;

/// Recent questions remembered so that a stream to a silent host asks once a second, not per packet.
const RECENT: usize = 16;

/// Log lines of firewall rules per second and worker.
const RULE_LOGS_PER_S: u32 = 50;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A next hop's MAC address is needed.
    Unresolved {
        /// Interface.
        interface: InterfaceId,
        /// Next hop.
        address: Addr,
    },
    /// A port block was granted or released.
    Block(BlockEvent),
    /// A VRF that had conntracks kept back was given up.
    GivenUp(GivenUp),
    /// The peer has port blocks on a public address that is in no pool here.
    NoPool {
        /// VRF.
        vrf: VrfId,
        /// The address.
        address: Addr,
    },
    /// A worker's tables are nearly full, and there may be more room.
    RoomWanted {
        /// Worker.
        worker: u16,
    },
    /// The first packet of a flow met a rule that logs.
    RuleHit {
        /// VRF.
        vrf: VrfId,
        /// Number of the rule.
        rule_id: u32,
        /// The packet's tuple.
        key: FlowKey,
        /// What the rule says.
        action: Action,
    },
}

/// The sending end, with its limits.
#[derive(Debug)]
pub struct Notices {
    to: Sender<Notice>,
    recent: [(InterfaceId, Addr, u32); RECENT],
    next: usize,
    logs: (u32, u32),
    /// Second of the last word about an address without a pool.
    no_pool_s: Option<u32>,
    /// Messages that found the channel full, or the limit reached.
    pub lost: u64,
}

impl Notices {
    /// Sends into a bounded channel.
    #[must_use]
    pub fn new(to: Sender<Notice>) -> Self {
        Self {
            to,
            recent: [(InterfaceId::default(), Addr::default(), 0); RECENT],
            next: 0,
            logs: (0, 0),
            no_pool_s: None,
            lost: 0,
        }
    }

    /// Asks for a neighbour, at most once a second each.
    pub fn unresolved(&mut self, interface: InterfaceId, address: Addr, now: Instant) {
        let asked = (interface, address, now.secs());
        if self.recent.contains(&asked) {
            return;
        }
        self.recent[self.next % RECENT] = asked;
        self.next += 1;
        self.send(Notice::Unresolved { interface, address });
    }

    /// Reports a port block.
    pub fn block(&mut self, event: BlockEvent) -> bool {
        self.to.try_send(Notice::Block(event)).is_ok()
    }

    /// Reports that a VRF was given up.
    pub fn given_up(&mut self, given_up: GivenUp) {
        self.send(Notice::GivenUp(given_up));
    }

    /// Reports an address without a pool, once a second.
    pub fn no_pool(&mut self, vrf: VrfId, address: Addr, now: Instant) {
        if self.no_pool_s != Some(now.secs()) {
            self.no_pool_s = Some(now.secs());
            self.send(Notice::NoPool { vrf, address });
        }
    }

    /// Asks for more room for conntracks.
    pub fn room_wanted(&mut self, worker: u16) -> bool {
        self.to.try_send(Notice::RoomWanted { worker }).is_ok()
    }

    /// Reports a rule hit, within the limit.
    pub fn rule_hit(&mut self, vrf: VrfId, rule_id: u32, key: FlowKey, action: Action, now: Instant) {
        if self.logs.0 != now.secs() {
            self.logs = (now.secs(), 0);
        }
        self.logs.1 += 1;
        if self.logs.1 > RULE_LOGS_PER_S {
            self.lost += 1;
            return;
        }
        self.send(Notice::RuleHit {
            vrf,
            rule_id,
            key,
            action,
        });
    }

    fn send(&mut self, notice: Notice) {
        if self.to.try_send(notice).is_err() {
            self.lost += 1;
        }
    }
}
