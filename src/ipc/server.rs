//! The data process's end of the process socket. Never blocks: [`Server::poll`] does what can be done now, answers
//! wait in a bounded buffer per client until the socket takes them. A client that breaks the rules or doesn't
//! read is closed; nobody else notices.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use ctl::protocol::{Refusal, RefusalKind};

use super::frame::{FRAME_BYTES_MAX, FrameReader, encode};
use super::{Event, IpcError, Reply, Request, ToControl, ToData, VERSION};

const CLIENTS_MAX: usize = 8;
/// An event is left out for a client that has this much unread: the client reads everything anew when it cares.
const EVENT_BACKLOG_BYTES: usize = 1 << 20;
const BACKLOG_BYTES_MAX: usize = FRAME_BYTES_MAX + (1 << 20);
const READS_PER_POLL: usize = 64;

/// A connected client, unique for the life of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientId(u64);

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
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Connection>,
    next_id: u64,
    events_left_out: u64,
}

#[derive(Debug)]
struct Connection {
    id: ClientId,
    stream: UnixStream,
    reader: FrameReader,
    out: Vec<u8>,
    written: usize,
    /// Close once `out` is written.
    closing: bool,
}

impl Server {
    /// Listens on `path`, mode 0660, making its directory. A file left by a dead process is replaced.
    ///
    /// # Errors
    /// When another process answers there, or the path can't be used.
    pub fn bind(path: &Path) -> Result<Self, IpcError> {
        let listener = claim_socket(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            clients: Vec::new(),
            next_id: 0,
            events_left_out: 0,
        })
    }

    /// Accepts, writes what waits, and returns the requests that have arrived whole.
    pub fn poll(&mut self) -> Vec<Incoming> {
        self.accept();
        let mut incoming = Vec::new();
        self.clients.retain_mut(|client| client.turn(&mut incoming));
        incoming
    }

    /// Answers a request.
    pub fn reply(&mut self, ticket: Ticket, result: Result<Reply, Refusal>) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == ticket.client) else {
            return;
        };
        let number = ticket.number;
        let frame = encode(&ToControl::Reply { number, result }).or_else(|e| {
            let refusal = Refusal::new(RefusalKind::Refused, e.to_string());
            encode(&ToControl::Reply {
                number,
                result: Err(refusal),
            })
        });
        if let Ok(frame) = frame {
            client.queue(&frame);
        }
    }

    /// Tells every client. A client with too much unread misses it; see [`Self::events_left_out`].
    pub fn broadcast(&mut self, event: Event) {
        if self.clients.is_empty() {
            return;
        }
        let Ok(frame) = encode(&ToControl::Event(event)) else {
            return;
        };
        for client in &mut self.clients {
            if client.out.len() - client.written > EVENT_BACKLOG_BYTES {
                self.events_left_out += 1;
            } else {
                client.queue(&frame);
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
        self.clients.len()
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = ClientId(self.next_id);
            self.next_id += 1;
            self.clients.push(Connection {
                id,
                stream,
                reader: FrameReader::default(),
                out: Vec::new(),
                written: 0,
                closing: false,
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only a file of ours can be there: another process would have been refused.
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

impl Connection {
    /// Reads and writes what is possible; false when the client is to be forgotten.
    fn turn(&mut self, incoming: &mut Vec<Incoming>) -> bool {
        if !self.closing {
            match self.read(incoming) {
                Ok(()) => {}
                Err(IpcError::Closed | IpcError::Io(_)) => return false,
                Err(fault) => self.refuse(&fault),
            }
        }
        self.flush() && !(self.closing && self.out.is_empty())
    }

    fn read(&mut self, incoming: &mut Vec<Incoming>) -> Result<(), IpcError> {
        for _ in 0..READS_PER_POLL {
            let more = self.reader.read_from(&mut self.stream)?;
            while let Some(ToData { number, request }) = self.reader.message()? {
                incoming.push(Incoming {
                    ticket: Ticket {
                        client: self.id,
                        number,
                    },
                    request,
                });
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Says why, in a frame of this version, and closes.
    fn refuse(&mut self, fault: &IpcError) {
        tracing::warn!(%fault, version = VERSION, "closing a client of the process socket");
        let refusal = Refusal::new(RefusalKind::Protocol, fault.to_string());
        if let Ok(frame) = encode(&ToControl::Reply {
            number: 0,
            result: Err(refusal),
        }) {
            self.queue(&frame);
        }
        self.closing = true;
    }

    fn queue(&mut self, frame: &[u8]) {
        if self.written > 0 {
            self.out.drain(..self.written);
            self.written = 0;
        }
        if self.out.len() + frame.len() > BACKLOG_BYTES_MAX {
            self.out.clear();
            self.closing = true;
            return;
        }
        self.out.extend_from_slice(frame);
        // Tried at once, so that an answer doesn't wait for the next poll; a failure is found there again.
        self.flush();
    }

    /// False when the socket is broken.
    fn flush(&mut self) -> bool {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return false,
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.out.clear();
        self.written = 0;
        true
    }
}

/// Listens on a socket file: makes its directory (mode 0750), replaces a file that nobody answers, mode 0660.
///
/// # Errors
/// [`IpcError::InUse`] when a process answers there; else what the system says.
pub fn claim_socket(path: &Path) -> Result<UnixListener, IpcError> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(parent)?;
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(IpcError::InUse(path.to_owned())),
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e.into()),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}
