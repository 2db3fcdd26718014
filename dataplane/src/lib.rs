//! One packet's path, top to bottom. Safe Rust without clock, threads or sockets: a thread drives a [`worker`]'s
//! `turn(now)` in production, a simulator in tests.
//!
//! A packet: [`io`] → [`worker`] → the [`stage`]s in their order → [`io`]. A delta: [`tables`] (dirty list) →
//! `stage::emit` → a ring of [`delta`] items; and back in: `stage::absorb` → [`tables`]. Everything else is a leaf
//! that a reader may skip.

pub mod wiring;
pub mod worker;

pub mod stage;

pub mod tables;
pub mod transit;

mod admission;
mod commit;
pub mod conntrack;
pub mod drain;
pub mod exception;
mod fragment;
pub mod history;
pub mod names;
pub mod nat;
pub mod overload;
pub mod policy;
pub mod protection;
mod recheck;
pub mod redirect;
pub mod resync;
mod retirement;
pub mod room;
pub mod slot;
pub mod vrf;
pub mod wire;

pub mod applied;
mod atomic;
pub mod inbox;
pub mod notice;
pub mod outlook;
pub mod owners;
pub mod verdict;

pub mod config;
pub mod counters;
pub mod delta;
pub mod fingerprint;
pub mod flow;
pub mod io;
pub mod lane_counts;
mod lanes;
pub mod mutant;
mod prefetch;
pub mod role;
pub mod rss;
pub mod shard;
pub mod share;
pub mod span;
mod store;
pub mod time;
mod vacancy;
