//! Records of a frame, to bytes and back. The layouts are in `PROTOCOL.md`, sections 5 and 6; those of flows are in
//! [`crate::flow_record`], those of slots in [`crate::slot_record`].
//!
//! A record names a VRF by a handle that its sender has bound to a name on the same connection. How long it is can be told
//! without knowing its type: that of short ones follows from the range of types, all others say theirs.

use bytes::{Buf, BufMut};
use dataplane::delta::{Delta, PutRecord, SlotEnd, SlotOffer, SlotRef, Term, Version, Wanted};
use dataplane::flow::VrfId;
use dataplane::redirect::{Fence, Redirect};
use dataplane::role::Role;

use crate::bytes::{Short, get_number, get_text, put_number, put_text};
use crate::compare_record::{Said, get_said, get_tail};
use crate::fence::get_fence;
use crate::fingerprint::{Section, Strength};
use crate::flow_record::{Stream, get_delta};
use crate::handover::Handover;
use crate::redirect::get_redirect;
use crate::slot_record::{get_commit_record, get_slot_record, get_slot_version};

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
    pub(crate) const VRF_HANDOVER: u8 = 0x05;
    pub(crate) const ACK: u8 = 0x08;
    pub(crate) const SLOT_VERIFIED: u8 = 0x09;
    pub(crate) const SLOT_FAILED: u8 = 0x0a;
    pub(crate) const SLOT_OFFER: u8 = 0x0b;
    pub(crate) const CREDIT: u8 = 0x0c;
    pub(crate) const SLOT_COMMITTED: u8 = 0x0d;
    pub(crate) const SLOT_ASK: u8 = 0x0e;
    pub(crate) const SLOT_BEGIN: u8 = 0x10;
    pub(crate) const SLOT_END: u8 = 0x11;
    pub(crate) const SLOT_QUERY: u8 = 0x12;
    pub(crate) const SLOT_DIGEST: u8 = 0x13;
    pub(crate) const SLOT_VERSION: u8 = 0x14;
    pub(crate) const SLOT_COMMIT: u8 = 0x15;
    pub(crate) const PUT: u8 = 0x20;
    pub(crate) const DEL: u8 = 0x26;
    pub(crate) const BLOCK: u8 = 0x28;
    pub(crate) const SLOT_MARK: u8 = 0x40;
    pub(crate) const SLOT_MARKED: u8 = 0x41;
    pub(crate) const SLOT_LIST: u8 = 0x42;
    pub(crate) const SLOT_ENTRY: u8 = 0x43;
    pub(crate) const SLOT_LISTED: u8 = 0x44;
    pub(crate) const SLOT_TAIL: u8 = 0x45;
    pub(crate) const REDIRECT: u8 = 0x46;
    pub(crate) const FENCE: u8 = 0x47;
    /// Of class opening; the two other classes follow.
    pub(crate) const STATE: u8 = 0x80;
    pub(crate) const REFRESH: u8 = 0x83;
    pub(crate) const REMOVE: u8 = 0xc0;

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
            VRF_HANDOVER => "VRF-HANDOVER",
            ACK => "ACK",
            SLOT_VERIFIED => "SLOT-VERIFIED",
            SLOT_FAILED => "SLOT-FAILED",
            SLOT_OFFER => "SLOT-OFFER",
            CREDIT => "CREDIT",
            SLOT_ASK => "SLOT-ASK",
            SLOT_BEGIN => "SLOT-BEGIN",
            SLOT_END => "SLOT-END",
            SLOT_QUERY => "SLOT-QUERY",
            SLOT_DIGEST => "SLOT-DIGEST",
            SLOT_VERSION => "SLOT-VERSION",
            SLOT_COMMIT => "SLOT-COMMIT",
            SLOT_COMMITTED => "SLOT-COMMITTED",
            PUT => "PUT",
            DEL => "DEL",
            BLOCK => "BLOCK",
            STATE..REFRESH => "STATE",
            REFRESH => "REFRESH",
            REMOVE => "REMOVE",
            SLOT_MARK => "SLOT-MARK",
            SLOT_MARKED => "SLOT-MARKED",
            SLOT_LIST => "SLOT-LIST",
            SLOT_ENTRY => "SLOT-ENTRY",
            SLOT_LISTED => "SLOT-LISTED",
            SLOT_TAIL => "SLOT-TAIL",
            REDIRECT => "REDIRECT",
            FENCE => "FENCE",
            _ => "UNKNOWN",
        }
    }
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
    VrfHandover {
        handle: u16,
        handover: Handover,
    },
    Heartbeat,
    Bye,
    /// A packet of so many bytes. They stay where they are: who takes them looks for them there.
    Redirect {
        redirect: Redirect,
        length: usize,
    },
    Fence(Fence),
    Ack {
        sequence: u64,
    },
    /// Most records that may be on their way.
    Credit {
        records: u32,
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
        /// What records of the slot call it from now on.
        stream: u16,
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
    /// What has become of the record of this counter?
    SlotCommit {
        at: SlotRef,
        counter: u64,
    },
    SlotCommitted {
        at: SlotRef,
        counter: u64,
        applied: bool,
    },
    SlotOffer {
        at: SlotRef,
        offer: SlotOffer,
    },
    SlotAsk {
        at: SlotRef,
        generation: u32,
        wanted: Wanted,
    },
    SlotDigest {
        at: SlotRef,
        end: SlotEnd,
    },
    /// Live records of the slot go on behind this version.
    SlotVersion {
        at: SlotRef,
        version: Version,
    },
    Delta {
        at: SlotRef,
        /// It has the version after that of the live record before it.
        live: bool,
        delta: Delta,
    },
    Comparison {
        at: SlotRef,
        round: u32,
        said: Said,
    },
    Tail {
        at: SlotRef,
        put: PutRecord,
    },
}

/// A handle as its sender bound it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) vrf: VrfId,
    /// S of both nodes; 0 when slots of this VRF must not be named.
    pub(crate) slots: u16,
}

/// Why a record was not understood. None of these touches anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// A type of a later version: skipped.
    UnknownType,
    /// A handle that is not bound, or bound to a VRF this node hasn't got.
    UnknownVrf,
    /// A slot that was not begun on this connection.
    NotOpen,
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

/// Appends a record that says its length: header, then what `body` writes.
#[inline]
pub(crate) fn record(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.put_slice(&[kind, 0]);
    let start = out.len();
    body(out);
    let len = out.len() - start;
    match u8::try_from(len) {
        Ok(short) if short < 0x80 => out[start - 1] = short,
        // Only what is sent once per connection is as long as this.
        _ => {
            let mut number = Vec::new();
            put_number(&mut number, len as u64);
            out.splice(start - 1..start, number);
        }
    }
}

/// Length of a short record, its type included; none of a type that says its length.
#[inline]
pub(crate) const fn short_len(kind: u8) -> Option<usize> {
    match kind {
        ..0x80 => None,
        0x80..0xc0 => Some(8),
        0xc0.. => Some(6),
    }
}

/// Where the body of the record at the front starts and where it ends; none when the bytes end before it does.
#[inline]
pub(crate) fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
    if let Some(len) = short_len(*bytes.first()?) {
        return (bytes.len() >= len).then_some((1, len));
    }
    let mut rest = &bytes[1..];
    let len = usize::try_from(get_number(&mut rest).ok()?).ok()?;
    let start = bytes.len() - rest.len();
    (len <= rest.len()).then(|| (start, start + len))
}

pub(crate) fn put_at(out: &mut Vec<u8>, at: SlotRef) {
    out.put_u16(at.vrf.0);
    out.put_u16(at.slot);
}

/// Appends ACK: every record of every frame up to `sequence` has been applied.
pub(crate) fn put_ack(out: &mut Vec<u8>, sequence: u64) {
    record(out, kind::ACK, |out| out.put_u64(sequence));
}

/// Appends CREDIT: at most `records` that count may be sent and not acknowledged.
pub(crate) fn put_credit(out: &mut Vec<u8>, records: u32) {
    record(out, kind::CREDIT, |out| out.put_u32(records));
}

/// Whether records of a type count against the receiver's credit: they take a place in a worker's ring.
pub(crate) const fn takes_credit(kind: u8) -> bool {
    kind >= kind::SLOT_BEGIN && kind != kind::SLOT_VERSION && kind != kind::REDIRECT
}

/// Appends VRF-HANDOVER.
pub(crate) fn put_vrf_handover(out: &mut Vec<u8>, handle: u16, handover: Handover) {
    record(out, kind::VRF_HANDOVER, |out| {
        out.put_u16(handle);
        out.put_slice(&match handover {
            Handover::None => [0, 0],
            Handover::Asked(number) => [1, number],
            Handover::Told(number) => [2, number],
            Handover::Telling(number) => [3, number],
            Handover::Invites(node) => [4, node],
        });
    });
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

/// Decodes a record of type `kind`. `resolve` knows the VRF handles its sender has bound, `stream` the slots it has begun.
/// Bytes behind the last field belong to later versions and are ignored.
#[inline]
pub(crate) fn decode(
    kind: u8,
    body: &[u8],
    resolve: impl Fn(u16) -> Option<Bound>,
    stream: impl Fn(u16) -> Option<Stream>,
) -> Result<Message, RecordError> {
    let mut from = body;
    match kind {
        kind::HEARTBEAT => Ok(Message::Heartbeat),
        kind::BYE => Ok(Message::Bye),
        kind::ACK => Ok(Message::Ack {
            sequence: from.try_get_u64()?,
        }),
        kind::CREDIT => Ok(Message::Credit {
            records: from.try_get_u32()?,
        }),
        kind::VRF_OPEN => get_vrf_open(&mut from).map(Message::VrfOpen),
        kind::VRF_STATE => get_vrf_state(&mut from).map(Message::VrfState),
        kind::VRF_HANDOVER => get_vrf_handover(from),
        kind::SLOT_VERSION => get_slot_version(from, stream),
        kind::SLOT_VERIFIED..=kind::SLOT_OFFER | kind::SLOT_ASK | kind::SLOT_BEGIN..=kind::SLOT_DIGEST => {
            get_slotted(kind, from, resolve)
        }
        kind::SLOT_MARK..=kind::SLOT_TAIL | kind::SLOT_COMMIT | kind::SLOT_COMMITTED => {
            get_slotted(kind, from, resolve)
        }
        kind::PUT..=0x21 | kind::DEL..=0x29 | kind::STATE..=kind::REFRESH | kind::REMOVE => {
            get_delta(kind, from, &resolve, &stream)
        }
        kind::REDIRECT => {
            let (redirect, packet) = get_redirect(from, resolve)?;
            let length = packet.len();
            Ok(Message::Redirect { redirect, length })
        }
        kind::FENCE => get_fence(from, resolve).map(Message::Fence),
        _ => Err(RecordError::UnknownType),
    }
}

/// A record that names its slot by VRF and number.
fn get_slotted(
    kind: u8,
    mut from: &[u8],
    resolve: impl Fn(u16) -> Option<Bound>,
) -> Result<Message, RecordError> {
    let bound = resolve(from.try_get_u16()?).ok_or(RecordError::UnknownVrf)?;
    let slot = from.try_get_u16()?;
    if slot >= bound.slots {
        return Err(RecordError::Malformed(None));
    }
    let at = SlotRef { vrf: bound.vrf, slot };
    let decoded = if kind == kind::SLOT_TAIL {
        get_tail(&mut from, at, &resolve).map(|put| Message::Tail { at, put })
    } else if kind >= kind::SLOT_MARK {
        let said = get_said(kind, &mut from, at, &resolve);
        said.map(|(round, said)| Message::Comparison { at, round, said })
    } else if matches!(kind, kind::SLOT_COMMIT | kind::SLOT_COMMITTED) {
        get_commit_record(kind, &mut from, at)
    } else {
        get_slot_record(kind, &mut from, at)
    };
    decoded.map_err(|error| match error {
        RecordError::Malformed(_) => RecordError::Malformed(Some(at)),
        other => other,
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

fn get_vrf_handover(mut from: &[u8]) -> Result<Message, RecordError> {
    let handle = from.try_get_u16()?;
    let handover = match (from.try_get_u8()?, from.try_get_u8()?) {
        (0, _) => Handover::None,
        (1, number) => Handover::Asked(number),
        (2, number) => Handover::Told(number),
        (3, number) => Handover::Telling(number),
        (4, node) => Handover::Invites(node),
        _ => return Err(RecordError::Malformed(None)),
    };
    Ok(Message::VrfHandover { handle, handover })
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
