//! A conntrack: what the table stores for one tracked connection.
//!
//! Made by the admit stage from a first packet, or by absorb from a PUT of the peer; read and changed by track and
//! rewrite for each packet; its `sync` part belongs to [`crate::slot`], its NAT part is an index into the NAT
//! module's books, which must be told when the conntrack goes.
//!
//! It is three cache lines long, and its fields are in the order of who needs them. The first line is what every packet
//! reads and writes, and what a record tells; the second has the TCP windows and the counters, so that a packet touches it only
//! where there are windows or where it is counted; the third is what replication and a review of the rules want.
//!
//! What a UDP flow or a query remembers is told by its class, so only TCP has a state beside it.

use core::mem::offset_of;

use super::counts::{Carries, Counted, Counts};
use super::{Tuples, icmp, tcp, udp};
use crate::config::{InterfaceId, Timeouts};
use crate::delta::{Class, Handle, NatPart, PutRecord, Scales, SlotRef, Term, Version};
use crate::flow::{Addr, Direction, FlowKey, VrfId, proto};
use crate::prefetch::prefetch;
use crate::slot::{SyncState, tuples_digest};
use crate::time::Instant;

/// One tracked connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Conntrack {
    /// Original and reply tuple, and source NAT.
    pub tuples: Tuples,
    /// Slot of the inside VRF that owns it.
    pub slot: u16,
    /// Coarse deadline on the scale of [`Instant::secs`].
    pub expires_s: u32,
    /// When the peer was last told a lifetime, on the same scale.
    pub refreshed_s: u32,
    /// Reign of this node in which its state was last kept up; 0 when it never was.
    reign: Reign,
    /// Interface its first packet came in by; [`NO_INTERFACE`] when another node made it.
    inbound: u16,
    /// Replicated class: that of its state at the last packet, kept to see it change.
    pub class: Class,
    /// Replicated window scales: those of its state at the last change of class.
    pub scales: Scales,
    /// What its place in the table is at present: the table's own. Here, in the line that every packet reads, so that
    /// whoever looks for a tuple waits for no other line.
    pub(super) standing: Standing,
    /// Its packets wait until the peers know it.
    pub waits: bool,
    /// State of a TCP connection; [`tcp::Track::UNUSED`] for any other protocol.
    tcp: tcp::Track,
    counts: Counts,
    /// Replication.
    pub sync: SyncState,
    /// Firewall rule that let it in; 0 for the default, and when another node made it.
    pub rule: u32,
    /// When it was created or learnt, on the scale of [`Instant::secs`].
    pub created_s: u32,
    carries: Carries,
}

/// As `inbound`: none. No interface has this number.
const NO_INTERFACE: u16 = u16::MAX;

/// Bytes of a cache line.
const LINE: usize = 64;

const _: () = assert!(
    offset_of!(Conntrack, tcp) == LINE,
    "what every packet needs is one line, and so is what tells whether a place holds it"
);
const _: () = assert!(
    offset_of!(Conntrack, counts) + size_of::<Counts>() == 2 * LINE,
    "windows and counters are one more"
);
const _: () = assert!(
    offset_of!(Conntrack, sync) == 2 * LINE && size_of::<SyncState>() <= LINE,
    "replication's part is one"
);
const _: () = assert!(size_of::<Conntrack>() == 3 * LINE);

/// What a place of the table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing.
    Vacant,
    /// A conntrack that lookup doesn't find.
    Dead,
    /// A conntrack that lookup finds.
    Live,
}

/// A conntrack's share in the NAT module's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatBinding {
    /// What the peer is told.
    pub part: NatPart,
    /// The NAT module's own index; nobody else reads a meaning into it.
    pub mapping: u32,
    /// NAT rule that chose the pool; 0 when another node made it, and when somebody outside did.
    pub rule: u32,
}

/// Protocol state, as a conntrack is made with it and as it is told. Only that of TCP is kept as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// TCP.
    Tcp(tcp::Track),
    /// UDP.
    Udp(udp::Track),
    /// ICMP or `ICMPv6` query.
    Icmp(icmp::Track),
    /// Any other protocol: which ways packets have gone, as for UDP.
    Other(udp::Track),
}

impl Conntrack {
    /// What is in a place that holds nothing.
    pub(super) fn vacant() -> Self {
        let state = State::Other(udp::Track::open());
        Self {
            standing: Standing::Vacant,
            ..Self::new(Tuples::NONE, 0, state, &Timeouts::default(), Instant::default())
        }
    }

    /// A conntrack of `now` with nothing counted, no NAT, no rule and nobody told. `expires_s` is set from the
    /// state's lifetime. The state is one of the tuples' protocol, which never changes.
    #[must_use]
    pub fn new(tuples: Tuples, slot: u16, state: State, timeouts: &Timeouts, now: Instant) -> Self {
        debug_assert!(state.is_of(tuples.proto()), "a state of another protocol");
        Self {
            tuples,
            slot,
            expires_s: now.secs().saturating_add(state.timeout_s(timeouts)),
            refreshed_s: now.secs(),
            reign: Reign(0),
            inbound: NO_INTERFACE,
            class: state.class(),
            scales: state.scales(),
            standing: Standing::Dead,
            waits: false,
            tcp: match state {
                State::Tcp(track) => track,
                _ => tcp::Track::UNUSED,
            },
            counts: Counts::default(),
            sync: SyncState::default(),
            rule: 0,
            created_s: now.secs(),
            carries: Carries::default(),
        }
    }

    /// How many cache lines of an entry a packet touches that is counted, or not.
    #[inline]
    #[must_use]
    pub(super) const fn lines_of_packet(proto: u8, counted: bool) -> usize {
        if proto == proto::TCP || counted { 2 } else { 1 }
    }

    /// Asks for what lists a change of it: most packets change nothing that is told.
    #[inline]
    pub(crate) fn expect_change(&self) {
        prefetch(&self.sync);
    }

    /// Protocol state.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.tcp() {
            Some(track) => State::Tcp(*track),
            None => State::inherited(self.proto(), self.class, self.scales),
        }
    }

    /// State of a TCP connection; none for other protocols.
    #[inline]
    #[must_use]
    pub const fn tcp(&self) -> Option<&tcp::Track> {
        if self.proto() == proto::TCP {
            Some(&self.tcp)
        } else {
            None
        }
    }

    /// As [`Self::tcp`], to have it see a segment.
    #[inline]
    pub const fn tcp_mut(&mut self) -> Option<&mut tcp::Track> {
        if self.proto() == proto::TCP {
            Some(&mut self.tcp)
        } else {
            None
        }
    }

    /// A packet of `ip_len` bytes has gone in a direction.
    #[inline]
    pub fn count(&mut self, direction: Direction, ip_len: u16) {
        if self.counts.add(direction, ip_len) {
            self.carries.add(direction);
        }
    }

    /// What was counted; none when no packet was.
    #[must_use]
    pub fn counted(&self) -> Option<Counted> {
        Counted::of(&self.counts, &self.carries)
    }

    /// The tuple of a direction, as its packets arrive.
    #[inline]
    #[must_use]
    pub const fn key(&self, direction: Direction) -> FlowKey {
        self.tuples.key(direction)
    }

    /// Original and reply tuple; index with [`Direction::index`].
    #[inline]
    #[must_use]
    pub fn keys(&self) -> [FlowKey; 2] {
        self.tuples.keys()
    }

    /// VRF in which the original direction arrives: the inside VRF.
    #[inline]
    #[must_use]
    pub const fn vrf(&self) -> VrfId {
        self.tuples.vrf(Direction::Original)
    }

    /// The slot that owns it.
    #[inline]
    #[must_use]
    pub const fn at(&self) -> SlotRef {
        SlotRef {
            vrf: self.vrf(),
            slot: self.slot,
        }
    }

    /// Interface its first packet came in by; none when another node made it.
    #[must_use]
    pub fn inbound(&self) -> Option<InterfaceId> {
        (self.inbound != NO_INTERFACE).then_some(InterfaceId(self.inbound))
    }

    /// Its first packet came in by `interface`.
    pub const fn arrived_by(&mut self, interface: InterfaceId) {
        self.inbound = interface.0;
    }

    /// IANA protocol number.
    #[inline]
    #[must_use]
    pub const fn proto(&self) -> u8 {
        self.tuples.proto()
    }

    /// Source NAT, if any.
    #[inline]
    #[must_use]
    pub const fn nat(&self) -> Option<NatBinding> {
        self.tuples.nat()
    }

    /// The packet that was just judged has changed the class: the peer is to be told, with what else is settled by now.
    pub const fn enter_class(&mut self, class: Class) {
        self.class = class;
        self.scales = match self.tcp() {
            Some(track) => track.scales(),
            None => Scales::NONE,
        };
    }

    /// A record tells another class, or other scales: nothing else is known of its state any more.
    pub const fn inherit(&mut self, class: Class, scales: Scales) {
        (self.class, self.scales) = (class, scales);
        if let Some(track) = self.tcp_mut() {
            *track = tcp::Track::inherited(class, scales);
        }
    }

    /// To be called before a packet is judged in a reign of this node. Packets of other reigns went through another
    /// node: what this one remembers of windows may be long past, so the state is as good as learnt from a record.
    #[inline]
    pub fn observe_reign(&mut self, reign: Reign) {
        if self.reign != reign {
            self.reign = reign;
            self.inherit(self.class, self.scales);
        }
    }

    /// A packet has made it in the reign of `term`, from which on its state is kept up.
    pub const fn begin_reign(&mut self, term: Term) {
        self.reign = Reign::of(term);
    }

    /// VRF and destination with which a packet of `dir` leaves.
    #[inline]
    #[must_use]
    pub const fn destination(&self, dir: Direction) -> (VrfId, Addr) {
        self.tuples.destination(dir)
    }

    /// Tuple with which a packet of `dir` leaves; its VRF is the one it leaves into.
    #[inline]
    #[must_use]
    pub const fn translation(&self, dir: Direction) -> FlowKey {
        self.key(dir.reversed()).reversed()
    }

    /// Whether packets leave with another address or port than they came with. (A change of VRF alone isn't one.)
    #[must_use]
    pub fn is_translated(&self) -> bool {
        let (key, out) = (
            self.key(Direction::Original),
            self.translation(Direction::Original),
        );
        key != FlowKey { vrf: key.vrf, ..out }
    }

    /// The original tuple as the inside knows it, which is what rules are about: from inside as it comes, from outside as it
    /// leaves.
    #[must_use]
    pub fn inside(&self) -> FlowKey {
        let (key, out) = (
            self.key(Direction::Original),
            self.translation(Direction::Original),
        );
        if out.src == key.src { out } else { key }
    }

    /// Remaining lifetime in seconds.
    #[must_use]
    pub const fn lifetime_s(&self, now: Instant) -> u32 {
        self.expires_s.saturating_sub(now.secs())
    }

    /// Its digest as of `version`: that of the record that tells it.
    #[must_use]
    pub fn digest(&self, version: Version) -> u64 {
        let nat = self.nat().map(|nat| nat.part);
        tuples_digest(self.tuples.words(), nat, (self.class, self.scales), version)
    }

    /// The record that tells the peer everything, under the version in `sync`. It names no handle.
    #[inline]
    #[must_use]
    pub fn to_put(&self, now: Instant) -> PutRecord {
        let [original, reply] = self.keys();
        PutRecord {
            original,
            reply,
            nat: self.nat().map(|nat| nat.part),
            class: self.class,
            scales: self.scales,
            lifetime_s: self.lifetime_s(now),
            version: self.sync.version,
            handle: Handle::NONE,
        }
    }
}

/// What tells the reigns of one process apart: of its terms nothing but the count of reigns differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign(u16);

impl Reign {
    /// The reign under `term`.
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "folded: the same again after 65,536 reigns"
    )]
    pub const fn of(term: Term) -> Self {
        let Term(word) = term;
        Self((word ^ word >> 16 ^ word >> 32 ^ word >> 48) as u16)
    }
}

impl State {
    /// State of an entry learnt from the peer, of which only protocol, class and window scales are known.
    #[must_use]
    pub const fn inherited(protocol: u8, class: Class, scales: Scales) -> Self {
        match protocol {
            proto::TCP => Self::Tcp(tcp::Track::inherited(class, scales)),
            proto::UDP => Self::Udp(udp::Track::inherited(class)),
            proto::ICMP | proto::ICMP6 => Self::Icmp(icmp::Track::inherited(class)),
            _ => Self::Other(udp::Track::inherited(class)),
        }
    }

    /// Whether it is one of an IANA protocol.
    const fn is_of(&self, protocol: u8) -> bool {
        match self {
            Self::Tcp(_) => protocol == proto::TCP,
            Self::Udp(_) => protocol == proto::UDP,
            Self::Icmp(_) => matches!(protocol, proto::ICMP | proto::ICMP6),
            Self::Other(_) => !matches!(protocol, proto::TCP | proto::UDP | proto::ICMP | proto::ICMP6),
        }
    }

    /// Replicated class.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Tcp(track) => track.class(),
            Self::Udp(track) | Self::Other(track) => track.class(),
            Self::Icmp(track) => track.class(),
        }
    }

    /// Window scales that an heir of the connection has to know.
    #[must_use]
    pub const fn scales(&self) -> Scales {
        match self {
            Self::Tcp(track) => track.scales(),
            _ => Scales::NONE,
        }
    }

    /// Idle lifetime in seconds.
    #[must_use]
    pub const fn timeout_s(&self, timeouts: &Timeouts) -> u32 {
        match self {
            Self::Tcp(track) => track.timeout().timeout_s(timeouts),
            Self::Udp(track) => track.timeout_s(timeouts),
            Self::Icmp(track) => track.timeout_s(timeouts),
            Self::Other(_) => timeouts.other_s,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::conntrack_digest;
    use crate::stage::meta::TcpSegment;
    use crate::verdict::Drop;
    use crate::wire::tcp::{ACK, SYN};

    fn translated() -> Conntrack {
        let original = FlowKey {
            src: Addr::v4([100, 64, 0, 1]),
            dst: Addr::v4([203, 0, 113, 9]),
            src_port: 5000,
            dst_port: 443,
            vrf: VrfId(1),
            proto: proto::TCP,
        };
        let reply = FlowKey {
            src: original.dst,
            dst: Addr::v4([198, 51, 100, 1]),
            src_port: 443,
            dst_port: 1024,
            vrf: VrfId(2),
            proto: proto::TCP,
        };
        let state = State::inherited(proto::TCP, Class::Opening, Scales::NONE);
        Conntrack::new(
            Tuples::new(&[original, reply]).unwrap(),
            3,
            state,
            &Timeouts::default(),
            Instant::from_secs(100),
        )
    }

    /// A conntrack of a protocol, made with a state.
    fn of(protocol: u8, state: State) -> Conntrack {
        let [original, reply] = translated().keys().map(|key| FlowKey {
            proto: protocol,
            ..key
        });
        let tuples = Tuples::new(&[original, reply]).unwrap();
        Conntrack::new(tuples, 3, state, &Timeouts::default(), Instant::from_secs(100))
    }

    #[test]
    fn every_state_is_told_as_the_conntrack_was_made_with_it() {
        let syn = TcpSegment {
            seq: 7,
            flags: SYN,
            window_scale: Some(3),
            ..TcpSegment::default()
        };
        let mut states = vec![(proto::TCP, State::Tcp(tcp::Track::open(&syn).unwrap()))];
        for class in [Class::Opening, Class::Established, Class::Closing] {
            let track = tcp::Track::inherited(class, Scales::new(2, 7));
            states.push((proto::TCP, State::Tcp(track)));
        }
        for track in [icmp::Track::Asked, icmp::Track::Answered] {
            states.extend([proto::ICMP, proto::ICMP6].map(|protocol| (protocol, State::Icmp(track))));
        }
        for track in [udp::Track::Opening, udp::Track::Established] {
            states.push((proto::UDP, State::Udp(track)));
            states.extend([0, 47, 132, 255].map(|protocol| (protocol, State::Other(track))));
        }
        for (protocol, state) in states {
            let conntrack = of(protocol, state);
            assert_eq!(conntrack.state(), state, "{protocol}");
            assert_eq!(
                (conntrack.class, conntrack.scales),
                (state.class(), state.scales())
            );
        }
    }

    #[test]
    fn what_a_record_tells_is_all_that_is_known_then() {
        let protocols = [proto::TCP, proto::UDP, proto::ICMP, proto::ICMP6, 47];
        let classes = [Class::Opening, Class::Established, Class::Closing];
        let scales = Scales::new(2, 7);
        for (protocol, before) in protocols.into_iter().flat_map(|p| classes.map(|c| (p, c))) {
            for after in classes {
                let mut conntrack = of(protocol, State::inherited(protocol, before, Scales::NONE));
                conntrack.inherit(after, scales);
                assert_eq!(conntrack.state(), State::inherited(protocol, after, scales));
                assert_eq!((conntrack.class, conntrack.scales), (after, scales));
            }
        }
    }

    #[test]
    fn each_direction_leaves_as_the_other_one_arrives() {
        let conntrack = translated();
        let out = conntrack.translation(Direction::Original);
        assert_eq!((out.src, out.src_port), (Addr::v4([198, 51, 100, 1]), 1024));
        assert_eq!(
            (out.dst, out.dst_port, out.vrf),
            (Addr::v4([203, 0, 113, 9]), 443, VrfId(2))
        );
        let back = conntrack.translation(Direction::Reply);
        assert_eq!((back.dst, back.dst_port), (Addr::v4([100, 64, 0, 1]), 5000));
        assert_eq!(
            (back.src, back.src_port, back.vrf),
            (Addr::v4([203, 0, 113, 9]), 443, VrfId(1))
        );
    }

    #[test]
    fn the_inside_knows_a_flow_by_what_is_not_public() {
        let from_inside = translated();
        let [original, reply] = from_inside.keys();
        assert_eq!(from_inside.inside(), original);
        // From outside to the public endpoint: the other way round.
        let mut from_outside = translated();
        from_outside.tuples = Tuples::new(&[reply, original]).unwrap();
        assert_eq!(from_outside.inside(), original.reversed());
        let mut plain = translated();
        plain.tuples = Tuples::new(&[original, original.reversed()]).unwrap();
        assert_eq!(plain.inside(), original);
    }

    #[test]
    fn a_change_of_vrf_alone_is_no_translation() {
        let mut conntrack = translated();
        assert!(conntrack.is_translated());
        let original = conntrack.key(Direction::Original);
        let reply = FlowKey {
            vrf: VrfId(2),
            ..original.reversed()
        };
        conntrack.tuples = Tuples::new(&[original, reply]).unwrap();
        assert!(!conntrack.is_translated());
    }

    #[test]
    fn a_put_carries_what_remains_of_the_lifetime() {
        let conntrack = translated();
        assert_eq!(conntrack.to_put(Instant::from_secs(150)).lifetime_s, 190);
        assert_eq!(conntrack.to_put(Instant::from_secs(9999)).lifetime_s, 0);
    }

    #[test]
    fn an_entry_has_the_digest_of_its_record() {
        let plain = translated();
        let mut bound = translated();
        bound.tuples.bind(NatBinding {
            part: NatPart {
                grant: 77,
                mapping: true,
            },
            mapping: 3,
            rule: 1,
        });
        let mut wide = translated();
        let original = FlowKey {
            src: Addr::v6([0x20; 16]),
            dst: Addr::v6([0x2a; 16]),
            ..plain.key(Direction::Original)
        };
        wide.tuples = Tuples::new(&[original, original.reversed()]).unwrap();
        let version = Version {
            term: Term(0x101),
            counter: 9,
        };
        for mut conntrack in [plain, bound, wide] {
            conntrack.sync.version = version;
            let put = conntrack.to_put(Instant::from_secs(100));
            assert_eq!(conntrack.digest(version), conntrack_digest(&put), "{put:?}");
        }
    }

    #[test]
    fn a_node_that_was_demoted_and_returns_believes_no_window_of_its_former_reign() {
        let (own, peers, own_again) = (Term(0x101), Term(0x202), Term(0x301));
        let segment = |flags, seq, ack| TcpSegment {
            seq,
            ack,
            window: 1_000,
            flags,
            ..TcpSegment::default()
        };
        let mut conntrack = translated();
        *conntrack.tcp_mut().unwrap() = tcp::Track::open(&segment(SYN, 100, 0)).unwrap();
        conntrack.begin_reign(own);
        let observe = |conntrack: &mut Conntrack, direction, segment: TcpSegment| {
            let class = conntrack
                .tcp_mut()
                .unwrap()
                .observe(direction, &segment, true)
                .map(|outcome| outcome.class);
            conntrack.class = class.unwrap_or(conntrack.class);
            class
        };
        let (original, reply) = (Direction::Original, Direction::Reply);
        observe(&mut conntrack, reply, segment(SYN | ACK, 500, 101)).unwrap();
        observe(&mut conntrack, original, segment(ACK, 101, 501)).unwrap();
        // Meanwhile another node carried a gigabyte.
        let far = segment(ACK, 101, 1 << 30);
        conntrack.observe_reign(Reign::of(own));
        assert_eq!(observe(&mut conntrack, original, far), Err(Drop::TcpWindow));
        for term in [peers, own_again] {
            conntrack.observe_reign(Reign::of(term));
            assert_eq!(observe(&mut conntrack, original, far), Ok(Class::Established));
        }
    }

    #[test]
    fn every_protocol_and_class_is_inherited_with_its_own_lifetime() {
        let t = Timeouts::default();
        let table = [
            (
                proto::TCP,
                [t.tcp_opening_s, t.tcp_established_s, t.tcp_closing_s],
            ),
            (
                proto::UDP,
                [t.udp_opening_s, t.udp_established_s, t.udp_established_s],
            ),
            (proto::ICMP, [t.icmp_s; 3]),
            (proto::ICMP6, [t.icmp_s; 3]),
            (47, [t.other_s; 3]),
        ];
        for (protocol, lifetimes) in table {
            let classes = [Class::Opening, Class::Established, Class::Closing];
            for (class, lifetime_s) in classes.into_iter().zip(lifetimes) {
                let state = State::inherited(protocol, class, Scales::NONE);
                assert_eq!(state.timeout_s(&t), lifetime_s, "{protocol} {class:?}");
            }
        }
    }
}
