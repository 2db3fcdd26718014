//! When something changed, and under whom: terms, and the versions that slots count under them.
//!
//! A term is born when a node takes over, and its holder's word counts until a higher one is heard of. A version is given
//! to a change when its record is made, and to no other change.

use serde::{Deserialize, Serialize};

use crate::shard::mix64;

/// Reign of one active node over one VRF: from the high bits down a count of reigns, [`BOOT_BITS`](Self::BOOT_BITS) that
/// differ from boot to boot, and the node's id. 0 means none yet. A node that boots and finds nobody can't know which
/// terms it had before; without the boot in it, one word would stand for two histories.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// No reign seen yet: a process that has just booted.
    pub const NONE: Self = Self(0);

    /// Bits of a term that tell boots of one node apart.
    pub const BOOT_BITS: u32 = 21;

    /// A term of `node`, booted as `boot_id`, above this one.
    #[must_use]
    pub const fn next_of(self, node: u8, boot_id: u64) -> Self {
        let boot = mix64(boot_id) >> (64 - Self::BOOT_BITS);
        Self((self.reign() + 1) << (Self::BOOT_BITS + 8) | boot << 8 | node as u64)
    }

    /// How many reigns there were, this one included, as far as its node knew.
    #[must_use]
    pub const fn reign(self) -> u64 {
        self.0 >> (Self::BOOT_BITS + 8)
    }

    /// What tells boots of its node apart.
    #[must_use]
    pub const fn boot(self) -> u64 {
        self.0 >> 8 & ((1 << Self::BOOT_BITS) - 1)
    }

    /// Node id of the owner.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the low byte is the node id")]
    pub const fn node(self) -> u8 {
        self.0 as u8
    }
}

/// When an entry last changed in its slot: gap-free counter under the term that wrote it. Zero: never emitted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// Term of the writer.
    pub term: Term,
    /// Counter of the slot at emission.
    pub counter: u64,
}
