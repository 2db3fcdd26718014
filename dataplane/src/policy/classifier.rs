//! Finds the first rule that matches: bit vectors with a summary (Baboescu and Varghese, "Scalable packet
//! classification", SIGCOMM 2001).
//!
//! Each field of a query that some rule looks at is looked up by itself, in a longest-prefix trie (addresses), in a sorted
//! table of range starts (ports) or of values (protocol, interfaces). What is found is a *row*: a bit per rule, set if the
//! rule accepts this value. The rules that match are those whose bit is set in all rows. A row is stored as its words
//! that aren't zero behind a *summary*, a bit per word that tells which ones these are. So the scan intersects the
//! summaries first, 4,096 rules with one word of each field, and looks only at words that no field rules out as a whole.
//!
//! Bits stand in the order of the rules within *regions*, each of rules that are wide in the same fields (open, or
//! accepting much of what other rules tell apart). In the rules' own order a few rules for everybody, one in each word, would
//! spoil every summary of their field; in a region of their own they leave the others' summaries sparse. Within a word
//! the lowest bit is the first rule; over all words the lowest rule number wins, and a word that can't beat what was found
//! isn't looked at.
//!
//! **Why this one.** It is exact for any rules by construction: a row says what the rules say about one field, and the
//! intersection is what "all conditions" means. Its worst case is known whatever the rules are. Decision trees (`HiCuts`
//! and after) copy rules into many leaves, and tables of cross products multiply; either can outgrow any memory.
//! Searching a hash table per combination of prefix lengths costs as many lookups as there are combinations.
//!
//! **Worst case.** With `words = rules / 64 + 16`, a lookup looks at no more than `fields × (words + words / 64)` of them, some
//! 1,200 for 10,000 rules and all 7 fields: where each field alone rules every word in, and all together rule it out. A
//! row is as long at most, and there is one for each value that rules tell apart: with as many values as rules memory is a
//! square. Equal rows are stored once and zero words not at all, which keeps ordinary rows within a few lines; rules
//! that overlap everywhere don't fit, and are refused ([`TooLarge`]) as soon as the rows pass [`BYTES_MAX`]. Time to
//! compile is bounded by the same limits: a pass over `words` per value.

mod compile;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use super::Query;
use crate::config::{InterfaceId, PortRange};
use crate::flow::{Addr, FlowKey, proto};
use crate::vrf::Lpm;

/// Rules that one classifier takes.
pub const RULES_MAX: usize = 1 << 16;
/// Prefixes and port ranges of all of them together.
pub const CONDITIONS_MAX: usize = 1 << 18;
/// Memory of one classifier.
pub const BYTES_MAX: usize = 64 << 20;

/// Bits of a word: rules per word of a row, and words of a row per word of its summary.
const WORD: usize = u64::BITS as usize;
/// Fields that rules may look at.
const FIELDS: usize = 7;

/// What a rule asks for. What is none or empty matches everything.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Conditions<'a> {
    pub(super) inbound: Option<InterfaceId>,
    pub(super) outbound: Option<InterfaceId>,
    pub(super) protocol: Option<u8>,
    pub(super) source: &'a [IpNet],
    pub(super) destination: &'a [IpNet],
    pub(super) source_ports: &'a [PortRange],
    pub(super) destination_ports: &'a [PortRange],
}

/// Why rules can't be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Too many rules.
    #[error("{0} rules are more than {RULES_MAX}")]
    Rules(usize),
    /// Too many prefixes and port ranges.
    #[error("{0} prefixes and port ranges are more than {CONDITIONS_MAX}")]
    Conditions(usize),
    /// Too many different conditions that overlap.
    #[error(
        "{rules} rules overlap in so many ways that they take more than {} MiB compiled",
        BYTES_MAX >> 20
    )]
    Bytes {
        /// How many rules.
        rules: usize,
    },
}

/// Rules in order, compiled.
#[derive(Debug)]
pub(super) struct Classifier {
    /// Protocol, and what else some rule looks at.
    fields: ArrayVec<Field, FIELDS>,
    /// All rows; a row is known by where it begins.
    words: Vec<u64>,
    /// Words of a summary, at the beginning of each row.
    summary: usize,
    /// Rule of each bit; bits behind the last one of a region are nobody's.
    order: Vec<u32>,
    /// First rule of each word.
    first: Vec<u32>,
}

impl Classifier {
    /// Index of the first rule that matches.
    pub(super) fn first(&self, query: &Query<'_>) -> Option<u32> {
        self.scan(query, &mut ())
    }

    /// Heap bytes held.
    pub(super) fn bytes(&self) -> usize {
        let order = size_of_val(&*self.order) + size_of_val(&*self.first);
        order + size_of_val(&*self.words) + self.fields.iter().map(Field::bytes).sum::<usize>()
    }

    fn scan(&self, query: &Query<'_>, looks: &mut impl Looks) -> Option<u32> {
        let ports = ports(query.key);
        if self.first.len() == 1 {
            return self.scan_word(query, ports, looks);
        }
        let mut rows = [0; FIELDS];
        for (row, field) in rows.iter_mut().zip(&self.fields) {
            *row = field.row(query, ports) as usize;
        }
        let rows = &rows[..self.fields.len()];
        // Where each row's words begin that this summary word stands for.
        let mut begin = [self.summary; FIELDS];
        let mut found = u32::MAX;
        for nth in 0..self.summary {
            let mut live = rows.iter().fold(u64::MAX, |all, row| all & self.words[row + nth]);
            looks.at(rows.len());
            while live != 0 {
                let at = nth * WORD + live.trailing_zeros() as usize;
                if self.first[at] < found {
                    let below = (1 << live.trailing_zeros()) - 1;
                    let word = rows.iter().zip(begin).fold(u64::MAX, |all, (row, begin)| {
                        let before = (self.words[row + nth] & below).count_ones() as usize;
                        all & self.words[row + begin + before]
                    });
                    looks.at(rows.len());
                    if word != 0 {
                        found = found.min(self.order[at * WORD + word.trailing_zeros() as usize]);
                    }
                }
                live &= live - 1;
            }
            for (begin, row) in begin.iter_mut().zip(rows) {
                *begin += self.words[row + nth].count_ones() as usize;
            }
        }
        (found != u32::MAX).then_some(found)
    }

    /// Rules whose rows are a word and its summary: few enough that a field which rules all of them out ends the search.
    fn scan_word(&self, query: &Query<'_>, ports: Option<(u16, u16)>, looks: &mut impl Looks) -> Option<u32> {
        let mut word = u64::MAX;
        for field in &self.fields {
            let row = field.row(query, ports) as usize;
            looks.at(2);
            // No word stands behind a summary that is zero.
            if self.words[row] == 0 {
                return None;
            }
            word &= self.words[row + 1];
        }
        (word != 0).then(|| self.order[word.trailing_zeros() as usize])
    }
}

/// Counts the words that a lookup looks at; nobody, outside of tests.
trait Looks {
    fn at(&mut self, words: usize);
}

impl Looks for () {
    fn at(&mut self, _: usize) {}
}

/// Where the rows of one field are found.
#[derive(Debug)]
enum Field {
    Inbound(Values),
    Outbound(Values),
    Protocol(Values),
    Source(Prefixes),
    Destination(Prefixes),
    SourcePorts(Ranges),
    DestinationPorts(Ranges),
}

impl Field {
    fn row(&self, query: &Query<'_>, ports: Option<(u16, u16)>) -> u32 {
        match self {
            Self::Inbound(values) => values.row(Some(query.inbound.0)),
            Self::Outbound(values) => values.row(query.outbound.map(|interface| interface.0)),
            Self::Protocol(values) => values.row(Some(query.key.proto.into())),
            Self::Source(prefixes) => prefixes.row(&query.key.src),
            Self::Destination(prefixes) => prefixes.row(&query.key.dst),
            Self::SourcePorts(ranges) => ranges.row(ports.map(|(source, _)| source)),
            Self::DestinationPorts(ranges) => ranges.row(ports.map(|(_, destination)| destination)),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Inbound(values) | Self::Outbound(values) | Self::Protocol(values) => {
                size_of_val(&*values.rows)
            }
            Self::Source(prefixes) | Self::Destination(prefixes) => prefixes.v4.bytes() + prefixes.v6.bytes(),
            Self::SourcePorts(ranges) | Self::DestinationPorts(ranges) => {
                size_of_val(&*ranges.starts) + size_of_val(&*ranges.rows)
            }
        }
    }
}

/// Single values, of which rules name few.
#[derive(Debug)]
struct Values {
    /// Sorted.
    rows: Vec<(u16, u32)>,
    /// Row of all others, and of none.
    other: u32,
}

impl Values {
    fn row(&self, value: Option<u16>) -> u32 {
        let found = value.and_then(|value| self.rows.binary_search_by_key(&value, |row| row.0).ok());
        found.map_or(self.other, |at| self.rows[at].1)
    }
}

/// Prefixes of both families.
#[derive(Debug)]
struct Prefixes {
    v4: Lpm,
    v6: Lpm,
    /// Row of addresses that no prefix covers.
    other: u32,
}

impl Prefixes {
    fn row(&self, address: &Addr) -> u32 {
        let found = if address.is_v4() {
            self.v4.get(u128::from(address.v4_number()) << 96)
        } else {
            self.v6.get(address.number())
        };
        found.unwrap_or(self.other)
    }
}

/// Port ranges, cut where one of them begins or has ended.
#[derive(Debug)]
struct Ranges {
    /// First port of each piece, sorted; the first piece begins at 0.
    starts: Vec<u16>,
    rows: Vec<u32>,
    /// Row of flows without ports.
    other: u32,
}

impl Ranges {
    fn row(&self, port: Option<u16>) -> u32 {
        port.map_or(self.other, |port| {
            self.rows[self.starts.partition_point(|&start| start <= port) - 1]
        })
    }
}

/// Source and destination port, for protocols whose header has them where TCP and UDP do.
fn ports(key: &FlowKey) -> Option<(u16, u16)> {
    matches!(key.proto, proto::TCP | proto::UDP).then_some((key.src_port, key.dst_port))
}

#[cfg(test)]
mod tests;
