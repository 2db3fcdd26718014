//! Records of flows and port blocks, to bytes and back: `PROTOCOL.md` section 5, types 0x20 to 0x29 and the short ones.
//!
//! Written by the event thread that drained them from a worker's ring, into the frame being built; read in place by the
//! peer's. What the stream makes known already is left out: the slot has a number, a live record the version after the one
//! before it, a named entry its handle in place of its tuples.

use bytes::{Buf, BufMut};
use dataplane::delta::{
    BlockRecord, Class, DelRecord, Delta, Handle, Name, NatPart, PutRecord, RefreshRecord, Scales, SlotRef,
    StateRecord, Term, Version,
};
use dataplane::flow::{FlowKey, VrfId, proto};
use dataplane::nat::grant_base;

use crate::bytes::{get_address, get_number, put_address, put_number};
use crate::lifetime;
use crate::record::{Bound, Message, RecordError, kind, record};
use crate::slot_record::put_slot_version;

/// Bits of a PUT's flags; the others' use those of the same meaning.
mod flag {
    pub(super) const ORIGINAL_VRF: u8 = 1;
    pub(super) const REPLY_VRF: u8 = 2;
    pub(super) const REPLY_SRC: u8 = 4;
    pub(super) const REPLY_DST: u8 = 8;
    pub(super) const NAT: u8 = 16;
    pub(super) const MAPPING: u8 = 32;
    pub(super) const VERSION: u8 = 64;
    pub(super) const REPLY_PROTO: u8 = 128;
    /// Of a BLOCK only: granted, not released.
    pub(super) const HELD: u8 = 1;
}

/// Protocols with a code of their own in a PUT; code 0 is followed by the protocol.
const PROTOCOLS: [u8; 4] = [proto::TCP, proto::UDP, proto::ICMP, proto::ICMP6];

/// A slot on one connection: the number it goes by, and how far its live records have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) number: u16,
    pub(crate) at: SlotRef,
    /// Version of the last live record, or what the slot began with.
    pub(crate) last: Version,
}

impl Stream {
    /// Version of the next live record.
    pub(crate) const fn next(&self) -> Version {
        Version {
            term: self.last.term,
            counter: self.last.counter.wrapping_add(1),
        }
    }

    /// What all grants of the stream's term lie a little above.
    const fn grant_base(&self) -> u64 {
        grant_base(self.last.term)
    }
}

/// What had to be done so that a record's version is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// It is the next one, an older one, or none.
    Kept,
    /// It is the next one under a new term.
    NewTerm,
    /// Live records before it are missing.
    Gap,
}

pub(crate) const fn when(condition: bool, flag: u8) -> u8 {
    if condition { flag } else { 0 }
}

/// Appends a change of one entry, and in front of it whatever the stream needs to be told. A record of a `walk` has a version
/// from the past, and so has a live one that only tells an entry's handle anew.
pub(crate) fn put_delta(out: &mut Vec<u8>, stream: &mut Stream, delta: &Delta, walk: bool) -> Continuity {
    let news = delta.version().filter(|version| !walk && *version > stream.last);
    let continuity = news.map_or(Continuity::Kept, |version| follow(out, stream, version));
    let live = news.is_some();
    match delta {
        Delta::Put(put) => put_put(out, stream, put, live),
        Delta::State(state) => {
            let rest = [state.scales.0, lifetime::to_byte(state.lifetime_s)];
            put_short(out, stream, kind::STATE + state.class as u8, state.handle, &rest);
        }
        Delta::Refresh(refresh) => {
            let rest = [0, lifetime::to_byte(refresh.lifetime_s)];
            put_short(out, stream, kind::REFRESH, refresh.handle, &rest);
        }
        Delta::Del(DelRecord {
            name: Name::Handle(handle),
            ..
        }) => put_short(out, stream, kind::REMOVE, *handle, &[]),
        Delta::Del(DelRecord {
            name: Name::Key(key),
            version,
        }) => put_del(out, stream, key, *version, live),
        Delta::Block(block) => put_block(out, stream, block, live),
    }
    if live {
        stream.last = stream.next();
    }
    continuity
}

/// Tells the stream's version anew when a live record isn't the next one.
fn follow(out: &mut Vec<u8>, stream: &mut Stream, version: Version) -> Continuity {
    let next = stream.next();
    if version == next {
        return Continuity::Kept;
    }
    let counted = version.counter == next.counter;
    stream.last = Version {
        counter: version.counter.wrapping_sub(1),
        ..version
    };
    put_slot_version(out, stream.number, stream.last);
    if counted {
        Continuity::NewTerm
    } else {
        Continuity::Gap
    }
}

/// Appends a version that isn't the next one, in terms of the stream's.
fn put_version(out: &mut Vec<u8>, stream: &Stream, version: Version) {
    put_number(out, version.counter);
    put_number(out, version.term.0 ^ stream.last.term.0);
}

#[expect(clippy::cast_possible_truncation, reason = "a handle is three bytes")]
fn put_handle(out: &mut Vec<u8>, handle: Handle) {
    let n = if handle.is_none() {
        Handle::NONE.0
    } else {
        handle.0
    };
    out.put_slice(&[(n >> 16) as u8, (n >> 8) as u8, n as u8]);
}

/// Appends a short record: as many bytes as [`crate::record::short_len`] says.
fn put_short(out: &mut Vec<u8>, stream: &Stream, kind: u8, handle: Handle, rest: &[u8]) {
    out.put_u8(kind);
    out.put_u16(stream.number);
    put_handle(out, handle);
    out.put_slice(rest);
}

#[inline]
fn put_put(out: &mut Vec<u8>, stream: &Stream, put: &PutRecord, live: bool) {
    let (o, r, vrf) = (&put.original, &put.reply, stream.at.vrf);
    let v4 = [o.src, o.dst, r.src, r.dst]
        .iter()
        .all(dataplane::flow::Addr::is_v4);
    let reply_src = (r.src, r.src_port) != (o.dst, o.dst_port);
    let reply_dst = (r.dst, r.dst_port) != (o.src, o.src_port);
    let flags = when(o.vrf != vrf, flag::ORIGINAL_VRF)
        | when(r.vrf != vrf, flag::REPLY_VRF)
        | when(reply_src, flag::REPLY_SRC)
        | when(reply_dst, flag::REPLY_DST)
        | when(put.nat.is_some(), flag::NAT)
        | when(put.nat.is_some_and(|n| n.mapping), flag::MAPPING)
        | when(!live, flag::VERSION)
        | when(r.proto != o.proto, flag::REPLY_PROTO);
    record(out, kind::PUT + u8::from(!v4), |out| {
        out.put_u16(stream.number);
        out.put_u8(flags);
        put_handle(out, put.handle);
        out.put_u8(lifetime::to_byte(put.lifetime_s));
        put_kind(out, put.class, o.proto);
        if o.proto == proto::TCP {
            out.put_u8(put.scales.0);
        }
        if !live {
            put_version(out, stream, put.version);
        }
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
            put_number(out, nat.grant.wrapping_sub(stream.grant_base()));
        }
        if flags & flag::REPLY_PROTO != 0 {
            out.put_u8(r.proto);
        }
    });
}

/// Class in the low two bits, code of the protocol above; the protocol itself where it has no code.
fn put_kind(out: &mut Vec<u8>, class: Class, protocol: u8) {
    let code = (1u8..).zip(PROTOCOLS).find(|(_, p)| *p == protocol);
    out.put_u8(class as u8 | code.map_or(0, |(code, _)| code << 2));
    if code.is_none() {
        out.put_u8(protocol);
    }
}

#[inline]
fn get_kind(from: &mut &[u8]) -> Result<(Class, u8), RecordError> {
    let byte = from.try_get_u8()?;
    let class = Class::from_u8(byte & 3).ok_or(RecordError::Malformed(None))?;
    let protocol = match usize::from(byte >> 2) {
        0 => from.try_get_u8()?,
        code => *PROTOCOLS.get(code - 1).ok_or(RecordError::Malformed(None))?,
    };
    Ok((class, protocol))
}

#[inline]
pub(crate) fn put_ends(out: &mut Vec<u8>, key: &FlowKey, v4: bool) {
    put_address(out, &key.src, v4);
    put_address(out, &key.dst, v4);
    out.put_u16(key.src_port);
    out.put_u16(key.dst_port);
}

/// A removal that names its conntrack by the original direction.
fn put_del(out: &mut Vec<u8>, stream: &Stream, key: &FlowKey, version: Version, live: bool) {
    let v4 = key.src.is_v4() && key.dst.is_v4();
    let other_vrf = key.vrf != stream.at.vrf;
    record(out, kind::DEL + u8::from(!v4), |out| {
        out.put_u16(stream.number);
        out.put_slice(&[
            when(other_vrf, flag::ORIGINAL_VRF) | when(!live, flag::VERSION),
            key.proto,
        ]);
        if !live {
            put_version(out, stream, version);
        }
        put_ends(out, key, v4);
        if other_vrf {
            out.put_u16(key.vrf.0);
        }
    });
}

fn put_block(out: &mut Vec<u8>, stream: &Stream, block: &BlockRecord, live: bool) {
    let v4 = block.subscriber.is_v4() && block.address.is_v4();
    record(out, kind::BLOCK + u8::from(!v4), |out| {
        out.put_u16(stream.number);
        out.put_u8(when(block.held, flag::HELD) | when(!live, flag::VERSION));
        if !live {
            put_version(out, stream, block.version);
        }
        put_number(out, block.grant.wrapping_sub(stream.grant_base()));
        put_address(out, &block.subscriber, v4);
        put_address(out, &block.address, v4);
        out.put_u16(block.port_first);
    });
}

/// Decodes a record of type `kind`, one of this module's. `resolve` knows the VRF handles its sender has bound, `stream` the
/// slots it has begun.
#[inline]
pub(crate) fn get_delta(
    kind: u8,
    mut from: &[u8],
    resolve: &impl Fn(u16) -> Option<Bound>,
    stream: &impl Fn(u16) -> Option<Stream>,
) -> Result<Message, RecordError> {
    let from = &mut from;
    let stream = stream(from.try_get_u16()?).ok_or(RecordError::NotOpen)?;
    let flags = from.first().copied().unwrap_or(0);
    let decoded = if kind >= kind::STATE {
        get_short(kind, from, &stream)
    } else {
        get_long(kind, from, &stream, resolve)
    };
    let delta = decoded.map_err(|error| match error {
        RecordError::Malformed(_) => RecordError::Malformed(Some(stream.at)),
        other => other,
    })?;
    Ok(Message::Delta {
        at: stream.at,
        live: is_live(kind, flags),
        delta,
    })
}

/// Whether the record has the stream's next version; `flags` are those of a long one.
const fn is_live(kind: u8, flags: u8) -> bool {
    if kind >= kind::STATE {
        kind != kind::REFRESH
    } else {
        flags & flag::VERSION == 0
    }
}

#[inline]
fn get_short(kind: u8, from: &mut &[u8], stream: &Stream) -> Result<Delta, RecordError> {
    let (handle, version) = (get_handle(from)?, stream.next());
    if handle.is_none() {
        return Err(RecordError::Malformed(None));
    }
    if kind == kind::REMOVE {
        let name = Name::Handle(handle);
        return Ok(Delta::Del(DelRecord { name, version }));
    }
    let (scales, lifetime_s) = (from.try_get_u8()?, lifetime::from_byte(from.try_get_u8()?));
    Ok(match kind {
        kind::REFRESH if scales != 0 => return Err(RecordError::Malformed(None)),
        kind::REFRESH => Delta::Refresh(RefreshRecord { handle, lifetime_s }),
        state => Delta::State(StateRecord {
            handle,
            class: Class::from_u8(state - kind::STATE).ok_or(RecordError::UnknownType)?,
            scales: Scales(scales),
            lifetime_s,
            version,
        }),
    })
}

#[inline]
fn get_long(
    kind: u8,
    from: &mut &[u8],
    stream: &Stream,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<Delta, RecordError> {
    let v4 = kind & 1 == 0;
    let flags = from.try_get_u8()?;
    Ok(match kind & !1 {
        kind::PUT => Delta::Put(get_put(from, v4, flags, stream, resolve)?),
        kind::BLOCK => Delta::Block(get_block(from, v4, flags, stream)?),
        _ => Delta::Del(get_del(from, v4, flags, stream, resolve)?),
    })
}

#[inline]
fn get_handle(from: &mut &[u8]) -> Result<Handle, RecordError> {
    let high = u32::from(from.try_get_u8()?);
    Ok(Handle(high << 16 | u32::from(from.try_get_u16()?)))
}

#[inline]
fn get_version(from: &mut &[u8], flags: u8, stream: &Stream) -> Result<Version, RecordError> {
    if flags & flag::VERSION == 0 {
        return Ok(stream.next());
    }
    Ok(Version {
        counter: get_number(from)?,
        term: Term(get_number(from)? ^ stream.last.term.0),
    })
}

#[inline]
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

#[inline]
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

#[inline]
fn get_put(
    from: &mut &[u8],
    v4: bool,
    flags: u8,
    stream: &Stream,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<PutRecord, RecordError> {
    if flags & (flag::NAT | flag::MAPPING) == flag::MAPPING {
        return Err(RecordError::Malformed(None));
    }
    let handle = get_handle(from)?;
    let lifetime_s = lifetime::from_byte(from.try_get_u8()?);
    let (class, proto) = get_kind(from)?;
    let scales = if proto == proto::TCP {
        Scales(from.try_get_u8()?)
    } else {
        Scales::NONE
    };
    let version = get_version(from, flags, stream)?;
    let vrf = stream.at.vrf;
    let mut original = get_ends(from, v4, vrf, proto)?;
    let mut reply = original.reversed();
    original.vrf = get_vrf(from, flags & flag::ORIGINAL_VRF != 0, vrf, resolve)?;
    reply.vrf = get_vrf(from, flags & flag::REPLY_VRF != 0, vrf, resolve)?;
    if flags & flag::REPLY_SRC != 0 {
        (reply.src, reply.src_port) = (get_address(from, v4)?, from.try_get_u16()?);
    }
    if flags & flag::REPLY_DST != 0 {
        (reply.dst, reply.dst_port) = (get_address(from, v4)?, from.try_get_u16()?);
    }
    let nat = if flags & flag::NAT != 0 {
        Some(NatPart {
            grant: get_number(from)?.wrapping_add(stream.grant_base()),
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
        handle,
    })
}

fn get_block(from: &mut &[u8], v4: bool, flags: u8, stream: &Stream) -> Result<BlockRecord, RecordError> {
    if flags & !(flag::HELD | flag::VERSION) != 0 {
        return Err(RecordError::Malformed(None));
    }
    let version = get_version(from, flags, stream)?;
    let grant = get_number(from)?.wrapping_add(stream.grant_base());
    let (subscriber, address) = (get_address(from, v4)?, get_address(from, v4)?);
    Ok(BlockRecord {
        grant,
        subscriber,
        address,
        port_first: from.try_get_u16()?,
        held: flags & flag::HELD != 0,
        version,
    })
}

fn get_del(
    from: &mut &[u8],
    v4: bool,
    flags: u8,
    stream: &Stream,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<DelRecord, RecordError> {
    if flags & !(flag::ORIGINAL_VRF | flag::VERSION) != 0 {
        return Err(RecordError::Malformed(None));
    }
    let proto = from.try_get_u8()?;
    let version = get_version(from, flags, stream)?;
    let mut original = get_ends(from, v4, stream.at.vrf, proto)?;
    original.vrf = get_vrf(from, flags & flag::ORIGINAL_VRF != 0, stream.at.vrf, resolve)?;
    Ok(DelRecord {
        name: Name::Key(original),
        version,
    })
}

#[cfg(test)]
#[path = "flow_record_tests.rs"]
mod tests;
