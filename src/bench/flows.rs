//! Flows: random tuples of random subscribers to random servers, and the frames of each that arrive from inside and
//! from outside. A frame names its flow (in the payload, or in the sequence number), so that what comes out can be
//! matched to what went in, whatever order it comes in.

use dataplane::flow::{Addr, FlowKey, proto};
use dataplane::wire::build::{Link, Segment};
use dataplane::wire::tcp::{ACK, FIN, SYN};

use super::random::Random;
use super::scene::{LAN_MAC, LAN_ROUTER_MAC, MAIN, WAN_MAC, WAN_ROUTER_MAC};

/// Shortest Ethernet frame, without FCS.
pub(crate) const FRAME_LEN: usize = 60;
/// TTL with which frames arrive.
const TTL: u8 = 64;
const ETHERNET: usize = 14;
const L4: usize = ETHERNET + 20;

/// A frame in a line of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Frame(pub(crate) [u8; FRAME_LEN]);

impl Frame {
    fn of(bytes: &[u8]) -> Self {
        let mut frame = [0; FRAME_LEN];
        frame[..bytes.len()].copy_from_slice(bytes);
        Self(frame)
    }
}

/// UDP or TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
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

/// The frame of a step of flow `number`. `key` is the tuple as this frame arrives.
pub(crate) fn frame(step: Step, key: &FlowKey, number: u32) -> Frame {
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
        let mut data = [0; FRAME_LEN - L4 - 8];
        data[..4].copy_from_slice(&number.to_be_bytes());
        return Frame::of(&link.udp(key, &data));
    }
    let (seq, ack) = sequence(step, number);
    Frame::of(&link.tcp(
        key,
        &Segment {
            flags: step.flags(),
            seq,
            ack,
            window: 0xffff,
            ..Segment::default()
        },
    ))
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
    let at = if frame[ETHERNET + 9] == proto::UDP {
        L4 + 8
    } else {
        L4 + 4
    };
    word32(frame, at)
}

/// Flow of a frame that has come through as [`Step::Forth`] or [`Step::Back`].
pub(crate) fn number_of_established(frame: &[u8], from_inside: bool) -> u32 {
    if frame[ETHERNET + 9] == proto::UDP {
        return number_of(frame);
    }
    let sequence_or_ack = if from_inside { L4 + 4 } else { L4 + 8 };
    word32(frame, sequence_or_ack).wrapping_sub(1)
}

/// The tuple of a frame.
pub(crate) fn key_of(frame: &[u8]) -> FlowKey {
    let address = |at: usize| Addr::v4(word32(frame, at).to_be_bytes());
    FlowKey {
        src: address(ETHERNET + 12),
        dst: address(ETHERNET + 16),
        src_port: word16(frame, L4),
        dst_port: word16(frame, L4 + 2),
        vrf: MAIN,
        proto: frame[ETHERNET + 9],
    }
}

/// Whether a forwarded frame is as it should be: TTL one less, IP checksum right over the whole header, and the
/// transport checksum over pseudo header, header and data. Computed plainly, without the code under test.
pub(crate) fn is_sound(frame: &[u8]) -> bool {
    let ip_len = usize::from(word16(frame, ETHERNET + 2));
    let protocol = frame[ETHERNET + 9];
    let l4 = &frame[L4..ETHERNET + ip_len];
    let pseudo = [
        sum(&frame[ETHERNET + 12..L4]),
        u32::from(protocol),
        u32::try_from(l4.len()).unwrap_or(0),
    ];
    frame.len() == FRAME_LEN
        && frame[ETHERNET + 8] == TTL - 1
        && folded(sum(&frame[ETHERNET..L4])) == 0xffff
        && folded(pseudo.iter().sum::<u32>() + sum(l4)) == 0xffff
}

/// As [`is_sound`] for the IP header alone.
pub(crate) fn is_header_sound(frame: &[u8]) -> bool {
    frame.len() == FRAME_LEN && frame[ETHERNET + 8] == TTL - 1 && folded(sum(&frame[ETHERNET..L4])) == 0xffff
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

const fn folded(mut sum: u32) -> u32 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn word16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn word32(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_names_its_flow_and_its_tuple() {
        for profile in [Profile::Udp, Profile::Tcp] {
            let key = draw(profile, 10, 4, 7)[9];
            let made = frame(Step::Open, &key, 123_456);
            assert_eq!(
                (number_of(&made.0), key_of(&made.0)),
                (123_456, key),
                "{profile:?}"
            );
        }
    }

    #[test]
    fn soundness_sees_every_single_damaged_byte_behind_the_ethernet_header() {
        let key = draw(Profile::Tcp, 1, 1, 7)[0];
        let mut made = frame(Step::Forth, &key, 5).0;
        made[ETHERNET + 8] -= 1;
        // The TTL is the high byte of its word.
        let checksum = u32::from(word16(&made, ETHERNET + 10)) + 0x100;
        made[ETHERNET + 10..ETHERNET + 12]
            .copy_from_slice(&u16::try_from(folded(checksum)).unwrap_or_default().to_be_bytes());
        assert!(is_sound(&made));
        for at in ETHERNET..L4 + 20 {
            // Offset of the length: the parser's business; a longer one would not fit the frame.
            if at == ETHERNET + 2 || at == ETHERNET + 3 {
                continue;
            }
            let mut damaged = made;
            damaged[at] ^= 0x10;
            assert!(!is_sound(&damaged), "byte {at}");
        }
    }
}
