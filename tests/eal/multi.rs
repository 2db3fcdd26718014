//! Two workers' queues on every device, driven by turns from one thread: all frames arrive on one of the
//! two queues, whichever transmit queue they left by.

use std::time::Duration;

use dataplane::io::{Burst, Io, Packet, PortId, RxQueue};
use twinpath::clock::Clock;
use twinpath::dpdk::{Eal, Mempool, PortConfig, PortSet, Ports};

use crate::bench::{Check, config, same};
use crate::frames;

const FLOWS: usize = 512;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct TwoWorkers {
    set: PortSet,
    io: Vec<Ports>,
    names: Vec<String>,
}

impl TwoWorkers {
    pub(crate) fn open(eal: &Eal, pool: &Mempool, devices: &[&str]) -> Self {
        let configs: Vec<PortConfig> = devices.iter().map(|device| config(device, 2)).collect();
        let mut set = PortSet::open(eal, pool, &configs, 2).unwrap();
        let ports = (0..configs.len() as u16).map(PortId);
        let hand = |queue| {
            ports
                .clone()
                .map(|port| RxQueue { port, queue })
                .collect::<Vec<_>>()
        };
        let io = set.split(&[hand(0), hand(1)]).unwrap();
        Self {
            set,
            io,
            names: configs.into_iter().map(|config| config.name).collect(),
        }
    }

    fn port(&self, name: &str) -> PortId {
        PortId(self.names.iter().position(|known| known == name).unwrap() as u16)
    }

    pub(crate) fn pair(&mut self, one: &str, other: &str, spreads: bool) -> Check {
        let (one, other) = (self.port(one), self.port(other));
        self.carry(one, other, spreads) + self.carry(other, one, spreads)
    }

    fn carry(&mut self, from: PortId, to: PortId, spreads: bool) -> Check {
        let mut sent = frames::make_flows(FLOWS);
        let mut arrived = [Vec::new(), Vec::new()];
        for (index, chunk) in sent.chunks(16).enumerate() {
            let io = &mut self.io[index % 2];
            let mut burst: Burst<_> = chunk
                .iter()
                .map(|frame| {
                    let mut packet = io.alloc().unwrap();
                    assert!(packet.set_len(frame.len()));
                    packet.data_mut().copy_from_slice(frame);
                    packet
                })
                .collect();
            assert_eq!(io.tx(from, &mut burst), chunk.len());
            self.poll(to, &mut arrived);
        }
        let clock = Clock::start();
        let deadline = clock.now() + PATIENCE;
        while arrived.iter().map(Vec::len).sum::<usize>() < FLOWS && clock.now() < deadline {
            self.poll(to, &mut arrived);
        }
        self.poll(to, &mut arrived);
        self.queues_add_up(from, to);
        let loads = [arrived[0].len(), arrived[1].len()];
        if spreads {
            assert!(
                loads.iter().all(|load| *load > FLOWS / 8),
                "one queue is left out: {loads:?}"
            );
        }
        let mut all = arrived.concat();
        all.sort();
        sent.sort();
        same(&all, &sent)
    }

    /// What the agent is told of each queue is what its worker has counted.
    fn queues_add_up(&self, from: PortId, to: PortId) {
        let (rx, _) = self.set.queue_stats(to);
        let (_, tx) = self.set.queue_stats(from);
        for (worker, io) in (0_u16..).zip(&self.io) {
            let queue = usize::from(worker);
            assert_eq!(rx[queue].worker, Some(worker));
            assert_eq!(rx[queue].packets, io.counters(to).unwrap().rx_packets);
            assert_eq!(tx[queue].packets, io.counters(from).unwrap().tx_packets);
            assert!(tx[queue].packets > 0);
        }
        // Not compared with the driver's: net_tap's own are short of some with several queues.
        assert!(rx.iter().map(|queue| queue.packets).sum::<u64>() >= FLOWS as u64);
        assert!(tx.iter().map(|queue| queue.packets).sum::<u64>() >= FLOWS as u64);
    }

    fn poll(&mut self, port: PortId, arrived: &mut [Vec<Vec<u8>>; 2]) {
        for (queue, io) in (0..).zip(&mut self.io) {
            let mut burst = Burst::new();
            io.rx(RxQueue { port, queue }, &mut burst);
            let ours = burst
                .iter()
                .map(|packet| packet.data().to_vec())
                .filter(|frame| frames::is_ours(frame));
            arrived[usize::from(queue)].extend(ours);
        }
    }

    /// Gives back the ports for `Eal::stop`.
    pub(crate) fn close(self) -> PortSet {
        self.set
    }
}
