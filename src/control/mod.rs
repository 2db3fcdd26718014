//! The control process.
pub mod message;
pub mod mirror;
pub mod netlink;
pub mod resolver;
pub mod vrf;
pub mod watch;
