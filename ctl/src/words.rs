//! The command line: the words an operator types, and the command they mean.

mod sync;
mod worker;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ctl::protocol::Command;
use ctl::report::{ConntrackFilter, FlowState, GroupState, Owner, Page};
use ipnet::IpNet;

pub(crate) use self::sync::Events;
use self::sync::{COMPARE_HELP, Compare, EVENTS_HELP, RESYNC_HELP, Resync, SYNC_HELP, ShowSync};
use self::worker::Worker;

/// Behind the options of `switchover`.
const SWITCHOVER_HELP: &str = "\
The node stays active until the peer is. First it tells the peer what it kept back; when the peer has acknowledged \
everything, it takes over (a group driven by VRRP: keepalived moves). At any step before, whatever goes wrong leaves the \
role here. Exit code 0: the peer has taken over; 1: the role is still here, and the cause is printed.";

/// Operate a twinpath node.
#[derive(Debug, Parser)]
#[command(name = "twinpathctl", version, infer_subcommands = false)]
pub(crate) struct Line {
    /// Name of the node; not needed when only one runs on this machine.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Control socket of the node, instead of its name.
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "node")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// First word.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show state, tables and counters.
    #[command(subcommand)]
    Show(Show),
    /// Remove entries.
    #[command(subcommand)]
    Flush(Flush),
    /// Change what runs.
    #[command(subcommand)]
    Set(Set),
    /// What this node can't see of a peer.
    #[command(subcommand)]
    Peer(Peer),
    /// A port's device.
    #[command(subcommand)]
    Port(Port),
    /// Which worker has which slot.
    #[command(subcommand)]
    Worker(Worker),
    /// Compare the tables with the peer's, entry by entry, while traffic runs.
    #[command(after_help = COMPARE_HELP)]
    Compare(Compare),
    /// What happened to replication: roles, peers, resyncs, divergences, refusals.
    #[command(after_help = EVENTS_HELP)]
    Events(Events),
    /// Have slots sent again, whole: by this node, or by the peer where this node receives.
    #[command(after_help = RESYNC_HELP)]
    Resync(Resync),
    /// Keep this node from taking a role over.
    #[command(subcommand)]
    Hold(Grip),
    /// End a hold.
    #[command(subcommand)]
    Release(Grip),
    /// Hand an HA group that is active here to a peer, without losing a connection. Waits until it is over.
    #[command(after_help = SWITCHOVER_HELP)]
    Switchover(Switchover),
    /// Print what keepalived has to include for the HA groups that it drives.
    KeepalivedConfig {
        /// Only this HA group.
        group: Option<String>,
    },
    /// Keepalived's own check of the node: exit code 0 when it may be elected.
    #[command(hide = true)]
    KeepalivedCheck,
    /// Examine a configuration file, or have a running node take it.
    #[command(subcommand)]
    Config(Config),
    /// Keys of the sync link.
    #[command(subcommand)]
    Key(Key),
    /// Print a completion script for a shell.
    Completions {
        /// Shell.
        shell: Shell,
    },
    /// Write a manual page for every command into a folder.
    #[command(hide = true)]
    Manual {
        /// Folder; it must exist.
        folder: PathBuf,
    },
}

/// After `show`.
#[derive(Debug, Subcommand)]
pub(crate) enum Show {
    /// Mirroring of conntracks to the peer.
    #[command(subcommand)]
    HaFpConntrack(HaFpConntrack),
    /// Replication at a glance: roles, readiness, lanes, refusals.
    #[command(after_help = SYNC_HELP)]
    Sync(ShowSync),
    /// Flows that a failover would keep, and those it would lose, by reason.
    Protection,
    /// HA groups and the roles of their VRFs.
    HaGroup,
    /// Tracked connections.
    Conntrack(ShowConntrack),
    /// Address translation.
    #[command(subcommand)]
    CgNat(CgNat),
    /// Firewall.
    #[command(subcommand)]
    FpFirewall(FpFirewall),
    /// Ports with link state and statistics.
    Port,
    /// Workers with their counters.
    Worker,
    /// Event threads with their counters.
    Event,
    /// Dropped packets by reason.
    Drops,
    /// Use of memory and of fixed stores.
    Memory,
    /// Versions of both processes.
    Version,
}

/// After `show ha-fp-conntrack`.
#[derive(Debug, Subcommand)]
pub(crate) enum HaFpConntrack {
    /// Configuration and role.
    State(InVrf),
    /// Connections to peers with statistics, lag, and progress of resyncs.
    Peer(InVrf),
    /// Slots with their digests, here and at the peer.
    Slots(InVrf),
}

/// After `show cg-nat`.
#[derive(Debug, Subcommand)]
pub(crate) enum CgNat {
    /// Counters.
    Statistics(InVrf),
    /// Pools with their use.
    Pools(InVrf),
    /// Subscribers that hold ports.
    Users(InVrfPaged),
    /// Granted port blocks.
    Blocks(InVrfPaged),
}

/// After `show fp-firewall`.
#[derive(Debug, Subcommand)]
pub(crate) enum FpFirewall {
    /// Rules with hit counters.
    Rules(InVrf),
}

/// `vrf NAME`.
#[derive(Debug, Args)]
pub(crate) struct InVrf {
    /// The word "vrf".
    #[arg(value_name = "vrf", value_parser = ["vrf"], hide_possible_values = true)]
    word: String,
    /// Name of the VRF.
    #[arg(value_name = "NAME")]
    vrf: String,
}

/// `vrf NAME` of a long list.
#[derive(Debug, Args)]
pub(crate) struct InVrfPaged {
    #[command(flatten)]
    in_vrf: InVrf,
    /// Most rows to show.
    #[arg(long, value_name = "ROWS")]
    limit: Option<u32>,
}

/// After `show conntrack`.
#[derive(Debug, Args)]
pub(crate) struct ShowConntrack {
    #[command(flatten)]
    in_vrf: InVrf,
    #[command(flatten)]
    filter: Filter,
    /// Only count.
    #[arg(long, conflicts_with = "limit")]
    count: bool,
    /// Most rows to show.
    #[arg(long, value_name = "ROWS")]
    limit: Option<u32>,
}

/// Which conntracks; tuples are those of the original direction.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Source address or prefix.
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    src: Option<IpNet>,
    /// Destination address or prefix.
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    dst: Option<IpNet>,
    /// Source port, or identifier of an ICMP query.
    #[arg(long, value_name = "PORT")]
    sport: Option<u16>,
    /// Destination port.
    #[arg(long, value_name = "PORT")]
    dport: Option<u16>,
    /// Protocol, by name or number.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    proto: Option<u8>,
    /// State.
    #[arg(long)]
    state: Option<State>,
    /// Node that owns the entry.
    #[arg(long)]
    owner: Option<OwnedBy>,
}

/// State of a conntrack.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum State {
    /// Handshake not finished, or one way only.
    Opening,
    /// Both ends have spoken.
    Established,
    /// FIN or RST seen.
    Closing,
}

/// Owner of a conntrack.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum OwnedBy {
    /// This node.
    Local,
    /// The peer.
    Peer,
}

/// After `flush`.
#[derive(Debug, Subcommand)]
pub(crate) enum Flush {
    /// Tracked connections, here and, from the active node, at the peer.
    Conntrack(FlushConntrack),
}

/// After `flush conntrack`.
#[derive(Debug, Args)]
pub(crate) struct FlushConntrack {
    /// The word "vrf".
    #[arg(value_name = "vrf", value_parser = ["vrf"], hide_possible_values = true, requires = "vrf")]
    word: Option<String>,
    /// Name of the VRF; without, every VRF.
    #[arg(value_name = "NAME")]
    vrf: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// On a standby, here alone: something for `compare` to find. Only in builds with assertions.
    #[arg(long, hide = true)]
    lose: bool,
}

/// After `set`.
#[derive(Debug, Subcommand)]
pub(crate) enum Set {
    /// State of an HA group.
    HaGroup(SetHaGroup),
}

/// After `set ha-group`.
#[derive(Debug, Args)]
pub(crate) struct SetHaGroup {
    /// Name of the group.
    name: String,
    /// The word "state".
    #[arg(value_name = "state", value_parser = ["state"], hide_possible_values = true)]
    word: String,
    /// State wanted.
    state: Wanted,
}

/// After `peer`.
#[derive(Debug, Subcommand)]
pub(crate) enum Peer {
    /// The peer is dead for certain: all ports are this node's to give out, until the peer is heard again.
    DeclareDead {
        /// Name of the peer in the configuration.
        #[arg(value_name = "PEER")]
        peer: String,
    },
}

/// After `port`.
#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// Closes the device of a port and makes it anew, without a restart: for a card that hangs. Its packets are lost meanwhile.
    Reset {
        /// Name of the port in the configuration, or of its tap.
        #[arg(value_name = "PORT")]
        name: String,
    },
}

impl Port {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        let Self::Reset { name } = self;
        Command::ResetPort { name }
    }
}

impl Peer {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        let Self::DeclareDead { peer } = self;
        Command::DeclareDead { peer }
    }
}

/// After `switchover`.
#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// Name of the HA group.
    group: String,
    /// Peer that takes over; may be left out where there is only one.
    #[arg(long, value_name = "PEER")]
    to: Option<String>,
}

/// After `hold` and `release`.
#[derive(Debug, Subcommand)]
pub(crate) enum Grip {
    /// An HA group driven by VRRP: held, it has the lowest priority, and takes over from a dead peer only.
    HaGroup {
        /// Name of the group.
        name: String,
    },
}

/// State of a group.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Wanted {
    /// Take the active role.
    Master,
    /// Leave it to the peer.
    Backup,
}

/// After `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Report every error in a file. Without --node or --socket, no node is needed.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// What would change on the node if it ran with this file, and what each change takes.
    Diff {
        /// The file.
        file: PathBuf,
    },
    /// Run with this file, and go back to what runs now unless it is confirmed in time.
    #[command(after_help = APPLY_HELP)]
    Apply {
        /// The file.
        file: PathBuf,
        /// Time to confirm it.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        confirm_within: u64,
    },
    /// Keep what was applied: the node's own file is replaced by it.
    Confirm,
    /// Go back at once from what was applied.
    Rollback,
    /// Print what runs, as it was written.
    Show {
        /// Setting by setting instead, defaults included, with what another value takes.
        #[arg(long)]
        settings: bool,
    },
}

const APPLY_HELP: &str = "Both processes take it, or neither. It is refused if one of its settings needs a restart; all of \
them are named. The node's own file stays as it is until `twinpathctl config confirm`, so a process that dies before \
comes back with what ran before.";

/// After `key`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make this node's private key, and print the public key for the other node's configuration.
    Generate {
        /// Where the private key goes: a new file that only its owner can read.
        file: PathBuf,
    },
    /// Print the public key of a private one.
    Show {
        /// The private key's file.
        file: PathBuf,
    },
}

impl Show {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        match self {
            Self::HaFpConntrack(HaFpConntrack::State(v)) => Command::HaState { vrf: v.vrf },
            Self::HaFpConntrack(HaFpConntrack::Peer(v)) => Command::HaPeers { vrf: v.vrf },
            Self::HaFpConntrack(HaFpConntrack::Slots(v)) => Command::HaSlots { vrf: v.vrf },
            Self::Sync(show) => show.command(),
            Self::Protection => Command::Protection,
            Self::HaGroup => Command::HaGroups,
            Self::Conntrack(ShowConntrack {
                in_vrf,
                filter,
                count: true,
                ..
            }) => Command::ConntrackCount {
                vrf: in_vrf.vrf,
                filter: filter.filter(),
            },
            Self::Conntrack(ShowConntrack {
                in_vrf,
                filter,
                limit,
                ..
            }) => Command::Conntracks {
                vrf: in_vrf.vrf,
                filter: filter.filter(),
                page: page(limit),
            },
            Self::CgNat(CgNat::Statistics(v)) => Command::NatStatistics { vrf: v.vrf },
            Self::CgNat(CgNat::Pools(v)) => Command::NatPools { vrf: v.vrf },
            Self::CgNat(CgNat::Users(v)) => Command::NatUsers {
                vrf: v.in_vrf.vrf,
                page: page(v.limit),
            },
            Self::CgNat(CgNat::Blocks(v)) => Command::NatBlocks {
                vrf: v.in_vrf.vrf,
                page: page(v.limit),
            },
            Self::FpFirewall(FpFirewall::Rules(v)) => Command::FirewallRules { vrf: v.vrf },
            Self::Port => Command::Ports,
            Self::Worker => Command::Workers,
            Self::Event => Command::Events,
            Self::Drops => Command::Drops,
            Self::Memory => Command::Memory,
            Self::Version => Command::Version,
        }
    }
}

impl Flush {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        let Self::Conntrack(FlushConntrack {
            vrf, filter, lose, ..
        }) = self;
        Command::FlushConntracks {
            vrf,
            filter: filter.filter(),
            lose,
        }
    }
}

impl Set {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        let Self::HaGroup(SetHaGroup { name, state, .. }) = self;
        let state = match state {
            Wanted::Master => GroupState::Master,
            Wanted::Backup => GroupState::Backup,
        };
        Command::SetHaGroup { name, state }
    }
}

impl Switchover {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self) -> Command {
        Command::Switchover {
            name: self.group,
            to: self.to,
        }
    }
}

impl Grip {
    /// The command these words mean.
    #[must_use]
    pub(crate) fn command(self, held: bool) -> Command {
        let Self::HaGroup { name } = self;
        Command::HoldHaGroup { name, held }
    }
}

impl Filter {
    fn filter(self) -> ConntrackFilter {
        ConntrackFilter {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            protocol: self.proto,
            state: self.state.map(|state| match state {
                State::Opening => FlowState::Opening,
                State::Established => FlowState::Established,
                State::Closing => FlowState::Closing,
            }),
            owner: self.owner.map(|owner| match owner {
                OwnedBy::Local => Owner::Local,
                OwnedBy::Peer => Owner::Peer,
            }),
        }
    }
}

fn page(limit: Option<u32>) -> Page {
    Page {
        limit: limit.unwrap_or(u32::MAX),
        cursor: None,
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from))
        .map_err(|_| "use an address, or a prefix such as 100.64.0.0/10".to_owned())
}

fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmpv6" => Ok(58),
        number => number
            .parse()
            .map_err(|_| "use tcp, udp, icmp, icmpv6, or a number up to 255".to_owned()),
    }
}

#[cfg(test)]
mod tests;
