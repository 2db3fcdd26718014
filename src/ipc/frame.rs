//! Frames of the process socket: cut out of a byte stream, checked for size and version, decoded. Both ends
//! use the same reader; a reader that has returned an error is finished, because a stream that lied about a
//! frame can't be cut any further.

use std::io::{ErrorKind, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{IpcError, VERSION};

/// Largest frame, in bytes: a full Internet table of routes fits.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

const HEADER: usize = 4;
const VERSION_BYTES: usize = 2;
const READ_BYTES: usize = 64 << 10;

/// One frame with this message in it.
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

/// Collects bytes until a frame is whole.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameReader {
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

    /// The next whole message, if it is there.
    ///
    /// # Errors
    /// On a frame too large or too short, of another version, or damaged.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, IpcError> {
        let waiting = &self.bytes[self.start..];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(IpcError::TooLarge(length));
        }
        // The version is judged as soon as it is there: a foreign version's length needn't be believed.
        if let Some(version) = rest.first_chunk::<VERSION_BYTES>() {
            let version = u16::from_be_bytes(*version);
            if version != VERSION {
                return Err(IpcError::Version(version));
            }
        }
        if length < VERSION_BYTES {
            return Err(postcard::Error::DeserializeUnexpectedEnd.into());
        }
        let Some(frame) = rest.get(VERSION_BYTES..length) else {
            return Ok(None);
        };
        let (message, left_over) = postcard::take_from_bytes(frame)?;
        if !left_over.is_empty() {
            return Err(postcard::Error::DeserializeBadEncoding.into());
        }
        self.start += HEADER + length;
        Ok(Some(message))
    }
}
