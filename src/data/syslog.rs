//! Lines about port blocks, one datagram each, to the local syslog socket or a remote collector. Never waits: a
//! receiver that doesn't keep up costs lines, which are counted, and nothing else.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::UNIX_EPOCH;

use dataplane::nat::log::{BlockEvent, format_rfc5424};
use dataplane::time::Instant;

use crate::clock;
use crate::config::Syslog as Target;

/// Facility local0, severity informational (RFC 5424 section 6.2.1).
const PRI: u8 = 16 * 8 + 6;

/// The sending end.
#[derive(Debug)]
pub(crate) struct Syslog {
    target: Target,
    hostname: String,
    socket: Socket,
    line: String,
    /// Lines handed to the receiver.
    pub(crate) sent: u64,
    /// Lines the receiver did not take.
    pub(crate) lost: u64,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    /// Could not be opened; tried again with the next line.
    Closed,
}

impl Syslog {
    pub(crate) fn new(target: Target, hostname: String) -> Self {
        Self {
            target,
            hostname,
            socket: Socket::Closed,
            line: String::new(),
            sent: 0,
            lost: 0,
        }
    }

    /// Sends the line of an event that happened on the monotonic clock of which it is now `now`.
    pub(crate) fn block(&mut self, event: &BlockEvent, vrf: &str, now: Instant) {
        let wall_ns = clock::wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos());
        let unix_ns = wall_ns.saturating_sub(now.since(event.at).as_nanos());
        self.line.clear();
        let unix_ns = u64::try_from(unix_ns).unwrap_or(u64::MAX);
        format_rfc5424(&mut self.line, event, PRI, unix_ns, &self.hostname, vrf);
        // A receiver that was restarted has a new socket behind the old name: no line need be lost for that.
        if self.send() || self.send() {
            self.sent += 1;
        } else {
            self.lost += 1;
        }
    }

    fn send(&mut self) -> bool {
        if matches!(self.socket, Socket::Closed) {
            self.socket = open(&self.target);
        }
        let line = self.line.as_bytes();
        let outcome = match &self.socket {
            Socket::Unix(socket) => socket.send(line),
            Socket::Udp(socket) => socket.send(line),
            Socket::Closed => return false,
        };
        // A full receiver is still the right one.
        if outcome.as_ref().is_err_and(|e| e.kind() != ErrorKind::WouldBlock) {
            self.socket = Socket::Closed;
        }
        outcome.is_ok()
    }
}

fn open(target: &Target) -> Socket {
    match target {
        Target::Unix(path) => unix(path).map_or(Socket::Closed, Socket::Unix),
        Target::Udp(address) => udp(*address).map_or(Socket::Closed, Socket::Udp),
    }
}

fn unix(path: &str) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn udp(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
