//! Words about replication: comparing, sending again, looking, following.

use clap::{Args, Subcommand};
use ctl::job_report::CompareWanted;
use ctl::protocol::Command;

pub(super) const COMPARE_HELP: &str = "\
Examples:
  twinpathctl compare                        every VRF that this node sends
  twinpathctl compare vrf main --all         each entry, also where count and digest are the same
  twinpathctl compare vrf main slot 7 --fix  sends the slot again if it differs, and compares once more

Exit code: 0 equal, 1 different, 2 could not be compared (the cause is printed), 3 the node can't be reached.";

pub(super) const EVENTS_HELP: &str = "\
Examples:
  twinpathctl events                   the last thousand events
  twinpathctl events --follow --json   each event as it comes, one JSON object per line
  twinpathctl events --from 70         from number 70 on

Events are numbered without gaps; \"(N events missed)\" says that N were dropped before they were read.";

pub(super) const SYNC_HELP: &str = "\
Examples:
  twinpathctl show sync               every mirrored VRF, every lane
  twinpathctl show sync vrf main      one VRF
  twinpathctl show sync operations    calls, bytes, average, ratio and rates of each operation
  twinpathctl show sync conservation  what became of every change and every record";

/// After `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on until interrupted.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Number of the first event to show.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub(crate) from: u64,
}

pub(super) const RESYNC_HELP: &str = "\
Examples:
  twinpathctl resync all               every slot of every VRF
  twinpathctl resync vrf main          every slot of a VRF
  twinpathctl resync vrf main slot 7   one slot

Exit code: 0 all slots are verified, 1 refused or not finished (the cause is printed), 3 the node can't be reached.";

/// After `compare`.
#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// The word "vrf".
    #[arg(value_name = "vrf", value_parser = ["vrf"], hide_possible_values = true, requires = "vrf")]
    word: Option<String>,
    /// Name of the VRF; without, every VRF that this node sends.
    #[arg(value_name = "NAME")]
    vrf: Option<String>,
    /// The word "slot".
    #[arg(value_name = "slot", value_parser = ["slot"], hide_possible_values = true, requires = "slot")]
    slot_word: Option<String>,
    /// Only this slot.
    #[arg(value_name = "SLOT")]
    slot: Option<u16>,
    /// Look at each entry, also where count and digest are the same.
    #[arg(long)]
    all: bool,
    /// Send slots that differ again, and compare them once more.
    #[arg(long)]
    fix: bool,
}

/// After `resync`.
#[derive(Debug, Args)]
pub(crate) struct Resync {
    /// "all", or "vrf" and its name.
    #[arg(value_name = "all|vrf", value_parser = ["all", "vrf"], hide_possible_values = true, requires_if("vrf", "vrf"))]
    word: String,
    /// Name of the VRF.
    #[arg(value_name = "NAME")]
    vrf: Option<String>,
    /// The word "slot".
    #[arg(value_name = "slot", value_parser = ["slot"], hide_possible_values = true, requires = "slot")]
    slot_word: Option<String>,
    /// Only this slot.
    #[arg(value_name = "SLOT")]
    slot: Option<u16>,
}

/// After `show sync`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ShowSync {
    #[command(subcommand)]
    what: Option<SyncPart>,
    /// The word "vrf".
    #[arg(value_name = "vrf", value_parser = ["vrf"], hide_possible_values = true, requires = "vrf")]
    word: Option<String>,
    /// Name of the VRF; without, every VRF.
    #[arg(value_name = "NAME")]
    vrf: Option<String>,
}

/// A part of `show sync`.
#[derive(Debug, Subcommand)]
pub(crate) enum SyncPart {
    /// How often each operation was done, with how many bytes, and how fast lately.
    Operations,
    /// The equations that all counters of replication satisfy.
    Conservation,
}

impl Compare {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        Command::Compare(CompareWanted {
            vrf: self.vrf,
            slot: self.slot,
            all: self.all,
            fix: self.fix,
        })
    }
}

impl Resync {
    /// The command these words mean; none when "all" is followed by something.
    #[must_use]
    pub(crate) fn command(self) -> Option<Command> {
        let (all, vrf, slot) = (self.word == "all", self.vrf, self.slot);
        (!all || vrf.is_none()).then_some(Command::Resync { vrf, slot })
    }
}

impl ShowSync {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        match self.what {
            None => Command::Sync { vrf: self.vrf },
            Some(SyncPart::Operations) => Command::Operations,
            Some(SyncPart::Conservation) => Command::Conservation,
        }
    }
}
