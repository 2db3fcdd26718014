//! The first bytes of a connection: who connects, with which lane, speaking which versions.
//!
//! Written by the client as soon as the connection is made, read whole before anything else is looked at, and
//! answered with acceptance or a cause. Nothing behind a HELLO is read before the HELLO is accepted.

use bytes::{Buf, BufMut};

use crate::bytes::{Short, get_text, put_text};
use crate::record::NAME_MAX;
use crate::wire::{Breach, Io, Wire};

/// The protocol version spoken here, oldest and newest (sync/PROTOCOL.md R-4).
pub const VERSIONS: (u8, u8) = (1, 1);
/// A node may be invited to take over.
pub const INVITATIONS: u32 = 1;
/// A node takes packets that are redirected to it.
pub const REDIRECTS: u32 = 2;
/// Optional features known here.
pub const FEATURES: u32 = INVITATIONS | REDIRECTS;

/// First bytes of a client's HELLO.
pub(crate) const MAGIC_HELLO: [u8; 4] = *b"TWPS";
/// First bytes of the answer.
pub(crate) const MAGIC_ANSWER: [u8; 4] = *b"TWPA";

const PREFACE_HEADER: usize = 10;
const PREFACE_BODY_MAX: usize = 512;

/// What a client says of itself (sync/PROTOCOL.md R-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Oldest and newest protocol version it speaks.
    pub versions: (u8, u8),
    /// Optional features it knows.
    pub features: u32,
    /// Its node id.
    pub node_id: u8,
    /// Number of this lane, below `lanes`, or [`crate::config::CONTROL_LANE`].
    pub lane: u8,
    /// Its lanes in all, without the control lane.
    pub lanes: u8,
    /// Number of this connection, never 0.
    pub incarnation: u32,
    /// Random number of its process.
    pub boot_id: u64,
    /// Its name.
    pub node_name: String,
}

/// What the local node answers (sync/PROTOCOL.md R-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 0, or a [`Rejection`].
    pub(crate) status: u8,
    /// Version to speak from here on.
    pub(crate) version: u8,
    pub(crate) features: u32,
    pub(crate) node_id: u8,
    pub(crate) boot_id: u64,
    pub(crate) node_name: String,
}

/// Why a HELLO was rejected; the values are those of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Rejection {
    /// No common protocol version.
    Version = 1,
    /// Both nodes have the same id.
    NodeId = 2,
    /// Lane number or count impossible.
    Lane = 3,
}

/// Whole bytes of a HELLO.
pub(crate) fn encode_hello(hello: &Hello) -> Vec<u8> {
    preface(MAGIC_HELLO, |out| {
        out.put_slice(&[hello.versions.0, hello.versions.1]);
        out.put_u32(hello.features);
        out.put_slice(&[hello.node_id, hello.lane, hello.lanes]);
        out.put_u32(hello.incarnation);
        out.put_u64(hello.boot_id);
        put_text(out, &hello.node_name);
    })
}

/// Whole bytes of an answer.
pub(crate) fn encode_answer(answer: &Answer) -> Vec<u8> {
    preface(MAGIC_ANSWER, |out| {
        out.put_slice(&[answer.status, answer.version]);
        out.put_u32(answer.features);
        out.put_u8(answer.node_id);
        out.put_u64(answer.boot_id);
        put_text(out, &answer.node_name);
    })
}

fn preface(magic: [u8; 4], body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; PREFACE_HEADER];
    body(&mut out);
    let len = u16::try_from(out.len() - PREFACE_HEADER).unwrap_or(u16::MAX);
    let check = crc32fast::hash(&out[PREFACE_HEADER..]);
    out[..4].copy_from_slice(&magic);
    out[4..6].copy_from_slice(&len.to_be_bytes());
    out[6..10].copy_from_slice(&check.to_be_bytes());
    out
}

/// Decodes the body of a HELLO; later versions may append fields.
pub(crate) fn decode_hello(mut from: &[u8]) -> Result<Hello, Short> {
    let from = &mut from;
    let hello = Hello {
        versions: (from.try_get_u8()?, from.try_get_u8()?),
        features: from.try_get_u32()?,
        node_id: from.try_get_u8()?,
        lane: from.try_get_u8()?,
        lanes: from.try_get_u8()?,
        incarnation: from.try_get_u32()?,
        boot_id: from.try_get_u64()?,
        node_name: get_text(from, NAME_MAX)?,
    };
    if hello.incarnation == 0 {
        Err(Short)
    } else {
        Ok(hello)
    }
}

/// Decodes the body of an answer.
pub(crate) fn decode_answer(mut from: &[u8]) -> Result<Answer, Short> {
    let from = &mut from;
    Ok(Answer {
        status: from.try_get_u8()?,
        version: from.try_get_u8()?,
        features: from.try_get_u32()?,
        node_id: from.try_get_u8()?,
        boot_id: from.try_get_u64()?,
        node_name: get_text(from, NAME_MAX)?,
    })
}

/// Why reading a HELLO or an answer came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrefaceError {
    /// Not this protocol.
    Magic,
    /// Longer than any version's.
    Oversized,
    /// Damaged on the way.
    Check,
    /// The other end went away, or the stream was broken.
    Gone(Option<Breach>),
}

/// A HELLO or an answer being read: never a byte more than it has, because what follows belongs to whoever gets
/// the connection then.
#[derive(Debug)]
pub(crate) struct Preface {
    magic: [u8; 4],
    bytes: Vec<u8>,
}

impl Preface {
    pub(crate) fn new(magic: [u8; 4]) -> Self {
        Self {
            magic,
            bytes: Vec::with_capacity(PREFACE_HEADER + PREFACE_BODY_MAX),
        }
    }

    /// Reads what is there; the body once it is complete.
    pub(crate) fn poll(&mut self, wire: &mut impl Wire) -> Result<Option<&[u8]>, PrefaceError> {
        loop {
            let want = self.wanted()?;
            if want == 0 {
                let check = self.bytes[6..10].iter().fold(0, |n, b| n << 8 | u32::from(*b));
                let body = &self.bytes[PREFACE_HEADER..];
                return if crc32fast::hash(body) == check {
                    Ok(Some(body))
                } else {
                    Err(PrefaceError::Check)
                };
            }
            let have = self.bytes.len();
            self.bytes.resize(have + want, 0);
            let io = wire.recv(&mut self.bytes[have..]);
            self.bytes
                .truncate(have + if let Io::Done(n) = io { n.min(want) } else { 0 });
            match io {
                Io::Done(_) => {}
                Io::Wait => return Ok(None),
                Io::Closed | Io::Failed => return Err(PrefaceError::Gone(wire.breach())),
            }
        }
    }

    /// Bytes missing of the part being read.
    fn wanted(&self) -> Result<usize, PrefaceError> {
        let seen = self.bytes.len().min(4);
        if self.bytes[..seen] != self.magic[..seen] {
            return Err(PrefaceError::Magic);
        }
        if self.bytes.len() < PREFACE_HEADER {
            return Ok(PREFACE_HEADER - self.bytes.len());
        }
        let len = usize::from(u16::from_be_bytes([self.bytes[4], self.bytes[5]]));
        if len > PREFACE_BODY_MAX {
            return Err(PrefaceError::Oversized);
        }
        Ok(PREFACE_HEADER + len - self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives its bytes one at a time.
    struct Drip<'a>(&'a [u8]);

    impl Wire for Drip<'_> {
        fn send(&mut self, _: &[u8]) -> Io {
            Io::Wait
        }

        fn recv(&mut self, buffer: &mut [u8]) -> Io {
            let Some((first, rest)) = self.0.split_first() else {
                return Io::Wait;
            };
            (buffer[0], self.0) = (*first, rest);
            Io::Done(1)
        }
    }

    fn hello() -> Hello {
        Hello {
            versions: (1, 2),
            features: 3,
            node_id: 4,
            lane: 5,
            lanes: 6,
            incarnation: 7,
            boot_id: 8,
            node_name: "n".to_owned(),
        }
    }

    #[test]
    fn r3_a_hello_has_these_bytes_and_is_read_to_its_end_and_no_further() {
        let mut bytes = encode_hello(&hello());
        assert_eq!(bytes[..6], [b'T', b'W', b'P', b'S', 0, 23]);
        assert_eq!(
            bytes[10..],
            [
                1, 2, 0, 0, 0, 3, 4, 5, 6, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 1, b'n'
            ]
        );
        bytes.push(0xaa);
        let mut wire = Drip(&bytes);
        let mut preface = Preface::new(MAGIC_HELLO);
        let body = preface.poll(&mut wire).unwrap().unwrap();
        assert_eq!(decode_hello(body), Ok(hello()));
        assert_eq!(wire.0, [0xaa]);
    }

    #[test]
    fn r2_a_foreign_first_byte_is_noticed_at_once() {
        let poll = |bytes: &[u8]| Preface::new(MAGIC_HELLO).poll(&mut Drip(bytes)).map(|_| ());
        assert_eq!(poll(b"G"), Err(PrefaceError::Magic));
        assert_eq!(poll(b"TWPA"), Err(PrefaceError::Magic));
        assert_eq!(poll(b"TWPS\xff\xff\0\0\0\0"), Err(PrefaceError::Oversized));
        assert_eq!(poll(b"TWPS\0\x01\0\0\0\0x"), Err(PrefaceError::Check));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = (decode_hello(&bytes), decode_answer(&bytes));
            let _ = Preface::new(MAGIC_HELLO).poll(&mut Drip(&bytes));
        }

        #[test]
        fn every_flipped_bit_of_a_hello_is_noticed(bit in 0usize..33 * 8) {
            let mut bytes = encode_hello(&hello());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut preface = Preface::new(MAGIC_HELLO);
            prop_assert!(!matches!(preface.poll(&mut Drip(&bytes)), Ok(Some(_))));
        }
    }
}
