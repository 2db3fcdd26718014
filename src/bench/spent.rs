//! Where a lane's bytes go, so that what each connection costs isn't mistaken for what each start of the lane costs.

use state_sync::report::{ClientReport, Operation};

use super::stats::as_f64;

/// Bytes in front of a frame's records (sync/PROTOCOL.md section 4).
pub(crate) const FRAME_HEADER: f64 = 16.0;
/// Bytes of a REMOVE (sync/PROTOCOL.md R-19).
pub(crate) const REMOVAL: f64 = 6.0;

/// What `made` connections have cost on a lane, each. What begins the slots is spent once, whatever comes after.
pub(crate) fn spent(operations: &[Operation], lane: &ClientReport, made: u64) -> String {
    let each = |bytes: f64| bytes / as_f64(made.max(1));
    let of = |kinds: &[&str]| {
        let named = |o: &&Operation| {
            o.name
                .strip_prefix("send ")
                .is_some_and(|kind| kinds.contains(&kind))
        };
        let bytes: u64 = operations.iter().filter(named).map(|o| o.bytes).sum();
        each(as_f64(bytes))
    };
    format!(
        "PUT {:.2}, STATE {:.2}, port blocks {:.2}, framing {:.2}, digests {:.2}, and {:.2} for beginning all slots",
        of(&["PUT"]),
        of(&["STATE"]),
        of(&["BLOCK"]),
        each(FRAME_HEADER * as_f64(lane.frames_sent)),
        of(&["SLOT-DIGEST"]),
        of(&["SLOT-QUERY", "SLOT-BEGIN", "SLOT-END"]),
    )
}
