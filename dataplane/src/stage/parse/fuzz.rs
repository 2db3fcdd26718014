//! The same bytes read by `etherparse`, mutated frames, and arbitrary bytes.

use proptest::prelude::*;

use super::tests::{parsed, patched, udp4, udp6, verdict};
use super::*;
use crate::stage::oracle::{any_key, any_link, frame, read};
use crate::wire::build::Link;

proptest! {
    #[test]
    fn a_second_reader_sees_the_same(key in any_key(), link in any_link(), data in prop::collection::vec(any::<u8>(), 0..100)) {
        let bytes = frame(&link, &key, &data);
        let meta = parsed(&bytes);
        let seen = read(&bytes).unwrap();
        prop_assert_eq!((meta.kind, meta.key, meta.ttl), (Kind::Flow, seen.key, seen.ttl));
        prop_assert_eq!(meta.key, key);
        let ids: Vec<u16> = meta.vlans.as_slice().iter().map(|tag| tag.id()).collect();
        prop_assert_eq!(ids, seen.vlans);
        prop_assert_eq!(meta.ip_end(), bytes.len());
        if key.proto == proto::TCP {
            prop_assert_eq!(meta.tcp.payload_len as usize, seen.data.len());
        }
    }

    /// What parse lets through as a flow, and what is verified of UDP later, the second reader understands in the same way.
    #[test]
    fn mutated_frames_are_refused_or_read_alike(
        key in any_key(),
        link in any_link(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        do_cut: bool,
    ) {
        let mut bytes = frame(&link, &key, b"some data");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if do_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut meta = Meta::default();
        let verdict = parse(&bytes, &mut meta);
        prop_assert!(meta.l4_offset() <= usize::from(u16::MAX) + 64);
        if verdict == Verdict::Forward && matches!(meta.kind, Kind::Flow | Kind::IcmpError | Kind::Fragment) {
            // Later stages know by the one what the other is.
            let is_v4 = Addr::are_v4(&meta.key.src, &meta.key.dst);
            prop_assert_eq!(meta.is_v6, !is_v4);
            prop_assert_eq!(meta.key.as_v4() == meta.key, is_v4);
        }
        if verdict == Verdict::Forward && meta.kind == Kind::Flow && meta.piece == Piece::Whole {
            prop_assert!(meta.l4_offset() <= meta.ip_end() && meta.ip_end() <= bytes.len());
            let damaged = meta.key.proto == proto::UDP && !udp_is_right(&bytes, &meta);
            if damaged {
                prop_assert!(read(&bytes).is_none());
            } else if [proto::TCP, proto::UDP, proto::ICMP, proto::ICMP6].contains(&meta.key.proto) {
                let seen = read(&bytes);
                prop_assert_eq!(Some((meta.key, meta.ttl)), seen.map(|s| (s.key, s.ttl)));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = verdict(&bytes);
    }

    /// Arbitrary bytes behind a plausible start, so that they reach the inner layers.
    #[test]
    fn arbitrary_ip_never_panics(rest in prop::collection::vec(any::<u8>(), 0..200), ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100])) {
        let mut bytes = Link::default().ethernet(ethertype, &rest);
        let _ = verdict(&bytes);
        if bytes.len() > 60 {
            bytes[14] = if ethertype == 0x0800 { 0x45 } else { 0x60 };
            let len = u16::try_from(bytes.len() - 14).unwrap();
            if ethertype == 0x0800 {
                bytes[16..18].copy_from_slice(&len.to_be_bytes());
                bytes[20..22].fill(0);
                bytes = patched(bytes, 15, 0);
            } else {
                bytes[18..20].copy_from_slice(&(len - 40).to_be_bytes());
            }
            let _ = verdict(&bytes);
        }
    }

    /// The quote of an error whose own checksums are right is the attacker's to write.
    #[test]
    fn arbitrary_quotes_never_panic(quote in prop::collection::vec(any::<u8>(), 0..120), kind in 0u8..16, v6_too: bool) {
        let outer = if v6_too { FlowKey { proto: proto::ICMP6, ..udp6() } } else { FlowKey { proto: proto::ICMP, ..udp4() } };
        let _ = verdict(&Link::default().icmp(&outer, kind, 0, [0; 4], &quote));
    }
}
