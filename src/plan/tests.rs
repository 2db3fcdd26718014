//! Plans of small and odd machines, to the core and the megabyte.

use proptest::prelude::*;

use super::*;

fn port(name: &str, rx_queues: u16) -> PlanPort {
    PlanPort {
        name: name.to_owned(),
        device: format!("net_null_{name}"),
        rx_queues,
    }
}

fn input() -> PlanInput {
    PlanInput {
        cores: vec![0, 1],
        hugepages_free_mb: 0,
        workers: 2,
        worker_cores: None,
        event_threads: 2,
        event_cores: None,
        ports: vec![port("lan0", 2), port("wan0", 2)],
        mbufs: 16_384,
        mbuf_room: 2_176,
        descriptors: 1_024,
        held_packets: 512,
        memory_mb: 256,
        hugepages: Hugepages::Auto,
        conntracks_max: 262_144,
    }
}

#[test]
fn two_cores_carry_two_workers_and_two_event_threads() {
    let plan = Plan::make(&input()).unwrap();
    assert_eq!(
        plan.to_string(),
        "port lan0: 2 rx queues, 2 tx queues, net_null_lan0\n\
         port wan0: 2 rx queues, 2 tx queues, net_null_wan0\n\
         main: core 1, agent\n\
         worker 0: core 0, polls lan0/0 wan0/0\n\
         worker 1: core 1, polls lan0/1 wan0/1\n\
         event0: core 0\n\
         event1: core 1\n\
         packet memory: 256 MB of ordinary pages (62 MB needed for 16384 mbufs of 2176 bytes)\n\
         conntracks: up to 100 MB\n"
    );
    assert!(plan.shares_cores());
}

#[test]
fn event_threads_and_agent_take_the_cores_that_workers_leave() {
    let plan = Plan::make(&PlanInput {
        cores: vec![5, 2, 3, 4],
        ..input()
    })
    .unwrap();
    assert_eq!(
        (plan.worker_cores(), plan.event_cores.clone(), plan.main_core),
        (vec![2, 3], vec![4, 5], 5)
    );
    assert!(!plan.shares_cores());
}

#[test]
fn single_queue_ports_spread_over_workers_and_a_worker_may_stay_without() {
    let ports = vec![port("a", 1), port("b", 1)];
    let plan = Plan::make(&PlanInput {
        ports,
        workers: 3,
        ..input()
    })
    .unwrap();
    let q = |port| {
        vec![RxQueue {
            port: PortId(port),
            queue: 0,
        }]
    };
    assert_eq!(plan.assignment(), [q(0), q(1), vec![]]);
    assert!(plan.to_string().contains("worker 2: core 0, polls nothing"));
}

#[test]
fn what_the_machine_lacks_is_named() {
    let refused = |input| Plan::make(&input).unwrap_err().to_string();
    let with = input;
    for (input, text) in [
        (
            PlanInput {
                worker_cores: Some(vec![0, 7]),
                ..with()
            },
            "worker_cores names core 7, which this process can't use; it has 0, 1",
        ),
        (
            PlanInput {
                event_cores: Some(vec![9, 1]),
                ..with()
            },
            "event_cores names core 9, which this process can't use; it has 0, 1",
        ),
        (
            PlanInput {
                worker_cores: Some(vec![0]),
                ..with()
            },
            "worker_cores names 1 cores for 2 threads",
        ),
        (PlanInput { workers: 0, ..with() }, "workers must be at least 1"),
        (
            PlanInput {
                event_threads: 0,
                ..with()
            },
            "event_threads must be at least 1",
        ),
        (
            PlanInput {
                ports: vec![],
                ..with()
            },
            "ports must be at least 1",
        ),
        (
            PlanInput {
                workers: 128,
                ..with()
            },
            "128 workers are too many",
        ),
        (
            PlanInput {
                cores: vec![],
                ..with()
            },
            "no core can be used",
        ),
        (
            PlanInput {
                ports: vec![port("lan0", 65)],
                ..with()
            },
            "port lan0 has 65 receive queues; 1 to 64 are possible",
        ),
        (
            PlanInput {
                memory_mb: 61,
                ..with()
            },
            "16384 mbufs need memory_mb = 62, which is 61",
        ),
        (
            PlanInput {
                hugepages: Hugepages::Require,
                hugepages_free_mb: 61,
                ..with()
            },
            "62 MB of hugepages are needed, 61 MB are free",
        ),
        (
            PlanInput {
                mbufs: 8_959,
                ..with()
            },
            "8959 mbufs are too few: queues, caches and packets that wait can hold 8960",
        ),
        (
            PlanInput {
                held_packets: 65_536,
                ..with()
            },
            "16384 mbufs are too few: queues, caches and packets that wait can hold 139008",
        ),
    ] {
        assert_eq!(refused(input), text);
    }
}

#[test]
fn hugepages_are_used_when_enough_are_free_and_not_refused() {
    for (hugepages, hugepages_free_mb, huge, mb) in [
        (Hugepages::Auto, 61, false, 256),
        (Hugepages::Auto, 62, true, 62),
        (Hugepages::Off, 1_000, false, 256),
        (Hugepages::Require, 62, true, 62),
    ] {
        let plan = Plan::make(&PlanInput {
            hugepages,
            hugepages_free_mb,
            ..input()
        })
        .unwrap();
        assert_eq!(
            (plan.memory.huge, plan.memory.mb),
            (huge, mb),
            "{hugepages:?} {hugepages_free_mb}"
        );
    }
}

proptest! {
    #[test]
    fn every_queue_has_one_worker_and_loads_differ_by_one_at_most(
        queues in prop::collection::vec(1_u16..=64, 1..6),
        workers in 1_usize..=16,
    ) {
        let ports: Vec<PlanPort> = queues.iter().map(|&rx_queues| port("p", rx_queues)).collect();
        let hands = deal(&ports, workers);
        let mut all: Vec<(u16, u16)> = hands.iter().flatten().map(|rx| (rx.port.0, rx.queue)).collect();
        all.sort_unstable();
        let expected: Vec<(u16, u16)> =
            (0..).zip(&queues).flat_map(|(p, &n)| (0..n).map(move |q| (p, q))).collect();
        prop_assert_eq!(all, expected);
        let loads = hands.iter().map(Vec::len);
        prop_assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 1);
    }
}
