//! What a conntrack counts: packets and bytes of each direction, where its VRF wants it.
//!
//! Counted by the track stage; read by whoever asks. It stays with its conntrack, also when that goes to another worker, and no
//! peer is told of it. There is room for the rest of one cache line, so of the packets only the low halves are there: they
//! carry into [`Carries`], in another line, once in 2^32 packets.

use crate::flow::Direction;

/// What each packet changes, by direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Counts {
    packets: [u32; 2],
    bytes: [u64; 2],
}

/// High halves of the numbers of packets.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carries([u32; 2]);

/// What was counted, by direction; index with [`Direction::index`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Packets.
    pub packets: [u64; 2],
    /// Bytes of IP packets.
    pub bytes: [u64; 2],
}

impl Counts {
    /// Adds a packet of `ip_len` bytes; answers whether its number has to be carried.
    #[inline]
    #[must_use]
    pub(super) const fn add(&mut self, direction: Direction, ip_len: u16) -> bool {
        let at = direction.index();
        self.bytes[at] += ip_len as u64;
        let (packets, carry) = self.packets[at].overflowing_add(1);
        self.packets[at] = packets;
        carry
    }
}

impl Carries {
    #[cold]
    pub(super) const fn add(&mut self, direction: Direction) {
        self.0[direction.index()] += 1;
    }
}

impl Counted {
    /// None when no packet was counted.
    pub(super) fn of(counts: &Counts, carries: &Carries) -> Option<Self> {
        let whole = |at: usize| u64::from(carries.0[at]) << 32 | u64::from(counts.packets[at]);
        let packets = [whole(0), whole(1)];
        (packets != [0; 2]).then_some(Self {
            packets,
            bytes: counts.bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_counts_for_itself() {
        let (mut counts, carries) = (Counts::default(), Carries::default());
        assert_eq!(Counted::of(&counts, &carries), None);
        for (direction, ip_len) in [
            (Direction::Original, 28),
            (Direction::Reply, 1_500),
            (Direction::Original, u16::MAX),
        ] {
            assert!(!counts.add(direction, ip_len));
        }
        let counted = Counted {
            packets: [2, 1],
            bytes: [65_563, 1_500],
        };
        assert_eq!(Counted::of(&counts, &carries), Some(counted));
    }

    #[test]
    fn packets_carry_beyond_a_word() {
        for direction in [Direction::Original, Direction::Reply] {
            let at = direction.index();
            let (mut counts, mut carries) = (Counts::default(), Carries::default());
            let mut expected = [0_u64; 2];
            for turn in 1..=3_u64 {
                counts.packets[at] = u32::MAX;
                assert!(counts.add(direction, 1), "{direction:?}");
                carries.add(direction);
                expected[at] = turn << 32;
                let packets = Counted::of(&counts, &carries).map(|counted| counted.packets);
                assert_eq!(packets, Some(expected));
            }
            assert!(!counts.add(direction, 1));
            expected[at] += 1;
            let packets = Counted::of(&counts, &carries).map(|counted| counted.packets);
            assert_eq!(packets, Some(expected));
        }
    }
}
