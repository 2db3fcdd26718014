//! From conditions to rows.

use std::collections::{BTreeMap, HashMap};

use arrayvec::ArrayVec;
use ipnet::IpNet;

use super::{
    BYTES_MAX, CONDITIONS_MAX, Classifier, Conditions, Field, Prefixes, RULES_MAX, Ranges, TooLarge, Values,
    WORD,
};
use crate::config::PortRange;
use crate::flow::Addr;
use crate::vrf::Lpm;

/// Combinations of the fields in which a rule may be wide: addresses and ports.
const KINDS: usize = 1 << 4;
/// A rule is wide in a field if it accepts more than one in so many of the values that rules tell apart.
const WIDE_SHARE: usize = 16;
/// Rules that are worth a region.
const REGION_MIN: usize = 4 * WORD;

impl Classifier {
    /// Compiles rules, the first of which that matches is to decide.
    ///
    /// # Errors
    /// When they go beyond the limits.
    pub(in crate::policy) fn compile(rules: &[Conditions<'_>]) -> Result<Self, TooLarge> {
        if rules.len() > RULES_MAX {
            return Err(TooLarge::Rules(rules.len()));
        }
        let count = |r: &Conditions<'_>| {
            r.source.len() + r.destination.len() + r.source_ports.len() + r.destination_ports.len()
        };
        let conditions = rules.iter().map(count).sum();
        if conditions > CONDITIONS_MAX {
            return Err(TooLarge::Conditions(conditions));
        }
        let regions = Regions::of(rules);
        let mut rows = Rows::new(&regions);
        let mut fields = ArrayVec::new();
        let protocol: Vec<_> = rules.iter().map(|r| r.protocol.map(u16::from)).collect();
        fields.push(Field::Protocol(rows.values(&protocol)?));
        // A field that no rule looks at would rule nothing out.
        let inbound: Vec<_> = rules.iter().map(|r| r.inbound.map(|i| i.0)).collect();
        if inbound.iter().any(Option::is_some) {
            fields.push(Field::Inbound(rows.values(&inbound)?));
        }
        let outbound: Vec<_> = rules.iter().map(|r| r.outbound.map(|i| i.0)).collect();
        if outbound.iter().any(Option::is_some) {
            fields.push(Field::Outbound(rows.values(&outbound)?));
        }
        let source: Vec<_> = rules.iter().map(|r| r.source).collect();
        if source.iter().any(|list| !list.is_empty()) {
            fields.push(Field::Source(rows.prefixes(&source)?));
        }
        let destination: Vec<_> = rules.iter().map(|r| r.destination).collect();
        if destination.iter().any(|list| !list.is_empty()) {
            fields.push(Field::Destination(rows.prefixes(&destination)?));
        }
        let source_ports: Vec<_> = rules.iter().map(|r| r.source_ports).collect();
        if source_ports.iter().any(|list| !list.is_empty()) {
            fields.push(Field::SourcePorts(rows.ranges(&source_ports)?));
        }
        let destination_ports: Vec<_> = rules.iter().map(|r| r.destination_ports).collect();
        if destination_ports.iter().any(|list| !list.is_empty()) {
            fields.push(Field::DestinationPorts(rows.ranges(&destination_ports)?));
        }
        rows.words.shrink_to_fit();
        let classifier = Self {
            fields,
            words: rows.words,
            summary: rows.summary,
            first: regions.order.iter().copied().step_by(WORD).collect(),
            order: regions.order,
        };
        if classifier.bytes() > BYTES_MAX {
            return Err(TooLarge::Bytes { rules: rules.len() });
        }
        Ok(classifier)
    }
}

/// Which bit is whose.
struct Regions {
    /// Rule of each bit.
    order: Vec<u32>,
    /// Bit of each rule.
    places: Vec<usize>,
}

impl Regions {
    /// Rules are told apart by the fields in which they are wide. Few of a kind, of which a region would be mostly
    /// padding, stay with others.
    fn of(rules: &[Conditions<'_>]) -> Self {
        let ends = |prefix: &IpNet| {
            let (first, last) = (Addr::from(prefix.network()), Addr::from(prefix.broadcast()));
            (first.number(), last.number())
        };
        let range = |range: &PortRange| (range.first.into(), range.last.into());
        let wide = [
            wide(rules.iter().map(|r| r.source.iter().map(ends).collect())),
            wide(rules.iter().map(|r| r.destination.iter().map(ends).collect())),
            wide(rules.iter().map(|r| r.source_ports.iter().map(range).collect())),
            wide(
                rules
                    .iter()
                    .map(|r| r.destination_ports.iter().map(range).collect()),
            ),
        ];
        let kind = |rule: usize| {
            wide.iter()
                .fold(0, |kind, wide| 2 * kind + usize::from(wide[rule]))
        };
        let mut kinds: [Vec<usize>; KINDS] = core::array::from_fn(|_| Vec::new());
        for rule in 0..rules.len() {
            kinds[kind(rule)].push(rule);
        }
        let mut rest: Vec<usize> = Vec::new();
        for few in kinds.iter_mut().filter(|kind| kind.len() < REGION_MIN) {
            rest.append(few);
        }
        rest.sort_unstable();
        let mut regions = Self {
            order: Vec::new(),
            places: vec![0; rules.len()],
        };
        for rule in kinds.into_iter().chain([rest]) {
            regions.add(&rule);
        }
        regions
    }

    fn add(&mut self, rules: &[usize]) {
        for &rule in rules {
            self.places[rule] = self.order.len();
            self.order.push(u32::try_from(rule).unwrap_or(u32::MAX));
        }
        self.order
            .resize(self.order.len().next_multiple_of(WORD), u32::MAX);
    }
}

/// Which rules accept more than a share of what rules tell apart in a field; an open one accepts everything.
fn wide(accepted: impl Iterator<Item = Vec<(u128, u128)>>) -> Vec<bool> {
    let accepted: Vec<_> = accepted.collect();
    let mut values: Vec<u128> = accepted.iter().flatten().map(|span| span.0).collect();
    values.sort_unstable();
    values.dedup();
    let inside = |&(first, last): &(u128, u128)| {
        let end = values.partition_point(|&value| value <= last);
        end.saturating_sub(values.partition_point(|&value| value < first))
    };
    accepted
        .iter()
        .map(|spans| spans.is_empty() || spans.iter().map(inside).sum::<usize>() * WIDE_SHARE > values.len())
        .collect()
}

/// A bit per rule.
#[derive(Debug, Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, place: usize, on: bool) {
        let bit = 1 << (place % WORD);
        if on {
            self.0[place / WORD] |= bit;
        } else {
            self.0[place / WORD] &= !bit;
        }
    }
}

/// The rows stored so far.
struct Rows<'a> {
    places: &'a [usize],
    /// Words of a row, zero ones included.
    width: usize,
    summary: usize,
    words: Vec<u64>,
    known: HashMap<Vec<u64>, u32>,
}

impl<'a> Rows<'a> {
    fn new(regions: &'a Regions) -> Self {
        let width = regions.order.len() / WORD;
        Self {
            places: &regions.places,
            width,
            summary: width.div_ceil(WORD),
            words: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// The rules that leave a field open.
    fn open<T>(&self, rules: &[T], open: impl Fn(&T) -> bool) -> Bits {
        let mut bits = Bits(vec![0; self.width]);
        for (&place, _) in self.places.iter().zip(rules).filter(|(_, wanted)| open(wanted)) {
            bits.set(place, true);
        }
        bits
    }

    /// Where the row is from now on.
    fn store(&mut self, bits: &Bits) -> Result<u32, TooLarge> {
        let mut row = vec![0; self.summary];
        for (nth, &word) in bits.0.iter().enumerate().filter(|(_, word)| **word != 0) {
            row[nth / WORD] |= 1 << (nth % WORD);
            row.push(word);
        }
        if let Some(&at) = self.known.get(&row) {
            return Ok(at);
        }
        let full = TooLarge::Bytes {
            rules: self.places.len(),
        };
        if size_of_val(&*self.words) + size_of_val(&*row) > BYTES_MAX {
            return Err(full);
        }
        let at = u32::try_from(self.words.len()).map_err(|_| full)?;
        self.words.extend(&row);
        self.known.insert(row, at);
        Ok(at)
    }

    fn values(&mut self, wanted: &[Option<u16>]) -> Result<Values, TooLarge> {
        let other = self.open(wanted, Option::is_none);
        let mut named: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (&place, value) in self
            .places
            .iter()
            .zip(wanted)
            .filter_map(|(p, w)| Some((p, (*w)?)))
        {
            named.entry(value).or_default().push(place);
        }
        let mut rows = Vec::with_capacity(named.len());
        for (value, names) in named {
            let mut bits = other.clone();
            names.iter().for_each(|&place| bits.set(place, true));
            rows.push((value, self.store(&bits)?));
        }
        Ok(Values {
            rows,
            other: self.store(&other)?,
        })
    }

    fn prefixes(&mut self, lists: &[&[IpNet]]) -> Result<Prefixes, TooLarge> {
        let other = self.open(lists, |list| list.is_empty());
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (&place, list) in self.places.iter().zip(lists) {
            for prefix in *list {
                match prefix.trunc() {
                    IpNet::V4(p) => {
                        v4.push((u128::from(u32::from(p.network())) << 96, p.prefix_len(), place))
                    }
                    IpNet::V6(p) => v6.push((u128::from(p.network()), p.prefix_len(), place)),
                }
            }
        }
        Ok(Prefixes {
            v4: self.nested(v4, &other)?,
            v6: self.nested(v6, &other)?,
            other: self.store(&other)?,
        })
    }

    /// The longest prefix of an address decides its row, which therefore has the rules of all shorter ones too.
    fn nested(&mut self, mut prefixes: Vec<(u128, u8, usize)>, other: &Bits) -> Result<Lpm, TooLarge> {
        // By containment: what is inside a prefix comes behind it, and before anything outside.
        prefixes.sort_unstable();
        let mut around: Vec<((u128, u8), Bits)> = Vec::new();
        let mut found = Vec::new();
        for same in prefixes.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (network, len, _) = same[0];
            while around.last().is_some_and(|(outer, _)| !covers(*outer, network)) {
                around.pop();
            }
            let mut bits = around.last().map_or(other, |(_, bits)| bits).clone();
            for &(_, _, place) in same {
                bits.set(place, true);
            }
            found.push((network, len, self.store(&bits)?));
            around.push(((network, len), bits));
        }
        Ok(Lpm::new(found))
    }

    fn ranges(&mut self, lists: &[&[PortRange]]) -> Result<Ranges, TooLarge> {
        let other = self.open(lists, |list| list.is_empty());
        // Where rules begin and cease to match; the end of the last port is beyond a port's type.
        let mut edges: BTreeMap<u32, Vec<(usize, bool)>> = BTreeMap::from([(0, Vec::new())]);
        for (&place, list) in self.places.iter().zip(lists) {
            for (first, end) in apart(list) {
                edges.entry(first).or_default().push((place, true));
                edges.entry(end).or_default().push((place, false));
            }
        }
        let mut ranges = Ranges {
            starts: Vec::new(),
            rows: Vec::new(),
            other: self.store(&other)?,
        };
        let mut bits = other;
        for (port, changes) in edges {
            for (place, on) in changes {
                bits.set(place, on);
            }
            if let Ok(port) = u16::try_from(port) {
                ranges.starts.push(port);
                ranges.rows.push(self.store(&bits)?);
            }
        }
        Ok(ranges)
    }
}

/// Whether a prefix has `network` inside.
const fn covers((outer, len): (u128, u8), network: u128) -> bool {
    len == 0 || (outer ^ network) >> (128 - len) == 0
}

/// The same ports as ranges that neither overlap nor touch: first port, and the one behind the last.
fn apart(ranges: &[PortRange]) -> Vec<(u32, u32)> {
    let mut sorted: Vec<(u32, u32)> = ranges
        .iter()
        .filter(|range| range.first <= range.last)
        .map(|range| (range.first.into(), u32::from(range.last) + 1))
        .collect();
    sorted.sort_unstable();
    let mut apart: Vec<(u32, u32)> = Vec::new();
    for (first, end) in sorted {
        match apart.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => apart.push((first, end)),
        }
    }
    apart
}
