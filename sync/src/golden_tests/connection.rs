//! One connection from greeting to farewell, both directions of it.

use dataplane::time::Instant;

use super::*;
use crate::frame::{Inbox, Outbox, Step};
use crate::hello::{Answer, Hello, decode_answer, decode_hello, encode_answer, encode_hello};
use crate::wire::{Io, Wire};

const CLIENT: &str = include_str!("../../../tests/data/sync-v1/client.hex");
const LOCAL_NODE: &str = include_str!("../../../tests/data/sync-v1/local-node.hex");

/// Puts one record in.
type Write<'w> = &'w dyn Fn(&mut Vec<u8>);

/// What one end of a connection writes: its greeting, and frames.
struct End {
    out: Outbox,
}

impl End {
    fn frame(&mut self, writes: &[Write<'_>]) {
        for write in writes {
            self.out.put(Instant::default(), write);
        }
        self.out.close();
    }

    fn bytes(mut self) -> Vec<u8> {
        let mut tape = Tape(Vec::new());
        self.out.flush(&mut tape).unwrap();
        tape.0
    }
}

/// Takes and gives everything.
struct Tape(Vec<u8>);

impl Wire for Tape {
    fn send(&mut self, bytes: &[u8]) -> Io {
        self.0.extend_from_slice(bytes);
        Io::Done(bytes.len())
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        let n = self.0.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.0[..n]);
        self.0.drain(..n);
        if n == 0 { Io::Wait } else { Io::Done(n) }
    }
}

fn hello() -> Hello {
    Hello {
        versions: (1, 1),
        features: 0,
        node_id: 1,
        lane: 0,
        lanes: 2,
        incarnation: 0x0102_0304,
        boot_id: 0x1112_1314_1516_1718,
        node_name: "left".to_owned(),
    }
}

fn answer() -> Answer {
    Answer {
        status: 0,
        version: 1,
        features: 0,
        node_id: 2,
        boot_id: 0x2122_2324_2526_2728,
        node_name: "right".to_owned(),
    }
}

/// A client sends a slot of one connection whole, then the connection's life, and takes its leave.
fn client() -> Vec<u8> {
    let mut end = End {
        out: Outbox::new(&encode_hello(&hello())),
    };
    let stream = core::cell::Cell::new(STREAM);
    let delta = |o: &mut Vec<u8>, delta: Delta, walk| {
        let mut now = stream.get();
        put_delta(o, &mut now, &delta, walk);
        stream.set(now);
    };
    let next = || stream.get().next();
    let short = |class: Option<Class>| match (class, state(class.unwrap_or(Class::Opening))) {
        (Some(_), Delta::State(state)) => Delta::State(StateRecord {
            version: next(),
            ..state
        }),
        _ => Delta::Del(DelRecord {
            name: Name::Handle(Handle(0x01_0203)),
            version: next(),
        }),
    };
    end.frame(&[&|o| record::put_vrf_open(o, &vrf_open())]);
    end.frame(&[&|o| slot_record::put_slot_query(o, AT, 5)]);
    end.frame(&[
        &|o| slot_record::put_slot_begin(o, &STREAM, 6, None),
        &|o| delta(o, Delta::Put(put_udp6(12)), true),
        &|o| {
            delta(
                o,
                Delta::Block(BlockRecord {
                    version: next(),
                    ..block(true)
                }),
                false,
            )
        },
        &|o| {
            delta(
                o,
                Delta::Put(PutRecord {
                    version: next(),
                    ..put_tcp()
                }),
                false,
            )
        },
        &|o| slot_record::put_slot_end(o, AT, &self::end()),
    ]);
    end.frame(&[&|o| delta(o, short(Some(Class::Established)), false)]);
    end.frame(&[
        &|o| delta(o, short(Some(Class::Closing)), false),
        &|o| delta(o, short(None), false),
        &record::put_bye,
    ]);
    end.bytes()
}

/// The local node's words on that connection.
fn local_node() -> Vec<u8> {
    let mut end = End {
        out: Outbox::new(&encode_answer(&answer())),
    };
    let open = VrfOpen {
        handle: 1,
        role: Role::Backup,
        ready: false,
        term: Term::NONE,
        ..vrf_open()
    };
    let offer = SlotOffer {
        generation: 5,
        count: 0,
        digest: 0,
        version: Version::default(),
        absent: 0,
        same: false,
        exact: true,
    };
    end.frame(&[&|o| record::put_vrf_open(o, &open), &|o| {
        record::put_credit(o, 4_096)
    }]);
    end.frame(&[&|o| slot_record::put_slot_offer(o, AT, &offer), &|o| {
        record::put_ack(o, 2)
    }]);
    end.frame(&[&|o| slot_record::put_slot_verified(o, AT, 6, 0), &|o| {
        record::put_ack(o, 3)
    }]);
    end.frame(&[&|o| record::put_ack(o, 5)]);
    end.bytes()
}

/// Titles of the records of a stream behind its greeting.
fn kinds(bytes: &[u8]) -> Vec<&'static str> {
    let (mut tape, mut inbox, mut kinds) = (Tape(bytes.to_vec()), Inbox::new(), Vec::new());
    loop {
        match inbox.step().unwrap() {
            Step::Record(kind, _) => {
                kinds.push(record::kind::name(kind));
                inbox.advance();
            }
            Step::End(_) => kinds.push("|"),
            Step::Need => {
                if inbox.fill(&mut tape) == Io::Wait {
                    return kinds;
                }
            }
        }
    }
}

#[test]
fn r4_a_whole_connection_has_the_bytes_of_version_1_in_both_directions() {
    for (name, text, bytes) in [
        ("client", CLIENT, client()),
        ("local node", LOCAL_NODE, local_node()),
    ] {
        let written: Vec<u8> = sections(text).into_values().flatten().collect();
        assert_eq!(written, bytes, "{name}\n{}", hex(&bytes));
    }
    let greeting = |bytes: &[u8]| 10 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    let (client, local_node) = (client(), local_node());
    let (body, said) = client.split_at(greeting(&client));
    assert_eq!(decode_hello(&body[10..]), Ok(hello()));
    assert_eq!(
        kinds(said).join(" "),
        "VRF-OPEN | SLOT-QUERY | SLOT-BEGIN PUT BLOCK PUT SLOT-END | STATE | STATE REMOVE BYE |"
    );
    let (body, said) = local_node.split_at(greeting(&local_node));
    assert_eq!(decode_answer(&body[10..]), Ok(answer()));
    assert_eq!(
        kinds(said).join(" "),
        "VRF-OPEN CREDIT | SLOT-OFFER ACK | SLOT-VERIFIED ACK | ACK |"
    );
}
