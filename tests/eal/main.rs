//! DPDK without a network card: ordinary memory, no PCI, virtual devices only. Proves that every kind of
//! device carries frames byte for byte, that each mbuf has one owner, and that start and stop tell the truth.
//!
//! The EAL starts once per process, so this program runs itself again for each part, in a network namespace
//! of its own (which ends with the part) when it is root. `cargo test --test eal [PART]`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test program: a panic is a failed check"
)]

mod bench;
mod carriers;
mod checksums;
mod frames;
mod hash;
mod jumbo;
mod multi;
mod ownership;
mod parts;
mod renew;
mod rss;
mod workers;

use std::env;
use std::process::{Command, ExitCode};

use bench::Check;

/// Says which part a child runs; set by the parent only.
const PART: &str = "TWINPATH_EAL_PART";
/// Line by which a child tells its counts.
const TALLY: &str = "eal tally:";

fn main() -> ExitCode {
    if let Ok(name) = env::var(PART) {
        return run_part(&name);
    }
    let wanted = env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let chosen = parts::PARTS.iter().map(|part| part.name);
    let mut chosen: Vec<&str> = chosen
        .filter(|name| wanted.as_ref().is_none_or(|wanted| name.contains(wanted)))
        .collect();
    let root = is_root();
    if !root {
        println!("eal: not root: net_tap and net_af_packet are left out");
    }
    let huge = twinpath::machine::hugepages_free_mb() >= bench::MEMORY_MB;
    if !huge {
        println!("eal: no hugepages are free: their part is left out");
        chosen.retain(|name| *name != parts::HUGEPAGES);
    }
    let (mut checks, mut things, mut failed) = (0, 0, Vec::new());
    for name in chosen {
        match run_child(name, root) {
            Some((part_checks, part_things)) => {
                checks += part_checks;
                things += part_things;
            }
            None => failed.push(name),
        }
    }
    // The parts that end without an orderly stop leave DPDK's empty folder behind.
    let _ = std::fs::remove_dir("/var/run/dpdk/twinpath-test");
    println!(
        "eal: {checks} checks, {things} frames and facts compared, {} parts failed {failed:?}",
        failed.len()
    );
    if failed.is_empty() && checks > 0 && things > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one part in a child, echoes its output and returns its counts.
fn run_child(name: &str, root: bool) -> Option<(u64, u64)> {
    let own = env::current_exe().unwrap();
    let mut command = if root {
        let mut command = Command::new("unshare");
        command.arg("--net").arg(own);
        command
    } else {
        Command::new(own)
    };
    let output = command.env(PART, name).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}{}", String::from_utf8_lossy(&output.stderr));
    let tally = text.lines().find_map(|line| line.strip_prefix(TALLY))?;
    let mut counts = tally
        .split_whitespace()
        .map(|count| count.parse::<u64>().unwrap());
    let counts = (counts.next()?, counts.next()?);
    (output.status.success() && counts.0 > 0).then_some(counts)
}

fn run_part(name: &str) -> ExitCode {
    let part = parts::PARTS.iter().find(|part| part.name == name).unwrap();
    let tally = (part.run)(is_root());
    println!("{TALLY} {} {}", tally.checks, tally.things);
    if tally.failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout.trim_ascii() == b"0"
}

/// What a part did.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    checks: u64,
    things: u64,
    failed: bool,
}

impl Tally {
    /// Runs a check, prints what it compared, and takes nothing compared for a failure.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Check) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check));
        let count = outcome.as_ref().copied().unwrap_or(0);
        let verdict = if count > 0 { "ok" } else { "FAILED" };
        println!("eal: {name}: {verdict}, {count} compared");
        self.checks += 1;
        self.things += count;
        self.failed |= count == 0;
    }
}
