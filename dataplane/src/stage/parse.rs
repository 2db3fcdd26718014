//! From bytes to checked offsets. So far only the interface.
pub use super::meta::{IcmpMessage, Kind, Meta, TcpSegment};
use crate::verdict::{Drop, Verdict};

/// Parses.
pub fn parse(_frame: &[u8], _meta: &mut Meta) -> Verdict {
    Verdict::Drop(Drop::Truncated)
}
