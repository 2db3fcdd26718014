//! Questions that only workers can answer: each becomes a visitor that looks at a slice of a worker's tables per
//! turn and sends what it found. The agent never waits; it polls the answers of its open questions every turn.

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use ctl::report::{
    BlockRow, ConntrackFilter, ConntrackRow, FlowCount, FlowCounts, FlowState, NatReport, Page, Rows, Tuple,
    UserRow,
};
use dataplane::conntrack::{Conntrack, Counted};
use dataplane::delta::Class;
use dataplane::flow::{Direction, FlowKey, VrfId};
use dataplane::inbox::{Ask, Visited, Visitor};
use dataplane::nat::{self, Nat};
use dataplane::tables::Tables;
use dataplane::time::Instant;

use super::facts::Names;
use std::net::IpAddr;

/// Places of an arena looked at per turn: a few microseconds.
const SLICE: u32 = 512;

/// Rows of one page at most.
pub(crate) const ROWS_MAX: u32 = 2_000;

/// Answers of all workers, collected as they come.
#[derive(Debug)]
pub(crate) struct Gather<T> {
    from: Receiver<(usize, T)>,
    answers: Vec<Option<T>>,
}

impl<T: Send + 'static> Gather<T> {
    /// Asks every worker; `look` is called once on each.
    pub(crate) fn once(
        workers: &[Sender<Ask>],
        look: impl Fn(&mut Tables, Instant) -> T + Clone + Send + 'static,
    ) -> Self {
        Self::sliced(workers, move || {
            let look = look.clone();
            move |tables: &mut Tables, now| Some(look(tables, now))
        })
    }

    /// Asks every worker with a visitor of its own from `make`, called once per turn until it has an answer.
    pub(crate) fn sliced<V>(workers: &[Sender<Ask>], make: impl Fn() -> V) -> Self
    where
        V: FnMut(&mut Tables, Instant) -> Option<T> + Send + 'static,
    {
        let (to, from) = bounded(workers.len().max(1));
        for (number, worker) in workers.iter().enumerate() {
            send(worker, number, to.clone(), make());
        }
        Self {
            from,
            answers: workers.iter().map(|_| None).collect(),
        }
    }

    /// Asks one worker.
    pub(crate) fn one<V>(worker: &Sender<Ask>, visit: V) -> Self
    where
        V: FnMut(&mut Tables, Instant) -> Option<T> + Send + 'static,
    {
        let (to, from) = bounded(1);
        send(worker, 0, to, visit);
        Self {
            from,
            answers: vec![None],
        }
    }

    /// All answers in worker order once they are there; an error when a worker is gone.
    pub(crate) fn poll(&mut self) -> Result<Option<Vec<T>>, WorkerGone> {
        loop {
            match self.from.try_recv() {
                Ok((number, answer)) => self.answers[number] = Some(answer),
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        // All senders are gone: every worker has answered or dropped the question.
        self.answers
            .iter_mut()
            .map(Option::take)
            .collect::<Option<Vec<T>>>()
            .map(Some)
            .ok_or(WorkerGone)
    }
}

/// A worker dropped a question: its inbox was full, or it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker is too busy to answer; try again")]
pub(crate) struct WorkerGone;

fn send<T, V>(worker: &Sender<Ask>, number: usize, to: Sender<(usize, T)>, mut visit: V)
where
    T: Send + 'static,
    V: FnMut(&mut Tables, Instant) -> Option<T> + Send + 'static,
{
    let visitor = Visitor::new(move |tables, now| match visit(tables, now) {
        None => Visited::More,
        Some(answer) => {
            // The agent may have given up waiting.
            let _ = to.try_send((number, answer));
            Visited::Done
        }
    });
    // A full inbox drops the question, and with it the sender: `poll` notices.
    let _ = worker.try_send(Ask::Visit(visitor));
}

/// Where a listing over all workers stands: worker in the high half, place in the low one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    pub(crate) worker: usize,
    place: u32,
}

impl Cursor {
    pub(crate) fn of(page: Page) -> Self {
        let word = page.cursor.unwrap_or(0);
        Self {
            worker: (word >> 32) as usize,
            place: u32::try_from(word & 0xffff_ffff).unwrap_or(0),
        }
    }

    fn word(worker: usize, place: u32) -> u64 {
        (worker as u64) << 32 | u64::from(place)
    }

    /// Where to go on after worker `worker` of `workers` was left at `next`.
    fn next(worker: usize, workers: usize, next: Option<u32>) -> Option<u64> {
        match next {
            Some(place) => Some(Self::word(worker, place)),
            None if worker + 1 < workers => Some(Self::word(worker + 1, 0)),
            None => None,
        }
    }
}

/// One page of conntracks, from the worker the cursor names.
pub(crate) fn conntracks(
    workers: &[Sender<Ask>],
    vrf: VrfId,
    filter: ConntrackFilter,
    page: Page,
    names: Names,
) -> Option<Gather<Rows<ConntrackRow>>> {
    let at = Cursor::of(page);
    let total = workers.len();
    let limit = page.limit.clamp(1, ROWS_MAX) as usize;
    let mut place = at.place;
    let mut rows = Vec::new();
    Some(Gather::one(workers.get(at.worker)?, move |tables, now| {
        for _ in 0..SLICE {
            let next = tables.conntracks.next_live(place).filter(|_| rows.len() < limit);
            let Some(id) = next else {
                let resume = (rows.len() >= limit).then_some(place);
                let rows = core::mem::take(&mut rows);
                return Some(Rows {
                    rows,
                    next: Cursor::next(at.worker, total, resume),
                });
            };
            place = id + 1;
            let conntrack = &tables.conntracks[id];
            if tables.is_over(now, id) {
                continue;
            }
            if conntrack.vrf() == vrf && wanted(conntrack, &filter, &names) {
                rows.push(conntrack_row(conntrack, at.worker, now, &names));
            }
        }
        None
    }))
}

/// What becomes of matching conntracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// The active node ends them; a standby keeps its copies.
    End,
    /// As that, and a standby forgets its copies, telling nobody.
    Lose,
}

/// Counts, or with `flush` removes, matching conntracks on every worker.
pub(crate) fn count(
    workers: &[Sender<Ask>],
    vrf: Option<VrfId>,
    filter: &ConntrackFilter,
    names: &Names,
    flush: Option<Flush>,
) -> Gather<u64> {
    Gather::sliced(workers, || {
        let (filter, names) = (filter.clone(), names.clone());
        let (mut place, mut count) = (0, 0_u64);
        move |tables: &mut Tables, now: Instant| {
            if flush.is_some() && tables.is_changing_hands() {
                return None;
            }
            for _ in 0..SLICE {
                let Some(id) = tables.conntracks.next_live(place) else {
                    return Some(count);
                };
                place = id + 1;
                if tables.is_over(now, id) {
                    continue;
                }
                let conntrack = &tables.conntracks[id];
                let inside = conntrack.vrf();
                if vrf.is_none_or(|v| v == inside) && wanted(conntrack, &filter, &names) {
                    // Only the active node ends conntracks; a standby's would come back with the next record.
                    match flush {
                        Some(_) if tables.is_active(inside) => {
                            tables.remove(now, id);
                            tables.counters.conntracks_flushed += 1;
                        }
                        Some(Flush::Lose) => tables.discard(now, id),
                        Some(Flush::End) => continue,
                        None => {}
                    }
                    count += 1;
                }
            }
            None
        }
    })
}

/// One page of subscribers.
pub(crate) fn users(
    workers: &[Sender<Ask>],
    vrf: VrfId,
    page: Page,
    names: Names,
) -> Option<Gather<Rows<UserRow>>> {
    listing(workers, page, Nat::users, move |_, row: &nat::UserRow| {
        (row.vrf == vrf).then(|| UserRow {
            subscriber: row.subscriber.ip(),
            pool: names.pool(row.pool),
            address: v4(row.address.ip()),
            blocks: u16::try_from(row.blocks).unwrap_or(u16::MAX),
            ports_used: row.used,
            mappings: row.used + row.resting,
        })
    })
}

/// One page of port blocks.
pub(crate) fn blocks(
    workers: &[Sender<Ask>],
    vrf: VrfId,
    page: Page,
    names: Names,
) -> Option<Gather<Rows<BlockRow>>> {
    listing(workers, page, Nat::blocks, move |worker, row: &nat::BlockRow| {
        (row.vrf == vrf).then(|| BlockRow {
            pool: names.pool(row.pool),
            address: v4(row.address.ip()),
            port_first: row.port_first,
            port_last: row.port_last,
            subscriber: row.subscriber.ip(),
            grant: row.grant,
            owner: names.grantor(row.grant),
            ports_used: u16::try_from(row.used).unwrap_or(u16::MAX),
            worker: u16::try_from(worker).unwrap_or(u16::MAX),
            slot: row.slot,
        })
    })
}

fn listing<R, T>(
    workers: &[Sender<Ask>],
    page: Page,
    slice: fn(&Nat, u32, u32, &mut Vec<R>) -> Option<u32>,
    row: impl Fn(usize, &R) -> Option<T> + Send + 'static,
) -> Option<Gather<Rows<T>>>
where
    R: Send + 'static,
    T: Send + 'static,
{
    let at = Cursor::of(page);
    let total = workers.len();
    let limit = page.limit.clamp(1, ROWS_MAX) as usize;
    let mut place = Some(at.place);
    let mut rows: Vec<T> = Vec::new();
    let mut raw = Vec::new();
    Some(Gather::one(workers.get(at.worker)?, move |tables, _| {
        let from = place.filter(|_| rows.len() < limit);
        let Some(from) = from else {
            let rows = core::mem::take(&mut rows);
            return Some(Rows {
                rows,
                next: Cursor::next(at.worker, total, place),
            });
        };
        place = slice(&tables.nat, from, SLICE, &mut raw);
        rows.extend(raw.drain(..).filter_map(|r| row(at.worker, &r)));
        None
    }))
}

fn wanted(conntrack: &Conntrack, filter: &ConntrackFilter, names: &Names) -> bool {
    let owner = names.owner(conntrack.sync.version.term);
    filter.matches(
        conntrack.proto(),
        &tuple(&conntrack.key(Direction::Original)),
        flow_state(conntrack.class),
        owner,
    )
}

fn conntrack_row(conntrack: &Conntrack, worker: usize, now: Instant, names: &Names) -> ConntrackRow {
    let version = conntrack.sync.version;
    let [original, reply] = &conntrack.keys();
    ConntrackRow {
        protocol: conntrack.proto(),
        state: flow_state(conntrack.class),
        vrf: names.vrf(original.vrf),
        reply_vrf: names.vrf(reply.vrf),
        original: tuple(original),
        reply: tuple(reply),
        nat: conntrack.nat().map(|n| NatReport {
            grant: n.part.grant,
            mapping: n.part.mapping,
        }),
        owner: names.owner(version.term),
        lifetime_s: conntrack.lifetime_s(now),
        counted: conntrack.counted().map(|counted| flow_counts(&counted)),
        worker: u16::try_from(worker).unwrap_or(u16::MAX),
        slot: conntrack.slot,
        term: version.term.0,
        counter: version.counter,
    }
}

fn flow_counts(counted: &Counted) -> FlowCounts {
    let of = |direction: Direction| FlowCount {
        packets: counted.packets[direction.index()],
        bytes: counted.bytes[direction.index()],
    };
    FlowCounts {
        original: of(Direction::Original),
        reply: of(Direction::Reply),
    }
}

/// A tuple in the words of reports.
pub(crate) fn tuple(key: &FlowKey) -> Tuple {
    Tuple {
        src: key.src.ip(),
        src_port: key.src_port,
        dst: key.dst.ip(),
        dst_port: key.dst_port,
    }
}

pub(crate) const fn flow_state(class: Class) -> FlowState {
    match class {
        Class::Opening => FlowState::Opening,
        Class::Established => FlowState::Established,
        Class::Closing => FlowState::Closing,
    }
}

fn v4(ip: IpAddr) -> std::net::Ipv4Addr {
    match ip {
        IpAddr::V4(a) => a,
        IpAddr::V6(_) => std::net::Ipv4Addr::UNSPECIFIED,
    }
}
