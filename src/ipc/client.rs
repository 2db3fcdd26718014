//! The control process's end of the process socket: asks one thing at a time and collects the events that come
//! in between. Lives from connect to the first error; then the owner drops it and connects again.

use std::collections::VecDeque;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::frame::{FRAME_BYTES_MAX, FrameReader, encode};
use super::{Event, IpcError, Reply, Request, ToControl, ToData};

const EVENTS_MAX: usize = 4_096;
/// One wait for bytes; a call waits this often before it gives up.
const WAIT: Duration = Duration::from_millis(100);

/// A connection to the data process.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    reader: FrameReader,
    number: u32,
    waits_max: u32,
    events: VecDeque<Event>,
    boot: u64,
}

impl Client {
    /// Connects and exchanges versions. `patience`: how long one answer may take.
    ///
    /// # Errors
    /// When nobody listens, or it is another version or node.
    pub fn connect(path: &Path, node: &str, patience: Duration) -> Result<Self, IpcError> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(patience.max(WAIT)))?;
        let waits_max = u32::try_from(patience.as_millis() / WAIT.as_millis())
            .unwrap_or(u32::MAX)
            .max(1);
        let mut client = Self {
            stream,
            reader: FrameReader::new(FRAME_BYTES_MAX),
            number: 0,
            waits_max,
            events: VecDeque::new(),
            boot: 0,
        };
        match client.call(Request::Hello {
            node: node.to_owned(),
        })? {
            Reply::Hello { boot } => client.boot = boot,
            _ => return Err(IpcError::WrongReply),
        }
        Ok(client)
    }

    /// Number the data process drew at its start.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Readable when an event has come.
    #[must_use]
    pub fn readable(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`IpcError::Refused`] leaves the connection usable; after any other error it must be dropped.
    pub fn call(&mut self, request: Request) -> Result<Reply, IpcError> {
        self.number = self.number.wrapping_add(1).max(1);
        let wanted = self.number;
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(WAIT))?;
        self.stream.write_all(&encode(&ToData {
            number: wanted,
            request,
        })?)?;
        let mut waits = 0;
        loop {
            while let Some(message) = self.reader.message()? {
                match message {
                    ToControl::Event(event) => self.keep(event),
                    // Number 0 is the server's word before it closes.
                    ToControl::Reply { number, result } if number == wanted || number == 0 => {
                        return Ok(result?);
                    }
                    ToControl::Reply { .. } => {}
                }
            }
            if !self.reader.read_from(&mut self.stream)? {
                waits += 1;
                if waits >= self.waits_max {
                    return Err(IpcError::TimedOut);
                }
            }
        }
    }

    /// Hands over the events that have come, without waiting.
    ///
    /// # Errors
    /// When the connection is over.
    pub fn poll(&mut self, mut on_event: impl FnMut(Event)) -> Result<(), IpcError> {
        self.stream.set_nonblocking(true)?;
        while self.reader.read_from(&mut self.stream)? {
            while let Some(message) = self.reader.message()? {
                if let ToControl::Event(event) = message {
                    self.keep(event);
                }
            }
        }
        self.events.drain(..).for_each(&mut on_event);
        Ok(())
    }

    /// Bounded: when nobody polls, the oldest events go.
    fn keep(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
