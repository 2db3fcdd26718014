//! How a stage ends: the packet goes on, goes to the kernel, or is dropped for a reason that has a counter.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. Each reason is a counter of the worker that dropped it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Drop { $($(#[doc = $doc])+ $variant,)+ }

        impl Drop {
            /// Every reason, in counter order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used by counters, metrics and ctl.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One line that tells an operator what happened.
            #[must_use]
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// Frame shorter than the headers it announces.
    Truncated = "truncated",
    /// Multi-segment or larger than the buffer of one packet.
    Oversized = "oversized",
    /// Ethernet source is multicast, our own address came back, or a unicast packet came in a group frame.
    BadMac = "bad-mac",
    /// More than two VLAN tags, or tags that no interface has.
    UnknownVlan = "unknown-vlan",
    /// Frame for another station's MAC address.
    OtherHost = "other-host",
    /// Ethertype that is neither IP, ARP nor for the kernel.
    UnknownEthertype = "unknown-ethertype",
    /// IP version, header length or total length contradict one another.
    BadIpHeader = "bad-ip-header",
    /// IPv4 header checksum is wrong.
    BadIpChecksum = "bad-ip-checksum",
    /// TCP or ICMP checksum is wrong, or that of the first UDP packet of a flow.
    BadL4Checksum = "bad-l4-checksum",
    /// Source or destination address that may not appear in a forwarded packet (RFC 1812 5.3.7, RFC 4291 2.5), or a
    /// packet to itself: equal addresses on the wire, or a subscriber's own public address and port.
    BadAddress = "bad-address",
    /// Extension headers too many, too long, or out of place.
    BadExtensionHeader = "bad-extension-header",
    /// IPv4 source routing (RFC 7126 4.3, 4.4).
    SourceRoute = "source-route",
    /// TCP, UDP or ICMP header shorter or longer than the packet, or fields that contradict one another.
    BadL4Header = "bad-l4-header",
    /// TCP flags that no sane stack sends.
    BadTcpFlags = "bad-tcp-flags",
    /// Fragment of a message that is only handled whole: an ICMP error.
    Fragment = "fragment",
    /// Fragment of no bytes, of a length that is no multiple of 8 with more to come, or beyond 65,535 bytes.
    FragmentBad = "fragment-bad",
    /// First fragment without its whole transport header, or a later one that reaches into it (RFC 1858, RFC 7112).
    FragmentTiny = "fragment-tiny",
    /// Fragment that contradicts another one of its packet; the rest of the packet follows it (RFC 5722, RFC 8200 4.5).
    FragmentOverlap = "fragment-overlap",
    /// Fragment that was there already.
    FragmentDuplicate = "fragment-duplicate",
    /// Fragment that waited for its packet's first one in vain.
    FragmentTimeout = "fragment-timeout",
    /// No room for a fragment that waits, or more fragments of a packet than are followed.
    FragmentOverflow = "fragment-overflow",
    /// Later fragment of a packet whose first one was dropped or has no conntrack.
    FragmentRefused = "fragment-refused",
    /// Protocol that cannot be translated, in a direction that needs translation.
    UnsupportedProtocol = "unsupported-protocol",
    /// This node is not active for the VRF, and the packet matches a synced conntrack.
    StandbyMatched = "standby-matched",
    /// This node is not active for the VRF, and the packet matches nothing.
    StandbyUnmatched = "standby-unmatched",
    /// Sent to the active node over the sync link, because this one is not active for the VRF.
    Redirected = "redirected",
    /// Not sent to the active node: more than `redirect_packets_per_s`.
    RedirectLimit = "redirect-limit",
    /// Not sent to the active node: those before it fill the ring to the event thread.
    RedirectFull = "redirect-full",
    /// It was redirected twice, each time to a node that was not active any more; it isn't sent on.
    RedirectReturned = "redirect-returned",
    /// It came from the peer by an interface of a name that this node hasn't got.
    RedirectInterface = "redirect-interface",
    /// It came from the peer, and no packet buffer was free, or none large enough.
    RedirectBuffer = "redirect-buffer",
    /// A firewall rule says drop.
    RuleDrop = "rule-drop",
    /// A firewall rule says reject; the answer is counted apart.
    RuleReject = "rule-reject",
    /// The firewall rule that would let the flow in has let in as many as it may (`new_flows_per_s`).
    RuleLimit = "rule-limit",
    /// The firewall rule that would let the flow in has let in as many of this source as it may
    /// (`new_flows_per_source_per_s`).
    SourceLimit = "source-limit",
    /// No rule matched and the default policy is drop.
    DefaultDrop = "default-drop",
    /// TCP packet of no known connection that may not open one.
    TcpNotSyn = "tcp-not-syn",
    /// TCP segment outside the window.
    TcpWindow = "tcp-window",
    /// TCP segment that the connection's state forbids.
    TcpState = "tcp-state",
    /// ARP or neighbour discovery message that contradicts itself (RFC 826, RFC 4861 7.1).
    BadNeighborMessage = "bad-neighbor-message",
    /// ICMP error whose embedded packet is too short, an error itself, or of another sender than its receiver.
    BadIcmpQuote = "bad-icmp-quote",
    /// ICMP error whose embedded packet belongs to no conntrack.
    IcmpErrorUnmatched = "icmp-error-unmatched",
    /// ICMP message that neither opens nor belongs to a query (RFC 5508).
    IcmpNotQuery = "icmp-not-query",
    /// First packet that came when the worker was overrun, and flows that nobody answers had had their share of its time
    /// (`first_packets_percent`).
    FirstPacketShed = "first-packet-shed",
    /// Conntrack table full.
    TableFull = "table-full",
    /// Another conntrack has this tuple.
    TupleTaken = "tuple-taken",
    /// No free port block in the pool.
    PoolExhausted = "pool-exhausted",
    /// No free port in the subscriber's blocks and no further block allowed.
    PortsExhausted = "ports-exhausted",
    /// Subscriber table full.
    SubscribersFull = "subscribers-full",
    /// Port block table full.
    BlocksFull = "blocks-full",
    /// Mapping table full.
    MappingsFull = "mappings-full",
    /// Packet for a pool address that no mapping or conntrack wants.
    NoMapping = "no-mapping",
    /// No route to the destination.
    NoRoute = "no-route",
    /// Next hop's MAC address not known yet; the kernel was asked.
    NeighborUnresolved = "neighbor-unresolved",
    /// TTL or hop limit reached zero; an ICMP time exceeded was sent unless limited.
    TtlExceeded = "ttl-exceeded",
    /// Larger than the outgoing MTU; an ICMP error was sent unless limited.
    TooBig = "too-big",
    /// Not enough room in the buffer for the outgoing VLAN tags.
    NoHeadroom = "no-headroom",
    /// Handed to other workers more often than a hairpinning fragment needs, or the ring to another worker was full.
    HandoffLoop = "handoff-loop",
    /// Its slot was on its way to this worker, and as many packets waited for that as may.
    SlotMoving = "slot-moving",
    /// The port did not take the packet: transmit queue full or link down.
    TxRejected = "tx-rejected",
    /// The interface is administratively or physically down.
    LinkDown = "link-down",
    /// Answered by the packet path itself (ARP, ND or echo for an address of ours).
    Answered = "answered",
    /// Kernel's business on a port where the kernel has the frame already.
    Punted = "punted",
    /// Kernel's business beyond what its class may have (`punt_refused_` and the class).
    PuntLimit = "punt-limit",
    /// First packet of a flow that the peer did not take over in time; the flow ended with it (output commit, closed).
    CommitTimeout = "commit-timeout",
    /// First packet of a flow that no peer is there to take over, or that one refused (output commit, closed).
    CommitUnknown = "commit-unknown",
    /// No room for a packet that has to wait for the peer (output commit).
    CommitFull = "commit-full",
    /// Its conntrack was removed while it waited for the peer (output commit).
    CommitEnded = "commit-ended",
    /// Waiting in a queue while the process stops.
    Stopping = "stopping",
}

/// What one stage decided for one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next stage.
    Forward,
    /// The kernel's business.
    Punt,
    /// Kept until the packet's first fragment comes.
    Hold,
    /// Another worker's, by number.
    HandOver(u16),
    /// Kept until redirected packets that may be in front of it have come.
    LineUp,
    /// Kept until the peers know its flow.
    Wait,
    /// Kept until its slot has come to this worker.
    Await,
    /// Dropped, counted under the reason.
    Drop(Drop),
}
