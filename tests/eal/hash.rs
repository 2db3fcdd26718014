//! The hash table that lookups are measured against: it finds what is in it and nothing else, and outlives nothing.

use twinpath::dpdk::Mempool;
use twinpath::dpdk::hash::{BULK, BulkHash, Key};

use crate::bench::Check;

const ENTRIES: u32 = 1_024;

fn key(n: u32) -> Key {
    let mut key = Key::default();
    key[4..8].copy_from_slice(&n.to_be_bytes());
    key
}

/// As many keys as half fill a table, asked for in bursts beside others.
pub(crate) fn finds_what_is_in_it(pool: &Mempool) -> Check {
    let mut table = BulkHash::create(pool, "finds", ENTRIES).unwrap();
    let places: Vec<i32> = (0..ENTRIES / 2).map(|n| table.add(&key(n)).unwrap()).collect();
    assert!(
        BulkHash::create(pool, "finds", ENTRIES).is_err(),
        "the name is taken"
    );
    for first in (0..ENTRIES).step_by(BULK) {
        let keys = core::array::from_fn(|n| key(first + n as u32));
        let mut found = [0; BULK];
        table.find(&keys, &mut found);
        for (n, found) in (first as usize..).zip(found) {
            let expected = places.get(n).copied();
            assert_eq!((found >= 0).then_some(found), expected, "key {n}");
        }
    }
    drop(table);
    assert!(
        BulkHash::create(pool, "finds", ENTRIES).is_ok(),
        "the name is free again"
    );
    u64::from(ENTRIES)
}

/// A table with one key.
pub(crate) fn with_one_key(pool: &Mempool) -> BulkHash {
    let mut table = BulkHash::create(pool, "one", ENTRIES).unwrap();
    table.add(&key(7)).unwrap();
    table
}

/// How often that key is found in a burst of it.
pub(crate) fn finds_the_one(table: &BulkHash) -> Check {
    let mut found = [-1; BULK];
    table.find(&[key(7); BULK], &mut found);
    assert!(
        found.iter().all(|&place| place == found[0] && place >= 0),
        "{found:?}"
    );
    BULK as u64
}
