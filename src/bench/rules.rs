//! Rules: what 10, 1,000 and 10,000 of them cost a lookup and the whole first packet of a flow, in alternating slices of
//! one run, and what they take to compile.
//!
//! They are of the shapes that access lists have: networks and hosts around the ends of the flows, a tenth for any source,
//! few for any destination, single ports, ranges and none, and a last one for everybody. Some of what is found is
//! compared with a scan of the rules as they are written.

use anyhow::ensure;
use dataplane::config::{Action, FirewallIntent, InterfaceId, OnChange, PortRange, RuleIntent};
use dataplane::flow::{Addr, FlowKey, proto};
use dataplane::policy::{Policy, Query};
use ipnet::IpNet;

use super::connect::create;
use super::flows::{self, Profile, Step};
use super::random::Random;
use super::report::Report;
use super::rig::{Rig, WORKER_QUEUE};
use super::run::Extent;
use super::scene::{Node, Scene};
use super::stats::{Batches, as_f64, ratio};

const SIZES: [(&str, usize); 3] = [("10", 10), ("1k", 1_000), ("10k", 10_000)];
/// Flows that lookups are drawn from.
const FLOWS: usize = 1 << 16;
/// Lookups in a batch.
const LOOKUPS: usize = 512;
/// Lookups compared with a scan.
const COMPARED: usize = 1_024;
const INBOUND: InterfaceId = InterfaceId(0);
const OUTBOUND: InterfaceId = InterfaceId(1);

/// All rows about rules.
pub(crate) fn run(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    lookups(rig, extent, report)?;
    first_packets(rig, extent, report)
}

fn draw(count: usize, keys: &[FlowKey]) -> FirewallIntent {
    let random = &mut Random::new(count as u64);
    let last = RuleIntent::any(u32::MAX, Action::Accept);
    let drawn = (1..).take(count - 1).map(|id| {
        let (from, to) = (&keys[random.below(keys.len())], &keys[random.below(keys.len())]);
        RuleIntent {
            inbound: (random.below(2) == 0).then_some(INBOUND),
            source: (random.below(10) != 0)
                .then(|| prefix(&from.src, random))
                .into_iter()
                .collect(),
            destination: (random.below(20) != 0)
                .then(|| prefix(&to.dst, random))
                .into_iter()
                .collect(),
            protocol: [Some(proto::TCP), Some(proto::TCP), Some(proto::UDP), None][random.below(4)],
            destination_ports: ports(to.dst_port, random),
            ..RuleIntent::any(id, Action::Accept)
        }
    });
    FirewallIntent {
        rules: drawn.chain([last]).collect(),
        default: Action::Drop,
        on_change: OnChange::Keep,
    }
}

fn prefix(address: &Addr, random: &mut Random) -> IpNet {
    let len = [16, 20, 24, 24, 24, 28, 32, 32, 32, 32][random.below(10)];
    IpNet::new(address.ip(), len).map_or_else(|_| IpNet::from(address.ip()), |net| net.trunc())
}

fn ports(port: u16, random: &mut Random) -> Vec<PortRange> {
    let (first, last) = match random.below(8) {
        0 | 1 => return vec![],
        2 => (1_024, u16::MAX),
        3 => (port & 0xff00, port | 0x00ff),
        4 | 5 => (port, port),
        n => ([22, 53, 80, 443][random.below(4)], [53, 443][n - 6]),
    };
    vec![PortRange {
        first: first.min(last),
        last: first.max(last),
    }]
}

fn query(key: &FlowKey) -> Query<'_> {
    Query {
        key,
        inbound: INBOUND,
        outbound: Some(OUTBOUND),
    }
}

/// The number of the first rule that matches, found by trying them all.
fn scan(rules: &[RuleIntent], key: &FlowKey) -> u32 {
    let within = |nets: &[IpNet], a: &Addr| nets.is_empty() || nets.iter().any(|net| net.contains(&a.ip()));
    let matches = |rule: &&RuleIntent| {
        rule.protocol.is_none_or(|wanted| wanted == key.proto)
            && rule.inbound.is_none_or(|wanted| wanted == INBOUND)
            && within(&rule.source, &key.src)
            && within(&rule.destination, &key.dst)
            && (rule.destination_ports.is_empty()
                || rule
                    .destination_ports
                    .iter()
                    .any(|range| range.contains(key.dst_port)))
    };
    rules.iter().find(matches).map_or(0, |rule| rule.id)
}

fn lookups(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let subscribers = Scene::plain(FLOWS).subscribers();
    let mut keys = flows::draw(Profile::Udp, FLOWS / 2, subscribers, 5);
    keys.append(&mut flows::draw(Profile::Tcp, FLOWS / 2, subscribers, 6));
    let mut policies = Vec::new();
    let mut compile_ms = Vec::new();
    for (_, count) in SIZES {
        let intent = draw(count, &keys);
        let start = rig.now();
        let policy = Policy::compile(&intent, None)?;
        compile_ms.push(rig.now().since(start).as_secs_f64() * 1e3);
        for key in keys.iter().step_by(FLOWS / COMPARED) {
            let (found, expected) = (policy.evaluate(&query(key)).rule_id, scan(&intent.rules, key));
            ensure!(
                found == expected,
                "rule {found} was found for {key:?}, not {expected}"
            );
        }
        policies.push(policy);
    }
    let mut random = Random::new(7);
    let mut batches = Batches::default();
    let mut clocks = [const { Vec::new() }; SIZES.len()];
    for _ in 0..extent.slices {
        for (policy, clocks) in policies.iter().zip(&mut clocks) {
            for _ in 0..extent.batches {
                let drawn: Vec<_> = (0..LOOKUPS).map(|_| keys[random.below(keys.len())]).collect();
                batches.add(rig.timed(|_, _| {
                    for key in &drawn {
                        std::hint::black_box(policy.evaluate(&query(key)));
                    }
                }));
            }
            clocks.push(batches.mean() / as_f64(LOOKUPS as u64));
        }
    }
    for (((name, count), policy), clocks) in SIZES.into_iter().zip(&policies).zip(&clocks) {
        let ns: Vec<f64> = clocks.iter().map(|&c| rig.ns(c)).collect();
        let note = format!(
            "first of {count} rules for a flow drawn at random, {} KiB compiled",
            policy.bytes().div_ceil(1_024)
        );
        report.add(&format!("path.rules_{name}_ns"), &ns, "ns/lookup", &note);
    }
    let note = "lookup alone, 10,000 rules against 10";
    report.add("path.rules_10k", &ratio(&clocks[2], &clocks[0]), "x", note);
    report.add(
        "path.rules_compile_ms",
        &compile_ms[SIZES.len() - 1..],
        "ms",
        "10,000 rules, on the main thread",
    );
    Ok(())
}

/// New flows, each by its first packet: rules, NAT port, insertion, way out.
fn first_packets(rig: &mut Rig, extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let scene = Scene::plain(extent.new_flows / 4);
    let keys = flows::draw(Profile::Udp, scene.flows, scene.subscribers(), 78);
    let mut back = vec![FlowKey::default(); keys.len()];
    let mut nodes = Vec::new();
    for (_, count) in SIZES {
        let mut intent = scene.intent();
        intent.vrfs[0].firewall = draw(count, &keys);
        // The event thread's ends stay: a worker without them would drop what it has to tell.
        nodes.push(Node::with(&intent, scene, WORKER_QUEUE, 41)?);
    }
    let slice = scene.flows / extent.new_slices;
    let mut clocks = [const { Vec::new() }; SIZES.len()];
    for n in 0..extent.new_slices {
        for ((node, _events), clocks) in nodes.iter_mut().zip(&mut clocks) {
            let range = n * slice..(n + 1) * slice;
            clocks.push(create(
                rig,
                node,
                |_| true,
                &[Step::Open],
                &keys,
                &mut back,
                range,
            )?);
        }
    }
    for ((name, count), clocks) in SIZES.into_iter().zip(&clocks) {
        let note = format!(
            "first packet of a UDP flow under {count} rules: rules, NAT port, insert, forward; table filling to {} flows",
            scene.flows
        );
        report.add(&format!("path.first_{name}_cycles"), clocks, "clocks", &note);
    }
    let note = "first packet under 10,000 rules against 10";
    report.add_with_goal(
        "path.first_10k",
        &ratio(&clocks[2], &clocks[0]),
        "x",
        Some(2.0),
        note,
    );
    Ok(())
}
