//! What the checks work on: a started EAL, its pool, ports by name, and one worker's queues driven by hand.

use std::time::Duration;

use dataplane::io::{Burst, Io, Packet, PortId, RxQueue};
use dataplane::rss::Rss;
use twinpath::clock::Clock;
use twinpath::dpdk::{Device, Eal, EalOptions, Mbuf, Memory, Mempool, PortConfig, PortSet, Ports};

use crate::frames;

/// Number of things a check compared; it panics on the first difference.
pub(crate) type Check = u64;

/// Longest time anything may take to arrive; only a failing check waits that long.
const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const MBUFS: u32 = 8_191;
/// Of the size of jumbo frames, in the same memory.
pub(crate) const MBUFS_WIDE: u32 = 2_047;
pub(crate) const MEMORY_MB: u32 = 64;
pub(crate) const MTU: u16 = 1_500;

/// Starts the EAL with two workers on the first core and the given devices.
pub(crate) fn start(devices: &[&str]) -> (Eal, Mempool) {
    start_in(Memory::Plain { mb: MEMORY_MB }, devices)
}

/// As [`start`], with buffers of another size.
pub(crate) fn start_wide(devices: &[&str], room: u16) -> (Eal, Mempool) {
    start_with(Memory::Plain { mb: MEMORY_MB }, devices, (MBUFS_WIDE, room))
}

/// As [`start`], with a choice of memory.
pub(crate) fn start_in(memory: Memory, devices: &[&str]) -> (Eal, Mempool) {
    start_with(memory, devices, (MBUFS, twinpath::dpdk::mempool::ROOM_DEFAULT))
}

fn start_with(memory: Memory, devices: &[&str], (mbufs, room): (u32, u16)) -> (Eal, Mempool) {
    let core = twinpath::machine::cores()[0];
    let options = EalOptions {
        program: "eal-test".to_owned(),
        file_prefix: "twinpath-test".to_owned(),
        memory,
        main_core: core,
        worker_cores: vec![core, core],
        devices: devices.iter().map(|text| Device::parse(text).unwrap()).collect(),
        log_level: "critical".to_owned(),
        extra_args: vec![],
    };
    let eal = Eal::start(&options).unwrap();
    let pool = Mempool::create(&eal, "packets", mbufs, room).unwrap();
    assert_eq!(pool.in_use(), 0);
    (eal, pool)
}

pub(crate) fn config(device: &str, rx_queues: u16) -> PortConfig {
    let device = Device::parse(device).unwrap();
    PortConfig {
        name: device.name().to_owned(),
        device,
        netns: None,
        tap: None,
        rx_queues,
        rss: Rss::Flow,
        rss_key: Vec::new(),
        mtu: MTU,
        descriptors: 256,
    }
}

/// Ports opened for one worker that polls queue 0 of each.
pub(crate) struct Bench {
    pub(crate) set: PortSet,
    pub(crate) io: Ports,
    /// Mbufs that started drivers keep for receiving.
    pub(crate) kept: u32,
    names: Vec<String>,
    clock: Clock,
}

impl Bench {
    pub(crate) fn open(eal: &Eal, pool: &Mempool, devices: &[&str]) -> Self {
        Self::open_configs(
            eal,
            pool,
            devices.iter().map(|device| config(device, 1)).collect(),
        )
    }

    pub(crate) fn open_configs(eal: &Eal, pool: &Mempool, configs: Vec<PortConfig>) -> Self {
        let mut set = PortSet::open(eal, pool, &configs, 1).unwrap();
        let queues = (0..configs.len() as u16)
            .map(|port| RxQueue {
                port: PortId(port),
                queue: 0,
            })
            .collect();
        let io = set.split(&[queues]).unwrap().remove(0);
        let taps: Vec<String> = configs.iter().filter_map(|config| config.tap.clone()).collect();
        let names = configs
            .into_iter()
            .map(|config| config.name)
            .chain(taps)
            .collect();
        Self {
            set,
            io,
            kept: pool.in_use(),
            names,
            clock: Clock::start(),
        }
    }

    pub(crate) fn port(&self, name: &str) -> PortId {
        PortId(self.names.iter().position(|known| known == name).unwrap() as u16)
    }

    /// A packet with these bytes.
    pub(crate) fn packet(&mut self, bytes: &[u8]) -> Mbuf {
        let mut packet = self.io.alloc().unwrap();
        assert!(packet.set_len(bytes.len()));
        packet.data_mut().copy_from_slice(bytes);
        packet
    }

    /// Sends all frames, polling `drain` in between so that no ring overflows, and returns what arrived there.
    pub(crate) fn carry(&mut self, from: PortId, to: PortId, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut arrived = Vec::new();
        // A memif server has buffers to send into only after its client has polled.
        self.poll(to, &mut arrived);
        for (index, chunk) in frames.chunks(16).enumerate() {
            let mut burst: Burst<Mbuf> = chunk.iter().map(|frame| self.packet(frame)).collect();
            assert_eq!(
                self.io.tx(from, &mut burst),
                chunk.len(),
                "chunk {index} was not accepted"
            );
            assert!(burst.is_empty());
            self.receive(to, &mut arrived, ((index + 1) * 16).min(frames.len()));
        }
        self.receive(to, &mut arrived, frames.len());
        arrived
    }

    /// Polls queue 0 of `port` until `count` of our frames have arrived, then once more for surplus ones.
    pub(crate) fn receive(&mut self, port: PortId, arrived: &mut Vec<Vec<u8>>, count: usize) {
        let deadline = self.clock.now() + PATIENCE;
        while arrived.len() < count && self.clock.now() < deadline {
            self.poll(port, arrived);
        }
        self.poll(port, arrived);
    }

    fn poll(&mut self, port: PortId, arrived: &mut Vec<Vec<u8>>) {
        let mut burst = Burst::new();
        self.io.rx(RxQueue { port, queue: 0 }, &mut burst);
        arrived.extend(
            burst
                .iter()
                .map(|packet| packet.data().to_vec())
                .filter(|frame| frames::is_ours(frame)),
        );
        self.io.free(&mut burst);
    }

    /// Waits until a condition holds; false when it never does.
    pub(crate) fn eventually(&mut self, mut condition: impl FnMut(&mut Self) -> bool) -> bool {
        let deadline = self.clock.now() + PATIENCE;
        while self.clock.now() < deadline {
            if condition(self) {
                return true;
            }
        }
        false
    }
}

/// Asserts that two lists of frames are equal, byte for byte and in order, and counts them.
#[track_caller]
pub(crate) fn same(arrived: &[Vec<u8>], sent: &[Vec<u8>]) -> Check {
    for (index, (arrived, sent)) in arrived.iter().zip(sent).enumerate() {
        assert_eq!(arrived, sent, "frame {index} differs");
    }
    assert_eq!(arrived.len(), sent.len(), "number of frames");
    sent.len() as u64
}
