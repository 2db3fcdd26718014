//! A fence's bytes, what is none, and its way there and back between two nodes whose workers are scripted.

use dataplane::delta::Term;
use dataplane::flow::VrfId;
use dataplane::redirect::Redirect;
use dataplane::role::Role;
use proptest::prelude::*;

use super::*;
use crate::testbed::{Cluster, SLOTS, Shape, VRF};

fn fence(slot: u16, number: u64) -> Fence {
    Fence {
        at: SlotRef { vrf: VRF, slot },
        number,
        back: false,
    }
}

fn resolve(handle: u16) -> Option<Bound> {
    let bound = Bound {
        vrf: VrfId(handle),
        slots: SLOTS,
    };
    (handle == 0).then_some(bound)
}

#[test]
fn r59_a_fence_has_these_bytes() {
    let mut bytes = Vec::new();
    let back = Fence {
        back: true,
        ..fence(0x0102, 0x1112_1314_1516_1718)
    };
    put_fence(&mut bytes, &back);
    let expected = [
        0x47, 13, 0, 0, 1, 2, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 1,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn r59_everything_else_is_refused() {
    let mut bytes = Vec::new();
    put_fence(&mut bytes, &fence(3, 9));
    let body = &bytes[2..];
    assert_eq!(get_fence(body, resolve), Ok(fence(3, 9)));
    for length in 0..body.len() {
        assert_eq!(
            get_fence(&body[..length], resolve),
            Err(RecordError::Malformed(None))
        );
    }
    let with = |at: usize, byte: u8| {
        let mut body = body.to_vec();
        body[at] = byte;
        get_fence(&body, resolve).map(|_| ())
    };
    assert_eq!(with(1, 1), Err(RecordError::UnknownVrf));
    assert_eq!(with(3, 15), Ok(()), "the last slot");
    assert_eq!(with(3, 16), Err(RecordError::Malformed(None)));
    assert_eq!(with(12, 2), Err(RecordError::Malformed(None)));
}

proptest! {
    #[test]
    fn damaged_fences_are_refused_or_mean_what_they_say(
        mut body in proptest::collection::vec(any::<u8>(), 0..16),
        nearly in any::<bool>(),
    ) {
        if nearly && body.len() > 12 {
            (body[0], body[1], body[2]) = (0, 0, 0);
            body[3] %= 20;
            body[12] %= 3;
            body.truncate(13);
        }
        if let Ok(fence) = get_fence(&body, resolve) {
            let mut bytes = Vec::new();
            put_fence(&mut bytes, &fence);
            prop_assert_eq!(&bytes[2..], &body[..13]);
        }
    }
}

/// Node 0 stands by and has two workers, node 1 is active; each has one event thread.
fn pair() -> Cluster {
    let mut cluster = Cluster::new(&[Shape::new(1, 2, 1), Shape::new(2, 1, 1)]);
    cluster.nodes[0].set(Role::Backup, Term(0x102));
    cluster.nodes[1].set(Role::Master, Term(0x102));
    cluster.until("slots verified", 4_000, |c| {
        c.nodes[0].verified() == u32::from(SLOTS)
    });
    cluster
}

/// What has come to a worker: packets by their number, fences by none.
fn arrived(cluster: &mut Cluster, node: usize, worker: usize) -> Vec<Result<u8, Fence>> {
    let (_, ring) = &mut cluster.nodes[node].workers[worker].redirects[0];
    let number = |_: &Redirect, packet: dataplane::redirect::Bytes<'_>| packet.first[19];
    core::iter::from_fn(|| {
        let fence = ring.pop_fence().map(|(fence, _)| Err(fence));
        fence.or_else(|| ring.pop(number).map(|(number, _)| Ok(number)))
    })
    .collect()
}

fn redirect(cluster: &mut Cluster, worker: usize, number: u8) {
    let redirect = Redirect {
        at: SlotRef { vrf: VRF, slot: 3 },
        interface: 1,
        source: [2; 6],
        times: 1,
    };
    let mut packet = [number; 20];
    packet[0] = 0x45;
    let ring = &mut cluster.nodes[0].workers[worker].redirects[0].0;
    assert!(ring.push(&redirect, (&packet[..]).into()));
}

fn ask(cluster: &mut Cluster, number: u64) {
    let ring = &mut cluster.nodes[1].workers[0].redirects[0].0;
    assert!(ring.push_fence(&fence(3, number)));
    cluster.run(20);
}

/// The question that a worker of node 0 has got, alone.
fn asked(cluster: &mut Cluster, worker: usize) -> Fence {
    let seen = arrived(cluster, 0, worker);
    let [Err(fence)] = seen[..] else {
        panic!("worker {worker}: {seen:?}");
    };
    assert!(!fence.back);
    fence
}

fn answer(cluster: &mut Cluster, worker: usize, asked: &Fence) {
    let ring = &mut cluster.nodes[0].workers[worker].redirects[0].0;
    assert!(ring.push_fence(&Fence { back: true, ..*asked }));
    cluster.run(20);
}

/// it comes back behind everything that was on its way, also behind what one worker had still to hand to the other.
#[test]
fn r59_a_fence_comes_back_behind_what_all_workers_have_redirected() {
    let mut cluster = pair();
    redirect(&mut cluster, 0, 1);
    cluster.run(20);
    ask(&mut cluster, 77);
    for round in 0..2 {
        let (first, second) = (asked(&mut cluster, 0), asked(&mut cluster, 1));
        assert_eq!(first, second);
        redirect(&mut cluster, 0, 2 + 2 * round);
        answer(&mut cluster, 0, &first);
        redirect(&mut cluster, 1, 3 + 2 * round);
        answer(&mut cluster, 1, &second);
    }
    let back = Fence {
        back: true,
        ..fence(3, 77)
    };
    assert_eq!(
        arrived(&mut cluster, 1, 0),
        [Ok(1), Ok(2), Ok(3), Ok(4), Ok(5), Err(back)]
    );
    assert_eq!(
        [arrived(&mut cluster, 0, 0), arrived(&mut cluster, 0, 1)],
        [[], []]
    );
}

/// Several are on their way at once, and an answer nobody asked for changes nothing.
#[test]
fn fences_are_told_apart() {
    let mut cluster = pair();
    redirect(&mut cluster, 0, 1);
    cluster.run(20);
    assert_eq!(arrived(&mut cluster, 1, 0), [Ok(1)]);
    ask(&mut cluster, 1);
    let of_first = [asked(&mut cluster, 0), asked(&mut cluster, 1)];
    ask(&mut cluster, 2);
    let of_second = [asked(&mut cluster, 0), asked(&mut cluster, 1)];
    assert_ne!(of_first, of_second);
    answer(&mut cluster, 0, &fence(3, 9));
    for _ in 0..2 {
        for (worker, question) in of_second.iter().enumerate() {
            answer(&mut cluster, worker, question);
        }
    }
    let back = Fence {
        back: true,
        ..fence(3, 2)
    };
    assert_eq!(arrived(&mut cluster, 1, 0), [Err(back)]);
}

/// Nobody waits for a peer whose packets can't come any more.
#[test]
fn without_a_peer_a_fence_comes_back_at_once() {
    let mut cluster = Cluster::new(&[Shape::new(1, 2, 1), Shape::new(2, 1, 1)]);
    let back = Fence {
        back: true,
        ..fence(3, 5)
    };
    let ring = &mut cluster.nodes[1].workers[0].redirects[0].0;
    assert!(ring.push_fence(&fence(3, 5)));
    cluster.step();
    assert_eq!(arrived(&mut cluster, 1, 0), [Err(back)], "no lane is up yet");
}

/// It may be the first thing that the two say to each other about packets.
#[test]
fn a_fence_goes_to_a_peer_that_has_not_redirected_anything_yet() {
    let mut cluster = pair();
    ask(&mut cluster, 5);
    assert_eq!(asked(&mut cluster, 0).at, fence(3, 5).at);
}

/// More questions than a node keeps: the oldest is forgotten, and the newest is answered.
#[test]
fn too_many_fences_at_once_cost_the_oldest_one() {
    let (mut fences, mut rings) = (Fences::default(), vec![]);
    let (sender, mut receiver) = dataplane::redirect::ring(65_536);
    rings.push(sender);
    for number in 0..=FENCES_MAX as u64 {
        fences.begin(0, &fence(3, number), &mut rings);
    }
    assert_eq!(fences.open.len(), FENCES_MAX);
    let mut back = Vec::new();
    while let Some((asked, _)) = receiver.pop_fence() {
        back.extend(fences.let_through(&asked, &mut rings));
    }
    let numbers: Vec<u64> = back.iter().map(|(_, fence)| fence.number).collect();
    assert_eq!(numbers, (1..=FENCES_MAX as u64).collect::<Vec<_>>());
    assert!(fences.open.is_empty());
}
