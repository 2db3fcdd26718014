//! One packet's path, top to bottom. Safe Rust without clock, threads or sockets: a thread drives a
//! worker's `turn(now)` in production, a simulator in tests.

pub mod applied;
pub mod config;
pub mod counters;
pub mod delta;
pub mod flow;
pub mod io;
mod prefetch;
pub mod role;
pub mod shard;
pub mod time;
pub mod verdict;

pub mod conntrack;
pub mod nat;
pub mod policy;
pub mod slot;
pub mod stage;
pub mod vrf;
pub mod wire;
