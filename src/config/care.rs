//! `sync` and `output_commit`: how the flows of a rule, or of a VRF, are protected; and `standby`: what becomes of packets that
//! come to the wrong node.

use dataplane::config::{Care, CommitIntent, OutputCommit, StandbyPolicy, SyncPolicy};

use super::locate::At;
use super::section::Section;
use super::values::word;

const COMMITS: [(&str, OutputCommit); 3] = [
    ("off", OutputCommit::Off),
    ("open", OutputCommit::Open),
    ("closed", OutputCommit::Closed),
];
const STANDBY: [(&str, StandbyPolicy); 2] = [
    ("drop", StandbyPolicy::Drop),
    ("redirect", StandbyPolicy::Redirect),
];
/// An hour; whoever wants more means never.
const AFTER_S_MAX: u32 = 3_600;
/// Longest wait of a packet, in milliseconds: beyond it the sender has sent it again.
const TIMEOUT_MS_MAX: u32 = 1_000;

/// What the VRF of a rule is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// It has a peer.
    pub replicated: bool,
    /// What counts where a rule says nothing.
    pub output_commit: OutputCommit,
}

/// What a rule says. A packet can't wait until a peer has what the same rule keeps from it.
pub(super) fn read_care(section: &Section<'_>, around: Around) -> Care {
    let sync = section.parsed("sync", sync_policy);
    let said = output_commit(section, around.replicated);
    let commit = said.unwrap_or(around.output_commit);
    if let Some(At { value, place }) = &sync {
        let what = || {
            let whose = if said.is_some() { "" } else { ", the VRF's," };
            let commit = commit_word(commit);
            format!(
                "sync = \"{}\" keeps flows from the peer, and output_commit = \"{commit}\"{whose} waits for the peer to have them",
                sync_word(*value)
            )
        };
        let advice = if said.is_some() {
            "remove one of the two"
        } else {
            "add output_commit = \"off\" to the rule, or remove sync"
        };
        let possible = *value == SyncPolicy::Always || commit == OutputCommit::Off;
        section.report().check(possible, *place, what, advice);
    }
    Care {
        sync: sync.map(|s| s.value),
        output_commit: said,
    }
}

/// What a VRF says for rules that say nothing.
pub(super) fn read_commit(section: &Section<'_>, replicated: bool) -> CommitIntent {
    let default = CommitIntent::default();
    CommitIntent {
        policy: output_commit(section, replicated).unwrap_or(default.policy),
        timeout_ms: section.number("output_commit_timeout_ms", 1..=TIMEOUT_MS_MAX, default.timeout_ms),
    }
}

fn output_commit(section: &Section<'_>, replicated: bool) -> Option<OutputCommit> {
    let At { value, place } = section.parsed("output_commit", |t| word(t, &COMMITS))?;
    section.report().check(
        replicated || value == OutputCommit::Off,
        place,
        || "packets are to wait for a peer, but the VRF has none".to_owned(),
        "add [[vrf.ha_fp_conntrack.peer]], or remove output_commit",
    );
    Some(value)
}

/// What a VRF says of packets that come while this node isn't active.
pub(super) fn read_standby(section: &Section<'_>, replicated: bool) -> StandbyPolicy {
    let Some(At { value, place }) = section.parsed("standby", |t| word(t, &STANDBY)) else {
        return StandbyPolicy::default();
    };
    section.report().check(
        replicated || value == StandbyPolicy::Drop,
        place,
        || "packets are to go to the active node, but the VRF has no peer".to_owned(),
        "add [[vrf.ha_fp_conntrack.peer]], or remove standby",
    );
    value
}

/// `always`, `never`, or `after SECONDS`.
fn sync_policy(text: &str) -> Result<SyncPolicy, String> {
    let advice = || format!("use \"always\", \"never\", or \"after 3\" with 1 to {AFTER_S_MAX} seconds");
    match text {
        "always" => Ok(SyncPolicy::Always),
        "never" => Ok(SyncPolicy::Never),
        _ => {
            let seconds = text.strip_prefix("after ").and_then(|s| s.trim().parse().ok());
            seconds
                .filter(|s| (1..=AFTER_S_MAX).contains(s))
                .map(SyncPolicy::After)
                .ok_or_else(advice)
        }
    }
}

fn sync_word(sync: SyncPolicy) -> String {
    match sync {
        SyncPolicy::Always => "always".to_owned(),
        SyncPolicy::After(seconds) => format!("after {seconds}"),
        SyncPolicy::Never => "never".to_owned(),
    }
}

/// As the file says it.
pub(super) fn describe(care: Care) -> String {
    let sync = care
        .sync
        .map_or(String::new(), |s| format!(" sync {}", sync_word(s)));
    let commit = care
        .output_commit
        .map_or(String::new(), |c| format!(" output_commit {}", commit_word(c)));
    sync + &commit
}

/// The word of an output commit.
pub(super) fn commit_word(commit: OutputCommit) -> &'static str {
    COMMITS.iter().find(|c| c.1 == commit).map_or("", |c| c.0)
}
