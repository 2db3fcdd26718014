use std::net::IpAddr;

use super::*;
use crate::report::{FlowCount, FlowCounts, FlowState, GroupState, NatReport, Owner, RoleRow, RoleState};
use crate::switchover::{SwitchoverPhase, SwitchoverReport};
use crate::sync_report::{
    ClientReport, ConnectionStatus, LagReport, LaneSecurity, LocalNodeReport, PeerAddress, ResyncReport,
    SlotsReport,
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn client(name: &str, transmit: u64) -> ClientReport {
    ClientReport {
        name: name.into(),
        transmit,
        transmit_error: 0,
        build_error: 0,
        connection_status: ConnectionStatus::Established,
        security: LaneSecurity::Tls,
    }
}

fn peers() -> Reply {
    Reply::HaPeers(SyncReport {
        vrf: "main".into(),
        role: RoleState::Master,
        term: 257,
        peers: vec![PeerReport {
            name: "peer1".into(),
            source: ip("10.150.0.1"),
            address: ip("10.150.0.2"),
            clients: vec![client("event0", 0), client("event1", 1)],
            local_node: LocalNodeReport {
                address: ip("10.150.0.1"),
                receive: 0,
                receive_error: 0,
            },
            lag: LagReport {
                records: 3,
                oldest_us: 250,
            },
            slots: SlotsReport {
                total: 1024,
                in_sync: 1020,
                dirty: 3,
                walking: 1,
            },
            resync: ResyncReport {
                running: true,
                reason: "lane connected".into(),
                slots_done: 1020,
                slots_total: 1024,
                records: 77,
                swept: 2,
                elapsed_ms: 15,
            },
            fingerprint_differs: vec!["inside".into()],
        }],
    })
}

#[test]
fn peers_are_the_tree_operators_know_with_lag_slots_and_resync_below() {
    let wanted = "\
show-ha-fp-conntrack-peer
    peer peer1
        source 10.150.0.1
        address 10.150.0.2
        client event0
            statistics
                transmit 0
                transmit-error 0
                build-error 0
                ..
            connection-status established
            security tls
            ..
        client event1
            statistics
                transmit 1
                transmit-error 0
                build-error 0
                ..
            connection-status established
            security tls
            ..
        local-node 10.150.0.1
            statistics
                receive 0
                receive-error 0
                ..
            ..
        lag
            records 3
            oldest-us 250
            ..
        slots
            total 1024
            in-sync 1020
            dirty 3
            walking 1
            ..
        resync
            state running
            progress 1020/1024 slots
            records 77
            swept 2
            elapsed-ms 15
            reason lane connected
            ..
        configuration-differs inside
        ..
    ..
";
    assert_eq!(text(&peers()), wanted);
}

#[test]
fn state_is_the_tree_operators_know_with_the_role_below() {
    let state = SyncState {
        vrf: "main".into(),
        enabled: true,
        listen_ha_group: Some("ha_group".into()),
        role: RoleState::Backup,
        term: 258,
        cause: "peer has a higher term".into(),
        in_doubt: false,
        peers: vec![PeerAddress {
            name: "peer1".into(),
            source: ip("10.150.0.1"),
            address: ip("10.150.0.2"),
        }],
    };
    let wanted = "\
ha-fp-conntrack
    enabled true
    listen-ha-group ha_group
    peer peer1
        source 10.150.0.1
        address 10.150.0.2
        ..
    role backup
    term 258
    cause peer has a higher term
    in-doubt false
    ..
";
    assert_eq!(text(&Reply::HaState(state)), wanted);
}

fn conntrack() -> ConntrackRow {
    let tuple = |src: &str, src_port, dst: &str, dst_port| Tuple {
        src: ip(src),
        src_port,
        dst: ip(dst),
        dst_port,
    };
    ConntrackRow {
        protocol: 6,
        state: FlowState::Established,
        vrf: "main".into(),
        reply_vrf: "main".into(),
        original: tuple("100.64.0.1", 40_000, "192.0.2.9", 80),
        reply: tuple("192.0.2.9", 80, "198.51.100.1", 1_024),
        nat: Some(NatReport {
            grant: 7,
            mapping: true,
        }),
        owner: Owner::Local,
        lifetime_s: 7_440,
        counted: Some(FlowCounts {
            original: FlowCount {
                packets: 5,
                bytes: 260,
            },
            reply: FlowCount {
                packets: 3,
                bytes: 4_552,
            },
        }),
        worker: 1,
        slot: 513,
        term: 257,
        counter: 4,
    }
}

#[test]
fn conntracks_are_a_table_that_says_when_it_is_cut() {
    let rows = |next| {
        Reply::Conntracks(Rows {
            rows: vec![conntrack()],
            next,
        })
    };
    let wanted = "\
PROTO  STATE        ORIGINAL                         REPLY                             OWNER  LIFETIME  PACKETS  BYTES     WORKER  SLOT  VERSION
tcp    established  100.64.0.1:40000 > 192.0.2.9:80  192.0.2.9:80 > 198.51.100.1:1024  local  7440 s    5/3      260/4552  1       513   257.4
";
    assert_eq!(text(&rows(None)), wanted);
    assert_eq!(
        text(&rows(Some(1))),
        format!("{wanted}(more follow: raise --limit)\n")
    );
}

#[test]
fn what_was_not_counted_is_not_shown_as_0() {
    let row = ConntrackRow {
        counted: None,
        ..conntrack()
    };
    let reply = Reply::Conntracks(Rows {
        rows: vec![row],
        next: None,
    });
    let shown = text(&reply);
    let words: Vec<_> = shown.lines().nth(1).unwrap().split("  ").map(str::trim).collect();
    let around = words.iter().skip_while(|word| **word != "7440 s");
    let around: Vec<_> = around.filter(|word| !word.is_empty()).take(4).collect();
    assert_eq!(around, [&"7440 s", &"-", &"-", &"1"]);
    assert_eq!(json(&reply)["rows"][0]["counted"], serde_json::Value::Null);
}

#[test]
fn json_is_the_value_without_the_envelope() {
    let rows = Reply::Conntracks(Rows {
        rows: vec![conntrack()],
        next: None,
    });
    let wanted = json!({
        "rows": [{
            "protocol": 6,
            "state": "established",
            "vrf": "main",
            "reply_vrf": "main",
            "original": { "src": "100.64.0.1", "src_port": 40000, "dst": "192.0.2.9", "dst_port": 80 },
            "reply": { "src": "192.0.2.9", "src_port": 80, "dst": "198.51.100.1", "dst_port": 1024 },
            "nat": { "grant": 7, "mapping": true },
            "owner": "local",
            "lifetime_s": 7440,
            "counted": {
                "original": { "packets": 5, "bytes": 260 },
                "reply": { "packets": 3, "bytes": 4552 },
            },
            "worker": 1,
            "slot": 513,
            "term": 257,
            "counter": 4,
        }],
        "next": null,
    });
    assert_eq!(json(&rows), wanted);
    assert_eq!(
        json(&peers())["peers"][0]["clients"][1]["connection_status"],
        "established"
    );
    assert_eq!(json(&Reply::Count(3)), json!({ "count": 3 }));
    assert_eq!(json(&Reply::Done), json!({ "done": true }));
}

#[test]
fn groups_show_who_set_them_and_what_their_vrfs_are() {
    let group = HaGroupReport {
        name: "group1".into(),
        state: GroupState::Master,
        explicit: true,
        vrrp: None,
        virtual_addresses: vec![crate::report::InterfaceAddress {
            interface: "lan".into(),
            address: ip("100.64.0.1"),
        }],
        switchover: Some(SwitchoverReport {
            group: "group1".into(),
            peer: "peer1".into(),
            phase: SwitchoverPhase::RolledBack,
            end: "VRF main: the peer is gone".into(),
            took_ms: 12,
        }),
        vrfs: vec![RoleRow {
            vrf: "main".into(),
            ha_group: Some("group1".into()),
            role: RoleState::Master,
            term: 257,
            ready: true,
            cause: "operator".into(),
            in_doubt: true,
        }],
    };
    let wanted = "\
ha-group group1
    state master
    set-by operator
    switchover
        peer peer1
        phase rolled-back
        end VRF main: the peer is gone
        took-ms 12
        ..
    virtual-address lan 100.64.0.1
    vrf main
        role master
        term 257
        ready true
        cause operator
        in-doubt true
        ..
    ..
";
    let last = group.switchover.clone().unwrap();
    assert_eq!(text(&Reply::HaGroups(vec![group])), wanted);
    assert_eq!(
        text(&Reply::Switchover(last)),
        "switchover of group1 to peer1: rolled-back after 12 ms (VRF main: the peer is gone)\n"
    );
}

#[test]
fn rules_read_as_they_decide_and_end_with_the_default() {
    let rule = RuleRow {
        id: Some(10),
        inbound: Some("lan".into()),
        outbound: None,
        source: vec!["100.64.0.0/10".parse().unwrap()],
        destination: vec![],
        protocol: Some(6),
        source_ports: vec![],
        destination_ports: vec!["80".into(), "1000-2000".into()],
        action: "accept".into(),
        log: true,
        hits: Some(12),
        new_flows_per_s: Some(20_000),
        new_flows_per_source_per_s: None,
        limited: Some(3),
    };
    let default = RuleRow {
        id: None,
        inbound: None,
        source: vec![],
        protocol: None,
        destination_ports: vec![],
        action: "drop".into(),
        log: false,
        hits: None,
        new_flows_per_s: None,
        limited: None,
        ..rule.clone()
    };
    let wanted = "\
RULE     IN   OUT  PROTO  SOURCE         DESTINATION            ACTION  LOG  HITS  LIMIT/S  PER SOURCE  LIMITED
10       lan  any  tcp    100.64.0.0/10  any port 80,1000-2000  accept  yes  12    20000    -           3
default  any  any  any    any            any                    drop    no   -     -        -           -
";
    assert_eq!(text(&Reply::FirewallRules(vec![rule, default])), wanted);
}

#[test]
fn drops_that_never_happened_are_left_to_the_json() {
    let row = |reason: &str, packets| DropRow {
        reason: reason.into(),
        meaning: "what it means".into(),
        packets,
    };
    let reply = Reply::Drops(vec![row("no-route", 5), row("runt", 0)]);
    assert_eq!(
        text(&reply),
        "REASON    PACKETS  MEANING\nno-route  5        what it means\n"
    );
    assert_eq!(json(&reply).as_array().map(Vec::len), Some(2));
}
