//! The control process: `twinpath-control --config FILE`. Reads and checks the configuration, follows the kernel, serves
//! `twinpathctl`, and tells the data process what both want. `--check` only reads; `--withdraw` only cleans up.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use twinpath::causes::causes;
use twinpath::clock::Clock;
use twinpath::config;
use twinpath::control::announce::Announcer;
use twinpath::control::daemon::{Daemon, kernel_map};
use twinpath::control::host::ThisMachine;
use twinpath::machine;

#[derive(Debug, Parser)]
#[command(
    name = "twinpath-control",
    version,
    about = "Control process of a twinpath node"
)]
struct Args {
    /// Configuration of the node.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the file: print every error with its place, exit code 1 if there is any.
    #[arg(long)]
    check: bool,
    /// Only take the routes of pools out of the kernel, for when the data process has ended and no control process runs.
    #[arg(long, conflicts_with = "check")]
    withdraw: bool,
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        eprintln!("twinpath-control: {}", causes(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let file = args.config.display().to_string();
    let text = std::fs::read_to_string(&args.config).with_context(|| format!("reading {file}"))?;
    let config = match config::load(&file, &text, &machine::cores()) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let missing = config::check_host(&config, &ThisMachine);
    if args.check {
        // The file is in order; interfaces may be made before it is used, and elsewhere there may be others.
        for fault in missing {
            eprintln!("{fault} (not an error of the file)");
        }
        println!("{file}: no errors");
        return Ok(ExitCode::SUCCESS);
    }
    twinpath::log::to_stderr(config.log.level);
    if args.withdraw {
        Announcer::new(kernel_map(&config).namespaces(), Clock::start().now()).withdraw();
        return Ok(ExitCode::SUCCESS);
    }
    // No reason to end: what is missing may come, and what is there must be served.
    for fault in missing {
        tracing::warn!(%fault, "not on this machine now");
    }
    Daemon::new(config)?.run()?;
    Ok(ExitCode::SUCCESS)
}
