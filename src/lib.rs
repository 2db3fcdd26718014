//! Edges.

pub mod ipc;
