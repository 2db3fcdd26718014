//! What the control process and the data process say to each other, over a Unix socket of the data process.
//!
//! ```text
//! control                                      data
//!    │ Hello, SetConfig, SetForwarding, SetGroup  │
//!    ├───────────────────────────────────────────►│   one Reply per Request, matched by number,
//!    │ queries: counters, conntracks, peers, …    │   in any order
//!    │◄───────────────────────────────────────────┤
//!    │ Event: role, wanted neighbour, log line    │   pushed to every connected client
//! ```
//!
//! frame = length (u32, big endian, of what follows) | version (u16, big endian) | postcard.
//!
//! The connection holds no state that matters: when either process restarts, the control process connects
//! again and says everything once more. The data process never waits for it.

mod client;
mod frame;
mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ctl::config_report::SettingChange;
use ctl::job_report::{CompareReport, CompareWanted, RebalanceReport, RebalanceWanted, ResyncOutcome};
use ctl::journal::JournalPage;
use ctl::protocol::Refusal;
use ctl::report::{
    BlockRow, ConntrackFilter, ConntrackRow, Count, DropRow, EventRow, GroupRow, GroupState, MemoryRow, Page,
    PlanReport, PoolRow, PortRow, RoleRow, RoleState, Rows, RuleHits, Tuple, UserRow, VersionRow, WorkerRow,
};
use ctl::switchover::SwitchoverReport;
use ctl::sync_report::{SlotRow, SyncReport, SyncState};
use ctl::sync_view::{ConservationRow, OperationRow, ProtectionRow, SyncOverview};
use dataplane::config::{Action, ForwardingPart, InterfaceId};
use dataplane::role::Role;
use serde::{Deserialize, Serialize};

pub use self::client::Client;
pub use self::frame::{FRAME_BYTES_MAX, FrameReader, decode, encode, frame_of};
pub use self::server::{Incoming, Server, Ticket};
pub use self::socket::{Arrived, ClientId, FrameServer, claim_socket};

/// Version of the messages below. Both processes are installed together, so only equal versions talk; the check
/// is for the moment between the restart of one and of the other during an upgrade.
pub const VERSION: u16 = 3;

/// From control to data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on a connection: who is asking. Answered by [`Reply::Hello`].
    Hello {
        /// Node the asker is configured for; another node's is refused.
        node: String,
    },
    /// The configuration. Without `try_ms` for good, as far as a running process can take it: [`Reply::LeftOut`] names the
    /// rest. Otherwise for that long: whole or refused, and given up for the one before unless the same is set for good.
    SetConfig {
        /// The configuration.
        config: ConfigText,
        /// How long it is tried, in milliseconds.
        try_ms: Option<u64>,
    },
    /// Reachability: all of it, or what is different, in one part or several.
    SetForwarding(Box<ForwardingPart>),
    /// What a group shall be.
    SetGroup {
        /// Group name.
        name: String,
        /// State wanted.
        state: GroupState,
        /// An operator's order, against the configured preference only.
        explicit: bool,
    },
    /// Group states as last told. [`Reply::Groups`].
    Groups,
    /// Roles of all VRFs. [`Reply::Roles`].
    Roles,
    /// [`Reply::Workers`], with counters.
    Workers,
    /// [`Reply::Ports`], with xstats.
    Ports,
    /// [`Reply::Events`].
    Events,
    /// [`Reply::Drops`].
    Drops,
    /// [`Reply::Memory`].
    Memory,
    /// [`Reply::Version`].
    Version,
    /// [`Reply::Plan`].
    Plan,
    /// [`Reply::Conntracks`].
    Conntracks {
        /// VRF name.
        vrf: String,
        /// Which.
        filter: ConntrackFilter,
        /// Part of the list.
        page: Page,
    },
    /// [`Reply::Count`].
    ConntrackCount {
        /// VRF name.
        vrf: String,
        /// Which.
        filter: ConntrackFilter,
    },
    /// Removes conntracks. [`Reply::Count`] of those removed.
    FlushConntracks {
        /// VRF name; none means all.
        vrf: Option<String>,
        /// Which.
        filter: ConntrackFilter,
        /// On a standby, here alone.
        lose: bool,
    },
    /// [`Reply::NatStatistics`].
    NatStatistics {
        /// VRF name.
        vrf: String,
    },
    /// [`Reply::Pools`].
    Pools {
        /// VRF name.
        vrf: String,
    },
    /// [`Reply::Users`].
    Users {
        /// VRF name.
        vrf: String,
        /// Part of the list.
        page: Page,
    },
    /// [`Reply::Blocks`].
    Blocks {
        /// VRF name.
        vrf: String,
        /// Part of the list.
        page: Page,
    },
    /// [`Reply::RuleHits`].
    RuleHits {
        /// VRF name.
        vrf: String,
    },
    /// [`Reply::SyncState`].
    SyncState {
        /// VRF name.
        vrf: String,
    },
    /// [`Reply::SyncReport`].
    SyncReport {
        /// VRF name.
        vrf: String,
    },
    /// [`Reply::Slots`].
    Slots {
        /// VRF name.
        vrf: String,
    },
    /// [`Reply::Sync`].
    Sync {
        /// Only this VRF.
        vrf: Option<String>,
    },
    /// [`Reply::Operations`].
    Operations,
    /// [`Reply::Conservation`].
    Conservation,
    /// [`Reply::Protection`].
    Protection,
    /// [`Reply::Journal`].
    Journal {
        /// Number of the first event wanted.
        from: u64,
    },
    /// Compares tables with the peer. [`Reply::Job`].
    Compare(CompareWanted),
    /// Sends slots again, or asks for them. [`Reply::Job`].
    Resync {
        /// VRF name; none means all.
        vrf: Option<String>,
        /// Only this slot.
        slot: Option<u16>,
    },
    /// Has slots go to other workers. [`Reply::Job`].
    Rebalance(RebalanceWanted),
    /// How far a job is. [`Reply::Compare`], [`Reply::Resync`] or [`Reply::Rebalance`].
    Job {
        /// Number from [`Reply::Job`].
        number: u32,
    },
    /// Has the device of a port, or the tap of this name, made anew. [`Reply::Done`], or refused when it isn't there.
    ResetPort {
        /// Name.
        name: String,
    },
    /// A peer gives out no ports any more: an operator says so. Refused while it is connected.
    DeclareDead {
        /// Its name in the configuration.
        peer: String,
    },
    /// Hands a group that is active here to a peer. [`Reply::Switchover`].
    Switchover {
        /// Group name.
        name: String,
        /// Name of the peer; none where there is only one.
        to: Option<String>,
    },
    /// Switchovers under way, and the last one of each group. [`Reply::Switchovers`].
    Switchovers,
    /// Whether this configuration could be tried now; refused with everything that is in the way.
    CheckConfig(ConfigText),
    /// Gives up the configuration that is tried. [`Reply::Done`], also when nothing is tried any more.
    RollBack,
}

/// A configuration file. It travels as it was written: both processes read it, and each judges what it means to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigText {
    /// Name of the file, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// From data to control, to one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The data process.
    Hello {
        /// Drawn at start: a new one tells of a restart.
        boot: u64,
    },
    /// The order was carried out.
    Done,
    /// See [`Request::Groups`].
    Groups(Vec<GroupRow>),
    /// See [`Request::Roles`].
    Roles(Vec<RoleRow>),
    /// See [`Request::Workers`].
    Workers(Vec<WorkerRow>),
    /// See [`Request::Ports`].
    Ports(Vec<PortRow>),
    /// See [`Request::Events`].
    Events(Vec<EventRow>),
    /// See [`Request::Drops`].
    Drops(Vec<DropRow>),
    /// See [`Request::Memory`].
    Memory(Vec<MemoryRow>),
    /// See [`Request::Version`].
    Version(VersionRow),
    /// See [`Request::Plan`].
    Plan(PlanReport),
    /// See [`Request::Conntracks`].
    Conntracks(Rows<ConntrackRow>),
    /// See [`Request::ConntrackCount`] and [`Request::FlushConntracks`].
    Count(u64),
    /// See [`Request::NatStatistics`].
    NatStatistics(Vec<Count>),
    /// See [`Request::Pools`].
    Pools(Vec<PoolRow>),
    /// See [`Request::Users`].
    Users(Rows<UserRow>),
    /// See [`Request::Blocks`].
    Blocks(Rows<BlockRow>),
    /// See [`Request::RuleHits`].
    RuleHits(Vec<RuleHits>),
    /// See [`Request::SyncState`].
    SyncState(SyncState),
    /// See [`Request::SyncReport`].
    SyncReport(SyncReport),
    /// See [`Request::Slots`].
    Slots(Vec<SlotRow>),
    /// See [`Request::Sync`].
    Sync(SyncOverview),
    /// See [`Request::Operations`].
    Operations(Vec<OperationRow>),
    /// See [`Request::Conservation`].
    Conservation(Vec<ConservationRow>),
    /// See [`Request::Protection`].
    Protection(Vec<ProtectionRow>),
    /// See [`Request::Journal`].
    Journal(JournalPage),
    /// A job has begun under this number.
    Job(u32),
    /// See [`Request::Job`].
    Compare(CompareReport),
    /// See [`Request::Job`].
    Resync(ResyncOutcome),
    /// See [`Request::Job`].
    Rebalance(RebalanceReport),
    /// See [`Request::Switchover`].
    Switchover(SwitchoverReport),
    /// See [`Request::Switchovers`].
    Switchovers(Vec<SwitchoverReport>),
    /// See [`Request::SetConfig`]. Empty: everything was taken.
    LeftOut(Vec<SettingChange>),
}

/// From data to control, unasked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A VRF changed its role.
    RoleChanged(RoleRow),
    /// A VRF's readiness, or what is in its way, has changed, and its role hasn't.
    ReadinessChanged(RoleRow),
    /// A packet waits for this neighbour's MAC address.
    NeighborWanted {
        /// Interface.
        interface: InterfaceId,
        /// Address.
        address: IpAddr,
    },
    /// A section of the configuration that must be equal on both nodes is not.
    FingerprintDiffers {
        /// Peer.
        peer: String,
        /// VRF.
        vrf: String,
        /// Section, such as `inside` or `cg-nat pool public`.
        section: String,
    },
    /// The data process was told (SIGHUP) to read its file again; both have to take it.
    ReloadWanted,
    /// A rule with `log` decided about a flow's first packet.
    RuleHit {
        /// VRF.
        vrf: String,
        /// Rule; none for the default action.
        rule: Option<u32>,
        /// What was done.
        action: Action,
        /// IANA protocol number.
        protocol: u8,
        /// The packet.
        tuple: Tuple,
    },
    /// A switchover has come a step further.
    Switchover(SwitchoverReport),
    /// A peer has handed this group to this node.
    Handed {
        /// Group name.
        group: String,
    },
}

/// Everything that can be in a frame towards the data process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToData {
    /// Chosen by the asker, returned with the reply.
    pub(crate) number: u32,
    pub(crate) request: Request,
}

/// Everything that can be in a frame towards the control process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToControl {
    Reply {
        number: u32,
        result: Result<Reply, Refusal>,
    },
    Event(Event),
}

/// What went wrong between the two processes.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The socket failed or the other side is gone.
    #[error("the connection between the control and data processes failed: {0}")]
    Io(#[from] std::io::Error),
    /// More than a frame may hold.
    #[error("a frame of {0} bytes is larger than the {FRAME_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// Another version.
    #[error(
        "the other process speaks version {0} of the internal protocol, this one {VERSION}: restart both from the same release"
    )]
    Version(u16),
    /// Not a message of this version.
    #[error("a message between the control and data processes is damaged: {0}")]
    Malformed(#[from] postcard::Error),
    /// The other side closed the connection.
    #[error("the other process closed the connection")]
    Closed,
    /// The data process is gone; its sockets may not have noticed yet.
    #[error("the data process has ended")]
    Ended,
    /// No answer in time.
    #[error("the data process did not answer in time")]
    TimedOut,
    /// The data process refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The answer doesn't fit the question.
    #[error("the data process gave an answer of the wrong kind")]
    WrongReply,
    /// Another process already serves this socket.
    #[error("{0} is already served by a running process")]
    InUse(std::path::PathBuf),
}

/// A role in the words of reports.
#[must_use]
pub const fn role_state(role: Role) -> RoleState {
    match role {
        Role::Fault => RoleState::Fault,
        Role::Backup => RoleState::Backup,
        Role::Master => RoleState::Master,
        Role::Alone => RoleState::Alone,
    }
}
