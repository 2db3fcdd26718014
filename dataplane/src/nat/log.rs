//! Log events.

use crate::flow::{Addr, VrfId};
use crate::time::Instant;

/// A block was granted or released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockEvent {
    /// Granted or released.
    pub held: bool,
    /// Inside address.
    pub subscriber: Addr,
    /// VRF of the inside address.
    pub vrf: VrfId,
    /// Public address.
    pub address: Addr,
    /// First port.
    pub port_first: u16,
    /// Last port.
    pub port_last: u16,
    /// Identity of the grant.
    pub grant: u64,
    /// When.
    pub at: Instant,
}
