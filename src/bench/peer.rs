//! The same traffic through several boxes, each a process or a kernel of its own between two links: what a packet takes
//! through all of it, drivers included. `tests/netns/peer.py` lays the links and puts the boxes in their places.
//!
//! Each box has two links whose other ends are this process's ports. A flow is opened from inside, its answer is built from the
//! tuple that came out, whatever box made it. Then packets of all flows go both ways, drawn at random, and each that arrives lets
//! the next one go: so many are under way that the box is never idle, and no queue overflows. Boxes take turns, slice by slice,
//! and whoever has no turn is stopped: one that polls would take the core from the others. A packet that doesn't arrive in a
//! while was lost; one that arrives damaged, or on another flow's tuple, is wrong.
//!
//! What comes out is the time from one packet's arrival to the next one's, which is that of the slower one: the box, or this
//! process. It is the box's as long as this process waits for it, so the share of the time that it waits is told.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use core::hint::{black_box, spin_loop};
use core::time::Duration;
use dataplane::flow::{Addr, FlowKey};
use dataplane::io::{BURST, Burst, Io, Packet, PortId, RxQueue};
use dataplane::rss::Rss;
use twinpath::clock::Clock;
use twinpath::dpdk::mempool::ROOM_DEFAULT;
use twinpath::dpdk::{Device, Eal, EalOptions, Mbuf, Memory, Mempool, PortConfig, PortSet, Ports, tsc};

use super::flows::{self, Profile, Step};
use super::frame;
use super::machine::{Machine, Ticks};
use super::random::Random;
use super::report::Report;
use super::stats::{Spread, as_f64, ratio};

const MBUFS: u32 = 8_191;
const MEMORY_MB: u32 = 64;
/// Frames under way per direction: less than a kernel queues between two cores.
const WINDOW: usize = 256;
/// Of these, opened at once.
const OPENING: usize = 64;
const FLOWS_PER_SUBSCRIBER: usize = 64;
/// What hasn't arrived by then was lost.
const LOST_AFTER: Duration = Duration::from_millis(50);
/// A box that doesn't open a flow in that time, asked again meanwhile, can't.
const OPENS_WITHIN: Duration = Duration::from_secs(20);
/// Of the frames that arrive, one of so many is looked at byte by byte.
const LOOK_AT: usize = 8;

/// A box: its name, for LAN and WAN the device this process has at the other end of the link and the box's MAC address, and
/// its process, unless it is the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    name: String,
    links: [(Device, [u8; 6]); 2],
    process: Option<u32>,
}

impl FromStr for Place {
    type Err = String;

    /// `NAME=LAN_DEVICE;LAN_MAC;WAN_DEVICE;WAN_MAC`, and `;PROCESS`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, links) = text.split_once('=').ok_or("NAME= is missing")?;
        let words: Vec<&str> = links.split(';').collect();
        let [lan, lan_mac, wan, wan_mac, process @ ..] = words.as_slice() else {
            return Err("two devices with a MAC address each are needed".to_owned());
        };
        let process = match process {
            [] => None,
            [one] => Some(one.parse().map_err(|_| format!("{one} is no process"))?),
            _ => return Err("that is more than two devices and a process".to_owned()),
        };
        let link = |device: &str, mac: &str| {
            let device = Device::parse(device).ok_or_else(|| format!("{device} is no device"))?;
            Ok::<_, String>((
                device,
                mac_of(mac).ok_or_else(|| format!("{mac} is no MAC address"))?,
            ))
        };
        Ok(Self {
            name: name.to_owned(),
            links: [link(lan, lan_mac)?, link(wan, wan_mac)?],
            process,
        })
    }
}

impl Place {
    /// Stops its process, or lets it go on.
    fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let Some(process) = self.process else {
            return Ok(());
        };
        let sent = Command::new("kill")
            .args([signal, &process.to_string()])
            .status()
            .context("kill")?;
        ensure!(sent.success(), "{}: process {process} is gone", self.name);
        Ok(())
    }
}

fn mac_of(text: &str) -> Option<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes.ok()?.try_into().ok()
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Extent {
    /// Numbers of flows.
    pub(crate) flows: Vec<usize>,
    /// Slices of each box and number.
    pub(crate) slices: usize,
    /// Length of one.
    pub(crate) slice: Duration,
}

impl Extent {
    pub(crate) fn new(quick: bool) -> Self {
        let (flows, slices, slice) = if quick {
            (vec![1 << 10, 1 << 16], 5, Duration::from_millis(200))
        } else {
            (
                vec![1 << 10, 1 << 14, 1 << 16, 1 << 20],
                21,
                Duration::from_millis(500),
            )
        };
        Self { flows, slices, slice }
    }
}

/// Measures all boxes and writes a report; the first one is what the others are compared with.
pub(crate) fn run(places: &[Place], extent: &Extent, commit: &str, output: &Path) -> anyhow::Result<()> {
    let (before, cores) = (Ticks::now(), twinpath::machine::cores());
    let clock = Clock::start();
    let (begin, start) = (clock.now(), tsc::read());
    let machine = Machine::look(cores.len(), false);
    println!("{}, commit {commit}", machine.summary());
    let mut report = Report::new(machine, commit.to_owned());
    compare(places, extent, &mut report)?;
    let clocks = tsc::read() - start;
    report
        .machine
        .finish(before, as_f64(clocks) / clock.now().since(begin).as_secs_f64());
    println!("{}", report.machine.disturbances());
    report.write(output)?;
    println!("{}", output.display());
    Ok(())
}

fn compare(places: &[Place], extent: &Extent, report: &mut Report) -> anyhow::Result<()> {
    let cores = twinpath::machine::cores();
    let eal = start(places, cores[0])?;
    let pool = Mempool::create(&eal, "packets", MBUFS, ROOM_DEFAULT)?;
    let mut set = PortSet::open(&eal, &pool, &configs(places), 1)?;
    let queues = (0..2 * places.len()).map(|port| RxQueue {
        port: port_id(port),
        queue: 0,
    });
    let mut io = set
        .split(&[queues.collect()])?
        .pop()
        .context("one handle was asked for")?;
    connect(&set, places)?;
    for place in places {
        place.signal("-STOP")?;
    }
    for &count in &extent.flows {
        measure(&mut io, places, count, extent, report)?;
    }
    for place in places {
        place.signal("-CONT")?;
    }
    drop(io);
    eal.stop(vec![set], pool)?;
    Ok(())
}

/// Waits until every link has its other end.
fn connect(set: &PortSet, places: &[Place]) -> anyhow::Result<()> {
    let clock = Clock::start();
    let until = clock.now() + OPENS_WITHIN;
    for port in 0..2 * places.len() {
        while !set.link(port_id(port)).is_some_and(|link| link.up) {
            ensure!(clock.now() < until, "{} has no link", places[port / 2].name);
            spin_loop();
        }
    }
    Ok(())
}

fn start(places: &[Place], core: usize) -> anyhow::Result<Eal> {
    Ok(Eal::start(&EalOptions {
        program: "twinpath-bench".to_owned(),
        file_prefix: format!("twinpath-bench-{}", std::process::id()),
        memory: Memory::Plain { mb: MEMORY_MB },
        main_core: core,
        worker_cores: vec![],
        devices: places
            .iter()
            .flat_map(|place| place.links.iter().map(|(device, _)| device.clone()))
            .collect(),
        log_level: "error".to_owned(),
        extra_args: vec![],
    })?)
}

fn configs(places: &[Place]) -> Vec<PortConfig> {
    let devices = places
        .iter()
        .flat_map(|place| place.links.iter().map(|(device, _)| device));
    let config = |device: &Device| PortConfig {
        name: device.name().to_owned(),
        device: device.clone(),
        netns: None,
        tap: None,
        rx_queues: 1,
        rss: Rss::Off,
        rss_key: Vec::new(),
        mtu: 1_500,
        descriptors: 512,
    };
    devices.map(config).collect()
}

fn port_id(port: usize) -> PortId {
    PortId(u16::try_from(port).unwrap_or(u16::MAX))
}

fn measure(
    io: &mut Ports,
    places: &[Place],
    count: usize,
    extent: &Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    // Each number has a seed of its own, so that no flow is in two of them.
    let keys = flows::draw(
        Profile::Udp,
        count,
        count.div_ceil(FLOWS_PER_SUBSCRIBER),
        5 + count as u64,
    );
    let mut boxes = Vec::new();
    for (number, place) in places.iter().enumerate() {
        let mut one = Candidate::new(number, place, &keys);
        place.signal("-CONT")?;
        one.open(io, &keys)
            .with_context(|| format!("{} with {count} flows", place.name))?;
        place.signal("-STOP")?;
        boxes.push(one);
    }
    for _ in 0..extent.slices {
        for (place, one) in places.iter().zip(&mut boxes) {
            place.signal("-CONT")?;
            one.slice(io, extent.slice)?;
            place.signal("-STOP")?;
        }
    }
    for (number, (place, one)) in places.iter().zip(&boxes).enumerate() {
        let (name, size) = (&place.name, thousands(count));
        let note = format!(
            "one packet through all of it, both ways, {} lost and {} wrong of {}; the sender waited for {:.0} % of the time",
            one.lost,
            one.wrong,
            one.arrived,
            100.0 * Spread::of(&one.waited).median
        );
        report.add(&format!("peer.{name}_{size}_ns"), &one.ns, "ns", &note);
        if number > 0 {
            let times = ratio(&one.ns, &boxes[0].ns);
            let note = format!("times as long as through {}", places[0].name);
            report.add(
                &format!("peer.{name}_vs_{}_{size}", places[0].name),
                &times,
                "ratio",
                &note,
            );
        }
        report.add(
            &format!("peer.{name}_{size}_new_ns"),
            &[one.new_ns],
            "ns",
            "a first packet from inside, no other traffic",
        );
        ensure!(one.wrong == 0, "{name}: {} wrong packets", one.wrong);
    }
    Ok(())
}

fn thousands(count: usize) -> String {
    match count {
        1_048_576.. => format!("{}m", count >> 20),
        1_024.. => format!("{}k", count >> 10),
        _ => count.to_string(),
    }
}

/// A frame in a line of the cache: this process has to be faster than the boxes.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([u8; flows::FRAME_LEN]);

/// Addresses and ports as they are in a frame: of the source, and of the destination.
type Tuple = [u8; 12];

/// One box under measurement.
#[derive(Debug)]
struct Candidate {
    ports: [PortId; 2],
    macs: [[u8; 6]; 2],
    /// By flow: its frame from inside, and once it is open that from outside.
    frames: [Vec<Line>; 2],
    /// By flow: the tuple it leaves with, by direction.
    out: [Vec<Tuple>; 2],
    random: Random,
    clock: Clock,
    under_way: [usize; 2],
    /// By slice: what a packet took, and the share of the time in which there was nothing to send and nothing arrived.
    ns: Vec<f64>,
    waited: Vec<f64>,
    /// What a first packet from inside took.
    new_ns: f64,
    lost: u64,
    wrong: u64,
    arrived: u64,
}

/// Which way a packet goes: from inside, or from outside.
const WAYS: [usize; 2] = [0, 1];

impl Candidate {
    fn new(number: usize, place: &Place, keys: &[FlowKey]) -> Self {
        let macs = [place.links[0].1, place.links[1].1];
        let forth = (0..)
            .zip(keys)
            .map(|(n, key)| to(macs[0], &flows::frame(Step::Forth, key, n)));
        Self {
            ports: [port_id(2 * number), port_id(2 * number + 1)],
            macs,
            frames: [forth.collect(), vec![Line([0; flows::FRAME_LEN]); keys.len()]],
            out: [
                vec![Tuple::default(); keys.len()],
                keys.iter().map(|key| tuple_of_key(&key.reversed())).collect(),
            ],
            random: Random::new(9),
            clock: Clock::start(),
            under_way: [0; 2],
            ns: Vec::new(),
            waited: Vec::new(),
            new_ns: 0.0,
            lost: 0,
            wrong: 0,
            arrived: 0,
        }
    }

    /// Opens every flow, again when it got lost, until each has come out and its answer has come back.
    fn open(&mut self, io: &mut Ports, keys: &[FlowKey]) -> anyhow::Result<()> {
        for way in WAYS {
            let mut missing: Vec<usize> = (0..keys.len()).collect();
            let until = self.clock.now() + OPENS_WITHIN;
            let mut came = vec![false; keys.len()];
            while !missing.is_empty() {
                ensure!(
                    self.clock.now() < until,
                    "{} of {} flows don't open {}",
                    missing.len(),
                    keys.len(),
                    ["from inside", "from outside"][way]
                );
                let ns = self.offer(io, way, &missing, &mut came)?;
                if way == 0 && missing.len() == keys.len() {
                    self.new_ns = ns;
                }
                missing.retain(|&flow| !came[flow]);
            }
            if way == 0 {
                self.build_answers(keys)?;
            }
        }
        Ok(())
    }

    /// Sends one packet of each of these flows, some at a time, and returns what one took of those that came behind the first
    /// ones.
    fn offer(
        &mut self,
        io: &mut Ports,
        way: usize,
        flows: &[usize],
        came: &mut [bool],
    ) -> anyhow::Result<f64> {
        let (mut burst, mut rest) = (Burst::new(), flows.chunks(OPENING).peekable());
        let (mut under_way, mut arrived) = (0, 0);
        let mut heard = self.clock.now();
        let (mut first, mut last) = (None, heard);
        while under_way > 0 || rest.peek().is_some() {
            if under_way + OPENING <= WINDOW
                && let Some(some) = rest.next()
            {
                self.send(io, way, some)?;
                under_way += some.len();
            }
            self.receive(io, way, &mut burst);
            let now = self.clock.now();
            if !burst.is_empty() {
                heard = now;
            } else if now > heard + LOST_AFTER {
                (under_way, heard) = (0, now);
            }
            let opened = self.take_opened(way, &mut burst, came)?;
            arrived += opened;
            under_way = under_way.saturating_sub(opened);
            if opened > 0 {
                last = now;
                first.get_or_insert((now, arrived));
            }
        }
        let (begin, before) = first.unwrap_or((last, 0));
        Ok(last.since(begin).as_secs_f64() * 1e9 / as_f64((arrived - before) as u64).max(1.0))
    }

    /// No two flows may share a tuple, or their answers couldn't be told apart.
    fn build_answers(&mut self, keys: &[FlowKey]) -> anyhow::Result<()> {
        let mut owners = HashMap::new();
        for (flow, out) in self.out[0].iter().enumerate() {
            let key = FlowKey {
                src: Addr::v4([out[0], out[1], out[2], out[3]]),
                src_port: u16::from_be_bytes([out[8], out[9]]),
                ..keys[flow]
            };
            if let Some(other) = owners.insert(out, flow) {
                bail!("flows {other} and {flow} have one tuple: {key:?}");
            }
            let number = u32::try_from(flow)?;
            self.frames[1][flow] = to(self.macs[1], &flows::frame(Step::Back, &key.reversed(), number));
        }
        Ok(())
    }

    /// Of packets that arrived, how many are of flows of ours; each has to come out as its own.
    fn take_opened(
        &mut self,
        way: usize,
        burst: &mut Burst<Mbuf>,
        came: &mut [bool],
    ) -> anyhow::Result<usize> {
        let mut arrived = 0;
        for packet in burst.drain(..) {
            let Some(flow) = flow_of(packet.data(), came.len()) else {
                continue;
            };
            let tuple = tuple_of(packet.data());
            // What was given up with the flows before may arrive only now, to and from other servers.
            if server_of(&tuple, way) != server_of(&self.out[1][flow], 1) {
                continue;
            }
            ensure!(frame::is_sound(packet.data()), "flow {flow} came out damaged");
            if way == 0 && !came[flow] {
                self.out[0][flow] = tuple;
            }
            ensure!(
                self.out[way][flow] == tuple,
                "flow {flow} came out as another one"
            );
            arrived += 1;
            came[flow] = true;
        }
        Ok(arrived)
    }

    /// Packets both ways for some time; adds what one of them took.
    fn slice(&mut self, io: &mut Ports, length: Duration) -> anyhow::Result<()> {
        let mut burst = Burst::new();
        let (begin, before) = (self.clock.now(), self.arrived);
        let mut heard = begin;
        let mut now = begin;
        let mut waited = Duration::ZERO;
        let mut chosen = [0; BURST];
        while now < begin + length {
            let mut moved = 0;
            for way in WAYS {
                let room = (WINDOW - self.under_way[way]).min(BURST);
                let flows = self.frames[way].len();
                for flow in &mut chosen[..room] {
                    *flow = self.random.below(flows);
                }
                self.send(io, way, &chosen[..room])?;
                self.under_way[way] += room;
                self.receive(io, way, &mut burst);
                let arrived = self.take(way, &mut burst);
                if arrived > 0 {
                    heard = now;
                }
                moved += room + arrived;
            }
            let before = core::mem::replace(&mut now, self.clock.now());
            if moved == 0 {
                waited += now.since(before);
            }
            if now > heard + LOST_AFTER {
                self.give_up();
                heard = now;
            }
        }
        let (took, packets) = (now.since(begin), self.arrived - before);
        ensure!(packets > 0, "nothing arrives");
        self.ns.push(took.as_secs_f64() * 1e9 / as_f64(packets));
        self.waited.push(waited.as_secs_f64() / took.as_secs_f64());
        self.drain(io, &mut burst);
        Ok(())
    }

    /// What is still under way belongs to nobody's next slice.
    fn drain(&mut self, io: &mut Ports, burst: &mut Burst<Mbuf>) {
        let until = self.clock.now() + LOST_AFTER;
        while self.under_way != [0; 2] && self.clock.now() < until {
            for way in WAYS {
                self.receive(io, way, burst);
                self.take(way, burst);
            }
        }
        self.give_up();
    }

    fn give_up(&mut self) {
        self.lost += self.under_way.iter().map(|&count| count as u64).sum::<u64>();
        self.under_way = [0; 2];
    }

    /// Counts what has arrived one way; other frames on the link are nobody's.
    fn take(&mut self, way: usize, burst: &mut Burst<Mbuf>) -> usize {
        let mut arrived = 0;
        let out = &self.out[way];
        touch(
            burst
                .iter()
                .filter_map(|packet| out.get(flow_of(packet.data(), out.len())?)),
        );
        for packet in burst.drain(..) {
            let data = packet.data();
            let Some(flow) = flow_of(data, self.frames[way].len()) else {
                continue;
            };
            arrived += 1;
            self.arrived += 1;
            self.under_way[way] = self.under_way[way].saturating_sub(1);
            let is_right = self.out[way][flow] == tuple_of(data)
                && (!self.arrived.is_multiple_of(LOOK_AT as u64) || frame::is_sound(data));
            self.wrong += u64::from(!is_right);
        }
        arrived
    }

    fn send(&self, io: &mut Ports, way: usize, flows: &[usize]) -> anyhow::Result<()> {
        let mut burst = Burst::new();
        for some in flows.chunks(BURST) {
            let frames = || some.iter().map(|&flow| &self.frames[way][flow].0);
            touch(frames());
            for frame in frames() {
                let mut packet = io.alloc().context("no packet buffer left")?;
                ensure!(
                    packet.set_len(frame.len()),
                    "a packet buffer is shorter than a frame"
                );
                packet.data_mut().copy_from_slice(frame);
                burst.push(packet);
            }
            io.tx(self.ports[way], &mut burst);
        }
        Ok(())
    }

    /// From the port where packets of this way come out.
    fn receive(&self, io: &mut Ports, way: usize, burst: &mut Burst<Mbuf>) {
        let port = self.ports[1 - way];
        io.rx(RxQueue { port, queue: 0 }, burst);
    }
}

/// The flow that a frame names, if it is one of ours: IPv4 and UDP, as long as it says.
fn flow_of(data: &[u8], flows: usize) -> Option<usize> {
    let is_udp = data.len() >= flows::FRAME_LEN && data[12..15] == [8, 0, 0x45] && data[23] == 17;
    let flow = is_udp.then(|| flows::number_of(data))? as usize;
    (flow < flows && frame::len_of(data) == data.len()).then_some(flow)
}

/// Of a frame that names a flow.
fn tuple_of(data: &[u8]) -> Tuple {
    let mut tuple = Tuple::default();
    tuple.copy_from_slice(&data[frame::IPV4_L4 - 8..frame::IPV4_L4 + 4]);
    tuple
}

fn tuple_of_key(key: &FlowKey) -> Tuple {
    let mut tuple = Tuple::default();
    tuple[..4].copy_from_slice(&key.src.v4_octets());
    tuple[4..8].copy_from_slice(&key.dst.v4_octets());
    tuple[8..10].copy_from_slice(&key.src_port.to_be_bytes());
    tuple[10..].copy_from_slice(&key.dst_port.to_be_bytes());
    tuple
}

/// The end that is not translated, in the tuple of a packet that goes this way.
fn server_of(tuple: &Tuple, way: usize) -> [u8; 6] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *tuple;
    [[e, f, g, h, k, l], [a, b, c, d, i, j]][way]
}

/// Waits for the memory of all of them at once, rather than for one after another when they are used.
fn touch<'a, const N: usize>(all: impl Iterator<Item = &'a [u8; N]>) {
    black_box(all.fold(0, |sum: u8, one| sum ^ one[0]));
}

fn to(mac: [u8; 6], frame: &[u8]) -> Line {
    let mut line = Line([0; flows::FRAME_LEN]);
    line.0.copy_from_slice(frame);
    line.0[..6].copy_from_slice(&mac);
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_name_and_two_links() {
        let place: Place = "kernel=net_af_packet0,iface=a,qpairs=1;02:00:00:00:00:01;net_af_packet1,iface=b;02:00:00:00:00:0f"
            .parse()
            .unwrap();
        assert_eq!((place.name.as_str(), place.links[1].1[5]), ("kernel", 0x0f));
        let links = "net_null0;02:00:00:00:00:01;net_null1;02:00:00:00:00:02";
        let place: Place = format!("vpp={links};12").parse().unwrap();
        assert_eq!(place.process, Some(12));
        assert!(format!("vpp={links};init").parse::<Place>().is_err());
        for wrong in [
            "kernel",
            "kernel=a;b",
            "k=net_null0;02:00;net_null1;02:00:00:00:00:01",
        ] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_frames_of_ours_name_a_flow() {
        let key = flows::draw(Profile::Udp, 1, 1, 5)[0];
        let frame = flows::frame(Step::Forth, &key, 7);
        assert_eq!(tuple_of(&frame), tuple_of_key(&key));
        let answer = tuple_of_key(&key.reversed());
        assert_eq!(server_of(&tuple_of(&frame), 0), server_of(&answer, 1));
        assert_eq!((flow_of(&frame, 8), flow_of(&frame, 7)), (Some(7), None));
        assert_eq!(flow_of(&[0; 60], 8), None);
        assert_eq!(flow_of(&frame[..42], 8), None);
    }
}
