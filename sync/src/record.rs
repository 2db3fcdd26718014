//! Records of a frame, to bytes and back. The layouts are in `PROTOCOL.md`, sections 5 and 6.
//!
//! Encoded by the event thread that drained them from a worker's ring, into the frame being built; decoded in
//! place by the peer's event thread. A record names a VRF by a handle that its sender has bound to a name on the
//! same connection, and a version by a counter alone when its term is the one last announced for the VRF.

use bytes::{Buf, BufMut};
use dataplane::delta::{
    BlockRecord, Class, DelRecord, Delta, NatPart, PutRecord, RefreshRecord, Scales, SlotEnd, SlotOffer,
    SlotRef, StateRecord, Term, Version,
};
use dataplane::flow::{FlowKey, VrfId, proto};
use dataplane::role::Role;

use crate::bytes::{Short, get_address, get_number, get_text, put_address, put_number, put_text};
use crate::compare_record::{Said, get_said};
use crate::fingerprint::{Section, Strength};
use crate::slot_record::get_slot_record;

/// Bytes in front of a record's body: its length and its type.
pub(crate) const HEADER: usize = 3;
/// Longest name of a VRF or node.
pub(crate) const NAME_MAX: usize = 64;
/// Longest name of a fingerprint section, and their greatest number.
pub(crate) const SECTION_NAME_MAX: usize = 32;
pub(crate) const SECTIONS_MAX: usize = 16;

/// Record types (sync/PROTOCOL.md section 6). Those of flows and blocks are even for IPv4, odd for IPv6.
pub(crate) mod kind {
    pub(crate) const VRF_OPEN: u8 = 0x01;
    pub(crate) const VRF_STATE: u8 = 0x02;
    pub(crate) const HEARTBEAT: u8 = 0x03;
    pub(crate) const BYE: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x08;
    pub(crate) const SLOT_VERIFIED: u8 = 0x09;
    pub(crate) const SLOT_FAILED: u8 = 0x0a;
    pub(crate) const SLOT_OFFER: u8 = 0x0b;
    pub(crate) const SLOT_BEGIN: u8 = 0x10;
    pub(crate) const SLOT_END: u8 = 0x11;
    pub(crate) const SLOT_QUERY: u8 = 0x12;
    pub(crate) const SLOT_DIGEST: u8 = 0x13;
    pub(crate) const PUT: u8 = 0x20;
    pub(crate) const STATE: u8 = 0x22;
    pub(crate) const REFRESH: u8 = 0x24;
    pub(crate) const DEL: u8 = 0x26;
    pub(crate) const BLOCK: u8 = 0x28;
    pub(crate) const SLOT_MARK: u8 = 0x40;
    pub(crate) const SLOT_MARKED: u8 = 0x41;
    pub(crate) const SLOT_LIST: u8 = 0x42;
    pub(crate) const SLOT_ENTRY: u8 = 0x43;
    pub(crate) const SLOT_LISTED: u8 = 0x44;

    /// A type as `PROTOCOL.md` calls it, whatever its address family.
    pub(crate) const fn name(kind: u8) -> &'static str {
        let kind = if kind >= PUT && kind < 0x2a {
            kind & !1
        } else {
            kind
        };
        match kind {
            VRF_OPEN => "VRF-OPEN",
            VRF_STATE => "VRF-STATE",
            HEARTBEAT => "HEARTBEAT",
            BYE => "BYE",
            ACK => "ACK",
            SLOT_VERIFIED => "SLOT-VERIFIED",
            SLOT_FAILED => "SLOT-FAILED",
            SLOT_OFFER => "SLOT-OFFER",
            SLOT_BEGIN => "SLOT-BEGIN",
            SLOT_END => "SLOT-END",
            SLOT_QUERY => "SLOT-QUERY",
            SLOT_DIGEST => "SLOT-DIGEST",
            PUT => "PUT",
            STATE => "STATE",
            REFRESH => "REFRESH",
            DEL => "DEL",
            BLOCK => "BLOCK",
            SLOT_MARK => "SLOT-MARK",
            SLOT_MARKED => "SLOT-MARKED",
            SLOT_LIST => "SLOT-LIST",
            SLOT_ENTRY => "SLOT-ENTRY",
            SLOT_LISTED => "SLOT-LISTED",
            _ => "UNKNOWN",
        }
    }
}

/// Bits of a PUT's flags; the others' use those of the same meaning.
mod flag {
    pub(super) const ORIGINAL_VRF: u8 = 1;
    pub(super) const REPLY_VRF: u8 = 2;
    pub(super) const REPLY_SRC: u8 = 4;
    pub(super) const REPLY_DST: u8 = 8;
    pub(super) const NAT: u8 = 16;
    pub(super) const MAPPING: u8 = 32;
    pub(super) const TERM: u8 = 64;
    pub(super) const REPLY_PROTO: u8 = 128;
    /// Of a BLOCK only: granted, not released.
    pub(super) const HELD: u8 = 1;
}

/// What the sender of a VRF-OPEN says of a VRF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VrfOpen {
    pub(crate) handle: u16,
    /// S, or 0 when the VRF is not replicated with this peer and only lends its name to outside tuples.
    pub(crate) slots: u16,
    pub(crate) role: Role,
    pub(crate) ready: bool,
    pub(crate) term: Term,
    pub(crate) capacity: u64,
    pub(crate) name: String,
    pub(crate) sections: Vec<Section>,
}

/// What changed of a VRF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VrfState {
    pub(crate) handle: u16,
    pub(crate) role: Role,
    pub(crate) ready: bool,
    pub(crate) term: Term,
}

/// Why a receiver wants a slot again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum SlotFailure {
    /// Count or digest did not add up.
    Unverified = 0,
    /// The receiver is active itself, or holds a higher term.
    NotAccepting = 1,
    /// A record of the slot could not be read.
    Malformed = 2,
    /// Nothing is wrong; an operator of the receiver wants it.
    Requested = 3,
}

/// A record, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    VrfOpen(VrfOpen),
    VrfState(VrfState),
    Heartbeat,
    Bye,
    Ack {
        sequence: u64,
    },
    SlotVerified {
        at: SlotRef,
        generation: u32,
        refused: u32,
    },
    SlotFailed {
        at: SlotRef,
        generation: u32,
        why: u8,
    },
    SlotBegin {
        at: SlotRef,
        generation: u32,
        version: Version,
        since: Option<Version>,
    },
    SlotEnd {
        at: SlotRef,
        end: SlotEnd,
    },
    SlotQuery {
        at: SlotRef,
        generation: u32,
    },
    SlotOffer {
        at: SlotRef,
        offer: SlotOffer,
    },
    SlotDigest {
        at: SlotRef,
        end: SlotEnd,
    },
    Delta {
        at: SlotRef,
        delta: Delta,
    },
    Comparison {
        at: SlotRef,
        round: u32,
        said: Said,
    },
}

/// A handle as its sender bound it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) vrf: VrfId,
    /// S of both nodes; 0 when slots of this VRF must not be named.
    pub(crate) slots: u16,
    /// Term its sender has last announced.
    pub(crate) term: Term,
}

/// Why a record was not understood. None of these touches anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// A type of a later version: skipped.
    UnknownType,
    /// A handle that is not bound, or bound to a VRF this node hasn't got.
    UnknownVrf,
    /// Fields missing or impossible; the slot is known when the record got that far.
    Malformed(Option<SlotRef>),
}

impl From<Short> for RecordError {
    fn from(_: Short) -> Self {
        Self::Malformed(None)
    }
}

impl From<bytes::TryGetError> for RecordError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Malformed(None)
    }
}

/// Appends a record: header, then what `body` writes.
pub(crate) fn record(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_slice(&[0, 0, kind]);
    body(out);
    let len = u16::try_from(out.len() - start - HEADER).unwrap_or(u16::MAX);
    out[start..start + 2].copy_from_slice(&len.to_be_bytes());
}

pub(crate) fn put_at(out: &mut Vec<u8>, at: SlotRef) {
    out.put_u16(at.vrf.0);
    out.put_u16(at.slot);
}

fn put_version(out: &mut Vec<u8>, version: Version, announced: Term) {
    put_number(out, version.counter);
    if version.term != announced {
        out.put_u64(version.term.0);
    }
}

/// The class and, of a TCP connection, the window scales.
fn put_class(out: &mut Vec<u8>, protocol: u8, class: Class, scales: Scales) {
    out.put_u8(class as u8);
    if protocol == proto::TCP {
        out.put_u8(scales.0);
    }
}

fn term_flag(version: Version, announced: Term) -> u8 {
    if version.term == announced { 0 } else { flag::TERM }
}

pub(crate) const fn when(condition: bool, flag: u8) -> u8 {
    if condition { flag } else { 0 }
}

/// Appends a change of one entry. `announced` is the term this end last announced for the VRF.
pub(crate) fn put_delta(out: &mut Vec<u8>, at: SlotRef, delta: &Delta, announced: Term) {
    match delta {
        Delta::Put(put) => put_put(out, at, put, announced),
        Delta::State(state) => {
            let proto = state.original.proto;
            keyed(
                out,
                kind::STATE,
                at,
                &state.original,
                term_flag(state.version, announced),
                |out| {
                    put_class(out, proto, state.class, state.scales);
                    put_number(out, state.lifetime_s.into());
                    put_version(out, state.version, announced);
                },
            );
        }
        Delta::Refresh(refresh) => keyed(out, kind::REFRESH, at, &refresh.original, 0, |out| {
            put_number(out, refresh.lifetime_s.into());
        }),
        Delta::Del(del) => {
            keyed(
                out,
                kind::DEL,
                at,
                &del.original,
                term_flag(del.version, announced),
                |out| {
                    put_version(out, del.version, announced);
                },
            );
        }
        Delta::Block(block) => put_block(out, at, block, announced),
    }
}

fn put_put(out: &mut Vec<u8>, at: SlotRef, put: &PutRecord, announced: Term) {
    let (o, r) = (&put.original, &put.reply);
    let v4 = [o.src, o.dst, r.src, r.dst]
        .iter()
        .all(dataplane::flow::Addr::is_v4);
    let reply_src = (r.src, r.src_port) != (o.dst, o.dst_port);
    let reply_dst = (r.dst, r.dst_port) != (o.src, o.src_port);
    let flags = when(o.vrf != at.vrf, flag::ORIGINAL_VRF)
        | when(r.vrf != at.vrf, flag::REPLY_VRF)
        | when(reply_src, flag::REPLY_SRC)
        | when(reply_dst, flag::REPLY_DST)
        | when(put.nat.is_some(), flag::NAT)
        | when(put.nat.is_some_and(|n| n.mapping), flag::MAPPING)
        | term_flag(put.version, announced)
        | when(r.proto != o.proto, flag::REPLY_PROTO);
    record(out, kind::PUT + u8::from(!v4), |out| {
        put_at(out, at);
        out.put_slice(&[flags, o.proto]);
        put_class(out, o.proto, put.class, put.scales);
        put_number(out, put.lifetime_s.into());
        put_version(out, put.version, announced);
        put_ends(out, o, v4);
        if flags & flag::ORIGINAL_VRF != 0 {
            out.put_u16(o.vrf.0);
        }
        if flags & flag::REPLY_VRF != 0 {
            out.put_u16(r.vrf.0);
        }
        if reply_src {
            put_address(out, &r.src, v4);
            out.put_u16(r.src_port);
        }
        if reply_dst {
            put_address(out, &r.dst, v4);
            out.put_u16(r.dst_port);
        }
        if let Some(nat) = put.nat {
            put_number(out, nat.grant);
        }
        if flags & flag::REPLY_PROTO != 0 {
            out.put_u8(r.proto);
        }
    });
}

pub(crate) fn put_ends(out: &mut Vec<u8>, key: &FlowKey, v4: bool) {
    put_address(out, &key.src, v4);
    put_address(out, &key.dst, v4);
    out.put_u16(key.src_port);
    out.put_u16(key.dst_port);
}

/// A record that names a conntrack by its original direction.
fn keyed(
    out: &mut Vec<u8>,
    kind: u8,
    at: SlotRef,
    key: &FlowKey,
    flags: u8,
    rest: impl FnOnce(&mut Vec<u8>),
) {
    let v4 = key.src.is_v4() && key.dst.is_v4();
    let other_vrf = key.vrf != at.vrf;
    record(out, kind + u8::from(!v4), |out| {
        put_at(out, at);
        out.put_slice(&[flags | when(other_vrf, flag::ORIGINAL_VRF), key.proto]);
        put_ends(out, key, v4);
        if other_vrf {
            out.put_u16(key.vrf.0);
        }
        rest(out);
    });
}

fn put_block(out: &mut Vec<u8>, at: SlotRef, block: &BlockRecord, announced: Term) {
    let v4 = block.subscriber.is_v4() && block.address.is_v4();
    record(out, kind::BLOCK + u8::from(!v4), |out| {
        put_at(out, at);
        out.put_u8(when(block.held, flag::HELD) | term_flag(block.version, announced));
        put_number(out, block.grant);
        put_version(out, block.version, announced);
        put_address(out, &block.subscriber, v4);
        put_address(out, &block.address, v4);
        out.put_u16(block.port_first);
    });
}

/// Appends ACK: every record of every frame up to `sequence` has been applied.
pub(crate) fn put_ack(out: &mut Vec<u8>, sequence: u64) {
    record(out, kind::ACK, |out| out.put_u64(sequence));
}

/// Appends HEARTBEAT.
pub(crate) fn put_heartbeat(out: &mut Vec<u8>) {
    record(out, kind::HEARTBEAT, |_| ());
}

/// Appends BYE.
pub(crate) fn put_bye(out: &mut Vec<u8>) {
    record(out, kind::BYE, |_| ());
}

/// Appends VRF-STATE.
pub(crate) fn put_vrf_state(out: &mut Vec<u8>, state: &VrfState) {
    record(out, kind::VRF_STATE, |out| {
        out.put_u16(state.handle);
        out.put_slice(&[state.role as u8, u8::from(state.ready)]);
        out.put_u64(state.term.0);
    });
}

/// Appends VRF-OPEN.
pub(crate) fn put_vrf_open(out: &mut Vec<u8>, open: &VrfOpen) {
    record(out, kind::VRF_OPEN, |out| {
        out.put_u16(open.handle);
        out.put_u16(open.slots);
        out.put_slice(&[open.role as u8, u8::from(open.ready)]);
        out.put_u64(open.term.0);
        out.put_u64(open.capacity);
        put_text(out, &open.name);
        let sections = &open.sections[..open.sections.len().min(SECTIONS_MAX)];
        out.put_u8(u8::try_from(sections.len()).unwrap_or(0));
        for section in sections {
            out.put_u8(section.strength as u8);
            put_text(out, &section.name);
            out.put_u64(section.hash);
        }
    });
}

/// Decodes a record of type `kind`. `resolve` knows the handles its sender has bound. Bytes behind the last
/// field belong to later versions and are ignored.
pub(crate) fn decode(
    kind: u8,
    body: &[u8],
    resolve: impl Fn(u16) -> Option<Bound>,
) -> Result<Message, RecordError> {
    let mut from = body;
    match kind {
        kind::HEARTBEAT => return Ok(Message::Heartbeat),
        kind::BYE => return Ok(Message::Bye),
        kind::ACK => {
            return Ok(Message::Ack {
                sequence: from.try_get_u64()?,
            });
        }
        kind::VRF_OPEN => return get_vrf_open(&mut from).map(Message::VrfOpen),
        kind::VRF_STATE => return get_vrf_state(&mut from).map(Message::VrfState),
        kind::SLOT_VERIFIED..=kind::SLOT_OFFER | kind::SLOT_BEGIN..=kind::SLOT_DIGEST => {}
        kind::PUT..0x2a => {}
        kind::SLOT_MARK..=kind::SLOT_LISTED => {}
        _ => return Err(RecordError::UnknownType),
    }
    let bound = resolve(from.try_get_u16()?).ok_or(RecordError::UnknownVrf)?;
    let slot = from.try_get_u16()?;
    if slot >= bound.slots {
        return Err(RecordError::Malformed(None));
    }
    let at = SlotRef { vrf: bound.vrf, slot };
    get_slotted(kind, &mut from, at, bound.term, &resolve).map_err(|e| match e {
        RecordError::Malformed(_) => RecordError::Malformed(Some(at)),
        other => other,
    })
}

fn get_slotted(
    kind: u8,
    from: &mut &[u8],
    at: SlotRef,
    announced: Term,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<Message, RecordError> {
    if kind < kind::PUT {
        return get_slot_record(kind, from, at);
    }
    if kind >= kind::SLOT_MARK {
        let (round, said) = get_said(kind, from, at, resolve)?;
        return Ok(Message::Comparison { at, round, said });
    }
    let v4 = kind & 1 == 0;
    let delta = match kind & !1 {
        kind::PUT => Delta::Put(get_put(from, v4, at, announced, resolve)?),
        kind::BLOCK => Delta::Block(get_block(from, v4, announced)?),
        keyed => get_keyed(keyed, from, v4, at, announced, resolve)?,
    };
    Ok(Message::Delta { at, delta })
}

fn get_version(from: &mut &[u8], flags: u8, announced: Term) -> Result<Version, RecordError> {
    let counter = get_number(from)?;
    let term = if flags & flag::TERM != 0 {
        Term(from.try_get_u64()?)
    } else {
        announced
    };
    Ok(Version { term, counter })
}

fn get_class(from: &mut &[u8], protocol: u8) -> Result<(Class, Scales), RecordError> {
    let class = Class::from_u8(from.try_get_u8()?).ok_or(RecordError::Malformed(None))?;
    let scales = if protocol == proto::TCP {
        Scales(from.try_get_u8()?)
    } else {
        Scales::NONE
    };
    Ok((class, scales))
}

fn get_lifetime(from: &mut &[u8]) -> Result<u32, RecordError> {
    u32::try_from(get_number(from)?).map_err(|_| RecordError::Malformed(None))
}

pub(crate) fn get_vrf(
    from: &mut &[u8],
    present: bool,
    default: VrfId,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<VrfId, RecordError> {
    if !present {
        return Ok(default);
    }
    resolve(from.try_get_u16()?)
        .map(|b| b.vrf)
        .ok_or(RecordError::UnknownVrf)
}

pub(crate) fn get_ends(from: &mut &[u8], v4: bool, vrf: VrfId, proto: u8) -> Result<FlowKey, RecordError> {
    let (src, dst) = (get_address(from, v4)?, get_address(from, v4)?);
    Ok(FlowKey {
        src,
        dst,
        src_port: from.try_get_u16()?,
        dst_port: from.try_get_u16()?,
        vrf,
        proto,
    })
}

fn get_put(
    from: &mut &[u8],
    v4: bool,
    at: SlotRef,
    announced: Term,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<PutRecord, RecordError> {
    let (flags, proto) = (from.try_get_u8()?, from.try_get_u8()?);
    if flags & (flag::NAT | flag::MAPPING) == flag::MAPPING {
        return Err(RecordError::Malformed(None));
    }
    let (class, scales) = get_class(from, proto)?;
    let lifetime_s = get_lifetime(from)?;
    let version = get_version(from, flags, announced)?;
    let mut original = get_ends(from, v4, at.vrf, proto)?;
    let mut reply = original.reversed();
    original.vrf = get_vrf(from, flags & flag::ORIGINAL_VRF != 0, at.vrf, resolve)?;
    reply.vrf = get_vrf(from, flags & flag::REPLY_VRF != 0, at.vrf, resolve)?;
    if flags & flag::REPLY_SRC != 0 {
        (reply.src, reply.src_port) = (get_address(from, v4)?, from.try_get_u16()?);
    }
    if flags & flag::REPLY_DST != 0 {
        (reply.dst, reply.dst_port) = (get_address(from, v4)?, from.try_get_u16()?);
    }
    let nat = if flags & flag::NAT != 0 {
        Some(NatPart {
            grant: get_number(from)?,
            mapping: flags & flag::MAPPING != 0,
        })
    } else {
        None
    };
    if flags & flag::REPLY_PROTO != 0 {
        reply.proto = from.try_get_u8()?;
    }
    Ok(PutRecord {
        original,
        reply,
        nat,
        class,
        scales,
        lifetime_s,
        version,
    })
}

fn get_block(from: &mut &[u8], v4: bool, announced: Term) -> Result<BlockRecord, RecordError> {
    let flags = from.try_get_u8()?;
    if flags & !(flag::HELD | flag::TERM) != 0 {
        return Err(RecordError::Malformed(None));
    }
    let grant = get_number(from)?;
    let version = get_version(from, flags, announced)?;
    let (subscriber, address) = (get_address(from, v4)?, get_address(from, v4)?);
    let port_first = from.try_get_u16()?;
    Ok(BlockRecord {
        grant,
        subscriber,
        address,
        port_first,
        held: flags & flag::HELD != 0,
        version,
    })
}

fn get_keyed(
    kind: u8,
    from: &mut &[u8],
    v4: bool,
    at: SlotRef,
    announced: Term,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<Delta, RecordError> {
    let (flags, proto) = (from.try_get_u8()?, from.try_get_u8()?);
    let allowed = flag::ORIGINAL_VRF | when(kind != kind::REFRESH, flag::TERM);
    if flags & !allowed != 0 {
        return Err(RecordError::Malformed(None));
    }
    let mut original = get_ends(from, v4, at.vrf, proto)?;
    original.vrf = get_vrf(from, flags & flag::ORIGINAL_VRF != 0, at.vrf, resolve)?;
    Ok(match kind {
        kind::STATE => {
            let (class, scales) = get_class(from, proto)?;
            let lifetime_s = get_lifetime(from)?;
            let version = get_version(from, flags, announced)?;
            Delta::State(StateRecord {
                original,
                class,
                scales,
                lifetime_s,
                version,
            })
        }
        kind::REFRESH => Delta::Refresh(RefreshRecord {
            original,
            lifetime_s: get_lifetime(from)?,
        }),
        _ => Delta::Del(DelRecord {
            original,
            version: get_version(from, flags, announced)?,
        }),
    })
}

fn get_role(value: u8) -> Result<Role, RecordError> {
    [Role::Fault, Role::Backup, Role::Master, Role::Alone]
        .into_iter()
        .find(|r| *r as u8 == value)
        .ok_or(RecordError::Malformed(None))
}

fn get_vrf_state(from: &mut &[u8]) -> Result<VrfState, RecordError> {
    let handle = from.try_get_u16()?;
    let (role, ready) = (get_role(from.try_get_u8()?)?, from.try_get_u8()? != 0);
    Ok(VrfState {
        handle,
        role,
        ready,
        term: Term(from.try_get_u64()?),
    })
}

fn get_vrf_open(from: &mut &[u8]) -> Result<VrfOpen, RecordError> {
    let (handle, slots) = (from.try_get_u16()?, from.try_get_u16()?);
    let (role, ready) = (get_role(from.try_get_u8()?)?, from.try_get_u8()? != 0);
    let (term, capacity) = (Term(from.try_get_u64()?), from.try_get_u64()?);
    let name = get_text(from, NAME_MAX)?;
    let count = usize::from(from.try_get_u8()?);
    if count > SECTIONS_MAX {
        return Err(RecordError::Malformed(None));
    }
    let mut sections = Vec::with_capacity(count);
    for _ in 0..count {
        let strength = if from.try_get_u8()? == 0 {
            Strength::MustEqual
        } else {
            Strength::Warn
        };
        let name = get_text(from, SECTION_NAME_MAX)?;
        sections.push(Section {
            name,
            strength,
            hash: from.try_get_u64()?,
        });
    }
    Ok(VrfOpen {
        handle,
        slots,
        role,
        ready,
        term,
        capacity,
        name,
        sections,
    })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
