//! What doesn't change while the process lives, in the words of reports, and what the event threads have said about
//! the peers' configurations. Made once from configuration and plan; the agent keeps it.

use std::sync::Arc;

use ctl::protocol::{Refusal, RefusalKind};
use ctl::report::{MemoryRow, Owner, PlanReport, PlanThread};
use ctl::sync_report::LaneSecurity;
use dataplane::config::{Intent, VrfIntent};
use dataplane::delta::Term;
use dataplane::flow::VrfId;
use dataplane::io::{PortId, RxQueue};
use dataplane::nat::PoolRef;
use dataplane::time::Instant;
use state_sync::config::{SyncConfig, SyncPeer};

use crate::config::{Config, Security};
use crate::plan::Plan;

/// What doesn't change while the process lives, and what event threads have said about the peers.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) node: String,
    pub(crate) boot_id: u64,
    pub(crate) started: Instant,
    pub(crate) names: Names,
    pub(crate) ports: Vec<PortFacts>,
    pub(crate) plan: PlanReport,
    /// Core and receive queues per worker.
    pub(crate) worker_facts: Vec<(u16, Vec<String>)>,
    pub(crate) event_cores: Vec<u16>,
    pub(crate) peers: Vec<SyncPeer>,
    /// Per VRF: its peers by index, and the name each has in the VRF.
    pub(crate) vrf_peers: Vec<Vec<(u8, String)>>,
    pub(crate) slots: Vec<u16>,
    /// Per VRF: names of the sections that both nodes compare.
    pub(crate) sections: Vec<Vec<String>>,
    /// Of every lane: a lane without it is never made.
    pub(crate) security: LaneSecurity,
    pub(crate) mbufs: u32,
    /// Sections that differ, by peer and VRF.
    pub(crate) differences: Vec<(u8, VrfId, Vec<String>)>,
}

/// A port as configured.
#[derive(Debug)]
pub(crate) struct PortFacts {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) driver: String,
    pub(crate) rx_queues: u16,
    pub(crate) tx_queues: u16,
}

impl Facts {
    /// Facts of a process that starts at `started`.
    pub(crate) fn new(config: &Config, plan: &Plan, sync: &SyncConfig, started: Instant) -> Self {
        let workers: Vec<(u16, Vec<String>)> = plan
            .workers
            .iter()
            .map(|w| (number(w.core), queue_names(config, &w.rx_queues)))
            .collect();
        let event_cores: Vec<u16> = plan.event_cores.iter().map(|&core| number(core)).collect();
        Self {
            node: config.node.name.clone(),
            boot_id: sync.boot_id,
            started,
            names: Names::new(config),
            ports: port_facts(config),
            plan: plan_report(plan, &workers, &event_cores),
            worker_facts: workers,
            event_cores,
            peers: sync.peers.clone(),
            vrf_peers: vrf_peers(config, sync),
            slots: sync.vrfs.iter().map(|v| v.slots).collect(),
            sections: sync
                .vrfs
                .iter()
                .map(|v| v.sections.iter().map(|s| s.name.clone()).collect())
                .collect(),
            security: match config.sync.as_ref().map(|s| s.security) {
                Some(Security::Tls) => LaneSecurity::Tls,
                Some(Security::None) | None => LaneSecurity::None,
            },
            mbufs: plan.mbufs,
            differences: Vec::new(),
        }
    }

    /// A peer's name for the log.
    pub(crate) fn peer(&self, peer: u8) -> &str {
        self.peers.get(usize::from(peer)).map_or("?", |p| p.name.as_str())
    }

    /// Whether something is known to differ from a peer.
    pub(crate) fn differs(&self, peer: u8, vrf: VrfId) -> bool {
        self.differences.iter().any(|(p, v, _)| (*p, *v) == (peer, vrf))
    }

    /// Replaces what is known to differ from a peer.
    pub(crate) fn set_differences(&mut self, peer: u8, vrf: VrfId, sections: Vec<String>) {
        self.differences.retain(|(p, v, _)| (*p, *v) != (peer, vrf));
        if !sections.is_empty() {
            self.differences.push((peer, vrf, sections));
        }
    }

    /// The VRF of that name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn vrf(&self, name: &str) -> Result<VrfId, Refusal> {
        (0..)
            .map(VrfId)
            .zip(self.names.vrfs.iter())
            .find(|(_, n)| *n == name)
            .map(|(id, _)| id)
            .ok_or_else(|| {
                not_found(format!(
                    "no VRF {name}; there are: {}",
                    self.names.vrfs.join(", ")
                ))
            })
    }
}

/// A refusal that names what doesn't exist.
pub(crate) fn not_found(message: String) -> Refusal {
    Refusal::new(RefusalKind::NotFound, message)
}

/// Local names, to put into rows.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    node: u8,
    pub(crate) vrfs: Arc<[String]>,
    pub(crate) pools: Arc<[Vec<String>]>,
}

impl Names {
    fn new(config: &Config) -> Self {
        Self {
            node: config.node.id,
            vrfs: config.vrfs.iter().map(|v| v.name.clone()).collect(),
            pools: pool_names(&config.intent),
        }
    }

    /// The pools are those of another configuration.
    pub(crate) fn set_pools(&mut self, intent: &Intent) {
        self.pools = pool_names(intent);
    }

    /// Owner of a port block.
    pub(crate) const fn grantor(&self, grant: u64) -> Owner {
        if dataplane::nat::granting_node(grant) == self.node {
            Owner::Local
        } else {
            Owner::Peer
        }
    }

    /// A VRF's name.
    pub(crate) fn vrf(&self, vrf: VrfId) -> String {
        self.vrfs.get(vrf.index()).cloned().unwrap_or_default()
    }

    /// A pool's name; that of none for one that is configured no more.
    pub(crate) fn pool(&self, pool: PoolRef) -> String {
        let names = self.pools.get(pool.vrf.index());
        names
            .and_then(|n| n.get(usize::from(pool.pool)))
            .map_or_else(|| "(taken away)".to_owned(), Clone::clone)
    }

    /// Owner of what was written under `term`, or by nobody yet.
    pub(crate) const fn owner(&self, term: Term) -> Owner {
        if term.0 == 0 || term.node() == self.node {
            Owner::Local
        } else {
            Owner::Peer
        }
    }
}

fn pool_names(intent: &Intent) -> Arc<[Vec<String>]> {
    let of_vrf = |vrf: &VrfIntent| vrf.pools.iter().map(|pool| pool.name.clone()).collect();
    intent.vrfs.iter().map(of_vrf).collect()
}

fn number(core: usize) -> u16 {
    u16::try_from(core).unwrap_or(u16::MAX)
}

fn queue_names(config: &Config, queues: &[RxQueue]) -> Vec<String> {
    let name = |port: PortId| config.ports.get(port.index()).map_or("?", |p| p.name.as_str());
    queues
        .iter()
        .map(|q| format!("{}/{}", name(q.port), q.queue))
        .collect()
}

fn port_facts(config: &Config) -> Vec<PortFacts> {
    let facts = |port: &crate::config::PortConfig| PortFacts {
        name: port.name.clone(),
        device: port.device.clone(),
        driver: driver(&port.device),
        rx_queues: port.rx_queues,
        tx_queues: config.dataplane.workers,
    };
    config.ports.iter().map(facts).collect()
}

fn plan_report(plan: &Plan, workers: &[(u16, Vec<String>)], event_cores: &[u16]) -> PlanReport {
    let thread = |name: String, core: u16, polls: Vec<String>| PlanThread { name, core, polls };
    let rings: Vec<String> = (0..workers.len()).map(|w| format!("ring worker{w}")).collect();
    let megabytes = |name: &str, mb: u32| MemoryRow {
        name: name.to_owned(),
        unit: "bytes".to_owned(),
        used: u64::from(mb) << 20,
        total: u64::from(mb) << 20,
    };
    PlanReport {
        workers: workers
            .iter()
            .enumerate()
            .map(|(n, (core, queues))| thread(format!("worker{n}"), *core, queues.clone()))
            .collect(),
        events: event_cores
            .iter()
            .enumerate()
            .map(|(n, &core)| thread(format!("event{n}"), core, rings.clone()))
            .collect(),
        memory: vec![
            megabytes("packets", plan.memory.needed_mb),
            megabytes("conntracks", plan.memory.conntracks_mb),
        ],
    }
}

/// Per VRF: its peers by index, and the name each has in the VRF.
fn vrf_peers(config: &Config, sync: &SyncConfig) -> Vec<Vec<(u8, String)>> {
    let named = config.vrfs.iter().zip(&sync.vrfs).map(|(vrf, replicated)| {
        let names = vrf.peers.iter().map(|p| p.name.clone());
        replicated.peers.iter().copied().zip(names).collect()
    });
    named.collect()
}

/// The driver's name as in a vdev string; PCI devices are bound to theirs by the host.
fn driver(device: &str) -> String {
    let name = device.split(',').next().unwrap_or_default();
    if name.contains(':') {
        "pci".to_owned()
    } else {
        name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
    }
}
