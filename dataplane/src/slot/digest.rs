//! What an entry adds to its slot's digest (sync/PROTOCOL.md, "Digest of an entry").
//!
//! Taken when a version is given or applied, and again by the audit: the same on every node, so nothing local goes in.

use crate::delta::{BlockRecord, Class, NatPart, PutRecord, Scales, Version};
use crate::flow::FlowKey;
use crate::shard::{fold, mix64};

/// Digest of a conntrack as the peer holds it: all replicated fields but lifetimes and counters.
#[must_use]
pub fn conntrack_digest(put: &PutRecord) -> u64 {
    let [a, b, c, d, ports] = key_words(&put.original);
    let [e, f, g, h, reply_ports] = key_words(&put.reply);
    let tuples = [a, b, c, d, e, f, g, h, ports, reply_ports];
    tuples_digest(tuples, put.nat, (put.class, put.scales), put.version)
}

/// As [`conntrack_digest`], of the fields one by one. The tuples come as the halves of all four addresses, then
/// [`ports_word`] of either.
#[inline]
pub(crate) fn tuples_digest(
    [a, b, c, d, e, f, g, h, ports, reply_ports]: [u64; 10],
    nat: Option<NatPart>,
    (class, scales): (Class, Scales),
    version: Version,
) -> u64 {
    let (grant, mapping) = nat.map_or((0, 0), |n| (n.grant, 1 + u64::from(n.mapping)));
    let rest = class as u64 | mapping << 8 | u64::from(scales.0) << 16;
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
    [a, b, c, d, ports_word([key.src_port, key.dst_port], key.proto)]
}

/// Source and destination port and protocol of a tuple.
#[inline]
pub(crate) fn ports_word([src, dst]: [u16; 2], proto: u8) -> u64 {
    u64::from(src) << 32 | u64::from(dst) << 16 | u64::from(proto)
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
    use crate::delta::{Handle, Term};
    use crate::flow::{Addr, VrfId};

    #[test]
    fn every_replicated_field_is_in_the_digest_and_local_indexes_are_not() {
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
}
