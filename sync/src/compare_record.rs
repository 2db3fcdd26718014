//! Records of the comparison of a slot entry by entry, to bytes and back: `PROTOCOL.md` section 5, types 0x40 to 0x44.
//!
//! SLOT-MARK stands at one point of the slot's stream, everything else anywhere. Entries are written out whole and each by
//! itself, with nothing left to be derived from earlier records: what earlier records said is what is being questioned.

use bytes::{Buf, BufMut};
use dataplane::delta::{
    BlockRecord, Class, Delta, Handle, Listed, Mark, Marked, NatPart, PutRecord, Scales, SlotRef,
};
use dataplane::flow::{Addr, VrfId};

use crate::bytes::{get_address, put_address};
use crate::flow_record::{get_ends, get_vrf, put_ends, when};
use crate::record::{Bound, RecordError, kind, put_at, record};
use crate::slot_record::{get_version, put_version};

/// Flags of SLOT-ENTRY.
mod flag {
    pub(super) const BLOCK: u8 = 1;
    pub(super) const WIDE: u8 = 2;
    pub(super) const NAT: u8 = 4;
    pub(super) const MAPPING: u8 = 8;
    pub(super) const ALL: u8 = 15;
}

/// What a comparison says about a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// By the sender, in the stream.
    Mark(Mark),
    /// By the sender: list at most so many entries.
    List(u16),
    /// By the receiver.
    Marked(Marked),
    /// By the receiver.
    Listed(Listed),
}

/// Appends one of them.
pub(crate) fn put_said(out: &mut Vec<u8>, at: SlotRef, round: u32, said: &Said) {
    let mut whole = |kind, body: &dyn Fn(&mut Vec<u8>)| {
        record(out, kind, |out| {
            put_at(out, at);
            out.put_u32(round);
            body(out);
        });
    };
    match said {
        Said::Mark(mark) => whole(kind::SLOT_MARK, &|out| {
            put_version(out, mark.version);
            out.put_u32(mark.count);
            out.put_u64(mark.digest);
        }),
        Said::List(entries) => whole(kind::SLOT_LIST, &|out| out.put_u16(*entries)),
        Said::Marked(marked) => whole(kind::SLOT_MARKED, &|out| {
            out.put_u32(marked.count);
            out.put_u64(marked.digest);
            out.put_u32(marked.absent);
            out.put_u8(u8::from(marked.same));
        }),
        Said::Listed(Listed::Entry(Delta::Put(put))) => {
            whole(kind::SLOT_ENTRY, &|out| put_conntrack(out, put));
        }
        Said::Listed(Listed::Entry(Delta::Block(block))) => {
            whole(kind::SLOT_ENTRY, &|out| put_block(out, block));
        }
        Said::Listed(Listed::More) => whole(kind::SLOT_LISTED, &|out| out.put_u8(0)),
        Said::Listed(Listed::Complete) => whole(kind::SLOT_LISTED, &|out| out.put_u8(1)),
        // Workers list whole entries only; a piece that isn't one can't be shown, so the list can't go on.
        Said::Listed(Listed::Gone | Listed::Entry(_)) => whole(kind::SLOT_LISTED, &|out| out.put_u8(2)),
    }
}

fn put_conntrack(out: &mut Vec<u8>, put: &PutRecord) {
    let (o, r) = (&put.original, &put.reply);
    let v4 = [o.src, o.dst, r.src, r.dst].iter().all(Addr::is_v4);
    let mapping = put.nat.is_some_and(|n| n.mapping);
    let flags = when(!v4, flag::WIDE) | when(put.nat.is_some(), flag::NAT) | when(mapping, flag::MAPPING);
    out.put_u8(flags);
    put_version(out, put.version);
    out.put_slice(&[o.proto, r.proto, put.class as u8, put.scales.0]);
    out.put_u32(put.lifetime_s);
    for key in [o, r] {
        out.put_u16(key.vrf.0);
        put_ends(out, key, v4);
    }
    if let Some(nat) = put.nat {
        out.put_u64(nat.grant);
    }
}

/// Appends SLOT-TAIL: a conntrack, written like one of SLOT-ENTRY.
pub(crate) fn put_tail(out: &mut Vec<u8>, at: SlotRef, put: &PutRecord) {
    record(out, kind::SLOT_TAIL, |out| {
        put_at(out, at);
        put_conntrack(out, put);
    });
}

/// What follows the slot in SLOT-TAIL.
pub(crate) fn get_tail(
    from: &mut &[u8],
    at: SlotRef,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<PutRecord, RecordError> {
    match get_entry(from, at, resolve)? {
        Delta::Put(put) => Ok(put),
        _ => Err(RecordError::Malformed(None)),
    }
}

fn put_block(out: &mut Vec<u8>, block: &BlockRecord) {
    let v4 = block.subscriber.is_v4() && block.address.is_v4();
    out.put_u8(flag::BLOCK | when(!v4, flag::WIDE));
    put_version(out, block.version);
    out.put_u64(block.grant);
    put_address(out, &block.subscriber, v4);
    put_address(out, &block.address, v4);
    out.put_u16(block.port_first);
}

/// Decodes what follows the slot of such a record: round and content.
pub(crate) fn get_said(
    kind: u8,
    from: &mut &[u8],
    at: SlotRef,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<(u32, Said), RecordError> {
    let round = from.try_get_u32()?;
    let said = match kind {
        kind::SLOT_MARK => Said::Mark(Mark {
            round,
            version: get_version(from)?,
            count: from.try_get_u32()?,
            digest: from.try_get_u64()?,
        }),
        kind::SLOT_LIST => Said::List(from.try_get_u16()?),
        kind::SLOT_MARKED => Said::Marked(Marked {
            round,
            count: from.try_get_u32()?,
            digest: from.try_get_u64()?,
            absent: from.try_get_u32()?,
            same: from.try_get_u8()? != 0,
        }),
        kind::SLOT_ENTRY => Said::Listed(Listed::Entry(get_entry(from, at, resolve)?)),
        kind::SLOT_LISTED => Said::Listed(match from.try_get_u8()? {
            0 => Listed::More,
            1 => Listed::Complete,
            _ => Listed::Gone,
        }),
        _ => return Err(RecordError::UnknownType),
    };
    Ok((round, said))
}

fn get_entry(
    from: &mut &[u8],
    at: SlotRef,
    resolve: &impl Fn(u16) -> Option<Bound>,
) -> Result<Delta, RecordError> {
    let flags = from.try_get_u8()?;
    if flags & !flag::ALL != 0 {
        return Err(RecordError::Malformed(None));
    }
    let v4 = flags & flag::WIDE == 0;
    let version = get_version(from)?;
    if flags & flag::BLOCK != 0 {
        return Ok(Delta::Block(BlockRecord {
            grant: from.try_get_u64()?,
            subscriber: get_address(from, v4)?,
            address: get_address(from, v4)?,
            port_first: from.try_get_u16()?,
            held: true,
            version,
        }));
    }
    let protocols = [from.try_get_u8()?, from.try_get_u8()?];
    let class = Class::from_u8(from.try_get_u8()?).ok_or(RecordError::Malformed(None))?;
    let scales = Scales(from.try_get_u8()?);
    let lifetime_s = from.try_get_u32()?;
    let mut key = |proto| {
        let vrf: VrfId = get_vrf(from, true, at.vrf, resolve)?;
        get_ends(from, v4, vrf, proto)
    };
    let (original, reply) = (key(protocols[0])?, key(protocols[1])?);
    let nat = if flags & flag::NAT != 0 {
        Some(NatPart {
            grant: from.try_get_u64()?,
            mapping: flags & flag::MAPPING != 0,
        })
    } else {
        None
    };
    Ok(Delta::Put(PutRecord {
        original,
        reply,
        nat,
        class,
        scales,
        lifetime_s,
        version,
        handle: Handle::NONE,
    }))
}

#[cfg(test)]
mod tests {
    use dataplane::delta::{Term, Version};
    use dataplane::flow::FlowKey;
    use proptest::prelude::*;

    use super::*;
    use crate::record::{Message, decode};

    /// Type and length: all of these are shorter than 128 bytes.
    const HEADER: usize = 2;

    const AT: SlotRef = SlotRef {
        vrf: VrfId(0),
        slot: 7,
    };

    fn resolve(handle: u16) -> Option<Bound> {
        (handle == 0).then_some(Bound {
            vrf: VrfId(0),
            slots: 16,
        })
    }

    fn address(v6: bool, n: u8) -> Addr {
        if v6 {
            Addr::v6([0x20, 1, 13, n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n])
        } else {
            Addr::v4([192, 0, 2, n])
        }
    }

    prop_compose! {
        fn conntrack()(v6: bool, ports: [u16; 4], grant: u64, translated: bool, mapping: bool, counter: u64,
                       class in 0_u8..3, scales: u8, protos: [u8; 2]) -> Delta {
            let key = |n, src_port, dst_port, proto| FlowKey {
                src: address(v6, n), dst: address(v6, n + 1), src_port, dst_port, vrf: VrfId(0), proto,
            };
            Delta::Put(PutRecord {
                original: key(1, ports[0], ports[1], protos[0]),
                reply: key(3, ports[2], ports[3], protos[1]),
                nat: translated.then_some(NatPart { grant, mapping }),
                class: Class::from_u8(class).unwrap(),
                scales: Scales(scales),
                lifetime_s: 30,
                version: Version { term: Term(513), counter },
                handle: Handle::NONE,
            })
        }
    }

    prop_compose! {
        fn block()(v6: bool, grant: u64, port_first: u16, counter: u64) -> Delta {
            Delta::Block(BlockRecord {
                grant, subscriber: address(v6, 5), address: address(false, 6), port_first, held: true,
                version: Version { term: Term(513), counter },
            })
        }
    }

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            (any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>()).prop_map(
                |(round, counter, count, digest)| {
                    let version = Version {
                        term: Term(257),
                        counter,
                    };
                    Said::Mark(Mark {
                        round,
                        version,
                        count,
                        digest,
                    })
                }
            ),
            any::<u16>().prop_map(Said::List),
            (
                any::<u32>(),
                any::<u32>(),
                any::<u64>(),
                any::<u32>(),
                any::<bool>()
            )
                .prop_map(|(round, count, digest, absent, same)| {
                    Said::Marked(Marked {
                        round,
                        count,
                        digest,
                        absent,
                        same,
                    })
                }),
            conntrack().prop_map(|d| Said::Listed(Listed::Entry(d))),
            block().prop_map(|d| Said::Listed(Listed::Entry(d))),
            Just(Said::Listed(Listed::More)),
            Just(Said::Listed(Listed::Complete)),
            Just(Said::Listed(Listed::Gone)),
        ]
    }

    const fn round_of(said: &Said) -> u32 {
        match said {
            Said::Mark(mark) => mark.round,
            Said::Marked(marked) => marked.round,
            _ => 77,
        }
    }

    proptest! {
        #[test]
        fn what_a_comparison_says_comes_back(said in said()) {
            let mut out = Vec::new();
            let round = round_of(&said);
            put_said(&mut out, AT, round, &said);
            let read = decode(out[0], &out[HEADER..], resolve, |_| None);
            prop_assert_eq!(read, Ok(Message::Comparison { at: AT, round, said }));
        }

        #[test]
        fn short_ones_are_malformed_in_their_slot_and_nothing_else(said in said(), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            put_said(&mut out, AT, round_of(&said), &said);
            let body = &out[HEADER..];
            let cut = cut.index(body.len());
            let read = decode(out[0], &body[..cut], resolve, |_| None);
            let expected = if cut < 4 { None } else { Some(AT) };
            prop_assert_eq!(read, Err(RecordError::Malformed(expected)));
        }

        /// a conntrack, and nothing else, comes back; what is cut off changes nothing.
        #[test]
        fn what_a_demoted_node_offers_comes_back(conntrack in conntrack(), block in block(), cut in any::<prop::sample::Index>()) {
            let Delta::Put(put) = conntrack else { unreachable!() };
            let mut out = Vec::new();
            put_tail(&mut out, AT, &put);
            let body = &out[HEADER..];
            prop_assert_eq!(decode(out[0], body, resolve, |_| None), Ok(Message::Tail { at: AT, put }));
            let cut = cut.index(body.len());
            prop_assert!(matches!(decode(out[0], &body[..cut], resolve, |_| None), Err(RecordError::Malformed(_))));
            let Delta::Block(block) = block else { unreachable!() };
            let mut out = Vec::new();
            record(&mut out, kind::SLOT_TAIL, |out| {
                put_at(out, AT);
                put_block(out, &block);
            });
            prop_assert_eq!(decode(out[0], &out[HEADER..], resolve, |_| None), Err(RecordError::Malformed(Some(AT))));
        }

        #[test]
        fn damaged_ones_never_panic(said in said(), at in any::<prop::sample::Index>(), with: u8) {
            let mut out = Vec::new();
            put_said(&mut out, AT, round_of(&said), &said);
            let at = at.index(out.len() - HEADER) + HEADER;
            out[at] = with;
            let _judged = decode(out[0], &out[HEADER..], resolve, |_| None);
        }
    }
}
