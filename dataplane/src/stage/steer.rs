//! Whose packet is it: interface and VRF, then the slot of its flow and the worker that owns the slot.
//!
//! The shard function is total (DESIGN.md, "Ownership"): a packet to a pool belongs to the holder of the port block;
//! else an inside end decides; else both ends do. A fragment goes to the worker where all pieces of its packet meet
//! ([`super::reassemble`]), until it has met them. Link-local business (ARP, ND, the kernel's protocols) needs no owner.

use super::reassemble::meeting_worker;
use super::{Batch, Context, Work};
use crate::config::InterfaceId;
use crate::delta::SlotRef;
use crate::flow::{FlowKey, VrfId};
use crate::io::{Packet, PortId};
use crate::shard::slot_of;
use crate::stage::handoff::Cause;
use crate::stage::meta::{Kind, Meta, Piece};
use crate::verdict::{Drop, Verdict};
use crate::vrf::{Interface, Vrf};
use crate::wire::ethernet::is_group;

/// A packet may be handed over once on arrival (a fragment twice: to where its packet's pieces meet, and on to the
/// owner) and once more when it hairpins. Either slot may change hands at that moment.
const HANDOFFS_MAX: u8 = 5;

/// Whether some are another worker's.
#[inline(never)]
#[must_use]
pub(crate) fn steer<P: Packet>(batch: &mut Batch<P>, cx: &Context<'_>) -> bool {
    let mut others = false;
    let mut last: Option<Entrance<'_>> = None;
    batch.each(|meta, work| {
        if !last.as_ref().is_some_and(|last| last.fits(meta, work.port)) {
            match Entrance::of(meta, work.port, cx) {
                Ok(found) => last = Some(found),
                Err(reason) => return work.drop(reason),
            }
        }
        let Some(entrance) = &last else { return };
        (work.interface, meta.key.vrf) = (entrance.interface, entrance.id);
        match meta.kind {
            Kind::Flow | Kind::IcmpError | Kind::Fragment => {}
            Kind::Arp | Kind::NeighborDiscovery => return,
            Kind::Other => {
                work.verdict = Verdict::Punt;
                return;
            }
        }
        // From a wire, not from this node's own translation (RFC 4787 REQ-9).
        if meta.to_itself && work.handoffs == 0 {
            return work.drop(Drop::BadAddress);
        }
        (work.at, work.cause) = slot_in(entrance.vrf, meta, cx);
        let owner = if meta.piece == Piece::Whole || work.passed {
            cx.owners.worker_of(work.at)
        } else {
            work.cause = Cause::Fragment;
            meeting_worker(meta, work.at, cx)
        };
        if owner != cx.worker {
            hand_to(owner, work, cx);
            others = true;
        }
    });
    others
}

/// Where a frame comes in, and between which stations of that link: most packets of a burst come from one neighbour.
struct Entrance<'a> {
    stations: [u8; 12],
    vlans: u32,
    port: PortId,
    interface: InterfaceId,
    id: VrfId,
    vrf: &'a Vrf,
}

impl<'a> Entrance<'a> {
    fn of(meta: &Meta, port: PortId, cx: &'a Context<'_>) -> Result<Self, Drop> {
        let vlans = meta.vlans.ids();
        let id = cx.snapshot.interface_of(port, vlans).ok_or(Drop::UnknownVlan)?;
        let interface = cx.snapshot.interface(id);
        if let Some(reason) = wrong_station(meta, interface) {
            return Err(reason);
        }
        Ok(Self {
            stations: meta.stations,
            vlans,
            port,
            interface: id,
            id: interface.vrf,
            vrf: cx.snapshot.vrf(interface.vrf),
        })
    }

    #[inline(always)]
    fn fits(&self, meta: &Meta, port: PortId) -> bool {
        self.stations == meta.stations && self.vlans == meta.vlans.ids() && self.port == port
    }
}

/// Leaves the packet to its owner, when that is another worker.
#[inline]
pub(crate) fn hand_to(owner: u16, work: &mut Work, cx: &Context<'_>) {
    if owner != cx.worker {
        if work.handoffs >= HANDOFFS_MAX {
            work.drop(Drop::HandoffLoop);
        } else {
            work.verdict = Verdict::HandOver(owner);
        }
    }
}

/// Frames from ourselves (the kernel's own, seen by a packet socket) and for others (promiscuous mode). Where there is no tap, a
/// virtual router's frames come from this node's kernel or the peer's, and are between them.
///
/// A unicast packet in a group frame is nobody's to forward (RFC 1812 section 5.3.4): parse has refused it.
fn wrong_station(meta: &Meta, interface: &Interface) -> Option<Drop> {
    if interface.is_own(&meta.src_mac()) {
        return Some(Drop::BadMac);
    }
    if !interface.is_station(&meta.dst_mac()) && !is_group(&meta.dst_mac()) {
        return Some(Drop::OtherHost);
    }
    None
}

/// The slot of a packet's flow, and what it followed from.
#[inline(always)]
pub(crate) fn owner_slot(meta: &Meta, cx: &Context<'_>) -> (SlotRef, Cause) {
    slot_in(cx.snapshot.vrf(meta.key.vrf), meta, cx)
}

/// As [`owner_slot`], when the VRF has been looked up. The family is asked for here, and by no step below.
#[inline(always)]
fn slot_in(vrf: &Vrf, meta: &Meta, cx: &Context<'_>) -> (SlotRef, Cause) {
    if meta.is_v6 {
        return (slot_of_v6(vrf, &meta.key), Cause::Subscriber);
    }
    let key = &meta.key.as_v4();
    let src_inside = vrf.inside.contains(&key.src);
    // From inside to a pool is the first half of a hairpin: the subscriber's own, like everything it sends.
    if !src_inside && let Some((vrf, slot)) = cx.pools.owner(key.vrf, &key.dst, key.dst_port) {
        return (SlotRef { vrf, slot }, Cause::Pool);
    }
    (slot_of_ends(vrf, key, src_inside), Cause::Subscriber)
}

/// Pools are of IPv4. Not inlined: the other family needs the registers.
#[inline(never)]
fn slot_of_v6(vrf: &Vrf, key: &FlowKey) -> SlotRef {
    slot_of_ends(vrf, key, vrf.inside.contains(&key.src))
}

/// The slot of a flow that is no pool's.
#[inline(always)]
fn slot_of_ends(vrf: &Vrf, key: &FlowKey, src_inside: bool) -> SlotRef {
    let dst_inside = vrf.inside.contains(&key.dst);
    SlotRef {
        vrf: key.vrf,
        slot: slot_of(&key.src, src_inside, &key.dst, dst_inside, vrf.slots),
    }
}
