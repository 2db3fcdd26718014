//! Replies as text and as JSON, from the same values. Text is a table where rows are alike and a tree where they
//! aren't; a tree closes each container with `..`, as operators of such appliances know it.

mod config;
mod job;
mod sync;

use std::fmt::Display;

pub use self::sync::event_line;
use serde_json::{Value, json};

use crate::protocol::Reply;
use crate::report::{
    BlockRow, ConntrackRow, Count, DropRow, EventRow, FlowCount, FlowCounts, HaGroupReport, MemoryRow,
    PoolRow, PortRow, Rows, RuleRow, Tuple, UserRow, VersionRow, WorkerRow,
};
use crate::switchover::SwitchoverReport;
use crate::sync_report::{PeerReport, SlotRow, SyncReport, SyncState};

/// A reply as text, with a newline at the end; empty when there is nothing to say.
#[must_use]
pub fn text(reply: &Reply) -> String {
    match reply {
        Reply::HaState(state) => ha_state(state),
        Reply::HaPeers(report) => ha_peers(report),
        Reply::HaSlots(rows) => slots(rows),
        Reply::HaGroups(groups) => groups.iter().map(ha_group).collect(),
        Reply::Conntracks(rows) => paged(rows, conntracks(&rows.rows)),
        Reply::Count(count) => format!("{count}\n"),
        Reply::NatStatistics(counts) => count_table(counts),
        Reply::NatPools(rows) => pools(rows),
        Reply::NatUsers(rows) => paged(rows, users(&rows.rows)),
        Reply::NatBlocks(rows) => paged(rows, blocks(&rows.rows)),
        Reply::FirewallRules(rows) => rules(rows),
        Reply::Ports(rows) => rows.iter().map(port).collect(),
        Reply::Workers(rows) => rows.iter().map(worker).collect(),
        Reply::Events(rows) => rows.iter().map(event).collect(),
        Reply::Drops(rows) => drops(rows),
        Reply::Memory(rows) => memory(rows),
        Reply::Version(rows) => versions(rows),
        Reply::Job(number) => format!("{number}\n"),
        Reply::Compare(report) => job::compare(report),
        Reply::Resync(outcome) => job::resync(outcome),
        Reply::Rebalance(report) => job::rebalance(report),
        Reply::Sync(overview) => sync::overview(overview),
        Reply::Operations(rows) => sync::operations(rows),
        Reply::Conservation(rows) => sync::conservation(rows),
        Reply::Protection(rows) => sync::protection(rows),
        Reply::Journal(page) => page
            .rows
            .iter()
            .map(|row| format!("{}\n", event_line(row)))
            .collect(),
        Reply::Switchover(report) => switchover(report),
        Reply::SettingChanges(list) => config::changes(list),
        Reply::Applied(tried) => config::applied(tried),
        Reply::RunningConfig(running) => config::running(running),
        Reply::Settings(list) => config::settings(list),
        Reply::Done => String::new(),
        Reply::Lines(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
    }
}

/// A reply as JSON: the value itself, without the envelope of the protocol.
#[must_use]
pub fn json(reply: &Reply) -> Value {
    match reply {
        Reply::Done => json!({ "done": true }),
        Reply::Count(count) => json!({ "count": count }),
        Reply::Job(number) => json!({ "job": number }),
        Reply::Lines(lines) => json!({ "lines": lines }),
        Reply::Compare(report) => {
            let mut value = serde_json::to_value(report).unwrap_or(Value::Null);
            value["result"] = json!(report.verdict().name());
            value
        }
        // The envelope is one key, the kind of the reply.
        other => match serde_json::to_value(other) {
            Ok(Value::Object(map)) => map.into_iter().next().map_or(Value::Null, |(_, value)| value),
            _ => Value::Null,
        },
    }
}

/// Name of an IP protocol, or its number.
#[must_use]
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

/// A tree in the making: lines at a depth.
#[derive(Debug, Default)]
struct Tree {
    text: String,
    depth: usize,
}

impl Tree {
    fn line(&mut self, name: &str, value: impl Display) {
        self.text
            .push_str(&format!("{:1$}{name} {value}\n", "", self.depth * 4));
    }

    /// A container: its title, what `fill` puts in it, and its end.
    fn open(&mut self, title: impl Display, fill: impl FnOnce(&mut Self)) {
        self.text.push_str(&format!("{:1$}{title}\n", "", self.depth * 4));
        self.depth += 1;
        fill(self);
        self.text.push_str(&format!("{:1$}..\n", "", self.depth * 4));
        self.depth -= 1;
    }

    fn counts(&mut self, counts: &[Count]) {
        for count in counts {
            self.line(&count.name, count.value);
        }
    }
}

fn tree(title: impl Display, fill: impl FnOnce(&mut Tree)) -> String {
    let mut tree = Tree::default();
    tree.open(title, fill);
    tree.text
}

/// Columns as wide as their widest cell, two spaces between them.
fn table<const N: usize>(header: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    let width: [usize; N] =
        std::array::from_fn(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0));
    let line = |row: &[String; N]| {
        let cells: String = row
            .iter()
            .zip(width)
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        format!("{}\n", cells.trim_end())
    };
    rows.iter().map(line).collect()
}

fn paged<T>(rows: &Rows<T>, mut table: String) -> String {
    if rows.next.is_some() {
        table.push_str("(more follow: raise --limit)\n");
    }
    table
}

fn ha_state(state: &SyncState) -> String {
    tree("ha-fp-conntrack", |t| {
        t.line("enabled", state.enabled);
        if let Some(group) = &state.listen_ha_group {
            t.line("listen-ha-group", group);
        }
        for peer in &state.peers {
            t.open(format!("peer {}", peer.name), |t| {
                t.line("source", peer.source);
                t.line("address", peer.address);
            });
        }
        t.line("role", state.role.name());
        t.line("term", state.term);
        t.line("cause", &state.cause);
        t.line("in-doubt", state.in_doubt);
    })
}

fn ha_peers(report: &SyncReport) -> String {
    tree("show-ha-fp-conntrack-peer", |t| {
        report.peers.iter().for_each(|p| ha_peer(t, p))
    })
}

fn ha_peer(t: &mut Tree, peer: &PeerReport) {
    t.open(format!("peer {}", peer.name), |t| {
        t.line("source", peer.source);
        t.line("address", peer.address);
        for client in &peer.clients {
            t.open(format!("client {}", client.name), |t| {
                t.open("statistics", |t| {
                    t.line("transmit", client.transmit);
                    t.line("transmit-error", client.transmit_error);
                    t.line("build-error", client.build_error);
                });
                t.line("connection-status", client.connection_status.name());
                t.line("security", client.security.name());
            });
        }
        t.open(format!("local-node {}", peer.local_node.address), |t| {
            t.open("statistics", |t| {
                t.line("receive", peer.local_node.receive);
                t.line("receive-error", peer.local_node.receive_error);
            });
        });
        t.open("lag", |t| {
            t.line("records", peer.lag.records);
            t.line("oldest-us", peer.lag.oldest_us);
        });
        t.open("slots", |t| {
            t.line("total", peer.slots.total);
            t.line("in-sync", peer.slots.in_sync);
            t.line("dirty", peer.slots.dirty);
            t.line("walking", peer.slots.walking);
        });
        t.open("resync", |t| {
            let resync = &peer.resync;
            t.line("state", if resync.running { "running" } else { "idle" });
            t.line(
                "progress",
                format_args!("{}/{} slots", resync.slots_done, resync.slots_total),
            );
            t.line("records", resync.records);
            t.line("swept", resync.swept);
            t.line("elapsed-ms", resync.elapsed_ms);
            if !resync.reason.is_empty() {
                t.line("reason", &resync.reason);
            }
        });
        for section in &peer.fingerprint_differs {
            t.line("configuration-differs", section);
        }
    });
}

fn slots(rows: &[SlotRow]) -> String {
    let header = [
        "SLOT",
        "WORKER",
        "EVENT",
        "TERM",
        "COUNTER",
        "ENTRIES",
        "DIGEST",
        "PEER-DIGEST",
        "EQUAL",
        "DIRTY",
    ];
    table(
        header,
        rows.iter().map(|row| {
            [
                row.slot.to_string(),
                row.worker.to_string(),
                row.event.to_string(),
                row.term.to_string(),
                row.counter.to_string(),
                row.entries.to_string(),
                format!("{:016x}", row.digest),
                row.peer_digest.map_or("-".to_owned(), |d| format!("{d:016x}")),
                row.peer_digest
                    .map_or("unknown", |d| yes_no(d == row.digest))
                    .to_owned(),
                yes_no(row.dirty).to_owned(),
            ]
        }),
    )
}

fn ha_group(group: &HaGroupReport) -> String {
    tree(format!("ha-group {}", group.name), |t| {
        t.line("state", group.state.name());
        let set_by = match (&group.vrrp, group.explicit) {
            (Some(_), _) => "vrrp",
            (None, true) => "operator",
            (None, false) => "configuration",
        };
        t.line("set-by", set_by);
        if let Some(vrrp) = &group.vrrp {
            t.open("vrrp", |t| {
                t.line("keepalived", &vrrp.says);
                t.line("track", vrrp.track.map_or("-".to_owned(), |t| t.to_string()));
                t.line("held", vrrp.held);
                t.line("blocked", vrrp.blocked.as_deref().unwrap_or("no"));
            });
        }
        if let Some(report) = &group.switchover {
            t.open("switchover", |t| {
                t.line("peer", &report.peer);
                t.line("phase", report.phase.name());
                if !report.end.is_empty() {
                    t.line("end", &report.end);
                }
                t.line("took-ms", report.took_ms);
            });
        }
        for virtual_address in &group.virtual_addresses {
            t.line(
                "virtual-address",
                format_args!("{} {}", virtual_address.interface, virtual_address.address),
            );
        }
        for row in &group.vrfs {
            t.open(format!("vrf {}", row.vrf), |t| {
                t.line("role", row.role.name());
                t.line("term", row.term);
                t.line("ready", row.ready);
                t.line("cause", &row.cause);
                t.line("in-doubt", row.in_doubt);
            });
        }
    })
}

fn switchover(report: &SwitchoverReport) -> String {
    let SwitchoverReport {
        group,
        peer,
        phase,
        end,
        took_ms,
    } = report;
    let phase = phase.name();
    let end = if end.is_empty() {
        String::new()
    } else {
        format!(" ({end})")
    };
    format!("switchover of {group} to {peer}: {phase} after {took_ms} ms{end}\n")
}

fn conntracks(rows: &[ConntrackRow]) -> String {
    table(
        [
            "PROTO", "STATE", "ORIGINAL", "REPLY", "OWNER", "LIFETIME", "PACKETS", "BYTES", "WORKER", "SLOT",
            "VERSION",
        ],
        rows.iter().map(|row| {
            [
                protocol_name(row.protocol),
                row.state.name().to_owned(),
                tuple(&row.original),
                tuple(&row.reply),
                row.owner.name().to_owned(),
                format!("{} s", row.lifetime_s),
                each_way(row.counted.as_ref(), |count| count.packets),
                each_way(row.counted.as_ref(), |count| count.bytes),
                row.worker.to_string(),
                row.slot.to_string(),
                format!("{}.{}", row.term, row.counter),
            ]
        }),
    )
}

/// There and back; what nobody counted is not 0.
fn each_way(counted: Option<&FlowCounts>, of: fn(&FlowCount) -> u64) -> String {
    counted.map_or_else(
        || "-".to_owned(),
        |counted| format!("{}/{}", of(&counted.original), of(&counted.reply)),
    )
}

fn tuple(tuple: &Tuple) -> String {
    let end = |address, port| std::net::SocketAddr::new(address, port);
    format!(
        "{} > {}",
        end(tuple.src, tuple.src_port),
        end(tuple.dst, tuple.dst_port)
    )
}

fn count_table(counts: &[Count]) -> String {
    table(
        ["NAME", "VALUE"],
        counts
            .iter()
            .map(|count| [count.name.clone(), count.value.to_string()]),
    )
}

fn pools(rows: &[PoolRow]) -> String {
    table(
        [
            "POOL",
            "ADDRESSES",
            "PORTS",
            "BLOCK-SIZE",
            "BLOCKS",
            "GRANTED",
            "PORTS-USED",
            "RESTING",
        ],
        rows.iter().map(|row| {
            [
                row.name.clone(),
                row.addresses.to_string(),
                format!("{}-{}", row.port_first, row.port_last),
                row.block_size.to_string(),
                row.blocks_total.to_string(),
                row.blocks_granted.to_string(),
                row.ports_used.to_string(),
                row.ports_resting.to_string(),
            ]
        }),
    )
}

fn users(rows: &[UserRow]) -> String {
    table(
        [
            "SUBSCRIBER",
            "POOL",
            "ADDRESS",
            "BLOCKS",
            "PORTS-USED",
            "MAPPINGS",
        ],
        rows.iter().map(|row| {
            [
                row.subscriber.to_string(),
                row.pool.clone(),
                row.address.to_string(),
                row.blocks.to_string(),
                row.ports_used.to_string(),
                row.mappings.to_string(),
            ]
        }),
    )
}

fn blocks(rows: &[BlockRow]) -> String {
    table(
        [
            "POOL",
            "ADDRESS",
            "PORTS",
            "SUBSCRIBER",
            "GRANT",
            "OWNER",
            "PORTS-USED",
            "WORKER",
            "SLOT",
        ],
        rows.iter().map(|row| {
            [
                row.pool.clone(),
                row.address.to_string(),
                format!("{}-{}", row.port_first, row.port_last),
                row.subscriber.to_string(),
                format!("{:016x}", row.grant),
                row.owner.name().to_owned(),
                row.ports_used.to_string(),
                row.worker.to_string(),
                row.slot.to_string(),
            ]
        }),
    )
}

fn rules(rows: &[RuleRow]) -> String {
    table(
        [
            "RULE",
            "IN",
            "OUT",
            "PROTO",
            "SOURCE",
            "DESTINATION",
            "ACTION",
            "LOG",
            "HITS",
            "LIMIT/S",
            "PER SOURCE",
            "LIMITED",
        ],
        rows.iter().map(|row| {
            [
                row.id.map_or("default".to_owned(), |id| id.to_string()),
                any(row.inbound.as_deref()),
                any(row.outbound.as_deref()),
                row.protocol.map_or("any".to_owned(), protocol_name),
                end(&row.source, &row.source_ports),
                end(&row.destination, &row.destination_ports),
                row.action.clone(),
                yes_no(row.log).to_owned(),
                or_dash(row.hits),
                or_dash(row.new_flows_per_s),
                or_dash(row.new_flows_per_source_per_s),
                or_dash(row.limited),
            ]
        }),
    )
}

fn or_dash(number: Option<impl Display>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

fn end(networks: &[impl Display], ports: &[String]) -> String {
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let networks = if networks.is_empty() {
        "any".to_owned()
    } else {
        networks.join(",")
    };
    if ports.is_empty() {
        networks
    } else {
        format!("{networks} port {}", ports.join(","))
    }
}

fn port(row: &PortRow) -> String {
    tree(format!("port {}", row.name), |t| {
        t.line("device", &row.device);
        t.line("driver", &row.driver);
        t.line("link", if row.up { "up" } else { "down" });
        if let Some(cause) = &row.away {
            t.line("away", cause);
        }
        t.line("renewed", row.renewed);
        t.line("speed-mbps", row.speed_mbps);
        t.line("mac", row.mac.map(|byte| format!("{byte:02x}")).join(":"));
        t.line("rx-queues", row.rx_queues);
        t.open("rss", |t| {
            t.line("asked", &row.rss.asked);
            t.line("hashed", &row.rss.hashed);
            t.line("table-entries", row.rss.table_entries);
            t.line("note", &row.rss.note);
        });
        let verified = row.rx_checksums.join(" ");
        t.line(
            "rx-checksums",
            if verified.is_empty() { "none" } else { &verified },
        );
        t.line("tx-queues", row.tx_queues);
        t.open("statistics", |t| {
            for (name, value) in [
                ("rx-packets", row.rx_packets),
                ("rx-bytes", row.rx_bytes),
                ("rx-missed", row.rx_missed),
                ("rx-errors", row.rx_errors),
                ("rx-nombuf", row.rx_nombuf),
                ("tx-packets", row.tx_packets),
                ("tx-bytes", row.tx_bytes),
                ("tx-errors", row.tx_errors),
            ] {
                t.line(name, value);
            }
        });
        for (queue, row) in row.rx.iter().enumerate() {
            t.open(format!("rx-queue {queue}"), |t| {
                let worker = row.worker.map_or("nobody".to_owned(), |w| format!("worker{w}"));
                t.line("polled-by", worker);
                for (name, value) in [
                    ("packets", row.packets),
                    ("joined", row.joined),
                    ("segmented", row.segmented),
                    ("too-long", row.too_long),
                    ("errors", row.errors),
                ] {
                    t.line(name, value);
                }
            });
        }
        for (queue, row) in row.tx.iter().enumerate() {
            t.open(format!("tx-queue {queue}"), |t| {
                t.line("packets", row.packets);
                t.line("refused", row.refused);
            });
        }
        t.open("handed-over", |t| t.counts(&row.handoffs));
        for row in &row.exceptions {
            t.open(format!("exception {}", row.class), |t| {
                t.line("packets-per-s", row.packets_per_s);
                t.line("passed", row.passed);
                t.line("refused", row.refused);
            });
        }
        t.open("xstats", |t| t.counts(&row.xstats));
    })
}

fn worker(row: &WorkerRow) -> String {
    tree(format!("worker{}", row.worker), |t| {
        t.line("core", row.core);
        t.line("polls", row.queues.join(" "));
        t.line("slots", row.slots);
        t.line(
            "conntracks",
            format_args!("{} of {}", row.conntracks, row.conntracks_max),
        );
        t.open("statistics", |t| t.counts(&row.counters));
    })
}

fn event(row: &EventRow) -> String {
    tree(&row.name, |t| {
        t.line("core", row.core);
        t.line("lanes", format_args!("{} of {} up", row.lanes_up, row.lanes));
        t.open("statistics", |t| t.counts(&row.counters));
    })
}

/// Reasons that have happened; the others are in the JSON.
fn drops(rows: &[DropRow]) -> String {
    table(
        ["REASON", "PACKETS", "MEANING"],
        rows.iter()
            .filter(|row| row.packets > 0)
            .map(|row| [row.reason.clone(), row.packets.to_string(), row.meaning.clone()]),
    )
}

fn memory(rows: &[MemoryRow]) -> String {
    table(
        ["NAME", "USED", "TOTAL", "UNIT"],
        rows.iter().map(|row| {
            [
                row.name.clone(),
                row.used.to_string(),
                row.total.to_string(),
                row.unit.clone(),
            ]
        }),
    )
}

fn versions(rows: &[VersionRow]) -> String {
    table(
        ["PROCESS", "VERSION", "DPDK", "NODE", "PID", "UPTIME"],
        rows.iter().map(|row| {
            [
                row.process.clone(),
                row.version.clone(),
                row.dpdk.clone().unwrap_or_else(|| "-".to_owned()),
                row.node.clone(),
                row.pid.to_string(),
                format!("{} s", row.uptime_s),
            ]
        }),
    )
}

fn any(name: Option<&str>) -> String {
    name.unwrap_or("any").to_owned()
}

const fn yes_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tests_sync;
