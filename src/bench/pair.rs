//! Two nodes over loopback TCP: each a worker, an event thread and a role machine, put together as the data process
//! does, with one lane. The first is the active one and forwards on the rig; the second stands by on the other core.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use dataplane::fingerprint;
use dataplane::time::Instant;
use state_sync::board::Board;
use state_sync::config::{SyncConfig, SyncPeer, SyncVrf, Timing};
use state_sync::port::{PumpCommand, PumpEvent, PumpPorts};
use state_sync::pump::Pump;
use state_sync::role::{Desire, PeerView, RoleMachine};
use twinpath::socket::{SyncNet, SyncSettings};

use super::scene::{MAIN, Node, SLOTS, Scene};

pub(crate) const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 71, 1), Ipv4Addr::new(127, 0, 71, 2)];
/// How long a node that boots alone waits before it becomes active.
const BOOT_WAIT: Duration = Duration::from_millis(50);

/// A node with its event thread's work and its role.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) node: Node,
    pub(crate) sync: Sync,
}

/// All of a side but its worker.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) pump: Pump<SyncNet>,
    config: Arc<SyncConfig>,
    shared: Arc<dataplane::worker::Shared>,
    board: Arc<Board>,
    machine: RoleMachine,
    pub(crate) id: u8,
    events: Receiver<PumpEvent>,
    _commands: Sender<PumpCommand>,
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    let probe = TcpListener::bind((ADDRESSES[1], 0)).context("no free port on the loopback")?;
    Ok(probe.local_addr()?.port())
}

impl Side {
    /// Node `id` (1 or 2) of a pair that has just booted.
    pub(crate) fn boot(
        id: u8,
        scene: Scene,
        (queue, port): (u16, u16),
        boot_id: u64,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let (node, ends) = Node::new(scene, queue, boot_id.rotate_left(17))?;
        let config = Arc::new(config(id, scene, boot_id));
        let board = Arc::new(Board::new(1, 1, 1));
        let (events_in, events) = bounded(1_024);
        let (command, commands) = bounded(4);
        let (hand_over, arrivals) = bounded(16);
        let settings = SyncSettings {
            interface: None,
            second: None,
            port,
            dscp: 48,
        };
        let own = IpAddr::V4(ADDRESSES[usize::from(id) - 1]);
        let net = SyncNet::listener(settings, &[own])?;
        let ports = PumpPorts {
            from_workers: ends.from_workers,
            to_workers: ends.to_workers,
            redirects_from_workers: ends.redirects_from_workers,
            redirects_to_workers: ends.redirects_to_workers,
            applied: Arc::clone(&node.shared.applied),
            owners: Arc::clone(&node.shared.owners),
            roles: Arc::clone(&node.shared.roles),
            board: Arc::clone(&board),
            events: events_in,
            commands,
            arrivals,
            hand_over: vec![hand_over],
        };
        let desire = if id == 1 {
            Desire::Preferred
        } else {
            Desire::Backup
        };
        Ok(Self {
            sync: Sync {
                pump: Pump::new(Arc::clone(&config), 0, net, ports, boot_id ^ 0x55),
                config,
                shared: Arc::clone(&node.shared),
                board,
                machine: RoleMachine::new((id, boot_id), true, desire, 1, BOOT_WAIT, now),
                id,
                events,
                _commands: command,
            },
            node,
        })
    }
}

impl Sync {
    /// Lets the role machine decide, as the agent does.
    pub(crate) fn step_role(&mut self, now: Instant) {
        while self.events.try_recv().is_ok() {}
        let view = self.view();
        let decision = self.machine.step(now, &[view]);
        let share = self
            .config
            .share(&self.config.vrfs[MAIN.index()], decision.in_doubt);
        self.shared.roles.set_share(MAIN, share);
        self.shared
            .roles
            .set_owned(MAIN, self.machine.sees_owner(&[view]));
        if self.shared.roles.get(MAIN) != (decision.role, decision.term) {
            self.shared.roles.set(MAIN, decision.role, decision.term);
        }
        self.shared.roles.set_drain(MAIN, decision.drain);
        self.board.set_handover(MAIN, decision.handover);
        self.board.set_ready(MAIN, decision.ready);
    }

    /// Fails when reading had to pause (sync/PROTOCOL.md R-44): an honest peer never gets there.
    pub(crate) fn was_never_paused(&self) -> anyhow::Result<()> {
        let causes = self.pump.report().causes;
        let paused = causes.iter().find(|(name, _)| name == "reading-paused");
        ensure!(paused.is_none(), "reading has paused: {causes:?}");
        Ok(())
    }

    /// What is known of the other node.
    pub(crate) fn view(&self) -> PeerView {
        self.board.view(0, MAIN, SLOTS)
    }
}

fn config(id: u8, scene: Scene, boot_id: u64) -> SyncConfig {
    let intent = scene.intent();
    let (own, other) = (usize::from(id) - 1, 2 - usize::from(id));
    SyncConfig {
        node_id: id,
        node_name: format!("node{id}"),
        boot_id,
        workers: 1,
        events: 1,
        peers: vec![SyncPeer {
            name: "peer1".to_owned(),
            source: IpAddr::V4(ADDRESSES[own]),
            address: IpAddr::V4(ADDRESSES[other]),
            second: None,
        }],
        vrfs: vec![SyncVrf {
            name: "main".to_owned(),
            slots: SLOTS,
            peers: vec![0],
            sections: fingerprint::sections(&intent, MAIN),
            capacity: scene.limits().conntracks as u64,
        }],
        timing: Timing {
            // A new standby is to be found quickly; the pause is in no figure.
            reconnect_max: Duration::from_millis(50),
            ..Timing::default()
        },
    }
}
