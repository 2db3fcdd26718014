//! What workers forward by: made and published here, and taken back.
//!
//! Rules are compiled when the configuration changes, on the main thread; workers go on with what they have until the new
//! snapshot is there. A snapshot that was replaced is kept until the last worker has let go of it, so that its memory, of
//! rules as of routes, is freed on this thread and never between two bursts.

use std::sync::Arc;

use dataplane::config::{Forwarding, Intent};
use dataplane::policy::{Policies, PolicyError};
use dataplane::vrf::{PortInfo, Snapshot};
use dataplane::worker::Shared;

use crate::clock::Clock;

/// See the module.
#[derive(Debug)]
pub(crate) struct Publisher {
    clock: Clock,
    ports: Vec<PortInfo>,
    forwarding: Forwarding,
    policies: Policies,
    replaced: Vec<Arc<Snapshot>>,
}

impl Publisher {
    /// Compiles the rules of the first intent. Nothing is published yet.
    pub(crate) fn new(
        intent: &Intent,
        forwarding: Forwarding,
        ports: Vec<PortInfo>,
        clock: Clock,
    ) -> Result<Self, PolicyError> {
        let mut publisher = Self {
            clock,
            ports,
            forwarding,
            policies: Policies::default(),
            replaced: Vec::new(),
        };
        let compiled = publisher.compile(intent)?;
        tracing::info!(compiled, "rules");
        Ok(publisher)
    }

    /// Compiles the rules of a changed intent; after an error those of before are still there. Returns what it took.
    pub(crate) fn compile(&mut self, intent: &Intent) -> Result<String, PolicyError> {
        let start = self.clock.now();
        self.policies = Policies::compile(intent, &self.policies)?;
        let took = self.clock.now().since(start);
        let (rules, bytes) = self.policies.size();
        Ok(format!(
            "{rules} rules in {} KiB, compiled in {} us",
            bytes.div_ceil(1_024),
            took.as_micros()
        ))
    }

    /// What the kernel says now; true if it is something else than before.
    pub(crate) fn set_forwarding(&mut self, forwarding: Forwarding) -> bool {
        let changed = self.forwarding != forwarding;
        self.forwarding = forwarding;
        changed
    }

    /// The file says something else of reachability than what is there.
    pub(crate) const fn forwarding(&mut self) -> &mut Forwarding {
        &mut self.forwarding
    }

    /// A snapshot of an intent whose rules were compiled last.
    pub(crate) fn snapshot(&self, intent: &Intent) -> Snapshot {
        Snapshot::build(intent, &self.policies, &self.forwarding, &self.ports)
    }

    /// Publishes it.
    pub(crate) fn publish(&mut self, intent: &Intent, shared: &Shared) {
        let snapshot = Arc::new(self.snapshot(intent));
        self.replaced.push(shared.snapshot.swap(snapshot));
    }

    /// Frees what no worker uses any more. Nobody can come by it again: the count of those who have it only falls.
    pub(crate) fn free(&mut self) {
        self.replaced.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    use arc_swap::ArcSwap;
    use dataplane::applied::AppliedCounters;
    use dataplane::config::Action;
    use dataplane::nat::Pools;
    use dataplane::role::Roles;

    fn intent() -> Intent {
        let text = "[node]\nname = \"n\"\nid = 1\n[[port]]\nname = \"lan0\"\ndevice = \"net_null0\"\n";
        crate::config::load("test.toml", text, &[]).unwrap().intent
    }

    #[test]
    fn a_snapshot_lives_until_the_last_worker_has_let_go_of_it_and_is_freed_here() {
        let mut intent = intent();
        let clock = Clock::start();
        let mut publisher = Publisher::new(&intent, Forwarding::default(), vec![], clock).unwrap();
        let shared = Shared {
            snapshot: ArcSwap::from_pointee(publisher.snapshot(&intent)),
            roles: Arc::new(Roles::new(1)),
            pools: Arc::new(Pools::new(&intent)),
            applied: Arc::new(AppliedCounters::new(1, 1)),
        };
        let of_worker = shared.snapshot.load_full();
        let first: Weak<Snapshot> = Arc::downgrade(&of_worker);
        intent.vrfs[0].firewall.default = Action::Accept;
        publisher.compile(&intent).unwrap();
        publisher.publish(&intent, &shared);
        publisher.free();
        drop(of_worker);
        assert!(first.upgrade().is_some(), "the worker was not the last");
        publisher.free();
        assert!(first.upgrade().is_none());
    }
}
