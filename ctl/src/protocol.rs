//! The operator's protocol: one request, one response, as JSON objects in length-prefixed frames on the control
//! process's Unix socket.
//!
//! ```text
//! frame    = length (u32, big endian, at most FRAME_BYTES_MAX) | JSON
//! request  = { "version": 1, "command": … }
//! response = { "version": 1, "result": { "ok": … } or { "error": { "kind": …, "message": … } } }
//! ```
//!
//! A request is born in `twinpathctl`, read by the control process, answered there or from the data process,
//! and gone with its response. The version is looked at before anything else, so that a foreign version gets a
//! clear message instead of a complaint about some field.

use std::io::{Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config_report::{Applied, RunningConfig, Setting, SettingChange};
use crate::job_report::{CompareReport, CompareWanted, RebalanceReport, RebalanceWanted, ResyncOutcome};
use crate::journal::JournalPage;
use crate::report::{
    BlockRow, ConntrackFilter, ConntrackRow, Count, DropRow, EventRow, GroupState, HaGroupReport, MemoryRow,
    Page, PoolRow, PortRow, Rows, RuleRow, UserRow, VersionRow, WorkerRow,
};
use crate::switchover::SwitchoverReport;
use crate::sync_report::{SlotRow, SyncReport, SyncState};
use crate::sync_view::{ConservationRow, OperationRow, ProtectionRow, SyncOverview};

/// Version of this protocol. Changes when an old reader would misunderstand a new writer.
pub const VERSION: u32 = 1;

/// Largest JSON text of a frame, in bytes.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Most rows one response carries; longer lists are read page by page.
pub const PAGE_ROWS_MAX: u32 = 2_000;

/// What the operator wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Configuration of replication in a VRF, and the role.
    HaState {
        /// VRF name.
        vrf: String,
    },
    /// Peers of a VRF with lanes and statistics.
    HaPeers {
        /// VRF name.
        vrf: String,
    },
    /// Slots of a VRF with digests.
    HaSlots {
        /// VRF name.
        vrf: String,
    },
    /// All HA groups.
    HaGroups,
    /// Conntracks of a VRF.
    Conntracks {
        /// VRF name.
        vrf: String,
        /// Which.
        filter: ConntrackFilter,
        /// Part of the list.
        page: Page,
    },
    /// How many conntracks of a VRF match.
    ConntrackCount {
        /// VRF name.
        vrf: String,
        /// Which.
        filter: ConntrackFilter,
    },
    /// Counters of address translation.
    NatStatistics {
        /// VRF name.
        vrf: String,
    },
    /// Pools with their use.
    NatPools {
        /// VRF name.
        vrf: String,
    },
    /// Subscribers that hold ports.
    NatUsers {
        /// VRF name.
        vrf: String,
        /// Part of the list.
        page: Page,
    },
    /// Granted port blocks.
    NatBlocks {
        /// VRF name.
        vrf: String,
        /// Part of the list.
        page: Page,
    },
    /// Firewall rules with hits.
    FirewallRules {
        /// VRF name.
        vrf: String,
    },
    /// Ports.
    Ports,
    /// Has the device of a port made anew.
    ResetPort {
        /// Name of the port, or of its tap.
        name: String,
    },
    /// Workers.
    Workers,
    /// Event threads.
    Events,
    /// Drops by reason.
    Drops,
    /// Memory and fixed stores.
    Memory,
    /// Versions of both processes.
    Version,
    /// Removes conntracks, on the active node also from the peer.
    FlushConntracks {
        /// VRF name; none means every VRF.
        vrf: Option<String>,
        /// Which.
        filter: ConntrackFilter,
        /// On a standby, and in a build with assertions: here alone, telling nobody, so that there is something to find
        /// and to repair.
        #[serde(default)]
        lose: bool,
    },
    /// Replication at a glance.
    Sync {
        /// Only this VRF.
        vrf: Option<String>,
    },
    /// How often each operation of replication was done, and how fast lately.
    Operations,
    /// The equations that all counters of replication satisfy.
    Conservation,
    /// Flows that a failover would keep and lose.
    Protection,
    /// What happened to replication.
    Journal {
        /// Number of the first event wanted.
        from: u64,
    },
    /// Starts a comparison of the tables with the peer's.
    Compare(CompareWanted),
    /// Has slots sent again: by this node, or by the peer where this node receives.
    Resync {
        /// VRF name; none means every VRF.
        vrf: Option<String>,
        /// Only this slot.
        slot: Option<u16>,
    },
    /// Has slots go to other workers.
    Rebalance(RebalanceWanted),
    /// How far a comparison, a resync or a rebalancing is.
    Job {
        /// Number from [`Reply::Job`].
        number: u32,
    },
    /// Asks a group to take or leave the active role.
    SetHaGroup {
        /// Group name.
        name: String,
        /// State wanted.
        state: GroupState,
    },
    /// A peer is dead for certain: it gives out no ports any more.
    DeclareDead {
        /// Its name in the node's configuration.
        peer: String,
    },
    /// Keeps a group that VRRP drives from taking the role over from a peer that works, or lets it.
    HoldHaGroup {
        /// Group name.
        name: String,
        /// Hold it, or release it.
        held: bool,
    },
    /// Hands a group that is active here to a peer, make before break.
    Switchover {
        /// Group name.
        name: String,
        /// Name of the peer; none where there is only one.
        #[serde(default)]
        to: Option<String>,
    },
    /// How far the switchover of a group is, or how the last one ended.
    SwitchoverReport {
        /// Group name.
        name: String,
    },
    /// What keepalived has to include for the groups that it drives.
    KeepalivedConfig {
        /// Only this group.
        group: Option<String>,
        /// Path of the operator's command, which keepalived runs as its check.
        ctl: String,
    },
    /// Keepalived's check of this node.
    KeepalivedCheck,
    /// Reads a configuration and reports every error in it.
    ConfigCheck {
        /// Name of the file, for messages.
        file: String,
        /// Its text.
        text: String,
    },
    /// What this configuration would change, and what each change takes.
    ConfigDiff {
        /// Name of the file, for messages.
        file: String,
        /// Its text.
        text: String,
    },
    /// Runs with this configuration until it is confirmed or the time is over.
    ConfigApply {
        /// Name of the file, for messages.
        file: String,
        /// Its text.
        text: String,
        /// Time to confirm it, in seconds.
        within_s: u64,
    },
    /// Keeps what is tried, and replaces the node's file by it.
    ConfigConfirm,
    /// Gives up what is tried.
    ConfigRollBack,
    /// What runs, as it was written.
    ConfigShow,
    /// What runs, setting by setting.
    ConfigSettings,
}

/// What the operator gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Command::HaState`].
    HaState(SyncState),
    /// To [`Command::HaPeers`].
    HaPeers(SyncReport),
    /// To [`Command::HaSlots`].
    HaSlots(Vec<SlotRow>),
    /// To [`Command::HaGroups`].
    HaGroups(Vec<HaGroupReport>),
    /// To [`Command::Conntracks`].
    Conntracks(Rows<ConntrackRow>),
    /// To [`Command::ConntrackCount`] and [`Command::FlushConntracks`].
    Count(u64),
    /// To [`Command::NatStatistics`].
    NatStatistics(Vec<Count>),
    /// To [`Command::NatPools`].
    NatPools(Vec<PoolRow>),
    /// To [`Command::NatUsers`].
    NatUsers(Rows<UserRow>),
    /// To [`Command::NatBlocks`].
    NatBlocks(Rows<BlockRow>),
    /// To [`Command::FirewallRules`].
    FirewallRules(Vec<RuleRow>),
    /// To [`Command::Ports`].
    Ports(Vec<PortRow>),
    /// To [`Command::Workers`].
    Workers(Vec<WorkerRow>),
    /// To [`Command::Events`].
    Events(Vec<EventRow>),
    /// To [`Command::Drops`].
    Drops(Vec<DropRow>),
    /// To [`Command::Memory`].
    Memory(Vec<MemoryRow>),
    /// To [`Command::Version`].
    Version(Vec<VersionRow>),
    /// To [`Command::Sync`].
    Sync(SyncOverview),
    /// To [`Command::Operations`].
    Operations(Vec<OperationRow>),
    /// To [`Command::Conservation`].
    Conservation(Vec<ConservationRow>),
    /// To [`Command::Protection`].
    Protection(Vec<ProtectionRow>),
    /// To [`Command::Journal`]: as many as fit into one answer.
    Journal(JournalPage),
    /// To [`Command::Compare`], [`Command::Resync`] and [`Command::Rebalance`]: ask for it by this number.
    Job(u32),
    /// To [`Command::Job`].
    Compare(CompareReport),
    /// To [`Command::Job`].
    Resync(ResyncOutcome),
    /// To [`Command::Job`].
    Rebalance(RebalanceReport),
    /// To [`Command::Switchover`] and [`Command::SwitchoverReport`].
    Switchover(SwitchoverReport),
    /// To [`Command::ConfigDiff`]; none means no difference.
    SettingChanges(Vec<SettingChange>),
    /// To [`Command::ConfigApply`].
    Applied(Applied),
    /// To [`Command::ConfigShow`].
    RunningConfig(RunningConfig),
    /// To [`Command::ConfigSettings`].
    Settings(Vec<Setting>),
    /// To [`Command::SetHaGroup`], [`Command::DeclareDead`], [`Command::ResetPort`], [`Command::HoldHaGroup`],
    /// [`Command::KeepalivedCheck`], [`Command::ConfigConfirm`] and [`Command::ConfigRollBack`].
    Done,
    /// To [`Command::ConfigCheck`]: one line each; none means no error. To [`Command::KeepalivedConfig`]: its lines.
    Lines(Vec<String>),
}

/// Why a command wasn't carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// There is no such VRF, group, …
    NotFound,
    /// The node won't do this.
    Refused,
    /// The data process doesn't answer.
    Unreachable,
    /// The request isn't understood: other version or damaged.
    Protocol,
}

/// A refusal with its message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Kind.
    pub kind: RefusalKind,
    /// What is wrong and what to do, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// Nothing of that name.
    pub fn not_found(what: &str, name: &str) -> Self {
        Self::new(
            RefusalKind::NotFound,
            format!("there is no {what} named \"{name}\""),
        )
    }
}

/// Why a frame couldn't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The other side announced or would need more than a frame may hold.
    #[error("a frame of {0} bytes is larger than the {FRAME_BYTES_MAX} allowed")]
    TooLarge(usize),
    /// Not the JSON this version speaks.
    #[error("the message is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Another version of the protocol.
    #[error(
        "the other side speaks version {theirs} of the control protocol, this program speaks {VERSION}: use the twinpathctl of the same release"
    )]
    Version {
        /// Version it named.
        theirs: u32,
    },
}

#[derive(Serialize)]
struct RequestOut<'a> {
    version: u32,
    command: &'a Command,
}

#[derive(Deserialize)]
struct RequestIn {
    command: Command,
}

#[derive(Serialize)]
struct ResponseOut<'a> {
    version: u32,
    result: ResultOut<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum ResultOut<'a> {
    Ok(&'a Reply),
    Error(&'a Refusal),
}

#[derive(Deserialize)]
struct ResponseIn {
    result: ResultIn,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ResultIn {
    Ok(Reply),
    Error(Refusal),
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

/// JSON of a request.
///
/// # Errors
/// When it would be too large.
pub fn encode_request(command: &Command) -> Result<Vec<u8>, ProtocolError> {
    bounded(serde_json::to_vec(&RequestOut {
        version: VERSION,
        command,
    })?)
}

/// Reads the JSON of a request.
///
/// # Errors
/// On another version or damaged text.
pub fn decode_request(json: &[u8]) -> Result<Command, ProtocolError> {
    Ok(decode::<RequestIn>(json)?.command)
}

/// JSON of a response.
///
/// # Errors
/// When it would be too large.
pub fn encode_response(result: &Result<Reply, Refusal>) -> Result<Vec<u8>, ProtocolError> {
    let result = match result {
        Ok(reply) => ResultOut::Ok(reply),
        Err(refusal) => ResultOut::Error(refusal),
    };
    bounded(serde_json::to_vec(&ResponseOut {
        version: VERSION,
        result,
    })?)
}

/// Reads the JSON of a response.
///
/// # Errors
/// On another version or damaged text.
pub fn decode_response(json: &[u8]) -> Result<Result<Reply, Refusal>, ProtocolError> {
    Ok(match decode::<ResponseIn>(json)?.result {
        ResultIn::Ok(reply) => Ok(reply),
        ResultIn::Error(refusal) => Err(refusal),
    })
}

/// Writes one frame.
///
/// # Errors
/// When the socket fails or the text is too large.
pub fn write_frame(to: &mut impl Write, json: &[u8]) -> Result<(), ProtocolError> {
    let length = u32::try_from(json.len()).map_err(|_| ProtocolError::TooLarge(json.len()))?;
    if json.len() > FRAME_BYTES_MAX {
        return Err(ProtocolError::TooLarge(json.len()));
    }
    to.write_all(&length.to_be_bytes())?;
    to.write_all(json)?;
    Ok(to.flush()?)
}

/// Reads one frame; none when the other side has closed between frames.
///
/// # Errors
/// When the socket fails or closes inside a frame, or the frame is too large.
pub fn read_frame(from: &mut impl Read) -> Result<Option<Vec<u8>>, ProtocolError> {
    let mut header = [0_u8; 4];
    let mut got = 0;
    while got < header.len() {
        match from.read(&mut header[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let length = u32::from_be_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(ProtocolError::TooLarge(length));
    }
    // Grows with what arrives, so that an announced length alone costs no memory.
    let mut json = Vec::new();
    let read = from.take(length as u64).read_to_end(&mut json)?;
    if read < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(json))
}

fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, ProtocolError> {
    let VersionOnly { version } = serde_json::from_slice(json)?;
    if version != VERSION {
        return Err(ProtocolError::Version { theirs: version });
    }
    Ok(serde_json::from_slice(json)?)
}

fn bounded(json: Vec<u8>) -> Result<Vec<u8>, ProtocolError> {
    if json.len() > FRAME_BYTES_MAX {
        Err(ProtocolError::TooLarge(json.len()))
    } else {
        Ok(json)
    }
}

#[cfg(test)]
mod tests;
