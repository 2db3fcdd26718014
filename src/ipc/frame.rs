//! Frames of both Unix sockets: a length (u32, big endian) and that many bytes. Inside, the process socket has a
//! version and postcard, the operator's socket has JSON. A reader that has returned an error is finished,
//! because a stream that lied about a frame can't be cut any further.

use std::io::{ErrorKind, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{IpcError, VERSION};

/// Largest frame of the process socket, in bytes: a full Internet table of routes fits.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const HEADER: usize = 4;
const READ_BYTES: usize = 64 << 10;

/// A frame with these bytes in it.
///
/// # Errors
/// When they are more than a frame can hold.
pub fn frame_of(bytes: &[u8]) -> Result<Vec<u8>, IpcError> {
    let length = u32::try_from(bytes.len()).map_err(|_| IpcError::TooLarge(bytes.len()))?;
    let mut frame = Vec::with_capacity(HEADER + bytes.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    Ok(frame)
}

/// A frame of the process socket with this message in it.
///
/// # Errors
/// When the message is larger than a frame may be.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, IpcError> {
    let mut frame = vec![0_u8; HEADER];
    frame.extend_from_slice(&VERSION.to_be_bytes());
    let mut frame = postcard::to_extend(message, frame)?;
    let length = frame.len() - HEADER;
    if length > FRAME_BYTES_MAX {
        return Err(IpcError::TooLarge(length));
    }
    let length = u32::try_from(length).map_err(|_| IpcError::TooLarge(length))?;
    frame[..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// The message in a frame of the process socket.
///
/// # Errors
/// When it is of another version or damaged.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, IpcError> {
    let (version, body) = frame
        .split_first_chunk()
        .ok_or(IpcError::Malformed(postcard::Error::DeserializeUnexpectedEnd))?;
    let version = u16::from_be_bytes(*version);
    if version != VERSION {
        return Err(IpcError::Version(version));
    }
    let (message, left_over) = postcard::take_from_bytes(body)?;
    if !left_over.is_empty() {
        return Err(postcard::Error::DeserializeBadEncoding.into());
    }
    Ok(message)
}

/// Collects bytes until a frame is whole.
#[derive(Debug)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
    frame_bytes_max: usize,
}

impl FrameReader {
    /// A reader that refuses larger frames.
    #[must_use]
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            frame_bytes_max,
        }
    }

    /// Takes bytes that came from the stream.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start * 2 >= self.bytes.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Reads once from the stream. `Ok(true)`: got something; `Ok(false)`: nothing there now.
    ///
    /// # Errors
    /// When the stream fails or has ended.
    pub fn read_from(&mut self, stream: &mut impl Read) -> Result<bool, IpcError> {
        let mut buffer = [0_u8; READ_BYTES];
        match stream.read(&mut buffer) {
            Ok(0) => Err(IpcError::Closed),
            Ok(n) => {
                self.extend(&buffer[..n]);
                Ok(true)
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) =>
            {
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The bytes of the next whole frame, if it is there.
    ///
    /// # Errors
    /// On a frame that is too large.
    pub fn frame(&mut self) -> Result<Option<&[u8]>, IpcError> {
        let waiting = &self.bytes[self.start..];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > self.frame_bytes_max {
            return Err(IpcError::TooLarge(length));
        }
        let frame = rest.get(..length);
        if frame.is_some() {
            self.start += HEADER + length;
        }
        Ok(frame)
    }

    /// The next whole message of the process socket, if it is there.
    ///
    /// # Errors
    /// On a frame too large or too short, of another version, or damaged.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, IpcError> {
        self.frame()?.map(decode).transpose()
    }
}
