//! Frames that a test recognises among whatever else a kernel interface carries, and pcap files of them.

use std::fs;
use std::path::Path;

/// Source address of every test frame.
const SOURCE: [u8; 6] = [0x02, 0x7e, 0x57, 0, 0, 1];
/// Smallest and largest frame without VLAN tags on Ethernet, without FCS.
const LENGTHS: (usize, usize) = (60, 1514);

/// `count` frames of all lengths, each with its number and a pattern that depends on number and position.
/// Every eighth has a VLAN tag, every sixteenth two (IEEE 802.1Q in 802.1Q).
pub(crate) fn make(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(frame).collect()
}

/// A frame of exactly `len` bytes, with two tags.
pub(crate) fn long(len: usize) -> Vec<u8> {
    let mut frame = frame(15);
    let at = frame.len().min(len);
    frame.truncate(at);
    frame.extend((at..len).map(|at| (at * 13) as u8));
    frame
}

fn frame(number: usize) -> Vec<u8> {
    let tags = if number % 16 == 15 {
        2
    } else {
        usize::from(number % 8 == 7)
    };
    let len = match number {
        0 => LENGTHS.0,
        1 => LENGTHS.1,
        _ => LENGTHS.0 + number * 7919 % (LENGTHS.1 - LENGTHS.0),
    };
    let mut frame = vec![0x02, 0x7e, 0x57, 0, 0, 2];
    frame.extend(SOURCE);
    for tag in 0..tags {
        frame.extend([0x81, 0x00, 0x00, 100 + tag as u8]);
    }
    // Local experimental EtherType, so that no kernel answers.
    frame.extend([0x88, 0xb5]);
    frame.extend((number as u32).to_be_bytes());
    let header = frame.len();
    frame.extend((header..len + 4 * tags).map(|at| (at * 31 + number * 17) as u8));
    frame
}

/// `count` IPv4 UDP packets (no checksums) of as many flows, for devices that spread by hash.
pub(crate) fn make_flows(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(flow).collect()
}

/// A packet of an EtherType in a frame of ours.
pub(crate) fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [
        &[0x02, 0x7e, 0x57, 0, 0, 2],
        &SOURCE[..],
        &ethertype.to_be_bytes(),
        packet,
    ]
    .concat()
}

fn flow(number: usize) -> Vec<u8> {
    let number = (number as u16).to_be_bytes();
    let mut frame = vec![0x02, 0x7e, 0x57, 0, 0, 2];
    frame.extend(SOURCE);
    frame.extend([
        0x08, 0x00, 0x45, 0, 0, 46, number[0], number[1], 0x40, 0, 64, 17, 0, 0,
    ]);
    frame.extend([100, 64, number[0], number[1], 192, 0, 2, 1]);
    frame.extend([
        0x20 | number[0],
        number[1],
        0x30 | number[1] >> 4,
        number[1],
        0,
        26,
        0,
        0,
    ]);
    frame.resize(60, 0xa5);
    frame
}

/// Whether a frame is one of [`make`]'s.
pub(crate) fn is_ours(frame: &[u8]) -> bool {
    frame.get(6..12) == Some(&SOURCE)
}

/// A classic pcap file: little endian, microseconds, Ethernet.
pub(crate) fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (second, frame) in frames.iter().enumerate() {
        for word in [second as u32, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    fs::write(path, file).unwrap();
}

/// The frames of a classic little-endian pcap file.
pub(crate) fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).unwrap();
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let (mut frames, mut at) = (Vec::new(), 24);
    while at < file.len() {
        let len = word(at + 8);
        frames.push(file[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    frames
}
