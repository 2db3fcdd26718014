//! What changes from one configuration to another, and what each change takes: applied to the running node, or a
//! restart. Both sides are written as one line per setting, in ctl's words, and compared.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use ctl::config_report::{Setting, SettingChange, Takes};
use dataplane::config::{
    FlowLimit, InterfaceId, PoolIntent, PortRange, RuleIntent, VirtualAddress, VrfIntent,
};
use dataplane::exception::Class;
use ipnet::IpNet;

use super::care::{commit_word, describe};
use super::{Config, KernelBinding, Syslog};

/// Everything that differs, by path.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Vec<SettingChange> {
    let (before, after) = (flatten(old), flatten(new));
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| {
            let (takes, reason) = if outgrows_port(path, old, new) {
                (
                    Takes::RestartDataplane,
                    "larger than what the port was opened for",
                )
            } else if path.contains(POOL) && moves_between_pools(path, old, new) {
                (RestartDataplane, MOVES)
            } else if path.contains(POOL) && !(before.contains_key(path) && after.contains_key(path)) {
                (Live, POOLS)
            } else {
                effect(path)
            };
            SettingChange {
                path: path.clone(),
                old: before.get(path).cloned(),
                new: after.get(path).cloned(),
                takes,
                reason: reason.to_owned(),
            }
        })
        .collect()
}

/// Every setting with its value, defaults included.
#[must_use]
pub fn settings(config: &Config) -> Vec<Setting> {
    let setting = |(path, value): (String, String)| {
        let (takes, reason) = effect(&path);
        Setting {
            path,
            value,
            takes,
            reason: reason.to_owned(),
        }
    };
    flatten(config).into_iter().map(setting).collect()
}

use Takes::{Live, NextStart, RestartBoth, RestartControl, RestartDataplane};

/// By kind and setting: `vrf.NAME.SETTING…` is looked up as `vrf.SETTING`. The first prefix that fits decides.
const EFFECTS: [(&str, Takes, &str); 43] = [
    ("node.", RestartBoth, "names sockets and is part of every term"),
    ("dataplane.conntracks_max", Live, ROOM),
    (
        "dataplane.conntracks_start",
        NextStart,
        "room at the start; later there is as much as is needed",
    ),
    (
        "dataplane.first_packets_percent",
        Live,
        "used from the next packet on",
    ),
    (
        "dataplane.",
        RestartDataplane,
        "threads and memory are allocated at start",
    ),
    ("order.port", RestartBoth, "ports are numbered at start"),
    (
        "order.interface",
        RestartBoth,
        "flows refer to interfaces by number",
    ),
    (
        "order.vrf",
        RestartBoth,
        "tables and lanes refer to VRFs by number",
    ),
    (
        "port.kernel_interface",
        RestartControl,
        "chosen when the kernel is first read",
    ),
    (
        "port.exception_packets_per_s",
        Live,
        "used from the next packet on",
    ),
    (
        "port.",
        RestartDataplane,
        "ports and their queues are opened at start",
    ),
    ("interface.addresses", Live, "part of the forwarding snapshot"),
    ("interface.mtu", Live, "part of the forwarding snapshot"),
    (
        "interface.kernel_interface",
        RestartControl,
        "chosen when the kernel is first read",
    ),
    (
        "interface.",
        RestartBoth,
        "flows and rules refer to interfaces by number",
    ),
    (
        "vrf.kernel",
        RestartBoth,
        "ports are opened where their VRF's kernel interfaces are",
    ),
    (
        "vrf.slots",
        RestartDataplane,
        "entries are bound to their slot, on both nodes",
    ),
    (
        "vrf.inside",
        RestartDataplane,
        "decides the slot, and so the worker and the lane, of every flow and port block there is, on both nodes",
    ),
    ("vrf.route", Live, "part of the forwarding snapshot"),
    ("vrf.neighbor", Live, "part of the forwarding snapshot"),
    ("vrf.timeouts", Live, "used when an entry's timer is next set"),
    ("vrf.tcp_window_check", Live, "used from the next packet on"),
    ("vrf.flow_counters", Live, COUNTERS),
    ("vrf.standby", Live, "used from the next packet on"),
    (
        "vrf.output_commit",
        Live,
        "used for the next first packet of a flow",
    ),
    (
        "vrf.firewall.rule",
        Live,
        "used for the next first packet of a flow; sync, and with on_change = \"recheck\" all of it, for the flows there are, too",
    ),
    (
        "vrf.firewall",
        Live,
        "used for the next first packet of a flow; with on_change = \"recheck\" for the flows there are, too",
    ),
    (
        "vrf.cg_nat.rule",
        Live,
        "used for the next first packet of a flow; sync for the flows there are, too",
    ),
    ("vrf.cg_nat.pool", Live, POOLS),
    ("vrf.announce_pools", Live, "the kernel's routes follow at once"),
    ("vrf.peer_keys", Live, KEYS),
    (
        "vrf.listen_ha_group",
        RestartBoth,
        "role machines are made at start",
    ),
    (
        "vrf.",
        RestartDataplane,
        "tables and lanes of a VRF are made at start",
    ),
    (
        "ha_group.virtual_addresses",
        Live,
        "part of the forwarding snapshot",
    ),
    (
        "ha_group.state",
        NextStart,
        "only a preference at boot; use twinpathctl set ha-group to change the role now",
    ),
    (
        "ha_group.vrrp",
        RestartControl,
        "write keepalived's fragment again and reload keepalived, too",
    ),
    ("ha_group.", RestartBoth, "role machines are made at start"),
    (
        "keepalived.",
        RestartControl,
        "write keepalived's fragment again and reload keepalived, too",
    ),
    ("sync.private_key", Live, KEYS),
    ("sync.boot_wait_ms", NextStart, "only used while a node boots"),
    ("sync.", RestartDataplane, "lanes are opened at start"),
    ("log.level", Live, "used from the next line on"),
    ("log.", RestartDataplane, "the log's socket is opened at start"),
];

/// In the path of a pool's setting.
const POOL: &str = ".cg_nat.pool.";
const POOLS: &str = "used from the next port block or port on; flows on addresses that are taken away end";
const CUT: &str =
    "blocks are cut when a pool gets its addresses: take the pool away, apply, and add it again";
const MOVES: &str = "an address can't be in two pools while flows of the first one end: take it away first, apply, and add it then";

const COUNTERS: &str =
    "used from the next packet on; what was counted stays as it is while nothing is, and goes on from there";

const ROOM: &str = "workers get room up to there when they need it; with less, first packets are refused until flows have ended, and no flow ends for it";

const KEYS: &str = "used for the next handshake; lanes of a key that has gone end";

fn effect(path: &str) -> (Takes, &'static str) {
    let mut parts = path.splitn(3, '.');
    let kind = parts.next().unwrap_or_default();
    let named = matches!(kind, "port" | "interface" | "vrf" | "ha_group");
    let (second, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let looked_up = if named {
        format!("{kind}.{rest}")
    } else {
        format!("{kind}.{second}")
    };
    if looked_up.starts_with("vrf.cg_nat.pool.")
        && (path.ends_with(".ports") || path.ends_with(".block_size"))
    {
        return (RestartDataplane, CUT);
    }
    EFFECTS
        .iter()
        .find(|e| looked_up.starts_with(e.0))
        .map_or((RestartBoth, "read at start"), |e| (e.1, e.2))
}

/// A port carries the largest packet of the interfaces it was opened for, and no larger one.
fn outgrows_port(path: &str, old: &Config, new: &Config) -> bool {
    let name = path
        .strip_prefix("interface.")
        .and_then(|rest| rest.strip_suffix(".mtu"));
    let Some(grown) = name.and_then(|name| new.intent.interfaces.iter().find(|i| i.name == name)) else {
        return false;
    };
    let opened_for = old.intent.interfaces.iter().filter(|i| i.port == grown.port);
    opened_for.map(|i| i.mtu).max().is_some_and(|mtu| grown.mtu > mtu)
}

/// Whether addresses that a pool gets are now in another pool of its VRF.
fn moves_between_pools(path: &str, old: &Config, new: &Config) -> bool {
    let of = |config: &Config| -> Vec<(String, String, Vec<Ipv4Addr>)> {
        let pools = |vrf: &VrfIntent| {
            let named = |pool: &PoolIntent| (vrf.name.clone(), pool.name.clone(), pool.addresses.clone());
            vrf.pools.iter().map(named).collect::<Vec<_>>()
        };
        config.intent.vrfs.iter().flat_map(pools).collect()
    };
    let path_of = |vrf: &str, pool: &str| format!("vrf.{vrf}{POOL}{pool}.addresses");
    let (before, after) = (of(old), of(new));
    let got = after.iter().filter(|(vrf, pool, _)| path_of(vrf, pool) == path);
    got.flat_map(|got| before.iter().map(move |had| (got, had)))
        .filter(|(got, had)| got.0 == had.0 && got.1 != had.1)
        .any(|(got, had)| got.2.iter().any(|ip| had.2.binary_search(ip).is_ok()))
}

type Settings = BTreeMap<String, String>;

fn put(settings: &mut Settings, path: String, value: impl ToString) {
    settings.insert(path, value.to_string());
}

fn flatten(config: &Config) -> Settings {
    let mut s = Settings::new();
    put(&mut s, "node.name".into(), &config.node.name);
    put(&mut s, "node.id".into(), config.node.id);
    let names = |list: Vec<&str>| list.join(",");
    put(
        &mut s,
        "order.port".into(),
        names(config.ports.iter().map(|p| p.name.as_str()).collect()),
    );
    put(
        &mut s,
        "order.interface".into(),
        names(config.interfaces.iter().map(|i| i.name.as_str()).collect()),
    );
    put(
        &mut s,
        "order.vrf".into(),
        names(config.vrfs.iter().map(|v| v.name.as_str()).collect()),
    );
    flatten_dataplane(&mut s, config);
    for port in &config.ports {
        let path = format!("port.{}", port.name);
        put(&mut s, format!("{path}.device"), &port.device);
        put(&mut s, format!("{path}.rx_queues"), port.rx_queues);
        put(&mut s, format!("{path}.rss"), port.rss.name());
        put(
            &mut s,
            format!("{path}.kernel_interface"),
            port.kernel_interface.as_deref().unwrap_or("none"),
        );
        put(
            &mut s,
            format!("{path}.exception"),
            port.tap()
                .map_or_else(|| "none".to_owned(), |tap| format!("tap {tap}")),
        );
        for class in Class::ALL.into_iter().filter(|_| port.tap().is_some()) {
            put(
                &mut s,
                format!("{path}.exception_packets_per_s.{}", class.name()),
                port.exception_limits.of(class),
            );
        }
    }
    for (intent, interface) in config.intent.interfaces.iter().zip(&config.interfaces) {
        let path = format!("interface.{}", intent.name);
        put(
            &mut s,
            format!("{path}.port"),
            config.ports.get(intent.port.index()).map_or("", |p| &p.name),
        );
        put(
            &mut s,
            format!("{path}.vrf"),
            config.vrfs.get(intent.vrf.index()).map_or("", |v| &v.name),
        );
        put(&mut s, format!("{path}.vlan"), join(&intent.vlans));
        put(&mut s, format!("{path}.mtu"), intent.mtu);
        put(&mut s, format!("{path}.addresses"), join(&intent.addresses));
        put(
            &mut s,
            format!("{path}.kernel_interface"),
            interface.kernel_interface.as_deref().unwrap_or("none"),
        );
    }
    for (n, intent) in config.intent.vrfs.iter().enumerate() {
        flatten_vrf(&mut s, config, n, intent);
    }
    for (intent, group) in config.intent.ha_groups.iter().zip(&config.ha_groups) {
        let path = format!("ha_group.{}", intent.name);
        put(&mut s, format!("{path}.state"), lower(&group.state));
        let named = |list: &[VirtualAddress]| {
            let shown = list
                .iter()
                .map(|v| format!("{} {}", name_of(config, v.interface), v.address));
            shown.collect::<Vec<_>>().join(", ")
        };
        let Some(v) = &group.vrrp else {
            put(&mut s, format!("{path}.driver"), "static");
            put(
                &mut s,
                format!("{path}.virtual_addresses"),
                named(&intent.virtual_addresses),
            );
            continue;
        };
        put(&mut s, format!("{path}.driver"), "vrrp");
        let value = format!(
            "vrid {} priority {} preempt {} advert_interval_ms {} virtual_mac {}",
            v.vrid, v.priority, v.preempt, v.advert_interval_ms, v.virtual_mac
        );
        put(&mut s, format!("{path}.vrrp"), value);
        put(
            &mut s,
            format!("{path}.vrrp.virtual_addresses"),
            named(&v.addresses),
        );
    }
    let k = &config.keepalived;
    put(&mut s, "keepalived.pid_file".into(), &k.pid_file);
    put(&mut s, "keepalived.state_file".into(), &k.state_file);
    put(&mut s, "keepalived.restart_grace_s".into(), k.restart_grace_s);
    put(&mut s, "keepalived.realtime_priority".into(), k.realtime_priority);
    if let Some(sync) = &config.sync {
        put(&mut s, "sync.dscp".into(), sync.dscp);
        put(&mut s, "sync.interface".into(), &sync.interface);
        put(
            &mut s,
            "sync.second_interface".into(),
            sync.second_interface.as_deref().unwrap_or("none"),
        );
        put(&mut s, "sync.port".into(), sync.port);
        put(&mut s, "sync.security".into(), lower(&sync.security));
        let key = sync.private_key.as_deref().unwrap_or("none");
        put(&mut s, "sync.private_key".into(), key);
        put(&mut s, "sync.dead_after_ms".into(), sync.dead_after_ms);
        put(&mut s, "sync.boot_wait_ms".into(), sync.boot_wait_ms);
    }
    let syslog = match &config.log.syslog {
        Syslog::Unix(path) => path.clone(),
        Syslog::Udp(address) => format!("udp:{address}"),
    };
    put(&mut s, "log.syslog".into(), syslog);
    put(&mut s, "log.level".into(), config.log.level);
    s
}

fn flatten_dataplane(s: &mut Settings, config: &Config) {
    let d = &config.dataplane;
    put(s, "dataplane.workers".into(), d.workers);
    put(
        s,
        "dataplane.worker_cores".into(),
        d.worker_cores.as_deref().map_or("default".to_owned(), join),
    );
    put(s, "dataplane.event_threads".into(), d.event_threads);
    put(
        s,
        "dataplane.event_cores".into(),
        d.event_cores.as_deref().map_or("default".to_owned(), join),
    );
    put(s, "dataplane.idle".into(), lower(&d.idle));
    put(s, "dataplane.memory_mb".into(), d.memory_mb);
    put(s, "dataplane.hugepages".into(), lower(&d.hugepages));
    put(s, "dataplane.mbufs".into(), d.mbufs);
    put(s, "dataplane.conntracks_max".into(), d.conntracks_max);
    put(s, "dataplane.conntracks_start".into(), d.conntracks_start);
    put(s, "dataplane.delta_ring_entries".into(), d.delta_ring_entries);
    put(s, "dataplane.held_packets".into(), d.held_packets);
    put(s, "dataplane.limited_sources".into(), d.limited_sources);
    let hex = |key: &Vec<u8>| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    put(
        s,
        "dataplane.rss_key".into(),
        d.rss_key.as_ref().map_or_else(|| "none".to_owned(), hex),
    );
    put(
        s,
        "dataplane.redirect_packets_per_s".into(),
        d.redirect_packets_per_s,
    );
    put(s, "dataplane.first_packets_percent".into(), d.first_packets.0);
    put(s, "dataplane.eal_args".into(), d.eal_args.join(" "));
}

fn flatten_vrf(s: &mut Settings, config: &Config, n: usize, vrf: &VrfIntent) {
    let path = format!("vrf.{}", vrf.name);
    let binding = &config.vrfs[n];
    let kernel = match &binding.kernel {
        KernelBinding::Main => "main".to_owned(),
        KernelBinding::Device(name) => format!("kernel_vrf {name}"),
        KernelBinding::Netns(name) => format!("netns {name}"),
    };
    put(s, format!("{path}.kernel"), kernel);
    put(s, format!("{path}.slots"), vrf.slots);
    put(s, format!("{path}.inside"), join(&vrf.inside));
    put(s, format!("{path}.tcp_window_check"), vrf.tcp_window_check);
    put(s, format!("{path}.flow_counters"), vrf.flow_counters);
    put(s, format!("{path}.standby"), lower(&vrf.standby));
    put(s, format!("{path}.announce_pools"), binding.announce_pools);
    let commit = &vrf.output_commit;
    put(s, format!("{path}.output_commit"), commit_word(commit.policy));
    put(s, format!("{path}.output_commit_timeout_ms"), commit.timeout_ms);
    let t = &vrf.timeouts;
    let timeouts = [
        ("tcp_opening_s", t.tcp_opening_s),
        ("tcp_established_s", t.tcp_established_s),
        ("tcp_closing_s", t.tcp_closing_s),
        ("tcp_reset_s", t.tcp_reset_s),
        ("udp_opening_s", t.udp_opening_s),
        ("udp_established_s", t.udp_established_s),
        ("icmp_s", t.icmp_s),
        ("other_s", t.other_s),
    ];
    for (key, value) in timeouts {
        put(s, format!("{path}.timeouts.{key}"), value);
    }
    put(
        s,
        format!("{path}.firewall.default"),
        lower(&vrf.firewall.default),
    );
    put(
        s,
        format!("{path}.firewall.on_change"),
        lower(&vrf.firewall.on_change),
    );
    put(
        s,
        format!("{path}.firewall.order"),
        join(&vrf.firewall.rules.iter().map(|r| r.id).collect::<Vec<_>>()),
    );
    for rule in &vrf.firewall.rules {
        put(
            s,
            format!("{path}.firewall.rule.{}", rule.id),
            describe_rule(config, rule),
        );
    }
    let pools: Vec<&str> = vrf.pools.iter().map(|p| p.name.as_str()).collect();
    put(s, format!("{path}.cg_nat.pool_order"), pools.join(","));
    for pool in &vrf.pools {
        flatten_pool(s, &format!("{path}{POOL}{}", pool.name), pool);
    }
    put(
        s,
        format!("{path}.cg_nat.rule_order"),
        join(&vrf.nat_rules.iter().map(|r| r.id).collect::<Vec<_>>()),
    );
    for rule in &vrf.nat_rules {
        let outbound = rule.outbound.map_or("any", |i| name_of(config, i));
        let pool = vrf.pools.get(usize::from(rule.pool)).map_or("", |p| &p.name);
        let value = format!(
            "source {} outbound {outbound} pool {pool}",
            prefixes(&rule.source)
        ) + &describe(rule.care);
        put(s, format!("{path}.cg_nat.rule.{}", rule.id), value);
    }
    for route in config.forwarding.routes.iter().filter(|r| r.vrf.index() == n) {
        let hop = |h: &dataplane::config::NextHop| {
            let gateway = h.gateway.map_or("on the link".to_owned(), |g| g.to_string());
            format!("{} {gateway}", name_of(config, h.interface))
        };
        let via: Vec<String> = route.via.iter().map(hop).collect();
        put(s, format!("{path}.route.{}", route.prefix), via.join(", "));
    }
    for neighbor in &config.forwarding.neighbors {
        let interface = config.intent.interfaces.get(neighbor.interface.index());
        if interface.is_some_and(|i| i.vrf.index() == n) {
            let mac: Vec<String> = neighbor.mac.iter().map(|b| format!("{b:02x}")).collect();
            let of = name_of(config, neighbor.interface);
            put(
                s,
                format!("{path}.neighbor.{of} {}", neighbor.address),
                mac.join(":"),
            );
        }
    }
    put(
        s,
        format!("{path}.listen_ha_group"),
        binding.listen_ha_group.as_deref().unwrap_or("none"),
    );
    for peer in &binding.peers {
        put(
            s,
            format!("{path}.peer.{}", peer.name),
            join(
                &peer
                    .links()
                    .map(|link| format!("source {} address {}", link.source, link.address))
                    .collect::<Vec<_>>(),
            ),
        );
        put(
            s,
            format!("{path}.peer_keys.{}", peer.name),
            join(&peer.public_keys),
        );
    }
}

fn describe_rule(config: &Config, rule: &RuleIntent) -> String {
    let interface = |i: Option<InterfaceId>| i.map_or("any".to_owned(), |i| name_of(config, i).to_owned());
    format!(
        "{} protocol {} inbound {} outbound {} source {} ports {} destination {} ports {}{}",
        lower(&rule.action),
        rule.protocol.map_or("any".to_owned(), |p| p.to_string()),
        interface(rule.inbound),
        interface(rule.outbound),
        prefixes(&rule.source),
        ports(&rule.source_ports),
        prefixes(&rule.destination),
        ports(&rule.destination_ports),
        if rule.log { " log" } else { "" },
    ) + &describe_limit(rule.limit)
        + &describe(rule.care)
}

fn describe_limit(limit: FlowLimit) -> String {
    let of = |name, limit: Option<_>| limit.map_or(String::new(), |n| format!(" {name} {n}"));
    of("new_flows_per_s", limit.per_s) + &of("new_flows_per_source_per_s", limit.per_source_per_s)
}

fn flatten_pool(s: &mut Settings, path: &str, pool: &PoolIntent) {
    put(s, format!("{path}.addresses"), join(&pool.addresses));
    put(s, format!("{path}.ports"), ports(&[pool.ports]));
    put(s, format!("{path}.block_size"), pool.block_size);
    put(
        s,
        format!("{path}.blocks_per_subscriber_max"),
        pool.blocks_per_subscriber_max,
    );
    put(s, format!("{path}.port_rest_s"), pool.port_rest_s);
    put(s, format!("{path}.block_idle_s"), pool.block_idle_s);
    put(s, format!("{path}.filtering"), format!("{:?}", pool.filtering));
    put(s, format!("{path}.in_doubt"), format!("{:?}", pool.in_doubt));
}

fn name_of(config: &Config, interface: InterfaceId) -> &str {
    config
        .intent
        .interfaces
        .get(interface.index())
        .map_or("", |i| &i.name)
}

fn prefixes(list: &[IpNet]) -> String {
    if list.is_empty() {
        "any".to_owned()
    } else {
        join(list)
    }
}

fn ports(list: &[PortRange]) -> String {
    if list.is_empty() {
        return "any".to_owned();
    }
    list.iter()
        .map(|p| format!("{}-{}", p.first, p.last))
        .collect::<Vec<_>>()
        .join(",")
}

fn join(list: &[impl ToString]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn lower(value: &impl Debug) -> String {
    format!("{value:?}").to_lowercase()
}
