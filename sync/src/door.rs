//! Where connections of peers come in: event thread 0 asks the network for them, reads their HELLO and hands
//! them to the event thread of their lane. Strangers, babble, slowness and crowds end here, each with its cause.

use core::time::Duration;

use dataplane::time::Instant;

use crate::cause::Cause;
use crate::config::{CONTROL_LANE, SyncConfig};
use crate::hello::{
    Answer, FEATURES, Hello, MAGIC_HELLO, Preface, Rejection, VERSIONS, decode_hello, encode_answer,
};
use crate::pace::Pace;
use crate::port::{Arrival, PumpEvent};
use crate::shared::Shared;
use crate::wire::{Incoming, Net, Wire};

/// Handshakes of one peer served at once: another peer's are never kept out by them.
const HANDSHAKES_MAX: usize = 64;
/// Connections taken per turn.
const ACCEPTS_MAX: usize = 16;
/// Handshakes of one peer in a burst: enough for all its lanes after a long cut, each of them trying thrice.
const PACE_BURST: u32 = 256;
/// Time in which one more is allowed. A handshake with keys costs some 100 µs.
const PACE: Duration = Duration::from_millis(8);

/// Pause after a look that found no connection: the kernel makes a socket before it sees that there is none to give.
const LOOK_PAUSE: Duration = Duration::from_micros(100);

/// Connections whose HELLO is not complete.
#[derive(Debug)]
pub(crate) struct Door<W> {
    /// When to ask the network next.
    look_at: Instant,
    waiting: Vec<Waiting<W>>,
    /// By peer.
    paces: Vec<Pace>,
}

#[derive(Debug)]
struct Waiting<W> {
    wire: W,
    peer: u8,
    preface: Preface,
    since: Instant,
}

impl<W: Wire> Door<W> {
    pub(crate) fn new(config: &SyncConfig) -> Self {
        let (peers, full) = (
            config.peers.len(),
            Pace::new(PACE_BURST, PACE, Instant::default()),
        );
        Self {
            look_at: Instant::default(),
            waiting: Vec::with_capacity(peers * HANDSHAKES_MAX),
            paces: vec![full; peers],
        }
    }

    /// Takes connections, reads HELLOs; gives those that are complete and acceptable.
    pub(crate) fn turn(&mut self, s: &mut Shared, net: &mut impl Net<Wire = W>) -> Vec<Arrival<W>> {
        if s.now >= self.look_at {
            for _ in 0..ACCEPTS_MAX {
                let Some(incoming) = net.accept() else {
                    self.look_at = s.now + LOOK_PAUSE;
                    break;
                };
                self.admit(s, incoming);
            }
        }
        let mut arrivals = Vec::new();
        let mut n = 0;
        while n < self.waiting.len() {
            match self.waiting[n].poll(s) {
                Ok(None) => n += 1,
                Ok(Some(hello)) => {
                    let Waiting { wire, peer, .. } = self.waiting.swap_remove(n);
                    arrivals.push(Arrival { wire, peer, hello });
                }
                Err(cause) => {
                    self.waiting.swap_remove(n);
                    s.refuse(cause);
                }
            }
        }
        arrivals
    }

    fn admit(&mut self, s: &mut Shared, incoming: Incoming<W>) {
        let Some(peer) = peer_of(&s.config, &incoming) else {
            return s.refuse(Cause::UnknownAddress);
        };
        if self.waiting.iter().filter(|w| w.peer == peer).count() >= HANDSHAKES_MAX {
            return s.refuse(Cause::HandshakesFull);
        }
        let pace = &mut self.paces[usize::from(peer)];
        if !pace.allows(s.now) {
            return s.refuse(Cause::HandshakesTooFast);
        }
        pace.spend(1);
        let (wire, since) = (incoming.wire, s.now);
        self.waiting.push(Waiting {
            wire,
            peer,
            preface: Preface::new(MAGIC_HELLO),
            since,
        });
    }
}

/// A peer is known by both addresses of the connection.
fn peer_of<W>(config: &SyncConfig, incoming: &Incoming<W>) -> Option<u8> {
    let at = config.peers.iter().position(|p| {
        p.links()
            .any(|link| (link.source, link.address) == (incoming.local, incoming.remote))
    });
    at.and_then(|n| u8::try_from(n).ok())
}

impl<W: Wire> Waiting<W> {
    fn poll(&mut self, s: &Shared) -> Result<Option<Hello>, Cause> {
        let Some(body) = self.preface.poll(&mut self.wire)? else {
            let late = s.now.since(self.since) >= s.config.timing.hello;
            return if late { Err(Cause::HelloTimeout) } else { Ok(None) };
        };
        let hello = decode_hello(body).map_err(|_| Cause::HelloMalformed)?;
        match judge(&hello, &s.config) {
            None => Ok(Some(hello)),
            Some((rejection, cause)) => {
                let answer = Answer {
                    status: rejection as u8,
                    version: VERSIONS.1,
                    features: FEATURES,
                    node_id: s.config.node_id,
                    boot_id: s.config.boot_id,
                    node_name: s.config.node_name.clone(),
                };
                // One try: whoever is rejected and reads slowly is told nothing.
                let _ = self.wire.send(&encode_answer(&answer));
                Err(cause)
            }
        }
    }
}

/// What is wrong with a HELLO, if anything.
fn judge(hello: &Hello, config: &SyncConfig) -> Option<(Rejection, Cause)> {
    if hello.versions.0 > VERSIONS.1 || hello.versions.1 < VERSIONS.0 {
        Some((Rejection::Version, Cause::VersionRejected))
    } else if hello.node_id == config.node_id || hello.node_id == 0 {
        Some((Rejection::NodeId, Cause::NodeIdRejected))
    } else if hello.lanes == 0 || (hello.lane >= hello.lanes && hello.lane != CONTROL_LANE) {
        Some((Rejection::Lane, Cause::LaneRejected))
    } else {
        None
    }
}

impl Shared {
    pub(crate) fn refuse(&mut self, cause: Cause) {
        self.count(cause);
        self.tell(PumpEvent::Refused { reason: cause.name() });
    }
}
