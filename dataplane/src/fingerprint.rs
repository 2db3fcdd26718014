//! What of a VRF's configuration the two nodes must share, as one hash per section: computed when a configuration
//! is taken, exchanged when the VRF is opened on a lane, and compared by name, so that an operator reads which part
//! differs and not only that something does.
//!
//! Canonical form, the same for ever under a section's name: every number is 8 bytes, big-endian; every text and
//! list is preceded by its length as a number; addresses are their 16 bytes ([`Addr`]), prefixes the address and
//! then the length; interfaces and pools are their names, never local indexes. Lists whose order means nothing are
//! sorted; rules keep theirs. The bytes go through 64-bit FNV-1a, and its result through [`mix64`], which spreads
//! the last bytes over the whole word. Port ids, VLAN ids, worker counts and kernel bindings are left out: nodes
//! may differ in them.

use core::num::NonZeroU32;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{
    Care, FlowLimit, Intent, InterfaceId, OnChange, PoolIntent, PortRange, RuleIntent, StandbyPolicy,
    SyncPolicy, VrfIntent,
};
use crate::flow::{Addr, VrfId};
use crate::shard::mix64;

/// What a difference in a section means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// Entries of one node can't be right on the other: not ready while different.
    MustEqual,
    /// Worth a warning: after a failover new flows may be treated differently.
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

/// Writes the canonical form of one section.
type Canonize = fn(&mut Canon, &Intent, VrfId, &VrfIntent);

/// All sections, in the order of reports.
const SECTIONS: [(&str, Strength, Canonize); 10] = [
    ("slots", Strength::MustEqual, |c, _, _, vrf| c.number(vrf.slots)),
    ("inside", Strength::MustEqual, |c, _, _, vrf| {
        c.unordered_prefixes(&vrf.inside)
    }),
    ("cg-nat pools", Strength::MustEqual, |c, _, _, vrf| pools(c, vrf)),
    ("cg-nat rules", Strength::Warn, nat_rules),
    ("firewall rules", Strength::Warn, |c, intent, _, vrf| {
        c.number(vrf.firewall.rules.len() as u64);
        vrf.firewall
            .rules
            .iter()
            .for_each(|r| firewall_rule(c, intent, r));
    }),
    ("firewall default", Strength::Warn, |c, _, _, vrf| {
        c.number(vrf.firewall.default as u8);
        // Silent by default, so that versions that know of nothing else say the same.
        if vrf.firewall.on_change != OnChange::Keep {
            c.number(vrf.firewall.on_change as u8);
        }
    }),
    ("timeouts", Strength::Warn, |c, _, _, vrf| timeouts(c, vrf)),
    ("tcp", Strength::Warn, |c, _, _, vrf| {
        c.number(u8::from(vrf.tcp_window_check))
    }),
    ("protection", Strength::Warn, |c, _, _, vrf| {
        c.number(vrf.output_commit.policy as u8);
        c.number(vrf.output_commit.timeout_ms);
        // Silent by default, so that versions that know of nothing else say the same.
        if vrf.standby != StandbyPolicy::Drop {
            c.number(vrf.standby as u8);
        }
    }),
    ("interfaces", Strength::Warn, interfaces),
];

/// Sections of a VRF; none when it doesn't exist.
#[must_use]
pub fn sections(intent: &Intent, vrf: VrfId) -> Vec<Section> {
    let Some(configured) = intent.vrfs.get(vrf.index()) else {
        return Vec::new();
    };
    let hashed = SECTIONS.iter().map(|(name, strength, canonize)| {
        let mut canon = Canon::default();
        canonize(&mut canon, intent, vrf, configured);
        Section {
            name: (*name).to_owned(),
            strength: *strength,
            hash: canon.hash(),
        }
    });
    hashed.collect()
}

/// What two nodes call something by its name where the name itself would be too long.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    let mut canon = Canon::default();
    canon.text(name);
    canon.hash()
}

/// Everything the standby's allocator must agree on. The order of pools is their number in rules alone.
fn pools(c: &mut Canon, vrf: &VrfIntent) {
    let mut pools: Vec<&PoolIntent> = vrf.pools.iter().collect();
    pools.sort_by_key(|p| &p.name);
    c.number(pools.len() as u64);
    for pool in pools {
        c.text(&pool.name);
        c.number(pool.addresses.len() as u64);
        pool.addresses.iter().for_each(|&a| c.address(a.into()));
        c.ports(&[pool.ports]);
        c.number(pool.block_size);
        c.number(pool.blocks_per_subscriber_max);
        c.number(pool.port_rest_s);
        c.number(pool.block_idle_s);
        c.number(pool.filtering as u8);
    }
}

fn nat_rules(c: &mut Canon, intent: &Intent, _: VrfId, vrf: &VrfIntent) {
    c.number(vrf.nat_rules.len() as u64);
    for rule in &vrf.nat_rules {
        c.number(rule.id);
        c.interface(intent, rule.outbound);
        c.unordered_prefixes(&rule.source);
        c.text(vrf.pools.get(usize::from(rule.pool)).map_or("", |p| &p.name));
        c.care(rule.care);
    }
    let mut in_doubt: Vec<_> = vrf.pools.iter().map(|p| (&p.name, p.in_doubt as u8)).collect();
    in_doubt.sort_unstable();
    in_doubt.iter().for_each(|(_, choice)| c.number(*choice));
}

fn firewall_rule(c: &mut Canon, intent: &Intent, rule: &RuleIntent) {
    c.number(rule.id);
    c.interface(intent, rule.inbound);
    c.interface(intent, rule.outbound);
    c.unordered_prefixes(&rule.source);
    c.unordered_prefixes(&rule.destination);
    // 256 is no protocol number: any.
    c.number(rule.protocol.map_or(256_u16, u16::from));
    c.ports(&rule.source_ports);
    c.ports(&rule.destination_ports);
    c.number(rule.action as u8);
    c.number(u8::from(rule.log));
    c.care(rule.care);
    // Silent without a limit, so that versions that know of none say the same.
    if rule.limit != FlowLimit::default() {
        c.number(rule.limit.per_s.map_or(0, NonZeroU32::get));
        c.number(rule.limit.per_source_per_s.map_or(0, NonZeroU32::get));
    }
}

fn timeouts(c: &mut Canon, vrf: &VrfIntent) {
    let t = &vrf.timeouts;
    let all = [
        t.tcp_opening_s,
        t.tcp_established_s,
        t.tcp_closing_s,
        t.tcp_reset_s,
        t.udp_opening_s,
        t.udp_established_s,
        t.icmp_s,
        t.other_s,
    ];
    all.iter().for_each(|&seconds| c.number(seconds));
}

/// Names of the VRF's interfaces: rules and conntracks are about them.
fn interfaces(c: &mut Canon, intent: &Intent, id: VrfId, _: &VrfIntent) {
    let mut names: Vec<&str> = intent
        .interfaces
        .iter()
        .filter(|i| i.vrf == id)
        .map(|i| i.name.as_str())
        .collect();
    names.sort_unstable();
    c.number(names.len() as u64);
    names.iter().for_each(|name| c.text(name));
}

/// The hash being made of a section.
struct Canon(u64);

impl Default for Canon {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Canon {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn number(&mut self, n: impl Into<u64>) {
        self.bytes(&n.into().to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes(text.as_bytes());
    }

    /// 0 stands for what is left open.
    fn care(&mut self, care: Care) {
        let (kind, seconds) = match care.sync {
            None => (0_u8, 0),
            Some(SyncPolicy::Always) => (1, 0),
            Some(SyncPolicy::After(seconds)) => (2, seconds),
            Some(SyncPolicy::Never) => (3, 0),
        };
        self.number(kind);
        self.number(seconds);
        self.number(care.output_commit.map_or(0, |commit| 1 + commit as u8));
    }

    fn address(&mut self, address: Addr) {
        self.bytes(&address.octets());
    }

    fn unordered_prefixes(&mut self, prefixes: &[IpNet]) {
        let mut sorted = prefixes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        self.number(sorted.len() as u64);
        for prefix in sorted {
            self.address(prefix.network().into());
            self.number(prefix.prefix_len());
        }
    }

    fn ports(&mut self, ranges: &[PortRange]) {
        let mut sorted: Vec<(u16, u16)> = ranges.iter().map(|r| (r.first, r.last)).collect();
        sorted.sort_unstable();
        sorted.dedup();
        self.number(sorted.len() as u64);
        for (first, last) in sorted {
            self.number(first);
            self.number(last);
        }
    }

    /// By name; an absent one is the empty name, which no interface has.
    fn interface(&mut self, intent: &Intent, id: Option<InterfaceId>) {
        let name = id
            .and_then(|id| intent.interfaces.get(id.index()))
            .map_or("", |i| i.name.as_str());
        self.text(name);
    }

    const fn hash(&self) -> u64 {
        mix64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::config::{
        Action, CommitIntent, Filtering, FirewallIntent, FirstPacketsPercent, HaGroupIntent, InDoubt,
        InterfaceIntent, NatRuleIntent, OutputCommit, Timeouts,
    };
    use crate::io::PortId;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn interface(name: &str, port: u16) -> InterfaceIntent {
        InterfaceIntent {
            name: name.into(),
            port: PortId(port),
            vlans: vec![],
            vrf: VrfId(0),
            mtu: 1500,
            addresses: vec![],
        }
    }

    fn pool(name: &str, last: u8) -> PoolIntent {
        PoolIntent {
            name: name.into(),
            addresses: vec![Ipv4Addr::new(198, 51, 100, last)],
            ports: PortRange {
                first: 1024,
                last: 65535,
            },
            block_size: 512,
            blocks_per_subscriber_max: 4,
            port_rest_s: 120,
            block_idle_s: 60,
            filtering: Filtering::EndpointDependent,
            in_doubt: InDoubt::Borrow,
        }
    }

    fn rule(id: u32) -> RuleIntent {
        RuleIntent {
            id,
            inbound: Some(InterfaceId(0)),
            outbound: Some(InterfaceId(1)),
            source: vec![net("100.64.0.0/10"), net("10.0.0.0/8")],
            destination: vec![],
            protocol: Some(6),
            source_ports: vec![],
            destination_ports: vec![PortRange { first: 80, last: 80 }],
            action: Action::Accept,
            log: false,
            limit: FlowLimit::default(),
            care: Care::default(),
        }
    }

    fn intent() -> Intent {
        Intent {
            interfaces: vec![interface("lan", 0), interface("wan", 1)],
            vrfs: vec![VrfIntent {
                name: "main".into(),
                slots: 1024,
                inside: vec![net("100.64.0.0/10"), net("10.0.0.0/8")],
                ha_group: Some("group1".into()),
                firewall: FirewallIntent {
                    rules: vec![rule(10), rule(20)],
                    default: Action::Drop,
                    on_change: OnChange::Keep,
                },
                pools: vec![pool("one", 1), pool("two", 2)],
                nat_rules: vec![NatRuleIntent {
                    id: 1,
                    outbound: Some(InterfaceId(1)),
                    source: vec![net("100.64.0.0/10")],
                    pool: 1,
                    care: Care::default(),
                }],
                timeouts: Timeouts::default(),
                standby: StandbyPolicy::Drop,
                tcp_window_check: true,
                flow_counters: true,
                output_commit: CommitIntent::default(),
            }],
            ha_groups: vec![HaGroupIntent {
                name: "group1".into(),
                virtual_macs: vec![],
                virtual_addresses: vec![],
            }],
            exceptions: vec![],
            first_packets: FirstPacketsPercent::default(),
        }
    }

    /// Names of the sections in which a changed intent differs.
    fn changed(change: impl FnOnce(&mut Intent)) -> Vec<String> {
        let before = sections(&intent(), VrfId(0));
        let mut after = intent();
        change(&mut after);
        let after = sections(&after, VrfId(0));
        before
            .iter()
            .zip(&after)
            .filter(|(a, b)| a.hash != b.hash)
            .map(|(a, _)| a.name.clone())
            .collect()
    }

    type Edit = fn(&mut VrfIntent);

    #[test]
    fn one_changed_field_names_exactly_its_section() {
        let edits: [(&str, Edit); 43] = [
            ("slots", |v| v.slots = 512),
            ("inside", |v| v.inside[0] = net("100.64.0.0/11")),
            ("inside", |v| v.inside.truncate(1)),
            ("cg-nat pools", |v| {
                v.pools[0].addresses.push(Ipv4Addr::new(198, 51, 100, 9))
            }),
            ("cg-nat pools", |v| v.pools[0].ports.first = 2048),
            ("cg-nat pools", |v| v.pools[0].ports.last = 60_000),
            ("cg-nat pools", |v| v.pools[0].block_size = 256),
            ("cg-nat pools", |v| v.pools[0].blocks_per_subscriber_max = 5),
            ("cg-nat pools", |v| v.pools[0].port_rest_s = 1),
            ("cg-nat pools", |v| v.pools[0].block_idle_s = 1),
            ("cg-nat pools", |v| {
                v.pools[0].filtering = Filtering::EndpointIndependent
            }),
            ("cg-nat pools", |v| v.pools[0].name = "zero".into()),
            ("cg-nat rules", |v| v.pools[0].in_doubt = InDoubt::Refuse),
            ("cg-nat rules", |v| v.nat_rules[0].id = 2),
            ("cg-nat rules", |v| v.nat_rules[0].outbound = None),
            ("cg-nat rules", |v| {
                v.nat_rules[0].source[0] = net("100.64.0.0/16")
            }),
            ("cg-nat rules", |v| v.nat_rules[0].pool = 0),
            ("firewall rules", |v| v.firewall.rules[0].id = 11),
            ("firewall rules", |v| v.firewall.rules[0].inbound = None),
            ("firewall rules", |v| {
                v.firewall.rules[0].outbound = Some(InterfaceId(0))
            }),
            ("firewall rules", |v| v.firewall.rules[0].source.truncate(1)),
            ("firewall rules", |v| {
                v.firewall.rules[0].destination.push(net("2001:db8::/32"))
            }),
            ("firewall rules", |v| v.firewall.rules[0].protocol = None),
            ("firewall rules", |v| {
                v.firewall.rules[0]
                    .source_ports
                    .push(PortRange { first: 1, last: 2 })
            }),
            ("firewall rules", |v| {
                v.firewall.rules[0].destination_ports[0].last = 81
            }),
            ("firewall rules", |v| v.firewall.rules[0].action = Action::Reject),
            ("firewall rules", |v| v.firewall.rules[0].log = true),
            ("firewall rules", |v| {
                v.firewall.rules[0].limit.per_s = NonZeroU32::new(9)
            }),
            ("firewall rules", |v| {
                v.firewall.rules[0].limit.per_source_per_s = NonZeroU32::new(9)
            }),
            ("firewall rules", |v| v.firewall.rules.swap(0, 1)),
            ("firewall default", |v| v.firewall.default = Action::Accept),
            ("firewall default", |v| v.firewall.on_change = OnChange::Recheck),
            ("timeouts", |v| v.timeouts.tcp_established_s = 9_000),
            ("timeouts", |v| v.timeouts.other_s = 1),
            // Swapped values are a difference, too.
            ("timeouts", |v| {
                (v.timeouts.udp_opening_s, v.timeouts.udp_established_s) = (300, 120)
            }),
            ("timeouts", |v| v.timeouts.icmp_s = 61),
            ("tcp", |v| v.tcp_window_check = false),
            ("protection", |v| v.output_commit.timeout_ms += 1),
            ("protection", |v| v.output_commit.policy = OutputCommit::Open),
            ("protection", |v| v.standby = StandbyPolicy::Redirect),
            ("firewall rules", |v| {
                v.firewall.rules[0].care.sync = Some(SyncPolicy::After(3))
            }),
            ("firewall rules", |v| {
                v.firewall.rules[0].care.output_commit = Some(OutputCommit::Off);
            }),
            ("cg-nat rules", |v| {
                v.nat_rules[0].care.sync = Some(SyncPolicy::Never)
            }),
        ];
        for (n, (section, edit)) in edits.iter().enumerate() {
            assert_eq!(changed(|i| edit(&mut i.vrfs[0])), [*section], "edit {n}");
        }
        assert_eq!(
            changed(|i| i.interfaces.push(interface("dmz", 2))),
            ["interfaces"]
        );
        for (name, ..) in SECTIONS {
            assert!(
                name == "interfaces" || edits.iter().any(|e| e.0 == name),
                "no edit for {name}"
            );
        }
    }

    #[test]
    fn local_numbers_and_meaningless_order_change_nothing() {
        assert_eq!(changed(|i| i.vrfs[0].inside.reverse()), [""; 0]);
        assert_eq!(changed(|i| i.vrfs[0].firewall.rules[0].source.reverse()), [""; 0]);
        assert_eq!(
            changed(|i| i.vrfs[0].ha_group = None),
            [""; 0],
            "the peer may call its group otherwise"
        );
        let other_numbers = |i: &mut Intent| {
            // The other node lists its interfaces, ports and pools the other way round.
            i.interfaces = vec![interface("wan", 7), interface("lan", 3)];
            i.interfaces[0].vlans = vec![100];
            let vrf = &mut i.vrfs[0];
            vrf.pools.reverse();
            vrf.nat_rules[0].pool = 0;
            vrf.nat_rules[0].outbound = Some(InterfaceId(0));
            for rule in &mut vrf.firewall.rules {
                (rule.inbound, rule.outbound) = (Some(InterfaceId(1)), Some(InterfaceId(0)));
            }
        };
        assert_eq!(changed(other_numbers), [""; 0]);
    }

    #[test]
    fn interfaces_of_another_vrf_are_not_this_ones() {
        let elsewhere = |i: &mut Intent| {
            i.vrfs.push(VrfIntent {
                name: "other".into(),
                ..i.vrfs[0].clone()
            });
            i.interfaces.push(InterfaceIntent {
                vrf: VrfId(1),
                ..interface("dmz", 2)
            });
        };
        assert_eq!(changed(elsewhere), [""; 0]);
        assert!(sections(&intent(), VrfId(9)).is_empty());
    }

    /// The value is part of the protocol: if this fails, nodes of two releases disagree.
    /// sync/PROTOCOL.md R-48: what peers call an interface.
    #[test]
    fn a_name_has_the_same_hash_everywhere() {
        let fnv = [0, 0, 0, 0, 0, 0, 0, 3, b'l', b'a', b'n']
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| {
                (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
            });
        assert_eq!(name_hash("lan"), mix64(fnv));
    }

    #[test]
    fn hashes_are_stable() {
        let hash = |name: &str| {
            sections(&intent(), VrfId(0))
                .into_iter()
                .find(|s| s.name == name)
                .unwrap()
                .hash
        };
        // FNV-1a of the eight bytes 00 00 00 00 00 00 04 00, through mix64.
        let fnv = [0, 0, 0, 0, 0, 0, 4, 0_u8]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, &b| {
                (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
            });
        assert_eq!(hash("slots"), mix64(fnv));
        assert_eq!(hash("slots"), 5_323_492_547_488_495_833);
    }
}
