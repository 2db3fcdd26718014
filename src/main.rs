//! `twinpath-dataplane`: forwards packets on poll-mode cores and mirrors its tables to the peer.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use twinpath::causes::causes;
use twinpath::config::{self, Faults};
use twinpath::control::host::ThisMachine;
use twinpath::data::{self, Signals, Start};
use twinpath::dpdk::large;
use twinpath::machine;

#[global_allocator]
static ALLOCATOR: large::Allocator = large::Allocator;

/// Command line.
#[derive(Debug, Parser)]
#[command(
    name = "twinpath-dataplane",
    version,
    about = "The data process of a twinpath node"
)]
struct Args {
    /// Configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/twinpath/twinpath.toml")]
    config: PathBuf,
    /// Print who polls what and the memory needed, and exit without starting anything.
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            match error.downcast_ref::<Faults>() {
                Some(faults) => eprintln!("{faults}"),
                None => eprintln!("twinpath-dataplane: {}", causes(error.as_ref())),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = args.config.display().to_string();
    let text = std::fs::read_to_string(&args.config).with_context(|| format!("reading {file}"))?;
    let config = config::load(&file, &text, &machine::cores())?;
    let start = Start::new(config)?;
    if args.plan {
        println!("{}", start.plan);
        return Ok(ExitCode::SUCCESS);
    }
    twinpath::log::to_stderr(start.config.log.level);
    let signals = Signals::default();
    for (signal, flag) in [
        (SIGTERM, &signals.stop),
        (SIGINT, &signals.stop),
        (SIGHUP, &signals.reload),
    ] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("installing a signal handler")?;
    }
    if let Err(error) = data::run(&start, &signals) {
        // Most often something that the file names isn't there: say where in the file.
        let faults = config::check_host(&start.config, &ThisMachine);
        for fault in &faults {
            eprintln!("{fault}");
        }
        if error.fault().is_some_and(|fault| faults.contains(fault)) {
            return Ok(ExitCode::FAILURE);
        }
        return Err(error.into());
    }
    Ok(ExitCode::SUCCESS)
}
