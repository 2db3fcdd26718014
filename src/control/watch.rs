//! Follows the kernel: one [`Kernel`] and one mirror per namespace, changes gathered for a few milliseconds, then
//! one whole [`Forwarding`] when it differs from the last one. Also the place where wanted neighbours are asked
//! for, because the answers come back here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use dataplane::config::{Forwarding, InterfaceId};
use dataplane::time::Instant;

use super::mirror::{Mirror, Outcome};
use super::netlink::{Kernel, NetlinkError};
use super::resolver::{Known, Resolver};
use super::vrf::{KernelMap, Mirrors};

/// Quiet time after which gathered changes are published.
const QUIET: Duration = Duration::from_millis(3);
/// Changes that never pause are published this often.
const GATHER_MAX: Duration = Duration::from_millis(20);
/// Between two full readings.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Between two attempts to open a namespace that isn't there.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Something rarely missed is never missed forever.
const AUDIT: Duration = Duration::from_secs(60);

/// The watcher of all namespaces of a configuration.
#[derive(Debug)]
pub struct Watch {
    map: KernelMap,
    namespaces: Vec<Namespace>,
    mirrors: Mirrors,
    resolver: Resolver,
    gathering: Option<Gathering>,
    published: Option<Forwarding>,
    readings: u64,
    overruns: u64,
}

#[derive(Debug)]
struct Namespace {
    name: Option<String>,
    kernel: Option<Kernel>,
    /// Full reading due.
    read_at: Option<Instant>,
    last_read: Instant,
    audit_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Gathering {
    first: Instant,
    last: Instant,
}

impl Watch {
    /// A watcher that has seen nothing yet; its first [`Self::turn`] reads everything.
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
                audit_at: now + AUDIT,
            })
            .collect();
        Self {
            map,
            namespaces,
            mirrors: Mirrors::new(),
            resolver: Resolver::default(),
            gathering: None,
            published: None,
            readings: 0,
            overruns: 0,
        }
    }

    /// Does what is due, and returns reachability when it has changed.
    pub fn turn(&mut self, now: Instant) -> Option<&Forwarding> {
        let mut changed = false;
        for namespace in &mut self.namespaces {
            changed |= namespace.follow(&mut self.mirrors, &mut self.overruns, now);
            let read = namespace.read_if_due(&mut self.mirrors, now);
            self.readings += u64::from(read);
            changed |= read;
        }
        if changed {
            let first = self.gathering.map_or(now, |g| g.first);
            self.gathering = Some(Gathering { first, last: now });
        }
        self.resolve(now);
        self.publish(now)
    }

    /// The configuration says something else of reachability. Returns all of it, when anything has been published.
    pub fn set_fixed(&mut self, fixed: Forwarding, now: Instant) -> Option<&Forwarding> {
        self.map.fixed = fixed;
        self.published.as_ref()?;
        self.gathering = Some(Gathering {
            first: Instant::default(),
            last: Instant::default(),
        });
        self.publish(now)
    }

    /// A packet waits for this neighbour.
    pub fn want(&mut self, interface: InterfaceId, address: IpAddr, now: Instant) {
        if address.is_multicast() || address.is_unspecified() || address.is_loopback() {
            return;
        }
        self.resolver.want((interface, address), now);
    }

    /// Reachability as last returned by [`Self::turn`].
    #[must_use]
    pub const fn published(&self) -> Option<&Forwarding> {
        self.published.as_ref()
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
        let mut next = self.resolver.next_turn();
        if let Some(gathering) = self.gathering {
            next = next.min(gathering.due());
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

    fn publish(&mut self, now: Instant) -> Option<&Forwarding> {
        if self.gathering.is_none_or(|g| now < g.due()) {
            return None;
        }
        self.gathering = None;
        let forwarding = self.map.assemble(&self.mirrors);
        let gateways: BTreeSet<_> = forwarding
            .routes
            .iter()
            .flat_map(|route| &route.via)
            .filter_map(|hop| Some((hop.interface, hop.gateway?)))
            .collect();
        self.resolver.set_gateways(gateways, now);
        if self.published.as_ref() == Some(&forwarding) {
            return None;
        }
        self.published = Some(forwarding);
        self.published.as_ref()
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
        let mirror = mirrors.entry(self.name.clone()).or_default();
        let mut different = false;
        match kernel.follow() {
            Ok(changes) => {
                for change in changes {
                    match mirror.apply(change) {
                        Outcome::Same => {}
                        Outcome::Changed => different = true,
                        Outcome::Unsure => self.read_soon(now),
                    }
                }
            }
            Err(error) => {
                tracing::info!(%error, namespace = self.name, "reading the kernel's tables again");
                match error {
                    NetlinkError::Overrun => *overruns += 1,
                    _ => self.kernel = None,
                }
                self.read_soon(now);
            }
        }
        different
    }

    fn read_soon(&mut self, now: Instant) {
        self.read_at
            .get_or_insert(now.max(self.last_read + READ_AGAIN_AFTER));
    }

    /// Reads everything when it is due; whether the mirror is different.
    fn read_if_due(&mut self, mirrors: &mut Mirrors, now: Instant) -> bool {
        if now >= self.audit_at {
            self.audit_at = now + AUDIT;
            // A namespace may have been replaced by another of its name.
            if self.name.is_some() {
                self.kernel = None;
            }
            self.read_soon(now);
        }
        if self.read_at.is_none_or(|at| now < at) {
            return false;
        }
        self.last_read = now;
        match self.read() {
            Ok(mirror) => {
                self.read_at = None;
                mirrors.insert(self.name.clone(), mirror);
                true
            }
            Err(error) => {
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

    fn read(&mut self) -> Result<Mirror, NetlinkError> {
        let mut kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open(self.name.as_deref())?,
        };
        let reading = kernel.read_all();
        self.kernel = Some(kernel);
        Ok(Mirror::of(reading?))
    }
}
