//! `show sync` and its kin as text.

use super::{Tree, table, tree, yes_no};
use crate::journal::JournalRow;
use crate::report::Count;
use crate::sync_view::{
    ConservationRow, Direction, IncomingLane, IncomingRow, LaneRow, OperationRow, ProtectionRow,
    SyncOverview, SyncPeer, SyncResync, SyncVrf,
};

/// `show sync`.
pub(super) fn overview(overview: &SyncOverview) -> String {
    let mut text = tree("show-sync", |t| {
        overview.vrfs.iter().for_each(|vrf| sync_vrf(t, vrf));
        if !overview.refused.is_empty() {
            t.open("refused", |t| t.counts(&overview.refused));
        }
    });
    text.push_str(&lanes(&overview.lanes));
    text.push_str(&incoming(&overview.incoming));
    text
}

fn sync_vrf(t: &mut Tree, vrf: &SyncVrf) {
    t.open(format_args!("vrf {}", vrf.vrf), |t| {
        t.line("role", vrf.role.name());
        t.line("term", vrf.term);
        t.line("ready", yes_no(vrf.ready));
        if !vrf.cause.is_empty() {
            t.line("cause", &vrf.cause);
        }
        vrf.peers.iter().for_each(|peer| sync_peer(t, peer));
    });
}

fn sync_peer(t: &mut Tree, peer: &SyncPeer) {
    t.open(format_args!("peer {} {}", peer.name, peer.address), |t| {
        match peer.role {
            Some(role) => {
                t.line("role", role.name());
                t.line("term", peer.term);
                t.line("ready", yes_no(peer.ready));
            }
            None => t.line("role", "unknown: not connected"),
        }
        match peer.direction {
            Direction::Nothing => t.line("direction", format_args!("nothing: {}", peer.direction_cause)),
            way => t.line("direction", way.name()),
        }
        for section in &peer.sections {
            let word = section
                .equal
                .map_or("unknown", |equal| if equal { "equal" } else { "different" });
            t.line(&format!("configuration {}", section.name), word);
        }
        t.line(
            "slots",
            format_args!(
                "{} of {} verified, {} dirty",
                peer.slots_verified, peer.slots_total, peer.slots_dirty
            ),
        );
        t.line(
            "digests",
            format_args!("{} compared, {} different", peer.digests, peer.digests_different),
        );
        resync(t, "resync-sent", &peer.resync);
        resync(t, "resync-received", &peer.resync_received);
    });
}

/// Nothing when there was none.
fn resync(t: &mut Tree, title: &str, resync: &SyncResync) {
    let Some(state) = resync.state else { return };
    t.open(title, |t| {
        t.line("state", state.name());
        t.line("reason", &resync.reason);
        t.line("slots", resync.slots);
        t.line("refused", resync.refused);
        t.line("records", resync.records);
        t.line("bytes", resync.bytes);
        t.line("elapsed-ms", resync.elapsed_ms);
        t.line("completed", resync.completed);
        t.line("slots-equal", resync.slots_equal);
        t.line("slots-caught-up", resync.slots_caught_up);
        t.line("slots-whole", resync.slots_whole);
        t.line("slots-failed", resync.slots_failed);
    });
}

fn lanes(rows: &[LaneRow]) -> String {
    let header = [
        "LANE",
        "PEER",
        "STATUS",
        "SECURITY",
        "SENT",
        "APPLIED",
        "LAG",
        "LAG-MS",
        "CREDIT",
        "ABANDONED",
        "REFUSED",
        "COALESCED",
        "BYTES",
        "UNSENT",
        "LINK",
        "LINK-CHANGES",
        "RECONNECTS",
        "LAST-DOWN",
    ];
    let row = |row: &LaneRow| {
        let name = if row.control { "control" } else { "event" };
        [
            if row.control {
                name.to_owned()
            } else {
                format!("{name}{}", row.event)
            },
            row.peer.clone(),
            row.status.name().to_owned(),
            row.security.name().to_owned(),
            row.sent.to_string(),
            row.applied.to_string(),
            row.lag_records.to_string(),
            row.lag_ms.to_string(),
            row.credit.to_string(),
            row.abandoned.to_string(),
            row.refused.to_string(),
            row.coalesced.to_string(),
            row.bytes.to_string(),
            row.unsent_bytes.to_string(),
            row.link.to_string(),
            row.link_changes.to_string(),
            row.reconnects.to_string(),
            if row.last_down.is_empty() {
                "-".to_owned()
            } else {
                row.last_down.clone()
            },
        ]
    };
    table(header, rows.iter().map(row))
}

/// Refusals by cause, with the peers' lanes by which the records came.
fn incoming(rows: &[IncomingRow]) -> String {
    let lane = |lane: &IncomingLane| format!("{}/event{}", lane.peer, lane.lane);
    let from = |row: &IncomingRow| {
        let lanes: Vec<String> = row.lanes.iter().map(lane).collect();
        if lanes.is_empty() {
            "-".to_owned()
        } else {
            lanes.join(",")
        }
    };
    let causes = |row: &IncomingRow| {
        let happened = row.refused.iter().filter(|count| count.value > 0);
        let causes: Vec<String> = happened.map(|c| format!("{} {}", c.name, c.value)).collect();
        if causes.is_empty() {
            "-".to_owned()
        } else {
            causes.join(", ")
        }
    };
    let row = |row: &IncomingRow| [format!("event{}", row.event), from(row), causes(row)];
    table(["INCOMING", "FROM", "REFUSED"], rows.iter().map(row))
}

/// `show sync operations`.
pub(super) fn operations(rows: &[OperationRow]) -> String {
    let header = [
        "OPERATION",
        "CALLS",
        "BYTES",
        "AVERAGE",
        "RATIO",
        "/S 1S",
        "/S 10S",
        "/S 60S",
    ];
    let row = |row: &OperationRow| {
        let of_group = rows.iter().filter(|other| other.group() == row.group());
        let whole: u64 = of_group.map(|other| other.calls).sum();
        let rate = |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), |r| r.to_string());
        [
            row.name.clone(),
            row.calls.to_string(),
            row.bytes.to_string(),
            row.average().to_string(),
            percent(row.calls, whole),
            rate(row.per_s_1),
            rate(row.per_s_10),
            rate(row.per_s_60),
        ]
    };
    table(header, rows.iter().map(row))
}

/// A share in percent with one decimal.
fn percent(part: u64, whole: u64) -> String {
    let tenths = u128::from(part) * 1_000 / u128::from(whole.max(1));
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// `show sync conservation`.
pub(super) fn conservation(rows: &[ConservationRow]) -> String {
    let term = |count: &Count| format!("{} {}", count.name, count.value);
    let row = |row: &ConservationRow| {
        let parts: Vec<String> = row.parts.iter().map(term).collect();
        [
            term(&row.whole),
            format!("= {}", parts.join(" + ")),
            row.under_way.to_string(),
            yes_no(row.holds).to_owned(),
        ]
    };
    table(["WHOLE", "PARTS", "UNDER-WAY", "HOLDS"], rows.iter().map(row))
}

/// `show protection`.
pub(super) fn protection(rows: &[ProtectionRow]) -> String {
    let row = |row: &ProtectionRow| {
        let reasons: Vec<String> = row
            .unprotected
            .iter()
            .filter(|count| count.value > 0)
            .map(|count| format!("{} {}", count.name, count.value))
            .collect();
        [
            row.vrf.clone(),
            row.role.name().to_owned(),
            row.flows.to_string(),
            row.protected.to_string(),
            (row.flows - row.protected.min(row.flows)).to_string(),
            if reasons.is_empty() {
                "-".to_owned()
            } else {
                reasons.join(", ")
            },
        ]
    };
    let header = ["VRF", "ROLE", "FLOWS", "PROTECTED", "UNPROTECTED", "BY REASON"];
    table(header, rows.iter().map(row))
}

/// One event, without a newline.
#[must_use]
pub fn event_line(row: &JournalRow) -> String {
    let vrf = row
        .vrf
        .as_ref()
        .map_or_else(String::new, |vrf| format!(" vrf {vrf}:"));
    format!(
        "{} {} {}{vrf} {}",
        row.sequence,
        utc(row.time_ms),
        row.kind,
        row.text
    )
}

/// Milliseconds since 1970 as RFC 3339 writes them.
fn utc(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let (year, month, day) = civil(days);
    let (h, m, s, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}Z")
}

/// Year, month and day of a number of days since 1970, counted in eras of 400 years that begin on 1 March.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    (if month <= 2 { year + 1 } else { year }, month, day)
}
