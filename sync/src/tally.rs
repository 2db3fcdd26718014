//! How often each type of record went over connections, and with how many bytes. Kept by the two ends of a connection's
//! buffers, where every record passes anyway; added up over all connections when somebody asks.

use crate::record::kind;
use crate::report::Operation;

/// Calls and bytes by type of record, in one direction.
#[derive(Debug, Clone)]
pub(crate) struct Tally(Box<[(u64, u64); 256]>);

impl Default for Tally {
    fn default() -> Self {
        Self(Box::new([(0, 0); 256]))
    }
}

impl Tally {
    /// A record of `bytes` bytes, header included.
    pub(crate) fn count(&mut self, kind: u8, bytes: usize) {
        let (calls, total) = &mut self.0[usize::from(kind)];
        *calls += 1;
        *total += bytes as u64;
    }

    /// Adds what another has counted.
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            mine.0 += theirs.0;
            mine.1 += theirs.1;
        }
    }
}

/// Both directions.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tallies {
    pub(crate) sent: Tally,
    pub(crate) received: Tally,
}

impl Tallies {
    /// One row per name and direction that has ever been used; those of one meaning, such as both address families of a
    /// type, together.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let mut rows: Vec<Operation> = Vec::new();
        for (direction, tally) in [("send", &self.sent), ("receive", &self.received)] {
            for (kind, (calls, bytes)) in (0_u8..=u8::MAX).zip(tally.0.iter()).filter(|(_, c)| c.0 > 0) {
                let name = format!("{direction} {}", kind::name(kind));
                match rows.iter_mut().find(|row| row.name == name) {
                    Some(row) => {
                        row.calls += calls;
                        row.bytes += bytes;
                    }
                    None => rows.push(Operation {
                        name,
                        calls: *calls,
                        bytes: *bytes,
                    }),
                }
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_address_families_of_a_type_are_one_row_and_unused_ones_none() {
        let mut tallies = Tallies::default();
        tallies.sent.count(kind::PUT, 30);
        tallies.sent.count(kind::PUT + 1, 60);
        tallies.received.count(kind::ACK, 11);
        let mut more = Tally::default();
        more.count(kind::ACK, 11);
        tallies.received.add(&more);
        let row = |name: &str, calls, bytes| Operation {
            name: name.to_owned(),
            calls,
            bytes,
        };
        assert_eq!(
            tallies.operations(),
            [row("send PUT", 2, 90), row("receive ACK", 2, 22)]
        );
    }
}
