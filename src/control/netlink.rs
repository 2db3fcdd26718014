//! The kernel of one network namespace: two netlink sockets, opened inside it by a thread that ends at once.
//! One follows the multicast groups and never blocks; the other asks for full readings. The first is subscribed
//! before the first reading, so that nothing falls between them; what comes twice changes nothing.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::message::{Change, change_of, next_hop_object};

/// Multicast groups of linux/rtnetlink.h: links, neighbours, addresses and routes of both families, next-hop objects.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];
/// Asked for; the kernel gives what `net.core.rmem_max` allows. A full table that changes at once needs more than most
/// systems allow; what doesn't fit costs a reading.
const RECEIVE_BYTES: i32 = 64 << 20;
const BUFFER_BYTES: usize = 64 << 10;
/// Of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP` of linux/rtnetlink.h, which the library doesn't know.
const NEXT_HOP_OBJECTS: [u16; 2] = [104, 105];
/// A reading that the kernel interrupted because something changed is repeated this often.
pub(super) const READINGS_MAX: u32 = 8;
/// Datagrams of notifications taken in at once: whoever else waits for this thread shall not wait for long.
const FOLLOW_DATAGRAMS: usize = 1_024;
/// Tables of a full reading.
pub(super) const TABLES: usize = 6;
/// The first ones.
const LINKS_AND_ADDRESSES: [usize; 2] = [0, 1];

/// Why the kernel can't be read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No namespace of this name.
    #[error("network namespace \"{0}\" can't be entered: {1}")]
    Namespace(String, Error),
    /// The socket failed.
    #[error("netlink: {0}")]
    Io(#[from] Error),
    /// Notifications were lost because they weren't read in time.
    #[error("netlink: notifications were lost")]
    Overrun,
    /// Changes never let a reading finish.
    #[error("netlink: the tables changed during each of {READINGS_MAX} readings")]
    Restless,
}

/// Sockets into one namespace.
#[derive(Debug)]
pub struct Kernel {
    follower: Socket,
    reader: Socket,
    sequence: u32,
    /// The last question to `reader`, and whether its answer is whole so far.
    asked: u32,
    whole: bool,
    buffer: Vec<u8>,
}

/// How far the reading of one table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more.
    More,
    /// That was all. Not `whole` when something changed under it.
    Done {
        /// Nothing is missing.
        whole: bool,
    },
}

impl Kernel {
    /// Opens the sockets, in the process's own namespace or that of `/run/netns/NAME`.
    ///
    /// # Errors
    /// When the namespace or the sockets can't be had.
    pub fn open(netns: Option<&str>) -> Result<Self, NetlinkError> {
        inside(netns, Self::open_here)
    }

    fn open_here() -> Result<Self, NetlinkError> {
        let mut follower = Socket::new(NETLINK_ROUTE)?;
        follower.bind_auto()?;
        follower.set_rx_buf_sz(RECEIVE_BYTES)?;
        for group in GROUPS {
            follower.add_membership(group)?;
        }
        follower.set_non_blocking(true)?;
        let mut reader = Socket::new(NETLINK_ROUTE)?;
        reader.bind_auto()?;
        reader.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            follower,
            reader,
            sequence: 0,
            asked: 0,
            whole: true,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Links and addresses, whatever else there may be: routes may be a million.
    ///
    /// # Errors
    /// When the kernel refuses or never holds still.
    pub fn read_interfaces(&mut self) -> Result<Vec<Change>, NetlinkError> {
        for _ in 0..READINGS_MAX {
            let mut changes = Vec::new();
            let mut all_whole = true;
            for table in LINKS_AND_ADDRESSES {
                self.begin(table)?;
                all_whole &= loop {
                    if let Progress::Done { whole } = self.read(&mut changes)? {
                        break whole;
                    }
                };
            }
            if all_whole {
                return Ok(changes);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Asks for one of the [`TABLES`]; [`Self::read`] brings it, datagram by datagram.
    ///
    /// # Errors
    /// When the question can't be sent.
    pub fn begin(&mut self, table: usize) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.asked = self.sequence;
        self.whole = true;
        let frame = frame(reading(table), NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.reader.send(&frame, 0)?;
        Ok(())
    }

    /// The next datagram of what was asked for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn read(&mut self, changes: &mut Vec<Change>) -> Result<Progress, NetlinkError> {
        let length = self.reader.recv(&mut self.buffer.as_mut_slice(), 0)?;
        for message in messages(&self.buffer[..length.min(BUFFER_BYTES)]) {
            if message.header.sequence_number != self.asked {
                continue;
            }
            self.whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(Progress::Done { whole: self.whole }),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                // In a reading the append flag means nothing.
                NetlinkPayload::InnerMessage(inner) => changes.extend(change_of(&inner, 0)),
                _ => {}
            }
        }
        Ok(Progress::More)
    }

    /// The changes that were notified since the last call, or the first ones of many: the rest leaves it readable.
    ///
    /// # Errors
    /// [`NetlinkError::Overrun`] when some were lost: a full reading then says what is true.
    pub fn follow(&mut self) -> Result<Vec<Change>, NetlinkError> {
        let mut changes = Vec::new();
        for _ in 0..FOLLOW_DATAGRAMS {
            let length = match self.follower.recv(&mut self.buffer.as_mut_slice(), 0) {
                Ok(length) => length,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(changes),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Err(NetlinkError::Overrun),
                Err(e) => return Err(e.into()),
            };
            let bytes = &self.buffer[..length.min(BUFFER_BYTES)];
            // One message to a datagram, when it is a notification.
            if let Some((kind, body)) = kind_and_body(bytes)
                && NEXT_HOP_OBJECTS.contains(&kind)
            {
                changes.extend(next_hop_object(body));
                continue;
            }
            for message in messages(bytes) {
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => {
                        changes.extend(change_of(&inner, message.header.flags))
                    }
                    NetlinkPayload::Overrun(_) => return Err(NetlinkError::Overrun),
                    // The answer to a question about a neighbour on an interface that has just gone.
                    NetlinkPayload::Error(error) => {
                        tracing::debug!(error = %error.to_io(), "the kernel refused")
                    }
                    _ => {}
                }
            }
        }
        Ok(changes)
    }

    /// Has the kernel resolve a neighbour, or confirm a stale one. What comes of it is notified.
    ///
    /// # Errors
    /// When the question can't be sent now.
    pub fn resolve(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        let (family, destination) = match address {
            IpAddr::V4(a) => (AddressFamily::Inet, NeighbourAddress::Inet(a)),
            IpAddr::V6(a) => (AddressFamily::Inet6, NeighbourAddress::Inet6(a)),
        };
        message.header.family = family;
        message.header.ifindex = link;
        message.header.state = NeighbourState::None;
        message.header.flags = NeighbourFlags::Use;
        message
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        self.sequence = self.sequence.wrapping_add(1);
        let message = RouteNetlinkMessage::NewNeighbour(message);
        let frame = frame(message, NLM_F_REQUEST | NLM_F_CREATE, self.sequence);
        self.follower.send_to(&frame, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Takes an address from an interface. What comes of it is notified.
    ///
    /// # Errors
    /// When the request can't be sent now.
    pub fn withdraw(&mut self, link: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = match address {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = address.prefix_len();
        message.header.index = link;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        self.sequence = self.sequence.wrapping_add(1);
        let message = RouteNetlinkMessage::DelAddress(message);
        let frame = frame(message, NLM_F_REQUEST, self.sequence);
        self.follower.send_to(&frame, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Readable when there is something to follow.
    #[must_use]
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.follower.as_fd()
    }

    /// Shrinks what the kernel may queue, so that losing notifications can be provoked.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn limit_queue(&self, bytes: i32) -> Result<(), NetlinkError> {
        Ok(self.follower.set_rx_buf_sz(bytes)?)
    }
}

/// Opens something in the process's own namespace, or in that of `/run/netns/NAME`.
fn inside<T: Send>(
    netns: Option<&str>,
    open: impl FnOnce() -> Result<T, NetlinkError> + Send,
) -> Result<T, NetlinkError> {
    let Some(name) = netns else {
        return open();
    };
    let file = File::open(Path::new("/run/netns").join(name));
    let file = file.map_err(|e| NetlinkError::Namespace(name.to_owned(), e))?;
    // A thread of its own: a namespace belongs to the thread, and a socket stays where it was opened.
    let opened = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetlinkError::Namespace(name.to_owned(), e.into()))?;
            open()
        });
        thread.join()
    });
    opened.unwrap_or_else(|_| Err(Error::other("the opening thread ended early").into()))
}

/// Blackhole routes that this program writes into one namespace: those with its protocol number, and no others.
#[derive(Debug)]
pub struct OwnRoutes {
    socket: Socket,
    protocol: u8,
    sequence: u32,
}

impl OwnRoutes {
    /// Opens the socket, as [`Kernel::open`] does.
    ///
    /// # Errors
    /// When the namespace or the socket can't be had.
    pub fn open(netns: Option<&str>, protocol: u8) -> Result<Self, NetlinkError> {
        inside(netns, || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // The kernel leaves out what isn't asked for: there may be a million other routes.
            socket.set_netlink_get_strict_chk(true)?;
            Ok(Self {
                socket,
                protocol,
                sequence: 0,
            })
        })
    }

    /// Table and prefix of each that is there.
    ///
    /// # Errors
    /// When the kernel refuses, or never holds still.
    pub fn read(&mut self) -> Result<Vec<(u32, Ipv4Net)>, NetlinkError> {
        for _ in 0..READINGS_MAX {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet;
            message.header.protocol = RouteProtocol::Other(self.protocol);
            self.ask(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST | NLM_F_DUMP)?;
            let mut found = Vec::new();
            if self.answer(|route| found.extend(self_made(route, RouteProtocol::Other(self.protocol))))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Restless)
    }

    /// Adds one. Somebody else's route to the prefix is left as it is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add(&mut self, table: u32, prefix: Ipv4Net) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(self.route(table, prefix));
        self.carry_out(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes one away; that it is gone already is no fault.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, table: u32, prefix: Ipv4Net) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(self.route(table, prefix));
        match self.carry_out(message, 0) {
            Err(NetlinkError::Io(error)) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        }
    }

    fn route(&self, table: u32, prefix: Ipv4Net) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = prefix.prefix_len();
        message.header.protocol = RouteProtocol::Other(self.protocol);
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::BlackHole;
        message.attributes = vec![
            RouteAttribute::Table(table),
            RouteAttribute::Destination(RouteAddress::Inet(prefix.network())),
        ];
        message
    }

    fn carry_out(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.ask(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answer(|_| ())?;
        Ok(())
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&frame(message, flags, self.sequence), 0)?;
        Ok(())
    }

    /// Takes in an answer to its end; whether nothing has changed under it.
    fn answer(&self, mut take: impl FnMut(&RouteMessage)) -> Result<bool, NetlinkError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut whole = true;
        loop {
            let length = self.socket.recv(&mut buffer.as_mut_slice(), 0)?;
            for message in messages(&buffer[..length.min(BUFFER_BYTES)]) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(whole),
                    // Without a code it is the acknowledgement.
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(whole),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => take(&route),
                    _ => {}
                }
            }
        }
    }
}

/// Table and prefix of a route with this protocol number.
fn self_made(message: &RouteMessage, protocol: RouteProtocol) -> Option<(u32, Ipv4Net)> {
    let header = &message.header;
    if header.protocol != protocol || header.kind != RouteType::BlackHole {
        return None;
    }
    let (mut table, mut prefix) = (u32::from(header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                prefix = Ipv4Net::new(*address, header.destination_prefix_length).ok();
            }
            _ => {}
        }
    }
    Some((table, prefix?))
}

fn reading(table: usize) -> RouteNetlinkMessage {
    let route = |family| {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        RouteNetlinkMessage::GetRoute(message)
    };
    let neighbor = |family| {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        RouteNetlinkMessage::GetNeighbour(message)
    };
    // Links first: without them nothing else means anything.
    match table {
        0 => RouteNetlinkMessage::GetLink(LinkMessage::default()),
        1 => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        2 => route(AddressFamily::Inet),
        3 => route(AddressFamily::Inet6),
        4 => neighbor(AddressFamily::Inet),
        _ => neighbor(AddressFamily::Inet6),
    }
}

fn frame(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Type of the first message of a datagram, and what follows its header.
fn kind_and_body(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    Some((u16::from_ne_bytes([header[4], header[5]]), body))
}

/// Cuts a datagram into messages. One that isn't understood is left out: a new attribute of a newer kernel on one
/// interface mustn't blind the node to all others.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> + '_ {
    std::iter::from_fn(move || {
        loop {
            let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
            if length < HEADER_BYTES {
                return None;
            }
            let message = NetlinkMessage::deserialize(bytes);
            // Messages start at multiples of four bytes.
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
            match message {
                Ok(message) => return Some(message),
                Err(error) => tracing::warn!(%error, "a netlink message is not understood"),
            }
        }
    })
}
