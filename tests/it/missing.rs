//! What a standby had to refuse comes when the cause is gone: the entry, not its slot (sync/PROTOCOL.md R-43).

use core::time::Duration;

use testkit::checker::view;
use testkit::cluster::Cluster;
use testkit::config::Setup;

use crate::replication::{open_flows, remove};
use crate::resync::exported;

/// A pair whose standby has room for fewer conntracks than are opened, and those flows.
fn crowded(seed: u64) -> (Cluster, Vec<(dataplane::flow::FlowKey, dataplane::flow::FlowKey)>) {
    let small = Setup {
        conntracks: 64,
        ..Setup::default()
    };
    let mut cluster = Cluster::of([Setup::default(), small], seed);
    cluster.settle();
    assert_eq!(cluster.active(), Some(0));
    let flows = open_flows(&mut cluster, 0, 160, 10_000);
    cluster.run(Duration::from_secs(3));
    (cluster, flows)
}

///
#[test]
fn a_full_standby_gets_what_it_refused_as_soon_as_it_has_room() {
    let (mut cluster, flows) = crowded(51);
    let refused = cluster.node(1).counters().absorb_full;
    let missing = 160 - view(cluster.node(1)).conntracks.len();
    assert!(
        refused > 0 && missing >= 32,
        "{refused} refused, {missing} missing"
    );
    let sent = exported(&mut cluster, 0).generations.whole;
    // Some of those that are held end, and some of those that are not.
    remove(&mut cluster, 0, &flows[..60]);
    cluster.run(Duration::from_secs(4));
    cluster.settle();
    assert_eq!(view(cluster.node(1)).conntracks.len(), 100);
    let after = exported(&mut cluster, 0);
    assert_eq!(
        (after.generations.whole, after.digest_mismatch),
        (sent, 0),
        "{after:?}"
    );
    let counters = cluster.node(1).counters();
    assert!(counters.absent_mended > 0 && counters.absent_mended <= counters.absent_asked);
    assert_eq!(counters.absorb_full, refused, "nothing is asked for without room");
}

#[test]
fn a_standby_that_stays_full_is_not_a_reason_to_send_anything() {
    let (mut cluster, _) = crowded(52);
    let mut after_a_minute = || {
        cluster.run(Duration::from_secs(62));
        let (active, standby) = (cluster.node(0).counters(), cluster.node(1).counters());
        let whole = exported(&mut cluster, 0).generations.whole;
        assert_eq!(standby.digest_mismatch, 0);
        (standby.absent_asked, active.walk_records, whole)
    };
    // What changed after it was refused was asked for, so that the digests could be compared, and only once.
    let first = after_a_minute();
    assert!(first.0 > 0 && first.0 < 160, "{first:?}");
    assert_eq!(after_a_minute(), first);
}
