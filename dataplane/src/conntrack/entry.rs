//! A conntrack: what the table stores for one tracked connection.
//!
//! Made by the admit stage from a first packet, or by absorb from a PUT of the peer; read and changed by track and
//! rewrite for each packet; its `sync` part belongs to [`crate::slot`], its NAT part is an index into the NAT
//! module's books, which must be told when the conntrack goes.

use super::{icmp, tcp, udp};
use crate::config::Timeouts;
use crate::delta::{Class, Handle, NatPart, PutRecord, Scales, Term, Version};
use crate::flow::{Direction, FlowKey, proto};
use crate::slot::{SyncState, tuples_digest};
use crate::time::Instant;

/// One tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conntrack {
    /// Original and reply tuple, each as its packets arrive; index with [`Direction::index`].
    pub keys: [FlowKey; 2],
    /// Protocol state.
    pub state: State,
    /// Replicated class: that of `state` at the last packet, kept to see it change.
    pub class: Class,
    /// Replicated window scales: those of `state` at the last change of class.
    pub scales: Scales,
    /// Slot of the inside VRF that owns it.
    pub slot: u16,
    /// Coarse deadline on the scale of [`Instant::secs`].
    pub expires_s: u32,
    /// When the peer was last told a lifetime, on the same scale.
    pub refreshed_s: u32,
    /// Source NAT, if any.
    pub nat: Option<NatBinding>,
    /// Replication.
    pub sync: SyncState,
    /// Term of this node's reign in which `state` was last kept up; none when it never was.
    pub reign: Term,
    /// Firewall rule that let it in; 0 for the default, and when another node made it.
    pub rule: u32,
    /// NAT rule that chose its pool; 0 for none, and when another node made it.
    pub nat_rule: u32,
    /// When it was created or learnt, on the scale of [`Instant::secs`].
    pub created_s: u32,
    /// Packets per direction.
    pub packets: [u64; 2],
    /// Bytes of IP packets per direction.
    pub bytes: [u64; 2],
}

/// A conntrack's share in the NAT module's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatBinding {
    /// What the peer is told.
    pub part: NatPart,
    /// The NAT module's own index; nobody else reads a meaning into it.
    pub mapping: u32,
}

/// Protocol state.
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
    /// A conntrack of `now` with nothing counted, no NAT, no rule and nobody told. `expires_s` is set from the
    /// state's lifetime.
    #[must_use]
    pub fn new(keys: [FlowKey; 2], slot: u16, state: State, timeouts: &Timeouts, now: Instant) -> Self {
        Self {
            keys,
            state,
            class: state.class(),
            scales: state.scales(),
            slot,
            expires_s: now.secs().saturating_add(state.timeout_s(timeouts)),
            refreshed_s: now.secs(),
            nat: None,
            sync: SyncState::default(),
            reign: Term::NONE,
            rule: 0,
            nat_rule: 0,
            created_s: now.secs(),
            packets: [0; 2],
            bytes: [0; 2],
        }
    }

    /// The packet that was just judged has changed the class: the peer is to be told, with what else is settled by now.
    pub const fn enter_class(&mut self, class: Class) {
        self.class = class;
        self.scales = self.state.scales();
    }

    /// To be called before a packet is judged in the reign of `term`. Packets of other reigns went through another
    /// node: what this one remembers of windows may be long past, so the state is as good as learnt from a record.
    #[inline]
    pub fn observe_reign(&mut self, term: Term) {
        if self.reign != term {
            self.reign = term;
            self.state = State::inherited(self.keys[0].proto, self.class, self.scales);
        }
    }

    /// Tuple with which a packet of `dir` leaves; its VRF is the one it leaves into.
    #[inline]
    #[must_use]
    pub const fn translation(&self, dir: Direction) -> FlowKey {
        self.keys[dir.reversed().index()].reversed()
    }

    /// Whether packets leave with another address or port than they came with. (A change of VRF alone isn't one.)
    #[must_use]
    pub fn is_translated(&self) -> bool {
        let out = self.translation(Direction::Original);
        self.keys[0]
            != FlowKey {
                vrf: self.keys[0].vrf,
                ..out
            }
    }

    /// Remaining lifetime in seconds.
    #[must_use]
    pub const fn lifetime_s(&self, now: Instant) -> u32 {
        self.expires_s.saturating_sub(now.secs())
    }

    /// Its digest as of `version`: that of the record that tells it.
    #[must_use]
    pub fn digest(&self, version: Version) -> u64 {
        let [original, reply] = &self.keys;
        let nat = self.nat.map(|nat| nat.part);
        tuples_digest([original, reply], nat, (self.class, self.scales), version)
    }

    /// The record that tells the peer everything, under the version in `sync`. It names no handle.
    #[must_use]
    pub fn to_put(&self, now: Instant) -> PutRecord {
        PutRecord {
            original: self.keys[0],
            reply: self.keys[1],
            nat: self.nat.map(|nat| nat.part),
            class: self.class,
            scales: self.scales,
            lifetime_s: self.lifetime_s(now),
            version: self.sync.version,
            handle: Handle::NONE,
        }
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
    use crate::flow::{Addr, VrfId};
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
            [original, reply],
            3,
            state,
            &Timeouts::default(),
            Instant::from_secs(100),
        )
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
    fn a_change_of_vrf_alone_is_no_translation() {
        let mut conntrack = translated();
        assert!(conntrack.is_translated());
        conntrack.keys[1] = FlowKey {
            vrf: VrfId(2),
            ..conntrack.keys[0].reversed()
        };
        assert!(!conntrack.is_translated());
    }

    #[test]
    fn a_put_carries_what_remains_of_the_lifetime() {
        let conntrack = translated();
        assert_eq!(conntrack.to_put(Instant::from_secs(150)).lifetime_s, 190);
        assert_eq!(conntrack.to_put(Instant::from_secs(9999)).lifetime_s, 0);
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
        conntrack.state = State::Tcp(tcp::Track::open(&segment(SYN, 100, 0)).unwrap());
        conntrack.reign = own;
        let observe = |conntrack: &mut Conntrack, direction, segment: TcpSegment| {
            let State::Tcp(track) = &mut conntrack.state else {
                panic!("not TCP any more");
            };
            let class = track
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
        conntrack.observe_reign(own);
        assert_eq!(observe(&mut conntrack, original, far), Err(Drop::TcpWindow));
        for term in [peers, own_again] {
            conntrack.observe_reign(term);
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
