//! Frames as a plain reader sees them: fields at their offsets, checksums summed up from the first byte. It shares nothing
//! with the code under test.

use dataplane::flow::{Addr, FlowKey, proto};

use super::flows::{FRAME_LEN, TTL};
use super::scene::MAIN;

const ETHERNET: usize = 14;
/// Where the transport header of an IPv4 frame begins.
pub(crate) const IPV4_L4: usize = ETHERNET + 20;
/// Of an IPv6 frame.
pub(crate) const IPV6_L4: usize = ETHERNET + 40;

const fn is_v4(frame: &[u8]) -> bool {
    frame[ETHERNET] >> 4 == 4
}

/// Where the transport header begins.
pub(crate) const fn l4_of(frame: &[u8]) -> usize {
    if is_v4(frame) { IPV4_L4 } else { IPV6_L4 }
}

pub(crate) const fn proto_of(frame: &[u8]) -> u8 {
    frame[if is_v4(frame) { ETHERNET + 9 } else { ETHERNET + 6 }]
}

const fn ttl_at(frame: &[u8]) -> usize {
    ETHERNET + if is_v4(frame) { 8 } else { 7 }
}

/// Source and destination address.
const fn addresses(frame: &[u8]) -> core::ops::Range<usize> {
    if is_v4(frame) {
        ETHERNET + 12..IPV4_L4
    } else {
        ETHERNET + 8..IPV6_L4
    }
}

/// Where the IP packet ends.
fn end_of(frame: &[u8]) -> usize {
    if is_v4(frame) {
        ETHERNET + usize::from(word16(frame, ETHERNET + 2))
    } else {
        IPV6_L4 + usize::from(word16(frame, ETHERNET + 4))
    }
}

/// Length of a frame, from what it says.
pub(crate) fn len_of(frame: &[u8]) -> usize {
    end_of(frame).max(FRAME_LEN)
}

/// The tuple of a frame.
pub(crate) fn key_of(frame: &[u8]) -> FlowKey {
    let ends = &frame[addresses(frame)];
    let (src, dst) = ends.split_at(ends.len() / 2);
    let l4 = l4_of(frame);
    FlowKey {
        src: address(src),
        dst: address(dst),
        src_port: word16(frame, l4),
        dst_port: word16(frame, l4 + 2),
        vrf: MAIN,
        proto: proto_of(frame),
    }
}

fn address(bytes: &[u8]) -> Addr {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(four), _) => Addr::v4(four),
        (_, Ok(sixteen)) => Addr::v6(sixteen),
        _ => Addr::default(),
    }
}

/// Whether a forwarded frame is as it should be: TTL one less, IP checksum right over the whole header, and the
/// transport checksum over pseudo header, header and data.
pub(crate) fn is_sound(frame: &[u8]) -> bool {
    is_header_sound(frame) && folded(l4_sum(frame)) == 0xffff
}

/// As [`is_sound`] for the IP header alone.
pub(crate) fn is_header_sound(frame: &[u8]) -> bool {
    frame.len() == len_of(frame)
        && frame[ttl_at(frame)] == TTL - 1
        && (!is_v4(frame) || folded(sum(&frame[ETHERNET..IPV4_L4])) == 0xffff)
}

/// What a router that translates makes of `frame`: new stations, TTL one less, the tuple `key`, and both checksums computed
/// from nothing.
pub(crate) fn translated(frame: &[u8], stations: [[u8; 6]; 2], key: &FlowKey) -> Vec<u8> {
    let mut out = frame.to_vec();
    out[..12].copy_from_slice(&stations.concat());
    out[ttl_at(frame)] -= 1;
    let ends: Vec<u8> = if is_v4(frame) {
        [key.src.v4_octets(), key.dst.v4_octets()].concat()
    } else {
        [key.src.octets(), key.dst.octets()].concat()
    };
    out[addresses(frame)].copy_from_slice(&ends);
    let l4 = l4_of(frame);
    put16(&mut out, l4, key.src_port);
    put16(&mut out, l4 + 2, key.dst_port);
    if is_v4(frame) {
        put16(&mut out, ETHERNET + 10, 0);
        let header = !folded(sum(&out[ETHERNET..IPV4_L4]));
        put16(&mut out, ETHERNET + 10, header);
    }
    let (at, nothing) = if proto_of(frame) == proto::UDP {
        // A sum of nothing would say that there is none (RFC 768).
        (l4 + 6, 0xffff)
    } else {
        (l4 + 16, 0)
    };
    put16(&mut out, at, 0);
    let checksum = !folded(l4_sum(&out));
    put16(&mut out, at, if checksum == 0 { nothing } else { checksum });
    out
}

/// Of pseudo header, transport header and data (RFC 768, RFC 9293 section 3.1, RFC 8200 section 8.1).
fn l4_sum(frame: &[u8]) -> u32 {
    let l4 = &frame[l4_of(frame)..end_of(frame)];
    let len = u32::try_from(l4.len()).unwrap_or(0);
    sum(&frame[addresses(frame)]) + u32::from(proto_of(frame)) + len + sum(l4)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

#[expect(clippy::cast_possible_truncation, reason = "folded until it fits")]
const fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn put16(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

fn word16(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

pub(crate) fn word32(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// Bytes of a line.
const LINE: usize = 64;

/// Many frames, each in lines of its own.
#[derive(Debug)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    stride: usize,
}

impl Frames {
    /// `count` frames of at most `longest` bytes.
    pub(crate) fn of(count: usize, longest: usize, frames: impl Iterator<Item = Vec<u8>>) -> Self {
        let stride = longest.next_multiple_of(LINE);
        let mut bytes = Vec::with_capacity(count * stride);
        for (n, frame) in frames.enumerate() {
            bytes.extend(&frame);
            bytes.resize((n + 1) * stride, 0);
        }
        Self { bytes, stride }
    }

    /// How many.
    pub(crate) const fn count(&self) -> usize {
        self.bytes.len() / self.stride
    }

    /// Memory of them.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn get(&self, n: usize) -> &[u8] {
        let slot = &self.bytes[n * self.stride..];
        &slot[..len_of(slot)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::flows::{Profile, Step, as_ipv6, draw, frame, sized};
    use super::*;

    fn frames() -> Vec<Vec<u8>> {
        let mut keys = draw(Profile::Tcp, 1, 1, 7);
        keys.append(&mut draw(Profile::Udp, 1, 1, 7));
        keys.extend_from_within(..);
        as_ipv6(&mut keys[2..]);
        (5..)
            .zip(&keys)
            .map(|(n, key)| sized(Step::Forth, key, n, 99))
            .collect()
    }

    #[test]
    fn soundness_sees_every_single_damaged_byte_behind_the_ethernet_header() {
        for frame in frames() {
            let made = translated(&frame, [[1; 6], [2; 6]], &key_of(&frame).reversed());
            assert!(is_sound(&made) && key_of(&made) == key_of(&frame).reversed());
            // Version and lengths say where to look; an IPv6 header has no checksum of its own.
            let unseen: &[usize] = if is_v4(&made) {
                &[0, 2, 3]
            } else {
                &[0, 1, 2, 3, 4, 5]
            };
            for at in ETHERNET..end_of(&made) {
                if unseen.contains(&(at - ETHERNET)) {
                    continue;
                }
                let mut damaged = made.clone();
                damaged[at] ^= 0x10;
                assert!(!is_sound(&damaged), "byte {at}");
            }
        }
    }

    #[test]
    fn a_translation_to_the_same_tuple_changes_stations_ttl_and_the_headers_checksum_alone() {
        for frame in frames() {
            let made = translated(&frame, [[1; 6], [2; 6]], &key_of(&frame));
            let differ: Vec<usize> = (12..frame.len()).filter(|&n| made[n] != frame[n]).collect();
            let expected: &[usize] = if is_v4(&frame) { &[22, 24] } else { &[21] };
            assert_eq!(differ, expected);
        }
    }

    #[test]
    fn frames_are_kept_with_their_lengths() {
        let key = draw(Profile::Udp, 1, 1, 7)[0];
        let list = [frame(Step::Forth, &key, 1), sized(Step::Forth, &key, 2, 590)];
        let frames = Frames::of(2, 590, list.iter().cloned());
        assert_eq!((frames.get(0), frames.get(1)), (&list[0][..], &list[1][..]));
        assert_eq!((frames.count(), frames.memory_bytes()), (2, 1_280));
    }
}
