//! Groups that VRRP drives: what is read, what is refused, and whose their addresses are.

use super::*;

const GROUP: &str = "[[ha_group]]\nname = \"group1\"\n";
const STATIC: &str = "virtual_addresses = [{ interface = \"wan\", address = \"192.0.2.1\" }]\n";

/// The base file with this as its group.
fn with(group: &str) -> Result<Config, Faults> {
    assert!(BASE.contains(&format!("{GROUP}{STATIC}")));
    let text = BASE.replace(&format!("{GROUP}{STATIC}"), &format!("{GROUP}{group}"));
    load("f", &text, &[0, 1])
}

fn lan(vrrp: &str) -> String {
    format!(
        "vrrp = {{ {vrrp} }}\nvirtual_addresses = [{{ interface = \"lan\", address = \"100.64.0.1\" }}, \
         {{ interface = \"lan\", address = \"fd00::1\" }}, {{ interface = \"lan\", address = \"fd00::2\" }}]\n"
    )
}

#[test]
fn addresses_of_a_vrrp_group_are_keepaliveds_and_not_the_packet_paths() {
    let config = with(&lan("vrid = 51")).unwrap();
    let vrrp = config.ha_groups[0].vrrp.clone().unwrap();
    assert_eq!(
        (
            vrrp.vrid,
            vrrp.priority,
            vrrp.preempt,
            vrrp.advert_interval_ms,
            vrrp.virtual_mac
        ),
        (51, 100, false, 1_000, false),
        "defaults as the example file names them"
    );
    assert_eq!(vrrp.addresses.len(), 3);
    assert_eq!(config.ha_groups[0].state, InitialState::Backup);
    assert!(config.intent.ha_groups[0].virtual_addresses.is_empty());
    assert!(config.intent.ha_groups[0].virtual_macs.is_empty());
    assert_eq!(config.keepalived.pid_file, "/run/keepalived.pid");
    assert_eq!(config.keepalived.restart_grace_s, 3);
}

#[test]
fn a_virtual_router_has_one_mac_address_per_family() {
    let config = with(&lan("vrid = 200, virtual_mac = true")).unwrap();
    let macs: Vec<_> = config.intent.ha_groups[0]
        .virtual_macs
        .iter()
        .map(|m| (m.interface.0, m.mac))
        .collect();
    assert_eq!(
        macs,
        [(0, [0, 0, 0x5e, 0, 1, 200]), (0, [0, 0, 0x5e, 0, 2, 200])],
        "RFC 5798, section 7.3"
    );
}

#[test]
fn what_keepalived_could_not_do_is_refused() {
    let on = |interface: &str, more: &str| {
        format!(
            "vrrp = {{ vrid = 51 }}\nvirtual_addresses = [{{ interface = \"{interface}\", address = \"192.0.2.1\" }}]\n{more}"
        )
    };
    for (group, wanted) in [
        (
            "vrrp = { vrid = 51 }\n".to_owned(),
            "the VRRP group \"group1\" has no virtual_addresses",
        ),
        (
            lan("priority = 9"),
            "has no vrid; add vrid = 51, the same on both nodes",
        ),
        (lan("vrid = 0"), "vrid = 0 is out of range; use 1 to 255"),
        (
            lan("vrid = 1, priority = 255"),
            "priority = 255 is out of range; use 1 to 254",
        ),
        (
            lan("vrid = 1, advert_interval_ms = 15"),
            "advert_interval_ms = 15 is no multiple of 10",
        ),
        (
            lan("vrid = 1, advert_interval_ms = 40960"),
            "advert_interval_ms = 40960 is out of range; use 10 to 40950",
        ),
        (lan("vrid = 1, vmac = true"), "unknown key vmac"),
        (
            format!("state = \"master\"\n{}", lan("vrid = 1")),
            "a group with vrrp has no state; remove state",
        ),
        (
            on("wan", ""),
            "keepalived can't speak VRRP on \"wan\": it has no kernel_interface",
        ),
    ] {
        let faults = with(&group).unwrap_err().to_string();
        assert!(faults.contains(wanted), "{group}\n{faults}");
        assert_eq!(faults.lines().count(), 1, "{faults}");
    }
}

/// Two virtual routers, one of each address family, with an advert every 10 ms.
#[test]
fn adverts_that_their_own_limit_would_refuse_are_a_fault() {
    let group = lan("vrid = 51, advert_interval_ms = 10");
    let port = "device = \"net_af_packet0,iface=lan0\"\nkernel_interface = \"lan0\"\n";
    let of = |more: &str| {
        let tap = format!("device = \"0000:03:00.0\"\nkernel_interface = \"lan0\"\n{more}");
        let text = BASE
            .replace(port, &tap)
            .replace(&format!("{GROUP}{STATIC}"), &format!("{GROUP}{group}"));
        match load("f", &text, &[0, 1]) {
            Ok(_) => String::new(),
            Err(faults) => faults.to_string(),
        }
    };
    assert!(BASE.contains(port));
    assert_eq!(of(""), "");
    assert_eq!(of("exception = \"tap\"\n"), "");
    assert_eq!(
        of("exception = \"tap\"\nexception_packets_per_s = { ha = 200 }\n"),
        ""
    );
    assert_eq!(
        of("exception = \"tap\"\nexception_packets_per_s = { ha = 199 }\n"),
        "f:13:27: 199 packets a second of the class ha pass to the tap of port \"lan0\", and its VRRP groups send 200 adverts; \
         write exception_packets_per_s = { ha = 200 } at least, or use a longer advert_interval_ms"
    );
}

#[test]
fn a_namespace_of_its_own_is_out_of_keepaliveds_reach() {
    let text = BASE
        .replace(
            &format!("{GROUP}{STATIC}"),
            &format!("{GROUP}{}", lan("vrid = 51")),
        )
        .replace("name = \"main\"\n", "name = \"main\"\nnetns = \"blue\"\n");
    let faults = load("f", &text, &[0, 1]).unwrap_err().to_string();
    assert!(faults.contains("it is in netns \"blue\""), "{faults}");
}

#[test]
fn one_vrid_is_one_groups_on_an_interface() {
    let second = format!(
        "{}[[ha_group]]\nname = \"group2\"\nvrrp = {{ vrid = 51 }}\n\
         virtual_addresses = [{{ interface = \"lan\", address = \"100.64.0.9\" }}]\n",
        lan("vrid = 51")
    );
    let faults = with(&second).unwrap_err().to_string();
    let wanted = "vrid 51 on \"lan0\" is already that of \"group1\" in line";
    assert!(faults.contains(wanted), "{faults}");
}

#[test]
fn a_change_of_vrrp_is_named_with_what_it_takes() {
    let (old, new) = (with(&lan("vrid = 51")).unwrap(), with(&lan("vrid = 52")).unwrap());
    let changes = diff(&old, &new);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].path, "ha_group.group1.vrrp");
    assert_eq!(changes[0].takes, Takes::RestartControl);
    assert!(changes[0].reason.contains("fragment"), "{changes:?}");
}
