//! What of the configuration must be equal on both nodes, as one hash per section: computed once at start,
//! exchanged when a VRF is opened on a connection, and compared by name, so that an operator reads which part
//! differs and not only that something does.

use dataplane::config::{Intent, PortRange, VrfIntent};
use dataplane::shard::mix64;
use serde::{Deserialize, Serialize};

/// What a difference in a section means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// Not ready while different.
    MustEqual,
    /// Worth a warning.
    Warn,
}

/// One part of a VRF's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Section {
    /// Name, at most 32 bytes.
    pub name: String,
    /// What a difference means.
    pub strength: Strength,
    /// Hash of its canonical form.
    pub hash: u64,
}

/// A section on which two nodes disagree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Difference {
    /// Its name.
    pub section: String,
    /// What that means: the stronger of the two nodes' opinions.
    pub strength: Strength,
}

/// Sections that differ, or that only one node has.
#[must_use]
pub fn differences(ours: &[Section], theirs: &[Section]) -> Vec<Difference> {
    let strongest = |name: &str| {
        let must = ours
            .iter()
            .chain(theirs)
            .any(|s| s.name == name && s.strength == Strength::MustEqual);
        if must { Strength::MustEqual } else { Strength::Warn }
    };
    let hash = |side: &[Section], name: &str| side.iter().find(|s| s.name == name).map(|s| s.hash);
    let only_theirs = theirs.iter().filter(|s| hash(ours, &s.name).is_none());
    ours.iter()
        .chain(only_theirs)
        .filter(|s| hash(ours, &s.name) != hash(theirs, &s.name))
        .map(|s| Difference {
            section: s.name.clone(),
            strength: strongest(&s.name),
        })
        .collect()
}

/// Sections of a VRF: `slots`, `inside` and `nat` must be equal, `firewall` and `timeouts` should be.
#[must_use]
pub fn sections(intent: &Intent, vrf: &VrfIntent) -> Vec<Section> {
    let must = |name: &str, hash| Section {
        name: name.to_owned(),
        strength: Strength::MustEqual,
        hash,
    };
    let warn = |name: &str, hash| Section {
        name: name.to_owned(),
        strength: Strength::Warn,
        hash,
    };
    vec![
        must("slots", Canon::default().number(vrf.slots).hash()),
        must("inside", Canon::default().texts(vrf.inside.iter()).hash()),
        must("nat", nat(intent, vrf)),
        warn("firewall", firewall(intent, vrf)),
        warn("timeouts", timeouts(vrf)),
    ]
}

fn nat(intent: &Intent, vrf: &VrfIntent) -> u64 {
    let mut canon = Canon::default();
    canon.number(vrf.pools.len() as u64);
    for pool in &vrf.pools {
        canon
            .text(&pool.name)
            .texts(pool.addresses.iter())
            .ports(&[pool.ports])
            .number(pool.block_size);
        canon.number(pool.filtering as u64);
    }
    for rule in &vrf.nat_rules {
        canon
            .number(rule.id)
            .text(interface(intent, rule.outbound))
            .texts(rule.source.iter())
            .number(rule.pool);
    }
    canon.hash()
}

fn firewall(intent: &Intent, vrf: &VrfIntent) -> u64 {
    let mut canon = Canon::default();
    canon
        .number(vrf.firewall.default as u64)
        .number(vrf.tcp_window_check);
    for rule in &vrf.firewall.rules {
        canon
            .number(rule.id)
            .text(interface(intent, rule.inbound))
            .text(interface(intent, rule.outbound));
        canon.texts(rule.source.iter()).texts(rule.destination.iter());
        canon.number(rule.protocol.map_or(256, u16::from));
        canon
            .ports(&rule.source_ports)
            .ports(&rule.destination_ports)
            .number(rule.action as u64);
    }
    canon.hash()
}

fn timeouts(vrf: &VrfIntent) -> u64 {
    let t = &vrf.timeouts;
    let mut canon = Canon::default();
    for seconds in [
        t.tcp_opening_s,
        t.tcp_established_s,
        t.tcp_closing_s,
        t.tcp_reset_s,
        t.udp_opening_s,
        t.udp_established_s,
        t.icmp_s,
        t.other_s,
    ] {
        canon.number(seconds);
    }
    canon.hash()
}

/// Names, not indexes: the two nodes may number their interfaces differently.
fn interface(intent: &Intent, id: Option<dataplane::config::InterfaceId>) -> &str {
    id.and_then(|id| intent.interfaces.get(id.index()))
        .map_or("", |i| i.name.as_str())
}

/// Canonical bytes under a hash that both nodes share. Everything of variable length is preceded by its length.
#[derive(Default)]
struct Canon(u64);

impl Canon {
    fn number(&mut self, n: impl Into<u64>) -> &mut Self {
        self.0 = mix64(self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.into()).wrapping_add(1);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64);
        for byte in text.bytes() {
            self.number(byte);
        }
        self
    }

    fn texts(&mut self, items: impl ExactSizeIterator<Item = impl ToString>) -> &mut Self {
        self.number(items.len() as u64);
        for item in items {
            self.text(&item.to_string());
        }
        self
    }

    fn ports(&mut self, ranges: &[PortRange]) -> &mut Self {
        self.number(ranges.len() as u64);
        for range in ranges {
            self.number(range.first).number(range.last);
        }
        self
    }

    const fn hash(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &str, strength: Strength, hash: u64) -> Section {
        Section {
            name: name.to_owned(),
            strength,
            hash,
        }
    }

    #[test]
    fn differences_are_named_and_the_stronger_opinion_wins() {
        let ours = [
            section("a", Strength::Warn, 1),
            section("b", Strength::MustEqual, 2),
        ];
        let theirs = [
            section("b", Strength::MustEqual, 2),
            section("a", Strength::MustEqual, 9),
        ];
        let must = |s: &str| Difference {
            section: s.to_owned(),
            strength: Strength::MustEqual,
        };
        assert_eq!(differences(&ours, &theirs), [must("a")]);
        assert_eq!(differences(&ours, &ours), []);
        assert_eq!(differences(&ours[..1], &theirs), [must("a"), must("b")]);
    }

    #[test]
    fn lengths_are_part_of_the_canonical_form() {
        let mut one = Canon::default();
        let mut two = Canon::default();
        one.texts(["ab", "c"].into_iter());
        two.texts(["a", "bc"].into_iter());
        assert_ne!(one.hash(), two.hash());
    }
}
