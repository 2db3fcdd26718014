//! How a lane comes up: it connects, says who it is, and reads who has answered.

use super::{Lane, State};
use crate::cause::Cause;
use crate::config::SyncLink;
use crate::conn::Conn;
use crate::hello::{
    Answer, FEATURES, Hello, MAGIC_ANSWER, Preface, PrefaceError, VERSIONS, decode_answer, encode_hello,
};
use crate::peering::Peering;
use crate::port::{End, PumpEvent};
use crate::shared::Shared;
use crate::wire::{Net, Wire};

impl<W: Wire> Lane<W> {
    /// Begins a connection over the link whose turn it is, with an incarnation of its own.
    pub(super) fn connect(&mut self, s: &mut Shared, net: &mut impl Net<Wire = W>) -> Result<usize, Cause> {
        self.tag.incarnation = self.tag.incarnation.wrapping_add(1).max(1);
        let SyncLink { source, address } = self.links[self.link];
        let wire = net.connect(source, address).ok_or(Cause::ConnectFailed)?;
        let conn = Box::new(Conn::new(wire, &encode_hello(&self.hello(s)), true, s.now));
        self.state = State::Greeting {
            conn,
            answer: Preface::new(MAGIC_ANSWER),
            since: s.now,
        };
        Ok(1)
    }

    fn hello(&self, s: &Shared) -> Hello {
        Hello {
            versions: VERSIONS,
            features: FEATURES,
            node_id: s.config.node_id,
            lane: self.tag.lane,
            lanes: u8::try_from(s.config.events).unwrap_or(u8::MAX),
            incarnation: self.tag.incarnation,
            boot_id: s.config.boot_id,
            node_name: s.config.node_name.clone(),
        }
    }

    /// Waits for the answer, so long as the peer may take for it.
    pub(super) fn greet(&mut self, s: &mut Shared) -> Result<usize, Cause> {
        let State::Greeting { conn, answer, since } = &mut self.state else {
            return Ok(0);
        };
        conn.flush(s.now)
            .map_err(|_| conn.wire.breach().map_or(Cause::ConnectFailed, Cause::from))?;
        let Some(body) = answer.poll(&mut conn.wire)? else {
            return if s.now.since(*since) >= s.config.timing.hello {
                Err(Cause::HelloTimeout)
            } else {
                Ok(0)
            };
        };
        let answer = decode_answer(body).map_err(|_| Cause::HelloMalformed)?;
        judge(&answer, s.config.node_id)?;
        self.up(s, &answer);
        Ok(1)
    }

    fn up(&mut self, s: &mut Shared, answer: &Answer) {
        let State::Greeting { mut conn, .. } =
            core::mem::replace(&mut self.state, State::Down { until: s.now })
        else {
            return;
        };
        conn.wake(s.now);
        let mut peering = Peering::new(self.tag.peer, answer.features, &s.sections);
        peering.open_all(&mut conn, &s.config, &s.own, s.now);
        self.state = State::Up {
            conn,
            peering,
            node: answer.node_id,
            acked: 0,
        };
        self.attempts = 0;
        let link = link_number(self.link);
        if self.report.link != link {
            self.report.link_changes += u64::from(self.report.link != 0);
            self.report.link = link;
        }
        s.changed = true;
        s.tell(PumpEvent::LaneUp {
            peer: self.tag.peer,
            lane: self.tag.lane,
            end: End::Client,
        });
    }
}

/// As operators count them: 1 is the first.
fn link_number(link: usize) -> u8 {
    u8::try_from(link + 1).unwrap_or(u8::MAX)
}

fn judge(answer: &Answer, own: u8) -> Result<(), Cause> {
    if answer.status != 0 || !(VERSIONS.0..=VERSIONS.1).contains(&answer.version) {
        Err(Cause::RejectedByPeer)
    } else if answer.node_id == own {
        Err(Cause::NodeIdRejected)
    } else {
        Ok(())
    }
}

impl From<PrefaceError> for Cause {
    fn from(error: PrefaceError) -> Self {
        match error {
            PrefaceError::Magic => Self::WrongMagic,
            PrefaceError::Oversized | PrefaceError::Check => Self::HelloMalformed,
            PrefaceError::Gone(breach) => breach.map_or(Self::HelloGone, Self::from),
        }
    }
}
