//! New flows: clocks of each into a table that fills up, and connections per second from them.

use anyhow::ensure;
use dataplane::flow::FlowKey;

use super::connect::{create, life};
use super::flows::{self, Profile};
use super::report::Report;
use super::rig::{Rig, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{Node, Scene};

/// Clocks of new flows into a table that fills up, and connections per second from them.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    for profile in [Profile::Udp, Profile::Tcp] {
        let scene = Scene::plain(extent.new_flows);
        let (mut node, _events) = Node::new(scene, WORKER_QUEUE, 21)?;
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
        match profile {
            Profile::Udp => {
                report.add(
                    "path.new_flow_cycles",
                    &clocks,
                    "clocks",
                    &format!("one UDP packet: rules, NAT port, insert, forward; {filling}"),
                );
                report.add("path.udp_conn_per_s", &rates, "1/s", &filling);
            }
            Profile::Tcp => report.add(
                "path.tcp_conn_per_s",
                &rates,
                "1/s",
                &format!("whole connections of 6 packets, SYN to last ACK; {filling}"),
            ),
        }
        let created = node.worker.tables().counters.conntracks_created;
        ensure!(
            created == (slice * extent.new_slices) as u64,
            "{created} conntracks were created"
        );
    }
    Ok(())
}
