//! `[vrf.firewall]` and `[vrf.cg_nat]`: rules and pools.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;

use dataplane::config::{
    Action, FLOWS_PER_S_MAX, Filtering, FirewallIntent, FlowLimit, InDoubt, InterfaceId, NatRuleIntent,
    OnChange, PoolIntent, PortRange, RuleIntent, SyncPolicy,
};
use dataplane::flow::{VrfId, proto};
use dataplane::policy::{NatPolicy, Policy, TooLarge};
use ipnet::IpNet;

use super::care::{Around, read_care};
use super::locate::{At, Place};
use super::section::Section;
use super::topology::{Names, Topology};
use super::values::{self, word};

const ACTIONS: [(&str, Action); 3] = [
    ("accept", Action::Accept),
    ("drop", Action::Drop),
    ("reject", Action::Reject),
];
const ON_CHANGE: [(&str, OnChange); 2] = [("keep", OnChange::Keep), ("recheck", OnChange::Recheck)];
const FILTERINGS: [(&str, Filtering); 2] = [
    ("endpoint-independent", Filtering::EndpointIndependent),
    ("endpoint-dependent", Filtering::EndpointDependent),
];
const IN_DOUBT: [(&str, InDoubt); 2] = [("borrow", InDoubt::Borrow), ("refuse", InDoubt::Refuse)];
/// Ports of a pool, unless configured: the well-known ones stay out (RFC 4787 section 4.2.2).
const POOL_PORTS: PortRange = PortRange {
    first: 1_024,
    last: 65_535,
};
/// Ports per block, unless configured.
const BLOCK_SIZE: u16 = 512;
/// Blocks are whole words of the port bitmap.
const BLOCK_UNIT: u16 = 64;

pub(super) fn read_firewall(
    section: Section<'_>,
    vrf: VrfId,
    topology: &Topology,
    around: Around,
) -> FirewallIntent {
    let default = section
        .parsed("default", |t| word(t, &ACTIONS))
        .map_or(Action::default(), |a| a.value);
    let mut ids = Ids::default();
    let rules = section
        .sections("rule", "[[vrf.firewall.rule]]")
        .into_iter()
        .map(|rule| read_rule(rule, vrf, topology, around, &mut ids))
        .collect();
    let on_change = section
        .parsed("on_change", |t| word(t, &ON_CHANGE))
        .map_or(OnChange::default(), |o| o.value);
    let firewall = FirewallIntent {
        rules,
        default,
        on_change,
    };
    fit(&section, Policy::compile(&firewall, None).err());
    section.finish();
    firewall
}

/// Refuses rules that the packet path could not compile.
fn fit(section: &Section<'_>, error: Option<TooLarge>) {
    if let Some(error) = error {
        let advice = match error {
            TooLarge::Rules(_) | TooLarge::Conditions(_) => "use fewer, wider rules",
            TooLarge::Bytes { .. } => {
                "use fewer port ranges and prefixes that overlap, or spread the rules over VRFs"
            }
        };
        section.report().add(section.place, error.to_string(), advice);
    }
}

fn read_rule(
    section: Section<'_>,
    vrf: VrfId,
    topology: &Topology,
    around: Around,
    ids: &mut Ids,
) -> RuleIntent {
    let report = section.report();
    if !section.has("action") {
        section.missing("action", "\"accept\", \"drop\" or \"reject\"");
    }
    let protocol = section.word_or_number("protocol", values::protocol);
    let source = section.list("source", values::prefix_or_address);
    let destination = section.list("destination", values::prefix_or_address);
    let source_ports = section.list("source_ports", values::port_range);
    let destination_ports = section.list("destination_ports", values::port_range);
    if let Some(port) = source_ports.iter().chain(&destination_ports).next() {
        let has_ports = protocol
            .as_ref()
            .is_some_and(|p| matches!(p.value, proto::TCP | proto::UDP));
        let what = || "a rule has ports, but no protocol that has them".to_owned();
        report.check(
            has_ports,
            port.place,
            what,
            "add protocol = \"tcp\" or \"udp\", or remove the ports",
        );
    }
    if let (Some(from), Some(to)) = (source.first(), destination.first()) {
        let family = |list: &[At<IpNet>], v4: bool| list.iter().any(|p| p.value.addr().is_ipv4() == v4);
        let possible = [true, false]
            .iter()
            .any(|&v4| family(&source, v4) && family(&destination, v4));
        let what = || {
            format!(
                "no packet goes from {} to {}: different families",
                from.value, to.value
            )
        };
        report.check(possible, to.place, what, "use prefixes of one family");
    }
    let rule = RuleIntent {
        id: ids.read(&section, "rule"),
        inbound: interface(&section, "inbound", vrf, topology),
        outbound: interface(&section, "outbound", vrf, topology),
        source: values_of(source),
        destination: values_of(destination),
        protocol: protocol.map(|p| p.value),
        source_ports: values_of(source_ports),
        destination_ports: values_of(destination_ports),
        action: section
            .parsed("action", |t| word(t, &ACTIONS))
            .map_or(Action::default(), |a| a.value),
        log: section.flag("log", false),
        limit: read_limit(&section),
        care: read_care(&section, around),
    };
    section.finish();
    rule
}

/// How many new flows a rule lets in, if it lets any in.
fn read_limit(section: &Section<'_>) -> FlowLimit {
    let accepts = section
        .text("action")
        .is_some_and(|action| action.value == "accept");
    let per_s = |key| {
        let At { value, place } = section.number_at(key, 1..=FLOWS_PER_S_MAX)?;
        section.report().check(
            accepts,
            place,
            || "a rule limits new flows, but lets none in".to_owned(),
            "use action = \"accept\", or remove the limit",
        );
        NonZeroU32::new(value)
    };
    FlowLimit {
        per_s: per_s("new_flows_per_s"),
        per_source_per_s: per_s("new_flows_per_source_per_s"),
    }
}

fn interface(
    section: &Section<'_>,
    key: &'static str,
    vrf: VrfId,
    topology: &Topology,
) -> Option<InterfaceId> {
    let name = section.text(key)?;
    topology.interface_in(section.report(), &name, vrf)
}

fn values_of<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|item| item.value).collect()
}

/// Rule numbers already used in a VRF, and where.
#[derive(Debug, Default)]
struct Ids(HashMap<u32, Place>);

impl Ids {
    fn read(&mut self, section: &Section<'_>, kind: &str) -> u32 {
        if !section.has("id") {
            section.missing("id", "a number that is unique in the VRF");
        }
        let Some(id) = section.number_at("id", 1..=u32::MAX) else {
            return 0;
        };
        if let Some(first) = self.0.insert(id.value, id.place) {
            let report = section.report();
            let what = format!(
                "{kind} {} is already defined in line {}",
                id.value,
                report.line(first)
            );
            report.add(id.place, what, "use another id");
        }
        id.value
    }
}

/// Where a pool's address ranges are: first, last, place.
#[derive(Debug)]
pub(super) struct PoolPlaces {
    pub name: String,
    pub ranges: Vec<(Ipv4Addr, Ipv4Addr, Place)>,
}

pub(super) fn read_nat(
    section: Section<'_>,
    vrf: VrfId,
    topology: &Topology,
    inside: Option<&[IpNet]>,
    around: Around,
) -> (Vec<PoolIntent>, Vec<PoolPlaces>, Vec<NatRuleIntent>) {
    let pools = section.sections("pool", "[[vrf.cg_nat.pool]]");
    let names = Names::read("pool", &pools);
    let (pools, places): (Vec<PoolIntent>, _) = pools
        .into_iter()
        .enumerate()
        .map(|(n, s)| read_pool(s, names.get(n).value.clone()))
        .unzip();
    let mut ids = Ids::default();
    let rules: Vec<_> = section
        .sections("rule", "[[vrf.cg_nat.rule]]")
        .into_iter()
        .map(|rule| {
            let place = rule.place_of("sync");
            let report = rule.report();
            let read = read_nat_rule(rule, vrf, topology, inside, around, &names, &mut ids);
            let pool = pools.get(usize::from(read.pool));
            let open = pool.filter(|p| p.filtering == Filtering::EndpointIndependent);
            let always = matches!(read.care.sync, None | Some(SyncPolicy::Always));
            let what = || "flows of a pool that anybody may send to are always synced".to_owned();
            let advice = "remove sync, or use a pool with filtering = \"endpoint-dependent\"";
            report.check(always || open.is_none(), place, what, advice);
            read
        })
        .collect();
    fit(&section, NatPolicy::compile(vrf, &rules).err());
    section.finish();
    (pools, places, rules)
}

fn read_pool(section: Section<'_>, name: String) -> (PoolIntent, PoolPlaces) {
    let report = section.report();
    let ranges = section.list("addresses", values::address_range);
    if section.is_empty_list("addresses") {
        section.missing("addresses", "[\"198.51.100.1-198.51.100.4\"]");
    }
    let ports = section
        .parsed("ports", values::port_range)
        .map_or(POOL_PORTS, |p| p.value);
    report.check(
        ports.first > 0,
        section.place_of("ports"),
        || "port 0 can't be handed out".to_owned(),
        "begin at port 1 or above",
    );
    let pool = PoolIntent {
        name: name.clone(),
        addresses: expand(&ranges),
        ports,
        block_size: block_size(&section, ports),
        blocks_per_subscriber_max: section.number("blocks_per_subscriber_max", 1..=255, 4),
        port_rest_s: section.number("port_rest_s", 0..=86_400, 120),
        block_idle_s: section.number("block_idle_s", 0..=86_400, 60),
        filtering: section
            .parsed("filtering", |t| word(t, &FILTERINGS))
            .map_or(Filtering::default(), |f| f.value),
        in_doubt: section
            .parsed("in_doubt", |t| word(t, &IN_DOUBT))
            .map_or(InDoubt::default(), |d| d.value),
    };
    section.finish();
    (
        pool,
        PoolPlaces {
            name,
            ranges: ranges.iter().map(|r| (r.value.0, r.value.1, r.place)).collect(),
        },
    )
}

fn block_size(section: &Section<'_>, ports: PortRange) -> u16 {
    let default = At {
        value: BLOCK_SIZE,
        place: section.place_of("ports"),
    };
    let size = section.number_at("block_size", 1..=u16::MAX).unwrap_or(default);
    let report = section.report();
    let what = || format!("block_size = {} is not a multiple of {BLOCK_UNIT}", size.value);
    let rounded = size
        .value
        .next_multiple_of(BLOCK_UNIT)
        .min(u16::MAX - (BLOCK_UNIT - 1));
    report.check(
        size.value.is_multiple_of(BLOCK_UNIT),
        size.place,
        what,
        format!("use {rounded}"),
    );
    let available = u32::from(ports.last) - u32::from(ports.first) + 1;
    let what = || {
        format!(
            "block_size = {} is more than the {available} ports of the pool",
            size.value
        )
    };
    report.check(
        u32::from(size.value) <= available,
        size.place,
        what,
        "use a smaller block or more ports",
    );
    size.value
}

/// All addresses, ascending, each once.
fn expand(ranges: &[At<(Ipv4Addr, Ipv4Addr)>]) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = ranges
        .iter()
        .flat_map(|r| u32::from(r.value.0)..=u32::from(r.value.1))
        .map(Ipv4Addr::from)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn read_nat_rule(
    section: Section<'_>,
    vrf: VrfId,
    topology: &Topology,
    inside: Option<&[IpNet]>,
    around: Around,
    pools: &Names,
    ids: &mut Ids,
) -> NatRuleIntent {
    let report = section.report();
    let source = section.list("source", values::prefix_or_address);
    for prefix in &source {
        let what = || format!("source {} is IPv6, and pools are IPv4", prefix.value);
        report.check(
            prefix.value.addr().is_ipv4(),
            prefix.place,
            what,
            "use IPv4 prefixes",
        );
        // A subscriber outside would get blocks in one slot and conntracks in another.
        let is_inside = inside.is_none_or(|list| list.iter().any(|i| i.contains(&prefix.value)));
        let what = || format!("source {} is not among the VRF's inside prefixes", prefix.value);
        report.check(is_inside, prefix.place, what, "add it to inside, on both nodes");
    }
    let v4_inside = || {
        inside
            .unwrap_or_default()
            .iter()
            .filter(|p| p.addr().is_ipv4())
            .copied()
    };
    let what = || "a NAT rule needs to know who is inside".to_owned();
    report.check(
        inside.is_none() || v4_inside().next().is_some(),
        section.place,
        what,
        "add inside = [...] to the VRF, on both nodes",
    );
    let pool = section.required("pool", "the name of a [[vrf.cg_nat.pool]]");
    let rule = NatRuleIntent {
        id: ids.read(&section, "NAT rule"),
        outbound: interface(&section, "outbound", vrf, topology),
        source: if section.has("source") {
            values_of(source)
        } else {
            v4_inside().collect()
        },
        pool: pool.and_then(|p| pools.resolve(report, &p)).unwrap_or(0),
        care: read_care(&section, around),
    };
    section.finish();
    rule
}
