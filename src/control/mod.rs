//! The control process: what the operator wants and what the kernel knows, told to the data process.
//!
//! Reading order: [`daemon`] (the loop), then what it joins: [`watch`] (kernel → reachability, out of [`netlink`], [`message`],
//! [`mirror`], [`vrf`] and [`resolver`]), [`groups`] (HA groups), [`link`] (the connection to the data process), [`vrrp`] (groups
//! that keepalived drives), [`announce`] (pools for routing daemons), [`server`] and [`answers`] (the operator's commands),
//! [`apply`] and [`save`] (another configuration). [`host`] answers what a configuration asks of the machine.

pub mod announce;
pub mod answers;
pub mod apply;
pub mod daemon;
pub mod groups;
pub mod host;
pub mod link;
pub mod message;
pub mod mirror;
pub mod netlink;
pub mod resolver;
pub mod save;
pub mod server;
pub mod vrf;
pub mod vrrp;
pub mod watch;
