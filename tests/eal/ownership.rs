//! One owner per mbuf: what is taken comes back exactly once, whoever ends it.

use dataplane::io::{BURST, Burst, Io, Packet, RxQueue};
use twinpath::dpdk::{Mbuf, Mempool};

use crate::bench::{Bench, Check, MBUFS};
use crate::frames;

pub(crate) fn drop_and_free_return_to_the_pool(bench: &mut Bench, pool: &Mempool) -> Check {
    let kept = bench.kept;
    let in_use = || pool.in_use() - kept;
    let mut burst: Burst<Mbuf> = (0..BURST).map(|_| bench.io.alloc().unwrap()).collect();
    assert_eq!(in_use(), BURST as u32);
    drop(burst.pop());
    assert_eq!(in_use(), BURST as u32 - 1);
    let moved = burst.pop().unwrap();
    std::thread::spawn(move || drop(moved)).join().unwrap();
    assert_eq!(in_use(), BURST as u32 - 2, "dropped on a thread without an lcore");
    bench.io.free(&mut burst);
    assert!(burst.is_empty());
    assert_eq!(in_use(), 0);
    4
}

pub(crate) fn tx_consumes_what_was_accepted_and_frees_the_rest(bench: &mut Bench, pool: &Mempool) -> Check {
    let kept = bench.kept;
    let in_use = || pool.in_use() - kept;
    let (null, ring) = (bench.port("net_null0"), bench.port("net_ring0"));
    let frame = &frames::make(1)[0];
    let mut burst: Burst<Mbuf> = (0..BURST).map(|_| bench.packet(frame)).collect();
    assert_eq!(bench.io.tx(null, &mut burst), BURST);
    assert_eq!(in_use(), 0, "net_null frees what it took");

    // The ring holds 1023, so one burst is accepted in part, and later ones not at all.
    let before = bench.io.counters(ring).unwrap();
    let (mut accepted, mut partial, mut refused) = (0, 0, 0);
    for _ in 0..40 {
        let mut burst: Burst<Mbuf> = (0..BURST).map(|_| bench.packet(frame)).collect();
        let count = bench.io.tx(ring, &mut burst);
        assert!(burst.is_empty());
        accepted += count;
        partial += usize::from(count > 0 && count < BURST);
        refused += BURST - count;
        assert_eq!(
            in_use() as usize,
            accepted,
            "the port owns what it accepted, the rest is free"
        );
    }
    assert_eq!((accepted, partial, accepted + refused), (1_023, 1, 40 * BURST));
    let after = bench.io.counters(ring).unwrap();
    assert_eq!(after.tx_packets - before.tx_packets, accepted as u64);
    assert_eq!(after.tx_refused - before.tx_refused, refused as u64);
    let mut arrived = Vec::new();
    bench.receive(ring, &mut arrived, accepted);
    while in_use() != 0 && arrived.len() < accepted + BURST {
        bench.receive(ring, &mut arrived, accepted);
    }
    assert_eq!((arrived.len(), in_use()), (accepted, 0));
    accepted as u64
}

pub(crate) fn an_empty_pool_gives_none_and_recovers(bench: &mut Bench, pool: &Mempool) -> Check {
    let kept = bench.kept;
    let in_use = || pool.in_use() - kept;
    let all: Vec<Mbuf> = std::iter::from_fn(|| bench.io.alloc()).collect();
    assert_eq!(all.len(), (MBUFS - kept) as usize);
    assert_eq!((pool.in_use(), pool.available(), pool.size()), (MBUFS, 0, MBUFS));
    assert_eq!(bench.io.alloc_failed(), 1);
    // A port can't receive into an empty pool, and says so instead of failing.
    let mut burst = Burst::new();
    bench.io.rx(
        RxQueue {
            port: bench.port("net_null0"),
            queue: 0,
        },
        &mut burst,
    );
    assert!(burst.is_empty());
    drop(all);
    assert_eq!(in_use(), 0);
    assert!(bench.io.alloc().is_some());
    u64::from(MBUFS - kept)
}

pub(crate) fn length_and_headroom_have_exact_bounds(bench: &mut Bench) -> Check {
    let headroom = usize::from(twinpath::dpdk::mempool::HEADROOM);
    let mut packet = bench.io.alloc().unwrap();
    assert!(packet.data().is_empty());
    for (len, fits) in [
        (2_048, true),
        (2_049, false),
        (65_536, false),
        (usize::MAX, false),
        (3, true),
    ] {
        let before = packet.data().len();
        assert_eq!(packet.set_len(len), fits, "{len}");
        assert_eq!(packet.data().len(), if fits { len } else { before });
    }
    packet.data_mut().copy_from_slice(b"abc");
    assert!(!packet.prepend(headroom + 1));
    assert!(!packet.prepend(65_536));
    assert!(packet.prepend(headroom));
    assert!(!packet.prepend(1));
    assert_eq!(packet.data().len(), headroom + 3);
    assert_eq!(&packet.data()[headroom..], b"abc");
    assert!(packet.set_len(headroom + 2_048));
    assert!(!packet.set_len(headroom + 2_049));
    assert!(packet.set_len(headroom + 3));
    assert!(!packet.trim_front(headroom + 4));
    assert!(!packet.trim_front(65_536));
    assert!(packet.trim_front(headroom + 1));
    assert_eq!(packet.data(), b"bc");
    assert!(packet.trim_front(2));
    assert!(packet.data().is_empty());
    assert!(!packet.trim_front(1));
    17
}
