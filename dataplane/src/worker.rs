//! A poll-mode worker: one `turn(now)` takes a burst from each of its queues through the stages, tells the peers what
//! changed, ages a few entries and applies a few of the peers' records. No lock, no system call, no allocation.
//!
//! ```text
//!   handoff rings ┐
//!   redirect rings┤
//!   rx queues ────┴► parse ► steer ► (fragments: reassemble) ► (after a take-over: line up) ► lookup ► admit ► (standby: redirect) ► track ► forward ► answer ► transmit (rewrite, tx, handoff)
//!                    then, once per turn: what the kernel sent on taps ► emit ► expire ► absorb ► audit ► missing ► foresee ► inbox
//! ```
//!
//! Born with its queues, rings and tables, all sized at start; driven by a pinned thread in production and by hand in
//! the simulator; drained at the end, so that every packet goes back to its pool.

use std::sync::Arc;

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use rtrb::{Consumer, Producer};

use crate::applied::AppliedCounters;
use crate::delta::{ToEvent, ToWorker};
use crate::exception::{Exceptions, PuntCounts, Tap};
pub use crate::fragment::HELD as FRAGMENTS_HELD;
use crate::fragment::{Fragments, Ticket};
use crate::inbox::{Announcing, Ask, Visited, Visitor};
use crate::io::{BURST, Io, Packet, PortId, RxQueue};
use crate::mutant::{self, Mutant};
use crate::notice::Notices;
use crate::outlook::Outlook;
use crate::owners::Owners;
use crate::redirect::{PacketReceiver, PacketSender, REDIRECTS_MAX};
use crate::role::Roles;
use crate::rss::{Home, Spread};
use crate::stage::absorb::absorb;
use crate::stage::admit::admit;
use crate::stage::answer::answer;
use crate::stage::audit::audit;
use crate::stage::await_slot::{Awaiting, Turn, await_slot};
use crate::stage::emit::emit;
use crate::stage::expire::expire;
use crate::stage::foresee::{Ways, foresee};
use crate::stage::forward::forward;
pub use crate::stage::handoff::Handoff;
use crate::stage::handoff::{HANDOFF_ROOM, HandoffCounts, hand_over};
use crate::stage::hold::{Holds, Next, Waiting, hold};
pub use crate::stage::line_up::LINED_UP;
use crate::stage::line_up::{Line, line_up};
use crate::stage::lookup::{Found, lookup};
use crate::stage::meta::Piece;
use crate::stage::missing::ask_for_missing;
use crate::stage::parse::parse;
use crate::stage::reassemble::{PieceWork, reassemble, remark};
use crate::stage::redirect::{Redirects, redirect};
use crate::stage::rewrite::rewrite;
use crate::stage::steer::steer;
use crate::stage::track::track;
use crate::stage::transmit::{Outgoing, Stores, transmit};
use crate::stage::{Batch, Context, Work};
use crate::tables::Tables;
use crate::time::Instant;
use crate::transit::Arrival;
use crate::verdict::Drop;
use crate::vrf::Snapshot;

/// Records of one event thread applied in one turn.
pub const ABSORB_BUDGET: usize = 64;

/// Entries and changes visited by walks in one turn.
const WALK_BUDGET: usize = 64;

/// How many budgets a turn without packets has. The packet that comes next waits for some 50 us at most, which a receive
/// queue of 512 bridges at 10 million packets per second.
const PATIENCE: usize = 4;

/// Bursts of packets that have waited for their slot, per turn.
const AWAITED_BURSTS: usize = 8;

/// What all workers of a process share, read-only but for the atomics inside.
#[derive(Debug)]
pub struct Shared {
    /// Forwarding view and pools, swapped whole.
    pub snapshot: ArcSwap<Snapshot>,
    /// Roles per VRF.
    pub roles: Arc<Roles>,
    /// What the acknowledgements wait for.
    pub applied: Arc<AppliedCounters>,
    /// Whether next hops are known.
    pub outlook: Arc<Outlook>,
    /// Whose each slot is.
    pub owners: Arc<Owners>,
}

/// The rings between a worker and one event thread.
#[derive(Debug)]
pub struct EventLink {
    /// Deltas and answers out.
    pub out: Producer<ToEvent>,
    /// The peer's records in.
    pub inbox: Consumer<ToWorker>,
    /// Packets for the active node out.
    pub redirect_out: PacketSender,
    /// Packets that peers redirected in.
    pub redirect_in: PacketReceiver,
}

/// A worker's connections.
#[derive(Debug)]
pub struct Links<P> {
    /// One per event thread.
    pub events: Vec<EventLink>,
    /// To each worker (its own included, for hairpins), by number.
    pub handoff_out: Vec<Producer<Handoff<P>>>,
    /// From each worker.
    pub handoff_in: Vec<Consumer<Handoff<P>>>,
    /// Questions of the main thread.
    pub asks: Receiver<Ask>,
    /// Messages to the main thread.
    pub notices: Notices,
}

/// One worker.
#[derive(Debug)]
pub struct Worker<I: Io> {
    number: u16,
    workers: u16,
    queues: Vec<RxQueue>,
    shared: Arc<Shared>,
    tables: Tables,
    links: Links<I::Packet>,
    batch: Batch<I::Packet>,
    out: Outgoing<I::Packet>,
    outputs: Vec<Producer<ToEvent>>,
    inputs: Vec<Consumer<ToWorker>>,
    redirects: Redirects,
    absorb_budget: usize,
    stores: Stores<I::Packet>,
    exceptions: Exceptions,
    announcing: Announcing,
    visiting: Option<Visitor>,
}

impl<I: Io> Worker<I> {
    /// Worker `number` of `workers`, polling `queues` of `ports` ports.
    #[must_use]
    pub fn new(
        (number, workers): (u16, u16),
        queues: Vec<RxQueue>,
        ports: usize,
        shared: Arc<Shared>,
        mut tables: Tables,
        mut links: Links<I::Packet>,
    ) -> Self {
        tables.handoffs = HandoffCounts::new(ports);
        let stores = Stores {
            fragments: Fragments::new((number, workers)),
            line: Line::new(tables.roles.len()),
            awaiting: Awaiting::new(),
            holds: Holds::new(tables.held_packets()),
        };
        let (mut outputs, mut inputs, mut packets) = (vec![], vec![], vec![]);
        for link in links.events.drain(..) {
            outputs.push(link.out);
            inputs.push(link.inbox);
            packets.push((link.redirect_out, link.redirect_in));
        }
        let redirects = Redirects::new(number, packets, tables.redirect_packets_per_s);
        Self {
            number,
            workers,
            queues,
            shared,
            tables,
            links,
            batch: Batch::new(),
            out: Outgoing::new(ports, workers),
            outputs,
            inputs,
            redirects,
            absorb_budget: ABSORB_BUDGET,
            stores,
            exceptions: Exceptions::default(),
            announcing: Announcing::default(),
            visiting: None,
        }
    }

    /// Gives the kernel's frames a way, which without taps it has by itself. `ports` counts the taps too.
    #[must_use]
    pub fn with_taps(mut self, taps: &[Tap], ports: usize) -> Self {
        self.tables.punts = PuntCounts::new(ports);
        self.exceptions = Exceptions::new(taps);
        self.out = Outgoing::new(ports, self.workers);
        self
    }

    /// Tells how ports spread packets over queues, by port, so that replies are drawn into this worker's own.
    #[must_use]
    pub fn with_spreads(mut self, spreads: &[Option<Spread>]) -> Self {
        let polls = |port, queue| self.queues.contains(&RxQueue { port, queue });
        let homes = (0..).map(PortId).zip(spreads).map(|(port, spread)| {
            let spread = spread.as_ref()?;
            Home::new(spread, |queue| polls(port, queue))
        });
        let homes = homes.collect();
        self.tables.nat.set_homes(homes);
        self
    }

    /// One turn; returns how much there was to do, so that an idle thread can rest.
    pub fn turn(&mut self, now: Instant, io: &mut I) -> usize {
        io.begin_turn();
        let shared = Arc::clone(&self.shared);
        shared.owners.look_as_worker(self.number);
        // In front of the snapshot: whatever its former worker knew of pools is known here, too.
        let arriving = self.tables.transit.arrival.as_ref();
        let parcels = arriving.map_or(0, Arrival::waiting);
        let snapshot = shared.snapshot.load();
        // In front of the roles, see there.
        let redirected = self.redirects.look();
        self.tables.observe_roles(&shared.roles, now);
        if self.tables.expects {
            self.stores.line.expect(&self.tables.roles, now);
        }
        // In front of the rules: as long as a snapshot is held, its pools aren't freed here.
        self.tables.observe_pools(snapshot.pools());
        self.tables.observe_rules(&snapshot);
        self.tables.admission.bound(snapshot.first_packets());
        if mutant::on(Mutant::WorkerWaits) && self.outputs.iter().any(Producer::is_full) {
            return emit(&mut self.tables, &mut self.outputs, WALK_BUDGET, now);
        }
        let mut work = 0;
        if self.tables.transit.lets_packets_go() {
            work += self.awaited(now, &snapshot, io);
        }
        work += self.handed_over(now, &snapshot, io);
        if self.handoffs_have_room() && !self.stores.awaiting.is_crowded() {
            if !self.tables.commits.is_empty() {
                work += self.settled(now, &snapshot, io);
            }
            work += self.released(now, &snapshot, io);
            // In front of what comes straight, where the traffic turns to this node; behind it, where it turns away.
            let first = self.stores.line.is_open(now);
            if redirected && first {
                work += self.redirected(now, &snapshot, io);
            }
            if !self.stores.line.is_empty() {
                work += self.lined_up(now, &snapshot, io);
            }
            let mut emptied = true;
            for index in 0..self.queues.len() {
                let received = self.received(index, now, &snapshot, io);
                emptied &= received < BURST;
                work += received;
            }
            if redirected && !first {
                work += self.redirected(now, &snapshot, io);
            }
            self.redirects.let_through(emptied);
            self.tables.admission.end_turn();
        } else {
            // Loss-free: packets wait in the receive queues until the owner has caught up.
            self.tables.counters.handoff_waits += 1;
        }
        let counters = &mut self.tables.counters;
        work += self
            .exceptions
            .read(now, &mut self.batch.packets, &mut self.out, io, counters);
        work += self.announcing.turn(now, &snapshot, &mut self.out, io, counters);
        self.out.flush(io, &mut self.tables.counters);
        // A turn without packets has time for more of what can wait.
        let patience = if work == 0 { PATIENCE } else { 1 };
        work += emit(&mut self.tables, &mut self.outputs, patience * WALK_BUDGET, now);
        work += expire(&mut self.tables, now);
        work += self.tables.review(now);
        work += self.tables.retire(now);
        work += self.tables.rearrange();
        work += self.stores.fragments.expire(now, &mut self.tables.counters);
        work += self.absorb(patience, now);
        if !self.tables.transit.is_idle() {
            work += self.change_hands(parcels, now);
        }
        audit(&mut self.tables, now);
        ask_for_missing(&mut self.tables, now);
        let mut ways = Ways {
            snapshot: &snapshot,
            pools: snapshot.pools(),
            notices: &mut self.links.notices,
            outlook: &shared.outlook,
            worker: self.number,
        };
        foresee(&mut self.tables, &mut ways, now);
        work + self.ask(now)
    }

    /// Stops (0) or limits the application of the peer's records. For tests of acknowledgements.
    pub const fn set_absorb_budget(&mut self, records: usize) {
        self.absorb_budget = records;
    }

    /// Its tables, to look at.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Its tables, to break on purpose.
    pub const fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// Frees everything that waits inside the worker. The rings to other workers must be drained by their readers.
    pub fn drain(&mut self, io: &mut I) {
        for ring in &mut self.links.handoff_in {
            while let Ok(handoff) = ring.pop() {
                self.tables.counters.drop(Drop::Stopping);
                drop(handoff);
            }
        }
        self.redirects.drain(&mut self.tables.counters);
        self.stores.fragments.drain(&mut self.tables.counters);
        self.tables.commits.abandon();
        while let Next::Packet(Waiting { packet, .. }) | Next::Drop(packet, _) =
            self.stores.holds.next(&mut self.tables, Instant::default())
        {
            self.tables.counters.drop(Drop::Stopping);
            self.out.discard(packet, io);
        }
        while let Some(Waiting { packet, .. }) = self.stores.line.take() {
            self.tables.counters.drop(Drop::Stopping);
            self.out.discard(packet, io);
        }
        while let Some(Waiting { packet, .. }) = self.stores.awaiting.next() {
            self.tables.counters.drop(Drop::Stopping);
            self.out.discard(packet, io);
        }
        self.out.free(io);
        self.batch.packets.clear();
        self.out.flush(io, &mut self.tables.counters);
    }

    fn handoffs_have_room(&self) -> bool {
        self.links
            .handoff_out
            .iter()
            .all(|ring| ring.slots() >= HANDOFF_ROOM)
    }

    /// Packets from other workers first: they have waited longest, and taking them frees the rings.
    fn handed_over(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        let mut work = 0;
        for ring in 0..self.links.handoff_in.len() {
            // What may have to wait for its slot waits there when there is no place for it here.
            if self.stores.awaiting.is_full() {
                break;
            }
            let (from, ring) = (ring, &mut self.links.handoff_in[ring]);
            // A burst at most.
            let Ok(arrived) = ring.read_chunk(ring.slots().min(BURST)) else {
                continue;
            };
            let turn = if self.tables.transit.is_former(from) {
                Turn::Earlier
            } else {
                Turn::Later
            };
            self.tables.transit.handed_over(from, arrived.len());
            for handoff in arrived {
                self.tables.counters.handoff_in += 1;
                let i = self.batch.packets.len();
                self.batch.work[i] = Work::arrived(handoff.port, handoff.handoffs);
                self.batch.work[i].redirects = handoff.redirects;
                self.batch.work[i].turn = turn;
                if handoff.mark.is_some() {
                    self.batch.work[i].passed = true;
                    self.batch.pieces[i].mark = handoff.mark;
                    self.batch.pieces[i].ticket = Ticket::NONE;
                }
                self.batch.packets.push(handoff.packet);
            }
            if !self.batch.packets.is_empty() {
                work += self.process(now, snapshot, io);
            }
        }
        work
    }

    /// Fragments whose packet's first one has come: a burst of them per turn.
    fn released(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        while !self.batch.packets.is_full()
            && let Some(held) = self.stores.fragments.take_ready(&mut self.tables.counters)
        {
            let i = self.batch.packets.len();
            self.batch.work[i] = Work::arrived(held.port, held.handoffs);
            self.batch.work[i].passed = true;
            self.batch.work[i].redirects = REDIRECTS_MAX;
            self.batch.pieces[i] = PieceWork {
                ticket: Ticket::NONE,
                mark: Some(held.mark),
            };
            self.batch.packets.push(held.packet);
        }
        if self.batch.packets.is_empty() {
            return 0;
        }
        self.process(now, snapshot, io)
    }

    /// Packets of flows that waited for the peers, in order: they go on before anything that has come since.
    #[cold]
    fn settled(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        self.tables.expire_commits(now);
        let mut work = 0;
        while self.handoffs_have_room() {
            while !self.batch.packets.is_full() {
                match self.stores.holds.next(&mut self.tables, now) {
                    Next::Packet(waiting) => self.batch.resume(waiting).released = true,
                    Next::Drop(packet, reason) => {
                        work += 1;
                        self.tables.counters.drop(reason);
                        self.out.discard(packet, io);
                    }
                    Next::Nothing => break,
                }
            }
            if self.batch.packets.is_empty() {
                break;
            }
            work += self.process(now, snapshot, io);
        }
        self.out.free(io);
        work
    }

    /// Packets that have waited for their slot: some bursts of them per turn, before anything else of the slot.
    #[cold]
    fn awaited(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        let mut work = 0;
        for _ in 0..AWAITED_BURSTS {
            if !self.handoffs_have_room() {
                return work;
            }
            while !self.batch.packets.is_full()
                && let Some(waiting) = self.stores.awaiting.next()
            {
                let work = self.batch.resume(waiting);
                (work.turn, work.lined_up) = (Turn::Over, true);
            }
            if self.batch.packets.is_empty() {
                break;
            }
            work += self.process(now, snapshot, io);
        }
        self.tables.transit.holding = !self.stores.awaiting.is_empty();
        work
    }

    /// A slice of this worker's part in the move of a slot.
    #[cold]
    fn change_hands(&mut self, parcels: usize, now: Instant) -> usize {
        let links = &self.links;
        if let Some(departure) = &mut self.tables.transit.departure
            && self.shared.owners.workers_see(departure.number())
        {
            let handed_over = links.handoff_in.iter().map(Consumer::slots);
            departure.count(handed_over, self.inputs.iter().map(Consumer::slots));
        }
        let full = self.stores.awaiting.is_full();
        let work = self.tables.change_hands(&self.shared.owners, parcels, full, now);
        if let Some(arrival) = &mut self.tables.transit.arrival
            && let Some(former) = arrival.follows_whom()
        {
            arrival.follow(links.handoff_in.get(former).map_or(0, Consumer::slots));
        }
        work
    }

    /// Packets that came to a node which isn't active, and that it has redirected to this one: a burst of them per turn.
    #[cold]
    fn redirected(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        let (tables, line) = (&mut self.tables, &mut self.stores.line);
        let taken = self
            .redirects
            .take(&mut self.batch, line, (now, snapshot), io, tables);
        if !self.batch.packets.is_empty() {
            self.process(now, snapshot, io);
        }
        taken
    }

    /// Packets that have waited for redirected ones in front of them, in order.
    #[cold]
    fn lined_up(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        let (line, redirects) = (&mut self.stores.line, &mut self.redirects);
        line.review(redirects.are_through(), now, &mut self.tables.counters);
        let mut work = 0;
        while self.handoffs_have_room() {
            while !self.batch.packets.is_full()
                && let Some(waiting) = self.stores.line.pop()
            {
                self.batch.resume(waiting).lined_up = true;
            }
            if self.batch.packets.is_empty() {
                break;
            }
            work += self.process(now, snapshot, io);
        }
        if self.stores.line.asks()
            && let Some(vrf) = self.stores.line.ask(now)
        {
            self.redirects.ask(vrf, &self.tables);
        }
        work
    }

    fn received(&mut self, index: usize, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        let queue = self.queues[index];
        io.rx(queue, &mut self.batch.packets);
        if self.batch.packets.is_empty() {
            return 0;
        }
        self.tables.counters.rx_packets += self.batch.packets.len() as u64;
        for (packet, work) in self.batch.packets.iter().zip(&mut self.batch.work) {
            self.tables.counters.rx_bytes += packet.data().len() as u64;
            *work = Work::arrived(queue.port, 0);
        }
        self.process(now, snapshot, io)
    }

    /// The packet path.
    fn process(&mut self, now: Instant, snapshot: &Snapshot, io: &mut I) -> usize {
        let packets = self.batch.packets.len();
        debug_assert!(packets <= BURST);
        self.tables.pace.took(packets);
        self.tables.admission.took(packets);
        let batch = &mut self.batch;
        let mut cx = Context {
            now,
            snapshot,
            pools: snapshot.pools(),
            owners: &self.shared.owners,
            tables: &mut self.tables,
            notices: &mut self.links.notices,
            worker: self.number,
            workers: self.workers,
        };
        let fragments = parse_all(batch);
        if fragments {
            remark(batch);
        }
        let others = steer(batch, &cx);
        if fragments {
            reassemble(batch, &mut self.stores.fragments, &mut cx);
        } else if others {
            hand_over(batch, self.out.leaving(), &mut cx);
        }
        if self.stores.line.is_open(now) {
            line_up(batch, &self.stores.line, &mut cx);
        }
        if cx.tables.transit.holding {
            await_slot(batch, &cx);
        }
        if lookup(batch, &mut cx) == Found::NotAll {
            admit(batch, &mut cx);
        }
        if cx.tables.stands_by {
            redirect(batch, &mut self.redirects, &mut self.stores.line, &cx);
        }
        if !cx.tables.commits.is_empty() {
            hold(batch, &mut cx);
        }
        track(batch, &mut cx);
        if !forward(batch, &mut cx) {
            answer(batch, &mut self.out, io, &mut cx);
        }
        rewrite(batch, &mut cx);
        transmit(
            batch,
            &mut self.out,
            &mut self.links.handoff_out,
            &mut self.stores,
            &mut self.exceptions,
            io,
            &mut cx,
        );
        packets
    }

    fn absorb(&mut self, patience: usize, now: Instant) -> usize {
        let mut work = 0;
        for (event, inbox) in self.inputs.iter_mut().enumerate() {
            // What comes from the peer waits for room, in order: a refusal would have to be made good.
            let budget = self.tables.records_with_room(patience * self.absorb_budget);
            let processed = absorb(&mut self.tables, inbox, event, budget, now);
            if processed > 0 {
                self.shared
                    .applied
                    .add(usize::from(self.number), event, processed as u64);
                self.tables.transit.absorbed(event, processed);
                work += processed;
            }
        }
        work
    }

    /// At most one question per turn, and a slice of a long answer.
    fn ask(&mut self, now: Instant) -> usize {
        while let Some(event) = self.tables.nat.pop_event() {
            if !self.links.notices.block(event) {
                self.tables.counters.block_events_lost += 1;
            }
        }
        while let Some(given_up) = self.tables.pop_given_up() {
            self.links.notices.given_up(given_up);
        }
        if let Some((vrf, address)) = self.tables.no_pool.take() {
            self.links.notices.no_pool(vrf, address, now);
        }
        if self.tables.wants_room() && self.links.notices.room_wanted(self.number) {
            self.tables.room_asked();
        }
        self.tables.counters.notices_lost = self.links.notices.lost;
        if self.visiting.is_none() {
            match self.links.asks.try_recv() {
                Ok(Ask::Announce(vrf)) => self.announcing.start(vrf, &self.shared.snapshot.load()),
                Ok(Ask::Visit(visitor)) => self.visiting = Some(visitor),
                Err(_) => return 0,
            }
        }
        if let Some(visitor) = &mut self.visiting
            && visitor.visit(&mut self.tables, now) == Visited::Done
        {
            self.visiting = None;
        }
        1
    }
}

/// Reads all frames of a burst. Whether there are fragments among them.
#[inline(never)]
fn parse_all<P: Packet>(batch: &mut Batch<P>) -> bool {
    let mut fragments = false;
    let places = batch.meta.iter_mut().zip(&mut batch.work);
    for (packet, (meta, work)) in batch.packets.iter().zip(places) {
        meta.verified = packet.verified();
        work.verdict = parse(packet.data(), meta);
        fragments |= meta.piece != Piece::Whole;
    }
    fragments
}
