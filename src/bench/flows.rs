//! Flows: random tuples of random subscribers to random servers, and the frames of each that arrive from inside and
//! from outside. A frame names its flow (in the payload, or in the sequence number), so that what comes out can be
//! matched to what went in, whatever order it comes in.

use dataplane::flow::{Addr, FlowKey, proto};
use dataplane::wire::build::{Link, Segment};
use dataplane::wire::tcp::{ACK, FIN, SYN};

use super::frame::{IPV4_L4, IPV6_L4, l4_of, proto_of, word32};
use super::random::Random;
use super::scene::{INSIDE_V6, LAN_MAC, LAN_ROUTER_MAC, MAIN, OUTSIDE_V6, WAN_MAC, WAN_ROUTER_MAC};

/// Shortest Ethernet frame, without FCS.
pub(crate) const FRAME_LEN: usize = 60;
/// TTL with which frames arrive.
pub(super) const TTL: u8 = 64;
/// Smallest lengths of the usual mix, without FCS, and how many of twelve packets have them.
const MIX: [(usize, u32); 3] = [(FRAME_LEN, 7), (590, 4), (1_514, 1)];

/// UDP or TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Udp,
    Tcp,
}

/// A step in the life of a connection; UDP has the first two only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// First packet, from inside: a datagram or SYN.
    Open,
    /// First answer, from outside: a datagram or SYN ACK.
    Answer,
    /// ACK from inside: established.
    Establish,
    /// FIN from inside.
    Close,
    /// FIN from outside.
    CloseBack,
    /// ACK of that from inside: closed.
    Closed,
    /// An established connection's packet from inside: a datagram or ACK.
    Forth,
    /// An established connection's packet from outside.
    Back,
}

impl Step {
    pub(crate) const fn is_from_inside(self) -> bool {
        !matches!(self, Self::Answer | Self::CloseBack | Self::Back)
    }

    const fn flags(self) -> u8 {
        match self {
            Self::Open => SYN,
            Self::Answer => SYN | ACK,
            Self::Close | Self::CloseBack => FIN | ACK,
            _ => ACK,
        }
    }
}

/// Everything that is to be set up: drawn at random, the same for the same seed.
pub(crate) fn draw(profile: Profile, flows: usize, subscribers: usize, seed: u64) -> Vec<FlowKey> {
    let mut random = Random::new(seed);
    // Subscribers are scattered over 100.64.0.0/10, not dense.
    let inside: Vec<Addr> = (0..subscribers)
        .map(|_| {
            let n = random.below(1 << 22);
            let [_, b, c, d] = u32::try_from(n).unwrap_or(0).to_be_bytes();
            Addr::v4([100, 64 | b, c, d])
        })
        .collect();
    (0..flows)
        .map(|_| {
            let [a, b, c, ..] = random.next().to_be_bytes();
            FlowKey {
                src: inside[random.below(subscribers)],
                dst: Addr::v4([20, a, b, c]),
                src_port: random.word(1_024, 65_535),
                dst_port: random.word(1_024, 65_535),
                vrf: MAIN,
                proto: match profile {
                    Profile::Udp => proto::UDP,
                    Profile::Tcp => proto::TCP,
                },
            }
        })
        .collect()
}

/// As IPv6 flows: each address in the low half of a /64 of its own side.
pub(crate) fn as_ipv6(keys: &mut [FlowKey]) {
    let wide = |prefix: [u8; 8], address: Addr| {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&prefix);
        octets[12..].copy_from_slice(&address.v4_octets());
        Addr::v6(octets)
    };
    for key in keys {
        key.src = wide(INSIDE_V6, key.src);
        key.dst = wide(OUTSIDE_V6, key.dst);
    }
}

/// Length of the packets of a flow in the usual mix (7 of 64 bytes, 4 of 594, 1 of 1,518, FCS included).
pub(crate) const fn mixed_len(number: u32) -> usize {
    let place = number % (MIX[0].1 + MIX[1].1 + MIX[2].1);
    if place < MIX[0].1 {
        MIX[0].0
    } else if place < MIX[0].1 + MIX[1].1 {
        MIX[1].0
    } else {
        MIX[2].0
    }
}

/// The shortest frame of a step of flow `number`. `key` is the tuple as this frame arrives.
pub(crate) fn frame(step: Step, key: &FlowKey, number: u32) -> Vec<u8> {
    sized(step, key, number, 0)
}

/// As [`frame`], with `len` bytes at least.
pub(crate) fn sized(step: Step, key: &FlowKey, number: u32, len: usize) -> Vec<u8> {
    let (dst_mac, src_mac) = if step.is_from_inside() {
        (LAN_MAC, LAN_ROUTER_MAC)
    } else {
        (WAN_MAC, WAN_ROUTER_MAC)
    };
    let link = Link {
        dst_mac,
        src_mac,
        ttl: TTL,
        ..Link::default()
    };
    if key.proto == proto::UDP {
        let headers = if key.src.is_v4() { IPV4_L4 } else { IPV6_L4 } + 8;
        let mut data = vec![0; len.max(FRAME_LEN).saturating_sub(headers).max(4)];
        data[..4].copy_from_slice(&number.to_be_bytes());
        return link.udp(key, &data);
    }
    let (seq, ack) = sequence(step, number);
    let segment = Segment {
        flags: step.flags(),
        seq,
        ack,
        window: 0xffff,
        ..Segment::default()
    };
    let mut frame = link.tcp(key, &segment);
    frame.resize(frame.len().max(FRAME_LEN), 0);
    frame
}

/// The inside's initial sequence number is the flow's number, the outside's its complement.
const fn sequence(step: Step, number: u32) -> (u32, u32) {
    let (ours, theirs) = (number, !number);
    match step {
        Step::Open => (ours, 0),
        Step::Answer => (theirs, ours.wrapping_add(1)),
        Step::Establish | Step::Close | Step::Forth => (ours.wrapping_add(1), theirs.wrapping_add(1)),
        Step::CloseBack => (theirs.wrapping_add(1), ours.wrapping_add(2)),
        Step::Closed => (ours.wrapping_add(2), theirs.wrapping_add(2)),
        Step::Back => (theirs.wrapping_add(1), ours.wrapping_add(1)),
    }
}

/// Flow of a frame that has come through as [`Step::Open`].
pub(crate) fn number_of(frame: &[u8]) -> u32 {
    let at = l4_of(frame) + if proto_of(frame) == proto::UDP { 8 } else { 4 };
    word32(frame, at)
}

/// Flow of a frame that has come through as [`Step::Forth`] or [`Step::Back`].
pub(crate) fn number_of_established(frame: &[u8], from_inside: bool) -> u32 {
    if proto_of(frame) == proto::UDP {
        return number_of(frame);
    }
    let sequence_or_ack = l4_of(frame) + if from_inside { 4 } else { 8 };
    word32(frame, sequence_or_ack).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::super::frame::key_of;
    use super::*;

    #[test]
    fn a_frame_names_its_flow_and_its_tuple() {
        for profile in [Profile::Udp, Profile::Tcp] {
            let mut keys = draw(profile, 10, 4, 7);
            for _ in 0..2 {
                let made = frame(Step::Open, &keys[9], 123_456);
                assert_eq!(
                    (number_of(&made), key_of(&made)),
                    (123_456, keys[9]),
                    "{profile:?}"
                );
                as_ipv6(&mut keys);
            }
        }
    }

    #[test]
    fn of_twelve_packets_of_the_mix_seven_are_short_and_one_is_long() {
        let lengths: Vec<usize> = (0..24).map(mixed_len).collect();
        for (len, count) in MIX {
            assert_eq!(lengths.iter().filter(|&&l| l == len).count(), 2 * count as usize);
        }
        let key = draw(Profile::Udp, 1, 1, 7)[0];
        assert_eq!(sized(Step::Forth, &key, 11, mixed_len(11)).len(), 1_514);
    }
}
