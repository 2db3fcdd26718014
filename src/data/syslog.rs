//! Lines about port blocks, one datagram each, to the local syslog socket or a remote collector.
//!
//! Never waits: what the receiver doesn't take now stays in a bounded queue and is tried again every turn, also when the
//! receiver is restarted meanwhile. A local socket takes ten datagrams by default, a burst of new subscribers makes
//! hundreds. Only what finds the queue full is lost, and counted.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, UNIX_EPOCH};

use dataplane::nat::log::{BlockEvent, format_rfc5424};
use dataplane::time::Instant;

use crate::clock;
use crate::config::Syslog as Target;

/// Facility local0, severity informational (RFC 5424 section 6.2.1).
const PRI: u8 = 16 * 8 + 6;

/// Lines that wait at most: about ten megabytes.
const WAITING_MAX: usize = 32_768;

/// Lines sent in one turn, so that a long queue doesn't keep the agent from everything else.
const LINES_PER_TURN: usize = 256;

/// A receiver that isn't there is looked for this often.
const REOPEN: Duration = Duration::from_millis(200);

/// The sending end.
#[derive(Debug)]
pub(crate) struct Syslog {
    target: Target,
    hostname: String,
    socket: Socket,
    waiting: VecDeque<String>,
    reopen_at: Option<Instant>,
    /// Lines handed to the receiver.
    sent: u64,
    /// Lines that found the queue full.
    lost: u64,
}

/// What became of the lines about port blocks.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLines {
    /// Handed to the receiver.
    pub(crate) sent: u64,
    /// To be handed over.
    pub(crate) waiting: u64,
    /// Found the queue full.
    pub(crate) lost: u64,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    /// Not there; looked for again.
    Closed,
}

impl Syslog {
    pub(crate) fn new(target: Target, hostname: String) -> Self {
        Self {
            target,
            hostname,
            socket: Socket::Closed,
            waiting: VecDeque::new(),
            reopen_at: None,
            sent: 0,
            lost: 0,
        }
    }

    /// Queues the line of an event that happened on the monotonic clock of which it is now `now`.
    pub(crate) fn block(&mut self, event: &BlockEvent, vrf: &str, now: Instant) {
        let wall_ns = clock::wall()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos());
        let unix_ns = wall_ns.saturating_sub(now.since(event.at).as_nanos());
        let unix_ns = u64::try_from(unix_ns).unwrap_or(u64::MAX);
        let mut line = String::new();
        format_rfc5424(&mut line, event, PRI, unix_ns, &self.hostname, vrf);
        self.queue(line);
    }

    fn queue(&mut self, line: String) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(line);
        } else {
            self.lost += 1;
        }
    }

    /// Hands over what the receiver takes; returns how many lines that were.
    pub(crate) fn turn(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        while taken < LINES_PER_TURN
            && let Some(line) = self.waiting.front()
        {
            if matches!(self.socket, Socket::Closed) {
                if self.reopen_at.is_some_and(|at| now < at) {
                    break;
                }
                self.reopen_at = Some(now + REOPEN);
                self.socket = open(&self.target);
            }
            let outcome = match &self.socket {
                Socket::Unix(socket) => socket.send(line.as_bytes()),
                Socket::Udp(socket) => socket.send(line.as_bytes()),
                Socket::Closed => break,
            };
            match outcome {
                Ok(_) => {
                    self.waiting.pop_front();
                    self.sent += 1;
                    taken += 1;
                    self.reopen_at = None;
                }
                // Full now, and still the right one.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Restarted: there may be a new socket behind the old name already.
                Err(_) => self.socket = Socket::Closed,
            }
        }
        taken
    }

    /// What became of the lines so far.
    pub(crate) fn lines(&self) -> LogLines {
        LogLines {
            sent: self.sent,
            waiting: self.waiting.len() as u64,
            lost: self.lost,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver at a path of its own, removed with it.
    struct Receiver(UnixDatagram, String);

    impl Receiver {
        fn at(path: &str) -> Self {
            let _absent = std::fs::remove_file(path);
            let socket = UnixDatagram::bind(path).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self(socket, path.to_owned())
        }

        fn lines(&self) -> Vec<String> {
            let mut buffer = [0; 256];
            let next = || {
                let n = self.0.recv(&mut buffer).ok()?;
                Some(String::from_utf8_lossy(&buffer[..n]).into_owned())
            };
            std::iter::from_fn(next).collect()
        }
    }

    impl Drop for Receiver {
        fn drop(&mut self) {
            let _gone = std::fs::remove_file(&self.1);
        }
    }

    fn path(name: &str) -> String {
        let folder = std::env::temp_dir();
        format!(
            "{}/twinpath-syslog-{}-{name}",
            folder.display(),
            std::process::id()
        )
    }

    #[test]
    fn a_burst_beyond_what_the_receiver_takes_arrives_whole_and_in_order() {
        let path = path("burst");
        let receiver = Receiver::at(&path);
        let mut syslog = Syslog::new(Target::Unix(path), "node1".to_owned());
        let lines: Vec<String> = (0..1_000).map(|n| format!("line {n}")).collect();
        lines.iter().for_each(|line| syslog.queue(line.clone()));
        let mut heard = Vec::new();
        let mut turns = 0;
        while heard.len() < lines.len() {
            syslog.turn(Instant::from_secs(1));
            heard.extend(receiver.lines());
            turns += 1;
            assert!(turns < 10_000, "{} of {} lines", heard.len(), lines.len());
        }
        assert_eq!(heard, lines);
        let all = LogLines {
            sent: 1_000,
            ..LogLines::default()
        };
        assert_eq!(syslog.lines(), all);
    }

    #[test]
    fn lines_wait_for_a_receiver_that_is_restarted() {
        let path = path("restart");
        let mut syslog = Syslog::new(Target::Unix(path.clone()), "node1".to_owned());
        syslog.queue("before its birth".to_owned());
        assert_eq!(syslog.turn(Instant::from_secs(1)), 0);
        let first = Receiver::at(&path);
        assert_eq!(syslog.turn(Instant::from_secs(2)), 1);
        assert_eq!(first.lines(), ["before its birth"]);
        drop(first);
        let second = Receiver::at(&path);
        syslog.queue("after its restart".to_owned());
        assert_eq!(syslog.turn(Instant::from_secs(3)), 1);
        assert_eq!(second.lines(), ["after its restart"]);
    }

    #[test]
    fn what_finds_the_queue_full_is_counted() {
        let mut syslog = Syslog::new(Target::Unix(path("nobody")), "node1".to_owned());
        for _ in 0..WAITING_MAX + 3 {
            syslog.queue(String::new());
        }
        syslog.turn(Instant::from_secs(1));
        let lines = syslog.lines();
        assert_eq!(
            (lines.sent, lines.waiting, lines.lost),
            (0, WAITING_MAX as u64, 3)
        );
    }
}
