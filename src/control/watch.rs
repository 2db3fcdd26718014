//! Follows the kernel: one [`Kernel`] and one mirror per namespace. Changes are gathered for a few milliseconds, then told:
//! first everything, afterwards what has changed. Also the place where wanted neighbours are asked for, because the answers come
//! back here.
//!
//! A routing table may be as large as the Internet's, and the thread that turns this has other things to do within
//! milliseconds. So reading and telling are cut into slices, and a change is told by the routes that it concerns.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use dataplane::config::{Forwarding, ForwardingPart, InterfaceId, Route};
use dataplane::flow::VrfId;
use dataplane::time::Instant;
use ipnet::IpNet;

use super::message::Change;
use super::mirror::{Mirror, Outcome};
use super::netlink::{Kernel, NetlinkError, Progress, READINGS_MAX, TABLES};
use super::resolver::{Known, Resolver};
use super::vrf::{Ground, KernelMap, Mirrors};

/// Quiet time after which gathered changes are published.
const QUIET: Duration = Duration::from_millis(3);
/// Changes that never pause are published this often.
const GATHER_MAX: Duration = Duration::from_millis(20);
/// Where telling is slow, this many times as long passes before the next time.
const PAUSE_TIMES: u32 = 4;
/// Routes of one part.
const PART_ROUTES: usize = 16_384;
/// Datagrams of a reading taken in at once, with some hundred routes each.
const READ_DATAGRAMS: usize = 24;
/// Between two full readings; and this many times as long as one takes.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(50);
const READ_AGAIN_TIMES: u32 = 2;
/// Between two attempts to open a namespace that isn't there.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Something rarely missed is never missed forever. Again, at least so many times as long as a reading takes.
const AUDIT: Duration = Duration::from_secs(60);
const AUDIT_TIMES: u32 = 100;

/// The watcher of all namespaces of a configuration.
#[derive(Debug)]
pub struct Watch {
    map: KernelMap,
    namespaces: Vec<Namespace>,
    mirrors: Mirrors,
    resolver: Resolver,
    gathering: Option<Gathering>,
    /// Nothing new is told before.
    told_again_at: Instant,
    /// What has been told, routes apart, and what it was understood by; none when all of it has to be told again.
    told: Option<(Ground, Forwarding)>,
    telling: Option<Telling>,
    readings: u64,
    overruns: u64,
}

/// What is still to be told.
#[derive(Debug)]
enum Telling {
    /// Every route behind this one.
    All(Option<(VrfId, IpNet)>),
    /// These.
    Changes(BTreeSet<(VrfId, IpNet)>),
}

#[derive(Debug)]
struct Namespace {
    name: Option<String>,
    kernel: Option<Kernel>,
    /// Full reading due.
    read_at: Option<Instant>,
    last_read: Instant,
    /// How long the last full reading took.
    took: Duration,
    audit_at: Instant,
    reading: Option<Reading>,
    /// What the first reading has brought so far.
    young: Option<Mirror>,
}

/// A full reading under way.
#[derive(Debug)]
struct Reading {
    table: usize,
    tries: u32,
    began: Instant,
    /// What changed since this table was begun.
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy)]
struct Gathering {
    first: Instant,
    last: Instant,
}

impl Watch {
    /// A watcher that has seen nothing yet; its first [`Self::turn`] begins to read everything.
    #[must_use]
    pub fn new(map: KernelMap, now: Instant) -> Self {
        let namespaces = map
            .namespaces()
            .into_iter()
            .map(|name| Namespace {
                name,
                kernel: None,
                read_at: Some(now),
                last_read: Instant::default(),
                took: Duration::ZERO,
                audit_at: now + AUDIT,
                reading: None,
                young: Some(Mirror::default()),
            })
            .collect();
        Self {
            map,
            namespaces,
            mirrors: Mirrors::new(),
            resolver: Resolver::default(),
            gathering: None,
            told_again_at: now,
            told: None,
            telling: None,
            readings: 0,
            overruns: 0,
        }
    }

    /// Does what is due, and returns what there is to tell.
    pub fn turn(&mut self, now: Instant) -> Option<ForwardingPart> {
        let mut changed = false;
        for namespace in &mut self.namespaces {
            changed |= namespace.follow(&mut self.mirrors, &mut self.overruns, now);
            let read = namespace.read_if_due(&mut self.mirrors, now);
            self.readings += u64::from(read);
            changed |= read;
        }
        if changed {
            self.gather(now);
        }
        self.resolve(now);
        if self.telling.is_none()
            && self
                .gathering
                .is_some_and(|g| now >= g.due().max(self.told_again_at))
        {
            self.gathering = None;
            return self.begin_telling(now);
        }
        self.next_part()
    }

    /// How long it took to tell what the last turn returned: it is paid for by whoever else waits for the same threads.
    pub fn took(&mut self, took: Duration, now: Instant) {
        self.told_again_at = now + took * PAUSE_TIMES;
    }

    /// Everything, to whoever hears it for the first time; nothing before the kernel has been read.
    pub fn whole(&mut self) -> impl Iterator<Item = ForwardingPart> + '_ {
        let read = !self.mirrors.is_empty();
        if read {
            self.tell_all();
        }
        std::iter::from_fn(move || if read { self.next_part() } else { None })
    }

    /// The configuration says something else of reachability: all of it is told again.
    pub fn set_fixed(&mut self, fixed: Forwarding) {
        self.map.fixed = fixed;
        if self.told.take().is_some() {
            self.telling = None;
            self.gathering = Some(Gathering {
                first: Instant::default(),
                last: Instant::default(),
            });
            self.told_again_at = Instant::default();
        }
    }

    /// A packet waits for this neighbour.
    pub fn want(&mut self, interface: InterfaceId, address: IpAddr, now: Instant) {
        if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            return;
        }
        self.resolver.want((interface, address), now);
    }

    /// Namespace and number of the table that a VRF's routes come from, as far as the kernel has been read.
    #[must_use]
    pub fn table(&self, vrf: VrfId) -> Option<(Option<String>, u32)> {
        self.map.table(vrf, &self.mirrors)
    }

    /// Descriptors that become readable when there is something to follow.
    pub fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.namespaces
            .iter()
            .filter_map(|n| Some(n.kernel.as_ref()?.readable()))
    }

    /// When [`Self::turn`] has something to do even if nothing becomes readable.
    #[must_use]
    pub fn next_turn(&self) -> Instant {
        if self.telling.is_some() || self.namespaces.iter().any(|n| n.reading.is_some()) {
            return Instant::default();
        }
        let mut next = self.resolver.next_turn();
        if let Some(gathering) = self.gathering {
            next = next.min(gathering.due().max(self.told_again_at));
        }
        for namespace in &self.namespaces {
            next = next
                .min(namespace.audit_at)
                .min(namespace.read_at.unwrap_or(next));
        }
        next
    }

    /// Full readings made.
    #[must_use]
    pub const fn readings(&self) -> u64 {
        self.readings
    }

    /// Times that the kernel had to throw notifications away.
    #[must_use]
    pub const fn overruns(&self) -> u64 {
        self.overruns
    }

    /// Shrinks what the kernel may queue for every namespace, so that losing notifications can be provoked.
    ///
    /// # Errors
    /// When a socket refuses.
    pub fn limit_queue(&self, bytes: i32) -> Result<(), NetlinkError> {
        self.namespaces
            .iter()
            .filter_map(|n| n.kernel.as_ref())
            .try_for_each(|kernel| kernel.limit_queue(bytes))
    }

    fn gather(&mut self, now: Instant) {
        let first = self.gathering.map_or(now, |g| g.first);
        self.gathering = Some(Gathering { first, last: now });
    }

    fn begin_telling(&mut self, now: Instant) -> Option<ForwardingPart> {
        let ground = self.map.ground(&self.mirrors);
        self.resolver
            .set_gateways(self.map.gateways(&ground, &self.mirrors), now);
        let rest = self.map.without_routes(&ground, &self.mirrors);
        let mut changes = BTreeSet::new();
        for (netns, mirror) in &mut self.mirrors {
            mirror.note_changes();
            for (table, prefix) in mirror.take_changes() {
                changes.extend(ground.vrfs_of(netns, table).map(|vrf| (vrf, prefix)));
            }
        }
        let before = self.told.replace((ground, rest));
        let now_told = self.told.as_ref();
        match before {
            Some(before) if now_told.is_some_and(|(ground, _)| *ground == before.0) => {
                if changes.is_empty() && now_told.is_some_and(|(_, rest)| *rest == before.1) {
                    return None;
                }
                self.telling = Some(Telling::Changes(changes));
            }
            _ => self.telling = Some(Telling::All(None)),
        }
        self.next_part()
    }

    fn tell_all(&mut self) {
        let ground = self.map.ground(&self.mirrors);
        let rest = self.map.without_routes(&ground, &self.mirrors);
        for mirror in self.mirrors.values_mut() {
            mirror.note_changes();
            mirror.take_changes();
        }
        self.told = Some((ground, rest));
        self.telling = Some(Telling::All(None));
    }

    /// The next part of what is being told.
    fn next_part(&mut self) -> Option<ForwardingPart> {
        let (ground, rest) = self.told.as_ref()?;
        let telling = self.telling.take()?;
        let mut begins = false;
        let routes: Vec<Route>;
        let left = match telling {
            Telling::All(after) => {
                begins = after.is_none();
                let fixed = if begins { self.map.fixed.routes.len() } else { 0 };
                let all = self.map.routes(ground, &self.mirrors, after);
                routes = all.take(PART_ROUTES + fixed).collect();
                let last = routes.last().map(|last| (last.vrf, last.prefix));
                (routes.len() >= PART_ROUTES + fixed).then_some(Telling::All(last))
            }
            Telling::Changes(mut changes) => {
                let split = changes.iter().nth(PART_ROUTES).copied();
                let later = split.map(|first| changes.split_off(&first));
                let route =
                    |&(vrf, prefix): &(VrfId, IpNet)| self.map.route(ground, &self.mirrors, vrf, prefix);
                routes = changes.iter().map(route).collect();
                later.map(Telling::Changes)
            }
        };
        let forwarding = Forwarding {
            routes,
            ..rest.clone()
        };
        self.telling = left;
        Some(ForwardingPart {
            begins,
            ends: self.telling.is_none(),
            forwarding,
        })
    }

    fn resolve(&mut self, now: Instant) {
        if now < self.resolver.next_turn() {
            return;
        }
        let (map, mirrors) = (&self.map, &self.mirrors);
        let ids = map.known(mirrors);
        let fixed = &map.fixed.neighbors;
        let known = |&(interface, address): &(InterfaceId, IpAddr)| {
            if fixed
                .iter()
                .any(|n| n.interface == interface && n.address == address)
            {
                return Known::Yes;
            }
            let entry = map
                .locate(interface, mirrors)
                .and_then(|(netns, link)| mirrors.get(&netns)?.neighbor(link, address));
            entry.map_or(Known::No, |n| if n.stale { Known::Stale } else { Known::Yes })
        };
        let stale = mirrors.iter().flat_map(|(netns, mirror)| {
            let ids = &ids;
            mirror
                .neighbors()
                .filter(|(_, _, n)| n.stale)
                .filter_map(move |(link, address, _)| Some((*ids.get(&(netns.clone(), link))?, address)))
        });
        for (interface, address) in self.resolver.turn(now, known, stale) {
            let Some((netns, link)) = self.map.locate(interface, &self.mirrors) else {
                continue;
            };
            let namespace = self.namespaces.iter_mut().find(|n| n.name == netns);
            let Some(kernel) = namespace.and_then(|n| n.kernel.as_mut()) else {
                continue;
            };
            if let Err(error) = kernel.resolve(link, address) {
                tracing::debug!(%error, %address, "a neighbour can't be asked for now");
            }
        }
    }
}

impl Gathering {
    fn due(self) -> Instant {
        (self.last + QUIET).min(self.first + GATHER_MAX)
    }
}

impl Namespace {
    /// Takes in what was notified; whether something is different.
    fn follow(&mut self, mirrors: &mut Mirrors, overruns: &mut u64, now: Instant) -> bool {
        let Some(kernel) = &mut self.kernel else {
            return false;
        };
        let mut different = false;
        match kernel.follow() {
            Ok(changes) => {
                let mut unsure = false;
                let known = self.young.is_none();
                if let Some(mirror) = self.young.as_mut().or_else(|| mirrors.get_mut(&self.name)) {
                    for change in &changes {
                        match mirror.apply(change.clone()) {
                            Outcome::Same => {}
                            Outcome::Changed => different = known,
                            Outcome::Unsure => unsure = true,
                        }
                    }
                }
                if let Some(reading) = &mut self.reading {
                    reading.changes.extend(changes);
                }
                if unsure {
                    self.read_soon(now);
                }
            }
            Err(error) => {
                tracing::info!(%error, namespace = self.name, "reading the kernel's tables again");
                match error {
                    NetlinkError::Overrun => *overruns += 1,
                    _ => self.kernel = None,
                }
                // What was lost may be of a table that has been read already.
                self.reading = self.reading.take().filter(|_| self.kernel.is_some());
                self.read_soon(now);
            }
        }
        different
    }

    fn read_soon(&mut self, now: Instant) {
        let pause = READ_AGAIN_AFTER.max(self.took * READ_AGAIN_TIMES);
        self.read_at.get_or_insert(now.max(self.last_read + pause));
    }

    /// Reads everything when it is due, some of it at a time; whether that has come to an end.
    fn read_if_due(&mut self, mirrors: &mut Mirrors, now: Instant) -> bool {
        if now >= self.audit_at {
            self.audit_at = now + AUDIT.max(self.took * AUDIT_TIMES);
            // A namespace may have been replaced by another of its name.
            if self.name.is_some() {
                self.kernel = None;
                self.reading = None;
            }
            self.read_soon(now);
        }
        if self.reading.is_none() {
            if self.read_at.is_none_or(|at| now < at) {
                return false;
            }
            self.read_at = None;
        }
        match self.read(mirrors, now) {
            Ok(false) => false,
            Ok(true) => {
                self.last_read = now;
                self.took = self.reading.take().map_or(Duration::ZERO, |r| now.since(r.began));
                if let Some(mirror) = self.young.take() {
                    mirrors.insert(self.name.clone(), mirror);
                }
                true
            }
            Err(error) => {
                self.reading = None;
                let wait = if self.kernel.is_some() {
                    READ_AGAIN_AFTER
                } else {
                    OPEN_AGAIN_AFTER
                };
                tracing::warn!(%error, namespace = self.name, "the kernel's tables can't be read; trying again");
                self.read_at = Some(now + wait);
                false
            }
        }
    }

    /// Goes on reading; true when everything has been read.
    fn read(&mut self, mirrors: &mut Mirrors, now: Instant) -> Result<bool, NetlinkError> {
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open(self.name.as_deref())?,
        };
        let mirror = match &mut self.young {
            Some(young) => young,
            None => mirrors.entry(self.name.clone()).or_default(),
        };
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                kernel.begin(0)?;
                mirror.begin_table();
                Reading::beginning(now)
            }
        };
        let mut read = Vec::new();
        for _ in 0..READ_DATAGRAMS {
            // An error leaves no kernel behind: what it would still answer would be taken for an answer to something else.
            let progress = kernel.read(&mut read)?;
            read.drain(..).for_each(|change| mirror.read(change));
            match progress {
                Progress::More => continue,
                Progress::Done { whole: true } => {
                    mirror.end_table(reading.table, reading.changes.drain(..));
                    reading.table += 1;
                    reading.tries = 0;
                }
                Progress::Done { whole: false } => reading.tries += 1,
            }
            if reading.table == TABLES {
                self.kernel = Some(kernel);
                self.reading = Some(reading);
                return Ok(true);
            }
            if reading.tries >= READINGS_MAX {
                self.kernel = Some(kernel);
                return Err(NetlinkError::Restless);
            }
            reading.changes.clear();
            kernel.begin(reading.table)?;
            mirror.begin_table();
        }
        self.kernel = Some(kernel);
        self.reading = Some(reading);
        Ok(false)
    }
}

impl Reading {
    const fn beginning(now: Instant) -> Self {
        Self {
            table: 0,
            tries: 0,
            began: now,
            changes: Vec::new(),
        }
    }
}
