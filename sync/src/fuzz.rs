//! What the fuzzer needs of the wire format: decoders that are private otherwise, and right frames around wrong
//! records. Compiled by `scripts/fuzz` alone.

use dataplane::delta::{SlotRef, Term, Version};
use dataplane::flow::VrfId;
use dataplane::role::Role;

use crate::config::SyncVrf;
use crate::flow_record::Stream;
use crate::frame::{Inbox, Step};
use crate::hello::{Hello, MAGIC_ANSWER, MAGIC_HELLO, Preface, decode_answer, decode_hello, encode_hello};
use crate::record::{Bound, VrfOpen, decode, measure, put_vrf_open};
use crate::wire::{Io, Wire};

/// Bytes that were all received already.
struct Received<'a>(&'a [u8]);

impl Wire for Received<'_> {
    fn send(&mut self, bytes: &[u8]) -> Io {
        Io::Done(bytes.len())
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        let n = self.0.len().min(buffer.len());
        if n == 0 {
            return Io::Closed;
        }
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Io::Done(n)
    }
}

/// A HELLO and an answer, whole or body alone.
pub fn preface(bytes: &[u8]) {
    for magic in [MAGIC_HELLO, MAGIC_ANSWER] {
        let mut reader = Preface::new(magic);
        let _ = reader.poll(&mut Received(bytes));
    }
    let _ = decode_hello(bytes);
    let _ = decode_answer(bytes);
}

/// A stream of frames, checks and sequence numbers included.
pub fn stream(bytes: &[u8]) {
    let (mut wire, mut inbox) = (Received(bytes), Inbox::new());
    while matches!(inbox.fill(&mut wire), Io::Done(_)) {
        loop {
            match inbox.step() {
                Ok(Step::Record(kind, body)) => one(kind, body),
                Ok(Step::End(_)) => continue,
                Ok(Step::Need) => break,
                Err(_) => return,
            }
            inbox.advance();
        }
    }
}

/// Records, one behind the other.
pub fn records(mut bytes: &[u8]) {
    while let Some((start, end)) = measure(bytes) {
        let Some(body) = bytes.get(start..end) else { return };
        one(bytes[0], body);
        bytes = &bytes[end..];
    }
}

fn one(kind: u8, body: &[u8]) {
    let resolve = |handle| {
        (handle < 3).then_some(Bound {
            vrf: VrfId(handle),
            slots: 1_024,
        })
    };
    let stream = |number| {
        (number < 9).then_some(Stream {
            number,
            at: SlotRef {
                vrf: VrfId(1),
                slot: number,
            },
            last: Version {
                term: Term(0x6000_0501),
                counter: 40,
            },
        })
    };
    let _ = decode(kind, body, resolve, stream);
}

/// Bytes of a HELLO.
#[must_use]
pub fn hello(hello: &Hello) -> Vec<u8> {
    encode_hello(hello)
}

/// The VRF-OPEN of a ready master of this VRF, which it calls `handle`.
#[must_use]
pub fn vrf_open(handle: u16, vrf: &SyncVrf, term: Term) -> Vec<u8> {
    let mut out = Vec::new();
    let open = VrfOpen {
        handle,
        slots: vrf.slots,
        role: Role::Master,
        ready: true,
        term,
        capacity: vrf.capacity,
        name: vrf.name.clone(),
        sections: vrf.sections.clone(),
    };
    put_vrf_open(&mut out, &open);
    out
}

/// A frame whose check is right, whatever its records are.
#[must_use]
pub fn frame(sequence: u64, records: &[u8]) -> Vec<u8> {
    let length = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let checked = [&length.to_be_bytes()[..], &sequence.to_be_bytes(), records].concat();
    [&crc32fast::hash(&checked).to_be_bytes()[..], &checked].concat()
}
