//! Any order, duplicates, overlaps, ends in time and in number; and that no frame is ever lost sight of.

use core::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::conntrack::hash_key;
use crate::flow::{Addr, VrfId};

/// A frame that is counted while it lives.
#[derive(Debug)]
struct Frame {
    number: u16,
    alive: Rc<Cell<usize>>,
}

impl core::ops::Drop for Frame {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

struct Bench {
    fragments: Fragments<Frame>,
    counters: Counters,
    alive: Rc<Cell<usize>>,
    now: Instant,
}

const fn key(packet: u16) -> FlowKey {
    FlowKey {
        src: Addr::v4([100, 64, 0, 1]),
        dst: Addr::v4([203, 0, 113, 1]),
        src_port: 0,
        dst_port: packet,
        vrf: VrfId(0),
        proto: proto::UDP,
    }
}

const fn place(offset: u16, len: u16, more: bool) -> Fragment {
    Fragment {
        id: 0,
        offset,
        len,
        more,
    }
}

/// What became of a piece, without names that a test can't know.
#[derive(Debug, PartialEq, Eq)]
enum Became {
    Passed,
    Held,
    Dropped(Drop),
}

impl Bench {
    fn new(contexts: u32, held: u32) -> Self {
        Self {
            fragments: Fragments::sized((0, 1), contexts, held),
            counters: Counters::default(),
            alive: Rc::default(),
            now: Instant::from_secs(10),
        }
    }

    /// A piece comes in a burst of its own; offset 0 is the first one, with the packet's number as its source port.
    fn piece(&mut self, packet: u16, at: Fragment) -> Became {
        let key = key(packet);
        let first = (at.offset == 0).then(|| Mark {
            src_port: packet,
            proto: proto::UDP,
            ..Mark::default()
        });
        let hash = hash_key(&key, 1);
        match self
            .fragments
            .accept(&key, hash, &at, first, self.now, &mut self.counters)
        {
            Fate::Pass(mark, _) => {
                assert_eq!(mark.src_port, packet);
                Became::Passed
            }
            Fate::Drop(reason) => Became::Dropped(reason),
            Fate::Hold(ticket) => {
                let held = self.held(packet, ticket);
                match self.fragments.keep(held, None) {
                    Ok(()) => Became::Held,
                    Err((_, reason)) => Became::Dropped(reason),
                }
            }
        }
    }

    fn held(&self, number: u16, ticket: Ticket) -> Held<Frame> {
        self.alive.set(self.alive.get() + 1);
        Held {
            packet: Frame {
                number,
                alive: Rc::clone(&self.alive),
            },
            port: PortId(0),
            handoffs: 0,
            ticket,
            mark: Mark::default(),
        }
    }

    fn ready(&mut self) -> Vec<u16> {
        let mut ready = vec![];
        while let Some(held) = self.fragments.take_ready(&mut self.counters) {
            assert_eq!(
                held.mark.src_port, held.packet.number,
                "the mark of its own packet"
            );
            ready.push(held.packet.number);
        }
        ready
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        while self.fragments.expire(self.now, &mut self.counters) > 0 {}
    }

    fn contexts(&self) -> usize {
        self.fragments.index.len()
    }
}

#[test]
fn pieces_after_the_first_pass_and_the_last_missing_one_ends_the_context() {
    let mut bench = Bench::new(4, 8);
    assert_eq!(bench.piece(1, place(0, 16, true)), Became::Passed);
    assert_eq!(bench.piece(1, place(24, 5, false)), Became::Passed);
    assert_eq!(bench.contexts(), 1);
    assert_eq!(bench.piece(1, place(16, 8, true)), Became::Passed);
    assert_eq!(bench.contexts(), 0);
    assert_eq!(bench.counters.fragments_complete, 1);
    assert_eq!(
        bench.piece(1, place(0, 16, true)),
        Became::Passed,
        "the identification is free for the next packet"
    );
}

#[test]
fn pieces_before_the_first_wait_for_it_in_the_order_they_came() {
    let mut bench = Bench::new(4, 8);
    let key = key(1);
    for offset in [32, 16] {
        let fate = bench.fragments.accept(
            &key,
            hash_key(&key, 1),
            &place(offset, 16, true),
            None,
            bench.now,
            &mut bench.counters,
        );
        let Fate::Hold(ticket) = fate else {
            panic!("{fate:?}")
        };
        let mut held = bench.held(1, ticket);
        held.handoffs = u8::try_from(offset).unwrap();
        bench.fragments.keep(held, None).unwrap();
    }
    assert!(bench.fragments.take_ready(&mut bench.counters).is_none());
    assert_eq!(bench.piece(1, place(0, 16, true)), Became::Passed);
    let order: Vec<u8> = core::iter::from_fn(|| bench.fragments.take_ready(&mut bench.counters))
        .map(|held| held.handoffs)
        .collect();
    assert_eq!(order, [32, 16]);
    assert_eq!((bench.alive.get(), bench.fragments.held()), (0, 0));
}

#[test]
fn a_first_piece_in_the_same_burst_makes_waiting_ones_ready_at_once() {
    let mut bench = Bench::new(4, 8);
    let key = key(1);
    let hash = hash_key(&key, 1);
    let fate = bench.fragments.accept(
        &key,
        hash,
        &place(8, 8, false),
        None,
        bench.now,
        &mut bench.counters,
    );
    let Fate::Hold(ticket) = fate else {
        panic!("{fate:?}")
    };
    let mark = Mark {
        src_port: 1,
        ..Mark::default()
    };
    let first = bench.fragments.accept(
        &key,
        hash,
        &place(0, 8, true),
        Some(mark),
        bench.now,
        &mut bench.counters,
    );
    let Fate::Pass(mark, same) = first else {
        panic!("{first:?}")
    };
    assert_eq!(same, ticket);
    assert_eq!(bench.contexts(), 0, "both pieces were seen");
    let held = bench.held(1, ticket);
    bench.fragments.keep(held, Some(mark)).unwrap();
    assert_eq!(bench.ready(), [1]);
}

#[test]
fn overlaps_end_the_packet_and_everything_that_follows_rfc_5722() {
    for (second, what) in [
        (place(8, 16, true), "reaches into the first"),
        (place(8, 8, true), "inside the first"),
        (place(16, 24, true), "reaches into the last"),
        (place(16, 8, false), "a second end"),
        (place(40, 8, true), "beyond the end"),
        (place(32, 16, false), "longer than the last"),
    ] {
        let mut bench = Bench::new(4, 8);
        assert_eq!(bench.piece(1, place(0, 16, true)), Became::Passed);
        assert_eq!(bench.piece(1, place(32, 8, false)), Became::Passed);
        let overlap = Became::Dropped(Drop::FragmentOverlap);
        assert_eq!(bench.piece(1, second), overlap, "{what}");
        assert_eq!(bench.piece(1, place(16, 16, true)), overlap, "after {what}");
        bench.pass(TIMEOUT);
        assert_eq!(bench.contexts(), 0);
    }
}

#[test]
fn an_overlap_drops_what_waits() {
    let mut bench = Bench::new(4, 8);
    assert_eq!(bench.piece(1, place(16, 16, true)), Became::Held);
    assert_eq!(bench.piece(1, place(32, 16, true)), Became::Held);
    assert_eq!(
        bench.piece(1, place(24, 16, true)),
        Became::Dropped(Drop::FragmentOverlap)
    );
    assert_eq!(bench.counters.dropped(Drop::FragmentOverlap), 2);
    assert_eq!(
        bench.piece(1, place(0, 16, true)),
        Became::Dropped(Drop::FragmentOverlap)
    );
    assert_eq!(bench.alive.get(), 0);
}

#[test]
fn the_same_piece_again_is_dropped_and_harms_nothing_rfc_8200_4_5() {
    let mut bench = Bench::new(4, 8);
    let again = Became::Dropped(Drop::FragmentDuplicate);
    assert_eq!(bench.piece(1, place(16, 8, false)), Became::Held);
    assert_eq!(bench.piece(1, place(16, 8, false)), again);
    assert_eq!(bench.piece(1, place(0, 8, true)), Became::Passed);
    assert_eq!(bench.piece(1, place(0, 8, true)), again);
    assert_eq!(bench.ready(), [1]);
    assert_eq!(bench.piece(1, place(8, 8, true)), Became::Passed);
    assert_eq!(bench.counters.fragments_complete, 1);
}

#[test]
fn what_waits_in_vain_is_dropped_when_its_time_is_over() {
    let mut bench = Bench::new(4, 8);
    assert_eq!(bench.piece(1, place(8, 8, true)), Became::Held);
    bench.pass(Duration::from_millis(1_500));
    assert_eq!(bench.piece(2, place(8, 8, true)), Became::Held);
    bench.pass(Duration::from_millis(500));
    assert_eq!(
        (bench.contexts(), bench.counters.dropped(Drop::FragmentTimeout)),
        (1, 1)
    );
    bench.pass(TIMEOUT);
    assert_eq!((bench.contexts(), bench.alive.get()), (0, 0));
    assert_eq!(bench.piece(1, place(0, 8, true)), Became::Passed);
    assert_eq!(bench.ready(), [0u16; 0]);
}

#[test]
fn pieces_of_a_refused_packet_are_refused() {
    let mut bench = Bench::new(4, 8);
    let key = key(1);
    let fate = bench.fragments.accept(
        &key,
        hash_key(&key, 1),
        &place(0, 8, true),
        Some(Mark::default()),
        bench.now,
        &mut bench.counters,
    );
    let Fate::Pass(_, ticket) = fate else {
        panic!("{fate:?}")
    };
    bench.fragments.refuse(ticket);
    assert_eq!(
        bench.piece(1, place(8, 8, true)),
        Became::Dropped(Drop::FragmentRefused)
    );
    bench.pass(TIMEOUT);
    bench.fragments.refuse(ticket);
    assert_eq!(
        bench.piece(1, place(8, 8, true)),
        Became::Held,
        "an old ticket names nothing"
    );
}

#[test]
fn orphans_make_room_before_packets_that_are_under_way() {
    let mut bench = Bench::new(4, 100);
    assert_eq!(bench.piece(1, place(0, 8, true)), Became::Passed);
    for orphan in 2..1_000 {
        assert_eq!(bench.piece(orphan, place(8, 8, true)), Became::Held);
        assert!(bench.contexts() <= 4);
    }
    assert_eq!(bench.counters.dropped(Drop::FragmentOverflow), 998 - 3);
    assert_eq!(bench.piece(1, place(8, 8, false)), Became::Passed);
    assert_eq!(
        bench.piece(999, place(0, 8, true)),
        Became::Passed,
        "the newest orphans stay"
    );
}

#[test]
fn the_store_is_bounded_by_all_and_by_each_packet() {
    let mut bench = Bench::new(1_000, 100);
    for orphan in 0..500 {
        assert_eq!(bench.piece(orphan, place(8, 8, true)), Became::Held);
    }
    assert_eq!((bench.fragments.held(), bench.alive.get()), (100, 100));
    assert_eq!(bench.counters.dropped(Drop::FragmentOverflow), 400);
    bench.pass(TIMEOUT);
    for n in 1..=64 {
        assert_eq!(bench.piece(1, place(8 * n, 8, true)), Became::Held);
    }
    assert_eq!(
        bench.piece(1, place(8 * 65, 8, true)),
        Became::Dropped(Drop::FragmentOverflow)
    );
    assert_eq!(bench.fragments.held(), 0, "the whole packet is given up");
}

#[test]
fn a_packet_of_too_many_pieces_is_given_up() {
    let mut bench = Bench::new(4, 8);
    for n in 0..128 {
        assert_eq!(bench.piece(1, place(8 * n, 8, true)), Became::Passed);
    }
    assert_eq!(
        bench.piece(1, place(8 * 128, 8, false)),
        Became::Dropped(Drop::FragmentOverflow)
    );
}

#[test]
fn identifications_of_two_workers_differ() {
    let mut of: Vec<Fragments<Frame>> = (0..2).map(|w| Fragments::new((w, 2))).collect();
    let first: Vec<u16> = (0..1_000).map(|_| of[0].next_id()).collect();
    assert!((0..1_000).all(|_| !first.contains(&of[1].next_id())));
}

#[test]
fn a_mark_makes_tcp_pieces_segments_of_their_own() {
    let mut first = Meta {
        piece: Piece::First,
        fragment: place(0, 56, true),
        ..Meta::default()
    };
    first.key.proto = proto::TCP;
    first.tcp = TcpSegment {
        seq: 1_000,
        ack: 5,
        payload_len: 32,
        window: 7,
        flags: 0x11,
        window_scale: None,
    };
    let mark = Mark::of(&first);
    mark.apply(&mut first);
    assert_eq!(first.tcp.flags, 0x10, "FIN counts with the last piece");
    for (more, flags) in [(true, 0x10), (false, 0x11)] {
        let mut later = Meta {
            piece: Piece::Later,
            kind: Kind::Fragment,
            fragment: place(56, 80, more),
            ..Meta::default()
        };
        mark.apply(&mut later);
        let expected = TcpSegment {
            seq: 1_032,
            payload_len: 80,
            flags,
            ..first.tcp
        };
        assert_eq!((later.kind, later.tcp), (Kind::Flow, expected));
    }
}

proptest! {
    /// Random pieces of a few packets against a slow model of what was seen: no frame is lost, none passes an overlap.
    #[test]
    fn random_pieces_are_all_accounted_for(steps in prop::collection::vec(
        (0u16..6, 0u16..6, 1u16..4, any::<bool>(), 0u8..20), 1..200)) {
        let mut bench = Bench::new(4, 6);
        let (mut passed, mut held, mut released) = (0u64, 0u64, 0u64);
        let mut fates = 0u64;
        for (packet, start, units, more, action) in &steps {
            match action {
                0 => bench.pass(Duration::from_millis(900)),
                1 => released += bench.ready().len() as u64,
                _ => {
                    fates += 1;
                    match bench.piece(*packet, place(start * 8, units * 8, *more)) {
                        Became::Passed => passed += 1,
                        Became::Held => held += 1,
                        Became::Dropped(_) => {}
                    }
                }
            }
            prop_assert_eq!(bench.fragments.held() as usize, bench.alive.get());
            prop_assert!(bench.fragments.held() <= 6 && bench.contexts() <= 4);
        }
        released += bench.ready().len() as u64;
        bench.fragments.drain(&mut bench.counters);
        prop_assert_eq!(bench.alive.get(), 0);
        prop_assert_eq!(bench.contexts(), 0);
        prop_assert_eq!(bench.counters.fragments_seen, fates);
        let dropped_waiting: u64 = bench.counters.drops().map(|(_, n)| n).sum();
        prop_assert_eq!(held, released + dropped_waiting, "each waiting frame went on or was counted");
        prop_assert!(passed + held <= fates);
    }

    /// Any cut in any order is complete exactly when its last missing piece comes.
    #[test]
    fn every_order_completes(lens in prop::collection::vec(1u16..5, 2..40), seed: u64) {
        let mut pieces = vec![];
        let mut offset = 0;
        for (i, len) in lens.iter().enumerate() {
            pieces.push(place(offset, len * 8, i + 1 < lens.len()));
            offset += len * 8;
        }
        let mut rank = seed;
        pieces.sort_by_cached_key(|_| { rank = crate::shard::mix64(rank); rank });
        let mut bench = Bench::new(4, 64);
        let (mut passed, mut released) = (0, 0);
        for (i, piece) in pieces.iter().enumerate() {
            passed += usize::from(bench.piece(1, *piece) == Became::Passed);
            released += bench.ready().len();
            prop_assert_eq!(bench.counters.fragments_complete, u64::from(i + 1 == pieces.len()));
        }
        prop_assert_eq!(passed + released, pieces.len());
        prop_assert_eq!((bench.contexts(), bench.alive.get()), (0, 0));
    }
}
