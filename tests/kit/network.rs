//! The sync link in memory: connections between two nodes with delay, partial writes, small buffers, cuts, clogs and
//! resets, all drawn from a seed. Bytes are never lost or reordered inside a connection, as with TCP; a cut holds
//! them back until it heals or somebody gives the connection up. A connection may end at any byte, in the three ways
//! of [`Break`].
//!
//! Born with the cluster and shared by all of its event threads; a connection lives from `connect` until both ends
//! have dropped their [`MemWire`].

use core::net::IpAddr;
use core::time::Duration;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use dataplane::time::Instant;
use state_sync::wire::{Incoming, Io, Net, Wire};

use crate::later::{Tongue, Upgrades};
use crate::random::Random;

/// By so many milliseconds the last bytes of a half-open connection may be late: longer than a new one takes.
const LATE_MS: u64 = 1_500;

/// How the link behaves.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Time from one node to the other.
    pub delay: Duration,
    /// Up to so much more, at random; order is kept.
    pub jitter: Duration,
    /// Up to so much more for everything on one connection, a share of it that each keeps: some lanes are slow.
    pub spread: Duration,
    /// Bytes that fit between sender and reader.
    pub room: usize,
    /// Take and give random parts instead of all that fits.
    pub partial: bool,
    /// One write in so many ends its connection, somewhere in its bytes; 0 for none.
    pub fragile: u64,
}

impl Weather {
    /// How much slower than the link a connection is.
    fn lag(&self, slowness: u32) -> Duration {
        self.spread * slowness / 256
    }
}

/// How a connection ends under a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// Both ends hear of it at once; what was under way is gone.
    Reset,
    /// The writer hears of it; the reader gets what was written, then the end.
    Closed,
    /// Only the writer hears of it. What was written arrives late, when another connection may have taken this one's
    /// place; the reader goes on writing into the void.
    HalfOpen,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay: Duration::from_micros(100),
            jitter: Duration::ZERO,
            spread: Duration::ZERO,
            room: 1 << 20,
            partial: false,
            fragile: 0,
        }
    }
}

/// The link, shared by everybody.
#[derive(Debug, Clone)]
pub struct Fabric(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    now: Instant,
    weather: Weather,
    random: Random,
    cut: bool,
    /// By receiving node: its incoming bytes stand still.
    clogged: [bool; 2],
    /// Boot of the listening process of each node; 0 while it is dead.
    boots: [u64; 2],
    /// Whether a dead node's kernel still answers.
    powered: [bool; 2],
    addresses: [IpAddr; 2],
    conns: Vec<Conn>,
    vacant: Vec<usize>,
    waiting: [VecDeque<usize>; 2],
    resets: u64,
    upgrades: Upgrades,
}

#[derive(Debug)]
struct Conn {
    /// Node that connected; the other one accepts.
    client: usize,
    ready: Instant,
    /// What it has of the weather's spread, out of 256.
    slowness: u32,
    refused: bool,
    reset: bool,
    /// By side: its end was told that the connection is gone, and the other one wasn't.
    deserted: [bool; 2],
    /// By sending side: 0 client, 1 server.
    pipes: [Pipe; 2],
    held: [bool; 2],
}

#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    last: Instant,
    closed: bool,
    /// What is written is said as a later version would.
    tongue: Option<Tongue>,
}

/// One event thread's access to the link.
#[derive(Debug)]
pub struct MemNet {
    fabric: Fabric,
    node: usize,
    boot: u64,
}

/// One end of a connection.
#[derive(Debug)]
pub struct MemWire {
    fabric: Fabric,
    conn: usize,
    side: usize,
    node: usize,
    boot: u64,
}

impl Fabric {
    /// A link between two addresses.
    #[must_use]
    pub fn new(addresses: [IpAddr; 2], seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            now: Instant::default(),
            weather: Weather::default(),
            random: Random::new(seed),
            cut: false,
            clogged: [false; 2],
            boots: [0; 2],
            powered: [true; 2],
            addresses,
            conns: Vec::new(),
            vacant: Vec::new(),
            waiting: [VecDeque::new(), VecDeque::new()],
            resets: 0,
            upgrades: Upgrades::default(),
        })))
    }

    /// Moves the link's clock.
    pub fn set_now(&self, now: Instant) {
        self.0.borrow_mut().now = now;
    }

    /// Changes how the link behaves from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.0.borrow_mut().weather = weather;
    }

    /// The nodes are of different versions from their next connections on: one speaks as a later one would, or each as another
    /// later one. A node that boots may be of another version than before.
    pub fn mix_versions(&self, seed: u64) {
        self.0.borrow_mut().upgrades = Upgrades::begin(seed);
    }

    /// Whether `node` speaks as a later version would.
    #[must_use]
    pub fn is_later(&self, node: usize) -> bool {
        self.0.borrow().upgrades.is_later(node)
    }

    /// Whether the present process of `node` may have heard a later version.
    #[must_use]
    pub fn was_beside_later(&self, node: usize) -> bool {
        self.0.borrow().upgrades.was_beside_later(node)
    }

    /// Cuts (true) or heals the link.
    pub fn cut(&self, cut: bool) {
        self.0.borrow_mut().cut = cut;
    }

    /// Whether the link is cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.0.borrow().cut
    }

    /// Whether something is on its way for longer than the present weather wants: it was sent in a worse one. What nobody
    /// waits for any more, because an end of its connection is gone, doesn't count.
    #[must_use]
    pub fn lingers(&self) -> bool {
        let inner = self.0.borrow();
        let latest = inner.now + inner.weather.delay + inner.weather.spread + inner.weather.jitter;
        let whole = |conn: &&Conn| !conn.reset && conn.deserted == [false; 2];
        let mut pipes = inner.conns.iter().filter(whole).flat_map(|conn| &conn.pipes);
        pipes.any(|pipe| !pipe.chunks.is_empty() && pipe.last > latest)
    }

    /// Stops (true) or lets go what flows towards `node` (0 or 1).
    pub fn clog(&self, node: usize, clogged: bool) {
        self.0.borrow_mut().clogged[node] = clogged;
    }

    /// Resets every connection.
    pub fn reset_all(&self) {
        let mut inner = self.0.borrow_mut();
        inner.resets += 1;
        for conn in &mut inner.conns {
            conn.reset = true;
        }
    }

    /// Every connection that `node` has made is half open from now on: it is told that they are gone, the other node isn't, and
    /// what is under way arrives when its time has come.
    pub fn desert(&self, node: usize) {
        let mut inner = self.0.borrow_mut();
        for conn in inner.conns.iter_mut().filter(|conn| conn.client == node) {
            conn.deserted[0] = true;
        }
    }

    /// The process `boot` of `node` listens from now on; its event threads use the returned handle.
    #[must_use]
    pub fn open(&self, node: usize, boot: u64) -> MemNet {
        let mut inner = self.0.borrow_mut();
        inner.boots[node] = boot;
        inner.powered[node] = true;
        inner.upgrades.boot(node);
        // Whoever still writes to the former process hears that it is gone.
        for conn in &mut inner.conns {
            conn.reset = true;
        }
        MemNet {
            fabric: self.clone(),
            node,
            boot,
        }
    }

    /// The process of `node` is dead. With `power`, its kernel closes its connections; without, nobody is told.
    pub fn die(&self, node: usize, power: bool) {
        let mut inner = self.0.borrow_mut();
        inner.boots[node] = 0;
        inner.powered[node] = power;
        inner.waiting[node].clear();
        for conn in &mut inner.conns {
            let side = usize::from(conn.client != node);
            conn.held[side] = false;
            if power {
                conn.pipes[side].closed = true;
            }
        }
    }
}

impl MemNet {
    /// Another handle of the same process.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            fabric: self.fabric.clone(),
            node: self.node,
            boot: self.boot,
        }
    }
}

impl Inner {
    fn add(&mut self, conn: Conn) -> usize {
        if let Some(id) = self.vacant.pop() {
            self.conns[id] = conn;
            return id;
        }
        self.conns.push(conn);
        self.conns.len() - 1
    }

    fn arrival(&mut self, id: usize) -> Instant {
        let jitter = self.weather.jitter;
        let jitter = self.up_to(jitter);
        self.now + self.weather.delay + self.weather.lag(self.conns[id].slowness) + jitter
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(0);
        let some = if most == 0 { 0 } else { self.random.below(most) };
        Duration::from_nanos(some)
    }

    fn part(&mut self, len: usize) -> usize {
        if self.weather.partial && len > 1 {
            1 + self.random.index(len)
        } else {
            len
        }
    }

    /// What stands in the way of one end of a connection, if anything.
    fn obstacle(&self, id: usize, side: usize) -> Option<Io> {
        let conn = &self.conns[id];
        if conn.deserted[side] {
            return Some(Io::Failed);
        }
        if conn.reset && !self.cut {
            return Some(Io::Failed);
        }
        if conn.refused && !self.cut {
            return Some(Io::Failed);
        }
        (conn.refused || conn.ready > self.now).then_some(Io::Wait)
    }

    fn send(&mut self, id: usize, side: usize, bytes: &[u8]) -> Io {
        if let Some(obstacle) = self.obstacle(id, side) {
            return obstacle;
        }
        if self.conns[id].deserted[1 - side] {
            return Io::Done(bytes.len());
        }
        if self.conns[id].pipes[1 - side].closed && !self.cut {
            return Io::Failed;
        }
        let room = self.weather.room.saturating_sub(self.conns[id].pipes[side].bytes);
        let len = room.min(bytes.len());
        if len == 0 {
            return Io::Wait;
        }
        let breaks = self.breaks();
        let len = if breaks.is_some() {
            1 + self.random.index(len)
        } else {
            self.part(len)
        };
        let mut at = self.arrival(id);
        if breaks == Some(Break::HalfOpen) {
            at = at + Duration::from_millis(self.random.below(LATE_MS));
        }
        let said = self.said(id, side, bytes, len, breaks.is_some());
        let pipe = &mut self.conns[id].pipes[side];
        pipe.last = pipe.last.max(at);
        pipe.bytes += said.len();
        if !said.is_empty() {
            pipe.chunks.push_back((pipe.last, said));
        }
        match breaks {
            None => return Io::Done(len),
            Some(Break::Reset) => self.conns[id].reset = true,
            Some(Break::Closed) => pipe.closed = true,
            Some(Break::HalfOpen) => self.conns[id].deserted[side] = true,
        }
        Io::Failed
    }

    /// What goes out when `len` of the writer's bytes are taken. A later version says nothing before a frame is whole, and no
    /// more bytes of it come where the connection breaks: then it ends anywhere in all that it had to say.
    fn said(&mut self, id: usize, side: usize, bytes: &[u8], len: usize, breaks: bool) -> Vec<u8> {
        let Some(tongue) = &mut self.conns[id].pipes[side].tongue else {
            return bytes[..len].to_vec();
        };
        if !breaks {
            return tongue.say(&bytes[..len]);
        }
        let mut said = tongue.say(bytes);
        said.truncate(self.random.index(said.len() + 1));
        said
    }

    /// Whether, and how, the connection that is written to ends now.
    fn breaks(&mut self) -> Option<Break> {
        if self.weather.fragile == 0 || !self.random.one_in(self.weather.fragile) {
            return None;
        }
        Some([Break::Reset, Break::Closed, Break::HalfOpen][self.random.index(3)])
    }

    fn recv(&mut self, id: usize, side: usize, node: usize, buffer: &mut [u8]) -> Io {
        if let Some(obstacle) = self.obstacle(id, side) {
            return obstacle;
        }
        if self.cut || self.clogged[node] {
            return Io::Wait;
        }
        let now = self.now;
        let Some((at, chunk)) = self.conns[id].pipes[1 - side].chunks.front() else {
            return if self.conns[id].pipes[1 - side].closed {
                Io::Closed
            } else {
                Io::Wait
            };
        };
        if *at > now {
            return Io::Wait;
        }
        let len = chunk.len().min(buffer.len());
        let len = self.part(len);
        let pipe = &mut self.conns[id].pipes[1 - side];
        let Some((at, mut chunk)) = pipe.chunks.pop_front() else {
            return Io::Wait;
        };
        buffer[..len].copy_from_slice(&chunk[..len]);
        if len < chunk.len() {
            chunk.drain(..len);
            pipe.chunks.push_front((at, chunk));
        }
        pipe.bytes -= len;
        Io::Done(len)
    }
}

impl Net for MemNet {
    type Wire = MemWire;

    fn connect(&mut self, source: IpAddr, address: IpAddr) -> Option<MemWire> {
        let mut inner = self.fabric.0.borrow_mut();
        let to = inner.addresses.iter().position(|a| *a == address)?;
        if inner.addresses[self.node] != source || to == self.node {
            return None;
        }
        let slowness = u32::try_from(inner.random.below(256)).unwrap_or(0);
        let ready = inner.now + 2 * (inner.weather.delay + inner.weather.lag(slowness));
        // A dead process on a live machine refuses; a dead machine says nothing, and so does a cut link.
        let refused = inner.boots[to] == 0 || inner.cut;
        let silent = inner.boots[to] == 0 && !inner.powered[to];
        let pipes = [self.node, to].map(|from| Pipe {
            tongue: inner.upgrades.tongue(from),
            ..Pipe::default()
        });
        let conn = Conn {
            client: self.node,
            ready: if silent || inner.cut {
                Instant::from_ns(u64::MAX)
            } else {
                ready
            },
            slowness,
            refused: refused && !silent && !inner.cut,
            reset: false,
            deserted: [false; 2],
            pipes,
            held: [true, !refused],
        };
        let id = inner.add(conn);
        if !refused {
            inner.waiting[to].push_back(id);
        }
        Some(MemWire {
            fabric: self.fabric.clone(),
            conn: id,
            side: 0,
            node: self.node,
            boot: self.boot,
        })
    }

    fn accept(&mut self) -> Option<Incoming<MemWire>> {
        let mut inner = self.fabric.0.borrow_mut();
        if inner.boots[self.node] != self.boot || inner.cut {
            return None;
        }
        let id = *inner.waiting[self.node].front()?;
        if inner.conns[id].ready > inner.now {
            return None;
        }
        inner.waiting[self.node].pop_front();
        let wire = MemWire {
            fabric: self.fabric.clone(),
            conn: id,
            side: 1,
            node: self.node,
            boot: self.boot,
        };
        let (local, remote) = (inner.addresses[self.node], inner.addresses[1 - self.node]);
        Some(Incoming { wire, local, remote })
    }
}

impl MemWire {
    fn is_dead(&self) -> bool {
        self.fabric.0.borrow().boots[self.node] != self.boot
    }
}

impl Wire for MemWire {
    fn send(&mut self, bytes: &[u8]) -> Io {
        if self.is_dead() {
            return Io::Failed;
        }
        self.fabric.0.borrow_mut().send(self.conn, self.side, bytes)
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        if self.is_dead() {
            return Io::Failed;
        }
        self.fabric
            .0
            .borrow_mut()
            .recv(self.conn, self.side, self.node, buffer)
    }
}

impl Drop for MemWire {
    fn drop(&mut self) {
        let Ok(mut inner) = self.fabric.0.try_borrow_mut() else {
            return;
        };
        let powered = inner.powered[self.node];
        let conn = &mut inner.conns[self.conn];
        conn.held[self.side] = false;
        if powered && !conn.deserted[self.side] {
            conn.pipes[self.side].closed = true;
        }
        let gone = conn.held == [false; 2];
        let (id, to) = (self.conn, 1 - self.node);
        if gone && !inner.waiting[to].contains(&id) && !inner.vacant.contains(&id) {
            inner.vacant.push(id);
        }
    }
}
