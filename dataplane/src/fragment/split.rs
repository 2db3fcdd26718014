//! A packet larger than the outgoing link, cut into pieces that fit (RFC 791 section 3.2, RFC 4787 REQ-13 b): IPv4
//! without "don't fragment" only, and after everything else has been done to it. The first piece stays in the packet's
//! own buffer; the others get new ones.

use crate::io::{Burst, Io, Packet};
use crate::stage::meta::Meta;
use crate::wire::checksum::Sum;
use crate::wire::ipv4::{FRAGMENT_OFFSET, Ipv4, MORE_FRAGMENTS, option};

/// Whether the packet may be cut into pieces of at most `mtu` bytes.
pub(crate) fn can_split(meta: &Meta, mtu: u16) -> bool {
    meta.may_split && usize::from(mtu) >= usize::from(meta.l3_len) + 8
}

/// Cuts the IPv4 packet behind the first `l2_len` bytes of `packet`'s frame; later pieces go into the empty `into`, in
/// order. False when there are too many or no buffer was free; `packet` is then unchanged and `into` empty.
#[cold]
pub(crate) fn split<I: Io>(
    packet: &mut I::Packet,
    l2_len: usize,
    mtu: u16,
    io: &mut I,
    into: &mut Burst<I::Packet>,
) -> bool {
    let cut = cut(packet, l2_len, mtu, io, into).is_some();
    if !cut {
        io.free(into);
    }
    cut
}

fn cut<I: Io>(
    packet: &mut I::Packet,
    l2_len: usize,
    mtu: u16,
    io: &mut I,
    into: &mut Burst<I::Packet>,
) -> Option<()> {
    let frame = packet.data();
    let header = frame.get(l2_len..).and_then(Ipv4::at)?;
    let (header_len, field) = (header.header_len(), header.fragment());
    let data_at = l2_len + header_len;
    let data = frame.get(data_at..l2_len + usize::from(header.total_len()))?;
    let room = usize::from(mtu).checked_sub(header_len)? & !7;
    if room == 0 || data.len() <= room {
        return None;
    }
    let last = data.len().div_ceil(room) - 1;
    for (i, chunk) in data.chunks(room).enumerate().skip(1) {
        let mut piece = io.alloc()?;
        if into.is_full() || !piece.set_len(data_at + chunk.len()) {
            return None;
        }
        let (head, body) = piece.data_mut().split_at_mut_checked(data_at)?;
        head.copy_from_slice(frame.get(..data_at)?);
        body.copy_from_slice(chunk);
        let ip = head.get_mut(l2_len..)?;
        keep_copied_options(ip.get_mut(20..)?);
        // A piece that is cut again keeps its own place and its own "more".
        let more = if i < last {
            MORE_FRAGMENTS
        } else {
            field & MORE_FRAGMENTS
        };
        let offset = (field & FRAGMENT_OFFSET) + low_word(i * room / 8);
        set(ip, header_len + chunk.len(), more | offset)?;
        into.push(piece);
    }
    let first_len = header_len + room;
    let ip = packet.data_mut().get_mut(l2_len..data_at)?;
    set(ip, first_len, MORE_FRAGMENTS | field & FRAGMENT_OFFSET)?;
    packet.set_len(l2_len + first_len).then_some(())
}

/// Writes length and place, and the checksum anew: the header is a few words, and its options may have changed.
fn set(ip: &mut [u8], total_len: usize, field: u16) -> Option<()> {
    let mut header = Ipv4::at_mut(ip)?;
    header.set_total_len(low_word(total_len));
    header.set_fragment(field);
    header.set_checksum(0);
    let checksum = Sum::ZERO.bytes(ip).finish();
    Ipv4::at_mut(ip)?.set_checksum(checksum);
    Some(())
}

/// Options without the copied flag stay with the first piece (RFC 791 section 3.1); padding takes their place.
fn keep_copied_options(mut options: &mut [u8]) {
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest.first()) {
            (option::END, _) => return,
            (option::NOP, _) | (_, None) => 1,
            (_, Some(len)) => usize::from(*len).max(1),
        };
        let (this, after) = options.split_at_mut(len.min(options.len()));
        if this[0] & 0x80 == 0 {
            this.fill(option::NOP);
        }
        options = after;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "lengths of parts of an IPv4 packet"
)]
const fn low_word(n: usize) -> u16 {
    n as u16
}
