//! Words and the commands they mean.

use clap::CommandFactory;
use ctl::job_report::{CompareWanted, RebalanceWanted, SlotMove};

use super::*;

fn command(line: &str) -> Option<Command> {
    let line = Line::try_parse_from(line.split(' ')).ok()?;
    Some(match line.verb {
        Verb::Show(show) => show.command(),
        Verb::Flush(flush) => flush.command(),
        Verb::Set(set) => set.command(),
        Verb::Peer(peer) => peer.command(),
        Verb::Port(port) => port.command(),
        Verb::Worker(worker) => worker.command(),
        Verb::Compare(compare) => compare.command(),
        Verb::Resync(resync) => resync.command()?,
        Verb::Switchover(switchover) => switchover.command(),
        Verb::Hold(grip) => grip.command(true),
        Verb::Release(grip) => grip.command(false),
        Verb::KeepalivedCheck => Command::KeepalivedCheck,
        Verb::Events(_)
        | Verb::Config(_)
        | Verb::KeepalivedConfig { .. }
        | Verb::Key(_)
        | Verb::Completions { .. }
        | Verb::Manual { .. } => return None,
    })
}

#[test]
fn the_definition_holds_together() {
    Line::command().debug_assert();
}

#[test]
fn words_in_the_place_of_vrf_and_state_are_literal() {
    let vrf = || "main".to_owned();
    for (line, meant) in [
        (
            "twinpathctl show ha-fp-conntrack peer vrf main",
            Some(Command::HaPeers { vrf: vrf() }),
        ),
        (
            "twinpathctl show ha-fp-conntrack state vrf main",
            Some(Command::HaState { vrf: vrf() }),
        ),
        ("twinpathctl show ha-fp-conntrack peer main", None),
        ("twinpathctl show ha-fp-conntrack peer vrv main", None),
        (
            "twinpathctl show cg-nat pools vrf main --json",
            Some(Command::NatPools { vrf: vrf() }),
        ),
        ("twinpathctl --node n1 show worker", Some(Command::Workers)),
        (
            "twinpathctl set ha-group g state master",
            Some(Command::SetHaGroup {
                name: "g".into(),
                state: GroupState::Master,
            }),
        ),
        ("twinpathctl set ha-group g state king", None),
        (
            "twinpathctl peer declare-dead node2",
            Some(Command::DeclareDead { peer: "node2".into() }),
        ),
        ("twinpathctl peer declare-dead", None),
        (
            "twinpathctl port reset lan0",
            Some(Command::ResetPort { name: "lan0".into() }),
        ),
        ("twinpathctl port reset", None),
        (
            "twinpathctl switchover g --to peer1",
            Some(Command::Switchover {
                name: "g".into(),
                to: Some("peer1".into()),
            }),
        ),
        (
            "twinpathctl hold ha-group g",
            Some(Command::HoldHaGroup {
                name: "g".into(),
                held: true,
            }),
        ),
        (
            "twinpathctl release ha-group g",
            Some(Command::HoldHaGroup {
                name: "g".into(),
                held: false,
            }),
        ),
        ("twinpathctl keepalived-check", Some(Command::KeepalivedCheck)),
        (
            "twinpathctl flush conntrack",
            Some(Command::FlushConntracks {
                vrf: None,
                filter: ConntrackFilter::default(),
                lose: false,
            }),
        ),
        (
            "twinpathctl flush conntrack vrf main --proto tcp",
            Some(Command::FlushConntracks {
                vrf: Some(vrf()),
                filter: ConntrackFilter {
                    protocol: Some(6),
                    ..ConntrackFilter::default()
                },
                lose: false,
            }),
        ),
        ("twinpathctl flush conntrack vrf", None),
        (
            "twinpathctl compare",
            Some(Command::Compare(CompareWanted::default())),
        ),
        (
            "twinpathctl compare vrf main slot 7 --fix --all",
            Some(Command::Compare(CompareWanted {
                vrf: Some(vrf()),
                slot: Some(7),
                all: true,
                fix: true,
            })),
        ),
        ("twinpathctl compare vrf", None),
        ("twinpathctl compare slot 7", None),
        ("twinpathctl compare vrf main slot", None),
        ("twinpathctl compare vrf main slot 70000", None),
        (
            "twinpathctl resync all",
            Some(Command::Resync {
                vrf: None,
                slot: None,
            }),
        ),
        (
            "twinpathctl resync vrf main slot 3",
            Some(Command::Resync {
                vrf: Some(vrf()),
                slot: Some(3),
            }),
        ),
        ("twinpathctl show sync", Some(Command::Sync { vrf: None })),
        (
            "twinpathctl show sync vrf main",
            Some(Command::Sync { vrf: Some(vrf()) }),
        ),
        ("twinpathctl show sync vrf", None),
        ("twinpathctl show sync main", None),
        ("twinpathctl show sync operations", Some(Command::Operations)),
        (
            "twinpathctl show sync conservation --json",
            Some(Command::Conservation),
        ),
        ("twinpathctl show protection", Some(Command::Protection)),
        (
            "twinpathctl worker rebalance --dry-run",
            Some(Command::Rebalance(RebalanceWanted {
                only: None,
                dry_run: true,
            })),
        ),
        (
            "twinpathctl worker move-slot vrf main 7 --to 1",
            Some(Command::Rebalance(RebalanceWanted {
                only: Some(SlotMove {
                    vrf: vrf(),
                    slot: 7,
                    to: 1,
                }),
                dry_run: false,
            })),
        ),
        ("twinpathctl worker move-slot vrf main 7", None),
        ("twinpathctl worker move-slot main 7 --to 1", None),
        ("twinpathctl resync", None),
        ("twinpathctl resync vrf", None),
        ("twinpathctl resync all main", None),
        ("twinpathctl show conntrack vrf main --count --limit 3", None),
    ] {
        assert_eq!(command(line), meant, "{line}");
    }
}

#[test]
fn every_filter_reaches_the_command() {
    let line = "twinpathctl show conntrack vrf main --src 100.64.0.1 --dst 2001:db8::/32 --sport 1 --dport 2 \
                --proto 58 --state closing --owner peer --limit 9";
    let filter = ConntrackFilter {
        src: Some("100.64.0.1/32".parse().unwrap()),
        dst: Some("2001:db8::/32".parse().unwrap()),
        sport: Some(1),
        dport: Some(2),
        protocol: Some(58),
        state: Some(FlowState::Closing),
        owner: Some(Owner::Peer),
    };
    let page = Page {
        limit: 9,
        cursor: None,
    };
    let line: Vec<&str> = line.split_whitespace().collect();
    let meant = Some(Command::Conntracks {
        vrf: "main".into(),
        filter,
        page,
    });
    assert_eq!(command(&line.join(" ")), meant);
}
