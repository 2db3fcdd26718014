//! Devices that are made anew while a worker has their queues: a kernel interface that was deleted and made again, a tap, and a
//! device that is merely reset. What was counted stays, and no buffer is lost.

use dataplane::io::{Burst, Io, PortId, RxQueue};
use twinpath::dpdk::{PortError, RenewError};

use crate::Tally;
use crate::bench::{Bench, Check, config, start};
use crate::parts::ip;
use crate::{carriers, frames};

const NAMES: [&str; 3] = [
    "net_af_packet0,iface=va,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1",
    "net_af_packet1,iface=vb,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1",
    "net_ring0",
];

pub(crate) fn part(root: bool) -> Tally {
    let mut tally = Tally::default();
    let names = if root { &NAMES[..] } else { &NAMES[2..] };
    if root {
        cable();
    }
    let (eal, pool) = start(names);
    let mut configs: Vec<_> = names.iter().map(|name| config(name, 1)).collect();
    if root {
        configs[1].tap = Some("new0".to_owned());
    }
    let mut bench = Bench::open_configs(&eal, &pool, configs);
    let b = &mut bench;
    tally.check("a device is reset", || reset(b));
    if root {
        tally.check("an interface goes and comes", || interface(b));
        tally.check("a tap goes and comes", || mirror(b));
    }
    let Bench { set, io, .. } = bench;
    drop(io);
    tally.check("stop", || u64::from(eal.stop(vec![set], pool).unwrap().mbufs));
    tally
}

fn cable() {
    ip("link add va type veth peer name vb");
    for iface in ["va", "vb"] {
        ip(&format!("link set {iface} up"));
    }
}

/// Shuts a port; the worker follows at its next turn, and not before it is the device closed.
fn shut(bench: &mut Bench, port: PortId) -> Check {
    assert!(matches!(bench.set.renew(port), Err(RenewError::Open)));
    bench.set.shut(port);
    assert!(matches!(bench.set.renew(port), Err(RenewError::InUse(0))));
    bench.io.begin_turn();
    assert_eq!(bench.set.held_by(port), None);
    let before = bench.io.counters(port).unwrap();
    let mut burst: Burst<_> = [bench.packet(&frames::make(1)[0])].into_iter().collect();
    assert_eq!(bench.io.tx(port, &mut burst), 0);
    bench.io.rx(RxQueue { port, queue: 0 }, &mut burst);
    assert!(burst.is_empty());
    let after = bench.io.counters(port).unwrap();
    assert_eq!(after.tx_refused, before.tx_refused + 1);
    assert_eq!(after.tx_packets, before.tx_packets);
    5
}

fn reset(bench: &mut Bench) -> Check {
    let port = bench.port("net_ring0");
    let mut compared = carriers::pair(bench, "net_ring0", "net_ring0");
    let sent = bench.io.counters(port).unwrap().tx_packets;
    compared += shut(bench, port);
    bench.set.renew(port).unwrap();
    bench.io.begin_turn();
    compared += carriers::pair(bench, "net_ring0", "net_ring0");
    assert_eq!(bench.io.counters(port).unwrap().tx_packets, 2 * sent);
    compared
}

fn interface(bench: &mut Bench) -> Check {
    let ports = ["net_af_packet0", "net_af_packet1"].map(|name| bench.port(name));
    let mut compared = carriers::pair(bench, "net_af_packet0", "net_af_packet1");
    let mac = bench.set.mac(ports[0]);
    ip("link delete va");
    for port in ports {
        compared += shut(bench, port);
        let error = bench.set.renew(port).unwrap_err();
        let RenewError::Port(PortError::Missing(absent)) = &error else {
            panic!("{error}");
        };
        assert!(absent[0].hint.starts_with("there is no interface v"), "{error}");
        assert_eq!(bench.set.link(port), None);
    }
    cable();
    for port in ports {
        bench.set.renew(port).unwrap();
    }
    bench.io.begin_turn();
    assert_ne!(bench.set.mac(ports[0]), mac);
    compared + carriers::pair(bench, "net_af_packet0", "net_af_packet1")
}

fn mirror(bench: &mut Bench) -> Check {
    let port = bench.port("new0");
    ip("link delete new0");
    let mut compared = shut(bench, port);
    // It has the address that its port has now.
    bench.set.renew(port).unwrap();
    bench.io.begin_turn();
    ip("link set new0 up");
    compared += carriers::tap(bench, "net_af_packet1", "new0");
    compared
}
