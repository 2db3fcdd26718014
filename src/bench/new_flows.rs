//! New flows: clocks of each into a table that fills up, and connections per second from them.

use anyhow::ensure;
use dataplane::config::{FirstPacketsPercent, Timeouts};
use dataplane::flow::FlowKey;

use super::connect::{create, life};
use super::flows::{self, Profile};
use super::report::Report;
use super::rig::{Rig, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{Node, Scene};

/// A table of few flows.
const SMALL: usize = 65_536;

/// All rows of new flows.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let sizes = [
        (Profile::Udp, extent.new_flows),
        (Profile::Tcp, extent.new_flows),
        (Profile::Udp, SMALL),
    ];
    for (profile, flows) in sizes {
        let scene = Scene::plain(flows);
        let mut intent = scene.intent();
        if profile == Profile::Tcp {
            // Connections that are answered are never shed, however many there are.
            intent.first_packets = FirstPacketsPercent::default();
        }
        let (mut node, _events) = Node::with(&intent, scene, WORKER_QUEUE, 21)?;
        let keys = flows::draw(profile, scene.flows, scene.subscribers(), 77);
        let mut back = vec![FlowKey::default(); keys.len()];
        let slice = scene.flows / extent.new_slices;
        let mut clocks = Vec::new();
        for n in 0..extent.new_slices {
            let range = n * slice..(n + 1) * slice;
            clocks.push(create(
                rig,
                &mut node,
                |_| true,
                life(profile),
                &keys,
                &mut back,
                range,
            )?);
        }
        let rates: Vec<f64> = clocks.iter().map(|c| rig.hz() / c).collect();
        let filling = format!("table filling to {} flows, no replication", scene.flows);
        // Three times what VPP's NAT makes of it in a table of that size.
        let goal = |size: usize, rate: f64| (flows == size).then_some(rate);
        match profile {
            Profile::Udp if flows == SMALL => {
                report.add_with_goal(
                    "path.udp_conn_64k_per_s",
                    &rates,
                    "1/s",
                    goal(SMALL, 4.56e6),
                    &filling,
                );
            }
            Profile::Udp => {
                let note = format!("one UDP packet: rules, NAT port, insert, forward; {filling}");
                report.add("path.new_flow_cycles", &clocks, "clocks", &note);
                report.add_with_goal(
                    "path.udp_conn_per_s",
                    &rates,
                    "1/s",
                    goal(1 << 20, 2.4e6),
                    &filling,
                );
            }
            Profile::Tcp => {
                let timeouts = Timeouts::default();
                let note = format!(
                    "whole connections of 6 packets, SYN to last ACK, which stay {} s after their end; {filling}",
                    timeouts.tcp_closing_s
                );
                let aims = [goal(1 << 20, 2.0e6), Some(2.9e6)];
                report.add_with_bound("path.tcp_conn_per_s", &rates, "1/s", aims, &note);
            }
        }
        let created = node.worker.tables().counters.conntracks_created;
        ensure!(
            created == (slice * extent.new_slices) as u64,
            "{created} conntracks were created"
        );
    }
    Ok(())
}
