//! The data process from start to stop: what it is made of, in the order it is made and undone.
//!
//! ```text
//!   configuration ► plan ► process socket ► EAL ► ports ► rings ► workers ► event threads ► agent (this thread)
//!   stop signal:  workers finish a turn and free their packets ► event threads send what is left and say BYE ►
//!                 ports close, every mbuf is back ► EAL ends
//! ```

mod agent;
mod answer;
mod apply;
mod ask;
mod assembly;
mod carrier;
mod devices;
mod facts;
mod jobs;
mod journal;
mod kernel_link;
mod peers;
mod publisher;
mod rates;
mod rebalance;
mod roles;
mod room;
mod settings;
mod syslog;
mod view;

pub use self::assembly::{Signals, Start, StartError, run};
pub use self::publisher::Unpublishable;
