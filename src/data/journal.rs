//! What happened to replication, kept for whoever asks: a bounded list of numbered events in the data process, so that it
//! survives the control process. When it is full the oldest go; their numbers tell how many.

use std::collections::{BTreeMap, VecDeque};
use std::time::UNIX_EPOCH;

use ctl::journal::{JournalPage, JournalRow};
use state_sync::port::End;

use crate::clock::wall;

/// Events kept.
const EVENTS_MAX: usize = 1_024;
/// Events in one answer.
const PAGE_MAX: usize = 256;

/// The list.
#[derive(Debug)]
pub(crate) struct Journal {
    boot: u64,
    next: u64,
    rows: VecDeque<JournalRow>,
    /// Lanes that are up, by peer and direction.
    up: BTreeMap<(u8, bool), u32>,
    /// Lost log lines that the last event about them has told.
    log_lost: u64,
}

impl Journal {
    /// Of a data process that has just started.
    pub(crate) fn new(boot: u64) -> Self {
        let mut journal = Self {
            boot,
            next: 1,
            rows: VecDeque::with_capacity(EVENTS_MAX),
            up: BTreeMap::new(),
            log_lost: 0,
        };
        journal.note("start", None, None, "the data process has started".to_owned());
        journal
    }

    /// Adds an event.
    pub(crate) fn note(&mut self, kind: &str, vrf: Option<&str>, peer: Option<&str>, text: String) {
        if self.rows.len() == EVENTS_MAX {
            self.rows.pop_front();
        }
        let time = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.rows.push_back(JournalRow {
            sequence: self.next,
            time_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            kind: kind.to_owned(),
            vrf: vrf.map(str::to_owned),
            peer: peer.map(str::to_owned),
            text,
        });
        self.next += 1;
    }

    /// So many log lines were lost in all. The first one is an event, and from then on each doubling.
    pub(crate) fn log_lost(&mut self, lost: u64) {
        if lost > 0 && lost >= self.log_lost * 2 {
            self.log_lost = lost;
            let text = format!("{lost} log lines lost: standard error takes no more");
            self.note("log", None, None, text);
        }
    }

    /// A lane has come up or gone down: the peer is seen with the first one, and lost with the last.
    pub(crate) fn lane(&mut self, peer: (u8, &str), lane: u8, end: End, down: Option<&str>) {
        let up = self.up.entry((peer.0, end == End::Client)).or_default();
        let before = *up;
        *up = if down.is_some() {
            up.saturating_sub(1)
        } else {
            *up + 1
        };
        let after = *up;
        let way = match end {
            End::Client => "to",
            End::LocalNode => "from",
        };
        let name = Some(peer.1);
        match down {
            None => self.note(
                "lane-up",
                None,
                name,
                format!("lane {lane} {way} {} is up", peer.1),
            ),
            Some(cause) => {
                let text = format!("lane {lane} {way} {} is down: {cause}", peer.1);
                self.note("lane-down", None, name, text);
            }
        }
        if (before, after) == (0, 1) {
            self.note("peer-seen", None, name, format!("first lane {way} {}", peer.1));
        } else if let (1, 0, Some(cause)) = (before, after, down) {
            self.note(
                "peer-lost",
                None,
                name,
                format!("last lane {way} {}: {cause}", peer.1),
            );
        }
    }

    /// Events from number `from` on.
    pub(crate) fn page(&self, from: u64) -> JournalPage {
        let skip = self.rows.partition_point(|row| row.sequence < from);
        JournalPage {
            boot: self.boot,
            next: self.next,
            rows: self.rows.iter().skip(skip).take(PAGE_MAX).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(journal: &Journal) -> Vec<&str> {
        journal.rows.iter().map(|row| row.kind.as_str()).collect()
    }

    #[test]
    fn a_peer_is_seen_with_its_first_lane_and_lost_with_its_last() {
        let mut journal = Journal::new(7);
        let peer = (0, "peer1");
        journal.lane(peer, 0, End::Client, None);
        journal.lane(peer, 1, End::Client, None);
        journal.lane(peer, 0, End::Client, Some("silent"));
        journal.lane(peer, 1, End::Client, Some("closed"));
        assert_eq!(
            kinds(&journal),
            [
                "start",
                "lane-up",
                "peer-seen",
                "lane-up",
                "lane-down",
                "lane-down",
                "peer-lost"
            ]
        );
        assert!(
            journal
                .rows
                .back()
                .is_some_and(|row| row.text.ends_with("closed"))
        );
    }

    #[test]
    fn lost_log_lines_are_told_at_the_first_one_and_at_each_doubling() {
        let mut journal = Journal::new(7);
        (0..=1_000).for_each(|lost| journal.log_lost(lost));
        assert_eq!(kinds(&journal).iter().filter(|kind| **kind == "log").count(), 10);
    }

    #[test]
    fn the_oldest_events_go_and_numbers_show_it() {
        let mut journal = Journal::new(7);
        for n in 0..EVENTS_MAX + 10 {
            journal.note("role", Some("main"), None, n.to_string());
        }
        let page = journal.page(1);
        assert_eq!(page.rows.len(), PAGE_MAX);
        assert_eq!(page.rows[0].sequence, 12);
        assert_eq!(page.next, EVENTS_MAX as u64 + 12);
        let end = journal.page(page.next);
        assert!(end.rows.is_empty());
        assert_eq!(journal.page(page.next - 1).rows.len(), 1);
    }
}
