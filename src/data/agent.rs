//! The data process's main thread, in turns: orders of the control process in, roles, snapshots and answers out.
//! Never on the packet path, never waited for by it; everything it needs from a worker comes back through a channel
//! that it polls.

use std::net::SocketAddr;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use ctl::protocol::{Refusal, RefusalKind};
use dataplane::drain::GivenUp;
use dataplane::flow::{Addr, VrfId};
use dataplane::inbox::Ask;
use dataplane::notice::Notice;
use dataplane::time::Instant;
use state_sync::port::PumpEvent;
use state_sync::role::DeclareError;

use super::answer::{self, Pending, Served, Sources};
use super::apply::Running;
use super::ask::tuple;
use super::devices::{Devices, News};
use super::jobs::Jobs;
use super::publisher::Publisher;
use super::roles::Change;
use super::room::{Rooms, Told};
use super::settings;
use super::syslog::Syslog;
use crate::dpdk::PortSet;
use crate::ipc::{Event, Incoming, Reply, Request, Server, Ticket};

/// Messages of workers handled in one turn.
const NOTICES_PER_TURN: usize = 1_024;

/// Addresses without a pool that are noted.
const UNKNOWN_POOLS_NOTED: usize = 16;

/// After a role flip every address is announced this often, so that one lost frame costs a second, not a timeout.
const ANNOUNCEMENTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// An answer that took longer than this was not coming.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// The agent's ends of everything.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) server: Server,
    pub(crate) running: Running,
    pub(crate) sources: Sources,
    pub(crate) syslog: Syslog,
    pub(crate) notices: Receiver<Notice>,
    pub(crate) pump_events: Receiver<PumpEvent>,
    pub(crate) publisher: Publisher,
    pub(crate) pending: Vec<Waiting>,
    pub(crate) announcing: Vec<(VrfId, Instant)>,
    pub(crate) jobs: Jobs,
    pub(crate) devices: Devices,
    pub(crate) rooms: Rooms,
}

/// A question whose answer is still being collected.
#[derive(Debug)]
pub(crate) struct Waiting {
    ticket: Ticket,
    until: Instant,
    pending: Pending,
}

impl Agent {
    /// One turn; returns how much there was to do.
    pub(crate) fn turn(&mut self, now: Instant, ports: &mut PortSet) -> usize {
        let incoming = self.server.poll();
        let mut work = incoming.len();
        for request in incoming {
            self.serve(request, now, ports);
        }
        work += self.devices(now, ports);
        work += self.end_trial(now) + self.tell_sections();
        work += self.step_roles(now);
        work += self.announce(now);
        work += self.notices(now);
        work += self.syslog.turn(now);
        self.sources.log_lines = self.syslog.lines();
        work += self.pump_events();
        work += self.jobs(now);
        work += self.rooms(now);
        self.publisher.free();
        let Sources {
            rates,
            journal,
            pump_commands,
            workers,
            ..
        } = &mut self.sources;
        work += rates.turn(pump_commands, workers, now);
        for (step, times) in rates.overload() {
            let text = format!("changes wait: step {step} of the ladder taken {times} times");
            journal.note("overload", None, None, text);
        }
        journal.log_lost(crate::log::lost());
        work + self.answers(now)
    }

    /// A device that has gone or come is an event; one that has come may have another MAC address, which neighbours have to
    /// learn.
    fn devices(&mut self, now: Instant, ports: &mut PortSet) -> usize {
        let news = self.devices.turn(now, ports);
        for News { port, text, back } in &news {
            tracing::warn!(text, "port");
            self.sources.journal.note("port", None, None, text.clone());
            if *back && port.index() < self.sources.facts.ports.len() {
                self.publisher
                    .set_ports(settings::port_infos(self.sources.facts.ports.len(), ports));
                self.publish();
                let interfaces = self.sources.intent.interfaces.iter();
                let vrfs: Vec<VrfId> = interfaces.filter(|i| i.port == *port).map(|i| i.vrf).collect();
                for vrf in vrfs {
                    self.begin_announcing(vrf, now);
                }
            }
        }
        news.len()
    }

    /// Goes on with the operator's job; its end is an event.
    fn jobs(&mut self, now: Instant) -> usize {
        let work = self.jobs.turn(&self.sources, now);
        if let Some((kind, text)) = self.jobs.ended() {
            self.sources.journal.note(kind, None, None, text);
        }
        work
    }

    /// Goes on with the room of workers' tables; what has come of it is an event.
    fn rooms(&mut self, now: Instant) -> usize {
        let told = self.rooms.turn(now);
        for told in &told {
            let text = match *told {
                Told::Has { worker, conntracks } => {
                    format!("worker {worker}: room for {conntracks} conntracks")
                }
                Told::NoMemory { worker, conntracks } => {
                    format!("worker {worker}: the machine has no memory for {conntracks} conntracks")
                }
            };
            match told {
                Told::Has { .. } => tracing::info!(text, "tables"),
                Told::NoMemory { .. } => tracing::error!(text, "tables"),
            }
            self.sources.journal.note("room", None, None, text);
        }
        told.len()
    }

    fn step_roles(&mut self, now: Instant) -> usize {
        let changed = self.sources.keeper.step(now);
        self.tell_switchovers();
        for &change in &changed {
            let (Change::Role(vrf)
            | Change::Readiness(vrf)
            | Change::SplitBrain(vrf, _)
            | Change::Drained(vrf, ..)) = change;
            let Some(row) = self.sources.keeper.row(vrf) else {
                continue;
            };
            if let Change::Drained(_, end, took) = change {
                let text = format!("{} ms: {}", took.as_millis(), end.text());
                tracing::info!(vrf = row.vrf, text, "drained");
                self.sources.journal.note("drained", Some(&row.vrf), None, text);
                continue;
            }
            if let Change::SplitBrain(_, goes_on) = change {
                let what = if goes_on { "goes on" } else { "gives way" };
                let text = format!("a peer was active, too; this node {what}");
                tracing::error!(vrf = row.vrf, text, "split brain");
                self.sources
                    .journal
                    .note("split-brain", Some(&row.vrf), None, text);
                if goes_on {
                    // Neighbours may have heard the other node last.
                    self.begin_announcing(vrf, now);
                }
                continue;
            }
            if change == Change::Readiness(vrf) {
                self.server.broadcast(Event::ReadinessChanged(row));
                continue;
            }
            tracing::info!(
                vrf = row.vrf,
                role = row.role.name(),
                term = row.term,
                cause = row.cause,
                "role changed"
            );
            let text = format!("{} under term {}: {}", row.role.name(), row.term, row.cause);
            self.sources.journal.note("role", Some(&row.vrf), None, text);
            self.begin_announcing(vrf, now);
            self.server.broadcast(Event::RoleChanged(row));
        }
        changed.len()
    }

    fn begin_announcing(&mut self, vrf: VrfId, now: Instant) {
        self.announcing.retain(|(v, _)| *v != vrf);
        if self.sources.keeper.is_active(vrf) {
            self.announcing
                .extend(ANNOUNCEMENTS.map(|after| (vrf, now + after)));
        }
    }

    fn tell_switchovers(&mut self) {
        for report in self.sources.keeper.take_switchover_news() {
            let (phase, end, took_ms) = (report.phase.name(), &report.end, report.took_ms);
            tracing::info!(
                group = report.group,
                peer = report.peer,
                phase,
                end,
                took_ms,
                "switchover"
            );
            let text = format!("HA group {}: {phase} after {took_ms} ms: {end}", report.group);
            self.sources
                .journal
                .note("switchover", None, Some(&report.peer), text);
            self.server.broadcast(Event::Switchover(report));
        }
        for group in self.sources.keeper.take_handed() {
            self.server.broadcast(Event::Handed { group });
        }
    }

    fn announce(&mut self, now: Instant) -> usize {
        let due = self.announcing.iter().filter(|(_, at)| *at <= now).count();
        if due == 0 {
            return 0;
        }
        for (vrf, at) in core::mem::take(&mut self.announcing) {
            if at > now {
                self.announcing.push((vrf, at));
            } else if let Some(worker) = self.sources.workers.first() {
                // A full inbox is retried with the next announcement.
                let _ = worker.try_send(Ask::Announce(vrf));
            }
        }
        due
    }

    fn notices(&mut self, now: Instant) -> usize {
        let mut handled = 0;
        while handled < NOTICES_PER_TURN {
            let Ok(notice) = self.notices.try_recv() else {
                break;
            };
            handled += 1;
            match notice {
                Notice::Unresolved { interface, address } => {
                    self.server.broadcast(Event::NeighborWanted {
                        interface,
                        address: address.ip(),
                    });
                }
                Notice::Block(event) => {
                    self.syslog
                        .block(&event, &self.sources.facts.names.vrf(event.vrf), now);
                }
                Notice::RoomWanted { worker } => self.rooms.want(worker, now),
                Notice::NoPool { vrf, address } => self.note_unknown_pool(vrf, address),
                Notice::GivenUp(GivenUp { vrf, told, untold }) => {
                    let vrf = self.sources.facts.names.vrf(vrf);
                    tracing::info!(vrf, told, untold, "given up, conntracks that were kept back");
                    let text = format!(
                        "of a worker's conntracks that were kept back {told} were sent on their way, {untold} were not"
                    );
                    self.sources.journal.note("given-up", Some(&vrf), None, text);
                }
                Notice::RuleHit {
                    vrf,
                    rule_id,
                    key,
                    action,
                } => {
                    let vrf = self.sources.facts.names.vrf(vrf);
                    // Also here: rules log without a control process, too.
                    tracing::info!(
                        vrf,
                        rule = rule_id,
                        ?action,
                        protocol = key.proto,
                        from = %end(&key.src, key.src_port),
                        to = %end(&key.dst, key.dst_port),
                        "firewall rule"
                    );
                    self.server.broadcast(Event::RuleHit {
                        vrf,
                        rule: Some(rule_id),
                        action,
                        protocol: key.proto,
                        tuple: tuple(&key),
                    });
                }
            }
        }
        handled
    }

    /// Once per address and configuration, and no more than an operator would read.
    fn note_unknown_pool(&mut self, vrf: VrfId, address: Addr) {
        let known = &mut self.sources.unknown_pools;
        if known.len() >= UNKNOWN_POOLS_NOTED || known.contains(&(vrf, address)) {
            return;
        }
        known.push((vrf, address));
        let vrf = self.sources.facts.names.vrf(vrf);
        tracing::warn!(vrf, address = %address.ip(), "the peer has flows on an address that is in no pool here");
        let text = format!(
            "flows and port blocks of the peer on {} are refused: it is in no pool here; they come when it is in one",
            address.ip()
        );
        self.sources.journal.note("no-pool", Some(&vrf), None, text);
    }

    fn pump_events(&mut self) -> usize {
        let mut handled = 0;
        while let Ok(event) = self.pump_events.try_recv() {
            handled += 1;
            match event {
                PumpEvent::LaneUp { peer, lane, end } => {
                    let name = self.sources.facts.peer(peer);
                    self.sources.journal.lane((peer, name), lane, end, None);
                    tracing::info!(peer = self.sources.facts.peer(peer), lane, ?end, "lane up");
                }
                PumpEvent::LaneDown {
                    peer,
                    lane,
                    end,
                    reason,
                } => {
                    let name = self.sources.facts.peer(peer);
                    self.sources.journal.lane((peer, name), lane, end, Some(reason));
                    tracing::warn!(
                        peer = self.sources.facts.peer(peer),
                        lane,
                        ?end,
                        reason,
                        "lane down"
                    );
                }
                PumpEvent::VrfOpened {
                    peer,
                    vrf,
                    differences,
                } => self.compare(peer, vrf, &differences),
                PumpEvent::Exported {
                    peer,
                    vrf,
                    lane,
                    slots,
                    records,
                    took_ms,
                } => {
                    let (peer, vrf) = (self.sources.facts.peer(peer), self.sources.facts.names.vrf(vrf));
                    let text =
                        format!("lane {lane}: {slots} slots verified, {records} records, {took_ms} ms");
                    self.sources
                        .journal
                        .note("resync-end", Some(&vrf), Some(peer), text);
                    tracing::info!(
                        peer,
                        vrf,
                        lane,
                        slots,
                        records,
                        took_ms,
                        "peer has verified the lane's slots"
                    );
                }
                PumpEvent::Resyncing {
                    peer,
                    vrf,
                    lane,
                    slots,
                } => {
                    let (peer, vrf) = (self.sources.facts.peer(peer), self.sources.facts.names.vrf(vrf));
                    let text = format!("lane {lane}: {slots} slots");
                    self.sources
                        .journal
                        .note("resync-begin", Some(&vrf), Some(peer), text);
                }
                PumpEvent::Diverged { peer, at, repaired } => {
                    let (peer, vrf) = (
                        self.sources.facts.peer(peer),
                        self.sources.facts.names.vrf(at.vrf),
                    );
                    let (kind, text) = if repaired {
                        ("repaired", format!("slot {} is equal again", at.slot))
                    } else {
                        ("diverged", format!("slot {} differs or lacks entries", at.slot))
                    };
                    tracing::warn!(peer, vrf, slot = at.slot, "{kind}");
                    self.sources.journal.note(kind, Some(&vrf), Some(peer), text);
                }
                PumpEvent::NamedAlike { peer } => {
                    let peer = self.sources.facts.peer(peer);
                    let text = format!("the peer is called {}, too", self.sources.facts.node);
                    tracing::error!(peer, text, "two nodes of one name");
                    self.sources.journal.note("same-name", None, Some(peer), text);
                }
                PumpEvent::Refused { reason } => {
                    let text = format!("a sync connection was refused: {reason}");
                    self.sources.journal.note("refused", None, None, text);
                    tracing::warn!(reason, "sync connection refused");
                }
            }
        }
        handled
    }

    fn compare(&mut self, peer: u8, vrf: VrfId, differences: &[state_sync::fingerprint::Difference]) {
        let name = self.sources.facts.peer(peer).to_owned();
        if differences.is_empty() && self.sources.facts.differs(peer, vrf) {
            let of = self.sources.facts.names.vrf(vrf);
            let text = "no section is different any more".to_owned();
            tracing::info!(peer = name, vrf = of, "the configuration is the peer's again");
            self.sources
                .journal
                .note("configuration-equal", Some(&of), Some(&name), text);
        }
        self.sources.facts.set_differences(
            peer,
            vrf,
            differences.iter().map(|d| d.section.clone()).collect(),
        );
        for difference in differences {
            let (peer, vrf) = (name.clone(), self.sources.facts.names.vrf(vrf));
            let section = difference.section.clone();
            self.sources.journal.note(
                "configuration-differs",
                Some(&vrf),
                Some(&peer),
                format!("{section} is different at the peer"),
            );
            tracing::warn!(peer, vrf, section, strength = ?difference.strength, "configuration differs from the peer's");
            self.server
                .broadcast(Event::FingerprintDiffers { peer, vrf, section });
        }
    }

    fn serve(&mut self, incoming: Incoming, now: Instant, ports: &PortSet) {
        let Incoming { ticket, request } = incoming;
        match self.carry_out(request, now, ports) {
            Ok(Served::Now(reply)) => self.server.reply(ticket, Ok(reply)),
            Ok(Served::Later(pending)) => {
                self.pending.push(Waiting {
                    ticket,
                    until: now + ANSWER_WAIT,
                    pending,
                });
            }
            Err(refusal) => self.server.reply(ticket, Err(refusal)),
        }
    }

    fn carry_out(&mut self, request: Request, now: Instant, ports: &PortSet) -> Result<Served, Refusal> {
        match request {
            Request::Hello { node } if node != self.sources.facts.node => Err(Refusal::new(
                RefusalKind::Refused,
                format!(
                    "this is the data process of node {}, not of {node}",
                    self.sources.facts.node
                ),
            )),
            Request::Hello { .. } => Ok(Served::Now(Reply::Hello {
                boot: self.sources.facts.boot_id,
            })),
            Request::CheckConfig(wanted) => self.check_config(&wanted).map(Served::Now),
            Request::SetConfig { config, try_ms } => self.set_config(&config, try_ms, now).map(Served::Now),
            Request::RollBack => {
                self.roll_back("as told");
                Ok(Served::Now(Reply::Done))
            }
            Request::SetForwarding(part) => {
                if self.publisher.take(*part, &self.sources.intent) {
                    self.publish();
                }
                Ok(Served::Now(Reply::Done))
            }
            Request::SetGroup {
                name,
                state,
                explicit,
            } => {
                if self.sources.keeper.set_group(&name, state, explicit) {
                    Ok(Served::Now(Reply::Done))
                } else {
                    Err(Refusal::new(RefusalKind::NotFound, format!("no HA group {name}")))
                }
            }
            Request::Switchover { name, to } => {
                let report = self.sources.keeper.switch_over(now, &name, to.as_deref())?;
                Ok(Served::Now(Reply::Switchover(report)))
            }
            Request::DeclareDead { peer } => match self.sources.keeper.declare_dead(&peer) {
                Ok(()) => Ok(Served::Now(Reply::Done)),
                Err(error @ DeclareError::NoPeer) => {
                    Err(Refusal::new(RefusalKind::NotFound, format!("{error}: {peer}")))
                }
                Err(error) => Err(Refusal::new(RefusalKind::Refused, error.to_string())),
            },
            Request::Compare(wanted) => self.jobs.compare(&wanted, &self.sources, now).map(Served::Now),
            Request::Resync { vrf, slot } => self.jobs.resync(vrf, slot, &self.sources, now).map(Served::Now),
            Request::Rebalance(wanted) => self.jobs.rebalance(&wanted, &self.sources, now).map(Served::Now),
            Request::Job { number } => self.jobs.look(number).map(Served::Now),
            Request::ResetPort { name } => self.reset_port(&name),
            Request::Ports => Ok(answer::port_report(&self.sources, &self.devices, ports)),
            other => answer::answer(other, &self.sources, now, ports),
        }
    }

    /// Answered when the device is there again, or the first attempt has failed.
    fn reset_port(&mut self, name: &str) -> Result<Served, Refusal> {
        let (told, outcome) = bounded(1);
        if !self.devices.reset(name, told) {
            let names = self.sources.facts.ports.iter().map(|port| port.name.as_str());
            let names = names.collect::<Vec<_>>().join(", ");
            let message = format!("no port {name}; there are: {names}");
            return Err(Refusal::new(RefusalKind::NotFound, message));
        }
        Ok(Pending::later(move || {
            let outcome: Result<(), String> = outcome.try_recv().ok()?;
            let refused = |cause| Refusal::new(RefusalKind::Refused, format!("{cause}; it is tried again"));
            Some(outcome.map(|()| Reply::Done).map_err(refused))
        }))
    }

    pub(super) fn publish(&mut self) {
        self.publisher.publish(&self.sources.intent, &self.sources.shared);
    }

    fn answers(&mut self, now: Instant) -> usize {
        let mut done = 0;
        for mut waiting in core::mem::take(&mut self.pending) {
            let polled = waiting.pending.poll();
            let result = match polled {
                Some(result) => result,
                None if waiting.until > now => {
                    self.pending.push(waiting);
                    continue;
                }
                None => Err(Refusal::new(
                    RefusalKind::Unreachable,
                    "the workers did not answer in time".to_owned(),
                )),
            };
            self.server.reply(waiting.ticket, result);
            done += 1;
        }
        done
    }
}

/// One end of a flow, as people write it.
fn end(address: &Addr, port: u16) -> SocketAddr {
    SocketAddr::new(address.ip(), port)
}
