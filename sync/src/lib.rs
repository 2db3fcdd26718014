//! One delta's path, top to bottom: a worker's ring, a frame, a lane, the peer's frame, its worker's ring, and
//! the acknowledgement back. Safe Rust without clock, threads or sockets: an event thread drives a pump's
//! `turn(now)` in production, a simulator in tests. The wire format is in `PROTOCOL.md`.

pub mod config;
pub mod fingerprint;
pub mod role;

pub mod board;
pub mod port;
pub mod report;

pub mod hello;
pub mod wire;

pub use dataplane::applied::AppliedCounters;
