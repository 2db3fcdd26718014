//! The data process's end of the process socket. Lives as long as the data process; never blocks.

use std::os::fd::BorrowedFd;
use std::path::Path;

use ctl::protocol::{Refusal, RefusalKind};

use super::frame::{FRAME_BYTES_MAX, decode, encode};
use super::socket::{ClientId, FrameServer};
use super::{Event, IpcError, Reply, Request, ToControl, ToData, VERSION};

/// An event is left out for a client that has this much unread: the client reads everything anew when it cares.
const EVENT_BACKLOG_BYTES: usize = 1 << 20;

/// Where an answer goes. May be kept and used later; an answer to a client that is gone is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "every request wants one answer"]
pub struct Ticket {
    client: ClientId,
    number: u32,
}

/// A request to answer.
#[derive(Debug)]
pub struct Incoming {
    /// Where the answer goes.
    pub ticket: Ticket,
    /// What is asked.
    pub request: Request,
}

/// Listens, reads requests, writes replies and events.
#[derive(Debug)]
pub struct Server {
    socket: FrameServer,
    events_left_out: u64,
}

impl Server {
    /// Listens on `path`, mode 0660, making its directory. A file left by a dead process is replaced.
    ///
    /// # Errors
    /// When another process answers there, or the path can't be used.
    pub fn bind(path: &Path) -> Result<Self, IpcError> {
        Ok(Self {
            socket: FrameServer::bind(path, FRAME_BYTES_MAX)?,
            events_left_out: 0,
        })
    }

    /// Accepts, writes what waits, and returns the requests that have arrived whole.
    pub fn poll(&mut self) -> Vec<Incoming> {
        let mut incoming = Vec::new();
        for (client, frame) in self.socket.poll() {
            match frame.and_then(|frame| decode(&frame)) {
                Ok(ToData { number, request }) => {
                    incoming.push(Incoming {
                        ticket: Ticket { client, number },
                        request,
                    });
                }
                Err(fault) => self.refuse(client, &fault),
            }
        }
        incoming
    }

    /// Answers a request.
    pub fn reply(&mut self, ticket: Ticket, result: Result<Reply, Refusal>) {
        let number = ticket.number;
        let frame = encode(&ToControl::Reply { number, result }).or_else(|e| {
            let refusal = Refusal::new(RefusalKind::Refused, e.to_string());
            encode(&ToControl::Reply {
                number,
                result: Err(refusal),
            })
        });
        if let Ok(frame) = frame {
            self.socket.send(ticket.client, &frame);
        }
    }

    /// Tells every client. A client with too much unread misses it; see [`Self::events_left_out`].
    pub fn broadcast(&mut self, event: Event) {
        let clients: Vec<_> = self.socket.clients().collect();
        if clients.is_empty() {
            return;
        }
        let Ok(frame) = encode(&ToControl::Event(event)) else {
            return;
        };
        for (client, waiting) in clients {
            if waiting > EVENT_BACKLOG_BYTES {
                self.events_left_out += 1;
            } else {
                self.socket.send(client, &frame);
            }
        }
    }

    /// Events that clients missed because they didn't read.
    #[must_use]
    pub const fn events_left_out(&self) -> u64 {
        self.events_left_out
    }

    /// Clients connected now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.socket.clients().count()
    }

    /// Descriptors to wait on: with true when waiting to write.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.socket.descriptors()
    }

    /// Says why, in a frame of this version, and closes.
    fn refuse(&mut self, client: ClientId, fault: &IpcError) {
        tracing::warn!(%fault, version = VERSION, "closing a client of the process socket");
        let refusal = Refusal::new(RefusalKind::Protocol, fault.to_string());
        if let Ok(frame) = encode(&ToControl::Reply {
            number: 0,
            result: Err(refusal),
        }) {
            self.socket.send(client, &frame);
        }
        self.socket.finish(client);
    }
}
