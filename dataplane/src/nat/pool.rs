//! Pools of public addresses, shared by all workers: whose each public port is, and where free blocks are.
//!
//! Made from the configuration when the process starts, and made anew, beside the packet path, when it changes: each
//! worker goes over to the new one between two bursts, with the snapshot that carries it. What pools are made of, their
//! [`Lot`]s, is the same memory in both, so that whoever holds a block holds it in both.
//!
//! Pools and lots have numbers that stay theirs as long as anybody may hold a block of them; a pool is known by its VRF and
//! name, an address by itself. What was taken out of the configuration is kept, not served, until its last block is
//! given back, and forgotten at the next change after that. Only then can its addresses be in another pool.

use core::net::Ipv4Addr;
use std::sync::Arc;

use thiserror::Error;

use super::grant::grant_id;
use super::lot::Lot;
use super::random::Random;
use crate::atomic::{AtomicU64, Ordering};
use crate::config::{Intent, PoolIntent};
use crate::delta::Term;
use crate::flow::{Addr, VrfId};
use crate::share::{Half, Part};

/// A pool, by the VRF that it is configured in and its place there.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolRef {
    /// VRF of the public addresses.
    pub vrf: VrfId,
    /// Index in [`crate::config::VrfIntent::pools`].
    pub pool: u16,
}

/// What a pool can hold and what is held of it, over all workers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PoolSize {
    /// Public addresses.
    pub addresses: u32,
    /// Blocks, granted or not.
    pub blocks: u32,
    /// Blocks granted; for a moment also those on addresses that the pool has just lost.
    pub blocks_held: u32,
    /// Ports per block and protocol.
    pub block_size: u16,
}

/// Why pools can't be changed as wanted, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{address} is still being taken out of the pool that it was in")]
pub struct PoolBusy {
    /// The first address of which blocks may be held in another pool.
    pub address: Ipv4Addr,
}

/// All pools of a node.
#[derive(Debug)]
pub struct Pools {
    /// By number.
    pools: Vec<Pool>,
    /// By number.
    lots: Vec<Lot>,
    vrfs: Vec<OfVrf>,
    /// Grants made by this process.
    grants: Arc<AtomicU64>,
    /// Pools that there have been.
    serial: u64,
}

/// The pools of a VRF.
#[derive(Debug, Default)]
struct OfVrf {
    /// Numbers, in the order of the configuration.
    numbers: Vec<u32>,
    /// Configured addresses.
    served: Runs,
    /// Those and the ones that blocks may still be held of.
    known: Runs,
}

/// Runs of addresses, ascending, and how far all of them together reach: most packets are told by that to go to no pool.
#[derive(Debug, Default)]
struct Runs {
    first: u32,
    /// From the first address to behind the last one.
    reach: u64,
    runs: Vec<Run>,
}

/// One pool.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    pub(super) vrf: VrfId,
    /// Where it is configured; none when it isn't any more.
    pub(super) name: Option<PoolRef>,
    pub(super) settings: PoolIntent,
    /// Tells it from the pool that had its number before.
    pub(super) serial: u64,
    /// Its lots that are served, each with its number of addresses.
    lots: Vec<(u32, u32)>,
}

/// Consecutive addresses of one lot.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    last: u32,
    lot: u32,
    /// Place of `first` in its lot.
    address: u32,
}

/// A place of a block: pool and lot by number, address in the lot, and chunk on that address.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pool: u32,
    pub(super) lot: u32,
    pub(super) address: u32,
    pub(super) chunk: u32,
}

impl Place {
    /// Number of its pool, to look up by.
    pub(super) const fn pool(self) -> usize {
        self.pool as usize
    }

    /// Lot and address, without the chunk.
    pub(super) const fn on(self) -> (u32, u32) {
        (self.lot, self.address)
    }
}

impl Pools {
    /// Every block free.
    #[must_use]
    pub fn new(intent: &Intent) -> Self {
        let mut pools = Self {
            pools: Vec::new(),
            lots: Vec::new(),
            vrfs: Vec::new(),
            grants: Arc::new(AtomicU64::new(0)),
            serial: 0,
        };
        pools.take_in(intent);
        pools.find_runs(intent.vrfs.len());
        pools
    }

    /// These pools as a changed configuration has them: what is in both is the same memory, and what was granted of it stays
    /// granted. `settled` says that every worker has seen these pools.
    ///
    /// # Errors
    /// When an address is to change its pool while blocks of it may be held in the one before.
    pub fn changed(&self, intent: &Intent, settled: bool) -> Result<Self, PoolBusy> {
        let mut next = Self {
            pools: self.pools.clone(),
            lots: self.lots.clone(),
            vrfs: Vec::new(),
            grants: Arc::clone(&self.grants),
            serial: self.serial,
        };
        for pool in &mut next.pools {
            pool.name = None;
            pool.lots.clear();
        }
        next.lots.iter_mut().for_each(Lot::serve_none);
        next.take_in(intent);
        let over = |number: usize| settled && self.lots.get(number).is_some_and(Lot::serves_none);
        for (number, lot) in next.lots.iter_mut().enumerate() {
            if over(number) && lot.serves_none() && lot.held() == 0 {
                let settings = &next.pools[lot.pool as usize].settings;
                *lot = Lot::new(lot.pool, settings, Vec::new());
            }
        }
        next.find_runs(intent.vrfs.len());
        next.check(|lot, address| {
            let served = self.lots.get(lot).is_none_or(|lot| lot.serves(address));
            settled && !served && !next.lots[lot].holds(address)
        })?;
        Ok(next)
    }

    /// Whether blocks may be held on addresses that are configured no more.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        self.lots
            .iter()
            .any(|lot| lot.served() as usize != lot.addresses().len())
    }

    /// The pool that `addr` belongs to; `vrf` is where its packets arrive.
    #[must_use]
    pub fn pool_of(&self, vrf: VrfId, addr: &Addr) -> Option<PoolRef> {
        let (run, _) = self.run(vrf, addr)?;
        self.pools[self.lots[run.lot as usize].pool as usize].name
    }

    /// Whether `addr` belongs to a pool.
    #[inline]
    #[must_use]
    pub fn is_pool_address(&self, vrf: VrfId, addr: &Addr) -> bool {
        self.run(vrf, addr).is_some()
    }

    /// Inside VRF and slot of the subscriber that holds the block of a public port or ICMP identifier.
    #[inline]
    #[must_use]
    pub fn owner(&self, vrf: VrfId, addr: &Addr, port: u16) -> Option<(VrfId, u16)> {
        let place = self.place(vrf, addr, port)?;
        self.lots[place.lot as usize].owner(place)
    }

    /// Size and fill of a pool.
    #[must_use]
    pub fn size(&self, pool: PoolRef) -> Option<PoolSize> {
        let number = self.index(pool)?;
        let lots = || self.lots_of(number);
        Some(PoolSize {
            addresses: lots().map(Lot::served).sum(),
            blocks: lots().map(|lot| lot.served() * lot.chunks()).sum(),
            blocks_held: lots().map(Lot::held).sum(),
            block_size: self.pools[number].settings.block_size,
        })
    }

    /// Every configured pool, by VRF and in the order of the configuration.
    pub fn refs(&self) -> impl Iterator<Item = PoolRef> + '_ {
        let numbers = self.vrfs.iter().flat_map(|of_vrf| &of_vrf.numbers);
        numbers.filter_map(|&number| self.pools[number as usize].name)
    }

    /// Numbers of pools that there are, those of pools that have gone included.
    pub(super) fn count(&self) -> usize {
        self.pools.len()
    }

    /// Numbers of lots, those of lots that have gone included.
    #[cfg(test)]
    pub(super) fn lots(&self) -> usize {
        self.lots.len()
    }

    /// A pool's number.
    pub(super) fn index(&self, pool: PoolRef) -> Option<usize> {
        let of_vrf = self.vrfs.get(pool.vrf.index())?;
        let number = *of_vrf.numbers.get(usize::from(pool.pool))?;
        Some(number as usize)
    }

    pub(super) fn at(&self, number: usize) -> &Pool {
        &self.pools[number]
    }

    pub(super) fn lot(&self, place: Place) -> &Lot {
        &self.lots[place.lot as usize]
    }

    /// The chunk of a public port of a configured address.
    #[inline]
    pub(super) fn place(&self, vrf: VrfId, addr: &Addr, port: u16) -> Option<Place> {
        self.chunk(self.run(vrf, addr)?, port)
    }

    /// As [`Self::place`], also of an address that was taken out of the configuration: what a peer says of blocks that are
    /// here is about it, too.
    pub(super) fn known_place(&self, vrf: VrfId, addr: &Addr, port: u16) -> Option<Place> {
        let of_vrf = self.vrfs.get(vrf.index())?;
        self.chunk(find(&of_vrf.known, addr)?, port)
    }

    /// Whether the address of a place is configured no more.
    pub(super) fn is_retired(&self, (lot, address): (u32, u32)) -> bool {
        !self.lots[lot as usize].serves(address)
    }

    /// Takes a free chunk of a part of all of a pool, on a random address.
    pub(super) fn claim_any(&self, pool: usize, random: &mut Random, part: Part) -> Option<Place> {
        let first = part.unwrap_or(if random.below(2) == 0 {
            Half::Low
        } else {
            Half::High
        });
        let claimed = self.claim_half(pool, random, first);
        if claimed.is_none() && part.is_none() {
            self.claim_half(pool, random, first.other())
        } else {
            claimed
        }
    }

    fn claim_half(&self, pool: usize, random: &mut Random, half: Half) -> Option<Place> {
        let lots = &self.pools[pool].lots;
        let mut start = random.below(lots.iter().map(|(_, addresses)| addresses).sum());
        let first = lots.iter().position(|(_, addresses)| {
            let here = start < *addresses;
            start -= if here { 0 } else { *addresses };
            here
        })?;
        (0..lots.len()).find_map(|step| {
            let (lot, _) = lots[(first + step) % lots.len()];
            let start = if step == 0 { start } else { 0 };
            let (address, chunk) = self.lots[lot as usize].claim_from(start, random, half)?;
            Some(self.place_at(lot, address, chunk))
        })
    }

    /// The place of a chunk.
    pub(super) fn place_at(&self, lot: u32, address: u32, chunk: u32) -> Place {
        let pool = self.lots[lot as usize].pool;
        Place {
            pool,
            lot,
            address,
            chunk,
        }
    }

    /// A new grant's identity under `term`; none when the term's are used up.
    pub(super) fn next_grant(&self, term: Term) -> Option<u64> {
        grant_id(term, self.grants.fetch_add(1, Ordering::Relaxed) + 1)
    }

    #[inline]
    fn run(&self, vrf: VrfId, addr: &Addr) -> Option<(Run, u32)> {
        let of_vrf = self.vrfs.get(vrf.index())?;
        find(&of_vrf.served, addr)
    }

    #[inline]
    fn chunk(&self, (run, address): (Run, u32), port: u16) -> Option<Place> {
        let lot = &self.lots[run.lot as usize];
        Some(Place {
            pool: lot.pool,
            lot: run.lot,
            address,
            chunk: lot.chunk_of(port)?,
        })
    }

    fn lots_of(&self, number: usize) -> impl Iterator<Item = &Lot> {
        let of_pool = self.pools[number].lots.iter();
        of_pool.map(|&(lot, _)| &self.lots[lot as usize])
    }
}

impl Pool {
    /// Where it is configured; as no pool of its VRF when it isn't any more.
    pub(super) fn shown(&self) -> PoolRef {
        self.name.unwrap_or(PoolRef {
            vrf: self.vrf,
            pool: u16::MAX,
        })
    }
}

/// Made beside the packet path.
impl Pools {
    /// Serves what is configured: what was there before as it was, and the rest in new lots.
    fn take_in(&mut self, intent: &Intent) {
        for (vrf, of_vrf) in (0..).map(VrfId).zip(&intent.vrfs) {
            let mut numbers = Vec::with_capacity(of_vrf.pools.len());
            for (pool, settings) in (0..).zip(&of_vrf.pools) {
                let number = self.number(vrf, settings);
                self.pools[number as usize].name = Some(PoolRef { vrf, pool });
                self.pools[number as usize].settings = settings.clone();
                self.serve(number, settings);
                numbers.push(number);
            }
            self.vrfs.push(OfVrf {
                numbers,
                ..OfVrf::default()
            });
        }
    }

    /// The number that a pool has, or a vacant one. A pool whose blocks are cut otherwise is another one.
    fn number(&mut self, vrf: VrfId, settings: &PoolIntent) -> u32 {
        let same = |pool: &Pool| {
            let old = &pool.settings;
            (pool.vrf, &old.name, old.ports, old.block_size)
                == (vrf, &settings.name, settings.ports, settings.block_size)
        };
        let in_use = |number: usize, pool: &Pool| {
            let of_it = |lot: &Lot| lot.pool as usize == number && !lot.addresses().is_empty();
            pool.name.is_some() || self.lots.iter().any(of_it)
        };
        let mut numbered = self.pools.iter().enumerate();
        let known = numbered.find(|(number, pool)| same(pool) && in_use(*number, pool));
        let number = match known {
            Some((number, _)) => number,
            None => {
                let mut numbered = self.pools.iter().enumerate();
                let vacant = numbered.find(|(number, pool)| !in_use(*number, pool));
                let number = vacant.map_or(self.pools.len(), |(number, _)| number);
                self.serial += 1;
                let pool = Pool {
                    vrf,
                    name: None,
                    settings: settings.clone(),
                    serial: self.serial,
                    lots: Vec::new(),
                };
                if number == self.pools.len() {
                    self.pools.push(pool);
                } else {
                    self.pools[number] = pool;
                }
                number
            }
        };
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    fn serve(&mut self, number: u32, settings: &PoolIntent) {
        let mut new = Vec::new();
        for &ip in &settings.addresses {
            let mut lots = self.lots.iter_mut().filter(|lot| lot.pool == number);
            let found = lots.find_map(|lot| lot.find(ip).map(|address| (lot, address)));
            match found {
                Some((lot, address)) => lot.serve(address),
                None => new.push(ip),
            }
        }
        if !new.is_empty() {
            let lot = Lot::new(number, settings, new);
            match self.lots.iter_mut().find(|lot| lot.addresses().is_empty()) {
                Some(vacant) => *vacant = lot,
                None => self.lots.push(lot),
            }
        }
        let of_pool = (0..).zip(&self.lots);
        self.pools[number as usize].lots = of_pool
            .filter(|(_, lot)| lot.pool == number && !lot.serves_none())
            .map(|(at, lot)| (at, u32::try_from(lot.addresses().len()).unwrap_or(u32::MAX)))
            .collect();
    }

    /// Where addresses are. One that is in two lots is where it is served.
    fn find_runs(&mut self, vrfs: usize) {
        for vrf in (0..).map(VrfId).take(vrfs) {
            let mut places: Vec<(u32, bool, u32, u32)> = Vec::new();
            for (number, lot) in (0..).zip(&self.lots) {
                if lot.addresses().is_empty() || self.pools[lot.pool as usize].vrf != vrf {
                    continue;
                }
                for (address, &ip) in (0..).zip(lot.addresses()) {
                    places.push((ip.into(), !lot.serves(address), number, address));
                }
            }
            places.sort_unstable();
            places.dedup_by_key(|place| place.0);
            let of_vrf = &mut self.vrfs[vrf.index()];
            of_vrf.known = runs(places.iter());
            of_vrf.served = runs(places.iter().filter(|place| !place.1));
        }
    }

    /// Whether each address that is served is `free` everywhere else.
    fn check(&self, free: impl Fn(usize, u32) -> bool) -> Result<(), PoolBusy> {
        for (number, lot) in self.lots.iter().enumerate() {
            let served = &self.vrfs[self.pools[lot.pool as usize].vrf.index()].served;
            for (at, &address) in (0..).zip(lot.addresses()) {
                if !lot.serves(at) && find(served, &address.into()).is_some() && !free(number, at) {
                    return Err(PoolBusy { address });
                }
            }
        }
        Ok(())
    }
}

/// The run of an address, and the address's place in its lot.
#[inline]
fn find(Runs { first, reach, runs }: &Runs, addr: &Addr) -> Option<(Run, u32)> {
    let addr = if addr.is_v4() {
        addr.v4_number()
    } else {
        return None;
    };
    if u64::from(addr.wrapping_sub(*first)) >= *reach {
        return None;
    }
    let after = runs.partition_point(|run| run.first <= addr);
    let run = *runs.get(after.checked_sub(1)?)?;
    (addr <= run.last).then(|| (run, run.address + (addr - run.first)))
}

/// Addresses, ascending, in as few runs as there can be.
fn runs<'a>(places: impl Iterator<Item = &'a (u32, bool, u32, u32)>) -> Runs {
    let mut runs: Vec<Run> = Vec::new();
    for &(ip, _, lot, address) in places {
        match runs.last_mut() {
            Some(run)
                if run.lot == lot
                    && run.last.checked_add(1) == Some(ip)
                    && run.address + (ip - run.first) == address =>
            {
                run.last = ip;
            }
            _ => runs.push(Run {
                first: ip,
                last: ip,
                lot,
                address,
            }),
        }
    }
    let first = runs.first().map_or(0, |run| run.first);
    let reach = runs.last().map_or(0, |run| u64::from(run.last - first) + 1);
    Runs { first, reach, runs }
}
