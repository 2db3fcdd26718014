//! The report: one object with the machine, the commit and the rows, on the screen and as JSON. Row ids are stable,
//! so that reports can be compared over time; what was not measured has no row.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::machine::Machine;
use super::stats::Spread;

/// One figure.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    id: String,
    value: f64,
    unit: &'static str,
    q1: f64,
    q3: f64,
    runs: usize,
    /// What it should come to; at most, for costs and times; at least, for rates and shares.
    goal: Option<f64>,
    /// What it can't be better than.
    bound: Option<f64>,
    note: String,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) commit: String,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) const fn new(machine: Machine, commit: String) -> Self {
        Self {
            machine,
            commit,
            rows: Vec::new(),
        }
    }

    /// Adds a row of several runs; the note may be empty. The row is printed at once.
    pub(crate) fn add(&mut self, id: &str, values: &[f64], unit: &'static str, note: &str) {
        self.add_with_goal(id, values, unit, None, note);
    }

    /// As [`Self::add`], with a goal.
    pub(crate) fn add_with_goal(
        &mut self,
        id: &str,
        values: &[f64],
        unit: &'static str,
        goal: Option<f64>,
        note: &str,
    ) {
        self.add_with_bound(id, values, unit, [goal, None], note);
    }

    /// As [`Self::add`], with a goal and what can't be surpassed.
    pub(crate) fn add_with_bound(
        &mut self,
        id: &str,
        values: &[f64],
        unit: &'static str,
        [goal, bound]: [Option<f64>; 2],
        note: &str,
    ) {
        let spread = Spread::of(values);
        if spread.runs == 0 {
            return;
        }
        if self.rows.is_empty() {
            println!(
                "{:<31} {:>12} {:>12} {:>12} {:>5} {:>8}  unit, note",
                "row", "median", "q1", "q3", "runs", "goal"
            );
        }
        let goal_text = goal.map_or_else(|| "-".to_owned(), |g| format!("{g}"));
        println!(
            "{id:<31} {:>12} {:>12} {:>12} {:>5} {goal_text:>8}  {unit}{}{note}",
            figure(spread.median),
            figure(spread.q1),
            figure(spread.q3),
            spread.runs,
            if note.is_empty() { "" } else { ": " }
        );
        self.rows.push(Row {
            id: id.to_owned(),
            value: rounded(spread.median),
            unit,
            q1: rounded(spread.q1),
            q3: rounded(spread.q3),
            runs: spread.runs,
            goal,
            bound,
            note: note.to_owned(),
        });
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }
}

fn figure(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// Six digits behind the point are more than anything here is good for.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
