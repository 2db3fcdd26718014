//! Only the owner ages (DESIGN.md section 7): a standby holds what it was told of, whatever became of the refreshes, and a
//! take-over gives what it inherits a floor of life and a spread of ends (dataplane's `stage/expire.rs`).

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};

use dataplane::config::Timeouts;
use dataplane::flow::{Direction, FlowKey};
use state_sync::role::Desire;
use testkit::checker::view;
use testkit::cluster::{Cluster, Death};
use testkit::config::Setup;

use crate::economy::sent;
use crate::replication::open_flows;

const S: Duration = Duration::from_secs(1);
/// Lifetime of an answered UDP flow in these tests.
const TIMEOUT_S: u32 = 30;

pub(crate) fn short_lived() -> Setup {
    Setup {
        timeouts: Timeouts {
            udp_opening_s: TIMEOUT_S,
            udp_established_s: TIMEOUT_S,
            ..Timeouts::default()
        },
        ..Setup::default()
    }
}

/// When each entry of a node ends, by its original tuple.
fn deadlines(cluster: &mut Cluster, node: usize) -> HashMap<FlowKey, u32> {
    let tables = cluster.node(node).tables();
    let live = tables.flat_map(|t| t.conntracks.iter_live());
    live.map(|(_, c)| (c.key(Direction::Original), c.expires_s))
        .collect()
}

/// Makes every entry of the standby end when `deadline` says: as if no refresh had come since.
fn unrefresh(cluster: &mut Cluster, deadline: impl Fn(&FlowKey) -> u32) {
    let node = cluster.node(1);
    for worker in 0..node.workers() {
        let tables = node.tables_mut(worker);
        let ids: Vec<u32> = tables.conntracks.iter_live().map(|(id, _)| id).collect();
        for id in ids {
            let key = tables.conntracks[id].key(Direction::Original);
            tables.conntracks[id].expires_s = deadline(&key);
        }
    }
}

fn held(cluster: &mut Cluster, node: usize) -> usize {
    view(cluster.node(node)).conntracks.len()
}

/// Rule 11.
#[test]
fn all_refreshes_of_ten_timeouts_are_lost_and_the_standby_keeps_everything() {
    let mut cluster = Cluster::pair(short_lived(), 151);
    let flows = open_flows(&mut cluster, 0, 60, 10_000);
    cluster.settle();
    let told = deadlines(&mut cluster, 1);
    for _ in 0..2 * 10 {
        for (inside, outside) in &flows {
            assert_eq!(cluster.out(0, inside), Some(*outside));
            assert_eq!(cluster.back(0, outside), Some(inside.reversed()));
        }
        cluster.run(S / 100);
        unrefresh(&mut cluster, |key| told[key]);
        cluster.idle(S * TIMEOUT_S / 2);
        assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (60, 60));
    }
    assert!(
        sent(&mut cluster, 0, "REFRESH") >= 60 * 10,
        "there were some to lose"
    );
    let standby = cluster.node(1).counters();
    assert_eq!((standby.conntracks_expired, standby.conntracks_orphaned), (0, 0));
    // The owner's word ends them on both.
    cluster.idle(S * (2 * TIMEOUT_S));
    cluster.settle();
    assert_eq!((held(&mut cluster, 0), held(&mut cluster, 1)), (0, 0));
    assert_eq!(cluster.node(1).counters().conntracks_expired, 0);
}

/// Rule 12.
#[test]
fn a_take_over_an_hour_after_the_last_refresh_gives_a_minute_and_ends_flows_one_by_one() {
    let mut cluster = Cluster::pair(short_lived(), 152);
    let flows = open_flows(&mut cluster, 0, 640, 10_000);
    cluster.settle();
    cluster.now = cluster.now + S;
    // On the standby's clock, since when nothing was heard of any flow.
    unrefresh(&mut cluster, |_| 0);
    cluster.kill(0, Death::Process);
    cluster.order(1, Desire::Ordered);
    cluster.run(S);
    assert_eq!(cluster.active(), Some(1));
    let (talking, silent) = flows.split_at(40);
    let mut ends: BTreeMap<u32, usize> = BTreeMap::new();
    for second in 1..=180 {
        cluster.idle(S);
        if second % 10 == 0 {
            for (inside, outside) in talking {
                assert_eq!(cluster.out(1, inside), Some(*outside));
                assert_eq!(cluster.back(1, outside), Some(inside.reversed()));
            }
        }
        let left = held(&mut cluster, 1);
        let before = flows.len() - ends.values().sum::<usize>();
        if before > left {
            ends.insert(second, before - left);
        }
    }
    assert_eq!(held(&mut cluster, 1), talking.len(), "those that go on go on");
    let (first, last) = (*ends.keys().next().unwrap(), *ends.keys().last().unwrap());
    assert!(first >= 59, "the first one ended {first} s after the take-over");
    assert!(last - first >= 60, "all ended within {} s", last - first);
    let most = ends.values().max().unwrap();
    assert!(
        most * 64 <= silent.len() * 3,
        "{most} ended in one second of {ends:?}"
    );
}
