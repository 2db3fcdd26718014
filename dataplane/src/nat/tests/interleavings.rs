//! A pool under every interleaving of two workers, with as few blocks as they can quarrel about.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::nat::pool::{Place, Pools};
use crate::nat::random::Random;

const FIRST: Place = Place {
    pool: 0,
    lot: 0,
    address: 0,
    chunk: 0,
};

/// One address with `blocks` blocks.
fn pools(blocks: u16) -> Arc<Pools> {
    let settings = PoolIntent {
        addresses: vec!["198.51.100.1".parse().unwrap()],
        ports: PortRange {
            first: 1024,
            last: 1024 + blocks * 64 - 1,
        },
        ..pool()
    };
    Arc::new(Pools::new(&intent(vec![settings])))
}

/// Interleavings with at most two preemptions: those that find what there is to be found, in seconds.
fn bounded(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(test);
}

#[test]
fn a_block_is_claimed_once() {
    bounded(|| {
        let shared = pools(1);
        let other = Arc::clone(&shared);
        let worker = thread::spawn(move || other.claim_any(0, &mut Random::new(1), None));
        let mine = shared.claim_any(0, &mut Random::new(2), None);
        let theirs = worker.join().unwrap();
        assert_eq!(usize::from(mine.is_some()) + usize::from(theirs.is_some()), 1);
    });
}

/// A search that finds nothing takes the address's hint away, while another worker gives the block back.
#[test]
fn a_block_given_back_is_found_again() {
    bounded(|| {
        let shared = pools(1);
        assert!(shared.lot(FIRST).claim(0, 0));
        shared.lot(FIRST).hold(FIRST, 7, VRF, 3);
        let other = Arc::clone(&shared);
        let worker = thread::spawn(move || other.lot(FIRST).give_back(FIRST));
        let early = shared.lot(FIRST).claim_on(0, &mut Random::new(1), None);
        worker.join().unwrap();
        let late = shared.claim_any(0, &mut Random::new(2), None);
        assert_eq!(
            late.is_some(),
            early.is_none(),
            "the hint of a free block is lost"
        );
    });
}

#[test]
fn whoever_sees_an_owner_sees_its_grant() {
    bounded(|| {
        let shared = pools(1);
        let other = Arc::clone(&shared);
        let worker = thread::spawn(move || {
            assert!(other.lot(FIRST).claim(0, 0));
            other.lot(FIRST).hold(FIRST, 7, VRF, 3);
        });
        if let Some(owner) = shared.lot(FIRST).owner(FIRST) {
            assert_eq!((owner, shared.lot(FIRST).grant(FIRST)), ((VRF, 3), 7));
        }
        worker.join().unwrap();
    });
}

#[test]
fn grants_are_never_made_twice() {
    bounded(|| {
        let shared = pools(1);
        let other = Arc::clone(&shared);
        let worker = thread::spawn(move || other.next_grant(TERM));
        let mine = shared.next_grant(TERM);
        assert_ne!(mine, worker.join().unwrap());
    });
}
