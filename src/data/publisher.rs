//! What workers forward by: made and published here, and taken back.
//!
//! Rules are compiled when the configuration changes, and pools allocated, on the main thread; workers go on with what they have
//! until the new snapshot is there. Routes are kept apart, since there may be a million of them and most changes are of a few. A
//! snapshot that was replaced is kept until the last worker has let go of it, so that its memory, of rules as of routes, is freed
//! on this thread and never between two bursts.

use std::sync::Arc;

use dataplane::config::{Forwarding, ForwardingPart, Intent, PoolIntent, Route};
use dataplane::nat::{PoolBusy, Pools};
use dataplane::policy::{Policies, PolicyError};
use dataplane::vrf::{PortInfo, Routes, Snapshot};
use dataplane::worker::Shared;
use thiserror::Error;

use crate::clock::Clock;

/// Why an intent can't be published. Nothing has changed then.
#[derive(Debug, Error)]
pub enum Unpublishable {
    /// Its rules don't fit.
    #[error(transparent)]
    Rules(#[from] PolicyError),
    /// An address is needed by two pools.
    #[error("{0}; apply the configuration again in a few seconds")]
    Pools(#[from] PoolBusy),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Publisher {
    clock: Clock,
    ports: Vec<PortInfo>,
    /// Without its routes.
    forwarding: Forwarding,
    routes: Routes,
    /// All routes, as far as they have been told again.
    coming: Option<Routes>,
    policies: Policies,
    pools: Arc<Pools>,
    /// What they were made of, by VRF.
    configured: Vec<Vec<PoolIntent>>,
    replaced: Vec<Arc<Snapshot>>,
}

impl Publisher {
    /// Compiles the rules of the first intent. Nothing is published yet.
    pub(crate) fn new(
        intent: &Intent,
        mut forwarding: Forwarding,
        ports: Vec<PortInfo>,
        clock: Clock,
    ) -> Result<Self, Unpublishable> {
        let routes = core::mem::take(&mut forwarding.routes);
        let mut publisher = Self {
            clock,
            ports,
            forwarding,
            routes: Routes::of(&routes, intent.interfaces.len()),
            coming: None,
            policies: Policies::default(),
            pools: Arc::new(Pools::new(intent)),
            configured: pools_of(intent),
            replaced: Vec::new(),
        };
        let compiled = publisher.compile(intent)?;
        tracing::info!(compiled, "rules");
        Ok(publisher)
    }

    /// Compiles the rules of a changed intent and makes its pools; after an error those of before are still there. Returns
    /// what it took.
    pub(crate) fn compile(&mut self, intent: &Intent) -> Result<String, Unpublishable> {
        let start = self.clock.now();
        let policies = Policies::compile(intent, &self.policies)?;
        let configured = pools_of(intent);
        if configured != self.configured {
            self.free();
            self.pools = Arc::new(self.pools.changed(intent, self.replaced.is_empty())?);
            self.configured = configured;
        }
        self.policies = policies;
        let took = self.clock.now().since(start);
        let (rules, bytes) = self.policies.size();
        Ok(format!(
            "{rules} rules in {} KiB, compiled in {} us",
            bytes.div_ceil(1_024),
            took.as_micros()
        ))
    }

    /// What the kernel says now, or a part of it; true if there is something to publish.
    pub(crate) fn take(&mut self, part: ForwardingPart, intent: &Intent) -> bool {
        let ForwardingPart {
            begins,
            ends,
            mut forwarding,
        } = part;
        if begins {
            self.coming = Some(Routes::default());
        }
        let told = core::mem::take(&mut forwarding.routes);
        let routes = self.coming.as_mut().unwrap_or(&mut self.routes);
        for route in &told {
            routes.set(route, intent.interfaces.len());
        }
        if !ends {
            return false;
        }
        let start = self.clock.now();
        let all_told = self.coming.take();
        let changed = all_told.is_some() || !told.is_empty() || self.forwarding != forwarding;
        if let Some(all) = all_told {
            self.routes = all;
        }
        self.routes.settle();
        self.forwarding = forwarding;
        let took_us = self.clock.now().since(start).as_micros();
        tracing::debug!(
            routes = self.routes.len(),
            told = told.len(),
            took_us,
            "reachability"
        );
        changed
    }

    /// The file says something else of reachability than what is there; routes apart.
    pub(crate) const fn forwarding(&mut self) -> &mut Forwarding {
        &mut self.forwarding
    }

    /// Routes of the file take the place of what another one said; the kernel's stay, except for the same prefix.
    pub(crate) fn replace_routes(&mut self, old: &[Route], new: &[Route], intent: &Intent) {
        for route in old {
            if self.routes.get(route.vrf, &route.prefix) == Some(&route.via) {
                let gone = Route {
                    via: Vec::new(),
                    ..route.clone()
                };
                self.routes.set(&gone, intent.interfaces.len());
            }
        }
        for route in new {
            self.routes.set(route, intent.interfaces.len());
        }
        self.routes.settle();
    }

    /// What ports say of themselves now.
    pub(crate) fn set_ports(&mut self, ports: Vec<PortInfo>) {
        self.ports = ports;
    }

    /// A snapshot of an intent whose rules were compiled last.
    pub(crate) fn snapshot(&self, intent: &Intent) -> Snapshot {
        Snapshot::assemble(
            intent,
            &self.policies,
            &self.pools,
            (&self.forwarding, &self.routes),
            &self.ports,
        )
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

fn pools_of(intent: &Intent) -> Vec<Vec<PoolIntent>> {
    intent.vrfs.iter().map(|vrf| vrf.pools.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    use arc_swap::ArcSwap;
    use dataplane::applied::AppliedCounters;
    use dataplane::config::{Action, InterfaceId, NextHop};
    use dataplane::flow::VrfId;
    use dataplane::outlook::Outlook;
    use dataplane::owners::Owners;
    use dataplane::role::Roles;

    const VRF: VrfId = VrfId(0);

    fn route(prefix: &str, hops: u8) -> Route {
        let via = (0..hops).map(|last| NextHop {
            interface: InterfaceId(0),
            gateway: Some([10, 0, 0, last].into()),
        });
        Route {
            vrf: VRF,
            prefix: prefix.parse().unwrap(),
            via: via.collect(),
        }
    }

    fn part(begins: bool, ends: bool, routes: &[Route]) -> ForwardingPart {
        ForwardingPart {
            begins,
            ends,
            forwarding: Forwarding {
                routes: routes.to_vec(),
                ..Forwarding::default()
            },
        }
    }

    fn publisher(intent: &Intent) -> Publisher {
        Publisher::new(intent, Forwarding::default(), vec![], Clock::start()).unwrap()
    }

    /// Of these three prefixes, those that have a route.
    fn there(publisher: &Publisher) -> Vec<&'static str> {
        let prefixes = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16"].into_iter();
        prefixes
            .filter(|p| publisher.routes.get(VRF, &p.parse().unwrap()).is_some())
            .collect()
    }

    #[test]
    fn what_is_told_in_parts_counts_when_the_last_one_has_come_and_replaces_what_was_there() {
        let intent = intent();
        let mut publisher = publisher(&intent);
        assert!(publisher.take(part(true, true, &[route("10.0.0.0/8", 1)]), &intent));
        assert!(!publisher.take(part(true, false, &[route("10.1.0.0/16", 1)]), &intent));
        assert_eq!(there(&publisher), ["10.0.0.0/8"]);
        assert!(publisher.take(part(false, true, &[route("10.2.0.0/16", 1)]), &intent));
        assert_eq!(there(&publisher), ["10.1.0.0/16", "10.2.0.0/16"]);
        // Told by halves, then the teller was lost: the next one begins again.
        assert!(!publisher.take(part(true, false, &[route("10.0.0.0/8", 1)]), &intent));
        assert!(publisher.take(part(true, true, &[route("10.1.0.0/16", 1)]), &intent));
        assert_eq!(there(&publisher), ["10.1.0.0/16"]);
    }

    #[test]
    fn a_change_is_of_what_it_names_and_nothing_else() {
        let intent = intent();
        let mut publisher = publisher(&intent);
        publisher.take(
            part(true, true, &[route("10.0.0.0/8", 1), route("10.1.0.0/16", 1)]),
            &intent,
        );
        assert!(publisher.take(
            part(false, true, &[route("10.0.0.0/8", 0), route("10.2.0.0/16", 2)]),
            &intent
        ));
        assert_eq!(there(&publisher), ["10.1.0.0/16", "10.2.0.0/16"]);
        assert!(
            !publisher.take(part(false, true, &[]), &intent),
            "nothing is different"
        );
    }

    #[test]
    fn routes_of_the_file_change_and_those_of_the_kernel_stay() {
        let intent = intent();
        let mut publisher = publisher(&intent);
        publisher.take(
            part(true, true, &[route("10.0.0.0/8", 1), route("10.1.0.0/16", 1)]),
            &intent,
        );
        let (old, new) = ([route("10.0.0.0/8", 1)], [route("10.2.0.0/16", 1)]);
        publisher.replace_routes(&old, &new, &intent);
        assert_eq!(there(&publisher), ["10.1.0.0/16", "10.2.0.0/16"]);
        publisher.replace_routes(&new, &old, &intent);
        assert_eq!(there(&publisher), ["10.0.0.0/8", "10.1.0.0/16"]);
    }

    fn intent() -> Intent {
        let text = "[node]\nname = \"n\"\nid = 1\n[[port]]\nname = \"lan0\"\ndevice = \"net_null0\"\n\
                    [[interface]]\nname = \"lan\"\nport = \"lan0\"\n";
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
            applied: Arc::new(AppliedCounters::new(1, 1)),
            owners: Arc::new(Owners::new(1, 1, &[])),
            outlook: Arc::new(Outlook::new(1, 1)),
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
