//! The whole reader: faults by example (one edit of a good file, one located message), the example file, what a
//! machine lacks, what a change takes, damaged files.

mod cases;
mod changes;
mod keys;
mod vrrp;

use std::net::IpAddr;

use ctl::config_report::Takes;
use ctl::key::{KeyError, PrivateKey};
use dataplane::config::Action;
use dataplane::exception::Class;
use dataplane::flow::VrfId;
use proptest::prelude::*;

use super::*;

/// A small file without a fault. Cases below replace one piece of it.
const BASE: &str = r#"
[node]
name = "node1"
id = 1
[dataplane]
workers = 2
event_threads = 2
[[port]]
name = "lan0"
device = "net_af_packet0,iface=lan0"
kernel_interface = "lan0"
[[port]]
name = "wan0"
device = "0000:01:00.0"
[[interface]]
name = "lan"
port = "lan0"
[[interface]]
name = "wan"
port = "wan0"
addresses = ["192.0.2.2/24"]
[[interface]]
name = "other"
port = "wan0"
vlan = [100]
vrf = "isp"
[[vrf]]
name = "main"
inside = ["100.64.0.0/10"]
[[vrf.route]]
prefix = "0.0.0.0/0"
interface = "wan"
gateway = "192.0.2.254"
[[vrf.neighbor]]
interface = "wan"
address = "192.0.2.254"
mac = "02:00:00:00:00:01"
[vrf.timeouts]
icmp_s = 60
[[vrf.firewall.rule]]
id = 10
inbound = "lan"
protocol = "tcp"
destination_ports = ["80"]
action = "accept"
[[vrf.cg_nat.pool]]
name = "public"
addresses = ["198.51.100.1-198.51.100.4"]
block_size = 512
[[vrf.cg_nat.rule]]
id = 1
outbound = "wan"
pool = "public"
[vrf.ha_fp_conntrack]
listen_ha_group = "group1"
[[vrf.ha_fp_conntrack.peer]]
name = "peer1"
source = "10.150.0.1"
address = "10.150.0.2"
[[vrf]]
name = "isp"
[[ha_group]]
name = "group1"
virtual_addresses = [{ interface = "wan", address = "192.0.2.1" }]
[sync]
interface = "sync0"
security = "none"
"#;

/// Faults of the base file with one piece replaced, without the file's name.
fn faults(from: &str, to: &str) -> Vec<String> {
    assert!(BASE.contains(from), "the base has no {from:?}");
    let text = BASE.replacen(from, to, 1);
    match load("f", &text, &[0, 1]) {
        Ok(_) => Vec::new(),
        Err(Faults(list)) => list
            .iter()
            .map(|f| f.to_string().trim_start_matches("f:").to_owned())
            .collect(),
    }
}

#[test]
fn the_base_file_has_no_fault() {
    assert_eq!(faults("id = 1\n", "id = 1\n"), [""; 0]);
}

#[test]
fn every_kind_of_fault_is_located_and_explained() {
    let mut wrong = Vec::new();
    for (from, to, expected) in cases::all() {
        let found = faults(from, to);
        if found != [expected] {
            let found = found.join("\n           ");
            wrong.push(format!(
                "{from:?} -> {to:?}\n  expected {expected}\n  found    {found}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_table_of_several_that_has_one_bracket_too_few_is_told_so() {
    const WANTED: &str = "duplicate key; write tables of which there may be several with two brackets, as [[port]], and the others once";
    for (faulty, place) in [
        (BASE.replace("[[port]]", "[port]"), "12:2"),
        (BASE.replacen("[[port]]", "[port]", 1), "12:3"),
    ] {
        let faults = load("f", &faulty, &[]).unwrap_err().to_string();
        assert!(faults.contains(&format!("f:{place}: {WANTED}")), "{faults}");
    }
}

/// A firewall rule and a NAT rule inherit the VRF's word, unless they have one of their own.
#[test]
fn where_the_vrf_waits_for_its_peer_a_rule_that_keeps_flows_back_has_to_say_off() {
    let waits = |care: &str| {
        let from = BASE.find("inside = [").unwrap();
        let to = BASE.find("[vrf.ha_fp_conntrack]").unwrap();
        let old = &BASE[from..to];
        let new = old
            .replace("action = \"accept\"\n", &format!("action = \"accept\"\n{care}"))
            .replace("outbound = \"wan\"\n", &format!("outbound = \"wan\"\n{care}"));
        faults(old, &format!("output_commit = \"closed\"\n{new}"))
    };
    let expected = |place: &str| {
        format!(
            "{place}: sync = \"never\" keeps flows from the peer, and output_commit = \"closed\", the VRF's, waits for the peer \
             to have them; add output_commit = \"off\" to the rule, or remove sync"
        )
    };
    assert_eq!(waits("sync = \"never\"\n"), ["47:8", "55:8"].map(expected));
    assert_eq!(waits("sync = \"never\"\noutput_commit = \"off\"\n"), [""; 0]);
    assert_eq!(waits("sync = \"always\"\n"), [""; 0]);
}

#[test]
fn a_file_with_seven_faults_yields_seven_located_messages() {
    let text = r#"[node]
name = "node1"
id = 300
[dataplane]
workers = 2
worker_cores = [0, 9]
colour = "red"
[[port]]
name = "lan0"
device = "net_af_packet0,iface=lan0"
kernel_interface = "lan0"
[[port]]
name = "wan0"
device = "net_af_packet1,iface=lan0"
[[vrf]]
name = "main"
inside = ["100.64.0.0/10"]
[[vrf.firewall.rule]]
id = 10
inbound = "lan1"
action = "accept"
[[vrf.cg_nat.pool]]
name = "public"
addresses = ["198.51.100.0/30", "198.51.100.3"]
[sync]
interface = "lan0"
security = "none"
"#;
    let expected = "\
node.toml:3:6: id = 300 is out of range; use 1 to 255
node.toml:6:20: core 9 doesn't exist; use 0, 1
node.toml:7:1: unknown key colour in [dataplane]; use one of: workers, event_threads, conntracks_max, \
worker_cores, event_cores, idle, memory_mb, hugepages, mbufs, conntracks_start, delta_ring_entries, \
held_packets, limited_sources, rss_key, redirect_packets_per_s, \
first_packets_percent, eal_args
node.toml:14:10: interface lan0 is already used in line 10; give each port an interface of its own
node.toml:20:11: there is no interface \"lan1\"; did you mean \"lan0\"?
node.toml:24:33: pool \"public\" has 198.51.100.3, which pool \"public\" has in line 24; take it out of one of them
node.toml:26:13: sync interface \"lan0\" is the fast-path port \"lan0\": user traffic could delay the lanes, or reach \
them; use a kernel interface that no port owns";
    let found = load("node.toml", text, &[0, 1]).unwrap_err();
    assert_eq!(found.to_string(), expected);
}

#[test]
fn rules_that_could_not_be_compiled_are_a_fault() {
    let ports = vec!["\"80\""; dataplane::policy::CONDITIONS_MAX + 1].join(",");
    let found = faults(
        "destination_ports = [\"80\"]",
        &format!("destination_ports = [{ports}]"),
    );
    assert_eq!(
        found,
        ["40:7: 262145 prefixes and port ranges are more than 262144; use fewer, wider rules"]
    );
}

#[test]
fn the_example_is_read_as_its_comments_say() {
    let config = load("example.toml", EXAMPLE, &[0, 1]).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!((config.node.name.as_str(), config.node.id), ("node1", 1));
    assert_eq!(config.dataplane.worker_cores, Some(vec![0, 1]));
    assert_eq!(
        config.interfaces[0].kernel_interface.as_deref(),
        Some("lan0"),
        "the port's"
    );
    assert_eq!(
        config.interfaces[2].kernel_interface.as_deref(),
        Some("lan0.100"),
        "its own"
    );
    let vrf = &config.intent.vrfs[0];
    assert_eq!(
        vrf.pools[0].addresses.len(),
        8,
        "four of a range, four of a prefix"
    );
    assert_eq!(vrf.firewall.rules[0].action, Action::Accept);
    assert_eq!(vrf.firewall.rules[0].destination_ports[2].last, 2000);
    assert_eq!(vrf.timeouts, dataplane::config::Timeouts::default());
    assert_eq!(config.vrfs[0].peers[0].address, IpAddr::from([10, 150, 0, 2]));
    assert_eq!(config.ha_groups[0].state, InitialState::Master);
    assert_eq!(config.intent.ha_groups[0].virtual_addresses.len(), 2);
    assert_eq!(config.forwarding.routes[0].vrf, VrfId(0));
    assert_eq!(config.sync.as_ref().map(|s| s.boot_wait_ms), Some(3_000));
}

/// Every documented default is the default: the example without its optional values reads the same.
#[test]
fn defaults_are_those_of_the_example() {
    let optional = [
        "idle",
        "memory_mb",
        "hugepages",
        "mbufs",
        "conntracks_max",
        "conntracks_start",
        "delta_ring_entries",
        "held_packets",
        "limited_sources",
        "redirect_packets_per_s",
        "first_packets_percent",
        "eal_args",
        "rss",
        "vlan",
        "vrf",
        "mtu",
        "addresses = []",
        "slots",
        "tcp_window_check",
        "flow_counters",
        "announce_pools",
        "standby",
        "allow_short",
        "tcp_",
        "udp_",
        "icmp_s",
        "other_s",
        "default",
        "on_change",
        "destination = ",
        "source_ports",
        "ports = ",
        "block_size",
        "blocks_per",
        "port_rest",
        "block_idle",
        "filtering",
        "in_doubt",
        "source = [",
        "port = 7610",
        "dscp",
        "dead_after",
        "boot_wait",
        "syslog",
        "level",
    ];
    let without = |text: &str, except: &[&str]| -> String {
        let kept = text.lines().filter(|line| {
            let optional = optional.iter().any(|key| line.starts_with(key));
            !optional || except.iter().any(|key| line.starts_with(key))
        });
        kept.map(|line| format!("{line}\n")).collect()
    };
    // A firewall rule's empty lists mean anything, but this one's list means something; so does the VLAN.
    let short = without(EXAMPLE, &["source = [\"100.64", "vlan = [100]"]);
    assert!(short.lines().count() + 25 < EXAMPLE.lines().count());
    let (full, short) = (load("f", EXAMPLE, &[]), load("f", &short, &[]));
    assert_eq!(diff(&full.unwrap(), &short.unwrap()), []);
}

#[test]
fn without_interfaces_and_vrfs_ports_are_interfaces_of_main() {
    let text = "[node]\nname = \"n\"\nid = 2\n[[port]]\nname = \"a\"\ndevice = \"net_null0\"\n";
    let config = load("f", text, &[]).unwrap();
    assert_eq!(config.intent.interfaces[0].name, "a");
    assert_eq!(config.intent.vrfs[0].name, "main");
    assert_eq!(config.intent.vrfs[0].slots, 1024);
    assert_eq!(config.vrfs[0].kernel, KernelBinding::Main);
    assert!(config.sync.is_none());
}

#[test]
fn short_timeouts_are_taken_when_asked_for() {
    let text = BASE.replace("icmp_s = 60", "icmp_s = 5\nallow_short_timeouts = true");
    assert_eq!(load("f", &text, &[]).unwrap().intent.vrfs[0].timeouts.icmp_s, 5);
}

#[test]
fn addresses_in_toml_make_routes_to_their_links() {
    let config = load("f", BASE, &[]).unwrap();
    let shown: Vec<String> = config
        .forwarding
        .routes
        .iter()
        .map(|r| {
            format!(
                "{} {:?}",
                r.prefix,
                r.via.iter().map(|v| v.gateway).collect::<Vec<_>>()
            )
        })
        .collect();
    assert_eq!(shown, ["192.0.2.0/24 [None]", "0.0.0.0/0 [Some(192.0.2.254)]"]);
}

/// A machine made up for a test: interfaces by namespace, addresses of the sync interface.
struct Made {
    interfaces: Vec<(&'static str, &'static str)>,
    addresses: Vec<IpAddr>,
    cores: Vec<usize>,
}

impl Host for Made {
    fn cores(&self) -> Vec<usize> {
        self.cores.clone()
    }

    fn interfaces(&self, netns: Option<&str>) -> Option<Vec<String>> {
        let netns = netns.unwrap_or_default();
        let here = self
            .interfaces
            .iter()
            .filter(|i| i.0 == netns)
            .map(|i| i.1.to_owned());
        Some(here.collect::<Vec<_>>()).filter(|list| netns.is_empty() || !list.is_empty())
    }

    fn addresses(&self, _: &str) -> Vec<IpAddr> {
        self.addresses.clone()
    }

    fn private_key(&self, path: &str) -> Result<PrivateKey, KeyError> {
        Err(KeyError::Missing(path.to_owned()))
    }
}

#[test]
fn what_the_machine_lacks_is_located() {
    let config = load("f", EXAMPLE, &[]).unwrap();
    let mut machine = Made {
        interfaces: vec![("", "lan0"), ("", "wan0"), ("", "lan0.100"), ("", "sync0")],
        addresses: vec![IpAddr::from([10, 150, 0, 1])],
        cores: vec![0, 1],
    };
    assert_eq!(check_host(&config, &machine), []);
    machine.interfaces.retain(|i| i.1 != "wan0" && i.1 != "lan0.100");
    machine.addresses.clear();
    machine.cores.pop();
    let found: Vec<String> = check_host(&config, &machine)
        .iter()
        .map(|f| f.what.clone())
        .collect();
    let expected = [
        "core 1 doesn't exist",
        "core 1 doesn't exist",
        "there is no kernel interface \"wan0\"",
        "there is no kernel interface \"wan0\"",
        "there is no kernel interface \"lan0.100\"",
        "source 10.150.0.1 is not an address of \"sync0\"",
    ];
    assert_eq!(found, expected);
    machine.interfaces.clear();
    assert!(
        check_host(&config, &machine)
            .iter()
            .any(|f| f.what == "there is no sync interface \"sync0\"")
    );
    assert!(
        check_host(&config, &machine).iter().all(|f| f.line > 1),
        "each has its place"
    );
}

#[test]
fn a_second_link_is_looked_for_on_its_own_interface() {
    let text = BASE
        .replace(
            "interface = \"sync0\"",
            "interface = \"sync0\"\nsecond_interface = \"sync1\"",
        )
        .replace(
            "address = \"10.150.0.2\"",
            "address = \"10.150.0.2\"\nsecond_source = \"10.151.0.1\"\nsecond_address = \"10.151.0.2\"",
        );
    let config = load("f", &text, &[]).unwrap_or_else(|f| panic!("{f}"));
    let links: Vec<String> = config.vrfs[0].peers[0]
        .links()
        .map(|link| format!("{} {}", link.source, link.address))
        .collect();
    assert_eq!(links, ["10.150.0.1 10.150.0.2", "10.151.0.1 10.151.0.2"]);
    let found = |interfaces: &[(&'static str, &'static str)]| -> Vec<String> {
        let machine = Made {
            interfaces: interfaces.to_vec(),
            addresses: vec![IpAddr::from([10, 150, 0, 1])],
            cores: vec![0],
        };
        let faults = check_host(&config, &machine);
        let sync = faults.iter().filter(|f| f.what.contains("sync"));
        sync.map(|f| f.what.clone()).collect()
    };
    assert_eq!(
        found(&[("", "sync0"), ("", "sync1")]),
        ["second_source 10.151.0.1 is not an address of \"sync1\""]
    );
    assert_eq!(found(&[("", "sync0")]), ["there is no sync interface \"sync1\""]);
    let twice = text.replace(
        "second_address = \"10.151.0.2\"",
        "second_address = \"10.150.0.2\"",
    );
    let fault = load("f", &twice, &[]).unwrap_err().to_string();
    assert_eq!(
        fault,
        "f:60:17: both links to peer \"peer1\" use the same address; use addresses of the second sync interface"
    );
}

#[test]
fn one_peer_of_two_vrfs_has_one_second_link() {
    let again = "name = \"isp\"\n[vrf.ha_fp_conntrack]\nlisten_ha_group = \"group1\"\n\
                 [[vrf.ha_fp_conntrack.peer]]\nname = \"peer1\"\nsource = \"10.150.0.1\"\naddress = \"10.150.0.2\"\n\
                 second_source = \"10.151.0.1\"\nsecond_address = \"10.151.0.2\"";
    let text = BASE
        .replace(
            "interface = \"sync0\"",
            "interface = \"sync0\"\nsecond_interface = \"sync1\"",
        )
        .replacen("name = \"isp\"", again, 1);
    let faults = load("f", &text, &[]).unwrap_err().to_string();
    assert!(
        faults.contains("the peer at 10.150.0.2 has another second link in line 56"),
        "{faults}"
    );
}

#[test]
fn a_missing_namespace_or_kernel_vrf_is_one_fault() {
    let machine = Made {
        interfaces: vec![("", "sync0")],
        addresses: vec![IpAddr::from([10, 150, 0, 1])],
        cores: vec![0],
    };
    let of = |binding: &str| {
        let text = BASE.replace("inside = [", &format!("{binding}\ninside = ["));
        let config = load("f", &text, &[]).unwrap();
        check_host(&config, &machine)
            .iter()
            .map(Fault::to_string)
            .collect::<Vec<_>>()
    };
    let namespace =
        "f:29:9: there is no network namespace \"isp\"; create it before the start, or correct the name";
    assert_eq!(
        of("netns = \"isp\""),
        [namespace],
        "its interfaces aren't reported as well"
    );
    assert!(of("kernel_vrf = \"red\"")[2].contains("there is no kernel VRF \"red\""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes changed, cut out or put into a good file: faults or none, and each has a place inside the file.
    #[test]
    fn a_damaged_file_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[\\PC\n\"\\[\\]{}=.,0-9-]{0,4}"), 1..6)
    ) {
        let mut text: Vec<char> = EXAMPLE.chars().collect();
        for (at, cut, put) in edits {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(Faults(faults)) = load("f", &text, &[0, 1]) {
            prop_assert!(!faults.is_empty());
            for fault in faults {
                prop_assert!(fault.line >= 1 && fault.line <= text.matches('\n').count() + 1, "{}", fault);
            }
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = load("f", &text, &[]);
    }
}
