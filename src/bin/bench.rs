//! `twinpath-bench`: what a packet, a new connection, a change on its way to the peer, a complete resync and a role
//! flip cost on this machine. `scripts/bench` builds it, gives it huge pages and runs it.

#[path = "../bench/mod.rs"]
mod bench;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use bench::path::Rows;
use bench::run::{Wish, run};
use bench::{instructions, peer};
use twinpath::dpdk::counted::Counted;

// As in the data process, and counted.
#[global_allocator]
static ALLOCATOR: Counted = Counted;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Path,
    Sync,
    Failover,
}

/// Measures twinpath on this machine, beside its yardsticks.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Only this part; may be repeated.
    #[arg(long)]
    part: Vec<Part>,
    /// Of the path only these rows; may be repeated.
    #[arg(long)]
    rows: Vec<Rows>,
    /// Fewer rows and shorter slices.
    #[arg(long)]
    quick: bool,
    /// Nothing but packets of this kind, for callgrind to count.
    #[arg(long)]
    instructions: Option<instructions::Counted>,
    /// Nothing but the same traffic through boxes at other ends of links, which tests/netns/peer.py lays.
    #[arg(long, value_name = "NAME=LAN_DEVICE;LAN_MAC;WAN_DEVICE;WAN_MAC")]
    peer: Vec<peer::Place>,
    /// Commit that the report names.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// Output of `tests/netns/bench.py` to take failover rows from.
    #[arg(long)]
    lab: Option<PathBuf>,
    /// Where the JSON goes.
    #[arg(long, default_value = "target/bench/report.json")]
    output: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(counted) = arguments.instructions {
        return instructions::run(counted);
    }
    if !arguments.peer.is_empty() {
        let extent = peer::Extent::new(arguments.quick);
        return peer::run(&arguments.peer, &extent, &arguments.commit, &arguments.output);
    }
    let wants = |part| arguments.part.is_empty() || arguments.part.contains(&part);
    run(&Wish {
        path: wants(Part::Path),
        sync: wants(Part::Sync),
        failover: wants(Part::Failover),
        rows: arguments.rows.clone(),
        quick: arguments.quick,
        commit: arguments.commit.clone(),
        lab: arguments.lab.clone(),
        output: arguments.output.clone(),
    })
}
