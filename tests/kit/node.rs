//! A whole appliance of production parts, stepped by hand: W workers, E event threads and the role machines, wired as
//! the data process wires them, over ports in memory and a link in memory. Its clock is the caller's plus an offset
//! of its own, since no clock time of one node may mean anything to another.
//!
//! Born empty with a boot number; lives until it is dropped, which is its death: nothing is said to anybody.

use core::time::Duration;
use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use dataplane::applied::AppliedCounters;
use dataplane::config::{Forwarding, Intent};
use dataplane::counters::Counters;
use dataplane::delta::{SlotRef, Term};
use dataplane::exception::Tap;
use dataplane::fingerprint;
use dataplane::flow::VrfId;
use dataplane::inbox::Ask;
use dataplane::io::{PortId, RxQueue};
use dataplane::nat::Pools;
use dataplane::notice::Notice;
use dataplane::outlook::Outlook;
use dataplane::policy::Policies;
use dataplane::role::{Role, Roles};
use dataplane::room::{Room, Step};
use dataplane::tables::Tables;
use dataplane::time::Instant;
use dataplane::transit::{self, Moved, Mover, Unmoved};
use dataplane::vrf::Snapshot;
use dataplane::wiring::{Counts, Wiring};
use dataplane::worker::{ABSORB_BUDGET, Shared, Worker};
use state_sync::board::Board;
use state_sync::compare::Ways;
use state_sync::config::SyncConfig;
use state_sync::handover::{DrainEnd, Handover};
use state_sync::port::{Arrival, PumpCommand, PumpEvent, PumpPorts};
use state_sync::pump::Pump;
use state_sync::report::PumpReport;
use state_sync::role::{
    Cause, Decision, DeclareError, Desire, RoleMachine, SwitchoverEnd, SwitchoverError, SwitchoverPhase,
};

use crate::config::{LAN, Setup, WAN};
use crate::network::{MemNet, MemWire};
use crate::nic::{MemIo, MemPacket, Pool};

/// One appliance.
#[derive(Debug)]
pub struct Node {
    /// 1 or 2.
    pub id: u8,
    /// Its configuration.
    pub setup: Setup,
    /// Its packet buffers.
    pub packets: Arc<Pool>,
    /// What its workers share.
    pub shared: Arc<Shared>,
    /// What its event threads know.
    pub board: Arc<Board>,
    /// Messages of its workers.
    pub notices: Receiver<Notice>,
    /// What its event threads had to say.
    pub pump_events: Receiver<PumpEvent>,
    intent: Intent,
    policies: Policies,
    forwarding: Forwarding,
    sync: Arc<SyncConfig>,
    workers: Vec<Worker<MemIo>>,
    ios: Vec<MemIo>,
    pumps: Vec<Pump<MemNet>>,
    machines: Vec<Machine>,
    asks: Vec<Sender<Ask>>,
    commands: Vec<Sender<PumpCommand>>,
    offset: Duration,
    /// Workers and event threads that don't run, by thread number.
    pub stopped: Vec<bool>,
    /// Conntracks that each worker is to have room for: by need, up to the most there may be, when none.
    pub room: Option<usize>,
    /// The agent has no time for room.
    pub no_room: bool,
    mover: Mover,
    /// What has come of the moves of slots.
    pub moves: Vec<Result<Moved, Unmoved>>,
}

#[derive(Debug)]
struct Machine {
    machine: RoleMachine,
    last: Option<Decision>,
}

impl Node {
    /// A node that has just booted. `desire` is its configured preference.
    #[must_use]
    pub fn boot(id: u8, setup: &Setup, desire: Desire, net: &MemNet, boot_id: u64, now: Instant) -> Self {
        let intent = setup.intent();
        let forwarding = setup.forwarding();
        let policies = compile(&intent, &Policies::default());
        let sync = Arc::new(setup.sync(id, boot_id));
        let (workers, events) = (usize::from(setup.workers), usize::from(setup.events));
        let roles = Arc::new(Roles::new(intent.vrfs.len()));
        let board = Arc::new(Board::new(events, sync.peers.len(), sync.vrfs.len()));
        let shared = Arc::new(Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::build(
                &intent,
                &policies,
                &Arc::new(Pools::new(&intent)),
                &forwarding,
                &setup.ports(id),
            )),
            roles: Arc::clone(&roles),
            applied: Arc::new(AppliedCounters::new(workers, events)),
            outlook: Arc::new(Outlook::new(workers, intent.vrfs.len())),
            owners: Arc::new(sync.owners()),
        });
        let wiring = Wiring::<MemPacket>::new(Counts {
            workers,
            events,
            ring_entries: setup.ring_entries,
            redirect_bytes: setup.redirect_bytes,
        });
        let packets = Pool::new(setup.packets);
        let offset = Duration::from_secs(u64::from(id) * 100_000);
        let slots: Vec<u16> = sync.vrfs.iter().map(|v| v.slots).collect();
        let mut threads = Vec::new();
        let mut ios = Vec::new();
        for (number, links) in (0_u16..).zip(wiring.workers) {
            let place = (number, setup.workers);
            let queues: Vec<RxQueue> = [LAN, WAN]
                .iter()
                .map(|&port| RxQueue { port, queue: number })
                .collect();
            let seed = boot_id.rotate_left(u32::from(number) + 7);
            let pools = Arc::clone(shared.snapshot.load().pools());
            let mut tables = Tables::new(place, events, &slots, setup.limits(), pools, seed);
            tables.set_most(setup.conntracks_most.unwrap_or(setup.conntracks));
            let taps = setup.taps(number);
            let of_tap = |tap: &Tap| {
                let port = tap.tap;
                (0..tap.queues).map(move |queue| RxQueue { port, queue })
            };
            let polled: Vec<RxQueue> = queues
                .iter()
                .copied()
                .chain(taps.iter().flat_map(of_tap))
                .collect();
            ios.push(MemIo::new(Arc::clone(&packets), &polled, 2 + taps.len()));
            let worker = Worker::new(place, queues, 2, Arc::clone(&shared), tables, links);
            let worker = worker.with_taps(&taps, 2 + taps.len());
            threads.push(worker.with_spreads(&[None, setup.spread()]));
        }
        let (events_in, pump_events) = bounded(4_096);
        let (hand_over, arrivals): (Vec<_>, Vec<_>) =
            (0..events).map(|_| bounded::<Arrival<MemWire>>(64)).unzip();
        let mut commands = Vec::new();
        let mut pumps = Vec::new();
        for (number, (ends, arrivals)) in (0_u16..).zip(wiring.events.into_iter().zip(arrivals)) {
            let (command, commanded) = bounded(64);
            commands.push(command);
            let ports = PumpPorts {
                from_workers: ends.from_workers,
                to_workers: ends.to_workers,
                redirects_from_workers: ends.redirects_from_workers,
                redirects_to_workers: ends.redirects_to_workers,
                applied: Arc::clone(&shared.applied),
                owners: Arc::clone(&shared.owners),
                roles: Arc::clone(&roles),
                board: Arc::clone(&board),
                events: events_in.clone(),
                commands: commanded,
                arrivals,
                hand_over: hand_over.clone(),
            };
            let seed = boot_id.wrapping_mul(31).wrapping_add(u64::from(number));
            pumps.push(Pump::new(Arc::clone(&sync), number, net.share(), ports, seed));
        }
        let machines = sync.vrfs.iter().map(|vrf| {
            let machine = RoleMachine::new(
                (id, boot_id),
                setup.grouped,
                desire,
                vrf.peers.len(),
                setup.boot_wait,
                now + offset,
            )
            .foreseeing();
            Machine {
                machine: if setup.elected { machine.elected() } else { machine },
                last: None,
            }
        });
        if !setup.grouped {
            for vrf in 0..setup.vrfs() {
                roles.set(VrfId(vrf), Role::Alone, Term::NONE.next_of(id, boot_id));
            }
        }
        Self {
            id,
            setup: setup.clone(),
            packets,
            machines: machines.collect(),
            stopped: vec![false; workers + events],
            room: None,
            no_room: false,
            mover: Mover::default(),
            moves: Vec::new(),
            shared,
            board,
            notices: wiring.main.notices,
            pump_events,
            intent,
            policies,
            forwarding,
            sync,
            workers: threads,
            ios,
            pumps,
            asks: wiring.main.asks,
            commands,
            offset,
        }
    }

    /// One turn of everything: roles, workers, event threads. Returns how much there was to do.
    pub fn turn(&mut self, now: Instant) -> usize {
        let mut work = self.step_roles(now);
        for thread in 0..self.threads() {
            work += self.step_thread(thread, now);
        }
        work
    }

    /// Workers and event threads: workers come first.
    #[must_use]
    pub const fn threads(&self) -> usize {
        self.workers.len() + self.pumps.len()
    }

    /// One turn of one thread.
    pub fn step_thread(&mut self, thread: usize, now: Instant) -> usize {
        if self.stopped[thread] {
            return 0;
        }
        let now = now + self.offset;
        match thread.checked_sub(self.workers.len()) {
            None => self.workers[thread].turn(now, &mut self.ios[thread]),
            Some(event) => self.pumps[event].turn(now),
        }
    }

    /// A step towards the room that each worker is to have, as the agent makes it.
    fn step_room(&mut self) {
        let Some(most) = self.setup.conntracks_most else {
            return;
        };
        for tables in self.workers.iter_mut().map(Worker::tables_mut) {
            tables.set_most(self.room.unwrap_or(most).min(most));
            drop(tables.take_spent());
            let standing = tables.standing();
            let (has, rises) = (
                standing.sizes.conntracks,
                standing.indexed > standing.sizes.conntracks,
            );
            let by_need = match standing.asked {
                true if rises => standing.indexed,
                true => 2 * has,
                false => has,
            }
            .min(most);
            let wanted = self.setup.sizes(self.room.unwrap_or(by_need).min(most));
            match standing.next(&wanted) {
                Step::Lower(sizes) => tables.set_limits(&sizes),
                Step::Give(sizes) => assert!(tables.adopt(Room::new(sizes)).is_ok(), "it was asked before"),
                Step::Raise(sizes) => assert!(tables.raise(&sizes), "it has a room"),
                Step::Wait => {}
                Step::Done => drop(tables.vacate()),
            }
        }
    }

    /// Lets the role machines decide, as the agent does; returns how many roles changed.
    pub fn step_roles(&mut self, now: Instant) -> usize {
        let moving = self.step_moves(now);
        moving + self.decide(now)
    }

    /// Has a slot go to a worker, as the agent does: what comes of it is in [`Self::moves`].
    ///
    /// # Errors
    /// What is known beforehand.
    pub fn move_slot(&mut self, at: SlotRef, to: u16, now: Instant) -> Result<(), Unmoved> {
        let ways = transit::Ways {
            workers: &self.asks,
            events: self.pumps.len(),
            owners: &self.shared.owners,
        };
        self.mover.begin(at, to, ways, now)
    }

    /// Whether no slot is on its way.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        self.mover.is_idle()
    }

    fn step_moves(&mut self, now: Instant) -> usize {
        if self.mover.is_idle() {
            return 0;
        }
        let ways = transit::Ways {
            workers: &self.asks,
            events: self.pumps.len(),
            owners: &self.shared.owners,
        };
        self.moves.extend(self.mover.turn(ways, now));
        1
    }

    fn decide(&mut self, now: Instant) -> usize {
        if !self.no_room {
            self.step_room();
        }
        if !self.setup.grouped {
            return 0;
        }
        let now = now + self.offset;
        let mut changed = 0;
        for (vrf, machine) in (0..).map(VrfId).zip(&mut self.machines) {
            let views = [self.board.view(0, vrf, self.setup.slots)];
            let look = machine.machine.look();
            machine.machine.foresee(self.shared.outlook.missing(vrf, look));
            let decision = machine.machine.step(now, &views);
            let owned = machine.machine.sees_owner(&views);
            self.shared.roles.set_owned(vrf, owned);
            let config = &self.sync.vrfs[vrf.index()];
            self.shared
                .roles
                .set_share(vrf, self.sync.share(config, decision.in_doubt));
            self.shared
                .roles
                .set_redirects_until(vrf, decision.redirects_until);
            if machine.last.map(|l| (l.role, l.term)) != Some((decision.role, decision.term)) {
                let was_active = machine.last.is_some_and(|l| l.role.is_active());
                self.shared.roles.set(vrf, decision.role, decision.term);
                changed += 1;
                if decision.role.is_active() && !was_active {
                    // A full inbox would be retried by the agent; here nothing else asks.
                    let _ = self.asks[0].try_send(Ask::Announce(vrf));
                }
            }
            self.shared.roles.set_drain(vrf, decision.drain);
            self.shared.outlook.ask(vrf, machine.machine.look());
            self.board.set_handover(vrf, decision.handover);
            self.board.set_ready(vrf, decision.ready);
            machine.last = Some(decision);
        }
        let confirmed = |m: &Machine| m.machine.switchover() == Some(SwitchoverPhase::Confirmed);
        if self.machines.iter().all(confirmed) {
            self.machines.iter_mut().for_each(|m| m.machine.hand_over(now));
        }
        changed
    }

    /// Hands all VRFs to the peer, as `switchover` does.
    ///
    /// # Errors
    /// What is in the way; nothing has begun then.
    pub fn switch_over(&mut self, now: Instant) -> Result<(), SwitchoverError> {
        let now = now + self.offset;
        let views: Vec<_> = (0..self.setup.vrfs())
            .map(|vrf| [self.board.view(0, VrfId(vrf), self.setup.slots)])
            .collect();
        for (machine, views) in self.machines.iter().zip(&views) {
            machine.machine.check_switchover(0, views)?;
        }
        for (machine, views) in self.machines.iter_mut().zip(&views) {
            machine.machine.switch_over(now, 0, views)?;
        }
        Ok(())
    }

    /// How far the switchover of a VRF is.
    #[must_use]
    pub fn switchover(&self, vrf: VrfId) -> Option<SwitchoverPhase> {
        self.machines.get(vrf.index())?.machine.switchover()
    }

    /// How the last switchover of a VRF ended, once.
    pub fn take_switchover_end(&mut self, vrf: VrfId) -> Option<SwitchoverEnd> {
        let machine = self.machines.get_mut(vrf.index())?;
        machine.machine.take_switchover_end().map(|(end, _)| end)
    }

    /// Whether every role machine calls the node ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.machines.iter().all(|m| m.last.is_some_and(|l| l.ready))
    }

    /// Whether a role is about to change hands, or to be given up: this node tells what it kept back, or asks for that.
    #[must_use]
    pub fn hands_over(&self) -> bool {
        let leaves = |last: Decision| last.drain != 0 || last.handover != Handover::None;
        self.machines.iter().any(|m| m.last.is_some_and(leaves))
    }

    /// An order for all VRFs.
    pub fn order(&mut self, desire: Desire) {
        for machine in &mut self.machines {
            machine.machine.order(desire);
        }
    }

    /// As `peer declare-dead` does, in all VRFs.
    ///
    /// # Errors
    /// When the peer is connected.
    pub fn declare_dead(&mut self) -> Result<(), DeclareError> {
        self.machines
            .iter_mut()
            .try_for_each(|m| m.machine.declare_dead(0))
    }

    /// What is in the way of a VRF's role, as the last step said.
    #[must_use]
    pub fn cause(&self, vrf: VrfId) -> Option<Cause> {
        self.machines.get(vrf.index())?.last?.cause
    }

    /// How the last drain of a VRF ended, once.
    pub fn take_drain_end(&mut self, vrf: VrfId) -> Option<DrainEnd> {
        let machine = self.machines.get_mut(vrf.index())?;
        machine.machine.take_drain_end().map(|(end, _)| end)
    }

    /// Role and term of a VRF.
    #[must_use]
    pub fn role(&self, vrf: VrfId) -> (Role, Term) {
        self.shared.roles.get(vrf)
    }

    /// Whether the node is active for a VRF.
    #[must_use]
    pub fn is_active(&self, vrf: VrfId) -> bool {
        self.role(vrf).0.is_active()
    }

    /// Puts a frame into the receive queue of `worker` on `port`; false when no buffer was free.
    pub fn inject(&mut self, worker: usize, port: PortId, frame: &[u8]) -> bool {
        let Ok(queue) = u16::try_from(worker) else {
            return false;
        };
        self.ios[worker].inject(RxQueue { port, queue }, frame)
    }

    /// Has the kernel send a frame on a tap, by the queue of one worker.
    pub fn send_on_tap(&mut self, tap: PortId, queue: u16, frame: &[u8]) -> bool {
        self.ios
            .iter_mut()
            .any(|io| io.inject(RxQueue { port: tap, queue }, frame))
    }

    /// Takes what has left by `port`, over all workers.
    pub fn take_sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        self.ios.iter_mut().flat_map(|io| io.take_sent(port)).collect()
    }

    /// Ports of one worker.
    pub fn io(&mut self, worker: usize) -> &mut MemIo {
        &mut self.ios[worker]
    }

    /// Tables of all workers.
    pub fn tables(&self) -> impl Iterator<Item = &Tables> {
        self.workers.iter().map(Worker::tables)
    }

    /// The worker that has a slot.
    #[must_use]
    pub fn worker_of(&self, at: SlotRef) -> usize {
        usize::from(self.shared.owners.worker_of(at))
    }

    /// Tables of the worker that has a slot.
    #[must_use]
    pub fn tables_of(&self, at: SlotRef) -> &Tables {
        self.workers[self.worker_of(at)].tables()
    }

    /// Tables of one worker, to break on purpose.
    pub fn tables_mut(&mut self, worker: usize) -> &mut Tables {
        self.workers[worker].tables_mut()
    }

    /// Number of workers.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Counters of all workers together.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for tables in self.tables() {
            sum.add(&tables.counters);
        }
        sum
    }

    /// What the event threads have counted.
    #[must_use]
    pub fn reports(&self) -> Vec<PumpReport> {
        self.pumps.iter().map(Pump::report).collect()
    }

    /// Stops (true) or lets run all workers' application of the peer's records.
    pub fn stop_absorb(&mut self, stop: bool) {
        for worker in &mut self.workers {
            worker.set_absorb_budget(if stop { 0 } else { ABSORB_BUDGET });
        }
    }

    /// Stops (true) or lets run all event threads.
    pub fn stop_events(&mut self, stop: bool) {
        let workers = self.workers.len();
        self.stopped[workers..].fill(stop);
    }

    /// Asks a worker.
    pub fn ask(&self, worker: usize, ask: Ask) -> bool {
        self.asks[worker].try_send(ask).is_ok()
    }

    /// Asks an event thread.
    pub fn command(&self, event: usize, command: PumpCommand) -> bool {
        self.commands[event].try_send(command).is_ok()
    }

    /// How a comparison reaches the threads.
    #[must_use]
    pub fn ways(&self) -> Ways<'_> {
        Ways {
            pumps: &self.commands,
            workers: &self.asks,
            owners: &self.shared.owners,
        }
    }

    /// The pools as they are configured now.
    #[must_use]
    pub fn pools(&self) -> Arc<Pools> {
        Arc::clone(self.shared.snapshot.load().pools())
    }

    /// Changes intent or forwarding, as the agent does: the snapshot is swapped whole.
    pub fn publish(&mut self, change: impl FnOnce(&mut Intent, &mut Forwarding)) {
        change(&mut self.intent, &mut self.forwarding);
        self.policies = compile(&self.intent, &self.policies);
        let ports = self.setup.ports(self.id);
        let before = self.pools();
        let settled = self
            .tables()
            .all(|tables| Arc::ptr_eq(tables.nat.pools(), &before));
        let pools = Arc::new(change_pools(&before, &self.intent, settled));
        let snapshot = Snapshot::build(&self.intent, &self.policies, &pools, &self.forwarding, &ports);
        self.shared.snapshot.store(Arc::new(snapshot));
        let vrfs = (0..).map(VrfId).take(self.intent.vrfs.len());
        let sections: Arc<[_]> = vrfs.map(|vrf| fingerprint::sections(&self.intent, vrf)).collect();
        for command in &self.commands {
            let told = command.try_send(PumpCommand::Sections(Arc::clone(&sections)));
            assert!(told.is_ok(), "an event thread doesn't look at its commands");
        }
    }

    /// The node's own time at the cluster's `now`.
    #[must_use]
    pub fn time(&self, now: Instant) -> Instant {
        now + self.offset
    }

    /// Stops in order: last deltas out, good-bye to the peer, all buffers back.
    pub fn shutdown(mut self, now: Instant) -> Arc<Pool> {
        for (worker, io) in self.workers.iter_mut().zip(&mut self.ios) {
            worker.drain(io);
        }
        for pump in &mut self.pumps {
            pump.turn(now + self.offset);
            pump.shutdown(now + self.offset);
        }
        Arc::clone(&self.packets)
    }
}

#[expect(clippy::expect_used, reason = "a test's rules are few")]
fn compile(intent: &Intent, before: &Policies) -> Policies {
    Policies::compile(intent, before).expect("rules compile")
}

#[expect(
    clippy::expect_used,
    reason = "a test gives pools time to lose an address before another one has it"
)]
fn change_pools(before: &Pools, intent: &Intent, settled: bool) -> Pools {
    before
        .changed(intent, settled)
        .expect("no address is in two pools")
}
