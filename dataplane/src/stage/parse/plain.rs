//! The shape of most packets: whole, IPv4 without options, TCP or UDP, between addresses that nothing special is said of.
//! Told from every other by a few comparisons, and described by the same functions; whatever is odd about a packet, a wrong
//! header included, is for the general path to say.

use super::{Ipv4, describe, is_ordinary, transport};
use crate::flow::proto;
use crate::stage::meta::{Kind, Meta};
use crate::verdict::Drop;

/// Version 4, and a header of five words.
const NO_OPTIONS: u8 = 0x45;

/// As [`super::any_ipv4`]; none, and nothing of `meta` valid, for a packet of another shape.
#[inline]
pub(super) fn ipv4(payload: &[u8], meta: &mut Meta) -> Option<Result<Kind, Drop>> {
    let header = Ipv4::at(payload)?;
    let l4 = payload.get(20..usize::from(header.total_len()))?;
    let plain = header.version_ihl() == NO_OPTIONS
        && !header.is_fragment()
        && is_ordinary(&header.src())
        && is_ordinary(&header.dst())
        && (meta.verified.header || header.sum().is_right());
    if !plain {
        return None;
    }
    describe(&header, 20, meta);
    let pseudo = &header.addresses();
    match header.proto() {
        proto::UDP => Some(transport::udp(l4, meta)),
        proto::TCP => Some(transport::tcp(l4, pseudo, meta)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stage::oracle::{any_key, any_link, frame};
    use crate::stage::parse::any_ipv4;
    use crate::wire::checksum::Sum;

    proptest! {
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
