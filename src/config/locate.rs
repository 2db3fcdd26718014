//! Faults of a configuration file: where, what is wrong, what to do. Collected while a file is read, so that one
//! run reports all of them; sorted by place at the end.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// One thing wrong in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// File as it was named to us.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Character in the line, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub advice: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            what,
            advice,
        } = self;
        write!(f, "{file}:{line}:{column}: {what}; {advice}")
    }
}

/// Everything wrong in a configuration file, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A place in the text: the byte at which the thing begins.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub usize);

impl From<Range<usize>> for Place {
    fn from(span: Range<usize>) -> Self {
        Self(span.start)
    }
}

/// Something read, and where from.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// Collects faults while a file is read. Shared by all readers of one file.
#[derive(Debug)]
pub(super) struct Report<'t> {
    file: &'t str,
    text: &'t str,
    faults: RefCell<Vec<(Place, String, String)>>,
    /// Lines that aren't TOML: what is wrong with their values is guesswork, and left out.
    broken: RefCell<Vec<usize>>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            faults: RefCell::default(),
            broken: RefCell::default(),
        }
    }

    /// Adds a fault.
    pub(super) fn add(&self, place: Place, what: impl Into<String>, advice: impl Into<String>) {
        if !self.broken.borrow().contains(&self.line(place)) {
            self.faults.borrow_mut().push((place, what.into(), advice.into()));
        }
    }

    /// Adds what the TOML parser says. Faults of values on the same line are dropped from then on.
    pub(super) fn add_syntax(&self, place: Place, what: &str) {
        let advice = if what == "duplicate key" && self.is_in_table_header(place) {
            "write tables of which there may be several with two brackets, as [[port]], and the others once"
        } else {
            "correct the TOML syntax here"
        };
        self.add(place, what, advice);
        self.broken.borrow_mut().push(self.line(place));
    }

    /// Whether a place lies behind the bracket of a table's header.
    fn is_in_table_header(&self, place: Place) -> bool {
        let before = self.text.get(..place.0).unwrap_or_default();
        let line = before.lines().last().unwrap_or_default().trim_start();
        !before.ends_with('\n') && line.starts_with('[')
    }

    /// Adds a fault unless `ok`.
    pub(super) fn check(
        &self,
        ok: bool,
        place: Place,
        what: impl FnOnce() -> String,
        advice: impl Into<String>,
    ) {
        if !ok {
            self.add(place, what(), advice);
        }
    }

    /// Line and column of a place, both from 1.
    pub(super) fn line_and_column(&self, place: Place) -> (usize, usize) {
        let before = self.text.get(..place.0).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (
            before.matches('\n').count() + 1,
            before[line_start..].chars().count() + 1,
        )
    }

    /// Line of a place, for messages that point to a second one.
    pub(super) fn line(&self, place: Place) -> usize {
        self.line_and_column(place).0
    }

    /// All faults in the order of the file.
    pub(super) fn into_result(self) -> Result<(), Faults> {
        let mut found = self.faults.take();
        found.sort();
        found.dedup();
        if found.is_empty() {
            return Ok(());
        }
        let located = found.into_iter().map(|(place, what, advice)| {
            let (line, column) = self.line_and_column(place);
            Fault {
                file: self.file.to_owned(),
                line,
                column,
                what,
                advice,
            }
        });
        Err(Faults(located.collect()))
    }
}

/// What to do about a name that doesn't exist: the nearest one that does, or the list of them.
pub(super) fn suggest<'n>(wrong: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let nearest = known.iter().map(|k| (edit_distance(wrong, k), *k)).min();
    match nearest {
        Some((_, name)) if is_near(wrong, name) => format!("did you mean \"{name}\"?"),
        _ if known.is_empty() => "remove it, there is none to choose from".to_owned(),
        _ => format!("use one of: {}", known.join(", ")),
    }
}

/// Whether one is probably meant where the other is written.
pub(super) fn is_near(wrong: &str, meant: &str) -> bool {
    edit_distance(wrong, meant) <= 1 + meant.chars().count() / 3
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let report = Report::new("f", "a = 1\nü = 2\n");
        assert_eq!(report.line_and_column(Place(0)), (1, 1));
        assert_eq!(report.line_and_column(Place(6)), (2, 1));
        assert_eq!(
            report.line_and_column(Place(8)),
            (2, 2),
            "after a two-byte character"
        );
        assert_eq!(report.line_and_column(Place(999)), (3, 1), "beyond the end");
        assert_eq!(
            report.line_and_column(Place(7)).0,
            3,
            "inside a character is no place, and no panic"
        );
    }

    #[test]
    fn the_nearest_name_is_suggested_and_only_when_near() {
        assert_eq!(suggest("wna", ["lan", "wan"]), "did you mean \"wan\"?");
        assert_eq!(suggest("uplink", ["lan", "wan"]), "use one of: lan, wan");
        assert_eq!(suggest("x", []), "remove it, there is none to choose from");
    }
}
