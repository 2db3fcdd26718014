//! DPDK, and every `unsafe` line of the project: the lock of a [`lifeline`], the pages of [`large`] tables, the kernel's word for
//! a [`tap`] and the step into a namespace aren't DPDK's.
//!
//! # Life
//!
//! [`Eal::start`] (once per process, on the thread that becomes the main lcore) → [`Mempool::create`] →
//! [`PortSet::open`] → [`PortSet::split`] hands each worker its [`Ports`] → [`Eal::launch`] runs the workers
//! → workers end and drop their `Ports` → [`Eal::stop`] drains, closes, checks that every mbuf came home,
//! and ends the EAL. Whoever drops the [`Eal`] without stopping leaves everything to the end of the process.
//!
//! # Who owns an mbuf when
//!
//! 1. An mbuf in the pool, in a receive queue or in a transmit queue belongs to DPDK. No Rust value names it.
//! 2. `rx` and `alloc` move it to exactly one [`Mbuf`]; nothing else refers to it (reference count 1,
//!    one segment; `rx` copies a frame in several segments into the first one's buffer, or frees and counts it when it
//!    doesn't fit, before anybody sees it). Whoever has
//!    the `Mbuf` may read and write its frame; handing it to another worker is an ordinary move.
//! 3. Dropping the `Mbuf`, or `free` of a burst, returns it to the pool.
//! 4. `tx` takes the mbufs that the port accepted back into DPDK's hands: their `Mbuf`s are gone without
//!    having been dropped. What the port did not accept is freed in the same call. No handle survives `tx`.
//!
//! # What makes the calls sound
//!
//! - A receive or transmit queue is not thread safe: [`PortSet::split`] gives every queue to at most one
//!   [`Ports`], which can be moved but not shared.
//! - A port is closed while workers run only by [`PortSet::renew`], which first proves that every worker has followed its gate
//!   and calls its driver no more; otherwise, as a pool is freed, only by [`Eal::stop`], which first proves by reference counts
//!   that no `Ports` is left and by the pool's own count that no `Mbuf` is left; otherwise it leaves them be.
//! - mbuf fields are read from Rust at offsets that `shim.c` asserts against the installed headers.
#![expect(unsafe_code, reason = "the one folder that may call C")]

mod gate;
mod netns;
mod sys;
mod tally;

pub mod counted;
pub mod device;
pub mod eal;
pub mod error;
pub mod hash;
pub mod large;
pub mod lifeline;
pub mod mbuf;
pub mod mempool;
pub mod port;
pub mod queues;
pub mod stats;
pub mod tap;
pub mod tsc;

pub use device::Device;
pub use eal::{Eal, EalError, EalOptions, EalStopped, Memory, WorkerHandle};
pub use error::Errno;
pub use lifeline::{Lifeline, LifelineError};
pub use mbuf::Mbuf;
pub use mempool::{Mempool, PoolError};
pub use port::{
    Checksums, Link, PortConfig, PortError, PortRss, PortSet, RenewError, devices_at_start, room_for,
};
pub use queues::{PortCounters, Ports};
pub use stats::{PortStats, RxQueueStats, TxQueueStats};
