//! `[node]`, `[dataplane]`, `[sync]`, `[log]`: the tables that exist once.

use std::net::SocketAddr;

use super::locate::{At, Place};
use super::section::Section;
use super::values::{self, word};
use dataplane::config::FirstPacketsPercent;

use crate::plan::Hugepages;
use crate::thread::Idle;

use super::{CONNTRACKS_MOST, DataplaneConfig, LogConfig, NodeConfig, Places, Security, SyncConfig, Syslog};

/// Threads of one kind: more make no sense on any machine we know.
const THREADS_MAX: u16 = 64;
/// TCP port of the local node, unless configured.
const SYNC_PORT: u16 = 7610;
/// Code point of the lanes' packets, unless configured: CS6, network control (RFC 4594 section 3.1).
const SYNC_DSCP: u8 = 48;
/// Where the lines about port blocks go, unless configured.
const SYSLOG: &str = "/dev/log";

pub(super) fn read_node(root: &Section<'_>) -> NodeConfig {
    let section = root.section("node", "[node]");
    let mut node = NodeConfig::default();
    if section.is_present() {
        if section.required("name", "\"node1\"").is_some() {
            node.name = section
                .parsed("name", values::name)
                .map_or(String::new(), |n| n.value);
        }
        if !section.has("id") {
            section.missing("id", "1, and another number on the other node");
        }
        node.id = section.number("id", 1..=255, 0);
    } else {
        root.missing_because(
            "node",
            "there is no [node]",
            "add [node] with name = \"node1\" and id = 1",
        );
    }
    section.finish();
    node
}

pub(super) fn read_dataplane(root: &Section<'_>, cores: &[usize], places: &mut Places) -> DataplaneConfig {
    let section = root.section("dataplane", "[dataplane]");
    let workers = threads(&section, "workers");
    let event_threads = threads(&section, "event_threads");
    places.mark(
        section.report(),
        "dataplane.worker_cores".to_owned(),
        section.place_of("worker_cores"),
    );
    places.mark(
        section.report(),
        "dataplane.event_cores".to_owned(),
        section.place_of("event_cores"),
    );
    let conntracks_max = section.number("conntracks_max", 1_024..=CONNTRACKS_MOST, 262_144);
    let config = DataplaneConfig {
        workers: workers.unwrap_or(1),
        worker_cores: thread_cores(&section, "worker_cores", workers, cores),
        event_threads: event_threads.unwrap_or(1),
        event_cores: thread_cores(&section, "event_cores", event_threads, cores),
        idle: section
            .parsed("idle", |t| {
                word(t, &[("adaptive", Idle::Adaptive), ("poll", Idle::Poll)])
            })
            .map_or(Idle::default(), |i| i.value),
        memory_mb: section.number("memory_mb", 64..=1_048_576, 256),
        hugepages: section
            .parsed("hugepages", |t| {
                word(
                    t,
                    &[
                        ("auto", Hugepages::Auto),
                        ("off", Hugepages::Off),
                        ("require", Hugepages::Require),
                    ],
                )
            })
            .map_or(Hugepages::default(), |h| h.value),
        mbufs: section.number("mbufs", 1_024..=16_777_216, 16_384),
        conntracks_max,
        conntracks_start: section.number("conntracks_start", 1_024..=conntracks_max, conntracks_max),
        delta_ring_entries: section.number("delta_ring_entries", 64..=1_048_576, 4_096),
        held_packets: section.number("held_packets", 16..=65_536, 512),
        limited_sources: section.number("limited_sources", 64..=16_777_216, 65_536),
        rss_key: section.parsed("rss_key", values::rss_key).map(|k| k.value),
        redirect_packets_per_s: section.number("redirect_packets_per_s", 0..=10_000_000, 100_000),
        first_packets: FirstPacketsPercent(section.number("first_packets_percent", 1..=100, 10)),
        eal_args: section
            .list("eal_args", |t| Ok(t.to_owned()))
            .into_iter()
            .map(|a| a.value)
            .collect(),
    };
    section.finish();
    config
}

/// How many there are; one by default, and none that anything could be compared with when the number was refused.
fn threads(section: &Section<'_>, key: &'static str) -> Option<u16> {
    let given = section.number_at(key, 1..=THREADS_MAX);
    given.map_or_else(|| (!section.has(key)).then_some(1), |n| Some(n.value))
}

/// The core of each thread, when given.
fn thread_cores(
    section: &Section<'_>,
    key: &'static str,
    threads: Option<u16>,
    cores: &[usize],
) -> Option<Vec<usize>> {
    let listed: Vec<At<usize>> = section.list(key, |t| {
        t.parse()
            .map_err(|_| "write the numbers of cores, as [0, 1]".to_owned())
    });
    let report = section.report();
    for core in listed
        .iter()
        .filter(|c| !cores.is_empty() && !cores.contains(&c.value))
    {
        let known: Vec<String> = cores.iter().map(usize::to_string).collect();
        report.add(
            core.place,
            format!("core {} doesn't exist", core.value),
            format!("use {}", known.join(", ")),
        );
    }
    if listed.is_empty() {
        return None;
    }
    let threads = threads.map_or(listed.len(), usize::from);
    let what = || format!("{key} names {} cores for {threads} threads", listed.len());
    let one_each = listed.len() == threads || !section.took_all(key, &listed);
    report.check(
        one_each,
        section.place_of(key),
        what,
        "name one core per thread, a core may come twice",
    );
    Some(listed.into_iter().map(|c| c.value).collect())
}

/// `[sync]` with what the cross checks need.
pub(super) struct SyncRead {
    pub config: SyncConfig,
    pub interface: Place,
    pub second_interface: Place,
}

pub(super) fn read_sync(root: &Section<'_>, places: &mut Places) -> Option<SyncRead> {
    let section = root.section("sync", "[sync]");
    if !section.is_present() {
        return None;
    }
    let interface = section.required("interface", "\"sync0\"");
    let place = interface.as_ref().map_or(section.place, |i| i.place);
    places.mark(section.report(), "sync.interface".to_owned(), place);
    let second = section.text("second_interface");
    let second_place = second.as_ref().map_or(section.place, |i| i.place);
    places.mark(section.report(), "sync.second_interface".to_owned(), second_place);
    if !section.has("security") {
        let what = "[sync] doesn't say how lanes are protected";
        let advice = "write security = \"tls\", or security = \"none\" to accept that they are plain, on a link \
                      nobody else can reach";
        section.missing_because("security", what, advice);
    }
    let words = [("tls", Security::Tls), ("none", Security::None)];
    let security = section.parsed("security", |t| word(t, &words));
    let security = security.map_or(Security::None, |s| s.value);
    if security == Security::Tls && !section.has("private_key") {
        let what = "[sync] names no private key to prove who this node is";
        let advice = "make one with twinpathctl key generate /etc/twinpath/sync.key, and add \
                      private_key = \"/etc/twinpath/sync.key\"";
        section.missing_because("private_key", what, advice);
    }
    let private_key = section.parsed("private_key", values::path);
    let key_place = private_key.as_ref().map_or(section.place, |k| k.place);
    places.mark(section.report(), "sync.private_key".to_owned(), key_place);
    let config = SyncConfig {
        interface: interface.map_or(String::new(), |i| i.value.to_owned()),
        second_interface: second.map(|i| i.value.to_owned()),
        port: section.number("port", 1..=65_535, SYNC_PORT),
        dscp: section.number("dscp", 0..=63, SYNC_DSCP),
        security,
        private_key: private_key.map(|k| k.value),
        dead_after_ms: section.number("dead_after_ms", 50..=60_000, 1_000),
        boot_wait_ms: section.number("boot_wait_ms", 0..=600_000, 3_000),
    };
    section.finish();
    Some(SyncRead {
        config,
        interface: place,
        second_interface: second_place,
    })
}

pub(super) fn read_log(root: &Section<'_>) -> LogConfig {
    const LEVELS: [(&str, &str); 5] = [
        ("error", "error"),
        ("warn", "warn"),
        ("info", "info"),
        ("debug", "debug"),
        ("trace", "trace"),
    ];
    let section = root.section("log", "[log]");
    let config = LogConfig {
        syslog: section
            .parsed("syslog", syslog)
            .map_or_else(|| Syslog::Unix(SYSLOG.to_owned()), |s| s.value),
        level: section
            .parsed("level", |t| word(t, &LEVELS))
            .map_or("info", |l| l.value),
    };
    section.finish();
    config
}

fn syslog(text: &str) -> Result<Syslog, String> {
    let advice =
        || "write the path of a socket, as /dev/log, or udp:ADDRESS:PORT, as udp:10.0.0.9:514".to_owned();
    match text.strip_prefix("udp:") {
        Some(address) => address
            .parse::<SocketAddr>()
            .map(Syslog::Udp)
            .map_err(|_| advice()),
        None if text.starts_with('/') => Ok(Syslog::Unix(text.to_owned())),
        None => Err(advice()),
    }
}
