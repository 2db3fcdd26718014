//! One delta's path, top to bottom: a worker's ring, a frame, a lane, the peer's frame, its worker's ring, and
//! the acknowledgement back. Safe Rust without clock, threads or sockets: an event thread drives
//! [`pump::Pump::turn`] in production, a simulator in tests. The wire format is in `PROTOCOL.md`.

pub mod config;
pub mod fingerprint;
pub mod handover;
pub mod role;

pub mod port;
pub mod pump;

mod export;
mod lane;

mod fence;
mod redirect;

mod bytes;
mod compare_record;
mod conn;
mod flow_record;
mod frame;
pub mod hello;
mod lifetime;
mod pace;
mod peering;
mod record;
mod slot_record;
mod window;
pub mod wire;

mod door;
mod inlet;

pub mod compare;

mod atomic;
pub mod board;
mod cause;
pub mod conservation;
pub mod report;
pub mod resync;
mod shared;
mod tally;

#[cfg(feature = "fuzz")]
pub mod fuzz;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod requirements_tests;
#[cfg(test)]
mod resync_tests;
#[cfg(test)]
mod testbed;

pub use dataplane::applied::AppliedCounters;
