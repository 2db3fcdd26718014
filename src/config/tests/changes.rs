//! What a change takes: edits of the base file, told by path, live or by a restart of whom.

use super::*;

/// Path and what it takes, of each change that an edit of the base file makes.
fn changes(from: &str, to: &str) -> Vec<(String, Takes)> {
    let text = BASE.replacen(from, to, 1);
    let (old, new) = (
        load("f", BASE, &[]).unwrap(),
        load("f", &text, &[]).unwrap_or_else(|f| panic!("{f}")),
    );
    diff(&old, &new).into_iter().map(|c| (c.path, c.takes)).collect()
}

#[test]
fn a_diff_says_what_is_live_and_what_takes_a_restart_of_whom() {
    use Takes::{Live, NextStart, RestartBoth, RestartControl, RestartDataplane};
    let cases = [
        ("id = 1\n", "id = 2\n", "node.id", RestartBoth),
        (
            "workers = 2",
            "workers = 4",
            "dataplane.workers",
            RestartDataplane,
        ),
        (
            "0000:01:00.0",
            "0000:02:00.0",
            "port.wan0.device",
            RestartDataplane,
        ),
        ("192.0.2.2/24", "192.0.2.3/24", "interface.wan.addresses", Live),
        (
            "vlan = [100]",
            "vlan = [101]",
            "interface.other.vlan",
            RestartBoth,
        ),
        (
            "inside = [",
            "slots = 512\ninside = [",
            "vrf.main.slots",
            RestartDataplane,
        ),
        (
            "gateway = \"192.0.2.254\"",
            "gateway = \"192.0.2.253\"",
            "vrf.main.route.0.0.0.0/0",
            Live,
        ),
        ("00:01\"", "00:02\"", "vrf.main.neighbor.wan 192.0.2.254", Live),
        ("icmp_s = 60", "icmp_s = 90", "vrf.main.timeouts.icmp_s", Live),
        (
            "inside = [",
            "flow_counters = false\ninside = [",
            "vrf.main.flow_counters",
            Live,
        ),
        (
            "inside = [",
            "standby = \"redirect\"\ninside = [",
            "vrf.main.standby",
            Live,
        ),
        (
            "action = \"accept\"",
            "action = \"reject\"",
            "vrf.main.firewall.rule.10",
            Live,
        ),
        (
            "[[vrf.firewall.rule]]",
            "[vrf.firewall]\non_change = \"recheck\"\n[[vrf.firewall.rule]]",
            "vrf.main.firewall.on_change",
            Live,
        ),
        (
            "block_size = 512",
            "block_size = 256",
            "vrf.main.cg_nat.pool.public.block_size",
            RestartDataplane,
        ),
        (
            "block_size = 512",
            "block_size = 512\nports = \"2048-65535\"",
            "vrf.main.cg_nat.pool.public.ports",
            RestartDataplane,
        ),
        (
            "block_size = 512",
            "block_size = 512\nport_rest_s = 7",
            "vrf.main.cg_nat.pool.public.port_rest_s",
            Live,
        ),
        (
            "198.51.100.4",
            "198.51.100.5",
            "vrf.main.cg_nat.pool.public.addresses",
            Live,
        ),
        ("outbound = \"wan\"", "", "vrf.main.cg_nat.rule.1", Live),
        (
            "10.150.0.2",
            "10.150.0.3",
            "vrf.main.peer.peer1",
            RestartDataplane,
        ),
        (
            "192.0.2.1\"",
            "192.0.2.7\"",
            "ha_group.group1.virtual_addresses",
            Live,
        ),
        (
            "name = \"group1\"",
            "name = \"group1\"\nstate = \"master\"",
            "ha_group.group1.state",
            NextStart,
        ),
        (
            "interface = \"sync0\"",
            "interface = \"sync1\"",
            "sync.interface",
            RestartDataplane,
        ),
        (
            "interface = \"sync0\"",
            "interface = \"sync0\"\nboot_wait_ms = 7",
            "sync.boot_wait_ms",
            NextStart,
        ),
        (
            "[sync]",
            "[keepalived]\nrestart_grace_s = 9\n[sync]",
            "keepalived.restart_grace_s",
            RestartControl,
        ),
        ("[sync]", "[log]\nlevel = \"warn\"\n[sync]", "log.level", Live),
        (
            "[sync]",
            "[log]\nsyslog = \"/run/log\"\n[sync]",
            "log.syslog",
            RestartDataplane,
        ),
    ];
    for (from, to, path, takes) in cases {
        assert_eq!(changes(from, to), [(path.to_owned(), takes)], "{from} -> {to}");
    }
    assert_eq!(changes("id = 1\n", "id = 1\n"), []);
}

const MORE: &str = "[[vrf.cg_nat.pool]]\nname = \"more\"\naddresses = [\"198.51.100.8\"]\n[[vrf.cg_nat.rule]]\nid = 7\npool = \"more\"\n";

fn with_more() -> String {
    BASE.replacen("[[vrf.cg_nat.rule]]", &format!("{MORE}[[vrf.cg_nat.rule]]"), 1)
}

#[test]
fn a_pool_that_comes_or_goes_is_live_with_all_its_settings() {
    let (old, new) = (
        load("f", BASE, &[]).unwrap(),
        load("f", &with_more(), &[]).unwrap(),
    );
    for (one, other) in [(&old, &new), (&new, &old)] {
        let changes = diff(one, other);
        assert!(
            changes
                .iter()
                .any(|c| c.path == "vrf.main.cg_nat.pool.more.block_size")
        );
        assert!(changes.iter().all(|c| c.takes == Takes::Live), "{changes:?}");
    }
}

/// Taken out of one pool and put into another, in one step, also under another name of the same pool.
#[test]
fn an_address_that_changes_its_pool_is_named_with_the_two_steps_that_do_it() {
    let moved = with_more()
        .replacen("198.51.100.1-198.51.100.4", "198.51.100.1-198.51.100.3", 1)
        .replacen("198.51.100.8", "198.51.100.4", 1);
    let renamed = BASE.replace("\"public\"", "\"renamed\"");
    for (text, path) in [
        (moved, "vrf.main.cg_nat.pool.more.addresses"),
        (renamed, "vrf.main.cg_nat.pool.renamed.addresses"),
    ] {
        let changes = diff(&load("f", BASE, &[]).unwrap(), &load("f", &text, &[]).unwrap());
        let blocked: Vec<_> = changes.iter().filter(|c| c.takes != Takes::Live).collect();
        assert_eq!(
            blocked.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(),
            [path]
        );
        assert!(
            blocked[0]
                .reason
                .contains("take it away first, apply, and add it then")
        );
    }
}

/// Numbers of interfaces, VRFs and ports are their places in the file: flows, roles and the kernel's routes go by them.
#[test]
fn another_order_of_what_is_numbered_is_a_change() {
    let (head, rest) = BASE.split_once("[[interface]]").unwrap();
    let mut interfaces: Vec<&str> = rest.split("[[interface]]").collect();
    let (last, tail) = interfaces.pop().unwrap().split_once("\n[").unwrap();
    let text = format!(
        "{head}[[interface]]{last}\n[[interface]]{}\n[{tail}",
        interfaces.join("[[interface]]")
    );
    let (old, new) = (load("f", BASE, &[]).unwrap(), load("f", &text, &[]).unwrap());
    let changed: Vec<_> = diff(&old, &new).into_iter().map(|c| (c.path, c.takes)).collect();
    assert_eq!(changed, [("order.interface".to_owned(), Takes::RestartBoth)]);
}

#[test]
fn an_interface_may_shrink_live_and_grow_as_far_as_its_port_goes() {
    let mtu = |bytes: u32| {
        let text = BASE.replacen("name = \"lan\"", &format!("name = \"lan\"\nmtu = {bytes}"), 1);
        load("f", &text, &[]).unwrap_or_else(|f| panic!("{f}"))
    };
    let takes = |from: u32, to: u32| diff(&mtu(from), &mtu(to))[0].takes;
    assert_eq!(takes(1_500, 1_400), Takes::Live);
    assert_eq!(takes(1_400, 1_500), Takes::RestartDataplane);
}

#[test]
fn limits_of_a_tap_are_live_by_class_and_shown_where_there_is_one() {
    let with = |limits: &str| {
        let tap = format!("0000:01:00.0\"\nexception = \"tap\"\nkernel_interface = \"tap0\"\n{limits}#\"");
        load("f", &BASE.replacen("0000:01:00.0\"", &tap, 1), &[]).unwrap_or_else(|f| panic!("{f}"))
    };
    let (old, new) = (
        with(""),
        with("exception_packets_per_s = { local = 7, routing = 0 }\n"),
    );
    let changes: Vec<_> = diff(&old, &new)
        .into_iter()
        .map(|c| (c.path, c.old.unwrap(), c.new.unwrap(), c.takes))
        .collect();
    let change = |class: &str, old: &str, new: &str| {
        let path = format!("port.wan0.exception_packets_per_s.{class}");
        (path, old.to_owned(), new.to_owned(), Takes::Live)
    };
    assert_eq!(
        changes,
        [change("local", "2000", "7"), change("routing", "10000", "0")]
    );
    let of = |config: &Config, class| config.intent.exceptions[1].map(|limits| limits.of(class));
    assert_eq!(of(&old, Class::Local), Some(2_000));
    assert_eq!(of(&new, Class::Local), Some(7));
    assert_eq!(
        (of(&new, Class::Ha), of(&new, Class::Routing)),
        (Some(4_000), Some(0))
    );
    // What a restart is needed for is left out, and there is a tap as before.
    let mut mixed = new.clone();
    mixed.take_intent(load("f", BASE, &[]).unwrap());
    assert_eq!(of(&mixed, Class::Local), Some(7));
    mixed.take_intent(old);
    assert_eq!(of(&mixed, Class::Local), Some(2_000));
    assert_eq!(mixed.intent.exceptions[0], None);
    let shown = settings(&load("f", BASE, &[]).unwrap());
    assert!(!shown.iter().any(|s| s.path.contains("exception_packets")));
}

#[test]
fn every_setting_is_shown_with_its_default_and_what_another_value_takes() {
    let shown = settings(&load("f", BASE, &[]).unwrap());
    let of = |path: &str| shown.iter().find(|s| s.path == path).unwrap();
    assert_eq!(
        (of("log.level").value.as_str(), of("log.level").takes),
        ("info", Takes::Live)
    );
    assert_eq!(of("node.id").value, "1");
    assert!(
        shown
            .iter()
            .all(|s| !s.reason.is_empty() && s.reason != "read at start"),
        "{shown:?}"
    );
}

#[test]
fn a_diff_names_what_is_new_and_gone() {
    let text = BASE.replace("id = 10\n", "id = 11\n");
    let change = diff(&load("f", BASE, &[]).unwrap(), &load("f", &text, &[]).unwrap());
    let paths: Vec<_> = change
        .iter()
        .map(|c| (c.path.as_str(), c.old.is_some(), c.new.is_some()))
        .collect();
    let expected = [
        ("vrf.main.firewall.order", true, true),
        ("vrf.main.firewall.rule.10", true, false),
        ("vrf.main.firewall.rule.11", false, true),
    ];
    assert_eq!(paths, expected);
}
