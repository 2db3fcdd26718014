//! What `twinpath-bench` measures, and how: see each part. All of it drives the same worker, ports and event threads
//! as the data process.

mod commit;
mod during;
mod failover;
mod flap;
mod lag;
mod lane;
mod machine;
mod pair;
mod path;
mod random;
mod report;
mod rig;
mod rules;
mod scene;
mod spent;
mod stats;
mod sync;
mod tcp_info;
mod tls;
mod yardstick;

pub(crate) mod flows;
pub(crate) mod instructions;
pub(crate) mod run;
