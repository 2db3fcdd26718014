//! Packets that came to the node which isn't active, on their way to the one that is (sync/PROTOCOL.md ): out of
//! the workers' rings into the lane, and out of the peers' lanes into the workers' rings.
//!
//! They share connections with records and never hold one up for long: each turn takes its records first, then so many packets,
//! and none while a lane has this many bytes to send. What has to wait, waits in the workers' rings; what has nowhere to go
//! is dropped and counted.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use dataplane::delta::SlotRef;
use dataplane::flow::VrfId;
use dataplane::owners::Owners;
use dataplane::redirect::{
    Bytes, Fence, PACKET_MAX, PACKET_MIN, PacketReceiver, PacketSender, REDIRECTS_MAX, Redirect,
};

use crate::board::Board;
use crate::bytes::put_number;
use crate::fence::Fences;
use crate::lane::Lane;
use crate::record::{Bound, RecordError, kind};
use crate::report::RedirectReport;
use crate::shared::Shared;
use crate::wire::Wire;

/// Packets taken from the workers' rings per turn.
const PACKETS_MAX: usize = 64;

/// Bytes waiting in a lane from which on packets wait for it.
pub(crate) const LANE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a REDIRECT's body in front of the packet.
const HEAD: usize = 19;

/// The workers' packets for active peers.
#[derive(Debug)]
pub(crate) struct Leaving {
    rings: Vec<PacketReceiver>,
    /// Whose ring is the first one.
    first: usize,
}

/// The peers' packets for the workers.
#[derive(Debug)]
pub(crate) struct Arriving {
    rings: Vec<PacketSender>,
    owners: Arc<Owners>,
    fences: Fences,
    /// Per VRF: the peer that the last packet was for, or from, once there was one.
    peers: Vec<Option<u8>>,
    /// Both directions.
    pub(crate) report: RedirectReport,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// To the peer of this number, which is active.
    Peer(u8),
    /// Back: this node has become active since.
    Back,
    /// Nobody is active.
    Nowhere,
}

impl Leaving {
    pub(crate) const fn new(rings: Vec<PacketReceiver>) -> Self {
        Self { rings, first: 0 }
    }

    /// Takes out what the lanes have room for; gives how many packets it were.
    pub(crate) fn turn<W: Wire>(&mut self, s: &mut Shared, board: &Board, lanes: &mut [Lane<W>]) -> usize {
        let mut taken = 0;
        let rings = self.rings.len().max(1);
        self.first = (self.first + 1) % rings;
        let (front, back) = self.rings.split_at_mut(self.first);
        for ring in back.iter_mut().chain(front) {
            while taken < PACKETS_MAX {
                if let Some((fence, _)) = ring.pop_fence() {
                    send_fence(&fence, s, lanes);
                    taken += 1;
                    continue;
                }
                let Some((redirect, _)) = ring.peek() else { break };
                let way = way(redirect.at.vrf, s, board);
                if let Way::Peer(peer) = way
                    && lanes[usize::from(peer)].bytes_queued() >= LANE_BYTES_MAX
                {
                    break;
                }
                taken += usize::from(
                    ring.pop(|redirect, packet| send(redirect, packet, way, s, lanes))
                        .is_some(),
                );
            }
        }
        taken
    }
}

fn send<W: Wire>(redirect: &Redirect, packet: Bytes<'_>, way: Way, s: &mut Shared, lanes: &mut [Lane<W>]) {
    s.arriving.report.taken += 1;
    match way {
        Way::Peer(peer) if lanes[usize::from(peer)].redirect(s.now, redirect, packet) => {
            s.arriving.report.sent += 1;
            // It may come back.
            s.arriving.meet(redirect.at.vrf, peer);
        }
        Way::Back => {
            s.arriving.report.turned_back += 1;
            // It was nowhere this time. Its worker may know already that this node has handed over, and send it anew.
            let redirect = Redirect {
                times: redirect.times.saturating_sub(1).max(1),
                ..*redirect
            };
            s.arriving.hand_on(&redirect, packet);
        }
        Way::Peer(_) | Way::Nowhere => s.arriving.report.unsent += 1,
    }
}

/// A worker asks, or has let a peer's fence through.
fn send_fence<W: Wire>(fence: &Fence, s: &mut Shared, lanes: &mut [Lane<W>]) {
    if fence.back {
        if let Some((peer, fence)) = s.arriving.let_through(fence) {
            lanes[usize::from(peer)].fence(s.now, &fence);
        }
        return;
    }
    let vrf = fence.at.vrf.index();
    let last = s.arriving.peers.get(vrf).copied().flatten();
    let first = s
        .config
        .vrfs
        .get(vrf)
        .and_then(|known| known.peers.first().copied());
    let sent = last
        .or(first)
        .is_some_and(|peer| lanes[usize::from(peer)].fence(s.now, fence));
    if !sent {
        // Nobody is there whose packets could still come.
        s.arriving.fence_back(&Fence { back: true, ..*fence });
    }
}

fn way(vrf: VrfId, s: &Shared, board: &Board) -> Way {
    if s.own.get(vrf.index()).is_some_and(|own| own.role.is_active()) {
        return Way::Back;
    }
    let Some(known) = s.config.vrfs.get(vrf.index()) else {
        return Way::Nowhere;
    };
    // Not what this lane has heard: the role was given up because of what some lane has.
    let active = |peer: &&u8| board.view(**peer, vrf, known.slots).is_master();
    known
        .peers
        .iter()
        .find(active)
        .map_or(Way::Nowhere, |peer| Way::Peer(*peer))
}

impl Arriving {
    pub(crate) fn new(rings: Vec<PacketSender>, owners: Arc<Owners>, vrfs: usize) -> Self {
        Self {
            rings,
            owners,
            fences: Fences::default(),
            peers: vec![None; vrfs],
            report: RedirectReport::default(),
        }
    }

    /// A packet that a peer has redirected; false when its worker has no room for it.
    pub(crate) fn receive(&mut self, peer: u8, redirect: &Redirect, packet: Bytes<'_>) -> bool {
        self.report.received += 1;
        self.meet(redirect.at.vrf, peer);
        self.hand_on(redirect, packet)
    }

    /// Packets of a VRF are on the way between this node and a peer.
    fn meet(&mut self, vrf: VrfId, peer: u8) {
        if let Some(last) = self.peers.get_mut(vrf.index()) {
            *last = Some(peer);
        }
    }

    /// A fence of a peer's, or one that comes back from it.
    pub(crate) fn receive_fence(&mut self, peer: u8, fence: &Fence) {
        if fence.back {
            self.fence_back(fence);
        } else {
            self.fences.begin(peer, fence, &mut self.rings);
        }
    }

    /// A worker has let a fence through; gives whose it is when no other one has to.
    fn let_through(&mut self, fence: &Fence) -> Option<(u8, Fence)> {
        self.fences.let_through(fence, &mut self.rings)
    }

    /// To the worker that asked. One without room waits no longer than it would for a peer that says nothing.
    fn fence_back(&mut self, fence: &Fence) {
        let worker = usize::from(self.owners.worker_of(fence.at));
        let _ = self.rings[worker].push_fence(fence);
    }

    /// To the worker of its slot, which looks for itself whose it is.
    fn hand_on(&mut self, redirect: &Redirect, packet: Bytes<'_>) -> bool {
        let worker = usize::from(self.owners.worker_of(redirect.at));
        let done = self.rings[worker].push(redirect, packet);
        *if done {
            &mut self.report.handed_on
        } else {
            &mut self.report.full
        } += 1;
        done
    }
}

/// Appends REDIRECT.
pub(crate) fn put_redirect(out: &mut Vec<u8>, redirect: &Redirect, packet: Bytes<'_>) {
    out.put_u8(kind::REDIRECT);
    put_number(out, (HEAD + packet.len()) as u64);
    out.put_u16(redirect.at.vrf.0);
    out.put_u16(redirect.at.slot);
    out.put_u64(redirect.interface);
    out.put_slice(&redirect.source);
    out.put_u8(redirect.times);
    out.put_slice(packet.first);
    out.put_slice(packet.second);
}

/// Decodes the body of a REDIRECT. Of the packet only what an event thread needs is looked at: its worker parses it.
pub(crate) fn get_redirect(
    mut from: &[u8],
    resolve: impl Fn(u16) -> Option<Bound>,
) -> Result<(Redirect, &[u8]), RecordError> {
    let bound = resolve(from.try_get_u16()?).ok_or(RecordError::UnknownVrf)?;
    let at = SlotRef {
        vrf: bound.vrf,
        slot: from.try_get_u16()?,
    };
    let interface = from.try_get_u64()?;
    let mut source = [0; 6];
    from.try_copy_to_slice(&mut source)?;
    let times = from.try_get_u8()?;
    let version = from.first().map(|byte| byte >> 4);
    let sound = at.slot < bound.slots
        && (1..=REDIRECTS_MAX).contains(&times)
        && (PACKET_MIN..=PACKET_MAX).contains(&from.len())
        && matches!(version, Some(4 | 6));
    let redirect = Redirect {
        at,
        interface,
        source,
        times,
    };
    // No slot: none is missing anything.
    sound
        .then_some((redirect, from))
        .ok_or(RecordError::Malformed(None))
}

#[cfg(test)]
#[path = "redirect_tests.rs"]
mod tests;
