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

use crate::job_report::{CompareReport, CompareWanted, ResyncOutcome};
use crate::journal::JournalPage;
use crate::report::{
    BlockRow, ConntrackFilter, ConntrackRow, Count, DropRow, EventRow, GroupState, HaGroupReport, MemoryRow,
    Page, PoolRow, PortRow, Rows, RuleRow, UserRow, VersionRow, WorkerRow,
};
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
    /// How far a comparison or a resync is.
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
    /// What would change if this configuration were started.
    ConfigDiff {
        /// Name of the file, for messages.
        file: String,
        /// Its text.
        text: String,
    },
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
    /// To [`Command::Compare`] and [`Command::Resync`]: ask for it by this number.
    Job(u32),
    /// To [`Command::Job`].
    Compare(CompareReport),
    /// To [`Command::Job`].
    Resync(ResyncOutcome),
    /// To [`Command::SetHaGroup`], [`Command::DeclareDead`], [`Command::HoldHaGroup`] and
    /// [`Command::KeepalivedCheck`].
    Done,
    /// To [`Command::ConfigCheck`] and [`Command::ConfigDiff`]: one line each; none means no error, no difference. To
    /// [`Command::KeepalivedConfig`]: its lines.
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job_report::{ComparedVrf, DifferenceRow, EntryName, EntryState, Repaired, UndecidedSlot};
    use crate::report::{FlowState, Owner, Tuple};

    #[test]
    fn a_request_is_this_text() {
        let command = Command::SetHaGroup {
            name: "group1".into(),
            state: GroupState::Master,
        };
        let text = r#"{"version":1,"command":{"set-ha-group":{"name":"group1","state":"master"}}}"#;
        assert_eq!(encode_request(&command).unwrap(), text.as_bytes());
        assert_eq!(decode_request(text.as_bytes()).unwrap(), command);
        let text = r#"{"version":1,"command":"ha-groups"}"#;
        assert_eq!(decode_request(text.as_bytes()).unwrap(), Command::HaGroups);
    }

    #[test]
    fn a_response_is_this_text() {
        let text = r#"{"version":1,"result":{"ok":{"count":3}}}"#;
        assert_eq!(encode_response(&Ok(Reply::Count(3))).unwrap(), text.as_bytes());
        assert_eq!(decode_response(text.as_bytes()).unwrap(), Ok(Reply::Count(3)));
        let refusal = Refusal::not_found("VRF", "blue");
        let text = r#"{"version":1,"result":{"error":{"kind":"not-found","message":"there is no VRF named \"blue\""}}}"#;
        assert_eq!(encode_response(&Err(refusal.clone())).unwrap(), text.as_bytes());
        assert_eq!(decode_response(text.as_bytes()).unwrap(), Err(refusal));
    }

    #[test]
    fn another_version_is_named_even_when_the_rest_is_unknown() {
        let fault = decode_request(br#"{"version":9,"order":"?"}"#).unwrap_err();
        assert!(matches!(fault, ProtocolError::Version { theirs: 9 }), "{fault}");
    }

    #[test]
    fn a_frame_is_a_length_and_its_bytes() {
        let mut wire = Vec::new();
        write_frame(&mut wire, b"{}").unwrap();
        assert_eq!(wire, [0, 0, 0, 2, b'{', b'}']);
        let mut from = wire.as_slice();
        assert_eq!(read_frame(&mut from).unwrap().unwrap(), b"{}");
        assert!(read_frame(&mut from).unwrap().is_none());
    }

    #[test]
    fn half_a_frame_and_too_large_a_frame_are_errors() {
        assert!(matches!(
            read_frame(&mut [0, 0].as_slice()),
            Err(ProtocolError::Io(_))
        ));
        assert!(matches!(
            read_frame(&mut [0, 0, 0, 9, 1].as_slice()),
            Err(ProtocolError::Io(_))
        ));
        assert!(matches!(
            read_frame(&mut [0xff, 0, 0, 0].as_slice()),
            Err(ProtocolError::TooLarge(0xff00_0000))
        ));
    }

    /// One with a difference of each kind.
    fn comparison() -> CompareReport {
        let tuple = Tuple {
            src: "100.64.0.1".parse().unwrap(),
            src_port: 4_000,
            dst: "2001:db8::1".parse().unwrap(),
            dst_port: 53,
        };
        let state = EntryState {
            term: 257,
            counter: 7,
            state: Some(FlowState::Opening),
            reply: Some(tuple),
            grant: Some(9),
        };
        let conntrack = EntryName::Conntrack {
            protocol: 17,
            original: tuple,
        };
        let block = EntryName::Block {
            grant: 9,
            text: "100.64.0.1 198.51.100.1 from 1024".into(),
        };
        let row = |entry: &EntryName, here: Option<&EntryState>, there: Option<&EntryState>| DifferenceRow {
            slot: 3,
            entry: entry.clone(),
            here: here.cloned(),
            there: there.cloned(),
        };
        CompareReport {
            finished: true,
            elapsed_ms: 12,
            parts: vec![ComparedVrf {
                vrf: "main".into(),
                differences: vec![
                    row(&conntrack, Some(&state), None),
                    row(&conntrack, Some(&state), Some(&state)),
                    row(&block, None, Some(&state)),
                ],
                undecided: vec![UndecidedSlot {
                    slot: 4,
                    cause: "the lane is down".into(),
                }],
                repaired: Some(Repaired::default()),
                ..ComparedVrf::default()
            }],
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _judged = read_frame(&mut bytes.as_slice());
            prop_assert!(decode_request(&bytes).is_err());
            prop_assert!(decode_response(&bytes).is_err());
        }

        #[test]
        fn a_damaged_response_about_a_job_is_refused_or_is_another_response(at in 0_usize..2_000, with in any::<u8>()) {
            let mut json = encode_response(&Ok(Reply::Compare(comparison()))).unwrap();
            let at = at % json.len();
            json[at] = with;
            if let Ok(read) = decode_response(&json) {
                let again = encode_response(&read).unwrap();
                prop_assert_eq!(decode_response(&again).unwrap(), read);
            }
        }

        #[test]
        fn a_damaged_request_is_refused_or_is_another_request(at in 0_usize..200, with in any::<u8>()) {
            let command = Command::Conntracks {
                vrf: "main".into(),
                filter: ConntrackFilter {
                    src: Some("10.0.0.0/8".parse().unwrap()),
                    state: Some(FlowState::Opening),
                    owner: Some(Owner::Peer),
                    ..ConntrackFilter::default()
                },
                page: Page { limit: 5, cursor: Some(77) },
            };
            let mut json = encode_request(&command).unwrap();
            let at = at % json.len();
            json[at] = with;
            if let Ok(read) = decode_request(&json) {
                let again = encode_request(&read).unwrap();
                prop_assert_eq!(decode_request(&again).unwrap(), read);
            }
        }
    }
}
