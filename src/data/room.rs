//! Room for the workers' tables: as much as they need, up to what the configuration says (dataplane's `room.rs`).
//!
//! ```text
//!   look ─► Lower: done on the spot ──────────────────────────────────┐
//!        ─► Give: indexes, on a thread of its own ─► given ───────────┤
//!        ─► Raise: a slice of pages, on such a thread ─► limits up ───┼─► look again, until nothing is left to do
//!        ─► Done: what lies behind the limits, back to the kernel ────┘
//! ```
//!
//! One worker is at one of these steps at a time. Putting pages there and taking them away takes tenths of seconds: neither the
//! workers nor the agent, which decides about roles, wait for it.

use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use dataplane::inbox::Ask;
use dataplane::room::{Room, Sizes, Spent, Standing, Step};
use dataplane::span::{Span, Vacated};
use dataplane::time::Instant;

use super::ask::Gather;
use super::settings;
use crate::config::Config;
use crate::dpdk::large;
use crate::plan::CONNTRACK_BYTES;
use crate::{machine, thread};

/// Between two looks at a worker that has to come further by itself.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Between two looks at a worker whose last conntracks behind its limit have yet to end.
const LOOK_BEHIND_AFTER: Duration = Duration::from_secs(1);
/// Until a worker that was refused room for want of memory may ask again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Memory that the machine keeps for everything else.
const SPARE_BYTES: u64 = 64 << 20;
/// Bytes of the indexes per conntrack and per mapping: keys of eight in seven places, two of each.
const INDEX_BYTES: u64 = 2 * 64 / 7 + 1;

/// What is done for each worker.
#[derive(Debug)]
pub(crate) struct Rooms {
    asks: Vec<Sender<Ask>>,
    of: Vec<RoomOf>,
    /// Core of the thread that has pages put there.
    core: usize,
    /// Conntracks of the node that there may be room for, and that there is address space for.
    most: u32,
    reserved: u32,
    blocks: u32,
}

#[derive(Debug)]
struct RoomOf {
    /// Conntracks of the node that this worker's share is of, as there is room, as it is being made, and as it is to be.
    has: u32,
    making: u32,
    wanted: u32,
    /// When to look at it; none while there is nothing to do.
    look_at: Option<Instant>,
    /// It is to be told again how much there may be.
    remind: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Looking(Gather<Look>),
    Making(Receiver<io::Result<Room>>),
    Giving(Gather<Option<Box<Room>>>),
    Paging(Receiver<io::Result<()>>, Sizes),
    Raising(Gather<bool>),
    Refusing(Gather<()>),
    Emptying(Receiver<u64>),
}

/// What was seen of a worker's tables, and done to them on the spot.
#[derive(Debug)]
struct Look {
    standing: Standing,
    step: Step,
    /// Memory that the step needs pages in, and bytes of what comes after it.
    spans: Vec<Span>,
    later: u64,
    vacated: Vacated,
    spent: Option<Spent>,
}

/// What there is to tell of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// A worker has more or less room.
    Has { worker: usize, conntracks: usize },
    /// A worker wants room for so many conntracks, and there is no memory.
    NoMemory { worker: usize, conntracks: usize },
}

impl Rooms {
    pub(crate) fn new(config: &Config, asks: Vec<Sender<Ask>>, core: usize) -> Self {
        let start = config.dataplane.conntracks_start;
        let room = || RoomOf {
            has: start,
            making: start,
            wanted: start,
            look_at: Some(Instant::default()),
            remind: true,
            stage: Stage::Idle,
        };
        Self {
            of: asks.iter().map(|_| room()).collect(),
            asks,
            core,
            most: config.dataplane.conntracks_max,
            reserved: settings::conntracks_reserved(config),
            blocks: settings::blocks_max(config),
        }
    }

    /// Conntracks of the node that there is address space for.
    pub(crate) const fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Bytes that the machine lacks for the conntracks that a configuration allows, if it allows more than before.
    pub(crate) fn lacks_bytes(&self, config: &Config) -> Option<u64> {
        let more = u64::from(config.dataplane.conntracks_max.saturating_sub(self.most));
        let needed = more * CONNTRACK_BYTES + SPARE_BYTES;
        let available = machine::memory_available();
        (more > 0 && needed > available).then(|| needed - available)
    }

    /// Another configuration: what it says is made so.
    pub(crate) fn configure(&mut self, config: &Config) {
        let most = config.dataplane.conntracks_max;
        if most == self.most {
            return;
        }
        self.most = most;
        for of in &mut self.of {
            of.wanted = of.wanted.min(most);
            of.remind = true;
            of.look_at = Some(Instant::default());
        }
    }

    /// A worker wants more room.
    pub(crate) fn want(&mut self, worker: u16, now: Instant) {
        if let Some(of) = self.of.get_mut(usize::from(worker)) {
            of.wanted = of.has.saturating_mul(2).min(self.most);
            of.look_at = Some(now);
        }
    }

    /// Goes on with what there is to do; tells what has come of it.
    pub(crate) fn turn(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        for worker in 0..self.of.len() {
            let stage = core::mem::replace(&mut self.of[worker].stage, Stage::Idle);
            self.of[worker].stage = self.step(worker, stage, now, &mut told);
        }
        told
    }

    fn sizes(&self, conntracks: u32) -> Sizes {
        let workers = u16::try_from(self.of.len()).unwrap_or(u16::MAX);
        settings::sizes(conntracks, workers, self.blocks)
    }

    fn step(&mut self, worker: usize, stage: Stage, now: Instant, told: &mut Vec<Told>) -> Stage {
        match stage {
            Stage::Idle => self.idle(worker, now),
            Stage::Looking(mut look) => match look.poll() {
                Ok(None) => Stage::Looking(look),
                Ok(Some(looks)) => match looks.into_iter().next() {
                    Some(look) => self.seen(worker, look, now, told),
                    None => self.again(worker, now + LOOK_AGAIN_AFTER),
                },
                Err(_) => self.again(worker, now + LOOK_AGAIN_AFTER),
            },
            Stage::Making(room) => match room.try_recv() {
                Err(TryRecvError::Empty) => Stage::Making(room),
                Ok(Ok(room)) => self.give(worker, room),
                Ok(Err(error)) => {
                    tracing::error!(worker, %error, "no pages for more conntracks");
                    self.no_memory(worker, now, told)
                }
                Err(TryRecvError::Disconnected) => self.no_memory(worker, now, told),
            },
            Stage::Giving(mut given) => match given.poll() {
                Ok(None) => Stage::Giving(given),
                Ok(Some(answers)) => {
                    // It has changed in between: looked at again, and made anew.
                    if let Some(refused) = answers.into_iter().flatten().next() {
                        self.aside("room-free", move || drop(refused));
                        return self.again(worker, now + LOOK_AGAIN_AFTER);
                    }
                    self.again(worker, now)
                }
                Err(_) => self.again(worker, now + LOOK_AGAIN_AFTER),
            },
            Stage::Paging(done, sizes) => match done.try_recv() {
                Err(TryRecvError::Empty) => Stage::Paging(done, sizes),
                Ok(Ok(())) => Stage::Raising(Gather::one(&self.asks[worker], move |tables, _| {
                    Some(tables.raise(&sizes))
                })),
                Ok(Err(error)) => {
                    tracing::error!(worker, %error, "no pages for more conntracks");
                    self.no_pages(worker, now, told)
                }
                Err(TryRecvError::Disconnected) => self.no_pages(worker, now, told),
            },
            Stage::Raising(mut raised) => match raised.poll() {
                Ok(None) => Stage::Raising(raised),
                Ok(Some(answers)) if answers == [true] => self.again(worker, now),
                _ => self.again(worker, now + LOOK_AGAIN_AFTER),
            },
            Stage::Refusing(mut refused) => match refused.poll() {
                Ok(None) => Stage::Refusing(refused),
                Ok(Some(_)) => Stage::Idle,
                Err(_) => self.put_off(worker, now),
            },
            Stage::Emptying(done) => match done.try_recv() {
                Err(TryRecvError::Empty) => Stage::Emptying(done),
                Ok(bytes) => {
                    tracing::info!(worker, bytes, "memory of tables given back");
                    Stage::Idle
                }
                Err(TryRecvError::Disconnected) => Stage::Idle,
            },
        }
    }

    fn idle(&mut self, worker: usize, now: Instant) -> Stage {
        if self.of[worker].look_at.is_none_or(|at| now < at) {
            return Stage::Idle;
        }
        let wanted = self.sizes(self.of[worker].wanted);
        let most = self.sizes(self.most).conntracks;
        let of = &mut self.of[worker];
        of.look_at = None;
        of.making = of.wanted;
        let (remind, at_most) = (core::mem::take(&mut of.remind), of.wanted == self.most);
        Stage::Looking(Gather::one(&self.asks[worker], move |tables, _| {
            if remind {
                tables.set_most(most);
            }
            let spent = tables.take_spent();
            let standing = tables.standing();
            let step = standing.next(&wanted);
            let mut look = Look {
                standing,
                step,
                spans: Vec::new(),
                later: 0,
                vacated: Vacated::default(),
                spent,
            };
            match step {
                Step::Lower(sizes) => tables.set_limits(&sizes),
                Step::Give(sizes) => {
                    look.later = bytes(&tables.spans(&sizes));
                    look.spans = vec![tables.room_span(&sizes)];
                }
                Step::Raise(sizes) => look.spans = tables.spans(&sizes),
                Step::Wait => {}
                Step::Done => {
                    // Whoever still asks then has all there is.
                    if standing.asked && at_most {
                        tables.refuse_room();
                    }
                    look.vacated = tables.vacate();
                }
            }
            Some(look)
        }))
    }

    fn seen(&mut self, worker: usize, look: Look, now: Instant, told: &mut Vec<Told>) -> Stage {
        let Look {
            standing,
            step,
            spans,
            later,
            vacated,
            spent,
        } = look;
        if let Some(spent) = spent {
            self.aside("room-free", move || drop(spent));
        }
        match step {
            Step::Lower(sizes) => {
                self.of[worker].has = self.of[worker].making;
                told.push(Told::Has {
                    worker,
                    conntracks: sizes.conntracks,
                });
                self.again(worker, now)
            }
            Step::Wait => self.again(worker, now + LOOK_AGAIN_AFTER),
            // There was less address space to be had than was asked for.
            Step::Give(sizes) if !sizes.within(&standing.reserve) => self.no_memory(worker, now, told),
            Step::Give(sizes) => {
                let keys = sizes.conntracks as u64 + u64::from(sizes.nat.mappings);
                if !there_is_memory(bytes(&spans) + later + keys * INDEX_BYTES) {
                    return self.no_memory(worker, now, told);
                }
                Stage::Making(self.made("room-make", move || populate(&spans).map(|()| Room::new(sizes))))
            }
            Step::Raise(_) if !there_is_memory(bytes(&spans)) => self.no_pages(worker, now, told),
            Step::Raise(sizes) => {
                let done = self.made("room-pages", move || populate(&spans));
                Stage::Paging(done, sizes)
            }
            Step::Done => self.done(worker, &standing, vacated, now, told),
        }
    }

    /// A worker has what it was to have.
    fn done(
        &mut self,
        worker: usize,
        standing: &Standing,
        vacated: Vacated,
        now: Instant,
        told: &mut Vec<Told>,
    ) -> Stage {
        let conntracks = standing.sizes.conntracks;
        let of = &mut self.of[worker];
        if core::mem::replace(&mut of.has, of.making) != of.making {
            told.push(Told::Has { worker, conntracks });
        }
        // What has come was asked for before, and is three quarters taken again.
        if standing.asked && of.has < self.most {
            of.wanted = of.has.saturating_mul(2).min(self.most);
            return self.again(worker, now);
        }
        if standing.moving {
            return self.again(worker, now + LOOK_AGAIN_AFTER);
        }
        if !vacated.spans().is_empty() {
            return Stage::Emptying(self.made("room-free", move || large::give_back(&vacated)));
        }
        if standing.trailing {
            return self.again(worker, now + LOOK_BEHIND_AFTER);
        }
        Stage::Idle
    }

    /// What a job on a thread of its own makes.
    fn made<T: Send + 'static>(&self, name: &str, job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (to, made) = bounded(1);
        self.aside(name, move || {
            let _ = to.send(job());
        });
        made
    }

    fn give(&self, worker: usize, room: Room) -> Stage {
        let mut room = Some(room);
        Stage::Giving(Gather::one(&self.asks[worker], move |tables, _| {
            Some(room.take().and_then(|room| tables.adopt(room).err()))
        }))
    }

    /// What there is stays; more may be asked for again later.
    fn no_memory(&mut self, worker: usize, now: Instant, told: &mut Vec<Told>) -> Stage {
        self.of[worker].wanted = self.of[worker].has;
        self.no_pages(worker, now, told)
    }

    /// There are indexes, and some of the pages: those that lack are tried again later.
    fn no_pages(&mut self, worker: usize, now: Instant, told: &mut Vec<Told>) -> Stage {
        told.push(Told::NoMemory {
            worker,
            conntracks: self.sizes(self.of[worker].making).conntracks,
        });
        self.put_off(worker, now)
    }

    /// A worker waits for no more until it is told again how much there may be.
    fn put_off(&mut self, worker: usize, now: Instant) -> Stage {
        let of = &mut self.of[worker];
        of.remind = true;
        of.look_at = Some(now + ASK_AGAIN_AFTER);
        Stage::Refusing(Gather::one(&self.asks[worker], |tables, _| {
            tables.refuse_room();
            Some(())
        }))
    }

    fn again(&mut self, worker: usize, at: Instant) -> Stage {
        self.of[worker].look_at = Some(at);
        Stage::Idle
    }

    /// On a thread of its own. Without one it is done when its closure is dropped or not at all, and looked at again.
    fn aside(&self, name: &str, job: impl FnOnce() + Send + 'static) {
        if let Err(error) = thread::spawn(name, self.core, job) {
            tracing::error!(%error, "no thread for the tables' memory");
        }
    }
}

fn bytes(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.bytes as u64).sum()
}

fn there_is_memory(bytes: u64) -> bool {
    bytes + SPARE_BYTES <= machine::memory_available()
}

/// Has pages put there, and everything else wait for it: not the agent's to do.
fn populate(spans: &[Span]) -> io::Result<()> {
    for &span in spans {
        match large::populate(span) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::warn!("the kernel is older than 5.14: packets wait for new pages of tables");
                break;
            }
            result => result?,
        }
    }
    Ok(())
}
