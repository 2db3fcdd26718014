//! Tracked connections.
//!
//! A conntrack is born when the first packet of a flow passes policy (or when the peer's record of it is applied),
//! lives in the [`Table`] of exactly one worker, and is found by either of its two tuples. The `track` stage moves
//! its [`State`]; the [`Wheel`] looks at it when its deadline has come. Its death has two steps: `unindex` takes it
//! out of lookup, so that its tuples can be used again at once, and `free` gives the arena place back after its DEL
//! was emitted. Only the worker that owns the table touches any of it: there is no lock and no atomic here.
//!
//! ```text
//!   insert ──> live ──unindex──> dead (waits for its DEL) ──free──> vacant
//!               │  ▲
//!     find, get │  │ Wheel: Visit::Keep(later deadline)
//! ```

mod counts;
mod entry;
pub mod icmp;
mod index;
mod moving;
mod table;
pub mod tcp;
mod tuples;
pub mod udp;
mod wheel;
mod window;

pub use counts::Counted;
pub use entry::{Conntrack, NatBinding, Reign, State};
pub use index::{Full, Index, hash_key, hash_words};
pub use moving::Moving;
pub use table::{InsertError, Table};
pub use tuples::Tuples;
pub use wheel::{Visit, Wheel};
