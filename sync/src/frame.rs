//! Frames: the unit of checking, of sequence and of acknowledgement (sync/PROTOCOL.md section 4).
//!
//! ```text
//! 0        4        8                 16
//! | check  | length | sequence        | records …            |
//! ```
//!
//! [`Outbox`] builds frames in the buffer from which the connection sends them; [`Inbox`] holds received bytes
//! and lends out one record at a time, so that a receiver may stop in the middle of a frame and go on later.

use crate::record::{measure, takes_credit};
use crate::tally::Tally;
use crate::wire::{Io, Wire};
use dataplane::time::Instant;

/// Bytes in front of a frame's records.
pub(crate) const HEADER: usize = 16;
/// Most bytes of records in a frame (R-11).
pub(crate) const PAYLOAD_MAX: usize = 65_536;
/// A frame of this size is closed without waiting for more: a receiver can't begin with a frame before it has all of it.
const PAYLOAD_TARGET: usize = 4_096;
/// From here on an outbox asks for patience; control records still fit up to the hard limit.
const OUTBOX_SOFT: usize = 256 * 1024;
const OUTBOX_HARD: usize = 1024 * 1024;
const INBOX: usize = 2 * (HEADER + PAYLOAD_MAX);

/// What is wrong with received bytes. Each of them ends the connection, and no record of the frame was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// Longer than [`PAYLOAD_MAX`].
    Oversized,
    /// The check doesn't match.
    Check,
    /// Not the next sequence number: replayed, lost or reordered.
    Sequence,
    /// Lengths of records don't add up to the frame's.
    Records,
}

/// Bytes on their way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes the network has taken.
    taken: usize,
    /// Where the frame being built starts; everything before it may be sent.
    open: Option<usize>,
    opened: Instant,
    sequence: u64,
    records: u64,
    /// Records that count against the receiver's credit.
    items: u64,
    bytes_sent: u64,
    /// What was put in, by type.
    pub(crate) tally: Tally,
}

impl Outbox {
    /// `preface` goes out first, unframed.
    pub(crate) fn new(preface: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(OUTBOX_SOFT + PAYLOAD_MAX);
        bytes.extend_from_slice(preface);
        Self {
            bytes,
            taken: 0,
            open: None,
            opened: Instant::default(),
            sequence: 0,
            records: 0,
            items: 0,
            bytes_sent: 0,
            tally: Tally::default(),
        }
    }

    /// Sequence number of the last closed frame.
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records put in so far, those of the open frame included.
    pub(crate) const fn records(&self) -> u64 {
        self.records
    }

    /// Records put in so far that count against the receiver's credit (R-40).
    pub(crate) const fn items(&self) -> u64 {
        self.items
    }

    /// Bytes the network has taken since the beginning.
    pub(crate) const fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Bytes that wait.
    pub(crate) const fn queued(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Whether bulk should wait.
    pub(crate) const fn is_full(&self) -> bool {
        self.queued() >= OUTBOX_SOFT
    }

    /// Whether not even control records fit: the other end has stopped reading.
    pub(crate) const fn is_overflowing(&self) -> bool {
        self.queued() >= OUTBOX_HARD
    }

    /// Puts one record in, opening a frame if none is open; gives the record's bytes on the wire.
    pub(crate) fn put(&mut self, now: Instant, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        if self.open.is_none() {
            self.open = Some(self.bytes.len());
            self.opened = now;
            self.bytes.extend_from_slice(&[0; HEADER]);
        }
        let before = self.bytes.len();
        write(&mut self.bytes);
        self.records += 1;
        let length = self.bytes.len() - before;
        let mut written = &self.bytes[before..];
        // A change may need the slot's version in front of it.
        while let Some((_, end)) = measure(written) {
            self.tally.count(written[0], end);
            self.items += u64::from(takes_credit(written[0]));
            written = &written[end..];
        }
        length
    }

    /// As [`Self::put`], for what is said again and again on an idle connection and is no progress to count.
    pub(crate) fn put_aside(&mut self, now: Instant, write: impl FnOnce(&mut Vec<u8>)) {
        self.put(now, write);
        self.records -= 1;
    }

    /// Whether the open frame needs no more company.
    pub(crate) fn is_large(&self) -> bool {
        self.open
            .is_some_and(|start| self.bytes.len() - start >= PAYLOAD_TARGET)
    }

    /// When the open frame got its first record.
    pub(crate) fn opened(&self) -> Option<Instant> {
        self.open.map(|_| self.opened)
    }

    /// Closes the open frame; gives its sequence number.
    pub(crate) fn close(&mut self) -> Option<u64> {
        let start = self.open.take()?;
        self.sequence += 1;
        let frame = &mut self.bytes[start..];
        let length = u32::try_from(frame.len() - HEADER).unwrap_or(u32::MAX);
        frame[4..8].copy_from_slice(&length.to_be_bytes());
        frame[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        let check = crc32fast::hash(&frame[4..]);
        frame[..4].copy_from_slice(&check.to_be_bytes());
        Some(self.sequence)
    }

    /// Offers closed frames to the network; gives the bytes taken, or how it ended.
    pub(crate) fn flush(&mut self, wire: &mut impl Wire) -> Result<usize, Io> {
        let end = self.open.unwrap_or(self.bytes.len());
        let before = self.taken;
        while self.taken < end {
            match wire.send(&self.bytes[self.taken..end]) {
                Io::Done(n) => self.taken += n.min(end - self.taken),
                Io::Wait => break,
                gone => return Err(gone),
            }
        }
        let sent = self.taken - before;
        self.bytes_sent += sent as u64;
        self.compact();
        Ok(sent)
    }

    /// Moves what waits to the front once the gap is larger than it: each byte is moved at most once on average.
    fn compact(&mut self) {
        if self.taken > self.queued() {
            self.bytes.drain(..self.taken);
            self.open = self.open.map(|start| start - self.taken);
            self.taken = 0;
        }
    }
}

/// Received bytes.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    head: usize,
    tail: usize,
    /// End of the frame being read, when it has been checked.
    frame: Option<usize>,
    /// Length of the record that was shown last.
    shown: usize,
    sequence: u64,
    /// What was taken out, by type.
    pub(crate) tally: Tally,
}

/// Where reading stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A record's type and body. It stays the next one until [`Inbox::advance`].
    Record(u8, &'a [u8]),
    /// The frame of this sequence number has been read to its end.
    End(u64),
    /// Bytes are missing.
    Need,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; INBOX],
            head: 0,
            tail: 0,
            frame: None,
            shown: 0,
            sequence: 0,
            tally: Tally::default(),
        }
    }

    /// Reads from the network into what room there is. The room is bounded: a receiver that cannot go on pushes
    /// back on its sender.
    pub(crate) fn fill(&mut self, wire: &mut impl Wire) -> Io {
        if self.head > 0 && self.bytes.len() - self.tail < HEADER + PAYLOAD_MAX {
            self.bytes.copy_within(self.head..self.tail, 0);
            self.frame = self.frame.map(|end| end - self.head);
            (self.head, self.tail) = (0, self.tail - self.head);
        }
        let room = &mut self.bytes[self.tail..];
        if room.is_empty() {
            return Io::Wait;
        }
        let len = room.len();
        let io = wire.recv(room);
        if let Io::Done(n) = io {
            self.tail += n.min(len);
        }
        io
    }

    /// The next record, or what else is next.
    pub(crate) fn step(&mut self) -> Result<Step<'_>, FrameError> {
        let end = match self.frame {
            Some(end) => end,
            None => match self.open()? {
                Some(end) => end,
                None => return Ok(Step::Need),
            },
        };
        if self.head == end {
            self.frame = None;
            return Ok(Step::End(self.sequence));
        }
        let record = &self.bytes[self.head..end];
        // The whole frame was measured when it was opened.
        let (start, end) = measure(record).ok_or(FrameError::Records)?;
        self.shown = end;
        Ok(Step::Record(record[0], &record[start..end]))
    }

    /// Bytes of the record that [`Self::step`] has shown, header included.
    pub(crate) const fn shown(&self) -> usize {
        self.shown
    }

    /// Goes behind the record that [`Self::step`] has shown.
    pub(crate) fn advance(&mut self) {
        let length = core::mem::take(&mut self.shown);
        self.tally.count(self.bytes[self.head], length);
        self.head += length;
    }

    /// Checks the frame at the head, if all of it is there; gives where it ends.
    fn open(&mut self) -> Result<Option<usize>, FrameError> {
        let have = &self.bytes[self.head..self.tail];
        if have.len() < HEADER {
            return Ok(None);
        }
        let word = |at: usize| have[at..at + 4].iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        let length = usize::try_from(word(4)).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX {
            return Err(FrameError::Oversized);
        }
        let Some(frame) = have.get(..HEADER + length) else {
            return Ok(None);
        };
        if crc32fast::hash(&frame[4..]) != word(0) {
            return Err(FrameError::Check);
        }
        if u64::from(word(8)) << 32 | u64::from(word(12)) != self.sequence + 1 {
            return Err(FrameError::Sequence);
        }
        if !records_add_up(&frame[HEADER..]) {
            return Err(FrameError::Records);
        }
        self.sequence += 1;
        self.head += HEADER;
        self.frame = Some(self.head + length);
        Ok(self.frame)
    }
}

/// Whether records fill the payload exactly. Asked before any of them is applied.
fn records_add_up(mut payload: &[u8]) -> bool {
    while let Some((_, end)) = measure(payload) {
        payload = &payload[end..];
    }
    payload.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::record;

    /// A loop: what is sent is received, a few bytes at a time.
    struct Loop {
        bytes: Vec<u8>,
        at_once: usize,
    }

    impl Wire for Loop {
        fn send(&mut self, bytes: &[u8]) -> Io {
            let n = bytes.len().min(self.at_once);
            self.bytes.extend_from_slice(&bytes[..n]);
            Io::Done(n)
        }

        fn recv(&mut self, buffer: &mut [u8]) -> Io {
            let n = self.bytes.len().min(self.at_once).min(buffer.len());
            if n == 0 {
                return Io::Wait;
            }
            buffer[..n].copy_from_slice(&self.bytes[..n]);
            self.bytes.drain(..n);
            Io::Done(n)
        }
    }

    fn wire() -> Loop {
        Loop {
            bytes: Vec::new(),
            at_once: 1_000,
        }
    }

    fn one_frame(records: &[&[u8]]) -> Vec<u8> {
        let mut out = Outbox::new(&[]);
        for record in records {
            out.put(Instant::default(), |bytes| bytes.extend_from_slice(record));
        }
        out.close();
        let mut wire = wire();
        out.flush(&mut wire).unwrap();
        wire.bytes
    }

    /// Everything an inbox makes of `bytes`.
    fn read(bytes: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut wire = Loop {
            bytes: bytes.to_vec(),
            at_once: 7,
        };
        let (mut inbox, mut seen) = (Inbox::new(), Vec::new());
        loop {
            match inbox.step()? {
                Step::Record(kind, body) => {
                    seen.push((kind, body.to_vec()));
                    inbox.advance();
                }
                Step::End(_) => {}
                Step::Need => {
                    if inbox.fill(&mut wire) == Io::Wait {
                        return Ok(seen);
                    }
                }
            }
        }
    }

    #[test]
    fn r10_a_frame_has_these_bytes() {
        let bytes = one_frame(&[&[3, 0]]);
        assert_eq!(bytes[4..], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0]);
        assert_eq!(bytes[..4], crc32fast::hash(&bytes[4..]).to_be_bytes());
        assert_eq!(read(&bytes), Ok(vec![(3, vec![])]));
    }

    #[test]
    fn r10_a_frame_sent_twice_is_refused() {
        let bytes = one_frame(&[&[3, 0]]);
        assert_eq!(read(&[bytes.clone(), bytes].concat()), Err(FrameError::Sequence));
    }

    #[test]
    fn r11_a_length_beyond_the_limit_is_refused_before_its_bytes_arrive() {
        let mut header = [0; HEADER];
        header[4..8].copy_from_slice(&65_537u32.to_be_bytes());
        assert_eq!(read(&header), Err(FrameError::Oversized));
    }

    #[test]
    fn r20_no_record_of_a_frame_is_seen_when_their_lengths_do_not_add_up() {
        let bytes = one_frame(&[&[3, 0], &[3, 9]]);
        assert_eq!(read(&bytes), Err(FrameError::Records));
    }

    #[test]
    fn a_partial_frame_is_waited_for() {
        let bytes = one_frame(&[&[3, 1, 9]]);
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), Ok(vec![]), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn records_come_through_in_order_however_the_bytes_are_cut(
            sizes in proptest::collection::vec(0usize..3_000, 1..60),
            at_once in 1usize..5_000,
        ) {
            let (mut out, mut inbox) = (Outbox::new(&[]), Inbox::new());
            let mut wire = Loop { bytes: Vec::new(), at_once };
            let (mut next, mut frames) = (0, 0);
            for (n, size) in sizes.iter().enumerate() {
                out.put(Instant::default(), |bytes| {
                    record(bytes, u8::try_from(n).unwrap(), |body| body.extend(core::iter::repeat_n(7, *size)));
                });
                if n % 3 == 0 {
                    out.close();
                }
            }
            out.close();
            while next < sizes.len() {
                out.flush(&mut wire).unwrap();
                inbox.fill(&mut wire);
                while let Ok(step) = inbox.step() {
                    match step {
                        Step::Record(kind, body) => {
                            prop_assert_eq!(usize::from(kind), next);
                            prop_assert_eq!(body.len(), sizes[next]);
                            next += 1;
                            inbox.advance();
                        }
                        Step::End(sequence) => {
                            frames += 1;
                            prop_assert_eq!(sequence, frames);
                        }
                        Step::Need => break,
                    }
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_a_record(bit in 0usize..(16 + 6) * 8) {
            let mut bytes = one_frame(&[&[3, 4, 1, 2, 3, 4]]);
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A longer length waits for bytes that never come; everything else is refused.
            prop_assert!(!matches!(read(&bytes), Ok(seen) if !seen.is_empty()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }
}
