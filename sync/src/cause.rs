//! Everything that is refused, discarded or closed has a cause, and every cause a counter of the event thread.

use crate::wire::Breach;

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why something was refused, discarded or closed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Cause { $($(#[doc = $doc])+ $variant,)+ }

        impl Cause {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name used by logs, metrics and ctl.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

causes! {
    /// Connection from an address that is no peer's.
    UnknownAddress = "unknown-address",
    /// More handshakes of a peer at once than are served.
    HandshakesFull = "handshakes-full",
    /// The first bytes are not this protocol's.
    WrongMagic = "wrong-magic",
    /// HELLO or answer too long, damaged, or short of fields.
    HelloMalformed = "hello-malformed",
    /// The handshake took too long.
    HelloTimeout = "hello-timeout",
    /// The connection went away during the handshake.
    HelloGone = "hello-gone",
    /// The other end doesn't prove to hold a key that is configured for it.
    TlsKeyUnknown = "tls-key-unknown",
    /// The other end doesn't accept our key.
    TlsKeyRefused = "tls-key-refused",
    /// The other end's key was taken out of the configuration.
    TlsKeyRemoved = "tls-key-removed",
    /// The other end doesn't speak TLS 1.3 as we do.
    TlsHandshake = "tls-handshake",
    /// Bytes were forged, changed, repeated, left out or reordered on the way.
    TlsTampered = "tls-tampered",
    /// The connection ended without TLS's own end.
    TlsTruncated = "tls-truncated",
    /// More new connections of a peer in a short time than are served.
    HandshakesTooFast = "handshakes-too-fast",
    /// No common protocol version.
    VersionRejected = "version-rejected",
    /// The other end has our own node id.
    NodeIdRejected = "node-id-rejected",
    /// Lane number or count impossible.
    LaneRejected = "lane-rejected",
    /// The event thread of the lane took no more connections.
    ArrivalsFull = "arrivals-full",
    /// The peer rejected our HELLO.
    RejectedByPeer = "rejected-by-peer",
    /// The connection could not be made.
    ConnectFailed = "connect-failed",
    /// Closed in order.
    Closed = "closed",
    /// Reset or timed out by the network.
    ConnectionFailed = "connection-failed",
    /// A newer connection of the same lane took its place.
    Replaced = "replaced",
    /// The peer's process was restarted.
    PeerRebooted = "peer-rebooted",
    /// Nothing was heard for too long.
    Silent = "silent",
    /// The other end doesn't read.
    Stalled = "stalled",
    /// Frame longer than allowed.
    FrameOversized = "frame-oversized",
    /// Frame damaged on the way.
    FrameCheck = "frame-check",
    /// Frame replayed, lost or out of order.
    FrameSequence = "frame-sequence",
    /// Lengths of records don't add up.
    FrameRecords = "frame-records",
    /// Record type of a later version, skipped.
    RecordUnknownType = "record-unknown-type",
    /// Record of a VRF that isn't open.
    RecordUnknownVrf = "record-unknown-vrf",
    /// Record with impossible fields.
    RecordMalformed = "record-malformed",
    /// Record that this end or this lane must not send.
    RecordMisplaced = "record-misplaced",
    /// Record of a slot whose begin was not accepted on this connection.
    RecordNotOpen = "record-not-open",
    /// Frames, or records of no use, came faster than they are read: reading waits, nothing is lost.
    ReadingPaused = "reading-paused",
    /// A worker's ring was full when a peer's word about a record came: the packet waits for its time to end.
    CommitUntold = "commit-untold",
    /// Slot refused because this node is active or holds a higher term.
    SlotNotAccepted = "slot-not-accepted",
    /// An entry of a former reign found no room on its way to the node that has taken over.
    TailDropped = "tail-dropped",
    /// Acknowledgement of a frame that was never sent.
    AckBeyondSent = "ack-beyond-sent",
    /// More VRFs opened than a connection may.
    HandlesFull = "handles-full",
    /// Live records of a slot were missing between a worker and its lane: the slot is sent again.
    StreamGap = "stream-gap",
    /// Worker's item for a connection that is over.
    ItemStale = "item-stale",
    /// Worker's record for a slot that no lane streams.
    ItemUnopened = "item-unopened",
}

impl From<Breach> for Cause {
    fn from(breach: Breach) -> Self {
        match breach {
            Breach::KeyUnknown => Self::TlsKeyUnknown,
            Breach::KeyRefused => Self::TlsKeyRefused,
            Breach::KeyRemoved => Self::TlsKeyRemoved,
            Breach::Handshake => Self::TlsHandshake,
            Breach::Tampered => Self::TlsTampered,
            Breach::Truncated => Self::TlsTruncated,
        }
    }
}

/// A counter per cause.
#[derive(Debug)]
pub(crate) struct Causes([u64; Cause::ALL.len()]);

impl Default for Causes {
    fn default() -> Self {
        Self([0; Cause::ALL.len()])
    }
}

impl Causes {
    pub(crate) fn count(&mut self, cause: Cause) {
        self.0[cause as usize] += 1;
    }

    /// Those that have happened.
    pub(crate) fn seen(&self) -> Vec<(String, u64)> {
        let all = Cause::ALL
            .iter()
            .map(|c| (c.name().to_owned(), self.0[*c as usize]));
        all.filter(|(_, n)| *n > 0).collect()
    }
}
