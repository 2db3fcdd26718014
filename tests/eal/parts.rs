//! The parts, one process each, and what they start with.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use dataplane::io::Io;
use twinpath::dpdk::{Eal, EalError, EalStopped, Memory, Mempool, PortError, PortSet, devices_at_start};

use crate::Tally;
use crate::bench::{Bench, MBUFS, MEMORY_MB, config, start, start_in};
use crate::{carriers, checksums, frames, hash, jumbo, multi, ownership, renew, rss, workers};

/// A process of its own.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    /// Takes whether it is root, in a network namespace of its own.
    pub(crate) run: fn(bool) -> Tally,
}

/// The part that needs hugepages to be free.
pub(crate) const HUGEPAGES: &str = "hugepages";

/// All of them.
pub(crate) const PARTS: &[Part] = &[
    Part {
        name: "devices",
        run: devices,
    },
    Part {
        name: "queues",
        run: queues,
    },
    Part {
        name: "rss",
        run: rss::part,
    },
    Part {
        name: "namespaces",
        run: namespaces,
    },
    Part {
        name: "taps",
        run: taps,
    },
    Part {
        name: "renewed",
        run: renew::part,
    },
    Part {
        name: HUGEPAGES,
        run: hugepages,
    },
    Part {
        name: "jumbo",
        run: jumbo::part,
    },
    Part {
        name: "missing",
        run: missing,
    },
    Part {
        name: "held-queues",
        run: held_queues,
    },
    Part {
        name: "held-mbufs",
        run: held_mbufs,
    },
    Part {
        name: "hash",
        run: hashes,
    },
];

/// Every kind of device at once, then an orderly stop with every mbuf back.
fn devices(root: bool) -> Tally {
    let mut tally = Tally::default();
    let folder = Folder::new();
    let (input, output, socket) = (
        folder.file("in.pcap"),
        folder.file("out.pcap"),
        folder.file("memif.sock"),
    );
    frames::write_pcap(&input, &carriers::pcap_input());
    let pcap = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        output.display()
    );
    let memif = |id, role| {
        format!(
            "net_memif{id},role={role},id=0,socket-abstract=no,socket={}",
            socket.display()
        )
    };
    let (memif0, memif1) = (memif(0, "server"), memif(1, "client"));
    let mut names = vec!["net_null0,size=64,copy=1", "net_ring0", &pcap, &memif0, &memif1];
    if root {
        ip("link add va type veth peer name vb");
        for iface in ["lo", "va", "vb"] {
            ip(&format!("link set {iface} up"));
        }
        names.extend([
            "net_af_packet0,iface=va,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1",
            "net_af_packet1,iface=vb,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1",
            "net_tap0,iface=tap0",
            // The far end of the tap: after it, because devices are probed in this order.
            "net_af_packet2,iface=tap0,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1",
        ]);
    }
    let mut all = names.clone();
    all.push("net_ring1");
    let (eal, pool) = start(&all);
    let mut bench = Bench::open(&eal, &pool, &names);
    let b = &mut bench;

    tally.check("mbuf bounds", || {
        ownership::length_and_headroom_have_exact_bounds(b)
    });
    tally.check("mbuf drop and free", || {
        ownership::drop_and_free_return_to_the_pool(b, &pool)
    });
    tally.check("mbuf tx, partial tx", || {
        ownership::tx_consumes_what_was_accepted_and_frees_the_rest(b, &pool)
    });
    tally.check("pool exhausted", || {
        ownership::an_empty_pool_gives_none_and_recovers(b, &pool)
    });
    tally.check("net_null", || carriers::null_swallows_and_invents(b));
    tally.check("net_ring", || carriers::pair(b, "net_ring0", "net_ring0"));
    tally.check("net_ring counters", || carriers::counters(b, "net_ring0"));
    tally.check("net_pcap rx", || carriers::pcap_reads_a_file(b));
    tally.check("net_pcap tx", || carriers::pcap_writes_a_file(b, &output));
    tally.check("net_pcap counters", || carriers::counters(b, "net_pcap0"));
    tally.check("net_memif", || carriers::pair(b, "net_memif0", "net_memif1"));
    if root {
        tally.check("net_af_packet", || {
            carriers::af_packet(b, "net_af_packet0", "net_af_packet1")
        });
        tally.check("net_af_packet described", || {
            carriers::description(b, "net_af_packet0", "va")
        });
        tally.check("net_tap", || carriers::pair(b, "net_tap0", "net_af_packet2"));
        tally.check("net_tap checksums", || {
            checksums::verified_and_damaged(b, "net_tap0", "net_af_packet2")
        });
    }
    let mut sets = Vec::new();
    tally.check("workers", || {
        let (compared, set) = workers::two_workers_exchange_packets(&eal, &pool);
        sets.push(set);
        compared
    });
    tally.check("panic on a worker", || workers::a_panicking_job_is_reported(&eal));
    tally.check("left in a ring at stop", || {
        let mut burst = (0..5).map(|_| b.packet(&frames::make(1)[0])).collect();
        b.io.tx(b.port("net_ring0"), &mut burst) as u64
    });
    let Bench { set, io, .. } = bench;
    drop(io);
    sets.push(set);
    tally.check("stop", || {
        let EalStopped { mbufs, drained } = eal.stop(sets, pool).unwrap();
        assert_eq!(mbufs, MBUFS);
        // net_null invents a frame for every poll, so only a lower bound holds.
        assert!(drained >= 5, "{drained}");
        u64::from(mbufs)
    });
    tally
}

/// Two workers on devices with two queue pairs.
fn queues(root: bool) -> Tally {
    let mut tally = Tally::default();
    let mut pairs = vec![("net_ring0", "net_ring0", false)];
    let mut names = vec!["net_ring0"];
    if root {
        ip("link add va type veth peer name vb");
        for iface in ["va", "vb"] {
            ip(&format!("link set {iface} up"));
        }
        names.extend([
            "net_af_packet0,iface=va,blocksz=65536,framesz=2048,framecnt=1024,qpairs=2",
            "net_af_packet1,iface=vb,blocksz=65536,framesz=2048,framecnt=1024,qpairs=2",
            "net_tap0,iface=tap0",
            "net_af_packet2,iface=tap0,blocksz=65536,framesz=2048,framecnt=1024,qpairs=2",
        ]);
        pairs.extend([
            ("net_af_packet0", "net_af_packet1", true),
            ("net_tap0", "net_af_packet2", true),
        ]);
    }
    let (eal, pool) = start(&names);
    let mut two = multi::TwoWorkers::open(&eal, &pool, &names);
    for (one, other, spreads) in pairs {
        tally.check(&format!("{one} to {other}, two queues"), || {
            two.pair(one, other, spreads)
        });
    }
    let set = two.close();
    tally.check("stop", || u64::from(eal.stop(vec![set], pool).unwrap().mbufs));
    tally
}

/// Two ports on interfaces of the same name in two network namespaces, and a third that does not exist.
fn namespaces(root: bool) -> Tally {
    let mut tally = Tally::default();
    let spaces = ["a", "b"].map(|side| format!("twinpath-eal-{}-{side}", std::process::id()));
    let device = |number| {
        let args = "iface=port0,blocksz=65536,framesz=2048,framecnt=1024,qpairs=1";
        config(&format!("net_af_packet{number},{args}"), 1)
    };
    let (eal, pool) = start(&[]);
    tally.check("namespace missing", || {
        let mut lost = device(2);
        lost.netns = Some("twinpath-eal-nosuch".to_owned());
        assert!(devices_at_start(std::slice::from_ref(&lost)).is_empty());
        let error = PortSet::open(&eal, &pool, &[lost], 1).map(|_| ()).unwrap_err();
        assert!(matches!(error, PortError::Namespace { .. }), "{error}");
        1
    });
    let mut sets = Vec::new();
    if root {
        let _spaces = spaces.each_ref().map(|name| Namespace::new(name));
        ip(&format!(
            "-n {} link add port0 type veth peer name port0 netns {}",
            spaces[0], spaces[1]
        ));
        let mut configs = [device(0), device(1)].to_vec();
        for (config, name) in configs.iter_mut().zip(&spaces) {
            ip(&format!("-n {name} link set port0 up"));
            config.netns = Some(name.clone());
        }
        let mut bench = Bench::open_configs(&eal, &pool, configs);
        tally.check("net_af_packet in two namespaces", || {
            carriers::af_packet(&mut bench, "net_af_packet0", "net_af_packet1")
        });
        tally.check("back in our own namespace", || {
            let shown = Command::new("ip").args(["-br", "link"]).output().unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            assert!(!shown.contains("port0"), "{shown}");
            1
        });
        sets.push(bench.set);
    }
    tally.check("stop", || u64::from(eal.stop(sets, pool).unwrap().mbufs));
    tally
}

/// Two ports with taps: one that was there before, and one that is made. Both stay, with their addresses.
fn taps(root: bool) -> Tally {
    let mut tally = Tally::default();
    if !root {
        tally.check("not root: no taps", || 1);
        return tally;
    }
    ip("link add va type veth peer name vb");
    ip("tuntap add dev old0 mode tap multi_queue");
    ip("link set old0 mtu 1400");
    for iface in ["va", "vb", "old0"] {
        ip(&format!("link set {iface} up"));
    }
    let device = |number, iface| {
        format!("net_af_packet{number},iface={iface},blocksz=65536,framesz=2048,framecnt=1024,qpairs=1")
    };
    let names = [device(0, "va"), device(1, "vb"), device(2, "old0")];
    let (eal, pool) = start(&names.each_ref().map(String::as_str));
    let mut configs = names.map(|name| config(&name, 1));
    configs[0].tap = Some("old0".to_owned());
    configs[1].tap = Some("new0".to_owned());
    let mut bench = Bench::open_configs(&eal, &pool, configs.to_vec());
    let b = &mut bench;
    tally.check("a tap is like its port", || {
        carriers::tap(b, "net_af_packet0", "old0") + carriers::tap(b, "net_af_packet1", "new0")
    });
    tally.check("to the kernel and back", || {
        let compared = carriers::pair(b, "net_af_packet0", "net_af_packet1");
        compared + carriers::pair(b, "old0", "net_af_packet2")
    });
    tally.check("counters of a tap", || carriers::counters(b, "old0"));
    for address in ["192.0.2.2/24", "fd00:c0::2/64 nodad"] {
        ip(&format!("addr add {address} dev new0"));
    }
    let Bench { set, io, .. } = bench;
    drop(io);
    tally.check("stop", || u64::from(eal.stop(vec![set], pool).unwrap().mbufs));
    tally.check("the interfaces stay, with their addresses", || {
        let shown = Command::new("ip").args(["-br", "addr"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for word in ["old0", "new0", "192.0.2.2/24", "fd00:c0::2/64"] {
            assert!(shown.contains(word), "{word} in {shown}");
        }
        4
    });
    tally
}

/// A name that an interface which is no tap has.
fn tap_refused(eal: &Eal, pool: &Mempool) -> u64 {
    let mut wrong = config("net_null0", 1);
    wrong.tap = Some("lo".to_owned());
    let error = PortSet::open(eal, pool, &[wrong], 1).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().starts_with("port net_null0: tap lo: "),
        "{error}"
    );
    1
}

/// Packet memory from hugepages, without a mount.
fn hugepages(_root: bool) -> Tally {
    let mut tally = Tally::default();
    let free = twinpath::machine::hugepages_free_mb();
    let (eal, pool) = start_in(Memory::Huge { mb: MEMORY_MB }, &["net_ring0"]);
    let mut bench = Bench::open(&eal, &pool, &["net_ring0"]);
    tally.check("net_ring", || {
        carriers::pair(&mut bench, "net_ring0", "net_ring0")
    });
    tally.check("hugepages taken", || {
        u64::from(free - twinpath::machine::hugepages_free_mb())
    });
    let Bench { set, io, .. } = bench;
    drop(io);
    tally.check("stop", || u64::from(eal.stop(vec![set], pool).unwrap().mbufs));
    tally
}

/// What is wrong is named: devices that aren't there, too many queues, too large an MTU, a second start.
fn missing(root: bool) -> Tally {
    let mut tally = Tally::default();
    let folder = Folder::new();
    let input = folder.file("in.pcap");
    frames::write_pcap(&input, &frames::make(1));
    let pcap = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        folder.file("out.pcap").display()
    );
    let absent = "net_af_packet0,iface=nosuch0";
    let (eal, pool) = start(&["net_null0", absent, &pcap]);
    let open = |devices: &[(&str, u16)], workers| {
        let configs: Vec<_> = devices
            .iter()
            .map(|(device, queues)| config(device, *queues))
            .collect();
        PortSet::open(&eal, &pool, &configs, workers)
            .map(|_| ())
            .unwrap_err()
    };
    tally.check("missing devices", || {
        let error = open(
            &[
                ("net_null0", 1),
                (absent, 1),
                ("net_null7", 1),
                ("0000:ff:00.0", 1),
            ],
            1,
        );
        let text = error.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].contains("net_af_packet0,iface=nosuch0") && lines[0].contains("no interface nosuch0")
        );
        assert!(lines[1].contains("net_null7"));
        assert!(lines[2].contains("0000:ff:00.0") && lines[2].contains("vfio-pci"));
        3
    });
    tally.check("too many queues", || {
        let kind = |error| match error {
            PortError::Queues {
                kind,
                wanted,
                offered,
                ..
            } => (kind, wanted, offered),
            other => panic!("{other}"),
        };
        assert_eq!(kind(open(&[(&pcap, 1)], 2)), ("transmit", 2, 1));
        assert_eq!(kind(open(&[(&pcap, 2)], 1)), ("receive", 2, 1));
        assert_eq!(kind(open(&[(&pcap, 0)], 1)), ("receive", 0, 1));
        3
    });
    tally.check("MTU", || {
        let mut wide = config("net_null0", 1);
        wide.mtu = 9_000;
        let error = PortSet::open(&eal, &pool, &[wide], 1).map(|_| ()).unwrap_err();
        assert!(
            matches!(
                error,
                PortError::Mtu {
                    mtu: 9_000,
                    most: 2_026,
                    ..
                }
            ),
            "{error}"
        );
        1
    });
    if root {
        tally.check("tap", || tap_refused(&eal, &pool));
    }
    tally.check("pool refused", || {
        let create = |name: &str, mbufs| Mempool::create(&eal, name, mbufs, 2_176).map(|_| ()).unwrap_err();
        assert!(create("small", 100).to_string().contains("too few"));
        assert!(create("large", 1 << 20).to_string().contains("raise memory_mb"));
        2
    });
    tally.check("second start", || {
        let options = twinpath::dpdk::EalOptions {
            program: "again".to_owned(),
            file_prefix: "again".to_owned(),
            memory: twinpath::dpdk::Memory::Plain { mb: 16 },
            main_core: 0,
            worker_cores: vec![],
            devices: vec![],
            log_level: "critical".to_owned(),
            extra_args: vec![],
        };
        assert_eq!(Eal::start(&options).map(|_| ()), Err(EalError::AlreadyStarted));
        1
    });
    tally.check("stop", || u64::from(eal.stop(vec![], pool).unwrap().mbufs));
    tally
}

/// A worker that keeps its queues keeps the ports from being closed.
fn held_queues(_root: bool) -> Tally {
    let mut tally = Tally::default();
    let (eal, pool) = start(&["net_null0,copy=1"]);
    let Bench { set, mut io, .. } = Bench::open(&eal, &pool, &["net_null0,copy=1"]);
    tally.check("queues held at stop", || {
        assert_eq!(eal.stop(vec![set], pool), Err(EalError::QueuesInUse(1)));
        let mut burst = dataplane::io::Burst::new();
        let queue = io.rx_queues()[0];
        io.rx(queue, &mut burst);
        burst.len() as u64
    });
    tally
}

/// A packet that is kept keeps the pool alive, and is told.
fn held_mbufs(_root: bool) -> Tally {
    let mut tally = Tally::default();
    let (eal, pool) = start(&[]);
    let held: Vec<_> = (0..3).map(|_| pool.alloc().unwrap()).collect();
    tally.check("mbufs held at stop", || {
        assert_eq!(eal.stop(vec![], pool), Err(EalError::MbufsMissing { missing: 3 }));
        held.len() as u64
    });
    drop(held);
    tally
}

/// A hash table finds its keys, and keeps the EAL's memory as long as it is there.
fn hashes(_root: bool) -> Tally {
    let mut tally = Tally::default();
    let (eal, pool) = start(&[]);
    tally.check("hash table", || hash::finds_what_is_in_it(&pool));
    let held = hash::with_one_key(&pool);
    tally.check("hash table held at stop", || {
        assert_eq!(eal.stop(vec![], pool), Err(EalError::MbufsMissing { missing: 0 }));
        hash::finds_the_one(&held)
    });
    tally
}

/// A folder that goes away with its value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = env::temp_dir().join(format!("twinpath-eal-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A named network namespace that goes away with its value.
struct Namespace(String);

impl Namespace {
    fn new(name: &str) -> Self {
        ip(&format!("netns add {name}"));
        Self(name.to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// Runs `ip` in this process's network namespace.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}
