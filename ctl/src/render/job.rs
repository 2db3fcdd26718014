//! Comparisons, resyncs and rebalancings as text: a tree of counts, and a table of what differs or moves.

use super::{Tree, protocol_name, table, tree, tuple};
use crate::job_report::{
    CompareReport, ComparedVrf, DifferenceRow, EntryName, EntryState, MoveRow, RebalanceReport, ResyncOutcome,
};

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

/// `worker rebalance` and `worker move-slot`.
pub(super) fn rebalance(report: &RebalanceReport) -> String {
    let mut text = tree("rebalance", |t| {
        t.line("load-by", report.by.name());
        if report.dry_run {
            t.line("planned", report.moves.len());
        } else {
            t.line("moved", report.moved());
            t.line("failed", report.failed());
        }
        t.line("elapsed-ms", report.elapsed_ms);
        if let Some(cause) = &report.cause {
            t.line("cause", cause);
        }
        let total: u64 = report.workers.iter().map(|w| w.load).sum();
        for worker in &report.workers {
            t.open(format_args!("worker{}", worker.worker), |t| {
                t.line("slots", worker.slots);
                t.line("load", share(worker.load, total));
                t.line("load-then", share(worker.load_then, total));
            });
        }
    });
    if !report.moves.is_empty() {
        let header = ["VRF", "SLOT", "FROM", "TO", "LOAD", "OUTCOME", "CONNTRACKS", "US"];
        text.push_str(&table(header, report.moves.iter().map(moved)));
    }
    text
}

fn share(load: u64, total: u64) -> String {
    let percent = (load * 100).checked_div(total).unwrap_or(0);
    format!("{load} ({percent} %)")
}

fn moved(row: &MoveRow) -> [String; 8] {
    let outcome = match &row.cause {
        Some(cause) => format!("{}: {cause}", row.outcome.name()),
        None => row.outcome.name().to_owned(),
    };
    [
        row.vrf.clone(),
        row.slot.to_string(),
        row.from.to_string(),
        row.to.to_string(),
        row.load.to_string(),
        outcome,
        row.conntracks.to_string(),
        row.took_us.to_string(),
    ]
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
