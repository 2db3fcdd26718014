//! One protected stream: TLS 1.3 over another stream, driven by whoever reads and writes it. Never blocks.
//!
//! Made with its connection, before the first byte; proves both ends' keys before it takes or gives any; ends with
//! TLS's own end, sent when it is dropped. What arrives is given only after its record was authenticated, so a
//! stream that is broken somewhere gives a prefix of what was sent and then its breach.
//!
//! Memory is bounded: [`TAKE_MAX`] bytes on their way out, [`READ_MAX`] as they came in, and one record of each
//! direction inside the library. Everything that is handed over in one call shares records.

use core::net::IpAddr;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::{AlertDescription, Connection, Error};
use state_sync::wire::{Breach, Io, Wire};

use super::keys::Keyring;

/// Bytes taken before the ones before them have left.
const TAKE_MAX: usize = 64 * 1024;
/// Bytes read at once.
const READ_MAX: usize = 32 * 1024;
/// Reads of one call: what arrives without being data is bounded, too.
const READS_MAX: usize = 16;

/// A stream of a peer that is asked for its key.
#[derive(Debug)]
pub struct TlsWire<W: Wire> {
    wire: W,
    tls: Connection,
    /// Read and not yet looked at: `inbound[head..]`.
    inbound: Vec<u8>,
    head: usize,
    /// How it ended.
    end: Option<Io>,
    breach: Option<Breach>,
    keys: Arc<Keyring>,
    /// State of the keys when the peer's was last found among them.
    generation: u64,
    peer: (IpAddr, IpAddr),
}

impl<W: Wire> TlsWire<W> {
    /// A stream with the peer of these addresses, ours first.
    pub(super) fn new(wire: W, mut tls: Connection, keys: &Arc<Keyring>, peer: (IpAddr, IpAddr)) -> Self {
        tls.set_buffer_limit(Some(2 * TAKE_MAX));
        Self {
            wire,
            tls,
            inbound: Vec::with_capacity(READ_MAX),
            head: 0,
            end: None,
            breach: None,
            // One behind: the first look is at the keys as they are then.
            generation: keys.generation().wrapping_sub(1),
            keys: Arc::clone(keys),
            peer,
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Io {
        let passed = self.flush();
        if matches!(passed, Io::Closed | Io::Failed) {
            return passed;
        }
        if self.tls.is_handshaking() || self.tls.wants_write() {
            return Io::Wait;
        }
        let taken = &bytes[..bytes.len().min(TAKE_MAX)];
        match self.tls.writer().write(taken) {
            Ok(0) => Io::Wait,
            Ok(n) => {
                self.flush();
                Io::Done(n)
            }
            Err(_) => self.fail(None),
        }
    }

    pub(super) fn recv(&mut self, buffer: &mut [u8]) -> Io {
        let mut got = 0;
        for _ in 0..READS_MAX {
            match self.read(&mut buffer[got..]) {
                Io::Done(n) => got += n,
                Io::Wait => {}
                // What was sound is given first; the end is told by the next call.
                end => return if got > 0 { Io::Done(got) } else { end },
            }
            if got == buffer.len() || !self.more() {
                break;
            }
        }
        // Answers of the library itself: its handshake, its alerts.
        self.flush();
        if got > 0 {
            Io::Done(got)
        } else {
            self.end.unwrap_or(Io::Wait)
        }
    }

    pub(super) fn flush(&mut self) -> Io {
        if let Some(end) = self.end {
            return end;
        }
        let mut passed = 0;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Through(&mut self.wire)) {
                Ok(n) => passed += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return if passed > 0 { Io::Done(passed) } else { Io::Wait };
                }
                Err(_) => return self.fail(None),
            }
        }
        Io::Done(passed)
    }

    pub(super) const fn breach(&self) -> Option<Breach> {
        self.breach
    }

    /// Gives what has been authenticated.
    fn read(&mut self, buffer: &mut [u8]) -> Io {
        if let Some(end) = self.end {
            return end;
        }
        if !self.is_trusted() {
            return self.fail(Some(Breach::KeyRemoved));
        }
        match self.tls.reader().read(buffer) {
            Ok(0) => {
                self.end = Some(Io::Closed);
                Io::Closed
            }
            Ok(n) => Io::Done(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Io::Wait,
            Err(_) => self.fail(Some(Breach::Truncated)),
        }
    }

    /// Looks at what has arrived; false when nothing has, or the stream is over.
    fn more(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        if self.head == self.inbound.len() && !self.fill() {
            return false;
        }
        let mut arrived = &self.inbound[self.head..];
        let before = arrived.len();
        let read = self.tls.read_tls(&mut arrived);
        self.head += before - arrived.len();
        match read {
            Ok(_) => self.process(),
            // Full of data that nobody has asked for: it is given first.
            Err(error) if error.kind() == ErrorKind::Other => true,
            // A message larger than any of the protocol's.
            Err(_) => {
                self.fail(Some(Breach::Handshake));
                false
            }
        }
    }

    /// Reads from the stream below, when everything read before has been looked at.
    fn fill(&mut self) -> bool {
        self.inbound.resize(READ_MAX, 0);
        self.head = 0;
        let io = self.wire.recv(&mut self.inbound);
        self.inbound.truncate(if let Io::Done(n) = io { n } else { 0 });
        match io {
            Io::Done(_) => true,
            Io::Wait => false,
            Io::Closed => {
                // The library is told, and says whether it had been announced.
                let _ = self.tls.read_tls(&mut io::empty());
                if self.tls.is_handshaking() {
                    self.fail(None);
                    return false;
                }
                self.process()
            }
            Io::Failed => {
                self.fail(None);
                false
            }
        }
    }

    fn process(&mut self) -> bool {
        let shaking = self.tls.is_handshaking();
        match self.tls.process_new_packets() {
            Ok(_) => true,
            Err(error) => {
                // Whoever is wrong may know why, if it reads.
                self.flush();
                self.fail(breach_of(&error, shaking));
                false
            }
        }
    }

    /// Whether the peer's key is still one of its keys. Asked again only when keys have changed.
    fn is_trusted(&mut self) -> bool {
        let generation = self.keys.generation();
        if generation == self.generation || self.tls.is_handshaking() {
            return true;
        }
        let shown = self.tls.peer_certificates().and_then(|c| c.first());
        let trusted = shown.is_some_and(|key| self.keys.trusts(self.peer, key));
        if trusted {
            self.generation = generation;
        }
        trusted
    }

    fn fail(&mut self, breach: Option<Breach>) -> Io {
        self.end = Some(Io::Failed);
        self.breach = breach;
        Io::Failed
    }
}

impl<W: Wire> Drop for TlsWire<W> {
    fn drop(&mut self) {
        if self.end.is_none() && !self.tls.is_handshaking() {
            self.tls.send_close_notify();
            self.flush();
        }
    }
}

/// What an error of the library means to us.
fn breach_of(error: &Error, shaking: bool) -> Option<Breach> {
    Some(match error {
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Breach::KeyUnknown,
        Error::AlertReceived(alert) => return breach_told(*alert, shaking),
        Error::DecryptError | Error::PeerSentOversizedRecord => Breach::Tampered,
        _ if shaking => Breach::Handshake,
        _ => Breach::Tampered,
    })
}

/// What the other end says was wrong with us.
fn breach_told(alert: AlertDescription, shaking: bool) -> Option<Breach> {
    match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => Some(Breach::KeyRefused),
        AlertDescription::BadRecordMac | AlertDescription::DecryptError => Some(Breach::Tampered),
        _ if shaking => Some(Breach::Handshake),
        _ => None,
    }
}

/// A stream as the library writes to it.
struct Through<'w, W>(&'w mut W);

impl<W: Wire> Write for Through<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.send(bytes) {
            Io::Done(n) => Ok(n),
            Io::Wait => Err(ErrorKind::WouldBlock.into()),
            Io::Closed | Io::Failed => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
