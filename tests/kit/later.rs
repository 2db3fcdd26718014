//! How a node of a later version speaks, made of the bytes of this one: its HELLO offers version 2 and features that nobody has
//! heard of, bodies go on behind the last known field, records of unknown types stand between known ones, and a VRF has a
//! section more. What it says is otherwise the same, so a node of version 1 must understand all of it (sync/PROTOCOL.md R-2 to
//!
//!
//! Where both nodes are of later versions, these are two different ones that have version 1 in common and nothing else.
//!
//! [`Upgrades`] lives in the link and says at each boot which node is of a later version; a [`Tongue`] belongs to one direction
//! of one connection, from its first byte on.

use crate::random::Random;

/// Bytes in front of a greeting's body: magic, length, check.
const GREETING: usize = 10;
/// Bytes in front of a frame's records: check, length, sequence.
const FRAME: usize = 16;
/// Most bytes of records in a frame.
const PAYLOAD_MAX: usize = 65_536;

const MAGIC_HELLO: [u8; 4] = *b"TWPS";
const VRF_OPEN: u8 = 0x01;

/// Types that version 1 leaves free, from and to. Not those of EXPECT: nobody sends them unasked.
const FREE: [(u8, u8); 5] = [
    (0x16, 0x1f),
    (0x2c, 0x3f),
    (0x48, 0x7f),
    (0x84, 0xbf),
    (0xc1, 0xff),
];

/// A section that version 1 doesn't know: a warning, without a say in who is ready.
const SECTION: &[u8] = b"\x01\x0clater-policy\x01\x02\x03\x04\x05\x06\x07\x08";

/// One pair of different versions in so many is one of two later versions.
const BOTH: u64 = 4;

/// Which nodes are of a later version: one at most, as in an upgrade of one node at a time, or both, if the pair is such a
/// one. Chosen anew when a process boots.
#[derive(Debug, Default)]
pub(crate) struct Upgrades {
    random: Option<Random>,
    /// Both nodes may be.
    both: bool,
    later: [bool; 2],
    /// By node: its present process has lived beside one of a later version.
    beside: [bool; 2],
}

impl Upgrades {
    /// From now on nodes may be of different versions; one is at once, or both are.
    pub(crate) fn begin(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let both = Random::new(!seed).one_in(BOTH);
        let mut later = [both; 2];
        later[random.index(2)] = true;
        Self {
            random: Some(random),
            both,
            later,
            beside: [later[1], later[0]],
        }
    }

    /// A process of `node` boots, perhaps of another version than the one before.
    pub(crate) fn boot(&mut self, node: usize) {
        let Some(random) = &mut self.random else { return };
        if self.both || !self.later[1 - node] {
            self.later[node] = random.one_in(2);
        }
        self.beside[node] = self.later[1 - node];
        self.beside[1 - node] |= self.later[node];
    }

    /// Whether the present process of `node` may have heard a later version.
    pub(crate) const fn was_beside_later(&self, node: usize) -> bool {
        self.beside[node]
    }

    /// Whether `node` is of a later version.
    pub(crate) const fn is_later(&self, node: usize) -> bool {
        self.later[node]
    }

    /// What `node` speaks on a new connection, unless that is version 1.
    pub(crate) fn tongue(&mut self, node: usize) -> Option<Tongue> {
        let random = self.random.as_mut().filter(|_| self.later[node])?;
        Some(Tongue::new(random.next()))
    }
}

/// One direction of one connection, rewritten.
#[derive(Debug)]
pub(crate) struct Tongue {
    random: Random,
    /// The start of a greeting or frame whose end isn't there yet.
    begun: Vec<u8>,
    greeted: bool,
    /// A record of an unknown type was said.
    strange: bool,
}

impl Tongue {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            begun: Vec::new(),
            greeted: false,
            strange: false,
        }
    }

    /// Takes what version 1 would send, cut anywhere; gives all of it that is whole, as the later version says it.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.begun.extend_from_slice(bytes);
        let mut said = Vec::new();
        while let Some(len) = self.whole() {
            let part: Vec<u8> = self.begun.drain(..len).collect();
            if self.greeted {
                self.frame(&part, &mut said);
            } else {
                self.greeting(&part, &mut said);
                self.greeted = true;
            }
        }
        said
    }

    /// Length of what is at the front, when its end is there.
    fn whole(&self) -> Option<usize> {
        let front = &self.begun;
        let len = if self.greeted {
            FRAME + number(front.get(4..8)?)
        } else {
            GREETING + number(front.get(4..6)?)
        };
        (front.len() >= len).then_some(len)
    }

    fn greeting(&mut self, part: &[u8], out: &mut Vec<u8>) {
        let mut body = part[GREETING..].to_vec();
        if part[..4] == MAGIC_HELLO {
            body[1] = 2;
            body[2..6].fill(0xff);
        }
        self.fields(&mut body);
        out.extend_from_slice(&part[..4]);
        out.extend_from_slice(&u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        out.extend_from_slice(&body);
    }

    fn frame(&mut self, part: &[u8], out: &mut Vec<u8>) {
        let mut records = Vec::with_capacity(2 * part.len());
        let mut rest = &part[FRAME..];
        while let Some((record, behind)) = split(rest) {
            // Each connection says at least one, so that a receiver that has heard none has a link that rewrites nothing.
            if !self.strange || self.random.one_in(4) {
                self.strange = true;
                self.stranger(&mut records);
            }
            self.record(record, &mut records);
            rest = behind;
        }
        assert!(rest.is_empty(), "records fill a frame exactly (R-20)");
        assert!(records.len() <= PAYLOAD_MAX, "frames are closed long before");
        let mut frame = u32::try_from(records.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes()
            .to_vec();
        frame.extend_from_slice(&part[8..FRAME]);
        frame.append(&mut records);
        out.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        out.append(&mut frame);
    }

    /// A known record with what the later version has added to it.
    fn record(&mut self, record: Record<'_>, out: &mut Vec<u8>) {
        if short_len(record.kind).is_some() {
            out.push(record.kind);
            out.extend_from_slice(record.body);
            return;
        }
        let mut body = record.body.to_vec();
        if record.kind == VRF_OPEN {
            one_section_more(&mut body);
        }
        self.fields(&mut body);
        put_long(out, record.kind, &body);
    }

    /// A record that version 1 has never heard of. Its sender's credit doesn't know of it either; as it is skipped, it
    /// takes no place at the receiver.
    fn stranger(&mut self, out: &mut Vec<u8>) {
        let (first, last) = FREE[self.random.index(FREE.len())];
        let kind = first + u8::try_from(self.random.below(u64::from(last - first) + 1)).unwrap_or(0);
        let mut body = Vec::new();
        if let Some(len) = short_len(kind) {
            self.noise(len - 1, &mut body);
            out.push(kind);
            out.extend_from_slice(&body);
        } else {
            if self.random.one_in(2) {
                self.fields(&mut body);
            }
            put_long(out, kind, &body);
        }
    }

    /// Fields of the later version: mostly a few bytes, now and then so many that the length takes another byte.
    fn fields(&mut self, body: &mut Vec<u8>) {
        let len = if self.random.one_in(64) {
            self.random.between(100, 200)
        } else {
            self.random.between(1, 12)
        };
        self.noise(usize::try_from(len).unwrap_or(0), body);
    }

    fn noise(&mut self, len: usize, out: &mut Vec<u8>) {
        for _ in 0..len {
            out.push(self.random.next().to_le_bytes()[0]);
        }
    }
}

/// A record in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record<'a> {
    kind: u8,
    body: &'a [u8],
}

/// How long a short record is, its type included; none of a type that says its length.
const fn short_len(kind: u8) -> Option<usize> {
    match kind {
        ..0x80 => None,
        0x80..0xc0 => Some(8),
        0xc0.. => Some(6),
    }
}

/// The record at the front and what is behind it; none when nothing whole is there.
fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (start, len) = if let Some(len) = short_len(kind) {
        (0, len - 1)
    } else {
        let digits = 1 + rest.iter().position(|byte| byte & 0x80 == 0)?;
        let low_first = rest[..digits].iter().rev();
        let len = low_first.fold(0, |n, byte| n << 7 | usize::from(byte & 0x7f));
        (digits, len)
    };
    let body = rest.get(start..start + len)?;
    Some((Record { kind, body }, &rest[start + len..]))
}

fn put_long(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    let mut len = body.len();
    while len >= 0x80 {
        out.push(0x80 | len.to_le_bytes()[0]);
        len >>= 7;
    }
    out.push(len.to_le_bytes()[0]);
    out.extend_from_slice(body);
}

/// VRF-OPEN counts its sections behind the name, which is behind 22 bytes of numbers.
fn one_section_more(body: &mut Vec<u8>) {
    let count = 23 + usize::from(body[22]);
    body[count] += 1;
    body.extend_from_slice(SECTION);
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HELLO of `n` in version 1.
    fn hello() -> Vec<u8> {
        let body = b"\x01\x01\0\0\0\0\x04\x05\x06\0\0\0\x07\0\0\0\0\0\0\0\x08\x01n";
        let check = crc32fast::hash(body).to_be_bytes();
        [&b"TWPS\0\x17"[..], &check, body].concat()
    }

    fn frame(sequence: u64, records: &[u8]) -> Vec<u8> {
        let len = u32::try_from(records.len()).unwrap().to_be_bytes();
        let checked = [&len, &sequence.to_be_bytes()[..], records].concat();
        [&crc32fast::hash(&checked).to_be_bytes(), &checked[..]].concat()
    }

    /// VRF-OPEN of `main` with one section, a PUT-like record, a STATE and a heartbeat.
    fn records() -> Vec<u8> {
        let open = [&[7; 22][..], b"\x04main\x01", b"\x00\x01a\0\0\0\0\0\0\0\x09"].concat();
        let mut records = Vec::new();
        put_long(&mut records, VRF_OPEN, &open);
        put_long(&mut records, 0x20, &[5; 120]);
        records.extend([0x81; 8]);
        put_long(&mut records, 0x03, &[]);
        records
    }

    fn is_free(kind: u8) -> bool {
        FREE.iter().any(|(first, last)| (*first..=*last).contains(&kind))
    }

    /// Checks a frame's header; gives its known records, and how many unknown ones stood between them.
    fn heard<'a>(bytes: &'a [u8], sequence: u64) -> (Vec<Record<'a>>, usize, &'a [u8]) {
        let end = FRAME + number(&bytes[4..8]);
        assert_eq!(bytes[..4], crc32fast::hash(&bytes[4..end]).to_be_bytes());
        assert_eq!(bytes[8..FRAME], sequence.to_be_bytes());
        let (mut known, mut strangers, mut rest) = (Vec::new(), 0, &bytes[FRAME..end]);
        while let Some((record, behind)) = split(rest) {
            if is_free(record.kind) {
                strangers += 1;
            } else {
                known.push(record);
            }
            rest = behind;
        }
        assert!(rest.is_empty());
        (known, strangers, &bytes[end..])
    }

    /// what the peer reads of it, whatever it does with the rest.
    #[test]
    fn a_greeting_offers_version_2_and_has_more_fields() {
        for seed in 0..50 {
            let said = Tongue::new(seed).say(&hello());
            let body = &said[GREETING..];
            assert_eq!(number(&said[4..6]), body.len());
            assert_eq!(said[6..GREETING], crc32fast::hash(body).to_be_bytes());
            assert_eq!(body[..7], [1, 2, 0xff, 0xff, 0xff, 0xff, 4]);
            assert_eq!(body[7..23], hello()[GREETING + 7..]);
            assert!(body.len() > 23);
        }
    }

    /// known records come in order, each with what it said before.
    #[test]
    fn a_frame_says_the_same_among_records_that_nobody_knows_wherever_its_bytes_are_cut() {
        let (mut strangers, mut long) = (0, 0);
        let whole = [hello(), frame(1, &records()), frame(2, &records())].concat();
        for cut in 0..whole.len() {
            let mut tongue = Tongue::new(cut as u64);
            let mut said = tongue.say(&whole[..cut]);
            said.extend(tongue.say(&whole[cut..]));
            let mut rest = &said[GREETING + number(&said[4..6])..];
            for sequence in 1..=2 {
                let (known, strange, behind) = heard(rest, sequence);
                assert!(strange > 0 || sequence > 1, "the first frame says one");
                strangers += strange;
                let [open, put, state, beat] = known[..] else {
                    panic!("{known:?}")
                };
                assert_eq!((open.kind, put.kind, beat.kind), (VRF_OPEN, 0x20, 3));
                assert_eq!(open.body[22..28], *b"\x04main\x02");
                assert_eq!(open.body[39..39 + SECTION.len()], *SECTION);
                assert_eq!(put.body[..120], [5; 120]);
                assert_eq!((state.kind, state.body), (0x81, &[0x81; 7][..]));
                assert!(put.body.len() > 120 && !beat.body.is_empty());
                long += usize::from(put.body.len() > 132);
                rest = behind;
            }
            assert!(rest.is_empty());
        }
        assert!(strangers > whole.len() && long > 0, "{strangers}, {long}");
    }

    /// How often none, one and both nodes of a pair are of a later version, over 200 boots in turn.
    fn seen(mut upgrades: Upgrades) -> [u32; 3] {
        let mut seen = [0; 3];
        for n in 0..200 {
            let before = upgrades.later;
            upgrades.boot(n % 2);
            let after = upgrades.later;
            assert_eq!(before[1 - n % 2], after[1 - n % 2], "the other one doesn't boot");
            let beside = [0, 1].map(|node| upgrades.was_beside_later(node));
            assert!(beside[0] >= after[1] && beside[1] >= after[0]);
            assert_eq!(
                beside[n % 2],
                after[1 - n % 2],
                "a new process has heard nobody else"
            );
            seen[after.iter().filter(|later| **later).count()] += 1;
            for (node, later) in after.into_iter().enumerate() {
                assert_eq!(upgrades.tongue(node).is_some(), later);
            }
        }
        seen
    }

    #[test]
    fn of_most_pairs_one_node_at_most_is_of_a_later_version_and_of_some_both() {
        let (some, most): (Vec<_>, Vec<_>) = (0..40).map(Upgrades::begin).partition(|u| u.both);
        assert!(some.len() > 4 && most.len() > 20);
        assert!(some.iter().all(|u| u.later == [true; 2]));
        assert!(most.iter().all(|u| u.later[0] != u.later[1]));
        assert!(
            some.into_iter()
                .map(seen)
                .all(|n| n.iter().all(|times| *times > 10))
        );
        assert!(
            most.into_iter()
                .map(seen)
                .all(|[none, one, both]| none > 10 && one > 10 && both == 0)
        );
        let mut never = Upgrades::default();
        never.boot(0);
        assert_eq!(never.later, [false; 2]);
    }
}
