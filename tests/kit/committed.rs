//! Output commit, closed: when the first packet of a flow leaves a node, the other node has the flow. Looks at the tables
//! and the frames of both, and asks nobody.

use std::collections::HashSet;

use dataplane::config::OutputCommit;
use dataplane::flow::{Direction, FlowKey};
use dataplane::protection::Kept;

use crate::config::MAIN;
use crate::node::Node;
use crate::packet;

/// What each node has ever held, by original tuple. A node's death takes nothing from it: it had the flow.
#[derive(Debug, Default)]
pub struct Committed {
    held: [HashSet<FlowKey>; 2],
    /// Flows of which a packet has left before, by node and original tuple.
    left: [HashSet<FlowKey>; 2],
    /// Frames that were looked at.
    pub frames: u64,
}

impl Committed {
    /// Notes what a node holds now.
    pub fn learn(&mut self, index: usize, node: &Node) {
        if node.setup.output_commit.policy != OutputCommit::Closed {
            return;
        }
        for tables in node.tables() {
            let held = tables
                .conntracks
                .iter_live()
                .map(|(_, c)| c.key(Direction::Original));
            self.held[index].extend(held);
        }
    }

    /// Looks at what a node has sent towards the servers.
    ///
    /// # Panics
    /// When a flow has left that this node made, and that the other node never had.
    pub fn look(&mut self, index: usize, node: &Node, frames: &[Vec<u8>]) {
        if node.setup.output_commit.policy != OutputCommit::Closed || !node.is_active(MAIN) {
            return;
        }
        for left in frames.iter().filter_map(|frame| packet::flow(frame)) {
            self.frames += 1;
            let reply = left.reversed();
            let found = node.tables().find_map(|tables| {
                let (id, _) = tables.conntracks.find(tables.conntracks.hash(&reply), &reply)?;
                Some(&tables.conntracks[id])
            });
            // Rule 0: another node made it, and this one only goes on with it.
            let made_here = |c: &&dataplane::conntrack::Conntrack| c.rule != 0;
            let Some(conntrack) = found.filter(made_here) else {
                continue;
            };
            // One that policy keeps from the peers doesn't wait, also when they are told later.
            if self.left[index].insert(conntrack.key(Direction::Original)) && conntrack.sync.kept == Kept::No
            {
                assert!(
                    self.held[1 - index].contains(&conntrack.key(Direction::Original)),
                    "node {index} has sent a packet of {:?}, which the other node never had",
                    conntrack.key(Direction::Original)
                );
            }
        }
    }
}
