//! The contract between an operator's program and a node, and the values it shows.
//!
//! [`protocol`] is the conversation with the control process, [`report`] and [`sync_report`] are the values in
//! it. The control and data processes use the same report types between themselves, so a number has one name
//! from the worker that counts it to the screen. [`key`] is what both ends of a sync link are configured with.

pub mod bech32;
pub mod client;
pub mod config_report;
pub mod job_report;
pub mod journal;
pub mod key;
pub mod paths;
pub mod protocol;
pub mod render;
pub mod report;
pub mod switchover;
pub mod sync_report;
pub mod sync_view;
