//! What two lists of the entries of one slot differ in.

use std::collections::HashMap;

use dataplane::delta::{BlockRecord, Delta, PutRecord, Version};
use dataplane::flow::FlowKey;
use dataplane::slot::{block_digest, conntrack_digest};

/// In what way an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unlike {
    /// This node has told of it, and the peer hasn't got it.
    OnlyHere,
    /// The peer has it, and this node doesn't.
    OnlyThere,
    /// Both have it, with other contents or another version.
    Different,
}

/// An entry that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// Its slot.
    pub slot: u16,
    /// In what way.
    pub unlike: Unlike,
    /// As this node has told it.
    pub ours: Option<Delta>,
    /// As the peer holds it.
    pub theirs: Option<Delta>,
}

/// What names an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Conntrack(FlowKey),
    Block(u64),
}

/// A difference in a form that can be found again: who holds the entry at which version with which contents.
pub(super) type Finding = (Key, Option<(Version, u64)>, Option<(Version, u64)>);

/// What two lists of one slot differ in, in their order; and how many entries are the same.
pub(super) fn compare(slot: u16, ours: &[Delta], theirs: &[Delta]) -> (Vec<Difference>, u64) {
    let mut known: HashMap<Key, &Delta> = theirs.iter().filter_map(|d| Some((key(d)?, d))).collect();
    let mut found = Vec::new();
    let mut matched = 0;
    for entry in ours {
        let other = key(entry).and_then(|key| known.remove(&key));
        let unlike = match other {
            Some(other) if contents(entry) == contents(other) => {
                matched += 1;
                continue;
            }
            Some(_) => Unlike::Different,
            None => Unlike::OnlyHere,
        };
        found.push(Difference {
            slot,
            unlike,
            ours: Some(*entry),
            theirs: other.copied(),
        });
    }
    let left = theirs
        .iter()
        .filter(|d| key(d).is_some_and(|key| known.contains_key(&key)));
    found.extend(left.map(|entry| Difference {
        slot,
        unlike: Unlike::OnlyThere,
        ours: None,
        theirs: Some(*entry),
    }));
    (found, matched)
}

const fn key(entry: &Delta) -> Option<Key> {
    match entry {
        Delta::Put(PutRecord { original, .. }) => Some(Key::Conntrack(*original)),
        Delta::Block(BlockRecord { grant, .. }) => Some(Key::Block(*grant)),
        _ => None,
    }
}

fn contents(entry: &Delta) -> Option<(Version, u64)> {
    match entry {
        Delta::Put(put) => Some((put.version, conntrack_digest(put))),
        Delta::Block(block) => Some((block.version, block_digest(block))),
        _ => None,
    }
}

pub(super) fn finding(difference: &Difference) -> Finding {
    let (ours, theirs) = (difference.ours.as_ref(), difference.theirs.as_ref());
    let key = ours.or(theirs).and_then(key).unwrap_or(Key::Block(0));
    (key, ours.and_then(contents), theirs.and_then(contents))
}
