//! Receive-side scaling (RSS): which receive queue a network card puts a packet into, reckoned as the card does, and which
//! public ports bring a flow's replies *home*, into a queue of the worker that owns the flow.
//!
//! A card hashes some fields of a packet with a key of 40 bytes or more, and looks the queue up in a table by the low bits
//! of the hash. The hash (Toeplitz) is linear: bits of the input contribute by exclusive or. So 64 ports in a row
//! hash to what the first one does, combined with 64 numbers that are always the same, and one word per entry of the table
//! tells which of the 64 come home: a search over a bitmap of ports wants one word more per word.
//!
//! A [`Spread`] is made by the edge from what a driver tells of its port, a [`Home`] from it by each worker; both live as
//! long as the port. Nothing depends on their truth: a packet that comes in by another queue is handed over.

use arrayvec::ArrayVec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::flow::{FlowKey, proto};

/// What the card of a port is asked to hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rss {
    /// Both addresses and both ports: even, whatever the traffic.
    #[default]
    Flow,
    /// The source address: a subscriber's packets come in by one queue. For ports towards subscribers.
    Source,
    /// The destination's address and port: what is sent to a public port comes in by one queue, whoever sends it. For ports
    /// towards the network.
    Destination,
    /// Nothing: all packets come in by the first queue.
    Off,
}

impl Rss {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Flow, Self::Source, Self::Destination, Self::Off];

    /// The name used by the configuration and ctl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Off => "off",
        }
    }

    /// The fields that it stands for; `tcp` and `udp` say whether the card looks at the ports of these.
    #[must_use]
    pub const fn fields(self, tcp: bool, udp: bool) -> Fields {
        let ports = matches!(self, Self::Flow | Self::Destination);
        Fields {
            source: matches!(self, Self::Flow | Self::Source),
            destination: matches!(self, Self::Flow | Self::Destination),
            tcp_ports: ports && tcp,
            udp_ports: ports && udp,
        }
    }
}

/// Fields that a card hashes: addresses first, then ports, each source before destination, without gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields {
    /// The source's address, and its port where ports are hashed.
    pub source: bool,
    /// The destination's address, and its port where ports are hashed.
    pub destination: bool,
    /// Ports of TCP.
    pub tcp_ports: bool,
    /// Ports of UDP.
    pub udp_ports: bool,
}

/// Bytes of the fields of IPv4 at most.
const INPUT_MAX: usize = 12;
type Input = ArrayVec<u8, INPUT_MAX>;

impl Fields {
    /// Whether the hash of the protocol depends on the destination's port.
    const fn tell_ports(self, protocol: u8) -> bool {
        self.destination
            && match protocol {
                proto::TCP => self.tcp_ports,
                proto::UDP => self.udp_ports,
                _ => false,
            }
    }

    /// What is hashed of an IPv4 packet.
    fn input(self, key: &FlowKey) -> Input {
        let ports = match key.proto {
            proto::TCP => self.tcp_ports,
            proto::UDP => self.udp_ports,
            _ => false,
        };
        let mut input = Input::new();
        let ends = [(self.source, &key.src), (self.destination, &key.dst)];
        for (_, address) in ends.iter().filter(|(hashed, _)| *hashed) {
            input.extend(address.v4_octets());
        }
        let ends = [(self.source, key.src_port), (self.destination, key.dst_port)];
        for (_, port) in ends.iter().filter(|(hashed, _)| *hashed && ports) {
            input.extend(port.to_be_bytes());
        }
        input
    }

    const fn len_max(self) -> usize {
        let ports = self.tcp_ports || self.udp_ports;
        (self.source as usize + self.destination as usize) * (4 + 2 * ports as usize)
    }
}

/// The hash of Microsoft's "RSS Hashing Types". A key that is too short counts as followed by zeros.
#[must_use]
pub fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    (0..)
        .zip(input)
        .map(|(at, byte)| of_byte(*byte, |bit| window(key, at * 8 + bit)))
        .fold(0, |hash, part| hash ^ part)
}

/// The 32 bits of the key from bit `from` on.
fn window(key: &[u8], from: usize) -> u32 {
    let byte = |at: usize| u64::from(key.get(from / 8 + at).copied().unwrap_or(0));
    let five = (0..5).fold(0, |bits, at| bits << 8 | byte(at));
    #[expect(clippy::cast_possible_truncation, reason = "the 32 bits that are meant")]
    let bits = (five >> (8 - from % 8)) as u32;
    bits
}

/// What a byte contributes, its highest bit first.
#[inline]
fn of_byte(byte: u8, window: impl Fn(usize) -> u32) -> u32 {
    (0..8)
        .filter(|bit| byte << bit & 0x80 != 0)
        .fold(0, |hash, bit| hash ^ window(bit))
}

/// Why a port's spread is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SpreadError {
    /// The key doesn't reach to the end of what is hashed.
    #[error("a key of {bytes} bytes is too short")]
    Key {
        /// Its length.
        bytes: usize,
    },
    /// The low bits of a hash name no entry of such a table.
    #[error("a table of {entries} entries is no power of two")]
    Table {
        /// Its length.
        entries: usize,
    },
    /// Nothing is hashed.
    #[error("the card hashes nothing")]
    NoFields,
}

/// How a port spreads packets over its receive queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    key: Box<[u8]>,
    fields: Fields,
    queues: Box<[u16]>,
}

impl Spread {
    /// From the card's key, the fields it hashes and its table of queues.
    ///
    /// # Errors
    /// When hashes can't be reckoned from these.
    pub fn new(key: &[u8], fields: Fields, queues: &[u16]) -> Result<Self, SpreadError> {
        if fields.len_max() == 0 {
            return Err(SpreadError::NoFields);
        }
        if key.len() < fields.len_max() + size_of::<u32>() {
            return Err(SpreadError::Key { bytes: key.len() });
        }
        if !queues.len().is_power_of_two() {
            return Err(SpreadError::Table {
                entries: queues.len(),
            });
        }
        Ok(Self {
            key: key.into(),
            fields,
            queues: queues.into(),
        })
    }

    /// The receive queue of an IPv4 packet.
    #[must_use]
    pub fn queue_of(&self, key: &FlowKey) -> u16 {
        let hash = toeplitz(&self.key, &self.fields.input(key));
        self.queues[hash as usize & (self.queues.len() - 1)]
    }

    /// The card's key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The table of queues.
    #[must_use]
    pub fn queues(&self) -> &[u16] {
        &self.queues
    }
}

/// Ports that a word of a bitmap is about.
const GROUP: u16 = 64;

/// Which public ports bring replies into a queue of one worker.
#[derive(Debug)]
pub(crate) struct Home {
    fields: Fields,
    /// The key's 32 bits from each bit on that may be hashed.
    windows: Box<[u32]>,
    /// By entry of the card's table that the first of 64 ports hashes to: those of them that hash to a queue of this worker.
    own: Box<[u64]>,
}

impl Home {
    /// Of the worker that has the queues `polled`. None where no choice of ports makes a difference.
    pub(crate) fn new(spread: &Spread, polled: impl Fn(u16) -> bool) -> Option<Self> {
        let Spread { key, fields, queues } = spread;
        let protocols = [proto::TCP, proto::UDP];
        let entries = queues.len();
        let owned = queues.iter().filter(|&&queue| polled(queue)).count();
        if owned == 0 || owned == entries || !protocols.iter().any(|&p| fields.tell_ports(p)) {
            return None;
        }
        let windows: Box<[u32]> = (0..fields.len_max() * 8).map(|bit| window(key, bit)).collect();
        let mut home = Self {
            fields: *fields,
            windows,
            own: Box::default(),
        };
        let in_group: Vec<usize> = (0..GROUP).map(|port| home.of_port(port) as usize).collect();
        let comes_home = |entry: usize| polled(queues[entry & (entries - 1)]);
        let own = |first: usize| {
            let bits = (0..GROUP).zip(&in_group);
            bits.fold(0, |word, (bit, hash)| {
                word | u64::from(comes_home(first ^ hash)) << bit
            })
        };
        home.own = (0..entries).map(own).collect();
        Some(home)
    }

    /// What replies to an address hash to, but for the port they go to. None of a protocol whose hash doesn't depend on it.
    pub(crate) fn base(&self, reply: &FlowKey) -> Option<u32> {
        if !self.fields.tell_ports(reply.proto) {
            return None;
        }
        let input = self.fields.input(&FlowKey {
            dst_port: 0,
            ..*reply
        });
        let parts = input.iter().zip(self.windows.chunks_exact(8));
        Some(parts.fold(0, |hash, (byte, windows)| {
            hash ^ of_byte(*byte, |bit| windows[bit])
        }))
    }

    /// Which of the 64 ports from `first` on come home.
    #[inline]
    pub(crate) fn ports(&self, base: u32, first: u16) -> u64 {
        let shift = first % GROUP;
        let aligned = first - shift;
        let low = self.group(base, aligned) >> shift;
        if shift == 0 {
            return low;
        }
        // Behind the last port there is none: whatever is said of them there.
        low | self.group(base, aligned.wrapping_add(GROUP)) << (GROUP - shift)
    }

    /// Whether one port does.
    pub(crate) fn is_home(&self, base: u32, port: u16) -> bool {
        self.ports(base, port) & 1 == 1
    }

    fn group(&self, base: u32, first: u16) -> u64 {
        self.own[(base ^ self.of_port(first)) as usize & (self.own.len() - 1)]
    }

    /// What the destination's port contributes: its bits are the last that are hashed.
    fn of_port(&self, port: u16) -> u32 {
        let windows = &self.windows[self.windows.len() - 16..];
        let [high, low] = port.to_be_bytes();
        of_byte(high, |bit| windows[bit]) ^ of_byte(low, |bit| windows[8 + bit])
    }
}

#[cfg(test)]
mod tests;
