//! Comparisons and resyncs as text: a tree of counts, and a table of what differs.

use super::{Tree, protocol_name, table, tree, tuple};
use crate::job_report::{CompareReport, ComparedVrf, DifferenceRow, EntryName, EntryState, ResyncOutcome};

/// `compare`.
pub(super) fn compare(report: &CompareReport) -> String {
    let mut text = tree("compare", |t| {
        t.line("result", report.verdict().name());
        t.line("elapsed-ms", report.elapsed_ms);
        report.parts.iter().for_each(|part| compared(t, part));
    });
    let rows: Vec<&DifferenceRow> = report.parts.iter().flat_map(|p| &p.differences).collect();
    if !rows.is_empty() {
        let header = ["SLOT", "WHERE", "ENTRY", "HERE", "THERE"];
        text.push_str(&table(header, rows.iter().map(|row| difference(row))));
    }
    text
}

fn compared(t: &mut Tree, part: &ComparedVrf) {
    t.open(format_args!("vrf {} peer {}", part.vrf, part.peer), |t| {
        t.line("result", part.verdict().name());
        t.line(
            "slots",
            format_args!(
                "{} of {}, {} equal",
                part.slots_done, part.slots_total, part.slots_equal
            ),
        );
        t.line("entries-equal", part.entries_equal);
        t.line("only-here", part.only_here);
        t.line("only-there", part.only_there);
        t.line("different", part.different);
        t.line("lacking-for-a-cause", part.lacking);
        for undecided in &part.undecided {
            t.line(&format!("slot {} unknown:", undecided.slot), &undecided.cause);
        }
        if let Some(repaired) = &part.repaired {
            t.open("repaired", |t| {
                t.line("slots", repaired.slots);
                t.line("only-here", repaired.only_here);
                t.line("only-there", repaired.only_there);
                t.line("different", repaired.different);
            });
        }
    });
}

fn difference(row: &DifferenceRow) -> [String; 5] {
    let place = match (&row.here, &row.there) {
        (Some(_), None) => "only here",
        (None, _) => "only there",
        _ => "different",
    };
    let entry = match &row.entry {
        EntryName::Conntrack { protocol, original } => {
            format!("{} {}", protocol_name(*protocol), tuple(original))
        }
        EntryName::Block { grant, text } => format!("block {text} grant {grant}"),
    };
    let state = |state: &Option<EntryState>| state.as_ref().map_or_else(|| "-".to_owned(), entry_state);
    [
        row.slot.to_string(),
        place.to_owned(),
        entry,
        state(&row.here),
        state(&row.there),
    ]
}

fn entry_state(state: &EntryState) -> String {
    let mut text = format!("{}.{}", state.term, state.counter);
    if let Some(class) = state.state {
        text.push_str(&format!(" {}", class.name()));
    }
    if let Some(reply) = &state.reply {
        text.push_str(&format!(" {}", tuple(reply)));
    }
    if let Some(grant) = state.grant {
        text.push_str(&format!(" grant {grant}"));
    }
    text
}

/// `resync`.
pub(super) fn resync(outcome: &ResyncOutcome) -> String {
    tree("resync", |t| {
        let result = if outcome.cause.is_some() {
            "unfinished"
        } else if outcome.finished {
            "verified"
        } else {
            "running"
        };
        t.line("result", result);
        t.line("slots-sent", outcome.slots_sent);
        t.line("slots-asked-for", outcome.slots_asked);
        t.line("slots-open", outcome.slots_open);
        if outcome.slots_sent > 0 {
            t.line("records", outcome.records);
            t.line("bytes", outcome.bytes);
        }
        t.line("elapsed-ms", outcome.elapsed_ms);
        if let Some(cause) = &outcome.cause {
            t.line("cause", cause);
        }
    })
}
