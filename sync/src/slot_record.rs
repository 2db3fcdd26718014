//! Records about slots as wholes, to bytes and back: `PROTOCOL.md` section 5, types 0x09 to 0x13.
//!
//! Those of the sender travel in the slot's own lane, so that each stands at one exact point of the slot's stream;
//! answers come back on the same connection.

use bytes::{Buf, BufMut};
use dataplane::delta::{Handle, SlotEnd, SlotOffer, SlotRef, Term, Version, Wanted};

use crate::flow_record::Stream;
use crate::record::{Message, RecordError, SlotFailure, kind, put_at, record};

/// Flag of a SLOT-BEGIN: only what is newer than the version that follows is sent.
const SINCE: u8 = 1;

/// Flags of a SLOT-OFFER: it was the same here; it is exactly what the version says.
const SAME: u8 = 1;
const EXACT: u8 = 2;

pub(crate) fn put_version(out: &mut Vec<u8>, version: Version) {
    out.put_u64(version.term.0);
    out.put_u64(version.counter);
}

pub(crate) fn get_version(from: &mut &[u8]) -> Result<Version, RecordError> {
    Ok(Version {
        term: Term(from.try_get_u64()?),
        counter: from.try_get_u64()?,
    })
}

/// Appends SLOT-BEGIN, which starts the slot's stream at its version.
pub(crate) fn put_slot_begin(out: &mut Vec<u8>, stream: &Stream, generation: u32, since: Option<Version>) {
    record(out, kind::SLOT_BEGIN, |out| {
        put_at(out, stream.at);
        out.put_u32(generation);
        out.put_u16(stream.number);
        put_version(out, stream.last);
        out.put_u8(if since.is_some() { SINCE } else { 0 });
        if let Some(since) = since {
            put_version(out, since);
        }
    });
}

/// Appends SLOT-VERSION: live records of the stream go on behind `version`.
pub(crate) fn put_slot_version(out: &mut Vec<u8>, stream: u16, version: Version) {
    record(out, kind::SLOT_VERSION, |out| {
        out.put_u16(stream);
        put_version(out, version);
    });
}

/// Decodes SLOT-VERSION.
pub(crate) fn get_slot_version(
    mut from: &[u8],
    stream: impl Fn(u16) -> Option<Stream>,
) -> Result<Message, RecordError> {
    let at = stream(from.try_get_u16()?).ok_or(RecordError::NotOpen)?.at;
    match get_version(&mut from) {
        Ok(version) => Ok(Message::SlotVersion { at, version }),
        Err(_) => Err(RecordError::Malformed(Some(at))),
    }
}

/// Appends SLOT-END.
pub(crate) fn put_slot_end(out: &mut Vec<u8>, at: SlotRef, end: &SlotEnd) {
    put_end(out, kind::SLOT_END, at, end);
}

/// Appends SLOT-DIGEST: what has been emitted up to here.
pub(crate) fn put_slot_digest(out: &mut Vec<u8>, at: SlotRef, end: &SlotEnd) {
    put_end(out, kind::SLOT_DIGEST, at, end);
}

fn put_end(out: &mut Vec<u8>, kind: u8, at: SlotRef, end: &SlotEnd) {
    record(out, kind, |out| {
        put_at(out, at);
        out.put_u32(end.generation);
        out.put_u32(end.count);
        out.put_u64(end.digest);
        put_version(out, end.version);
    });
}

/// Appends SLOT-QUERY.
pub(crate) fn put_slot_query(out: &mut Vec<u8>, at: SlotRef, generation: u32) {
    record(out, kind::SLOT_QUERY, |out| {
        put_at(out, at);
        out.put_u32(generation);
    });
}

/// Appends SLOT-OFFER, the answer to SLOT-QUERY and SLOT-DIGEST.
pub(crate) fn put_slot_offer(out: &mut Vec<u8>, at: SlotRef, offer: &SlotOffer) {
    record(out, kind::SLOT_OFFER, |out| {
        put_at(out, at);
        out.put_u32(offer.generation);
        out.put_u32(offer.count);
        out.put_u64(offer.digest);
        put_version(out, offer.version);
        out.put_u32(offer.absent);
        out.put_u8((u8::from(offer.same) * SAME) | (u8::from(offer.exact) * EXACT));
    });
}

/// Appends SLOT-COMMIT: what has become of the record in front of it?
pub(crate) fn put_slot_commit(out: &mut Vec<u8>, at: SlotRef, counter: u64) {
    record(out, kind::SLOT_COMMIT, |out| {
        put_at(out, at);
        out.put_u64(counter);
    });
}

/// Appends SLOT-COMMITTED, the answer to SLOT-COMMIT.
pub(crate) fn put_slot_committed(out: &mut Vec<u8>, at: SlotRef, counter: u64, applied: bool) {
    record(out, kind::SLOT_COMMITTED, |out| {
        put_at(out, at);
        out.put_u64(counter);
        out.put_u8(u8::from(applied));
    });
}

/// Decodes what follows the slot of these two.
pub(crate) fn get_commit_record(kind: u8, from: &mut &[u8], at: SlotRef) -> Result<Message, RecordError> {
    let counter = from.try_get_u64()?;
    if kind == kind::SLOT_COMMIT {
        return Ok(Message::SlotCommit { at, counter });
    }
    let applied = match from.try_get_u8()? {
        0 => false,
        1 => true,
        _ => return Err(RecordError::Malformed(None)),
    };
    Ok(Message::SlotCommitted { at, counter, applied })
}

/// Appends SLOT-ASK.
pub(crate) fn put_slot_ask(out: &mut Vec<u8>, at: SlotRef, generation: u32, wanted: Wanted) {
    record(out, kind::SLOT_ASK, |out| {
        put_at(out, at);
        out.put_u32(generation);
        out.put_u64(wanted.counter);
        out.put_uint(u64::from(wanted.handle.0), 3);
    });
}

/// Appends SLOT-VERIFIED, naming the VRF by this end's own handle like every other record.
pub(crate) fn put_slot_verified(out: &mut Vec<u8>, at: SlotRef, generation: u32, refused: u32) {
    record(out, kind::SLOT_VERIFIED, |out| {
        put_at(out, at);
        out.put_u32(generation);
        out.put_u32(refused);
    });
}

/// Appends SLOT-FAILED.
pub(crate) fn put_slot_failed(out: &mut Vec<u8>, at: SlotRef, generation: u32, why: SlotFailure) {
    record(out, kind::SLOT_FAILED, |out| {
        put_at(out, at);
        out.put_u32(generation);
        out.put_u8(why as u8);
    });
}

/// Decodes what follows the slot of such a record.
pub(crate) fn get_slot_record(kind: u8, from: &mut &[u8], at: SlotRef) -> Result<Message, RecordError> {
    let generation = from.try_get_u32()?;
    Ok(match kind {
        kind::SLOT_VERIFIED => Message::SlotVerified {
            at,
            generation,
            refused: from.try_get_u32()?,
        },
        kind::SLOT_FAILED => Message::SlotFailed {
            at,
            generation,
            why: from.try_get_u8()?,
        },
        kind::SLOT_OFFER => {
            let mut offer = SlotOffer {
                generation,
                count: from.try_get_u32()?,
                digest: from.try_get_u64()?,
                version: get_version(from)?,
                absent: from.try_get_u32()?,
                same: false,
                exact: false,
            };
            let flags = from.try_get_u8()?;
            if flags & !(SAME | EXACT) != 0 {
                return Err(RecordError::Malformed(None));
            }
            (offer.same, offer.exact) = (flags & SAME != 0, flags & EXACT != 0);
            Message::SlotOffer { at, offer }
        }
        kind::SLOT_BEGIN => {
            let stream = from.try_get_u16()?;
            let version = get_version(from)?;
            let since = match from.try_get_u8()? {
                0 => None,
                SINCE => Some(get_version(from)?),
                _ => return Err(RecordError::Malformed(None)),
            };
            Message::SlotBegin {
                at,
                stream,
                generation,
                version,
                since,
            }
        }
        kind::SLOT_QUERY => Message::SlotQuery { at, generation },
        kind::SLOT_ASK => {
            let counter = from.try_get_u64()?;
            let high = u32::from(from.try_get_u8()?);
            let handle = Handle((high << 16) | u32::from(from.try_get_u16()?));
            Message::SlotAsk {
                at,
                generation,
                wanted: Wanted { handle, counter },
            }
        }
        kind::SLOT_END => Message::SlotEnd {
            at,
            end: get_end(from, generation)?,
        },
        kind::SLOT_DIGEST => Message::SlotDigest {
            at,
            end: get_end(from, generation)?,
        },
        _ => return Err(RecordError::UnknownType),
    })
}

fn get_end(from: &mut &[u8], generation: u32) -> Result<SlotEnd, RecordError> {
    Ok(SlotEnd {
        generation,
        count: from.try_get_u32()?,
        digest: from.try_get_u64()?,
        version: get_version(from)?,
    })
}
