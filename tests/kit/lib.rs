//! What tests, the simulator and the benches share: ports in memory, whole nodes stepped by hand, a network between
//! them, and checkers. Everything between the seams (`dataplane::io::Io`, `state_sync::wire::Net`, the `now` argument)
//! is production code.

pub mod cluster;
pub mod node;

mod later;
pub mod network;
pub mod nic;

pub mod checker;
pub mod expect;
pub mod oracle;
pub mod watch;

pub mod committed;
pub mod config;
pub mod fragment;
pub mod packet;
pub mod random;
