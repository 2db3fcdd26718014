//! The control process, put together: one thread, one loop, everything it waits for in one poll.
//!
//! ```text
//! netlink ──► watch ──► Forwarding ──► data process ──► events: wanted neighbours ──► watch
//! operator ─► server ─► answers ─────► data process
//! roles ────► announcer ─► routes of pools in the kernel
//! keepalived ⇄ vrrp ────► roles ─────► data process ──► events: readiness ──────────► vrrp
//! operator, SIGHUP ──► apply ──► data process
//! signals ──► end
//! ```
//!
//! Ending it, however suddenly, changes nothing in the data process; started again, it reads back what runs.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ctl::paths;
use ctl::report::GroupState;
use dataplane::flow::VrfId;
use dataplane::time::Instant;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::announce::Announcer;
use super::answers::Answers;
use super::apply::{Configured, Parts};
use super::groups::Groups;
use super::link::DataLink;
use super::server::CtlServer;
use super::vrf::{KernelMap, Source};
use super::vrrp::Vrrp;
use super::watch::Watch;
use crate::clock::Clock;
use crate::config::{Config, InitialState, KernelBinding};
use crate::ipc::{Event, IpcError};
use crate::supervisor::Supervisor;

/// Longest wait: a safety net, nothing depends on it.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Why the control process can't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The operator's socket can't be served.
    #[error("the control socket: {0}")]
    Socket(#[from] IpcError),
    /// Signals can't be received.
    #[error("signals: {0}")]
    Signals(#[from] std::io::Error),
    /// Waiting failed.
    #[error("waiting: {0}")]
    Poll(#[from] Errno),
}

/// Everything the control process has.
#[derive(Debug)]
pub struct Daemon {
    configured: Configured,
    groups: Groups,
    vrrp: Vrrp,
    announcer: Announcer,
    watch: Watch,
    data: DataLink,
    server: CtlServer,
    signals: UnixStream,
    hangups: UnixStream,
    clock: Clock,
    started: Instant,
}

impl Daemon {
    /// Takes the node's control socket and prepares everything; nothing has been read or sent yet.
    ///
    /// # Errors
    /// When another control process serves this node, or the system refuses.
    pub fn new(config: Config) -> Result<Self, DaemonError> {
        let clock = Clock::start();
        let started = clock.now();
        let node = config.node.name.clone();
        let server = CtlServer::bind(&paths::control_socket(&node))?;
        let signals = told_of(&[SIGTERM, SIGINT])?;
        let hangups = told_of(&[SIGHUP])?;
        Ok(Self {
            groups: Groups::new(
                config
                    .ha_groups
                    .iter()
                    .filter(|g| g.vrrp.is_none())
                    .map(|g| (g.name.clone(), preferred(g.state))),
            ),
            vrrp: Vrrp::new(&config, &paths::node_dir(&node), started),
            announcer: Announcer::new(kernel_map(&config).namespaces(), started),
            watch: Watch::new(kernel_map(&config), started),
            data: DataLink::new(
                paths::data_socket(&node),
                paths::data_lifeline(&node),
                node,
                started,
            ),
            configured: Configured::new(config),
            server,
            signals,
            hangups,
            clock,
            started,
        })
    }

    /// Works until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When waiting fails, which leaves nothing to do.
    pub fn run(&mut self) -> Result<(), DaemonError> {
        let mut supervisor = Supervisor::ready(self.clock.now());
        loop {
            supervisor.turn(self.clock.now());
            self.turn();
            self.wait()?;
            if matches!(self.signals.read(&mut [0; 8]), Ok(1..)) {
                supervisor.stopping();
                self.announcer.end(&self.data);
                tracing::info!("ending as asked; the data process goes on");
                return Ok(());
            }
        }
    }

    fn turn(&mut self) {
        let now = self.clock.now();
        for event in self.data.events() {
            self.event(event, now);
        }
        if let Some(part) = self.watch.turn(now) {
            let (routes, neighbors) = (part.forwarding.routes.len(), part.forwarding.neighbors.len());
            tracing::debug!(
                routes,
                neighbors,
                part.begins,
                part.ends,
                "reachability has changed"
            );
            let began = self.clock.now();
            self.data.tell(part);
            let ended = self.clock.now();
            self.watch.took(ended.since(began), ended);
        }
        // A lost data process costs the role before anybody waits for a new one.
        self.vrrp.turn(now, &mut self.data);
        self.parts(now, Configured::turn);
        if let Some(greeted) = self.data.greet(now) {
            if greeted.restarted {
                self.parts(now, Configured::follow_restart);
            }
            let config = self.configured.text();
            self.data
                .introduce(greeted, config, self.watch.whole(), &mut self.groups);
        }
        if matches!(self.hangups.read(&mut [0; 8]), Ok(1..)) {
            self.parts(now, Configured::reload);
        }
        self.vrrp.turn(now, &mut self.data);
        self.announcer
            .turn(now, self.configured.running(), &mut self.data, &self.watch);
        let mut answers = Answers {
            configured: &mut self.configured,
            groups: &mut self.groups,
            vrrp: &mut self.vrrp,
            data: &mut self.data,
            watch: &mut self.watch,
            started: self.started,
            now,
        };
        self.server.turn(|command| answers.answer(command));
    }

    /// What runs, and those whom it concerns.
    fn parts(&mut self, now: Instant, go: impl FnOnce(&mut Configured, &mut Parts<'_>)) {
        let mut parts = Parts {
            data: &mut self.data,
            watch: &mut self.watch,
            now,
        };
        go(&mut self.configured, &mut parts);
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::ReloadWanted => self.parts(now, Configured::reload),
            Event::NeighborWanted { interface, address } => self.watch.want(interface, address, now),
            Event::RoleChanged(row) => {
                tracing::info!(
                    vrf = row.vrf,
                    role = row.role.name(),
                    term = row.term,
                    cause = row.cause,
                    "a VRF has changed its role"
                );
                self.announcer.note(&row);
                self.vrrp.note(row);
            }
            Event::ReadinessChanged(row) => self.vrrp.note(row),
            Event::Switchover(report) => {
                let (phase, end) = (report.phase.name(), &report.end);
                tracing::info!(group = report.group, peer = report.peer, phase, end, "switchover");
                self.vrrp.switchover(&report, now);
            }
            Event::Handed { group } => {
                tracing::info!(group, "a peer has handed the role to this node");
                self.groups.ordered(&group, GroupState::Master);
            }
            Event::FingerprintDiffers { peer, vrf, section } => {
                tracing::error!(
                    peer,
                    vrf,
                    section,
                    "this part of the configuration differs from the peer's"
                );
            }
            Event::RuleHit {
                vrf,
                rule,
                action,
                protocol,
                tuple,
            } => {
                tracing::info!(
                    vrf,
                    rule,
                    ?action,
                    protocol,
                    src = %tuple.src,
                    sport = tuple.src_port,
                    dst = %tuple.dst,
                    dport = tuple.dst_port,
                    "firewall"
                );
            }
        }
    }

    /// Waits until something can be done.
    fn wait(&self) -> Result<(), DaemonError> {
        let mut next = self.watch.next_turn();
        if let Some(connect) = self.data.next_turn() {
            next = next.min(connect);
        }
        if let Some(vrrp) = self.vrrp.next_turn() {
            next = next.min(vrrp);
        }
        if let Some(announce) = self.announcer.next_turn() {
            next = next.min(announce);
        }
        if let Some(trial) = self.configured.next_turn() {
            next = next.min(trial);
        }
        let wait = next.since(self.clock.now()).min(WAIT_MAX);
        // Rounded up: waking just before the moment would spin through its last millisecond.
        let wait_ms = u16::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u16::MAX);
        let told = [&self.signals, &self.hangups];
        let mut descriptors = told.map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).to_vec();
        descriptors.extend(self.watch.readable().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        descriptors.extend(self.vrrp.readable().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        descriptors.extend(self.data.readable().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        descriptors.extend(self.server.descriptors().map(|(fd, writing)| {
            let writable = if writing {
                PollFlags::POLLOUT
            } else {
                PollFlags::empty()
            };
            PollFd::new(fd, PollFlags::POLLIN | writable)
        }));
        match poll(&mut descriptors, PollTimeout::from(wait_ms)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Readable when one of these signals has come.
fn told_of(signals: &[i32]) -> std::io::Result<UnixStream> {
    let (told, teller) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    for &signal in signals {
        signal_hook::low_level::pipe::register(signal, teller.try_clone()?)?;
    }
    Ok(told)
}

const fn preferred(state: InitialState) -> GroupState {
    match state {
        InitialState::Master => GroupState::Master,
        InitialState::Backup => GroupState::Backup,
    }
}

/// Where the kernel keeps what this configuration needs.
#[must_use]
pub fn kernel_map(config: &Config) -> KernelMap {
    let source = |kernel: &KernelBinding| match kernel {
        KernelBinding::Main => Source::Main,
        KernelBinding::Device(name) => Source::Device(name.clone()),
        KernelBinding::Netns(name) => Source::Netns(name.clone()),
    };
    let vrf_of = |n: usize| config.intent.interfaces.get(n).map_or(VrfId(0), |i| i.vrf);
    KernelMap {
        vrfs: config.vrfs.iter().map(|vrf| source(&vrf.kernel)).collect(),
        interfaces: config
            .interfaces
            .iter()
            .enumerate()
            .map(|(n, interface)| (vrf_of(n), interface.kernel_interface.clone()))
            .collect(),
        fixed: config.forwarding.clone(),
    }
}
