//! Whole nodes, and pairs of them, against what they promise. One binary; a module per promise.

#[cfg(test)]
mod ageing;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod bulk;
#[cfg(test)]
mod bytes;
#[cfg(test)]
mod catch_up;
#[cfg(test)]
mod commit;
#[cfg(test)]
mod compare;
#[cfg(test)]
mod doubt;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod economy;
#[cfg(test)]
mod exception;
#[cfg(test)]
mod first_packets;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod flow_counters;
#[cfg(test)]
mod foresee;
#[cfg(test)]
mod fragments;
#[cfg(test)]
mod grants;
#[cfg(test)]
mod handoff;
#[cfg(test)]
mod inherited;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod line_up;
#[cfg(test)]
mod missing;
#[cfg(test)]
mod names;
#[cfg(test)]
mod new_flows;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod packet_path;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod pools;
#[cfg(test)]
mod protection;
mod recheck;
#[cfg(test)]
mod redirect;
#[cfg(test)]
mod replication;
#[cfg(test)]
mod resync;
#[cfg(test)]
mod room;
#[cfg(test)]
mod rss;
#[cfg(test)]
mod switchover;
#[cfg(test)]
mod tcp_failover;
#[cfg(test)]
mod terms;
#[cfg(test)]
mod transit;
#[cfg(test)]
mod unequal;
