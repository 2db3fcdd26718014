//! What comes to a node that isn't active, and is the active one's: the packet is copied, whole, into the ring to the event
//! thread of its flow's lane, and ends here. The other end of the way is here too: what the peer has redirected becomes a
//! frame again, as if it had come in by this node's own interface of that name, and goes through the stages from parse on.
//!
//! A packet is redirected twice at most: what is on its way to a node that hands over at this moment comes back, to a node that
//! is active by now. Two nodes of which neither is active, or each takes the other one for active, don't play ball with it.

use arrayvec::ArrayVec;

use super::line_up::Line;
use super::respond::TokenBucket;
use super::rewrite::write_l2;
use super::{Batch, Context, Work};
use crate::counters::Counters;
use crate::flow::VrfId;
use crate::io::{BURST, Io, Packet, PortId};
use crate::redirect::{Bytes, Fence, PacketReceiver, PacketSender, REDIRECTS_MAX, Redirect};
use crate::shard::lane_of;
use crate::stage::meta::Meta;
use crate::tables::Tables;
use crate::time::Instant;
use crate::verdict::{Drop, Verdict};
use crate::vrf::Snapshot;
use crate::wire::ethernet::ethertype;

/// Packets that may be redirected at once, however few there may be per second: two bursts.
const AT_ONCE_MIN: u32 = 64;

/// Fences of peers that are in a worker at a time, as many as it takes up in a turn. One more is lost, and its sender waits until
/// its patience ends.
const FENCES_MAX: usize = BURST;

/// Turns after which a peer's fence goes on though the receive queues were not seen empty: 2,048 packets of each have been, and
/// no more had come before it.
const FENCE_TURNS: u32 = 64;

/// A worker's ends of the rings that redirected packets go by, by event thread.
#[derive(Debug)]
pub(crate) struct Redirects {
    out: Vec<PacketSender>,
    from: Vec<PacketReceiver>,
    /// Bytes that were there when the turn began.
    arrived: Vec<usize>,
    /// Whose turn it is to be emptied first.
    first: usize,
    limit: TokenBucket,
    fences: Fences,
}

/// Fences of this worker's on their way, and a peer's that go through it (sync/PROTOCOL.md R-59).
#[derive(Debug, Default)]
struct Fences {
    /// Number of the last ones that were sent.
    number: u64,
    /// How many of them aren't back.
    away: usize,
    /// A peer's, and the event thread that has them from it.
    passing: ArrayVec<(usize, Fence), FENCES_MAX>,
    /// Turns in which there was more to receive than a burst, since one of them came.
    turns: u32,
}

impl Redirects {
    /// Of a worker. At most `packets_per_s` are redirected; a hundredth of that may come at once.
    pub(crate) fn new(worker: u16, rings: Vec<(PacketSender, PacketReceiver)>, packets_per_s: u32) -> Self {
        let at_once = (packets_per_s / 100).max(AT_ONCE_MIN);
        let (out, from): (Vec<_>, Vec<_>) = rings.into_iter().unzip();
        Self {
            arrived: vec![0; from.len()],
            first: 0,
            fences: Fences {
                // A slot may change hands while a fence is away: that one then comes back to another worker, and means nothing
                // there.
                number: u64::from(worker) << 48,
                ..Fences::default()
            },
            out,
            from,
            limit: TokenBucket::new(packets_per_s, at_once),
        }
    }

    /// Looks what has arrived. To be asked in front of the roles: a peer redirects to a node that has said to be active, so
    /// whoever sees the packet first sees that role then.
    #[inline]
    pub(crate) fn look(&mut self) -> bool {
        let mut any = false;
        for (arrived, ring) in self.arrived.iter_mut().zip(&self.from) {
            *arrived = ring.waiting();
            any |= *arrived > 0;
        }
        any
    }

    /// Takes out what had arrived at the last look, as frames, until the batch is full. Gives how many packets it were.
    #[cold]
    pub(crate) fn take<I: Io>(
        &mut self,
        batch: &mut Batch<I::Packet>,
        line: &mut Line<I::Packet>,
        (now, snapshot): (Instant, &Snapshot),
        io: &mut I,
        tables: &mut Tables,
    ) -> usize {
        let mut taken = 0;
        let rings = self.from.len();
        self.first = (self.first + 1) % rings;
        for n in 0..rings {
            let n = (self.first + n) % rings;
            let (arrived, ring) = (&mut self.arrived[n], &mut self.from[n]);
            while *arrived > 0 && taken < BURST {
                if let Some((fence, bytes)) = ring.pop_fence() {
                    taken += 1;
                    *arrived = arrived.saturating_sub(bytes);
                    self.fences.met(n, &fence);
                    continue;
                }
                let framed = ring.pop(|head, packet| (*head, frame(head, packet, snapshot, io)));
                let Some(((Redirect { at, times, .. }, framed), bytes)) = framed else {
                    break;
                };
                taken += 1;
                *arrived = arrived.saturating_sub(bytes);
                line.watch(at.vrf, &tables.roles[at.vrf.index()], now);
                match framed {
                    Ok((port, packet)) => {
                        tables.counters.redirects_taken += 1;
                        let i = batch.packets.len();
                        batch.work[i] = Work::arrived(port, 0);
                        batch.work[i].redirects = times;
                        batch.packets.push(packet);
                    }
                    Err(reason) => tables.counters.drop(reason),
                }
            }
        }
        taken
    }

    /// Empties the rings.
    pub(crate) fn drain(&mut self, counters: &mut Counters) {
        for ring in &mut self.from {
            while ring.waiting() > 0 {
                if ring.pop_fence().is_none() && ring.pop(|_, _| ()).is_some() {
                    counters.drop(Drop::Stopping);
                }
            }
        }
    }

    /// Sends a fence by every lane of this worker's slots.
    pub(crate) fn ask(&mut self, vrf: VrfId, tables: &Tables) {
        self.fences.number += 1;
        self.fences.away = 0;
        for (lane, ring) in self.out.iter_mut().enumerate() {
            let Some(at) = tables.slot_of_lane(vrf, lane) else {
                continue;
            };
            let fence = Fence {
                at,
                number: self.fences.number,
                back: false,
            };
            // One that isn't sent doesn't come back.
            self.fences.away += 1;
            let _ = ring.push_fence(&fence);
        }
    }

    /// Whether all fences that were sent last are back.
    pub(crate) const fn are_through(&self) -> bool {
        self.fences.away == 0
    }

    /// Lets peers' fences go on, behind what this worker has redirected. To be called when the receive queues were read;
    /// `emptied`: nothing was left in them.
    #[inline]
    pub(crate) fn let_through(&mut self, emptied: bool) {
        if !self.fences.passing.is_empty() {
            self.fences.let_through(emptied, &mut self.out);
        }
    }
}

impl Fences {
    /// One has come out of a ring.
    fn met(&mut self, ring: usize, fence: &Fence) {
        if !fence.back {
            let _ = self.passing.try_push((ring, *fence));
        } else if fence.number == self.number {
            self.away = self.away.saturating_sub(1);
        }
    }

    #[cold]
    fn let_through(&mut self, emptied: bool, out: &mut [PacketSender]) {
        self.turns += 1;
        if emptied || self.turns >= FENCE_TURNS {
            self.turns = 0;
            self.passing
                .retain(|(ring, fence)| !out[*ring].push_fence(&Fence { back: true, ..*fence }));
        }
    }
}

/// Redirects what the stages before have refused because this node isn't active.
#[cold]
pub(crate) fn redirect<P: Packet>(
    batch: &mut Batch<P>,
    redirects: &mut Redirects,
    line: &mut Line<P>,
    cx: &Context<'_>,
) {
    let places = batch.meta.iter().zip(&mut batch.work);
    for (packet, (meta, work)) in batch.packets.iter().zip(places) {
        if !matches!(
            work.verdict,
            Verdict::Drop(Drop::StandbyMatched | Drop::StandbyUnmatched)
        ) {
            continue;
        }
        let policy = cx.snapshot.vrf(work.at.vrf).standby;
        if work.redirects >= REDIRECTS_MAX {
            work.drop(Drop::RedirectReturned);
        } else if work.redirects > 0 || cx.tables.redirects(work.at.vrf, policy, cx.now) {
            line.open(work.at.vrf, cx.now);
            work.drop(send(packet.data(), meta, work, redirects, cx));
        }
    }
}

/// Copies a packet into its ring; gives as what it ends here.
fn send(frame: &[u8], meta: &Meta, work: &Work, redirects: &mut Redirects, cx: &Context<'_>) -> Drop {
    if !redirects.limit.take(cx.now) {
        return Drop::RedirectLimit;
    }
    let lanes = u16::try_from(redirects.out.len()).unwrap_or(u16::MAX);
    let lane = usize::from(lane_of(work.at.slot, lanes));
    let head = Redirect {
        at: work.at,
        interface: cx.snapshot.interface(work.interface).name_hash,
        source: meta.src_mac(),
        times: work.redirects + 1,
    };
    // Without padding, which is the link's.
    let packet = frame
        .get(usize::from(meta.l2_len)..meta.ip_end())
        .unwrap_or_default();
    let ring = redirects.out.get_mut(lane);
    if ring.is_some_and(|ring| ring.push(&head, packet.into())) {
        Drop::Redirected
    } else {
        Drop::RedirectFull
    }
}

/// The frame that would have come, had the packet come in here. The peer has looked whether its frame was for it.
fn frame<I: Io>(
    head: &Redirect,
    bytes: Bytes<'_>,
    snapshot: &Snapshot,
    io: &mut I,
) -> Result<(PortId, I::Packet), Drop> {
    let id = snapshot.interface_named(head.interface);
    let interface = snapshot.interface(id.ok_or(Drop::RedirectInterface)?);
    let mut packet = io.alloc().ok_or(Drop::RedirectBuffer)?;
    let l2_len = interface.tags.l2_len();
    if !packet.set_len(l2_len + bytes.len()) {
        return Err(Drop::RedirectBuffer);
    }
    let (l2, l3) = packet.data_mut().split_at_mut(l2_len);
    bytes.copy_to(l3);
    write_l2(l2, &interface.mac, &head.source, &interface.tags);
    let version = l3.first().map_or(0, |byte| byte >> 4);
    let kind = if version == 6 {
        ethertype::IPV6
    } else {
        ethertype::IPV4
    };
    l2[l2_len - 2..].copy_from_slice(&kind.to_be_bytes());
    Ok((interface.port, packet))
}
