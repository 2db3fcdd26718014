//! What a lookup costs and what memory rules take, counted. That the right rule is found is tried by the policy's tests.

use core::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::flow::VrfId;
use crate::shard::mix64;

impl Looks for usize {
    fn at(&mut self, words: usize) {
        *self += words;
    }
}

/// What a rule asks for, with its lists.
#[derive(Debug, Clone, Default)]
struct Rule {
    protocol: Option<u8>,
    source: Vec<IpNet>,
    destination: Vec<IpNet>,
    source_ports: Vec<PortRange>,
    destination_ports: Vec<PortRange>,
}

impl Rule {
    fn conditions(&self) -> Conditions<'_> {
        Conditions {
            protocol: self.protocol,
            source: &self.source,
            destination: &self.destination,
            source_ports: &self.source_ports,
            destination_ports: &self.destination_ports,
            ..Conditions::default()
        }
    }

    fn matches(&self, key: &FlowKey) -> bool {
        let within =
            |nets: &[IpNet], a: &Addr| nets.is_empty() || nets.iter().any(|net| net.contains(&a.ip()));
        let between = |ranges: &[PortRange], port| {
            ranges.is_empty() || ports(key).is_some() && ranges.iter().any(|range| range.contains(port))
        };
        self.protocol.is_none_or(|wanted| wanted == key.proto)
            && within(&self.source, &key.src)
            && within(&self.destination, &key.dst)
            && between(&self.source_ports, key.src_port)
            && between(&self.destination_ports, key.dst_port)
    }
}

fn compile(rules: &[Rule]) -> Result<Classifier, TooLarge> {
    let conditions: Vec<_> = rules.iter().map(Rule::conditions).collect();
    Classifier::compile(&conditions)
}

/// The rule found, and the words looked at.
fn look(classifier: &Classifier, key: &FlowKey) -> (Option<u32>, usize) {
    let query = Query {
        key,
        inbound: InterfaceId(0),
        outbound: None,
    };
    let mut looks = 0;
    let found = classifier.scan(&query, &mut looks);
    assert_eq!(found, classifier.first(&query));
    (found, looks)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn range(first: u16, last: u16) -> Vec<PortRange> {
    vec![PortRange { first, last }]
}

fn key(src: u32, dst: u32, src_port: u16, dst_port: u16, proto: u8) -> FlowKey {
    FlowKey {
        src: Addr::from(Ipv4Addr::from(src)),
        dst: Addr::from(Ipv4Addr::from(dst)),
        src_port,
        dst_port,
        vrf: VrfId(0),
        proto,
    }
}

/// Random numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 += 1;
        u32::try_from(mix64(self.0) % u64::from(n)).unwrap()
    }
}

/// Rules as people write them: between networks of a few hundred sites, many hosts, few ports, some for everybody.
fn ordinary(count: u32) -> Vec<Rule> {
    let random = &mut Random(u64::from(count));
    let prefix = |random: &mut Random| {
        let host = 10 << 24 | random.below(300) << 16 | random.below(64) << 8 | random.below(256);
        let len = [16, 20, 24, 24, 24, 28, 32, 32, 32, 32][random.below(10) as usize];
        IpNet::new(IpAddr::from(Ipv4Addr::from(host)), len).unwrap()
    };
    (0..count)
        .map(|_| Rule {
            protocol: [Some(proto::TCP), Some(proto::TCP), Some(proto::UDP), None][random.below(4) as usize],
            source: if random.below(10) == 0 {
                vec![]
            } else {
                vec![prefix(random)]
            },
            destination: if random.below(20) == 0 {
                vec![]
            } else {
                vec![prefix(random)]
            },
            source_ports: vec![],
            destination_ports: match random.below(4) {
                0 => vec![],
                1 => range(1_024, u16::MAX),
                _ => {
                    let port = u16::try_from(random.below(100) * 17).unwrap();
                    range(port, port)
                }
            },
        })
        .collect()
}

/// Flows most of which match something: between ends that rules name.
fn flows(rules: &[Rule], count: usize) -> Vec<FlowKey> {
    let random = &mut Random(77);
    let mut end = |list: fn(&Rule) -> &[IpNet]| {
        let rule = &rules[random.below(u32::try_from(rules.len()).unwrap()) as usize];
        let Some(IpNet::V4(net)) = list(rule).first() else {
            return random.below(u32::MAX);
        };
        u32::from(net.network()) | random.below(u32::MAX) & u32::from(net.hostmask())
    };
    let ends: Vec<_> = (0..count)
        .map(|_| (end(|r| &r.source), end(|r| &r.destination)))
        .collect();
    let random = &mut Random(99);
    let port = |random: &mut Random| u16::try_from(random.below(100) * 17).unwrap();
    ends.into_iter()
        .map(|(src, dst)| {
            key(
                src,
                dst,
                40_000,
                port(random),
                [proto::TCP, proto::UDP][random.below(2) as usize],
            )
        })
        .collect()
}

#[test]
fn ten_thousand_ordinary_rules_are_a_few_words_more_than_ten() {
    let mean = |count| {
        let rules = ordinary(count);
        let classifier = compile(&rules).unwrap();
        let flows = flows(&rules, 2_000);
        let looks: usize = flows.iter().map(|key| look(&classifier, key).1).sum();
        for key in &flows {
            let expected = rules.iter().position(|rule| rule.matches(key));
            assert_eq!(
                look(&classifier, key).0,
                expected.map(|at| u32::try_from(at).unwrap()),
                "{key:?}"
            );
        }
        looks / flows.len()
    };
    let (few, many) = (mean(10), mean(10_000));
    assert!(few <= 8 && many <= 24, "{few} {many}");
}

#[test]
fn the_most_words_are_those_of_all_rows() {
    // Each word of each field has a rule for this flow, and no rule has both ends.
    let rules: Vec<_> = (0..10_000)
        .map(|n| Rule {
            source: vec![net(if n % 2 == 0 { "10.0.0.0/8" } else { "11.0.0.0/8" })],
            destination: vec![net(if n % 2 == 0 { "20.0.0.0/8" } else { "21.0.0.0/8" })],
            ..Rule::default()
        })
        .collect();
    let classifier = compile(&rules).unwrap();
    let fields = classifier.fields.len();
    let words = 10_000_usize.div_ceil(WORD);
    assert_eq!(classifier.first.len(), words);
    assert_eq!(
        look(&classifier, &key(10 << 24, 21 << 24, 1, 1, proto::TCP)),
        (None, fields * (words + words.div_ceil(WORD)))
    );
    // Where the first rule matches, the other words can't beat it: their summaries are all that is looked at.
    assert_eq!(
        look(&classifier, &key(10 << 24, 20 << 24, 1, 1, proto::TCP)),
        (Some(0), fields * (words.div_ceil(WORD) + 1))
    );
}

#[test]
fn rules_beyond_the_first_summary_word_are_found() {
    let mut rules = vec![Rule::default(); 9_000];
    for (n, rule) in (0..).zip(&mut rules) {
        rule.source = vec![IpNet::from(IpAddr::from(Ipv4Addr::from(10 << 24 | n)))];
    }
    let classifier = compile(&rules).unwrap();
    for n in [0, 63, 64, 4_095, 4_096, 4_097, 8_191, 8_192, 8_999] {
        let (found, looks) = look(&classifier, &key(10 << 24 | n, 1, 1, 1, proto::UDP));
        assert_eq!(found, Some(n));
        assert!(looks <= 2 * 4, "{n}: {looks} words");
    }
    assert_eq!(
        look(&classifier, &key(10 << 24 | 9_000, 1, 1, 1, proto::UDP)).0,
        None
    );
}

#[test]
fn what_all_rules_leave_open_costs_one_row_whatever_their_number() {
    let classifier = compile(&vec![Rule::default(); RULES_MAX]).unwrap();
    assert_eq!(classifier.fields.len(), 1);
    assert_eq!(classifier.words.len(), RULES_MAX / WORD + RULES_MAX / WORD / WORD);
    assert_eq!(
        look(&classifier, &key(1, 2, 3, 4, 5)),
        (Some(0), RULES_MAX / WORD / WORD + 1)
    );
    let none = compile(&[]).unwrap();
    assert_eq!((look(&none, &key(1, 2, 3, 4, 5)), none.bytes()), ((None, 0), 0));
}

/// Ports of rule `n` of many that are all inside one another.
fn nested(n: u16) -> Vec<PortRange> {
    range(n, u16::MAX - n)
}

#[test]
fn ten_thousand_rules_that_all_overlap_in_one_field_fit() {
    let chains = |n: u32| {
        IpNet::new(
            IpAddr::from(Ipv4Addr::from(n << 16)),
            1 + u8::try_from(n % 32).unwrap(),
        )
        .unwrap()
    };
    let ports: Vec<_> = (0..10_000)
        .map(|n| Rule {
            destination_ports: nested(n),
            ..Rule::default()
        })
        .collect();
    let prefixes: Vec<_> = (0..10_000)
        .map(|n| Rule {
            source: vec![chains(n)],
            ..Rule::default()
        })
        .collect();
    for rules in [ports, prefixes] {
        let classifier = compile(&rules).unwrap();
        assert!(classifier.bytes() <= BYTES_MAX);
    }
}

#[test]
fn what_overlaps_too_much_is_refused() {
    let rules: Vec<_> = (0..30_000)
        .map(|n| Rule {
            source_ports: nested(n),
            destination_ports: nested(30_000 - n),
            ..Rule::default()
        })
        .collect();
    let refused = compile(&rules).unwrap_err();
    assert_eq!(refused, TooLarge::Bytes { rules: 30_000 });
    assert_eq!(
        refused.to_string(),
        "30000 rules overlap in so many ways that they take more than 64 MiB compiled"
    );
    assert_eq!(
        compile(&vec![Rule::default(); RULES_MAX + 1]).unwrap_err(),
        TooLarge::Rules(RULES_MAX + 1)
    );
    let many = Rule {
        source: vec![net("10.0.0.0/8"); CONDITIONS_MAX + 1],
        ..Rule::default()
    };
    assert_eq!(
        compile(&[many]).unwrap_err(),
        TooLarge::Conditions(CONDITIONS_MAX + 1)
    );
}

#[test]
fn a_range_that_ends_before_it_begins_matches_nothing() {
    let rules = [Rule {
        destination_ports: range(9, 3),
        ..Rule::default()
    }];
    let classifier = compile(&rules).unwrap();
    for port in [0, 3, 5, 9, 10] {
        assert_eq!(look(&classifier, &key(1, 2, 3, port, proto::TCP)).0, None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Thousands of rules out of few values: many rules per row, and several summary words.
    #[test]
    fn thousands_of_rules_that_collide_decide_as_they_read(seed: u64, count in 4_000u32..9_000) {
        let random = &mut Random(seed >> 1);
        let ends = |random: &mut Random| match random.below(8) {
            0 => vec![],
            n => (0..=n % 3)
                .map(|_| {
                    let host = 10 << 24 | random.below(4) << 22 | random.below(8);
                    IpNet::new(IpAddr::from(Ipv4Addr::from(host)), 6 + u8::try_from(random.below(27)).unwrap()).unwrap()
                })
                .collect(),
        };
        let ports = |random: &mut Random| match random.below(3) {
            0 => vec![],
            n => (0..n)
                .flat_map(|_| {
                    let first = u16::try_from(random.below(64)).unwrap();
                    range(first, first + u16::try_from(random.below(4)).unwrap())
                })
                .collect(),
        };
        let mut rules: Vec<_> = (0..count)
            .map(|_| Rule {
                protocol: Some(u8::try_from(random.below(40)).unwrap()),
                source: ends(random),
                destination: ends(random),
                source_ports: ports(random),
                destination_ports: ports(random),
            })
            .collect();
        // The one that matches is anywhere.
        rules.rotate_left(random.below(count) as usize);
        let classifier = compile(&rules).unwrap();
        let fields = classifier.fields.len();
        for _ in 0..200 {
            let host = |random: &mut Random| 10 << 24 | random.below(4) << 22 | random.below(8);
            let port = |random: &mut Random| u16::try_from(random.below(70)).unwrap();
            let key = key(host(random), host(random), port(random), port(random), u8::try_from(random.below(41)).unwrap());
            let expected = rules.iter().position(|rule| rule.matches(&key));
            let (found, looks) = look(&classifier, &key);
            prop_assert_eq!(found, expected.map(|at| u32::try_from(at).unwrap()), "{:?}", key);
            let words = rules.len() / WORD + 16;
            prop_assert!(classifier.first.len() <= words);
            prop_assert!(looks <= fields * (words + words.div_ceil(WORD)), "{} words", looks);
        }
    }
}
