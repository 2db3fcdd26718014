//! What happened to replication, as `events` shows it: a bounded list in the data process, numbered without gaps, so that
//! whoever reads it late knows what it has missed. It outlives the control process.

use serde::{Deserialize, Serialize};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRow {
    /// Number, from 1 on since the data process started.
    pub sequence: u64,
    /// When, in milliseconds since 1970 UTC.
    pub time_ms: u64,
    /// What kind of thing, in one word.
    pub kind: String,
    /// VRF, if it was about one.
    pub vrf: Option<String>,
    /// Peer, if it was about one.
    pub peer: Option<String>,
    /// What happened, for people.
    pub text: String,
}

/// A part of the list.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPage {
    /// Start of the data process that keeps the list.
    pub boot: u64,
    /// Number that the next event will get.
    pub next: u64,
    /// Events, oldest first.
    pub rows: Vec<JournalRow>,
}

/// What a reader has seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    boot: u64,
    /// Number of the next event to read.
    next: u64,
}

/// What stands before the rows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Nothing is missing.
    None,
    /// So many events were dropped before they were read.
    Missed(u64),
    /// The data process is another one: its list starts anew.
    Restarted,
}

impl Seen {
    /// Number of the first event to ask for.
    #[must_use]
    pub const fn next(self) -> u64 {
        self.next
    }

    /// Takes in a page; says what is missing before its rows. A page of another data process that was asked for by old
    /// numbers has no rows to show: it has to be asked for again.
    pub fn take(&mut self, page: &JournalPage) -> Gap {
        let known = self.boot != 0;
        if known && self.boot != page.boot {
            *self = Self {
                boot: page.boot,
                next: 1,
            };
            return Gap::Restarted;
        }
        let first = page.rows.first().map_or(page.next, |row| row.sequence);
        let missed = if known { first.saturating_sub(self.next) } else { 0 };
        *self = Self {
            boot: page.boot,
            next: page.rows.last().map_or(page.next.max(1), |row| row.sequence + 1),
        };
        match missed {
            0 => Gap::None,
            n => Gap::Missed(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(boot: u64, sequences: core::ops::Range<u64>) -> JournalPage {
        JournalPage {
            boot,
            next: sequences.end,
            rows: sequences
                .map(|sequence| JournalRow {
                    sequence,
                    time_ms: 0,
                    kind: "role".into(),
                    vrf: None,
                    peer: None,
                    text: String::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_knows_what_it_missed() {
        let mut seen = Seen::default();
        assert_eq!(seen.take(&page(7, 5..9)), Gap::None);
        assert_eq!(seen.next(), 9);
        assert_eq!(seen.take(&page(7, 9..9)), Gap::None);
        assert_eq!(seen.take(&page(7, 9..12)), Gap::None);
        assert_eq!(seen.take(&page(7, 20..22)), Gap::Missed(8));
        assert_eq!(seen.next(), 22);
    }

    #[test]
    fn events_dropped_before_an_empty_page_are_missed_too() {
        let mut seen = Seen::default();
        seen.take(&page(7, 1..3));
        assert_eq!(seen.take(&page(7, 9..9)), Gap::Missed(6));
    }

    #[test]
    fn a_restarted_data_process_starts_anew() {
        let mut seen = Seen::default();
        seen.take(&page(7, 1..9));
        assert_eq!(seen.take(&page(8, 9..9)), Gap::Restarted);
        assert_eq!(seen.next(), 1);
        assert_eq!(seen.take(&page(8, 1..4)), Gap::None);
    }
}
