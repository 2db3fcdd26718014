//! Another configuration for a running node: both processes take it or neither, until it is confirmed or given up.
//! The test plays the data process and the operator.

use std::path::PathBuf;
use std::process::Command as Process;

use ctl::client::ClientError;
use ctl::protocol::{Command, Reply as Answer};
use ctl::report::GroupState;

use crate::process::{Data, Node, config, group};

const ROUTE: &str = "203.0.113.0/24";

/// The node's file with a route more.
fn routed(node: &Node) -> String {
    let route = format!(
        "[[vrf.route]]\nprefix = \"{ROUTE}\"\ninterface = \"lan0\"\ngateway = \"192.0.2.2\"\n\n[vrf.ha_fp_conntrack]"
    );
    let text = config(&node.lab.here);
    let changed = text.replace("[vrf.ha_fp_conntrack]", &route);
    assert_ne!(changed, text);
    changed
}

fn file(node: &Node) -> PathBuf {
    node.dir.join("node.toml")
}

fn saved(node: &Node) -> String {
    std::fs::read_to_string(file(node)).unwrap()
}

fn apply(text: &str, within_s: u64) -> Command {
    Command::ConfigApply {
        file: "new.toml".into(),
        text: text.into(),
        within_s,
    }
}

fn refused(answer: Result<Answer, ClientError>) -> String {
    match answer {
        Err(ClientError::Refused(refusal)) => refusal.message,
        other => panic!("{other:?}"),
    }
}

/// What runs, and whether it is tried.
fn shown(data: &mut Data, node: &Node) -> (String, bool) {
    match data.ask(node, Command::ConfigShow).unwrap() {
        Answer::RunningConfig(running) => (running.text, running.rolled_back_in_s.is_some()),
        other => panic!("{other:?}"),
    }
}

/// A node and its data process, connected.
fn pair() -> (Node, Data) {
    let node = Node::start();
    let mut data = Data::start(&node, 1, group(GroupState::Master, false));
    data.until(&node, "the first greeting", |d| {
        d.configs.len() == 1 && d.has_route("192.0.2.0/24")
    });
    (node, data)
}

fn hang_up(node: &Node) {
    let pid = node.process.id().to_string();
    assert!(
        Process::new("kill")
            .args(["-HUP", &pid])
            .status()
            .unwrap()
            .success()
    );
}

/// Lets the process see what it was signalled: the turn that answers may have begun before.
fn settle(data: &mut Data, node: &Node) {
    shown(data, node);
}

#[test]
fn what_is_confirmed_stands_in_the_file_and_before_that_it_does_not() {
    let (node, mut data) = pair();
    let (before, after) = (saved(&node), routed(&node));
    let Answer::Applied(applied) = data.ask(&node, apply(&after, 600)).unwrap() else {
        unreachable!()
    };
    let paths: Vec<_> = applied.changes.iter().map(|c| c.path.as_str()).collect();
    assert_eq!(paths, [format!("vrf.main.route.{ROUTE}")]);
    let (tried, ms) = &data.configs[1];
    assert_eq!(
        (&tried.text, *ms),
        (&after, Some(605_000)),
        "with a timer of its own, behind this one"
    );
    data.until(&node, "the route", |d| d.has_route(ROUTE));
    assert_eq!(shown(&mut data, &node), (after.clone(), true));
    assert_eq!(saved(&node), before);

    let second = refused(data.ask(&node, apply(&before, 600)));
    assert!(
        second.contains("another configuration waits to be confirmed"),
        "{second}"
    );
    assert_eq!(data.configs.len(), 2);

    assert_eq!(data.ask(&node, Command::ConfigConfirm).unwrap(), Answer::Done);
    assert_eq!(saved(&node), after);
    assert_eq!(data.configs[2].1, None, "for good");
    assert_eq!(
        (data.configs[2].0.text.as_str(), data.rolled_back),
        (after.as_str(), 0)
    );
    assert_eq!(shown(&mut data, &node), (after, false));
    for nothing in [Command::ConfigConfirm, Command::ConfigRollBack] {
        assert!(refused(data.ask(&node, nothing)).contains("no configuration waits"));
    }
}

#[test]
fn what_nobody_confirms_is_rolled_back_in_both_processes() {
    let (node, mut data) = pair();
    let (before, after) = (saved(&node), routed(&node));
    data.ask(&node, apply(&after, 1)).unwrap();
    data.until(&node, "the route", |d| d.has_route(ROUTE));
    // Nobody is connected any more: the operator may have cut his own way in.
    data.until(&node, "the end of the trial", |d| d.rolled_back == 1);
    data.until(&node, "the routes before", |d| !d.has_route(ROUTE));
    assert_eq!(shown(&mut data, &node), (before.clone(), false));
    assert_eq!(saved(&node), before);

    data.ask(&node, apply(&after, 600)).unwrap();
    assert_eq!(data.ask(&node, Command::ConfigRollBack).unwrap(), Answer::Done);
    assert_eq!(data.rolled_back, 2);
    assert_eq!(shown(&mut data, &node), (before, false));
}

#[test]
fn a_control_process_that_dies_unconfirmed_comes_back_with_the_file_and_says_so() {
    let (mut node, mut data) = pair();
    let before = saved(&node);
    data.ask(&node, apply(&routed(&node), 600)).unwrap();
    node.restart();
    data.until(&node, "the next greeting", |d| d.configs.len() == 3);
    let (text, ms) = &data.configs[2];
    assert_eq!((&text.text, *ms), (&before, None));
    assert_eq!(shown(&mut data, &node), (before, false));
}

#[test]
fn a_data_process_that_dies_unconfirmed_is_told_the_configuration_before() {
    let (node, mut data) = pair();
    let before = saved(&node);
    data.ask(&node, apply(&routed(&node), 600)).unwrap();
    drop(data);
    let mut data = Data::start(&node, 2, group(GroupState::Master, false));
    data.until(&node, "the next greeting", |d| d.configs.len() == 1);
    assert_eq!(
        (data.configs[0].0.text.as_str(), data.configs[0].1),
        (before.as_str(), None)
    );
    assert_eq!(shown(&mut data, &node), (before, false));
    assert!(refused(data.ask(&node, Command::ConfigConfirm)).contains("no configuration waits"));
}

#[test]
fn a_data_process_that_refuses_leaves_everything_as_it_was() {
    let (node, mut data) = pair();
    let before = saved(&node);
    data.refusal = Some("vrf.main.slots: 1024 -> 512 (restart twinpath-dataplane: …)");
    let message = refused(data.ask(&node, apply(&routed(&node), 600)));
    assert!(message.starts_with("the data process can't take this configuration; nothing was changed"));
    assert!(message.contains("vrf.main.slots"), "{message}");
    assert_eq!((data.configs.len(), data.rolled_back), (1, 0));
    assert_eq!(shown(&mut data, &node), (before, false));
}

#[test]
fn a_file_that_can_not_be_taken_is_refused_with_every_reason_and_asks_nobody() {
    let (node, mut data) = pair();
    let text = saved(&node);
    for (wrong, expected) in [
        (
            text.replace("id = 1", "id = "),
            vec!["new.toml:4:", "correct the TOML syntax"],
        ),
        (
            text.replace("inside =", "insode ="),
            vec!["new.toml:14:1", "did you mean \"inside\"?"],
        ),
        (
            text.replace("listen_ha_group = \"g\"", "listen_ha_group = \"h\""),
            vec!["did you mean \"g\"?"],
        ),
        (
            text.replace("id = 1", "id = 2")
                .replace("kernel_interface = \"lan0\"\n", ""),
            vec![
                "the control process can't take this configuration while it runs; nothing was changed",
                "node.id: 1 -> 2 (restart both processes: ",
                "port.lan0.kernel_interface: lan0 -> none (restart twinpath-control: ",
            ],
        ),
    ] {
        let message = refused(data.ask(&node, apply(&wrong, 600)));
        for part in expected {
            assert!(message.contains(part), "{part:?} in {message}");
        }
    }
    for seconds in [0, 100_000] {
        assert!(refused(data.ask(&node, apply(&text, seconds))).contains("1 to 86400 seconds"));
    }
    assert_eq!(data.configs.len(), 1);
}

#[test]
fn without_a_data_process_nothing_is_applied() {
    let node = Node::start();
    let mut operator = node.operator();
    let message = refused(operator.call(&apply(&routed(&node), 600)));
    assert!(message.contains("the data process isn't running"), "{message}");
    let Answer::RunningConfig(running) = operator.call(&Command::ConfigShow).unwrap() else {
        unreachable!()
    };
    assert_eq!((running.text, running.rolled_back_in_s), (saved(&node), None));
}

#[test]
fn a_file_that_can_not_be_replaced_is_as_it_was_and_confirmed_later() {
    let (node, mut data) = pair();
    let (before, after) = (saved(&node), routed(&node));
    // In the way of the new file: as good as a full disk.
    let in_the_way = node.dir.join(".node.toml.new");
    std::fs::create_dir(&in_the_way).unwrap();
    data.ask(&node, apply(&after, 600)).unwrap();
    let message = refused(data.ask(&node, Command::ConfigConfirm));
    assert!(
        message.contains("can't be replaced") && message.contains("it is as it was"),
        "{message}"
    );
    assert_eq!(saved(&node), before);
    assert_eq!(shown(&mut data, &node), (after.clone(), true));
    std::fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(data.ask(&node, Command::ConfigConfirm).unwrap(), Answer::Done);
    assert_eq!(saved(&node), after);
}

#[test]
fn a_hang_up_has_both_processes_take_the_file_or_neither() {
    let (node, mut data) = pair();
    let (before, after) = (saved(&node), routed(&node));

    std::fs::write(file(&node), before.replace("inside", "insode")).unwrap();
    hang_up(&node);
    std::fs::write(file(&node), before.replace("id = 1", "id = 2")).unwrap();
    hang_up(&node);
    data.refusal = Some("no");
    std::fs::write(file(&node), &after).unwrap();
    hang_up(&node);
    settle(&mut data, &node);
    assert_eq!(shown(&mut data, &node), (before.clone(), false));
    data.refusal = None;

    hang_up(&node);
    data.until(&node, "the new route", |d| d.has_route(ROUTE));
    assert_eq!(data.configs.len(), 2);
    assert_eq!(
        (data.configs[1].0.text.as_str(), data.configs[1].1),
        (after.as_str(), None)
    );
    assert_eq!(shown(&mut data, &node), (after.clone(), false));

    // The data process asks for the same when it is the one that was told.
    std::fs::write(file(&node), &before).unwrap();
    data.server.broadcast(twinpath::ipc::Event::ReloadWanted);
    data.until(&node, "the routes before", |d| !d.has_route(ROUTE));

    // What waits to be confirmed isn't overridden by the file.
    data.ask(&node, apply(&after, 600)).unwrap();
    hang_up(&node);
    settle(&mut data, &node);
    assert_eq!(shown(&mut data, &node), (after, true));
}

/// Whoever restarts the data process for a setting that needs it edits the file before, and nothing else.
#[test]
fn a_restarted_data_process_has_the_file_read_here_too() {
    let (node, data) = pair();
    drop(data);
    std::fs::write(
        file(&node),
        routed(&node).replace("[[port]]", "[dataplane]\nworkers = 1\n[[port]]"),
    )
    .unwrap();
    let mut data = Data::start(&node, 2, group(GroupState::Master, false));
    data.until(&node, "the next greeting", |d| d.configs.len() == 1);
    assert_eq!(data.configs[0].0.text, saved(&node));
    data.until(&node, "the route", |d| d.has_route(ROUTE));
}
