//! A slot of a VRF as its owner worker keeps it: version, digest, the list of its entries, and the resync
//! going out of it or coming into it.
//!
//! Born with the worker, one per (VRF, slot) the worker owns; lives as long as the process. Only the owner
//! touches it. On the sending side the worker walks a slot when a lane asks for it and streams
//! every later change; on the receiving side a begin opens a generation, records are stamped with it, and
//! only an end whose count and digest add up lets what was not stamped be swept (DESIGN.md, "Resync").

use core::mem::offset_of;

use arrayvec::ArrayVec;

use crate::delta::{BlockRecord, Class, LaneTag, NatPart, PutRecord, Scales, SlotRef, Term, Version};
use crate::flow::{FlowKey, VrfId};
use crate::history::History;
use crate::prefetch::prefetch;
use crate::protection::Kept;
use crate::resync::{Absent, Course, Incoming, Sum, Walk};
use crate::shard::{fold, mix64, worker_of};

/// No entry: end of an intrusive list.
pub const NIL: u32 = u32::MAX;

/// Lanes that may stream one slot at the same time: one per peer.
pub const PEERS_MAX: usize = 4;

/// What every replicated entry (conntrack, port block) carries for replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncState {
    /// Version at the last emission or application; zero when nobody was told yet.
    pub version: Version,
    /// Share in the slot's digest as of that version.
    pub digest: u64,
    /// Generation of the resync that last touched it on a receiver.
    pub stamp: u32,
    /// [`Slot::naming`] under which all streams were told its handle; 0 when they weren't.
    pub named: u32,
    /// Next entry of the same kind in the slot's list.
    pub next: u32,
    /// Previous entry of the same kind in the slot's list.
    pub prev: u32,
    /// Next on the worker's dirty list.
    pub dirty_next: u32,
    /// On the dirty list.
    pub dirty: bool,
    /// Removed from lookup; waits only for its removal record to be emitted.
    pub dead: bool,
    /// Only its lifetime has to be told: a refresh will do.
    pub refresh_only: bool,
    /// In its slot's list.
    pub linked: bool,
    /// Why no peer is told of it, if so: it has no version then, and no share in the digest.
    pub kept: Kept,
    /// Its packets wait until the peers know it.
    pub waits: bool,
}

impl Default for SyncState {
    fn default() -> Self {
        Self {
            version: Version::default(),
            digest: 0,
            stamp: 0,
            named: 0,
            next: NIL,
            prev: NIL,
            dirty_next: NIL,
            dirty: false,
            dead: false,
            refresh_only: false,
            linked: false,
            kept: Kept::No,
            waits: false,
        }
    }
}

impl SyncState {
    /// Whether any peer may know this entry.
    #[must_use]
    pub const fn emitted(&self) -> bool {
        self.version.counter != 0
    }
}

/// The two kinds of replicated entries; each has its own arena and its own list per slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Port blocks: walked first, since conntracks live in them.
    Block,
    /// Conntracks.
    Conntrack,
}

/// Gives list code access to the [`SyncState`] of one kind's arena.
pub trait Entries {
    /// The state of entry `id`.
    fn sync(&self, id: u32) -> &SyncState;
    /// The state of entry `id`, to change.
    fn sync_mut(&mut self, id: u32) -> &mut SyncState;
}

/// One slot. What a change of an entry touches stands in the first three lines, and a burst asks for them ahead: its
/// changes are of as many slots as it has packets.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Slot {
    /// Version of the last change emitted or applied (I1: only grows).
    pub version: Version,
    /// Sum of the digests of all entries a peer holding this version holds.
    pub digest: u64,
    /// Number of those entries.
    pub count: u32,
    /// Generation of the latest begin, on whatever lane: entries named before it may be unknown to a stream by name.
    pub naming: u32,
    /// What of it belongs to entries that have left their list and only wait for their removal record.
    pub loose: Sum,
    heads: [Head; 2],
    /// Conntracks in its list.
    pub conntracks: u32,
    /// Those of them that no peer is told of.
    pub kept: u32,
    /// What of its own writing can be told again.
    pub history: History,
    /// Lanes this slot is streamed to.
    pub streams: ArrayVec<LaneTag, PEERS_MAX>,
    /// Entries that have left its lists, ever: a look that takes many turns notices by it.
    pub unlinked: u32,
    /// Walks asked for; the first is running.
    pub walks: ArrayVec<Walk, PEERS_MAX>,
    /// The list of its entries that a comparison is making.
    pub listing: Option<Listing>,
    /// What the sender holds and this node, for a known cause, doesn't.
    pub absent: Absent,
    /// Version up to which an unfinished resync found this slot complete; none when no resync is unfinished.
    pub base: Option<Version>,
    /// It has changes that were never given a version: only a walk of the whole slot finds them.
    pub untold: bool,
    /// This node has written the slot itself since it was last verified: it may hold what nobody was told.
    pub own_hand: bool,
    /// Counter of the last record that was refused here.
    pub refused: u64,
    /// Lane whose records are accepted, and the generation it opened.
    pub source: Option<Incoming>,
    /// Makes a slot an odd number of lines long. With an even one, the first lines of all slots would share a few sets
    /// of the caches and drive each other out.
    _odd: [u64; LINE / 8],
}

/// Bytes of a cache line.
const LINE: usize = 64;

const _: () = assert!(offset_of!(Slot, streams) + size_of::<u32>() <= 3 * LINE);
const _: () = assert!(size_of::<Slot>() / LINE % 2 == 1);

/// A slice-wise look at all entries of a slot that haven't changed since a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listing {
    /// Lane the mark came by; none on the node that has set it.
    pub lane: Option<LaneTag>,
    /// Of the mark.
    pub round: u32,
    /// Of the mark.
    pub version: Version,
    /// Kind being listed.
    pub kind: Kind,
    /// Next entry; what joins the list later is newer than the mark and stands before it.
    pub cursor: u32,
}

#[derive(Debug, Clone, Copy)]
struct Head(u32);

impl Default for Head {
    fn default() -> Self {
        Self(NIL)
    }
}

impl Slot {
    /// Takes the next version under `term` for a change that is being emitted.
    pub fn next_version(&mut self, term: Term) -> Version {
        self.write_under(term);
        self.version.counter += 1;
        self.version
    }

    /// This node writes the slot under `term` from here on.
    pub fn write_under(&mut self, term: Term) {
        let before = self.version;
        self.version.term = before.term.max(term);
        if !self.history.is_own() {
            // What was not taken over whole is no point that a peer could hold.
            let whole = self.base.is_none() && self.absent.sum.count == 0;
            let point = if whole { before } else { self.version };
            self.history.begin(point, self.base.unwrap_or(before));
        } else if self.version.term > before.term {
            self.history.turn(before);
        }
    }

    /// Accounts an entry as a peer at `version` of this slot holds it.
    pub fn account(&mut self, sync: &mut SyncState, version: Version, digest: u64) {
        self.unaccount(sync);
        sync.version = version;
        sync.digest = digest;
        self.digest = self.digest.wrapping_add(digest);
        self.count += 1;
        if !sync.linked {
            self.loose.add(digest);
        }
    }

    /// Takes an entry that is gone out of the account.
    pub fn unaccount(&mut self, sync: &mut SyncState) {
        if sync.emitted() {
            self.digest = self.digest.wrapping_sub(sync.digest);
            self.count -= 1;
            if !sync.linked {
                self.loose.remove(sync.digest);
            }
            sync.version = Version::default();
        }
    }

    /// What a receiver holds of the sender's entries, together with what it lacks for a known cause: what the sender
    /// must say it has emitted.
    #[must_use]
    pub const fn held(&self) -> Sum {
        Sum {
            count: self.count - self.loose.count + self.absent.sum.count,
            digest: self
                .digest
                .wrapping_sub(self.loose.digest)
                .wrapping_add(self.absent.sum.digest),
        }
    }

    /// Whether every stream knows the entry by its handle.
    #[must_use]
    pub const fn is_named(&self, sync: &SyncState) -> bool {
        self.naming != 0 && sync.named == self.naming
    }

    /// Puts an entry at the head of its kind's list, unless it is in it. Walks in progress don't meet it: its change is sent live.
    pub fn link(&mut self, kind: Kind, entries: &mut impl Entries, id: u32) {
        if entries.sync(id).linked {
            return;
        }
        let head = &mut self.heads[kind as usize].0;
        let next = *head;
        if next != NIL {
            entries.sync_mut(next).prev = id;
        }
        let sync = entries.sync_mut(id);
        sync.next = next;
        sync.prev = NIL;
        sync.linked = true;
        *head = id;
        self.conntracks += u32::from(kind == Kind::Conntrack);
        if sync.emitted() {
            self.loose.remove(sync.digest);
        }
    }

    /// Takes an entry off its list; a walk standing on it steps on.
    pub fn unlink(&mut self, kind: Kind, entries: &mut impl Entries, id: u32) {
        if !entries.sync(id).linked {
            return;
        }
        self.unlinked = self.unlinked.wrapping_add(1);
        self.conntracks -= u32::from(kind == Kind::Conntrack);
        let (next, prev) = {
            let sync = entries.sync_mut(id);
            sync.linked = false;
            if sync.emitted() {
                self.loose.add(sync.digest);
            }
            let links = (sync.next, sync.prev);
            sync.next = NIL;
            sync.prev = NIL;
            links
        };
        if prev == NIL {
            self.heads[kind as usize].0 = next;
        } else {
            entries.sync_mut(prev).next = next;
        }
        if next != NIL {
            entries.sync_mut(next).prev = prev;
        }
        for walk in &mut self.walks {
            if let Course::Entries { kind: k, cursor } = &mut walk.course
                && *k == kind
                && *cursor == id
            {
                *cursor = next;
            }
        }
        if let Some(listing) = &mut self.listing
            && listing.kind == kind
            && listing.cursor == id
        {
            listing.cursor = next;
        }
    }

    /// Starts a list of all entries as of a mark.
    pub fn list(&mut self, lane: Option<LaneTag>, round: u32, version: Version) {
        self.listing = Some(Listing {
            lane,
            round,
            version,
            kind: Kind::Block,
            cursor: self.first(Kind::Block),
        });
    }

    /// First entry of a kind.
    #[must_use]
    pub const fn first(&self, kind: Kind) -> u32 {
        self.heads[kind as usize].0
    }
}

/// No place: beyond every list, since slot counts are 16 bits too.
const ELSEWHERE: u16 = u16::MAX;

/// All slots a worker owns.
#[derive(Debug)]
pub struct Slots {
    worker: u16,
    workers: u16,
    /// Where each slot number is in its VRF's list; [`ELSEWHERE`] for another worker's. Divisions are slow.
    places: Box<[u16]>,
    vrfs: Vec<Vec<Slot>>,
}

impl Slots {
    /// Slots of worker `worker` of `workers`, for VRFs with the given slot counts.
    #[must_use]
    pub fn new(worker: u16, workers: u16, slots_per_vrf: &[u16]) -> Self {
        let owned = |slots: u16| (worker..slots).step_by(usize::from(workers)).count();
        let most = slots_per_vrf.iter().copied().max().unwrap_or_default();
        let place = |slot| {
            if worker_of(slot, workers) == worker {
                slot / workers
            } else {
                ELSEWHERE
            }
        };
        Self {
            worker,
            workers,
            places: (0..most).map(place).collect(),
            vrfs: slots_per_vrf
                .iter()
                .map(|&slots| (0..owned(slots)).map(|_| Slot::default()).collect())
                .collect(),
        }
    }

    /// The slot, when this worker owns it.
    #[must_use]
    pub fn get(&self, at: SlotRef) -> Option<&Slot> {
        let place = *self.places.get(usize::from(at.slot))?;
        self.vrfs.get(at.vrf.index())?.get(usize::from(place))
    }

    /// The slot, to change.
    pub fn get_mut(&mut self, at: SlotRef) -> Option<&mut Slot> {
        let place = *self.places.get(usize::from(at.slot))?;
        self.vrfs.get_mut(at.vrf.index())?.get_mut(usize::from(place))
    }

    /// Asks for what a change of one of the slot's entries touches.
    #[inline]
    pub(crate) fn expect(&self, at: SlotRef) {
        if let Some(slot) = self.get(at) {
            prefetch(&slot.version);
            prefetch(&slot.history);
            prefetch(&slot.streams);
        }
    }

    /// The `index`th of a VRF's slots that this worker owns.
    #[must_use]
    pub fn nth(&self, vrf: VrfId, index: usize) -> Option<SlotRef> {
        let owned = self.vrfs.get(vrf.index())?.len();
        let number = usize::from(self.worker) + index * usize::from(self.workers);
        (index < owned)
            .then(|| u16::try_from(number).ok())?
            .map(|slot| SlotRef { vrf, slot })
    }

    /// This node was active for the VRF and no longer is: its slots may hold what nobody was told.
    pub(crate) fn demoted(&mut self, vrf: VrfId) {
        let slots = self.vrfs.get_mut(vrf.index()).map_or(&mut [][..], |v| v);
        for slot in slots {
            slot.own_hand = true;
            slot.absent = Absent::default();
            slot.source = None;
        }
    }

    /// Every slot of a VRF with its number.
    pub fn of_vrf(&self, vrf: VrfId) -> impl Iterator<Item = (u16, &Slot)> {
        let slots = self.vrfs.get(vrf.index()).map_or(&[][..], Vec::as_slice);
        (self.worker..).step_by(usize::from(self.workers)).zip(slots)
    }

    /// Bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.vrfs.iter().map(|v| v.len() * size_of::<Slot>()).sum()
    }
}

/// Digest of a conntrack as the peer holds it: all replicated fields but lifetimes and counters.
#[must_use]
pub fn conntrack_digest(put: &PutRecord) -> u64 {
    let keys = [&put.original, &put.reply];
    tuples_digest(keys, put.nat, (put.class, put.scales), put.version)
}

/// As [`conntrack_digest`], of the fields one by one.
#[inline]
pub(crate) fn tuples_digest(
    [original, reply]: [&FlowKey; 2],
    nat: Option<NatPart>,
    (class, scales): (Class, Scales),
    version: Version,
) -> u64 {
    let (grant, mapping) = nat.map_or((0, 0), |n| (n.grant, 1 + u64::from(n.mapping)));
    let rest = class as u64 | mapping << 8 | u64::from(scales.0) << 16;
    let [a, b, c, d, ports] = key_words(original);
    let [e, f, g, h, reply_ports] = key_words(reply);
    let Version { term, counter } = version;
    digest_of([
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        ports,
        reply_ports,
        grant,
        rest,
        counter,
        term.0,
    ])
}

/// Digest of a port block.
#[must_use]
pub fn block_digest(block: &BlockRecord) -> u64 {
    let (a, b) = block.subscriber.halves();
    let (c, d) = block.address.halves();
    let Version { term, counter } = block.version;
    digest_of([
        a,
        b,
        c,
        d,
        block.grant,
        u64::from(block.port_first),
        counter,
        term.0,
    ])
}

/// Digest of a tuple; local VRF indexes stay out of it.
#[must_use]
pub fn key_digest(key: &FlowKey) -> u64 {
    let [a, b, c, d, ports] = key_words(key);
    digest_of([a, b, c, d, ports, 0])
}

/// Digest of a block's identity, to remember refused ones by.
#[must_use]
pub const fn block_key_digest(grant: u64) -> u64 {
    mix64(grant ^ 0x0062_6c6f_636b)
}

fn key_words(key: &FlowKey) -> [u64; 5] {
    let (a, b) = key.src.halves();
    let (c, d) = key.dst.halves();
    let ports = u64::from(key.src_port) << 32 | u64::from(key.dst_port) << 16 | u64::from(key.proto);
    [a, b, c, d, ports]
}

/// Keys of the words of a digest, by place.
const DIGEST_KEYS: [u64; 14] = {
    let mut keys = [0; 14];
    let mut place = 0;
    while place < keys.len() {
        keys[place] = mix64(place as u64 + 1);
        place += 1;
    }
    keys
};

/// Digest of an even number of words (sync/PROTOCOL.md, "Digest of an entry"): no product waits for another.
#[inline]
fn digest_of<const N: usize>(words: [u64; N]) -> u64 {
    const { assert!(N.is_multiple_of(2) && N <= DIGEST_KEYS.len()) };
    let pairs = words
        .as_chunks::<2>()
        .0
        .iter()
        .zip(DIGEST_KEYS.as_chunks::<2>().0);
    let products = pairs.map(|([a, b], [key_a, key_b])| fold(a.wrapping_add(*key_a), b.wrapping_add(*key_b)));
    mix64(products.fold(0, u64::wrapping_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Addr;

    struct Arena(Vec<SyncState>);

    impl Entries for Arena {
        fn sync(&self, id: u32) -> &SyncState {
            &self.0[id as usize]
        }
        fn sync_mut(&mut self, id: u32) -> &mut SyncState {
            &mut self.0[id as usize]
        }
    }

    fn lane() -> LaneTag {
        LaneTag {
            peer: 0,
            lane: 0,
            incarnation: 1,
        }
    }

    fn listed(slot: &Slot, arena: &Arena) -> Vec<u32> {
        let mut ids = vec![];
        let mut at = slot.first(Kind::Conntrack);
        while at != NIL {
            ids.push(at);
            at = arena.sync(at).next;
        }
        ids
    }

    #[test]
    fn removing_the_entry_under_a_walk_moves_the_walk_on() {
        let mut arena = Arena(vec![SyncState::default(); 4]);
        let mut slot = Slot::default();
        for id in 0..4 {
            slot.link(Kind::Conntrack, &mut arena, id);
        }
        assert_eq!(listed(&slot, &arena), [3, 2, 1, 0]);
        slot.walks.push(Walk {
            lane: lane(),
            generation: 1,
            offer: None,
            course: Course::Entries {
                kind: Kind::Conntrack,
                cursor: 2,
            },
        });
        slot.unlink(Kind::Conntrack, &mut arena, 2);
        let course = Course::Entries {
            kind: Kind::Conntrack,
            cursor: 1,
        };
        assert_eq!(slot.walks[0].course, course);
        slot.unlink(Kind::Conntrack, &mut arena, 3);
        slot.unlink(Kind::Conntrack, &mut arena, 0);
        assert_eq!(listed(&slot, &arena), [1]);
    }

    #[test]
    fn versions_continue_under_a_new_term_and_never_fall_back() {
        let mut slot = Slot::default();
        let first = slot.next_version(Term(257));
        let second = slot.next_version(Term(514));
        let third = slot.next_version(Term(257));
        assert!(first < second && second < third, "{first:?} {second:?} {third:?}");
        assert_eq!(third.term, Term(514));
        assert_eq!(third.counter, 3);
    }

    #[test]
    fn every_replicated_field_is_in_the_digest_and_local_indexes_are_not() {
        use crate::delta::Handle;
        let key = |port| FlowKey {
            src_port: port,
            ..FlowKey::default()
        };
        let base = PutRecord {
            original: key(1),
            reply: key(2),
            nat: Some(NatPart {
                grant: 5,
                mapping: true,
            }),
            class: Class::Opening,
            scales: Scales::new(7, 7),
            lifetime_s: 10,
            version: Version {
                term: Term(1),
                counter: 1,
            },
            handle: Handle::NONE,
        };
        let variants = [
            PutRecord {
                original: key(3),
                ..base
            },
            PutRecord {
                reply: key(3),
                ..base
            },
            PutRecord { nat: None, ..base },
            PutRecord {
                scales: Scales::new(7, 8),
                ..base
            },
            PutRecord {
                nat: Some(NatPart {
                    grant: 6,
                    mapping: true,
                }),
                ..base
            },
            PutRecord {
                nat: Some(NatPart {
                    grant: 5,
                    mapping: false,
                }),
                ..base
            },
            PutRecord {
                class: Class::Closing,
                ..base
            },
            PutRecord {
                version: Version {
                    term: Term(1),
                    counter: 2,
                },
                ..base
            },
            PutRecord {
                version: Version {
                    term: Term(2),
                    counter: 1,
                },
                ..base
            },
        ];
        for v in variants {
            assert_ne!(conntrack_digest(&base), conntrack_digest(&v), "{v:?}");
        }
        let same = PutRecord {
            original: FlowKey {
                vrf: VrfId(3),
                ..base.original
            },
            lifetime_s: 99,
            ..base
        };
        assert_eq!(conntrack_digest(&base), conntrack_digest(&same));
        assert_eq!(
            conntrack_digest(&base),
            0xd822_b269_6260_b063,
            "computed apart, after PROTOCOL.md"
        );
    }

    #[test]
    fn a_block_has_the_digest_that_the_protocol_says() {
        let block = BlockRecord {
            grant: 5,
            subscriber: Addr::v4([100, 64, 0, 1]),
            address: Addr::v4([198, 51, 100, 1]),
            port_first: 1_024,
            held: true,
            version: Version {
                term: Term(0x102),
                counter: 9,
            },
        };
        assert_eq!(
            block_digest(&block),
            0x2012_7dd5_b97e_d725,
            "computed apart, after PROTOCOL.md"
        );
    }

    #[test]
    fn every_slot_has_exactly_one_owner() {
        for workers in 1..=5_u16 {
            let all: Vec<Slots> = (0..workers).map(|w| Slots::new(w, workers, &[64, 7])).collect();
            let owned: usize = all.iter().map(|s| s.vrfs[0].len()).sum();
            assert_eq!(owned, 64);
            for slot in 0..7 {
                let at = SlotRef { vrf: VrfId(1), slot };
                let owners = all.iter().filter(|s| s.get(at).is_some()).count();
                assert_eq!(owners, 1);
            }
        }
    }
}
