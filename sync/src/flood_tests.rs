//! The sync port against too much of everything: connections, handshakes, frames, words. What comes too fast waits or is
//! refused, with its cause; others are served meanwhile.

use super::*;
use crate::hello::{Answer, encode_answer};

/// sync/PROTOCOL.md.
#[test]
fn strangers_slow_ones_and_crowds_are_refused() {
    let mut cluster = target();
    let mut stranger = dial(&cluster, 66);
    let mut slow = dial(&cluster, 1);
    send(&mut slow, b"TWPS");
    cluster.run(5);
    assert!(is_closed(&mut stranger));
    assert!(!is_closed(&mut slow));
    assert_eq!(cluster.nodes[0].cause("unknown-address"), 1);
    let crowd: Vec<_> = (0..80).map(|_| dial(&cluster, 1)).collect();
    cluster.run(20);
    assert_eq!(cluster.nodes[0].cause("handshakes-full"), 80 + 1 - 64);
    cluster.tick = Duration::from_millis(100);
    cluster.run(25);
    assert!(is_closed(&mut slow));
    let late = |event: &PumpEvent| {
        *event
            == PumpEvent::Refused {
                reason: "hello-timeout",
            }
    };
    assert_eq!(cluster.nodes[0].events.try_iter().filter(late).count(), 64);
    drop(crowd);
}

#[test]
fn r8_half_open_connections_of_a_peer_keep_no_other_peer_out() {
    let mut cluster = Cluster::new(&[1, 2, 3].map(|id| Shape::new(id, 1, 1)));
    cluster.nodes.retain(|node| node.config.node_id == 2);
    cluster.fabric.borrow_mut().chunk = 1 << 20;
    let crowd: Vec<_> = (0..80).map(|_| dial(&cluster, 1)).collect();
    cluster.run(20);
    let before = cluster.nodes[0].cause("handshakes-full");
    let mut plug = dial(&cluster, 3);
    let hello = Hello {
        node_id: 3,
        ..hello(1)
    };
    send(&mut plug, &encode_hello(&hello));
    cluster.run(5);
    assert!(before > 0 && cluster.nodes[0].cause("handshakes-full") == before);
    assert!(!is_closed(&mut plug));
    let local = &cluster.nodes[0].pumps[0].report().local_nodes;
    assert_eq!(local.iter().map(|l| l.lanes.len()).sum::<usize>(), 1);
    drop(crowd);
}

#[test]
fn r8_connections_that_come_too_fast_are_refused_and_welcome_later() {
    let mut cluster = target();
    for _ in 0..300 {
        let mut plug = dial(&cluster, 1);
        send(&mut plug, b"x");
        cluster.run(1);
    }
    let refused = cluster.nodes[0].cause("handshakes-too-fast");
    assert!((1..=300 - 256).contains(&refused), "{refused}");
    cluster.tick = Duration::from_millis(100);
    cluster.run(1);
    let (mut plug, _) = accepted(&mut cluster, 1);
    assert!(!is_closed(&mut plug));
    assert_eq!(cluster.nodes[0].cause("handshakes-too-fast"), refused);
}

/// So many words were read in so many milliseconds as R-44 allows, and what was in the buffer when the last of them was.
fn assert_words(words: u64, ms: u64, what: &str) {
    let (allowed, buffer) = ((1 << 16) + 500 * ms, 1 << 16);
    assert!(
        (allowed - buffer..allowed + buffer).contains(&words),
        "{what}: {words} read, {allowed} allowed"
    );
}

/// Frames of `records` each, endlessly, as many as the connection takes.
fn flood(plug: &mut Plug, outbox: &mut Outbox, records: &[&[u8]]) {
    for _ in 0..20_000 {
        for record in records {
            outbox.put(Instant::default(), |out| out.extend_from_slice(record));
        }
        outbox.close();
    }
    outbox.flush(plug).unwrap();
}

#[test]
fn r44_floods_of_what_is_cheap_to_send_are_read_at_a_bounded_rate_and_end_nothing() {
    let heartbeats = [[3_u8, 0]; 30].concat();
    let skipped = [[0x7f_u8, 0]; 30].concat();
    let open = {
        let mut bytes = Vec::new();
        record::put_vrf_state(
            &mut bytes,
            &record::VrfState {
                handle: 9,
                role: Role::Master,
                ready: true,
                term: Term(0x101),
            },
        );
        bytes
    };
    let table: [(&str, Vec<&[u8]>); 4] = [
        ("frames of one record", vec![&[3, 0]]),
        ("records about nothing", heartbeats.chunks(2).collect()),
        ("records of no known type", skipped.chunks(2).collect()),
        ("words about a role", vec![&open]),
    ];
    for (what, records) in table {
        let mut cluster = target();
        cluster.fabric.borrow_mut().window = 1 << 18;
        cluster.tick = Duration::from_millis(1);
        let (mut plug, mut outbox) = accepted(&mut cluster, 1);
        let ms = 400;
        for _ in 0..ms {
            if outbox.queued() < 1 << 20 {
                flood(&mut plug, &mut outbox, &records);
            }
            outbox.flush(&mut plug).unwrap();
            cluster.run(1);
        }
        let frames = cluster.nodes[0].pumps[0].report().local_nodes[0].frames;
        let words = frames * (records.len() as u64 + 1);
        assert_words(words, ms, what);
        assert!(cluster.nodes[0].cause("reading-paused") > 0, "{what}");
        assert!(!is_closed(&mut plug), "{what}");
    }
}

#[test]
fn r44_a_flood_of_answers_is_read_no_faster() {
    let mut cluster = target();
    cluster.fabric.borrow_mut().window = 1 << 18;
    cluster.tick = Duration::from_millis(1);
    cluster.run(1);
    let mut net = Socket::new(&cluster.fabric, 1);
    let answer = encode_answer(&Answer {
        status: 0,
        version: 1,
        features: 0,
        node_id: 1,
        boot_id: 7,
        node_name: "one".to_owned(),
    });
    // Its lane came first, the control lane is the second.
    let mut plug = net.accept().unwrap().wire;
    let mut outbox = Outbox::new(&answer);
    let ms = 400;
    for _ in 0..ms {
        if outbox.queued() < 1 << 20 {
            flood(&mut plug, &mut outbox, &[&[3, 0]]);
        }
        outbox.flush(&mut plug).unwrap();
        cluster.run(1);
    }
    let operations = cluster.nodes[0].pumps[0].report().operations;
    let heard = operations.iter().find(|o| o.name == "receive HEARTBEAT").unwrap();
    assert_words(2 * heard.calls, ms, "answers");
    assert!(cluster.nodes[0].cause("reading-paused") > 0);
    assert!(!is_closed(&mut plug));
}
