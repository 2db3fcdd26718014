//! The operator's socket: frames in, [`Command`]s out; results in, frames out. Knows nothing of what a command means.

use std::os::fd::BorrowedFd;
use std::path::Path;

use ctl::protocol::{
    Command, FRAME_BYTES_MAX, ProtocolError, Refusal, RefusalKind, Reply, decode_request, encode_response,
};

use crate::ipc::{ClientId, FrameServer, IpcError, frame_of};

/// Serves operators.
#[derive(Debug)]
pub struct CtlServer {
    socket: FrameServer,
}

impl CtlServer {
    /// Listens on `path`.
    ///
    /// # Errors
    /// When another process answers there, or the path can't be used.
    pub fn bind(path: &Path) -> Result<Self, IpcError> {
        Ok(Self {
            socket: FrameServer::bind(path, FRAME_BYTES_MAX)?,
        })
    }

    /// Answers every command that has arrived.
    pub fn turn(&mut self, mut answer: impl FnMut(Command) -> Result<Reply, Refusal>) {
        for (client, frame) in self.socket.poll() {
            let command = frame
                .map_err(|e| e.to_string())
                .and_then(|frame| decode_request(&frame).map_err(|e: ProtocolError| e.to_string()));
            match command {
                Ok(command) => self.send(client, &answer(command)),
                Err(fault) => {
                    self.send(client, &Err(Refusal::new(RefusalKind::Protocol, fault)));
                    self.socket.finish(client);
                }
            }
        }
    }

    fn send(&mut self, client: ClientId, result: &Result<Reply, Refusal>) {
        let json = encode_response(result).or_else(|e| {
            // Only a page far too long can get here.
            encode_response(&Err(Refusal::new(RefusalKind::Refused, e.to_string())))
        });
        let frame = json.ok().and_then(|json| frame_of(&json).ok());
        if let Some(frame) = frame {
            self.socket.send(client, &frame);
        }
    }

    /// Descriptors to wait on: with true when waiting to write.
    pub fn descriptors(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.socket.descriptors()
    }
}
