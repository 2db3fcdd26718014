//! The edges: everything that touches DPDK, the clock, threads, sockets and the kernel. The packet path
//! (`dataplane`) and the delta path (`state_sync`) are driven from here and know none of it.

pub mod causes;
pub mod clock;
pub mod config;
pub mod control;
pub mod data;
pub mod dpdk;
pub mod ipc;
pub mod log;
pub mod machine;
pub mod plan;
pub mod secure;
pub mod socket;
pub mod supervisor;
pub mod thread;
