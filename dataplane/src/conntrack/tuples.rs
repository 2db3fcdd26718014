//! The two tuples of a conntrack, and its share in the NAT module's books, in 46 bytes.
//!
//! Every lookup compares them and every packet leaves with one of them, so they share a cache line with what else a packet
//! reads. IPv4 needs four addresses of 4 bytes, since translation may change any of them, and keeps its NAT binding beside
//! them. IPv6 is not translated: its reply comes between the same two addresses, which take the same room. Whoever reads
//! asks for a [`FlowKey`] or a [`NatBinding`] and doesn't see the difference.

use super::entry::NatBinding;
use crate::delta::NatPart;
use crate::flow::{Addr, Direction, FlowKey, VrfId};
use crate::slot::{NIL, ports_word};

/// Both tuples of a conntrack, each as its packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuples {
    ends: Ends,
    proto: u8,
    /// Source and destination port, by direction.
    ports: [[u16; 2]; 2],
    /// By direction.
    vrfs: [VrfId; 2],
}

/// What depends on the family. Bytes only: a number would align it, and the tag would take four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    V4 {
        /// Source and destination address, by direction; numbers in the byte order of the machine.
        addresses: [[[u8; 4]; 2]; 2],
        nat: PackedNat,
    },
    /// Source and destination of the original direction; the reply's are the same two.
    V6 { addresses: [[u8; 16]; 2] },
}

/// An optional [`NatBinding`]: all of its words in the byte order of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PackedNat {
    grant: [u8; 8],
    /// [`NIL`] when there is no binding.
    mapping: [u8; 4],
    rule: [u8; 4],
}

impl PackedNat {
    const NONE: Self = Self {
        grant: [0; 8],
        mapping: NIL.to_ne_bytes(),
        rule: [0; 4],
    };

    const fn of(nat: NatBinding) -> Self {
        Self {
            grant: nat.part.grant.to_ne_bytes(),
            mapping: nat.mapping.to_ne_bytes(),
            rule: nat.rule.to_ne_bytes(),
        }
    }

    const fn get(self) -> Option<NatBinding> {
        let mapping = u32::from_ne_bytes(self.mapping);
        if mapping == NIL {
            return None;
        }
        Some(NatBinding {
            part: NatPart {
                grant: u64::from_ne_bytes(self.grant),
                // There is no other translation here: `Nat::learn` refuses records of one.
                mapping: true,
            },
            mapping,
            rule: u32::from_ne_bytes(self.rule),
        })
    }
}

impl Tuples {
    /// Of no flow.
    pub(super) const NONE: Self = Self {
        ends: Ends::V6 {
            addresses: [[0; 16]; 2],
        },
        proto: 0,
        ports: [[0; 2]; 2],
        vrfs: [VrfId(0); 2],
    };

    /// Of an original and a reply tuple, without NAT binding. None for what is never made here and only a record could
    /// claim: a translation of IPv6 addresses, of a family or of a protocol.
    #[must_use]
    pub fn new([original, reply]: &[FlowKey; 2]) -> Option<Self> {
        if original.proto != reply.proto {
            return None;
        }
        let all = [original.src, original.dst, reply.src, reply.dst];
        let ends = if all.iter().all(Addr::is_v4) {
            Ends::V4 {
                addresses: [original, reply].map(|key| [key.src, key.dst].map(packed)),
                nat: PackedNat::NONE,
            }
        } else if (original.src, original.dst) == (reply.dst, reply.src) {
            Ends::V6 {
                addresses: [original.src.octets(), original.dst.octets()],
            }
        } else {
            return None;
        };
        Some(Self {
            ends,
            proto: original.proto,
            ports: [original, reply].map(|key| [key.src_port, key.dst_port]),
            vrfs: [original.vrf, reply.vrf],
        })
    }

    /// The tuple of a direction.
    #[inline]
    #[must_use]
    pub const fn key(&self, direction: Direction) -> FlowKey {
        let at = direction.index();
        let [src, dst] = match &self.ends {
            Ends::V4 { addresses, .. } => [unpacked(addresses[at][0]), unpacked(addresses[at][1])],
            Ends::V6 { addresses } => [Addr::v6(addresses[at]), Addr::v6(addresses[1 - at])],
        };
        let [src_port, dst_port] = self.ports[at];
        FlowKey {
            src,
            dst,
            src_port,
            dst_port,
            vrf: self.vrfs[at],
            proto: self.proto,
        }
    }

    /// Both tuples, by direction. Each address is put together from two words: taken byte by byte, what is in one place or
    /// the other depending on the family costs several times as much.
    #[inline]
    #[must_use]
    pub fn keys(&self) -> [FlowKey; 2] {
        let [src, dst, reply_src, reply_dst] = self.halves().map(Addr::of_halves);
        let key = |direction: Direction, src, dst| {
            let [src_port, dst_port] = self.ports[direction.index()];
            FlowKey {
                src,
                dst,
                src_port,
                dst_port,
                vrf: self.vrf(direction),
                proto: self.proto,
            }
        };
        [
            key(Direction::Original, src, dst),
            key(Direction::Reply, reply_src, reply_dst),
        ]
    }

    /// Both tuples as a digest takes them (see [`tuples_digest`](crate::slot::tuples_digest)).
    #[inline]
    pub(crate) fn words(&self) -> [u64; 10] {
        let [[a, b], [c, d], [e, f], [g, h]] = self.halves();
        let [ports, reply_ports] = self.ports.map(|ports| ports_word(ports, self.proto));
        [a, b, c, d, e, f, g, h, ports, reply_ports]
    }

    /// The halves of the original's source and destination, then of the reply's.
    #[inline]
    fn halves(&self) -> [[u64; 2]; 4] {
        match &self.ends {
            Ends::V4 { addresses, .. } => {
                let [[src, dst], [reply_src, reply_dst]] = *addresses;
                [src, dst, reply_src, reply_dst].map(v4_halves)
            }
            Ends::V6 { addresses } => {
                let [src, dst] = addresses.map(v6_halves);
                [src, dst, dst, src]
            }
        }
    }

    /// Whether the key is the tuple of a direction.
    #[inline(always)]
    #[must_use]
    pub fn is(&self, direction: Direction, key: &FlowKey) -> bool {
        self.is_at(direction.index(), key)
    }

    /// As [`Self::is`], of the direction with this index.
    #[inline(always)]
    pub(super) fn is_at(&self, at: usize, key: &FlowKey) -> bool {
        let ports = ports_together(self.ports[at]) ^ ports_together([key.src_port, key.dst_port]);
        let rest = ports | u32::from(self.vrfs[at].0 ^ key.vrf.0) | u32::from(self.proto ^ key.proto);
        match &self.ends {
            Ends::V4 { addresses, .. } => {
                let [src, dst] = addresses[at];
                let sought = word(packed(key.src), packed(key.dst));
                (word(src, dst) ^ sought) | u64::from(rest) == 0 && Addr::are_v4(&key.src, &key.dst)
            }
            Ends::V6 { addresses } => {
                rest == 0 && addresses[at] == key.src.octets() && addresses[1 - at] == key.dst.octets()
            }
        }
    }

    /// What packets over IPv4 that arrive in a direction leave with, as on the wire: source and destination address, source and
    /// destination port. That is the other direction's tuple, reversed. None for IPv6.
    #[inline(always)]
    #[must_use]
    pub const fn leaves_v4(&self, direction: Direction) -> Option<([u8; 8], [u8; 4])> {
        let at = direction.reversed().index();
        match &self.ends {
            Ends::V4 { addresses, .. } => {
                let [src, dst] = addresses[at];
                Some((
                    word(src, dst).to_be_bytes(),
                    ports_together(self.ports[at]).to_be_bytes(),
                ))
            }
            Ends::V6 { .. } => None,
        }
    }

    /// Where packets that arrive in a direction go: the VRF and the source of the other one.
    #[inline]
    #[must_use]
    pub const fn destination(&self, direction: Direction) -> (VrfId, Addr) {
        let at = direction.reversed().index();
        let address = match &self.ends {
            Ends::V4 { addresses, .. } => unpacked(addresses[at][0]),
            Ends::V6 { addresses } => Addr::v6(addresses[at]),
        };
        (self.vrfs[at], address)
    }

    /// VRF in which packets of a direction arrive.
    #[inline]
    #[must_use]
    pub const fn vrf(&self, direction: Direction) -> VrfId {
        self.vrfs[direction.index()]
    }

    /// IANA protocol number.
    #[inline]
    #[must_use]
    pub const fn proto(&self) -> u8 {
        self.proto
    }

    /// Source NAT, if any.
    #[inline]
    #[must_use]
    pub const fn nat(&self) -> Option<NatBinding> {
        match &self.ends {
            Ends::V4 { nat, .. } => nat.get(),
            Ends::V6 { .. } => None,
        }
    }

    /// Writes the NAT binding down. Only IPv4 has one.
    pub fn bind(&mut self, binding: NatBinding) {
        match &mut self.ends {
            Ends::V4 { nat, .. } => *nat = PackedNat::of(binding),
            Ends::V6 { .. } => debug_assert!(false, "IPv6 is not translated"),
        }
    }
}

/// Two IPv4 addresses in one word.
#[inline]
const fn word(src: [u8; 4], dst: [u8; 4]) -> u64 {
    (u32::from_ne_bytes(dst) as u64) << 32 | u32::from_ne_bytes(src) as u64
}

/// Both ports of a tuple in one word.
#[inline]
const fn ports_together([src, dst]: [u16; 2]) -> u32 {
    (dst as u32) << 16 | src as u32
}

/// An IPv4 address as it is kept here.
#[inline]
const fn packed(address: Addr) -> [u8; 4] {
    address.v4_number().to_ne_bytes()
}

#[inline]
const fn unpacked(address: [u8; 4]) -> Addr {
    Addr::of_v4_number(u32::from_ne_bytes(address))
}

#[inline]
fn v4_halves(address: [u8; 4]) -> [u64; 2] {
    let (high, low) = unpacked(address).halves();
    [high, low]
}

#[inline]
fn v6_halves(address: [u8; 16]) -> [u64; 2] {
    let (high, low) = Addr::v6(address).halves();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::proto;

    fn v4(host: u8, port: u16) -> (Addr, u16) {
        (Addr::v4([192, 0, 2, host]), port)
    }

    fn v6(host: u8, port: u16) -> (Addr, u16) {
        let mut octets = [0x20; 16];
        octets[15] = host;
        (Addr::v6(octets), port)
    }

    fn key((src, src_port): (Addr, u16), (dst, dst_port): (Addr, u16), vrf: u16) -> FlowKey {
        FlowKey {
            src,
            dst,
            src_port,
            dst_port,
            vrf: VrfId(vrf),
            proto: proto::UDP,
        }
    }

    #[test]
    fn what_goes_in_comes_out_and_is_found_in_its_direction() {
        let pairs = [
            [key(v4(1, 1), v4(2, 2), 0), key(v4(2, 2), v4(3, 3), 1)],
            [key(v4(1, 1), v4(2, 2), 0), key(v4(5, 5), v4(6, 6), 0)],
            [key(v6(1, 1), v6(2, 2), 0), key(v6(2, 2), v6(1, 1), 7)],
            [key(v6(1, 1), v6(2, 2), 0), key(v6(2, 9), v6(1, 8), 0)],
            // One address of each family is IPv6 as far as bytes go.
            [key(v4(1, 1), v6(2, 2), 0), key(v6(2, 2), v4(1, 1), 0)],
        ];
        for keys in pairs {
            let tuples = Tuples::new(&keys).unwrap();
            for direction in [Direction::Original, Direction::Reply] {
                let key = keys[direction.index()];
                assert_eq!(tuples.key(direction), key);
                assert_eq!(tuples.keys()[direction.index()], key);
                assert!(tuples.is(direction, &key), "{key:?}");
                assert!(!tuples.is(direction.reversed(), &key), "{key:?}");
                let leaving = keys[direction.reversed().index()].reversed();
                assert_eq!(tuples.destination(direction), (leaving.vrf, leaving.dst));
                let on_wire = Addr::are_v4(&leaving.src, &leaving.dst).then(|| {
                    let [[a, b, c, d], [e, f, g, h]] = [leaving.src, leaving.dst].map(|a| a.v4_octets());
                    let [[i, j], [k, l]] = [leaving.src_port, leaving.dst_port].map(u16::to_be_bytes);
                    ([a, b, c, d, e, f, g, h], [i, j, k, l])
                });
                assert_eq!(tuples.leaves_v4(direction), on_wire);
                assert_eq!((tuples.vrf(direction), tuples.proto()), (key.vrf, key.proto));
            }
        }
    }

    #[test]
    fn a_key_that_differs_in_one_field_is_another() {
        for ends in [[v4(1, 1), v4(2, 2)], [v6(1, 1), v6(2, 2)]] {
            let original = key(ends[0], ends[1], 0);
            let tuples = Tuples::new(&[original, original.reversed()]).unwrap();
            let mut wide = original.src.octets();
            wide[0] ^= 1;
            let others = [
                FlowKey {
                    src_port: 9,
                    ..original
                },
                FlowKey {
                    dst_port: 9,
                    ..original
                },
                FlowKey {
                    vrf: VrfId(9),
                    ..original
                },
                FlowKey {
                    proto: proto::TCP,
                    ..original
                },
                FlowKey {
                    src: Addr::v6(wide),
                    ..original
                },
                FlowKey {
                    dst: v4(9, 0).0,
                    ..original
                },
                FlowKey {
                    dst: v6(9, 0).0,
                    ..original
                },
            ];
            for other in others {
                assert!(!tuples.is(Direction::Original, &other), "{other:?}");
                assert!(!tuples.is(Direction::Reply, &other.reversed()), "{other:?}");
            }
        }
    }

    #[test]
    fn what_no_node_makes_has_no_place() {
        let original = key(v6(1, 1), v6(2, 2), 0);
        let replies = [
            key(v6(2, 2), v6(3, 1), 0),
            key(v4(2, 2), v4(1, 1), 0),
            FlowKey {
                proto: proto::TCP,
                ..original.reversed()
            },
        ];
        for reply in replies {
            assert_eq!(Tuples::new(&[original, reply]), None, "{reply:?}");
        }
    }

    #[test]
    fn a_binding_is_kept_whole_beside_the_tuples() {
        let keys = [key(v4(1, 1), v4(2, 2), 0), key(v4(2, 2), v4(3, 3), 1)];
        let mut tuples = Tuples::new(&keys).unwrap();
        assert_eq!(tuples.nat(), None);
        let nat = NatBinding {
            part: NatPart {
                grant: u64::MAX - 1,
                mapping: true,
            },
            mapping: 0x0102_0304,
            rule: 7,
        };
        tuples.bind(nat);
        assert_eq!(tuples.nat(), Some(nat));
        assert_eq!(
            [tuples.key(Direction::Original), tuples.key(Direction::Reply)],
            keys
        );
    }
}
