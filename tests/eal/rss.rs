//! What drivers say of RSS: key and table of the one that has both, and reasons of those that don't. None of the virtual
//! devices obeys its own table, so where packets then arrive is not tried here.

use dataplane::flow::{Addr, FlowKey, VrfId, proto};
use dataplane::io::PortId;
use dataplane::rss::Rss;
use twinpath::dpdk::port::Unknown;
use twinpath::dpdk::{PortConfig, PortSet};

use crate::Tally;
use crate::bench::{Check, config, start};

const QUEUES: u16 = 4;

pub(crate) fn part(root: bool) -> Tally {
    let mut tally = Tally::default();
    let port = |device: &str, rx_queues, rss| PortConfig {
        rss,
        ..config(device, rx_queues)
    };
    let mut configs = vec![
        port("net_null0", QUEUES, Rss::Flow),
        port("net_null1", QUEUES, Rss::Destination),
        port("net_null2", 1, Rss::Flow),
        port("net_null3", QUEUES, Rss::Off),
        port("net_ring0", 2, Rss::Source),
    ];
    configs.push(PortConfig {
        rss_key: (1..=52).collect(),
        ..port("net_null4", QUEUES, Rss::Flow)
    });
    if root {
        configs.push(port("net_tap0,iface=tap0", 2, Rss::Flow));
    }
    let devices: Vec<String> = configs.iter().map(|c| c.device.to_string()).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let (eal, pool) = start(&devices);
    let set = PortSet::open(&eal, &pool, &configs, 2).unwrap();
    tally.check("key and table are read", || key_and_table(&set));
    tally.check("what a driver can't is said", || reasons(&set, root));
    eal.stop(vec![set], pool).unwrap();
    tally
}

/// The driver's key is that of Microsoft's vectors; its table, which names the first queue only, is written anew.
fn key_and_table(set: &PortSet) -> Check {
    let spread = set.rss(PortId(0)).unwrap().spread.as_ref().unwrap();
    let entries = spread.queues().len();
    let turns: Vec<u16> = (0..QUEUES).cycle().take(entries).collect();
    assert!(entries >= 64);
    assert_eq!(spread.queues(), turns);
    let key = FlowKey {
        src: Addr::v4([66, 9, 149, 187]),
        dst: Addr::v4([161, 142, 100, 80]),
        src_port: 2_794,
        dst_port: 1_766,
        vrf: VrfId(0),
        proto: proto::TCP,
    };
    let entry = 0x51cc_c178 & (entries - 1);
    assert_eq!(spread.queue_of(&key), turns[entry]);
    let entry = 0x323e_8fc2 & (entries - 1);
    let echo = FlowKey {
        proto: proto::ICMP,
        ..key
    };
    assert_eq!(spread.queue_of(&echo), turns[entry]);
    entries as u64 + 2
}

fn reasons(set: &PortSet, root: bool) -> Check {
    let said = |port| {
        let rss = set.rss(PortId(port)).unwrap();
        let why = rss.spread.as_ref().err().copied();
        (rss.hashed, why, rss.to_string())
    };
    let known = "public ports are chosen that bring replies to their owner";
    assert_eq!(said(0), (Rss::Flow, None, known.to_owned()));
    let flow_only = format!("{known}; the driver can't hash the destination alone");
    assert_eq!(said(1), (Rss::Flow, None, flow_only));
    assert_eq!((said(2).0, said(2).1), (Rss::Off, Some(Unknown::OneQueue)));
    assert_eq!((said(3).0, said(3).1), (Rss::Off, Some(Unknown::Off)));
    assert_eq!((said(4).0, said(4).1), (Rss::Off, Some(Unknown::NotOffered)));
    if root {
        let (hashed, why, text) = said(6);
        assert_eq!(hashed, Rss::Flow);
        assert!(matches!(why, Some(Unknown::Untold { what: "key", .. })), "{text}");
    }
    let keyed = set.rss(PortId(5)).unwrap();
    let key: Vec<u8> = (1..=40).collect();
    assert_eq!(keyed.spread.as_ref().unwrap().key(), key);
    assert_eq!(keyed.to_string(), known);
    7 + u64::from(root)
}
