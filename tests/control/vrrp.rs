//! The control process between a played keepalived and a played data process.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::net::UnixListener;

use ctl::client::ClientError;
use ctl::protocol::{Command, RefusalKind, Reply as Answer};
use ctl::report::{GroupState, HaGroupReport};
use twinpath::ipc::Event;

use crate::process::{Data, Node, group};

const VRRP: &str = r#"
[node]
name = "n"
id = 1

[[port]]
name = "lan0"
device = "net_null0"
kernel_interface = "played0"

[[vrf]]
name = "main"
inside = ["100.64.0.0/10"]

[vrf.ha_fp_conntrack]
listen_ha_group = "g"

[[ha_group]]
name = "g"
vrrp = { vrid = 51, advert_interval_ms = 10 }
virtual_addresses = [{ interface = "lan0", address = "203.0.113.1" }]

[keepalived]
pid_file = "/nowhere/keepalived.pid"
restart_grace_s = 60
"#;

/// Keepalived's end of the FIFO.
/// A keepalived that the process has noticed: what was said before is history to it.
fn keepalived(data: &mut Data, node: &Node) -> File {
    let path = node.dir.join("n/vrrp.fifo");
    let fifo = node.until("the FIFO", || {
        OpenOptions::new().read(true).write(true).open(&path).ok()
    });
    data.until(node, "its notice", |data| {
        shown(data, node).vrrp.unwrap().says != "absent"
    });
    fifo
}

fn says(fifo: &mut File, state: &str) {
    write!(
        fifo,
        "INSTANCE \"twinpath-g.played0.4\" {state} 100\nGROUP \"twinpath-g\" {state} 0\n"
    )
    .unwrap();
}

fn track(node: &Node) -> Option<String> {
    let text = std::fs::read_to_string(node.dir.join("n/g.track")).ok()?;
    Some(text.trim().to_owned())
}

fn shown(data: &mut Data, node: &Node) -> HaGroupReport {
    match data.ask(node, Command::HaGroups).unwrap() {
        Answer::HaGroups(mut groups) => groups.remove(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keepalived_decides_once_however_often_it_says_so() {
    let node = Node::start_with(|_| VRRP.to_owned());
    let mut data = Data::start(&node, 1, group(GroupState::Backup, false));
    let mut fifo = keepalived(&mut data, &node);
    says(&mut fifo, "BACKUP");
    data.until(&node, "backup", |d| d.orders == [(GroupState::Backup, true)]);
    for _ in 0..3 {
        says(&mut fifo, "MASTER");
    }
    data.until(&node, "master", |d| d.orders.len() > 1);
    assert_eq!(data.orders[1..], [(GroupState::Master, true)]);
    says(&mut fifo, "FAULT");
    data.until(&node, "fault", |d| d.orders.len() > 2);
    assert_eq!(data.orders[2..], [(GroupState::Backup, true)]);
    assert_eq!(shown(&mut data, &node).vrrp.unwrap().says, "fault");
}

#[test]
fn a_group_that_vrrp_drives_takes_no_orders_but_holds() {
    let node = Node::start_with(|_| VRRP.to_owned());
    let mut data = Data::start(&node, 1, group(GroupState::Backup, false));
    let mut fifo = keepalived(&mut data, &node);
    says(&mut fifo, "BACKUP");
    data.until(&node, "ready", |_| track(&node).as_deref() == Some("0"));
    let order = Command::SetHaGroup {
        name: "g".into(),
        state: GroupState::Master,
    };
    let refused = data.ask(&node, order);
    assert!(
        matches!(&refused, Err(ClientError::Refused(r)) if r.kind == RefusalKind::Refused && r.message.contains("hold")),
        "{refused:?}"
    );
    for (held, wanted) in [(true, "253"), (false, "0")] {
        let name = "g".to_owned();
        assert_eq!(
            data.ask(&node, Command::HoldHaGroup { name, held }).unwrap(),
            Answer::Done
        );
        data.until(&node, "the hold", |_| track(&node).as_deref() == Some(wanted));
    }
    assert_eq!(data.orders, [(GroupState::Backup, true)]);
}

#[test]
fn readiness_is_passed_on_as_it_changes_and_death_at_once() {
    let node = Node::start_with(|_| VRRP.to_owned());
    let mut data = Data::start(&node, 1, group(GroupState::Backup, false));
    let mut fifo = keepalived(&mut data, &node);
    says(&mut fifo, "BACKUP");
    data.until(&node, "ready", |_| track(&node).as_deref() == Some("0"));
    assert_eq!(data.ask(&node, Command::KeepalivedCheck).unwrap(), Answer::Done);
    for (ready, wanted) in [(false, "253"), (true, "0"), (false, "253")] {
        data.server.broadcast(Event::ReadinessChanged(Data::role(ready)));
        data.until(&node, "readiness", |_| track(&node).as_deref() == Some(wanted));
    }
    let blocked = shown(&mut data, &node).vrrp.unwrap().blocked.unwrap();
    assert_eq!(blocked, "VRF main: played");
    says(&mut fifo, "MASTER");
    data.until(&node, "a master keeps its priority", |_| {
        track(&node).as_deref() == Some("0")
    });
    drop(data);
    node.until("the fault", || {
        (track(&node).as_deref() == Some("254")).then_some(())
    });
    let mut operator = node.operator();
    assert!(operator.call(&Command::KeepalivedCheck).is_err());
    let mut data = Data::start(&node, 2, group(GroupState::Backup, false));
    data.until(&node, "the fault clears itself", |_| {
        track(&node).as_deref() == Some("0")
    });
}

#[test]
fn a_dying_data_process_whose_socket_still_listens_costs_the_role_without_a_wait() {
    let node = Node::start_with(|_| VRRP.to_owned());
    let mut data = Data::start(&node, 1, group(GroupState::Backup, false));
    let mut fifo = keepalived(&mut data, &node);
    says(&mut fifo, "MASTER");
    data.until(&node, "a master with its priority", |_| {
        track(&node).as_deref() == Some("0")
    });
    // Otherwise the pause between two attempts to connect would hide a wait.
    let passed = node.passed(300);
    data.until(&node, "the pause's end", |_| passed());
    // It takes connections, and answers none: whoever asked first would wait for the answer.
    let dying = UnixListener::bind(node.dir.join("n/dying.sock")).unwrap();
    std::fs::rename(node.dir.join("n/dying.sock"), node.dir.join("n/dataplane.sock")).unwrap();
    drop(data);
    node.until("the fault", || {
        (track(&node).as_deref() == Some("254")).then_some(())
    });
    dying.set_nonblocking(true).unwrap();
    assert!(dying.accept().is_err(), "a new connection was tried first");
}

#[test]
fn a_dead_keepalived_costs_the_role_and_a_new_one_gives_it_back() {
    let node = Node::start_with(|_| VRRP.to_owned());
    let mut data = Data::start(&node, 1, group(GroupState::Backup, false));
    for round in 1..4 {
        let mut fifo = keepalived(&mut data, &node);
        says(&mut fifo, "MASTER");
        data.until(&node, "master", |d| d.orders.len() == 2 * round - 1);
        assert_eq!(data.orders.last(), Some(&(GroupState::Master, true)));
        drop(fifo);
        data.until(&node, "backup", |d| d.orders.len() == 2 * round);
        assert_eq!(data.orders.last(), Some(&(GroupState::Backup, true)));
        let vrrp = shown(&mut data, &node).vrrp.unwrap();
        assert_eq!(vrrp.says, "absent");
        assert!(vrrp.blocked.unwrap().contains("keepalived isn't running"));
    }
}

#[test]
fn a_restarted_control_process_trusts_no_history() {
    let mut node = Node::start_with(|_| VRRP.to_owned());
    let mut data = Data::start(&node, 1, group(GroupState::Backup, false));
    let mut fifo = keepalived(&mut data, &node);
    says(&mut fifo, "MASTER");
    data.until(&node, "master", |d| {
        d.orders.last() == Some(&(GroupState::Master, true))
    });
    data.until(&node, "its priority", |_| track(&node).as_deref() == Some("0"));
    node.process.kill().unwrap();
    node.process.wait().unwrap();
    // Nobody reads: this stays in the FIFO, and what came after it was lost.
    says(&mut fifo, "BACKUP");
    let orders = data.orders.len();
    node.restart();
    data.until(&node, "the second greeting", |d| d.configs.len() == 2);
    assert_eq!(shown(&mut data, &node).vrrp.unwrap().says, "asked");
    assert_eq!(data.orders.len(), orders, "the history was believed");
    assert_eq!(track(&node).as_deref(), Some("0"), "it may be master");
    says(&mut fifo, "MASTER");
    data.until(&node, "the news", |d| d.orders.len() > orders);
    assert_eq!(data.orders[orders..], [(GroupState::Master, true)]);
}
