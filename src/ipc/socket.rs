//! A Unix socket that serves frames to several clients without ever blocking: [`FrameServer::poll`] does what can
//! be done now, answers wait in a bounded buffer per client until the socket takes them. A client that breaks
//! the rules or doesn't read is closed; nobody else notices.

use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::IpcError;
use super::frame::FrameReader;

const CLIENTS_MAX: usize = 32;
const READS_PER_POLL: usize = 64;
/// What may wait for a client beyond one largest frame.
const BACKLOG_SPARE_BYTES: usize = 1 << 20;

/// A connected client, unique for the life of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

/// Listens, cuts what arrives into frames, writes frames.
#[derive(Debug)]
pub struct FrameServer {
    listener: UnixListener,
    path: PathBuf,
    clients: Vec<Connection>,
    next_id: u64,
    frame_bytes_max: usize,
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

/// What a client has sent: a frame, or a fault after which nothing of it is read any more.
pub type Arrived = (ClientId, Result<Vec<u8>, IpcError>);

impl FrameServer {
    /// Listens on `path`, mode 0660, making its directory. A file left by a dead process is replaced.
    ///
    /// # Errors
    /// When another process answers there, or the path can't be used.
    pub fn bind(path: &Path, frame_bytes_max: usize) -> Result<Self, IpcError> {
        let listener = claim_socket(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            clients: Vec::new(),
            next_id: 0,
            frame_bytes_max,
        })
    }

    /// Accepts, writes what waits, and returns the frames that have arrived whole.
    pub fn poll(&mut self) -> Vec<Arrived> {
        self.accept();
        let mut arrived = Vec::new();
        self.clients.retain_mut(|client| client.turn(&mut arrived));
        arrived
    }

    /// Sends a frame; a client that is gone is no error.
    pub fn send(&mut self, client: ClientId, frame: &[u8]) {
        let backlog_max = self.frame_bytes_max + BACKLOG_SPARE_BYTES;
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == client) {
            client.queue(frame, backlog_max);
        }
    }

    /// Reads nothing more of this client, and closes it once it has got what it was sent.
    pub fn finish(&mut self, client: ClientId) {
        if let Some(client) = self.clients.iter_mut().find(|c| c.id == client) {
            client.closing = true;
        }
        self.clients.retain(|c| !c.is_finished());
    }

    /// Connected clients, with the bytes that wait for each.
    pub fn clients(&self) -> impl Iterator<Item = (ClientId, usize)> + '_ {
        self.clients.iter().map(|c| (c.id, c.waiting()))
    }

    /// Descriptors to wait on: with true when waiting to write.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        let clients = self.clients.iter().map(|c| (c.stream.as_fd(), c.waiting() > 0));
        std::iter::once((self.listener.as_fd(), false)).chain(clients)
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            // One too many, or of no use: closed by dropping it.
            if self.clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = ClientId(self.next_id);
            self.next_id += 1;
            let reader = FrameReader::new(self.frame_bytes_max);
            self.clients.push(Connection {
                id,
                stream,
                reader,
                out: Vec::new(),
                written: 0,
                closing: false,
            });
        }
    }
}

impl Drop for FrameServer {
    fn drop(&mut self) {
        // Only a file of ours can be there: another process would have been refused.
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

impl Connection {
    /// Reads and writes what is possible; false when the client is to be forgotten.
    fn turn(&mut self, arrived: &mut Vec<Arrived>) -> bool {
        if !self.closing {
            match self.read(arrived) {
                Ok(()) => {}
                Err(IpcError::Closed | IpcError::Io(_)) => return false,
                Err(fault) => {
                    // Left open, so that the owner can say why before it finishes the client.
                    self.closing = true;
                    arrived.push((self.id, Err(fault)));
                    return true;
                }
            }
        }
        self.flush() && !self.is_finished()
    }

    fn read(&mut self, arrived: &mut Vec<Arrived>) -> Result<(), IpcError> {
        for _ in 0..READS_PER_POLL {
            let more = self.reader.read_from(&mut self.stream)?;
            while let Some(frame) = self.reader.frame()? {
                arrived.push((self.id, Ok(frame.to_vec())));
            }
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn queue(&mut self, frame: &[u8], backlog_max: usize) {
        self.out.drain(..self.written);
        self.written = 0;
        if self.out.len() + frame.len() > backlog_max {
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

    const fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    const fn is_finished(&self) -> bool {
        self.closing && self.out.is_empty()
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
