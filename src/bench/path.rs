//! The packet path: nanoseconds per packet of established flows beside the yardsticks, in alternating slices of one run, from
//! a thousand flows to as many as memory holds; memory per flow; lookups beside those of `rte_hash`.

use std::path::Path;

use anyhow::ensure;
use clap::ValueEnum;

use super::established::{Proof, Traffic};
use super::family::{Case, Family, Line};
use super::flows::Profile;
use super::hashes::Hashes;
use super::order::Way;
use super::plot::Plot;
use super::report::Report;
use super::rig::Rig;
use super::run::Extent;
use super::scene::{Scene, Service};
use super::stats::{Batches, Spread, as_f64, ratio};
use super::yardstick::Arena;
use super::{attack, expiry, grow, handoff, new_flows, pool, rules, spsc};

const ONE: &[Way] = &[Way::Random];
const ALL: &[Way] = &[Way::Random, Way::Zipf, Way::Sequential];
/// The set whose tuples are looked up in both tables, and of which memory is told.
const MILLION: usize = 1 << 20;

const fn case(name: &'static str, flows: usize, traffic: Traffic, ways: &'static [Way]) -> Case {
    Case {
        name,
        flows,
        traffic,
        ways,
    }
}

const UDP: Traffic = Traffic::of(Profile::Udp);
const TCP: Traffic = Traffic::of(Profile::Tcp);

/// UDP with packets and bytes of each flow counted.
const COUNTED: Traffic = Traffic { counted: true, ..UDP };

/// CG-NAT and firewall, UDP.
const UDP_CASES: &[Case] = &[
    case("t1k", 1_024, UDP, ONE),
    case("t64k", 65_536, UDP, ALL),
    case("t1m", MILLION, UDP, ALL),
    case("counted_t64k", 65_536, COUNTED, ONE),
    case("counted_t1m", MILLION, COUNTED, ONE),
    case("t4m", 4 << 20, UDP, ONE),
    case("t16m", 16 << 20, UDP, ALL),
];
const UDP_QUICK: &[Case] = &[
    case("t1k", 1_024, UDP, ONE),
    case("t64k", 65_536, UDP, ONE),
    case("t1m", MILLION, UDP, ALL),
    case("counted_t64k", 65_536, COUNTED, ONE),
    case("counted_t1m", MILLION, COUNTED, ONE),
];

/// The same, TCP.
const TCP_CASES: &[Case] = &[
    case("tcp_t1k", 1_024, TCP, ONE),
    case("tcp_t64k", 65_536, TCP, ONE),
    case("tcp_t1m", MILLION, TCP, ONE),
    case("tcp_t4m", 4 << 20, TCP, ONE),
    case("tcp_t16m", 16 << 20, TCP, ONE),
];
const TCP_QUICK: &[Case] = &[
    case("tcp_t1k", 1_024, TCP, ONE),
    case("tcp_t64k", 65_536, TCP, ONE),
    case("tcp_t1m", MILLION, TCP, ONE),
];

/// Firewall alone, NAT alone, IPv6, and the usual mix of lengths.
const OTHER_CASES: &[Case] = &[
    case("fw64k", 65_536, with(Service::Firewall, false), ONE),
    case("nat64k", 65_536, with(Service::Nat, false), ONE),
    case("fw6_64k", 65_536, with(Service::FirewallV6, false), ONE),
    case("imix64k", 65_536, with(Service::Both, true), ONE),
    case("fw1m", MILLION, with(Service::Firewall, false), ONE),
];

const fn with(service: Service, mixed: bool) -> Traffic {
    Traffic {
        service,
        mixed,
        ..UDP
    }
}

/// What one run over all families has to add up.
struct Tally {
    arena: Arena,
    batches: Batches,
    proof: Proof,
    plot: Plot,
}

/// What the packet path is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rows {
    /// Packets of established flows, and memory.
    Established,
    /// Packets that another worker has to have.
    Handoff,
    /// Attacks.
    Attack,
    /// First packets, and whole connections.
    NewFlows,
    /// First packets that take from a pool that is nearly full.
    Pool,
    /// Flows that end.
    Expiry,
    /// Tables that grow.
    Grow,
    /// Rules and routes.
    Rules,
}

impl Rows {
    const ALL: [Self; 8] = [
        Self::Established,
        Self::Handoff,
        Self::Attack,
        Self::NewFlows,
        Self::Pool,
        Self::Expiry,
        Self::Grow,
        Self::Rules,
    ];
}

/// The rows of the packet path, `only` some or all of them, and their plot. `core` is the other core.
pub(crate) fn run(
    rig: &mut Rig,
    extent: Extent,
    only: &[Rows],
    core: usize,
    plot: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    for rows in Rows::ALL {
        if only.is_empty() || only.contains(&rows) {
            match rows {
                Rows::Established => established(rig, extent, core, plot, report)?,
                Rows::Handoff => handoff::run(rig, extent, report)?,
                Rows::Attack => attack::run(rig, extent, report)?,
                Rows::NewFlows => new_flows::run(rig, extent, report)?,
                Rows::Pool => pool::run(rig, extent, report)?,
                Rows::Expiry => expiry::run(rig, extent, report)?,
                Rows::Grow => grow::run(rig, extent, core, report)?,
                Rows::Rules => rules::run(rig, extent, report)?,
            }
        }
    }
    Ok(())
}

/// Packets of established flows, in tables of every size, and what a flow takes.
fn established(
    rig: &mut Rig,
    extent: Extent,
    core: usize,
    plot: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut tally = Tally {
        arena: Arena::new(),
        batches: Batches::default(),
        proof: Proof::default(),
        plot: Plot::default(),
    };
    let (udp, tcp, other) = if extent.quick {
        (
            UDP_QUICK,
            TCP_QUICK,
            OTHER_CASES.split_at(OTHER_CASES.len() - 1).0,
        )
    } else {
        (UDP_CASES, TCP_CASES, OTHER_CASES)
    };
    udp_family(rig, extent, core, udp, &mut tally, report)?;
    for cases in [tcp, other] {
        let mut family = Family::load(rig, cases)?;
        for _ in 0..extent.slices {
            family.slice(
                rig,
                extent,
                &mut tally.arena,
                &mut tally.batches,
                &mut tally.proof,
            )?;
        }
        family.compare(rig, &mut tally.proof)?;
        tell(rig, report, &family);
        draw(rig, &family, &mut tally.plot);
    }
    conclude(&tally, report)?;
    tally.plot.write(plot)
}

/// The family beside which rings and hash tables are measured too.
fn udp_family(
    rig: &mut Rig,
    extent: Extent,
    core: usize,
    cases: &[Case],
    tally: &mut Tally,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut family = Family::load(rig, cases)?;
    let million = family.sets.iter().position(|set| set.case.flows == MILLION);
    let mut hashes = match million {
        Some(set) => Some(Hashes::new(rig, &family.sets[set].loaded)?),
        None => None,
    };
    let mut ring = Vec::new();
    for _ in 0..extent.slices {
        family.slice(
            rig,
            extent,
            &mut tally.arena,
            &mut tally.batches,
            &mut tally.proof,
        )?;
        ring.push(spsc::slice(rig, core)?);
        if let (Some(set), Some(hashes)) = (million, &mut hashes) {
            hashes.slice(rig, &family.sets[set].loaded, extent.batches)?;
        }
    }
    family.compare(rig, &mut tally.proof)?;
    family.yard.tell(rig, report);
    let note = "one element of 32 bytes through a bare ring from this core to the other, burst 32";
    report.add("path.s_ns", &rig.all_ns(&ring), "ns/element", note);
    if let Some(hashes) = &hashes {
        tell_hashes(rig, hashes, report);
    }
    tell(rig, report, &family);
    draw(rig, &family, &mut tally.plot);
    for (name, clocks) in [("B1", &family.yard.b1), ("R", &family.yard.r)] {
        tally.plot.level(name, rig.ns(Spread::of(clocks).median));
    }
    Ok(())
}

fn tell_hashes(rig: &Rig, hashes: &Hashes, report: &mut Report) {
    let theirs = format!(
        "rte_hash_lookup_bulk of its default hash, {} keys (a tuple of each direction of a million flows) drawn at random, burst 32",
        2 * MILLION
    );
    report.add("path.h_ns", &rig.all_ns(&hashes.theirs), "ns/lookup", &theirs);
    let ours = format!(
        "times as fast as that: the lookup stage's passes over the same keys, {:.1} ns with the hash and the fetched entry",
        rig.ns(Spread::of(&hashes.ours).median)
    );
    let values = ratio(&hashes.theirs, &hashes.ours);
    report.add_with_goal("path.lookup_vs_rte_hash", &values, "x", Some(1.7), &ours);
}

fn tell(rig: &Rig, report: &mut Report, family: &Family) {
    for line in &family.lines {
        let id = format!("path.{}{}_ns", line.case.name, line.way.suffix());
        report.add(
            &id,
            &rig.all_ns(&line.clocks),
            "ns/packet",
            &note(line, &family.left_out),
        );
    }
    tell_ratios(report, family);
    for set in family.sets.iter().filter(|set| set.case.flows == MILLION) {
        let (id, [goal, bound], what) = match set.case.traffic {
            UDP => ("path.bytes_per_flow", [96.0, 83.0], "UDP"),
            TCP => ("path.tcp_bytes_per_flow", [160.0, 147.0], "TCP"),
            _ => continue,
        };
        let note = format!(
            "memory touched per established {what} flow with NAT: index, arena, wheel, mapping; tables 90 % full, {MILLION} flows"
        );
        report.add_with_bound(id, &[set.bytes_per_flow], "B", [Some(goal), Some(bound)], &note);
    }
}

fn note(line: &Line, left_out: &str) -> String {
    let traffic = line.case.traffic;
    let service = match traffic.service {
        Service::Both => "firewall and NAT",
        Service::Firewall => "firewall alone",
        Service::FirewallV6 => "firewall alone, IPv6 frames of 66 bytes",
        Service::Nat => "NAT alone",
    };
    let lengths = if traffic.mixed {
        ", frames of 60, 590 and 1,514 bytes as 7 : 4 : 1"
    } else {
        ""
    };
    let counted = if traffic.counted { "counted" } else { "not counted" };
    format!(
        "{} {} flows of {} subscribers, {service}, each flow {counted}{lengths}, both directions, {}, no replication: median {:.0} clocks{left_out}",
        line.case.flows,
        match traffic.profile {
            Profile::Udp => "UDP",
            Profile::Tcp => "TCP",
        },
        Scene::plain(line.case.flows).subscribers(),
        line.way.words(),
        Spread::of(&line.clocks).median
    )
}

/// Rows in units of the yardsticks.
fn tell_ratios(report: &mut Report, family: &Family) {
    for (name, goal) in [("t1k", 4.0), ("t64k", 5.0), ("tcp_t1k", 4.0), ("tcp_t64k", 5.0)] {
        if let Some(line) = family.random(name) {
            let values = ratio(&line.clocks, &family.yard.b1);
            report.add_with_goal(&format!("path.{name}"), &values, "x B1", Some(goal), "");
        }
    }
    let larger = [
        ("t1k", "t1m", Some(2.2), None),
        ("t1k", "t4m", None, None),
        ("t1k", "t16m", Some(3.0), Some(2.4)),
        ("tcp_t1k", "tcp_t1m", Some(3.2), None),
        ("tcp_t1k", "tcp_t4m", None, None),
        ("tcp_t1k", "tcp_t16m", Some(4.0), None),
    ];
    for (small, large, goal, bound) in larger {
        let (Some(small), Some(line)) = (family.random(small), family.random(large)) else {
            continue;
        };
        let more: Vec<f64> = line
            .clocks
            .iter()
            .zip(&small.clocks)
            .map(|(a, b)| a - b)
            .collect();
        let values = ratio(&more, &family.yard.r);
        let note = "more than with 1k flows";
        report.add_with_bound(&format!("path.{large}"), &values, "x R", [goal, bound], note);
    }
    if let (Some(small), Some(large)) = (family.random("t1k"), family.random("t16m")) {
        let values = ratio(&large.clocks, &small.clocks);
        let note = "16,777,216 UDP flows against 1,024";
        report.add_with_bound("path.flat", &values, "x", [Some(1.9), Some(1.6)], note);
    }
}

/// The points of a family.
fn draw(rig: &Rig, family: &Family, plot: &mut Plot) {
    for line in &family.lines {
        let Traffic {
            profile,
            service,
            mixed,
            counted,
        } = line.case.traffic;
        let name = format!(
            "{}{}{}{}",
            match (profile, counted) {
                (Profile::Udp, false) => "UDP",
                (Profile::Udp, true) => "UDP, counted",
                (Profile::Tcp, false) => "TCP, not counted",
                (Profile::Tcp, true) => "TCP",
            },
            match service {
                Service::Both => "",
                Service::Firewall => ", firewall",
                Service::FirewallV6 => ", firewall, IPv6",
                Service::Nat => ", NAT",
            },
            if mixed { ", IMIX" } else { "" },
            line.way.curve()
        );
        plot.point(&name, line.case.flows, rig.ns(Spread::of(&line.clocks).median));
    }
}

fn conclude(tally: &Tally, report: &mut Report) -> anyhow::Result<()> {
    let Tally { proof, batches, .. } = tally;
    let note = format!(
        "of {} compared byte by byte with what a plain router makes of them, all checksums summed up anew; {} packets forwarded",
        proof.compared, proof.forwarded
    );
    report.add_with_bound(
        "path.wrong_packets",
        &[as_f64(proof.wrong)],
        "packets",
        [Some(0.0), Some(0.0)],
        &note,
    );
    report.add_with_bound(
        "path.allocations",
        &[as_f64(proof.allocations)],
        "allocations",
        [Some(0.0), Some(0.0)],
        &format!(
            "of the worker's thread while {} packets were forwarded",
            proof.forwarded
        ),
    );
    println!(
        "packet path: {} of {} batches left out as interrupted",
        batches.interrupted, batches.total
    );
    ensure!(proof.wrong == 0, "{} wrong packets", proof.wrong);
    ensure!(
        proof.translated == proof.to_translate,
        "{} of {} packets were translated",
        proof.translated,
        proof.to_translate
    );
    Ok(())
}
