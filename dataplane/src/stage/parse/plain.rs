//! The shape of most packets: whole, IPv4 without options, TCP or UDP, between addresses that nothing special is said of; and of
//! most frames: such a packet, without tags, between two stations.
//! Told from every other by a few comparisons, and described by the same functions; whatever is odd about a packet, a wrong
//! header included, is for the general path to say.

use super::{Ipv4, are_ordinary, describe, transport};
use crate::flow::proto;
use crate::stage::meta::{Kind, Meta, Piece};
use crate::verdict::{Drop, Verdict};
use crate::wire::ethernet::{Ethernet, ethertype, is_group};
use crate::wire::vlan::VlanTags;

/// Version 4, and a header of five words.
const NO_OPTIONS: u8 = 0x45;

/// As [`super::any_frame`]; none, and nothing of `meta` valid, for a frame of another shape. Not inlined: for itself it needs no
/// more registers than there are.
#[inline(never)]
pub(super) fn frame(frame: &[u8], meta: &mut Meta) -> Option<Verdict> {
    let (head, payload) = frame.split_first_chunk::<{ Ethernet::<&[u8; 14]>::LEN }>()?;
    let header = Ethernet::at(head)?;
    let plain = header.ethertype() == ethertype::IPV4 && !is_group(&header.dst()) && !is_group(&header.src());
    if !plain {
        return None;
    }
    meta.stations = header.stations();
    meta.l2_len = 14;
    meta.vlans = VlanTags::NONE;
    meta.kind = Kind::Flow;
    meta.piece = Piece::Whole;
    meta.is_request = false;
    match ipv4(payload, meta)? {
        Ok(_) => Some(Verdict::Forward),
        Err(reason) => Some(Verdict::Drop(reason)),
    }
}

/// As [`super::any_ipv4`]; none, and nothing of `meta` valid, for a packet of another shape.
#[inline(always)]
pub(super) fn ipv4(payload: &[u8], meta: &mut Meta) -> Option<Result<Kind, Drop>> {
    let header = Ipv4::at(payload)?;
    let l4 = payload.get(20..usize::from(header.total_len()))?;
    let plain = header.version_ihl() == NO_OPTIONS
        && !header.is_fragment()
        && are_ordinary(&header.src(), &header.dst());
    if !plain {
        return None;
    }
    // Described before it is summed up: the other way round, the fields would be taken from the words of the sum, in more steps.
    describe(&header, 20, meta);
    if !meta.verified.header && !header.sum().is_right() {
        return None;
    }
    let pseudo = &header.addresses();
    match header.proto() {
        proto::UDP => Some(transport::udp(l4, meta)),
        proto::TCP => Some(tcp(l4, pseudo, meta)),
        _ => None,
    }
}

/// Not inlined: a datagram would have to save the registers that a segment's sum needs.
#[inline(never)]
fn tcp(l4: &[u8], pseudo: &[u8; 8], meta: &mut Meta) -> Result<Kind, Drop> {
    transport::tcp(l4, pseudo, meta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stage::oracle::{any_key, any_link, frame};
    use crate::stage::parse::{any_frame, any_ipv4};
    use crate::wire::checksum::Sum;

    proptest! {
        #[test]
        fn of_a_frame_it_says_what_the_general_path_says(
            link in any_link(),
            key in any_key(),
            data in prop::collection::vec(any::<u8>(), 0..60),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut bytes = frame(&link, &key, &data);
            for (place, byte) in &damage {
                let place = place.index(bytes.len().min(60));
                bytes[place] = *byte;
            }
            let (mut meta, mut general) = (Meta::default(), Meta::default());
            let said = super::frame(&bytes, &mut meta);
            let expected = any_frame(&bytes, &mut general);
            match said {
                Some(Verdict::Forward) => prop_assert_eq!((Verdict::Forward, meta), (expected, general)),
                // Of what is dropped, nothing else means anything.
                Some(said) => prop_assert_eq!(said, expected),
                None => {
                    let ours = key.src.is_v4()
                        && matches!(key.proto, proto::TCP | proto::UDP)
                        && link.options.is_empty()
                        && link.vlans.count() == 0;
                    prop_assert!(!ours || !damage.is_empty());
                }
            }
        }

        #[test]
        fn it_says_what_the_general_path_says(
            link in any_link(),
            key in any_key(),
            data in prop::collection::vec(any::<u8>(), 0..60),
            padding in 0_usize..30,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            mend in any::<bool>(),
        ) {
            prop_assume!(key.src.is_v4());
            let mut packet = frame(&link, &key, &data).split_off(link.vlans.l2_len());
            packet.resize(packet.len() + padding, 0x5a);
            for (place, byte) in &damage {
                // Mostly in the headers.
                let place = place.index(packet.len().min(48));
                packet[place] = *byte;
            }
            if mend {
                packet[10..12].fill(0);
                let checksum = Sum::ZERO.bytes(&packet[..20]).finish();
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            let (mut meta, mut general) = (Meta::default(), Meta::default());
            let said = ipv4(&packet, &mut meta);
            match said {
                Some(said) => {
                    let expected = any_ipv4(&packet, &mut general);
                    prop_assert_eq!((said, meta), (expected, general));
                },
                None => {
                    let ours = matches!(key.proto, proto::TCP | proto::UDP) && link.options.is_empty();
                    prop_assert!(!ours || !damage.is_empty());
                }
            }
        }
    }
}
