//! The control process as a process: the test plays the data process and the operator.

use std::path::PathBuf;
use std::process::{Child, Command as Process};
use std::time::Duration;

use ctl::client::{Client, ClientError};
use ctl::protocol::{Command, Refusal, RefusalKind, Reply as Answer};
use ctl::report::{GroupRow, GroupState, RoleRow, RoleState};
use dataplane::config::{Forwarding, InterfaceId};
use twinpath::ipc::{ConfigText, Event, Reply, Request, Server};

use crate::lab::{Lab, PATIENCE, take};

/// A control process of a node of its own, in a run directory of its own.
pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) dir: PathBuf,
    pub(crate) process: Child,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(config)
    }

    /// With a configuration made for the namespace of its own.
    pub(crate) fn start_with(config: impl FnOnce(&str) -> String) -> Self {
        let lab = Lab::new();
        let dir = std::env::temp_dir().join(&lab.here);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("node.toml"), config(&lab.here)).unwrap();
        let process = spawn(&dir);
        Self { lab, dir, process }
    }

    pub(crate) fn restart(&mut self) {
        let _ended_already = self.process.kill();
        self.process.wait().unwrap();
        self.process = spawn(&self.dir);
    }

    /// The operator's connection, as soon as the process serves it.
    pub(crate) fn operator(&self) -> Client {
        let socket = self.dir.join("n/control.sock");
        self.until("the control socket", || Client::connect(&socket).ok())
    }

    /// Whether `ms` have passed since the call that made the answer.
    pub(crate) fn passed(&self, ms: u64) -> impl Fn() -> bool + use<> {
        let (clock, end) = (self.lab.clock, self.lab.clock.now() + Duration::from_millis(ms));
        move || clock.now() >= end
    }

    pub(crate) fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let give_up = self.lab.clock.now() + PATIENCE;
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(self.lab.clock.now() < give_up, "never came: {what}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        self.process.wait().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn spawn(dir: &PathBuf) -> Child {
    let mut process = Process::new(env!("CARGO_BIN_EXE_twinpath-control"));
    process
        .arg("--config")
        .arg(dir.join("node.toml"))
        .env(ctl::paths::RUN_DIR_VARIABLE, dir);
    process.spawn().unwrap()
}

pub(crate) fn config(netns: &str) -> String {
    format!(
        r#"
[node]
name = "n"
id = 1

[[port]]
name = "lan0"
device = "net_null0"
kernel_interface = "lan0"

[[vrf]]
name = "main"
netns = "{netns}"
inside = ["100.64.0.0/10"]

[vrf.ha_fp_conntrack]
listen_ha_group = "g"

[[ha_group]]
name = "g"
state = "master"
"#
    )
}

/// The data process, played.
pub(crate) struct Data {
    pub(crate) server: Server,
    boot: u64,
    groups: Vec<GroupRow>,
    /// Every order that was given.
    pub(crate) orders: Vec<(GroupState, bool)>,
    /// Every configuration it was told to take, and for how long.
    pub(crate) configs: Vec<(ConfigText, Option<u64>)>,
    /// How often it was told to go back.
    pub(crate) rolled_back: usize,
    /// What it says to configurations, when it doesn't take them.
    pub(crate) refusal: Option<&'static str>,
    forwarding: Option<Forwarding>,
}

impl Data {
    pub(crate) fn start(node: &Node, boot: u64, groups: Vec<GroupRow>) -> Self {
        // Bound under another name, the one that counts stays behind, as it does when a process is killed.
        let bound = node.dir.join("n/played.sock");
        let server = Server::bind(&bound).unwrap();
        std::fs::rename(bound, node.dir.join("n/dataplane.sock")).unwrap();
        Self {
            server,
            boot,
            groups,
            orders: Vec::new(),
            configs: Vec::new(),
            rolled_back: 0,
            refusal: None,
            forwarding: None,
        }
    }

    /// The role it plays.
    pub(crate) fn role(ready: bool) -> RoleRow {
        RoleRow {
            vrf: "main".into(),
            ha_group: Some("g".into()),
            role: RoleState::Backup,
            term: 257,
            ready,
            in_doubt: false,
            cause: "played".into(),
        }
    }

    fn turn(&mut self) {
        for incoming in self.server.poll() {
            let reply = match incoming.request {
                Request::Hello { node } => {
                    assert_eq!(node, "n");
                    Reply::Hello { boot: self.boot }
                }
                Request::Groups => Reply::Groups(self.groups.clone()),
                Request::CheckConfig(_) | Request::SetConfig { .. } if self.refusal.is_some() => {
                    let message = self.refusal.unwrap_or_default();
                    let refusal = Refusal::new(RefusalKind::Refused, message);
                    self.server.reply(incoming.ticket, Err(refusal));
                    continue;
                }
                Request::CheckConfig(_) => Reply::Done,
                Request::SetConfig { config, try_ms } => {
                    self.configs.push((config, try_ms));
                    Reply::LeftOut(vec![])
                }
                Request::RollBack => {
                    self.rolled_back += 1;
                    Reply::Done
                }
                Request::SetForwarding(part) => {
                    take(&mut self.forwarding, *part);
                    Reply::Done
                }
                Request::SetGroup {
                    name,
                    state,
                    explicit,
                } => {
                    assert_eq!(name, "g");
                    self.orders.push((state, explicit));
                    Reply::Done
                }
                Request::Switchovers => Reply::Switchovers(vec![]),
                Request::Roles => Reply::Roles(vec![Self::role(true)]),
                other => unreachable!("{other:?}"),
            };
            self.server.reply(incoming.ticket, Ok(reply));
        }
    }

    fn knows_mac_of(&self, address: &str) -> bool {
        let address: std::net::IpAddr = address.parse().unwrap();
        self.forwarding
            .as_ref()
            .is_some_and(|f| f.neighbors.iter().any(|n| n.address == address))
    }

    pub(crate) fn has_route(&self, prefix: &str) -> bool {
        let prefix = prefix.parse().unwrap();
        self.forwarding
            .as_ref()
            .is_some_and(|f| f.routes.iter().any(|r| r.prefix == prefix))
    }

    pub(crate) fn until(&mut self, node: &Node, what: &str, mut wanted: impl FnMut(&mut Self) -> bool) {
        node.until(what, || {
            self.turn();
            wanted(self).then_some(())
        });
    }

    /// Plays on while the operator waits for an answer.
    pub(crate) fn ask(&mut self, node: &Node, command: Command) -> Result<Answer, ClientError> {
        let mut operator = node.operator();
        let asking = std::thread::spawn(move || operator.call(&command));
        self.until(node, "an answer", |_| asking.is_finished());
        asking.join().unwrap()
    }
}

pub(crate) fn group(state: GroupState, explicit: bool) -> Vec<GroupRow> {
    vec![GroupRow {
        name: "g".into(),
        state,
        explicit,
    }]
}

fn group_shown(answer: Answer) -> (GroupState, bool, usize) {
    let Answer::HaGroups(groups) = answer else {
        panic!("{answer:?}")
    };
    (groups[0].state, groups[0].explicit, groups[0].vrfs.len())
}

#[test]
fn without_a_data_process_it_says_so_and_answers_what_it_knows() {
    let node = Node::start();
    let mut operator = node.operator();
    let refused = operator.call(&Command::Workers);
    assert!(matches!(refused, Err(ClientError::Refused(r)) if r.kind == RefusalKind::Unreachable));
    let refused = operator.call(&Command::NatPools {
        vrf: "nowhere".into(),
    });
    assert!(matches!(refused, Err(ClientError::Refused(r)) if r.kind == RefusalKind::NotFound));
    let refused = operator.call(&Command::SetHaGroup {
        name: "nogroup".into(),
        state: GroupState::Master,
    });
    assert!(matches!(refused, Err(ClientError::Refused(r)) if r.kind == RefusalKind::NotFound));
    let Answer::Version(rows) = operator.call(&Command::Version).unwrap() else {
        unreachable!()
    };
    assert_eq!(
        rows.iter().map(|r| r.process.as_str()).collect::<Vec<_>>(),
        ["control"]
    );
    assert_eq!(
        group_shown(operator.call(&Command::HaGroups).unwrap()),
        (GroupState::Master, false, 0)
    );
    let text = "[node]\nname = 1\nid = 0\n".to_owned();
    let Answer::Lines(faults) = operator
        .call(&Command::ConfigCheck {
            file: "f.toml".into(),
            text,
        })
        .unwrap()
    else {
        unreachable!()
    };
    assert!(
        faults.len() > 1 && faults.iter().all(|line| line.starts_with("f.toml:")),
        "{faults:?}"
    );
    let Answer::SettingChanges(changes) = operator
        .call(&Command::ConfigDiff {
            file: "f.toml".into(),
            text: config(&node.lab.here).replace("id = 1", "id = 2"),
        })
        .unwrap()
    else {
        unreachable!()
    };
    assert!(
        changes
            .iter()
            .any(|c| c.to_string().starts_with("node.id: 1 -> 2 (restart both")),
        "{changes:?}"
    );
}

#[test]
fn a_data_process_is_told_everything_and_then_every_change() {
    let node = Node::start();
    let mut data = Data::start(&node, 1, group(GroupState::Master, false));
    data.until(&node, "intent and routes", |d| {
        d.configs.len() == 1 && d.has_route("192.0.2.0/24")
    });
    assert_eq!(data.orders, [], "it prefers the same by itself");
    node.lab.here("route add 203.0.113.0/24 via 192.0.2.2");
    data.until(&node, "the new route", |d| d.has_route("203.0.113.0/24"));
    data.until(&node, "its gateway", |d| d.knows_mac_of("192.0.2.2"));
    node.lab.there("addr add 192.0.2.3/24 dev far0");
    let wanted = Event::NeighborWanted {
        interface: InterfaceId(0),
        address: "192.0.2.3".parse().unwrap(),
    };
    data.server.broadcast(wanted);
    data.until(&node, "the wanted neighbor", |d| d.knows_mac_of("192.0.2.3"));
}

#[test]
fn a_killed_control_process_learns_what_changed_meanwhile_and_reads_the_role_back() {
    let mut node = Node::start();
    let mut data = Data::start(&node, 1, group(GroupState::Master, false));
    data.until(&node, "the first greeting", |d| d.configs.len() == 1);
    let order = Command::SetHaGroup {
        name: "g".into(),
        state: GroupState::Backup,
    };
    assert_eq!(data.ask(&node, order).unwrap(), Answer::Done);
    assert_eq!(data.orders, [(GroupState::Backup, true)]);
    data.groups = group(GroupState::Backup, true);
    node.restart();
    node.lab.here("route add 203.0.113.0/24 via 192.0.2.2");
    data.until(&node, "the route", |d| {
        d.configs.len() == 2 && d.has_route("203.0.113.0/24")
    });
    assert_eq!(
        data.orders.len(),
        1,
        "what runs isn't overridden by the configuration"
    );
    let shown = group_shown(data.ask(&node, Command::HaGroups).unwrap());
    assert_eq!(shown, (GroupState::Backup, true, 1));
}

#[test]
fn a_restarted_data_process_gets_the_operators_state_as_a_preference_only() {
    let node = Node::start();
    let mut data = Data::start(&node, 1, group(GroupState::Master, false));
    data.until(&node, "the first greeting", |d| d.configs.len() == 1);
    let order = Command::SetHaGroup {
        name: "g".into(),
        state: GroupState::Backup,
    };
    assert_eq!(data.ask(&node, order).unwrap(), Answer::Done);
    drop(data);
    let mut data = Data::start(&node, 2, group(GroupState::Master, false));
    data.until(&node, "the second greeting", |d| !d.orders.is_empty());
    assert_eq!(data.orders, [(GroupState::Backup, false)]);
    assert!(data.has_route("192.0.2.0/24"));
}

#[test]
fn asked_to_end_it_takes_its_socket_along() {
    let mut node = Node::start();
    let _operator = node.operator();
    let pid = node.process.id().to_string();
    assert!(Process::new("kill").arg(pid).status().unwrap().success());
    assert!(node.process.wait().unwrap().success());
    assert!(!node.dir.join("n/control.sock").exists());
}
