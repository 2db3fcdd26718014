//! Sync connections as the kernel makes them: non-blocking TCP between fixed addresses, bound to the sync
//! interface, so that neither a fast-path port nor another route can carry them by accident.
//!
//! Opened once per event thread at start. Thread 0 also listens, on every own address of a peer relation; it
//! may do so before the address exists. A connection is born by [`Net::connect`] or [`Net::accept`], owned by
//! whoever got it, and closed by dropping it.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use state_sync::wire::{Incoming, Io, Net, Wire};
use thiserror::Error;

/// Connections the kernel may hold until they are accepted.
const BACKLOG: i32 = 128;

/// Unsent bytes the kernel takes: what it has not taken can still be folded together by the workers.
const UNSENT_MAX_BYTES: u32 = 128 * 1024;

/// Priority of the packets in this node's own queues: the highest that needs no privilege (socket(7), `SO_PRIORITY`).
const PRIORITY: u32 = 6;

/// How long the kernel tries to deliver sent bytes. Heartbeats notice a dead peer earlier; this ends what they
/// can't see, a peer whose kernel is gone while its acknowledgements are outstanding.
const DELIVERY_MAX: Duration = Duration::from_secs(10);

/// Where sync connections go and come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncSettings {
    /// Kernel interface; none leaves the choice to the routing table.
    pub interface: Option<String>,
    /// Where the second links of peers are.
    pub second: Option<SecondInterface>,
    /// TCP port of local nodes, the same on all nodes.
    pub port: u16,
    /// Code point of the packets (RFC 2474), below 64.
    pub dscp: u8,
}

/// The kernel interface of second links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondInterface {
    /// Its name.
    pub interface: String,
    /// Our addresses on it: what comes from one of them goes by it.
    pub sources: Vec<IpAddr>,
}

impl SyncSettings {
    /// Kernel interface of connections from one of our addresses.
    fn interface_of(&self, own: IpAddr) -> Option<&str> {
        let second = self.second.as_ref().filter(|s| s.sources.contains(&own));
        second.map(|s| s.interface.as_str()).or(self.interface.as_deref())
    }
}

/// Why listening is impossible.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The kernel refused, for instance because another process has the port or the interface doesn't exist.
    #[error("cannot listen for sync connections on {address}: {source}")]
    Listen {
        /// Address and port.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The network of one event thread.
#[derive(Debug)]
pub struct SyncNet {
    settings: SyncSettings,
    listeners: Vec<Listener>,
    /// The listener asked next, so that a busy one can't keep the others waiting.
    turn: usize,
}

#[derive(Debug)]
struct Listener {
    socket: Socket,
    address: IpAddr,
}

impl SyncNet {
    /// For an event thread that only connects.
    #[must_use]
    pub const fn connector(settings: SyncSettings) -> Self {
        Self {
            settings,
            listeners: Vec::new(),
            turn: 0,
        }
    }

    /// For event thread 0, which also listens on `addresses`.
    ///
    /// # Errors
    /// When an address can't be listened on.
    pub fn listener(settings: SyncSettings, addresses: &[IpAddr]) -> Result<Self, SocketError> {
        let mut net = Self::connector(settings);
        for address in addresses {
            if net.listeners.iter().all(|l| l.address != *address) {
                let interface = net.settings.interface_of(*address);
                let at = end(*address, net.settings.port, interface);
                let socket = listen(at, interface, net.settings.dscp)
                    .map_err(|source| SocketError::Listen { address: at, source })?;
                net.listeners.push(Listener {
                    socket,
                    address: *address,
                });
            }
        }
        Ok(net)
    }

    fn start(&self, source: IpAddr, address: IpAddr) -> io::Result<Socket> {
        let interface = self.settings.interface_of(source);
        let (from, to) = (
            end(source, 0, interface),
            end(address, self.settings.port, interface),
        );
        let socket = socket(to, interface)?;
        prepare(&socket, &to, self.settings.dscp)?;
        socket.bind(&from.into())?;
        match socket.connect(&to.into()) {
            Err(error) if !is_under_way(&error) => Err(error),
            _ => Ok(socket),
        }
    }
}

fn listen(at: SocketAddr, interface: Option<&str>, dscp: u8) -> io::Result<Socket> {
    let socket = socket(at, interface)?;
    mark(&socket, &at, dscp)?;
    socket.set_reuse_address(true)?;
    // The address may come later than the process, or be a tentative IPv6 one.
    if at.is_ipv4() {
        socket.set_freebind_v4(true)?
    } else {
        socket.set_freebind_v6(true)?
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn socket(at: SocketAddr, interface: Option<&str>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    Ok(socket)
}

/// A link-local address means nothing without its interface (RFC 4007 section 6).
fn end(address: IpAddr, port: u16, interface: Option<&str>) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let scope = interface.and_then(scope_of).unwrap_or(0);
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
        other => SocketAddr::new(other, port),
    }
}

impl Net for SyncNet {
    type Wire = SyncWire;

    fn connect(&mut self, source: IpAddr, address: IpAddr) -> Option<SyncWire> {
        self.start(source, address).ok().map(SyncWire)
    }

    fn accept(&mut self) -> Option<Incoming<SyncWire>> {
        for _ in 0..self.listeners.len() {
            self.turn = (self.turn + 1) % self.listeners.len();
            let listener = &self.listeners[self.turn];
            // Errors of accept belong to the connection that is gone already (accept(2)); the next may be good.
            let Ok((socket, remote)) = listener.socket.accept() else {
                continue;
            };
            if let Some(at) = remote.as_socket()
                && socket
                    .set_nonblocking(true)
                    .and_then(|()| prepare(&socket, &at, self.settings.dscp))
                    .is_ok()
            {
                return Some(Incoming {
                    wire: SyncWire(socket),
                    local: listener.address,
                    remote: at.ip(),
                });
            }
        }
        None
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct SyncWire(Socket);

impl Wire for SyncWire {
    fn send(&mut self, bytes: &[u8]) -> Io {
        outcome((&self.0).write(bytes))
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        outcome((&self.0).read(buffer))
    }
}

fn outcome(result: io::Result<usize>) -> Io {
    match result {
        Ok(0) => Io::Closed,
        Ok(n) => Io::Done(n),
        Err(error) if is_under_way(&error) || error.kind() == ErrorKind::Interrupted => Io::Wait,
        // Until a connection is made, reading from it says so.
        Err(error) if error.kind() == ErrorKind::NotConnected => Io::Wait,
        Err(_) => Io::Failed,
    }
}

fn is_under_way(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EINPROGRESS)
}

fn prepare(socket: &Socket, remote: &SocketAddr, dscp: u8) -> io::Result<()> {
    mark(socket, remote, dscp)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_MAX_BYTES)?;
    socket.set_tcp_user_timeout(Some(DELIVERY_MAX))?;
    let keepalive = TcpKeepalive::new()
        .with_time(DELIVERY_MAX / 2)
        .with_interval(DELIVERY_MAX / 5);
    socket.set_tcp_keepalive(&keepalive)
}

/// The code point, and then the priority: the kernel derives one from an IPv4 code point, and nothing from the others.
fn mark(socket: &Socket, end: &SocketAddr, dscp: u8) -> io::Result<()> {
    let octet = u32::from(dscp) << 2;
    if end.is_ipv4() {
        socket.set_tos_v4(octet)?;
    } else {
        socket.set_tclass_v6(octet)?;
    }
    socket.set_priority(PRIORITY)
}

/// Index of an interface of this thread's network namespace that has an IPv6 address, from the kernel's list
/// of addresses: one line each of address, index (hexadecimal), prefix length, scope, flags and name.
fn scope_of(interface: &str) -> Option<u32> {
    let table = fs::read_to_string("/proc/thread-self/net/if_inet6").ok()?;
    scope_in(&table, interface)
}

fn scope_in(table: &str, interface: &str) -> Option<u32> {
    let mut lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|fields| fields.len() == 6 && fields[5] == interface)?;
    u32::from_str_radix(line[1], 16).ok()
}

/// Whether an address needs an interface to mean anything: such peers can't be configured without one.
#[must_use]
pub const fn needs_interface(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => Ipv6Addr::is_unicast_link_local(v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries until it works out; the kernel's loopback needs no time of ours, only a few calls.
    fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
        for _ in 0..1_000_000 {
            if let Some(done) = attempt() {
                return done;
            }
            std::thread::yield_now();
        }
        unreachable!("never: {what}");
    }

    fn settings(port: u16) -> SyncSettings {
        SyncSettings {
            interface: None,
            second: None,
            port,
            dscp: DSCP,
        }
    }

    /// A listener on a port nobody has.
    fn listening(address: IpAddr) -> (SyncNet, u16) {
        let probe = std::net::TcpListener::bind((address, 0)).unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        (
            SyncNet::listener(settings(port), &[address, address]).unwrap(),
            port,
        )
    }

    const DSCP: u8 = 48;

    /// Marked for the network, and with an end in sight when nothing is acknowledged any more.
    fn assert_prepared(wire: &SyncWire) {
        let remote = wire.0.peer_addr().unwrap().as_socket().unwrap();
        let octet = if remote.is_ipv4() {
            wire.0.tos_v4()
        } else {
            wire.0.tclass_v6()
        };
        assert_eq!(octet.unwrap(), u32::from(DSCP) << 2);
        assert_eq!(wire.0.priority().unwrap(), PRIORITY);
        assert_eq!(wire.0.tcp_user_timeout().unwrap(), Some(DELIVERY_MAX));
        assert!(wire.0.keepalive().unwrap() && wire.0.tcp_nodelay().unwrap());
    }

    fn exchange(ours: IpAddr, theirs: IpAddr) {
        let (mut server, port) = listening(theirs);
        let mut client = SyncNet::connector(settings(port));
        let mut wire = client.connect(ours, theirs).unwrap();
        let mut incoming = eventually("accepted", || server.accept());
        assert_eq!((incoming.local, incoming.remote), (theirs, ours));
        assert_prepared(&wire);
        assert_prepared(&incoming.wire);
        eventually("sent", || (wire.send(b"hello") == Io::Done(5)).then_some(()));
        let mut buffer = [0; 16];
        let got = eventually("received", || match incoming.wire.recv(&mut buffer) {
            Io::Wait => None,
            other => Some(other),
        });
        assert_eq!((got, &buffer[..5]), (Io::Done(5), &b"hello"[..]));
        assert_eq!(incoming.wire.recv(&mut buffer), Io::Wait);
        drop(incoming);
        let end = eventually("closed", || match wire.recv(&mut buffer) {
            Io::Wait => None,
            other => Some(other),
        });
        assert_eq!(end, Io::Closed);
    }

    #[test]
    fn bytes_go_from_a_chosen_source_to_a_chosen_address() {
        exchange("127.0.0.5".parse().unwrap(), "127.0.0.6".parse().unwrap());
    }

    #[test]
    fn ipv6_connections_work_the_same() {
        let loopback: IpAddr = "::1".parse().unwrap();
        if std::net::TcpListener::bind((loopback, 0)).is_ok() {
            exchange(loopback, loopback);
        }
    }

    #[test]
    fn a_refused_connection_fails_instead_of_waiting_for_ever() {
        let (server, port) = listening("127.0.0.7".parse().unwrap());
        drop(server);
        let mut client = SyncNet::connector(settings(port));
        let address = "127.0.0.7".parse().unwrap();
        if let Some(mut wire) = client.connect("127.0.0.5".parse().unwrap(), address) {
            let end = eventually("failed", || match wire.send(b"x") {
                Io::Wait => None,
                other => Some(other),
            });
            assert_eq!(end, Io::Failed);
        }
    }

    #[test]
    fn an_interface_that_does_not_exist_is_an_error_of_listening() {
        let settings = SyncSettings {
            interface: Some("no-such-if".to_owned()),
            second: None,
            port: 0,
            dscp: DSCP,
        };
        assert!(SyncNet::listener(settings, &["127.0.0.8".parse().unwrap()]).is_err());
    }

    #[test]
    fn what_comes_from_a_second_address_goes_by_the_second_interface() {
        let second: IpAddr = "127.0.0.8".parse().unwrap();
        let settings = SyncSettings {
            second: Some(SecondInterface {
                interface: "no-such-if".to_owned(),
                sources: vec![second],
            }),
            ..settings(0)
        };
        let first: IpAddr = "127.0.0.9".parse().unwrap();
        assert_eq!(settings.interface_of(first), None);
        assert_eq!(settings.interface_of(second), Some("no-such-if"));
        assert!(SyncNet::listener(settings.clone(), &[first]).is_ok());
        assert!(SyncNet::listener(settings, &[first, second]).is_err());
    }

    #[test]
    fn the_index_of_an_interface_is_read_from_its_addresses() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe800000000000000000000000000001 1f 40 20 80    sync0\n";
        assert_eq!(scope_in(table, "sync0"), Some(31));
        assert_eq!(scope_in(table, "sync1"), None);
    }
}
