//! What the packet path knows of the world outside a packet: interfaces, VRFs, routes, neighbours, own addresses.
//!
//! A [`Snapshot`] is built by the agent from checked intent and from what the kernel says, published with one pointer swap, read
//! by each worker once per burst, and kept by the agent until no worker uses it any more, so that no worker ever frees one.
//! Nothing in it ever changes, so a burst sees one world. Everything is laid out at build time: no lookup allocates.

mod lpm;
mod neighbor;
mod prefixes;
mod routes;
mod snapshot;

#[cfg(test)]
mod tests;

pub use lpm::{Lpm, Prefixes};
pub use neighbor::Neighbors;
pub use prefixes::{AddressSet, PrefixSet};
pub use routes::Routes;
pub use snapshot::{Interface, Local, PortInfo, Snapshot, Vrf, Way};
