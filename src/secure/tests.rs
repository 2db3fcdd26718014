//! Two ends over a line in memory on which everything can be done to the bytes, and over the kernel's loopback.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::secure::keys::{KeyringError, Trusted};
use crate::socket::{SyncNet, SyncSettings};
use ctl::key::{PrivateKey, PublicKey};

const LEFT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 21));
const RIGHT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 22));
/// Turns without a move after which nothing moves any more.
const QUIET: usize = 60;
/// Turns after which whatever will happen has happened.
const TURNS: usize = 60;

/// One direction of a line.
#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    /// Everything that ever went in.
    seen: Vec<u8>,
}

#[derive(Debug)]
struct Line {
    pipes: [Pipe; 2],
    chunk: usize,
    room: usize,
    waiting: VecDeque<IpAddr>,
}

/// One end of a line; dropping it closes it.
#[derive(Debug)]
struct End(Rc<RefCell<Line>>, usize);

impl Drop for End {
    fn drop(&mut self) {
        self.0.borrow_mut().pipes[self.1].closed = true;
    }
}

impl Wire for End {
    fn send(&mut self, bytes: &[u8]) -> Io {
        let mut line = self.0.borrow_mut();
        let (chunk, room) = (line.chunk, line.room);
        let pipe = &mut line.pipes[self.1];
        let n = bytes.len().min(chunk).min(room.saturating_sub(pipe.bytes.len()));
        pipe.bytes.extend(&bytes[..n]);
        pipe.seen.extend(&bytes[..n]);
        if n == 0 { Io::Wait } else { Io::Done(n) }
    }

    fn recv(&mut self, buffer: &mut [u8]) -> Io {
        let mut line = self.0.borrow_mut();
        let chunk = line.chunk;
        let pipe = &mut line.pipes[1 - self.1];
        let n = pipe.bytes.len().min(buffer.len()).min(chunk);
        for (to, byte) in buffer.iter_mut().zip(pipe.bytes.drain(..n)) {
            *to = byte;
        }
        match n {
            0 if pipe.closed => Io::Closed,
            0 => Io::Wait,
            n => Io::Done(n),
        }
    }
}

/// The line as a network with one connection.
#[derive(Debug)]
struct Lines(Rc<RefCell<Line>>);

impl Net for Lines {
    type Wire = End;

    fn connect(&mut self, source: IpAddr, _: IpAddr) -> Option<End> {
        self.0.borrow_mut().waiting.push_back(source);
        Some(End(Rc::clone(&self.0), 0))
    }

    fn accept(&mut self) -> Option<Incoming<End>> {
        let remote = self.0.borrow_mut().waiting.pop_front()?;
        Some(Incoming {
            wire: End(Rc::clone(&self.0), 1),
            local: RIGHT,
            remote,
        })
    }
}

fn line() -> Rc<RefCell<Line>> {
    Rc::new(RefCell::new(Line {
        pipes: [Pipe::default(), Pipe::default()],
        chunk: 1 << 20,
        room: 1 << 20,
        waiting: VecDeque::new(),
    }))
}

fn key(n: u8) -> PrivateKey {
    PrivateKey::of_seed([n; 32]).unwrap()
}

fn publics(keys: &[u8]) -> Vec<PublicKey> {
    keys.iter().map(|n| key(*n).public()).collect()
}

fn left_trusts(keys: &[u8]) -> Vec<Trusted> {
    vec![Trusted {
        source: LEFT,
        address: RIGHT,
        keys: publics(keys),
    }]
}

fn right_trusts(keys: &[u8]) -> Vec<Trusted> {
    vec![Trusted {
        source: RIGHT,
        address: LEFT,
        keys: publics(keys),
    }]
}

fn keyring(own: u8, peers: &[Trusted]) -> Arc<Keyring> {
    Arc::new(Keyring::new(&key(own), peers).unwrap())
}

/// The left end holds key 1, the right end key 2; each is told which keys to believe.
fn ends(
    line: &Rc<RefCell<Line>>,
    left: &Arc<Keyring>,
    right: &Arc<Keyring>,
) -> (SecureWire<End>, SecureWire<End>) {
    let mut client = SecureNet::new(Lines(Rc::clone(line)), Some(Arc::clone(left)));
    let mut server = SecureNet::new(Lines(Rc::clone(line)), Some(Arc::clone(right)));
    let wire = client.connect(LEFT, RIGHT).unwrap();
    (wire, server.accept().unwrap().wire)
}

fn good() -> (Arc<Keyring>, Arc<Keyring>) {
    (keyring(1, &left_trusts(&[2])), keyring(2, &right_trusts(&[1])))
}

/// Sends what fits and collects what comes, until nothing moves; how each end stands then.
fn drive(
    (a, b): (&mut SecureWire<End>, &mut SecureWire<End>),
    mut sends: &[u8],
    got: &mut Vec<u8>,
) -> (Io, Io) {
    let mut buffer = vec![0; 3_000];
    let mut last = (Io::Wait, Io::Wait);
    let mut quiet = 0;
    while quiet < QUIET {
        let mut moves = false;
        if let (false, Io::Done(n)) = (sends.is_empty(), a.send(sends)) {
            sends = &sends[n..];
            moves = true;
        }
        moves |= matches!(a.flush(), Io::Done(1..));
        last.0 = a.recv(&mut buffer);
        last.1 = b.recv(&mut buffer);
        if let Io::Done(n) = last.1 {
            got.extend(&buffer[..n]);
            moves = true;
        }
        quiet = if moves { 0 } else { quiet + 1 };
    }
    last
}

/// A session that has moved `sent` from left to right.
fn session(sent: &[u8]) -> (Rc<RefCell<Line>>, SecureWire<End>, SecureWire<End>) {
    let line = line();
    let (left, right) = good();
    let (mut a, mut b) = ends(&line, &left, &right);
    let mut got = Vec::new();
    drive((&mut a, &mut b), sent, &mut got);
    assert_eq!(got, sent);
    (line, a, b)
}

/// Whether a byte of the stream is of a record's outer type or version. They are constants in TLS 1.3 (RFC 8446 5.2), and
/// rustls authenticates a record as having them: what else stands there may go unread, and changes nothing.
fn in_record_constants(stream: &[u8], at: usize) -> bool {
    let mut start = 0;
    while let Some(&[_, _, _, high, low]) = stream.get(start..).and_then(|rest| rest.first_chunk()) {
        if (start..start + 3).contains(&at) {
            return true;
        }
        start += 5 + usize::from(u16::from_be_bytes([high, low]));
    }
    false
}

const TEXT: &[u8] = b"client 100.64.0.7 has a conntrack";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn bytes_arrive_whole_and_in_order_however_they_are_cut(
        chunk in 1usize..5_000, sent in proptest::collection::vec(any::<u8>(), 0..20_000)
    ) {
        let line = line();
        let (left, right) = good();
        let (mut a, mut b) = ends(&line, &left, &right);
        line.borrow_mut().chunk = chunk.max(60);
        let mut got = Vec::new();
        for _ in 0..4 {
            let done = got.len();
            drive((&mut a, &mut b), &sent[done..], &mut got);
        }
        prop_assert_eq!(got, sent);
    }

    /// Whatever is changed wherever: the reader gets a prefix of what was sent, then the end, with its cause.
    #[test]
    fn a_flipped_bit_ends_the_stream_and_gives_nothing_of_its_record(at in 0usize..3_000, bit in 0u8..8, way in 0usize..2) {
        let line = line();
        let (left, right) = good();
        let (mut a, mut b) = ends(&line, &left, &right);
        line.borrow_mut().chunk = 100;
        let sent: Vec<u8> = (0..1_000u16).flat_map(u16::to_be_bytes).collect();
        let (mut rest, mut got, mut buffer) = (&sent[..], Vec::new(), [0; 512]);
        let mut flipped = false;
        for _ in 0..2 * TURNS {
            if let (false, Io::Done(n)) = (rest.is_empty(), a.send(&rest[..rest.len().min(100)])) {
                rest = &rest[n..];
            }
            a.flush();
            {
                let mut line = line.borrow_mut();
                let pipe = &mut line.pipes[way];
                let first = pipe.seen.len() - pipe.bytes.len();
                if !flipped && (first..pipe.seen.len()).contains(&at) {
                    pipe.bytes[at - first] ^= 1 << bit;
                    flipped = true;
                }
            }
            a.recv(&mut buffer);
            if let Io::Done(n) = b.recv(&mut buffer) {
                got.extend(&buffer[..n]);
            }
        }
        prop_assert!(sent.starts_with(&got));
        if flipped {
            // One that makes a length larger leaves its reader waiting for bytes that never come.
            drop(a);
            let end = (0..TURNS).map(|_| b.recv(&mut buffer)).find(|io| matches!(io, Io::Failed | Io::Closed));
            let told = way == 1 && end == Some(Io::Closed);
            let ignored = in_record_constants(&line.borrow().pipes[way].seen, at) && got == sent;
            prop_assert!(told || ignored || end == Some(Io::Failed), "{:?}", end);
        } else {
            prop_assert_eq!(got, sent);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_stream(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let (left, right) = good();
        for server in [false, true] {
            let line = line();
            let (a, b) = ends(&line, &left, &right);
            let (mut victim, side) = if server { (b, 0) } else { (a, 1) };
            line.borrow_mut().pipes[side].bytes.extend(&bytes);
            let mut buffer = [0; 256];
            for _ in 0..TURNS {
                prop_assert!(!matches!(victim.recv(&mut buffer), Io::Done(_)));
            }
        }
    }
}

#[test]
fn a_peer_without_the_right_key_is_refused_and_told_so() {
    for (left, right, refuser) in [(3, 2, 1), (1, 3, 0)] {
        let line = line();
        let (left, right) = (
            keyring(left, &left_trusts(&[2])),
            keyring(right, &right_trusts(&[1])),
        );
        let (mut a, mut b) = ends(&line, &left, &right);
        let mut got = Vec::new();
        assert_eq!(drive((&mut a, &mut b), TEXT, &mut got), (Io::Failed, Io::Failed));
        assert_eq!(got, b"", "nothing is given before the key is proven");
        let breaches = [a.breach(), b.breach()];
        assert_eq!(breaches[refuser], Some(Breach::KeyUnknown));
        assert_eq!(breaches[1 - refuser], Some(Breach::KeyRefused));
    }
}

/// sync/PROTOCOL.md R-51.
#[test]
fn a_peer_that_knows_a_public_key_but_not_its_private_half_is_refused() {
    // The right key is shown, another one signs.
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
    let provider = rustls::crypto::ring::default_provider();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key(3).pkcs8()));
    let signing = provider.key_provider.load_private_key(private).unwrap();
    let stolen = CertificateDer::from(key(1).public().spki());
    let shown = Arc::new(rustls::sign::CertifiedKey::new(vec![stolen], signing));
    let (_, right) = good();
    let line = line();
    let config = keys::impostor(&shown, &publics(&[2]));
    let tls = rustls::ClientConnection::new(Arc::new(config), "10.0.0.1".try_into().unwrap()).unwrap();
    let trusting = keyring(3, &left_trusts(&[2]));
    let end = End(Rc::clone(&line), 0);
    let mut a = SecureWire::Tls(Box::new(TlsWire::new(end, tls.into(), &trusting, (LEFT, RIGHT))));
    line.borrow_mut().waiting.push_back(LEFT);
    let mut b = SecureNet::new(Lines(Rc::clone(&line)), Some(right))
        .accept()
        .unwrap()
        .wire;
    let mut got = Vec::new();
    assert_eq!(drive((&mut a, &mut b), TEXT, &mut got).1, Io::Failed);
    assert_eq!((got.as_slice(), b.breach()), (&b""[..], Some(Breach::KeyUnknown)));
}

/// sync/PROTOCOL.md R-50.
#[test]
fn plain_talk_is_no_stream_for_either_end() {
    for (side, words) in [
        (0, &b"TWPS\0\x10\0\0\0\0................"[..]),
        (1, b"TWPA\0\x10\0\0\0\0................"),
    ] {
        let line = line();
        let (left, right) = good();
        let (a, b) = ends(&line, &left, &right);
        let mut victim = if side == 0 { b } else { a };
        let mut buffer = [0; 64];
        victim.flush();
        line.borrow_mut().pipes[side].bytes.extend(words);
        let end = (0..TURNS).map(|_| victim.recv(&mut buffer)).last();
        assert_eq!(
            (end, victim.breach()),
            (Some(Io::Failed), Some(Breach::Handshake))
        );
    }
}

#[test]
fn nothing_of_what_is_sent_can_be_read_on_the_way() {
    let (line, _a, _b) = session(TEXT);
    let line = line.borrow();
    let shows = |word: &[u8]| {
        line.pipes
            .iter()
            .any(|p| p.seen.windows(word.len()).any(|w| w == word))
    };
    assert!(line.pipes[0].seen.len() > TEXT.len());
    assert!(!shows(b"100.64.0.7") && !shows(b"conntrack"));
    // Not even who is talking: keys are shown under encryption.
    assert!(!shows(&key(1).public().spki()) && !shows(&key(2).public().spki()));
}

/// sync/PROTOCOL.md R-53.
#[test]
fn a_repeated_a_missing_and_a_swapped_record_end_the_stream() {
    type Change = fn(Vec<Vec<u8>>) -> Vec<Vec<u8>>;
    let changes: [(&str, Change); 3] = [
        ("repeated", |r| vec![r[0].clone(), r[0].clone(), r[1].clone()]),
        ("left out", |r| vec![r[1].clone()]),
        ("swapped", |r| vec![r[1].clone(), r[0].clone()]),
    ];
    for (what, change) in changes {
        let (line, mut a, mut b) = session(TEXT);
        let mut records = Vec::new();
        for part in [b"first", b"other"] {
            assert_eq!(a.send(part), Io::Done(5));
            records.push(line.borrow_mut().pipes[0].bytes.drain(..).collect::<Vec<u8>>());
        }
        line.borrow_mut().pipes[0].bytes.extend(change(records).concat());
        let mut buffer = [0; 64];
        let mut got = Vec::new();
        let end = loop {
            match b.recv(&mut buffer) {
                Io::Done(n) => got.extend(&buffer[..n]),
                end => break end,
            }
        };
        assert_eq!((end, b.breach()), (Io::Failed, Some(Breach::Tampered)), "{what}");
        assert!(b"first".starts_with(&got[..]), "{what}: {got:?}");
    }
}

#[test]
fn a_recorded_stream_is_worth_nothing_on_another_connection() {
    let (line, _a, _b) = session(TEXT);
    let recorded = line.borrow().pipes[0].seen.clone();
    let again = self::line();
    let (left, right) = good();
    let (_, mut b) = ends(&again, &left, &right);
    again.borrow_mut().pipes[0].bytes.extend(&recorded);
    let mut buffer = [0; 64];
    let end = (0..TURNS).map(|_| b.recv(&mut buffer)).find(|io| *io != Io::Wait);
    assert_eq!((end, b.breach()), (Some(Io::Failed), Some(Breach::Tampered)));
}

/// sync/PROTOCOL.md R-54.
#[test]
fn a_stream_cut_short_is_not_one_that_ended() {
    let (_line, a, mut b) = session(TEXT);
    let mut buffer = [0; 64];
    // Ended in order: the other end says so under its key.
    drop(a);
    assert_eq!((b.recv(&mut buffer), b.breach()), (Io::Closed, None));
    let (line, a, mut b) = session(TEXT);
    drop(a);
    line.borrow_mut().pipes[0].bytes.clear();
    assert_eq!(
        (b.recv(&mut buffer), b.breach()),
        (Io::Failed, Some(Breach::Truncated))
    );
    // Half a record is none.
    let (line, mut a, mut b) = session(TEXT);
    assert_eq!(a.send(b"more"), Io::Done(4));
    drop(a);
    line.borrow_mut().pipes[0].bytes.truncate(10);
    assert_eq!(
        (b.recv(&mut buffer), b.breach()),
        (Io::Failed, Some(Breach::Truncated))
    );
}

#[test]
fn what_is_handed_over_at_once_shares_a_record() {
    let (line, mut a, _b) = session(TEXT);
    let before = line.borrow().pipes[0].seen.len();
    assert_eq!(a.send(&[7; 4_000]), Io::Done(4_000));
    // RFC 8446 section 5.2: header 5, type 1, tag 16.
    assert_eq!(line.borrow().pipes[0].seen.len() - before, 4_000 + 22);
}

/// sync/PROTOCOL.md R-57.
#[test]
fn a_peer_that_does_not_read_costs_bounded_memory() {
    let (line, mut a, mut b) = session(TEXT);
    line.borrow_mut().room = 1_000;
    let mut taken = 0;
    for _ in 0..10_000 {
        if let Io::Done(n) = a.send(&[1; 10_000]) {
            taken += n;
        }
    }
    assert!((10_000..=64 * 1024).contains(&taken), "{taken}");
    assert_eq!(a.flush(), Io::Wait);
    // And as soon as it reads, all of it arrives.
    let mut got = Vec::new();
    drive((&mut a, &mut b), b"", &mut got);
    assert_eq!(got, vec![1; taken]);
    assert_eq!(a.flush(), Io::Done(0));
}

/// sync/PROTOCOL.md R-56.
#[test]
fn a_second_key_is_taken_into_use_without_a_pause_and_the_first_one_removed() {
    let (left, right) = (keyring(1, &left_trusts(&[2])), keyring(2, &right_trusts(&[1])));
    let first_line = line();
    let (mut a, mut b) = ends(&first_line, &left, &right);
    let mut got = Vec::new();
    drive((&mut a, &mut b), b"one ", &mut got);
    // The right node learns the left one's next key; the stream goes on.
    right.replace(&key(2), &right_trusts(&[1, 4])).unwrap();
    drive((&mut a, &mut b), b"two ", &mut got);
    // The left node takes it into use: the stream goes on, a new one uses the new key.
    left.replace(&key(4), &left_trusts(&[2])).unwrap();
    drive((&mut a, &mut b), b"three ", &mut got);
    let second_line = line();
    let (mut c, mut d) = ends(&second_line, &left, &right);
    let mut fresh = Vec::new();
    drive((&mut c, &mut d), TEXT, &mut fresh);
    assert_eq!((&got[..], &fresh[..]), (&b"one two three "[..], TEXT));
    // The old key is removed: what hangs on it ends, the other stream doesn't notice.
    right.replace(&key(2), &right_trusts(&[4])).unwrap();
    assert_eq!(a.send(b"four"), Io::Done(4));
    let mut buffer = [0; 64];
    assert_eq!(
        (b.recv(&mut buffer), b.breach()),
        (Io::Failed, Some(Breach::KeyRemoved))
    );
    drive((&mut c, &mut d), b"!", &mut fresh);
    assert_eq!(fresh, [TEXT, b"!"].concat());
}

#[test]
fn keys_that_cannot_be_right_leave_the_old_ones() {
    let ring = keyring(1, &left_trusts(&[2]));
    let own = ring.replace(&key(1), &left_trusts(&[2, 1]));
    assert!(
        matches!(own, Err(KeyringError::Own(RIGHT))),
        "a mirror would be believed"
    );
    assert!(ring.trusts((LEFT, RIGHT), &key(2).public().spki()));
}

/// sync/PROTOCOL.md R-52.
#[test]
fn strangers_get_no_byte_in_and_no_byte_out() {
    let (left, _) = good();
    let line = line();
    let mut net = SecureNet::new(Lines(Rc::clone(&line)), Some(left));
    assert!(net.connect(LEFT, LEFT).is_none());
    line.borrow_mut().waiting.push_back(LEFT);
    line.borrow_mut().pipes[0].bytes.extend(b"TWPS");
    let mut wire = net.accept().unwrap().wire;
    assert_eq!(
        (wire.send(b"x"), wire.recv(&mut [0; 8]), wire.flush()),
        (Io::Failed, Io::Failed, Io::Failed)
    );
    assert_eq!(line.borrow().pipes[1].seen, b"");
}

/// Tries until it works out; the kernel's loopback needs no time of ours, only a few calls.
fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1_000_000 {
        if let Some(done) = attempt() {
            return done;
        }
        std::thread::yield_now();
    }
    unreachable!("never: {what}");
}

/// Two ends of a TCP connection over loopback.
fn over_loopback(
    left: Arc<Keyring>,
    right: Arc<Keyring>,
) -> (
    SecureWire<crate::socket::SyncWire>,
    SecureWire<crate::socket::SyncWire>,
) {
    let port = std::net::TcpListener::bind((RIGHT, 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let settings = SyncSettings {
        interface: None,
        second: None,
        port,
        dscp: 48,
    };
    let listener = SyncNet::listener(settings.clone(), &[RIGHT]).unwrap();
    let mut server = SecureNet::new(listener, Some(right));
    let mut client = SecureNet::new(SyncNet::connector(settings), Some(left));
    let wire = client.connect(LEFT, RIGHT).unwrap();
    let incoming = eventually("accepted", || server.accept());
    (wire, incoming.wire)
}

#[test]
fn megabytes_cross_a_real_connection_in_order() {
    let (left, right) = good();
    let (mut a, mut b) = over_loopback(left, right);
    let sent: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_be_bytes).collect();
    let (mut at, mut got, mut buffer) = (0, Vec::<u8>::new(), vec![0; 100_000]);
    eventually("all of it", || {
        if let Io::Done(n) = a.send(&sent[at..]) {
            at += n;
        }
        a.recv(&mut [0; 16]);
        if let Io::Done(n) = b.recv(&mut buffer) {
            got.extend(&buffer[..n]);
        }
        (got.len() >= sent.len()).then_some(())
    });
    assert!(got == sent);
    drop(a);
    let end = eventually("closed", || {
        Some(b.recv(&mut buffer)).filter(|io| *io != Io::Wait)
    });
    assert_eq!((end, b.breach()), (Io::Closed, None));
}

#[test]
fn a_wrong_key_is_refused_over_a_real_connection() {
    let (left, right) = (keyring(3, &left_trusts(&[2])), keyring(2, &right_trusts(&[1])));
    let (mut a, mut b) = over_loopback(left, right);
    let mut buffer = [0; 64];
    let end = eventually("refused", || {
        a.send(TEXT);
        a.recv(&mut [0; 16]);
        Some(b.recv(&mut buffer)).filter(|io| *io != Io::Wait)
    });
    assert_eq!((end, b.breach()), (Io::Failed, Some(Breach::KeyUnknown)));
}
