//! A redirected packet's bytes, what is no such record, and its way between two nodes whose workers are scripted.

use dataplane::delta::Term;
use dataplane::role::Role;
use proptest::prelude::*;

use super::*;
use crate::record::measure;
use crate::testbed::{Cluster, REDIRECT_BYTES, SLOTS, Shape, VRF};

fn redirect(slot: u16) -> Redirect {
    Redirect {
        at: SlotRef { vrf: VRF, slot },
        interface: 0x1112_1314_1516_1718,
        source: [2, 3, 4, 5, 6, 7],
        times: 2,
    }
}

/// What an event thread takes for an IPv4 packet, with a number in it.
fn packet(number: u8, length: usize) -> Vec<u8> {
    let mut packet = vec![number; length];
    packet[0] = 0x45;
    packet
}

fn resolve(handle: u16) -> Option<Bound> {
    let slots = [SLOTS, 0][usize::from(handle != 0)];
    (handle < 2).then_some(Bound {
        vrf: VrfId(handle),
        slots,
    })
}

fn encoded(redirect: &Redirect, packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_redirect(&mut bytes, redirect, packet.into());
    bytes
}

#[test]
fn r48_a_redirected_packet_has_these_bytes() {
    let bytes = encoded(&redirect(0x0102), &packet(9, 200));
    let head = [
        0x46, 0xdb, 0x01, 0, 0, 1, 2, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 2, 3, 4, 5, 6, 7, 2,
        0x45, 9,
    ];
    assert_eq!(bytes[..head.len()], head);
    assert_eq!(measure(&bytes), Some((3, 3 + 19 + 200)));
    let short = encoded(&redirect(3), &packet(9, 20));
    assert_eq!(short[..2], [0x46, 39]);
    assert_eq!(
        get_redirect(&short[2..], resolve),
        Ok((redirect(3), &packet(9, 20)[..]))
    );
}

/// what can't be a packet of a slot that both nodes have is skipped, and none of it concerns a slot.
#[test]
fn r49_everything_else_is_refused() {
    let sound = encoded(&redirect(3), &packet(9, 20));
    let body = &sound[2..];
    for length in 0..body.len() {
        assert_eq!(
            get_redirect(&body[..length], resolve),
            Err(RecordError::Malformed(None)),
            "{length} bytes"
        );
    }
    let with = |at: usize, byte: u8| {
        let mut body = body.to_vec();
        body[at] = byte;
        get_redirect(&body, resolve).map(|_| ())
    };
    assert_eq!(with(1, 2), Err(RecordError::UnknownVrf));
    assert_eq!(
        with(1, 1),
        Err(RecordError::Malformed(None)),
        "a VRF without slots"
    );
    assert_eq!(with(3, 15), Ok(()), "the last slot");
    assert_eq!(with(3, 16), Err(RecordError::Malformed(None)));
    assert_eq!(with(18, 1), Ok(()));
    for times in [0, 3] {
        assert_eq!(with(18, times), Err(RecordError::Malformed(None)));
    }
    assert_eq!(with(19, 0x60), Ok(()), "IPv6, as far as an event thread looks");
    assert_eq!(with(19, 0x55), Err(RecordError::Malformed(None)));
    let long = |length| get_redirect(&encoded(&redirect(3), &packet(9, length))[3..], resolve).map(|_| ());
    assert_eq!(long(9_600), Ok(()));
    assert_eq!(long(9_601), Err(RecordError::Malformed(None)));
}

proptest! {
    /// Whatever is taken for a packet says the same again.
    #[test]
    fn damaged_records_are_refused_or_mean_what_they_say(
        length in 20_usize..60,
        edits in proptest::collection::vec((0_usize..40, any::<u8>()), 0..4),
        cut in 0_usize..60,
    ) {
        let mut body = encoded(&redirect(3), &packet(9, length)).split_off(2);
        for (at, byte) in edits {
            body[at % (18 + length)] = byte;
        }
        body.truncate(18 + length - cut.min(18 + length));
        if let Ok((redirect, packet)) = get_redirect(&body, resolve) {
            prop_assert_eq!(encoded(&redirect, packet)[2..].to_vec(), body);
        }
    }
}

/// Node 1 stands by, node 2 is active; the numbers of threads are their own.
fn pair(shapes: [Shape; 2]) -> Cluster {
    let mut cluster = Cluster::new(&shapes);
    cluster.nodes[0].set(Role::Backup, Term(0x102));
    cluster.nodes[1].set(Role::Master, Term(0x102));
    cluster.until("slots verified", 4_000, |c| {
        c.nodes[0].verified() == u32::from(SLOTS)
    });
    cluster
}

/// A worker of a node redirects a packet of a slot.
fn leave(cluster: &mut Cluster, node: usize, slot: u16, packet: &[u8]) -> bool {
    let worker = usize::from(cluster.nodes[node].owners.worker_of(redirect(slot).at));
    let lane = dataplane::shard::lane_of(slot, cluster.nodes[node].config.events);
    let rings = &mut cluster.nodes[node].workers[worker].redirects;
    rings[usize::from(lane)].0.push(&redirect(slot), packet.into())
}

/// What a worker of a node has got: slot, number and length of each packet.
fn arrived(cluster: &mut Cluster, node: usize, worker: usize) -> Vec<(u16, u8, usize)> {
    let mut all = Vec::new();
    for (_, ring) in &mut cluster.nodes[node].workers[worker].redirects {
        let seen = |redirect: &Redirect, packet: Bytes<'_>| {
            assert_eq!(
                (redirect.interface, redirect.source),
                (0x1112_1314_1516_1718, [2, 3, 4, 5, 6, 7])
            );
            let mut bytes = vec![0; packet.len()];
            packet.copy_to(&mut bytes);
            (redirect.at.slot, bytes[19], bytes.len())
        };
        all.extend(core::iter::from_fn(|| ring.pop(seen).map(|(shown, _)| shown)));
    }
    all
}

fn report(cluster: &Cluster, node: usize) -> RedirectReport {
    let mut sum = RedirectReport::default();
    for pump in &cluster.nodes[node].pumps {
        let one = pump.report().redirects;
        sum.taken += one.taken;
        sum.sent += one.sent;
        sum.turned_back += one.turned_back;
        sum.unsent += one.unsent;
        sum.received += one.received;
        sum.handed_on += one.handed_on;
        sum.full += one.full;
    }
    sum
}

/// packets of a slot keep their order, whatever the numbers of threads on either side, and records go on meanwhile.
#[test]
fn r48_packets_of_a_slot_come_to_its_worker_in_order() {
    let mut cluster = pair([Shape::new(1, 2, 2), Shape::new(2, 3, 1)]);
    for number in 0..60_u8 {
        let slot = u16::from(number) % SLOTS;
        assert!(leave(
            &mut cluster,
            0,
            slot,
            &packet(number, 20 + usize::from(number))
        ));
        cluster.nodes[1].put(u32::from(number));
        if number % 8 == 7 {
            cluster.step();
        }
    }
    cluster.until("records and packets are there", 4_000, |c| {
        report(c, 1).handed_on == 60 && c.nodes[0].table().len() == 60
    });
    for worker in 0..3_u16 {
        let seen = arrived(&mut cluster, 1, usize::from(worker));
        let owners = Arc::clone(&cluster.nodes[1].owners);
        for slot in (0..SLOTS).filter(|slot| owners.worker_of(redirect(*slot).at) == worker) {
            let of_slot: Vec<_> = seen.iter().filter(|s| s.0 == slot).map(|s| (s.1, s.2)).collect();
            let numbers = (0..60_u8).filter(|n| u16::from(*n) % SLOTS == slot);
            let expected: Vec<_> = numbers.map(|n| (n, 20 + usize::from(n))).collect();
            assert_eq!(of_slot, expected, "slot {slot}");
        }
    }
    assert_eq!(
        report(&cluster, 0),
        RedirectReport {
            taken: 60,
            sent: 60,
            ..RedirectReport::default()
        }
    );
    assert_eq!(report(&cluster, 1).received, 60);
}

/// A worker that doesn't look at its packets costs those that don't fit, and nothing else.
#[test]
fn a_full_ring_drops_packets_and_holds_no_record_up() {
    let mut cluster = pair([Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
    let fit = REDIRECT_BYTES / 1_020;
    for number in 0..9_u8 {
        assert!(leave(&mut cluster, 0, 3, &packet(number, 1_000)));
        cluster.run(20);
    }
    cluster.nodes[1].put(7);
    cluster.until("the record is there", 4_000, |c| {
        c.nodes[0].table().contains_key(&7)
    });
    let counted = report(&cluster, 1);
    assert_eq!((counted.received, counted.full), (9, 9 - fit as u64));
    assert_eq!(arrived(&mut cluster, 1, 0).len(), fit);
}

/// nobody gets it when nobody is active.
#[test]
fn r48_without_an_active_peer_packets_are_dropped_and_counted() {
    let mut cluster = pair([Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
    cluster.nodes[1].set(Role::Backup, Term(0x102));
    cluster.run(200);
    assert!(leave(&mut cluster, 0, 3, &packet(1, 60)));
    cluster.run(20);
    let unsent = report(&cluster, 0);
    assert_eq!((unsent.taken, unsent.unsent), (1, 1));
    assert_eq!(report(&cluster, 1).received, 0);
}

/// What waits while the node takes over itself is its own, and doesn't go anywhere.
#[test]
fn packets_of_a_node_that_has_become_active_turn_back() {
    let mut cluster = pair([Shape::new(1, 2, 1), Shape::new(2, 1, 1)]);
    cluster.nodes[0].set(Role::Master, Term(0x201));
    for number in 0..3 {
        assert!(leave(&mut cluster, 0, 3, &packet(number, 60)));
    }
    cluster.run(2);
    assert_eq!(arrived(&mut cluster, 0, 1), [(3, 0, 60), (3, 1, 60), (3, 2, 60)]);
    let counted = report(&cluster, 0);
    assert_eq!((counted.taken, counted.turned_back, counted.handed_on), (3, 3, 3));
}

/// A worker hears of a handover before its event thread does: what is turned back meanwhile isn't a packet that has been
/// elsewhere.
#[test]
fn what_is_turned_back_was_nowhere() {
    let mut cluster = pair([Shape::new(1, 1, 1), Shape::new(2, 1, 1)]);
    cluster.nodes[0].set(Role::Master, Term(0x201));
    assert!(leave(&mut cluster, 0, 3, &packet(1, 60)));
    cluster.run(2);
    let (_, ring) = &mut cluster.nodes[0].workers[0].redirects[0];
    assert_eq!(redirect(3).times, REDIRECTS_MAX);
    assert_eq!(ring.peek().map(|(redirect, _)| redirect.times), Some(1));
}
