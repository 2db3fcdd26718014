//! What `twinpath-bench` measures, and how: see each part. All of it drives the same worker, ports and event threads
//! as the data process.

mod attack;
mod commit;
mod connect;
mod during;
mod established;
mod expiry;
mod failover;
mod family;
mod flap;
mod frame;
mod grow;
mod handoff;
mod hashes;
mod lag;
mod lane;
mod machine;
mod new_flows;
mod order;
mod pair;
mod plot;
mod pool;
mod random;
mod report;
mod rig;
mod rules;
mod scene;
mod spent;
mod spsc;
mod stats;
mod sync;
mod tcp_info;
mod tls;
mod yard;
mod yardstick;

pub(crate) mod flows;
pub(crate) mod instructions;
pub(crate) mod path;
pub(crate) mod peer;
pub(crate) mod run;
