//! Words about workers: which of them has which slot.

use clap::Subcommand;
use ctl::job_report::{RebalanceWanted, SlotMove};
use ctl::protocol::Command;

const REBALANCE_HELP: &str = "\
Examples:
  twinpathctl worker rebalance --dry-run             what would go where, and why
  twinpathctl worker rebalance                       do it
  twinpathctl worker move-slot vrf main 7 --to 1     one slot to one worker
  twinpathctl show worker                            slots and counters of each worker

Exit code: 0 every move came to its end, or there was nothing to move; 1 a slot has stayed where it was (the cause is printed).";

/// After `worker`.
#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// Has slots go from workers that have much to do to workers that have little, by what is measured within a second. No packet
    /// is lost, and the peer notices nothing.
    #[command(after_help = REBALANCE_HELP)]
    Rebalance {
        /// Only show what would go where, and why.
        #[arg(long)]
        dry_run: bool,
    },
    /// Has one slot go to a worker.
    MoveSlot {
        /// The word "vrf".
        #[arg(value_name = "vrf", value_parser = ["vrf"], hide_possible_values = true)]
        word: String,
        /// Name of the VRF.
        #[arg(value_name = "NAME")]
        vrf: String,
        /// Number of the slot.
        #[arg(value_name = "SLOT")]
        slot: u16,
        /// Number of the worker.
        #[arg(long, value_name = "WORKER")]
        to: u16,
        /// Only show what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

impl Worker {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        Command::Rebalance(match self {
            Self::Rebalance { dry_run } => RebalanceWanted { only: None, dry_run },
            Self::MoveSlot {
                vrf,
                slot,
                to,
                dry_run,
                ..
            } => RebalanceWanted {
                only: Some(SlotMove { vrf, slot, to }),
                dry_run,
            },
        })
    }
}
