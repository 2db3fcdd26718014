//! `sync` and `output_commit`: how the flows of a rule, or of a VRF, are protected.

use dataplane::config::{Care, CommitIntent, OutputCommit, SyncPolicy};

use super::locate::At;
use super::section::Section;
use super::values::word;

const COMMITS: [(&str, OutputCommit); 3] = [
    ("off", OutputCommit::Off),
    ("open", OutputCommit::Open),
    ("closed", OutputCommit::Closed),
];
/// An hour; whoever wants more means never.
const AFTER_S_MAX: u32 = 3_600;
/// Longest wait of a packet, in milliseconds: beyond it the sender has sent it again.
const TIMEOUT_MS_MAX: u32 = 1_000;

/// What a rule says. `replicated` tells whether the VRF has a peer.
pub(super) fn read_care(section: &Section<'_>, replicated: bool) -> Care {
    Care {
        sync: section.parsed("sync", sync_policy).map(|s| s.value),
        output_commit: output_commit(section, replicated),
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

/// As the file says it.
pub(super) fn describe(care: Care) -> String {
    let sync = match care.sync {
        None => String::new(),
        Some(SyncPolicy::Always) => " sync always".to_owned(),
        Some(SyncPolicy::After(seconds)) => format!(" sync after {seconds}"),
        Some(SyncPolicy::Never) => " sync never".to_owned(),
    };
    let commit = care
        .output_commit
        .map_or(String::new(), |c| format!(" output_commit {}", commit_word(c)));
    sync + &commit
}

/// The word of an output commit.
pub(super) fn commit_word(commit: OutputCommit) -> &'static str {
    COMMITS.iter().find(|c| c.1 == commit).map_or("", |c| c.0)
}
