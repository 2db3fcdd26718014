//! What the configuration means to each part of the data process: plan, EAL, ports, tables, lanes. Pure translation;
//! nothing is started here but the sockets, which must exist before the EAL does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::config::{Intent, PoolIntent};
use dataplane::fingerprint;
use dataplane::flow::VrfId;
use dataplane::io::PortId;
use dataplane::nat::NatLimits;
use dataplane::room::Sizes;
use dataplane::rss::Spread;
use dataplane::tables::Limits;
use dataplane::vrf::PortInfo;
use state_sync::config::{SyncConfig, SyncPeer, SyncVrf, Timing};

use super::assembly::StartError;
use crate::config::{CONNTRACKS_MOST, Config};
use crate::dpdk::{Device, EalOptions, Memory, PortConfig, PortSet, devices_at_start, room_for};
use crate::machine;
use crate::plan::{Plan, PlanInput, PlanPort};
use crate::secure::SecureNet;
use crate::secure::keys::Keyring;
use crate::socket::{SecondInterface, SyncNet, SyncSettings};

/// Descriptors of each queue.
const DESCRIPTORS: u16 = 512;

/// What the plan is made from: configuration and machine.
pub(super) fn plan_input(config: &Config) -> PlanInput {
    let threads = &config.dataplane;
    PlanInput {
        cores: machine::cores(),
        hugepages_free_mb: machine::hugepages_free_mb(),
        workers: usize::from(threads.workers),
        worker_cores: threads.worker_cores.clone(),
        event_threads: usize::from(threads.event_threads),
        event_cores: threads.event_cores.clone(),
        ports: config
            .ports
            .iter()
            .map(|port| PlanPort {
                name: port.name.clone(),
                device: port.device.clone(),
                rx_queues: port.rx_queues,
            })
            .collect(),
        mbufs: threads.mbufs,
        // A device that can't be parsed stops the start elsewhere.
        mbuf_room: room_for(&port_configs(config).unwrap_or_default()),
        descriptors: DESCRIPTORS,
        held_packets: threads.held_packets,
        memory_mb: threads.memory_mb,
        hugepages: threads.hugepages,
        conntracks_max: u64::from(threads.conntracks_max),
    }
}

/// How the EAL is started.
pub(super) fn eal_options(config: &Config, plan: &Plan, ports: &[PortConfig]) -> EalOptions {
    let mb = plan.memory.mb;
    EalOptions {
        program: "twinpath-dataplane".to_owned(),
        file_prefix: format!("twinpath-{}-{}", config.node.name, std::process::id()),
        memory: if plan.memory.huge {
            Memory::Huge { mb }
        } else {
            Memory::Plain { mb }
        },
        main_core: plan.main_core,
        worker_cores: plan.worker_cores(),
        devices: devices_at_start(ports),
        log_level: "error".to_owned(),
        extra_args: config.dataplane.eal_args.clone(),
    }
}

/// How each port is opened.
///
/// # Errors
/// Names the first device that is neither a PCI address nor a vdev string.
pub(super) fn port_configs(config: &Config) -> Result<Vec<PortConfig>, StartError> {
    (0..)
        .map(PortId)
        .zip(&config.ports)
        .map(|(id, port)| port_config(config, id, port))
        .collect()
}

/// A port carries the largest packet of its interfaces, and lives where their VRF's kernel interfaces do.
fn port_config(
    config: &Config,
    id: PortId,
    port: &crate::config::PortConfig,
) -> Result<PortConfig, StartError> {
    let interfaces = || config.intent.interfaces.iter().filter(|i| i.port == id);
    let netns = interfaces().find_map(|i| config.vrfs.get(i.vrf.index())?.kernel.netns());
    Ok(PortConfig {
        name: port.name.clone(),
        device: Device::parse(&port.device).ok_or_else(|| StartError::Device {
            port: port.name.clone(),
            device: port.device.clone(),
        })?,
        netns: netns.map(str::to_owned),
        tap: port.tap().map(str::to_owned),
        rx_queues: port.rx_queues,
        rss: port.rss,
        rss_key: config.dataplane.rss_key.clone().unwrap_or_default(),
        mtu: interfaces().map(|i| i.mtu).max().unwrap_or(1_500),
        descriptors: DESCRIPTORS,
    })
}

/// What opened ports, without their taps, say of themselves.
pub(super) fn port_infos(count: usize, ports: &PortSet) -> Vec<PortInfo> {
    (0..)
        .map(PortId)
        .take(count)
        .map(|id| PortInfo {
            mac: ports.mac(id).unwrap_or_default(),
            mtu: ports.mtu(id).unwrap_or(0),
        })
        .collect()
}

/// How opened ports spread packets over their queues, where that is known.
pub(super) fn spreads(config: &Config, ports: &PortSet) -> Arc<[Option<Spread>]> {
    let ids = (0..).map(PortId).take(config.ports.len());
    ids.map(|id| ports.rss(id)?.spread.as_ref().ok().cloned())
        .collect()
}

/// Conntracks of a node there is address space for: so many times those it may have, so that it may have more without a
/// restart. Address space costs nothing, but page tables once it is used.
const RESERVE: u32 = 16;

/// Conntracks that a node can be made to have room for without a restart, if it was started so.
pub(super) fn conntracks_reserved(config: &Config) -> u32 {
    config
        .dataplane
        .conntracks_max
        .saturating_mul(RESERVE)
        .min(CONNTRACKS_MOST)
}

/// Sizes of one worker's arenas for `conntracks` on the node. Slots are spread by hash, so each worker gets its share with room
/// for unevenness. The arenas of blocks are made for the pools at the start, and stay so.
pub(super) fn sizes(conntracks: u32, workers: u16, blocks: u32) -> Sizes {
    let workers = u32::from(workers.max(1));
    let share = conntracks.div_ceil(workers);
    let conntracks = if workers > 1 { share + share / 8 } else { share };
    Sizes {
        conntracks: conntracks as usize,
        nat: NatLimits {
            subscribers: blocks.min(conntracks).max(1),
            blocks: blocks + blocks / 4 + 64,
            mappings: conntracks + conntracks / 4,
            events: 4_096,
        },
    }
}

/// Sizes of one worker's tables.
pub(super) fn limits(config: &Config) -> Limits {
    let of = |conntracks| sizes(conntracks, config.dataplane.workers, blocks_max(config));
    let Sizes { conntracks, nat } = of(config.dataplane.conntracks_start);
    Limits {
        conntracks,
        nat,
        reserve: Some(of(conntracks_reserved(config))),
        held_packets: config.dataplane.held_packets as usize,
        limited_sources: config.dataplane.limited_sources as usize,
        redirect_packets_per_s: config.dataplane.redirect_packets_per_s,
    }
}

/// Port blocks that the tables are made for: twice those of the pools there are, so that pools can be added while the
/// process runs, and a few where there are none.
pub(super) fn blocks_max(config: &Config) -> u32 {
    let twice = block_count(&config.intent).saturating_mul(2);
    twice.max(config.dataplane.conntracks_max / 16)
}

/// Port blocks of all pools.
pub(super) fn block_count(intent: &Intent) -> u32 {
    let of_pool = |pool: &PoolIntent| {
        let ports = u32::from(pool.ports.last) - u32::from(pool.ports.first) + 1;
        let per_address = ports / u32::from(pool.block_size.max(1));
        u32::try_from(pool.addresses.len())
            .unwrap_or(u32::MAX)
            .saturating_mul(per_address)
    };
    intent
        .vrfs
        .iter()
        .flat_map(|v| &v.pools)
        .map(of_pool)
        .fold(0, u32::saturating_add)
}

/// Peers of several VRFs with the same addresses are one peer with one set of lanes.
pub(super) fn sync_config(config: &Config) -> SyncConfig {
    let mut peers: Vec<SyncPeer> = Vec::new();
    let vrfs = (0..)
        .map(VrfId)
        .zip(config.vrfs.iter().zip(&config.intent.vrfs))
        .map(|(id, (vrf, intent))| SyncVrf {
            name: vrf.name.clone(),
            slots: intent.slots,
            peers: vrf
                .peers
                .iter()
                .map(|peer| peer_index(&mut peers, peer))
                .collect(),
            sections: fingerprint::sections(&config.intent, id),
            capacity: u64::from(config.dataplane.conntracks_max),
        })
        .collect();
    SyncConfig {
        node_id: config.node.id,
        node_name: config.node.name.clone(),
        boot_id: machine::random_seed(),
        workers: config.dataplane.workers,
        events: config.dataplane.event_threads,
        peers,
        vrfs,
        timing: match &config.sync {
            Some(sync) => Timing::default().noticing_after(Duration::from_millis(sync.dead_after_ms.into())),
            None => Timing::default(),
        },
    }
}

fn peer_index(peers: &mut Vec<SyncPeer>, peer: &crate::config::PeerConfig) -> u8 {
    let same = |p: &SyncPeer| p.source == peer.source && p.address == peer.address;
    let index = peers.iter().position(same).unwrap_or_else(|| {
        peers.push(SyncPeer {
            name: peer.name.clone(),
            source: peer.source,
            address: peer.address,
            second: peer.second,
        });
        peers.len() - 1
    });
    u8::try_from(index).unwrap_or(u8::MAX)
}

/// One set of sockets per event thread; the first one listens.
pub(super) fn open_sockets(
    config: &Config,
    sync: &SyncConfig,
    keys: Option<&Arc<Keyring>>,
) -> Result<Vec<SecureNet<SyncNet>>, StartError> {
    let second = config.sync.as_ref().and_then(|s| s.second_interface.clone());
    let settings = SyncSettings {
        interface: config.sync.as_ref().map(|s| s.interface.clone()),
        second: second.map(|interface| SecondInterface {
            interface,
            sources: sync
                .peers
                .iter()
                .filter_map(|p| p.second)
                .map(|l| l.source)
                .collect(),
        }),
        port: config.sync.as_ref().map_or(0, |s| s.port),
        dscp: config.sync.as_ref().map_or(0, |s| s.dscp),
    };
    let addresses: Vec<IpAddr> = sync
        .peers
        .iter()
        .flat_map(SyncPeer::links)
        .map(|l| l.source)
        .collect();
    let mut nets = vec![SyncNet::listener(settings.clone(), &addresses)?];
    nets.resize_with(usize::from(sync.events), || SyncNet::connector(settings.clone()));
    let protect = |net| SecureNet::new(net, keys.cloned());
    Ok(nets.into_iter().map(protect).collect())
}
