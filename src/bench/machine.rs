//! What the figures were measured on: processor, pages, and how much of it other guests and programs took meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use serde::Serialize;
use twinpath::dpdk::large::PagePolicy;

use super::stats::as_f64;

/// The machine, as the report names it.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    tsc_mhz: f64,
    /// Megabytes of huge pages reserved, what the packet buffers are in, and what the tables were asked to be in.
    hugepages: Hugepages,
    /// Percent of the cores' time that the hypervisor gave to others during the run.
    steal: f64,
    /// Percent of the cores' time in use during the run, by anybody.
    busy: f64,
    load_before: String,
}

#[derive(Debug, Serialize)]
struct Hugepages {
    reserved_mb: u64,
    packets: bool,
    tables: bool,
}

impl Machine {
    pub(crate) fn look(cores: usize, huge_packets: bool) -> Self {
        Self {
            cpu: cpu(),
            cores,
            tsc_mhz: 0.0,
            hugepages: Hugepages {
                reserved_mb: kb_of("/proc/meminfo", "Hugetlb:") / 1_024,
                packets: huge_packets,
                tables: PagePolicy::of_kernel() == PagePolicy::Given,
            },
            steal: 0.0,
            busy: 0.0,
            load_before: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    /// Fills in what became known in the run.
    pub(crate) fn finish(&mut self, before: Ticks, tsc_hz: f64) {
        self.tsc_mhz = (tsc_hz / 1e5).round() / 10.0;
        let now = Ticks::now();
        let share = |part: u64, earlier: u64| {
            let all = as_f64(now.all.saturating_sub(before.all)).max(1.0);
            (1_000.0 * as_f64(part.saturating_sub(earlier)) / all).round() / 10.0
        };
        self.steal = share(now.steal, before.steal);
        self.busy = share(now.all - now.idle, before.all - before.idle);
    }

    pub(crate) fn summary(&self) -> String {
        let yes = |on: bool| if on { "2 MiB" } else { "4 KiB" };
        format!(
            "{}, {} cores; pages: packets {}, tables {} ({} MB reserved); load before {}",
            self.cpu,
            self.cores,
            yes(self.hugepages.packets),
            yes(self.hugepages.tables),
            self.hugepages.reserved_mb,
            self.load_before
        )
    }

    pub(crate) fn disturbances(&self) -> String {
        format!(
            "TSC {} MHz; steal {} %, cores busy {} % of the time (this run alone: 50 to 100 %)",
            self.tsc_mhz, self.steal, self.busy
        )
    }
}

/// The kernel's account of all cores together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ticks {
    all: u64,
    idle: u64,
    steal: u64,
}

impl Ticks {
    pub(crate) fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|f| f.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; the rest is contained in user and nice (proc(5)).
        let field = |n: usize| fields.get(n).copied().unwrap_or(0);
        Self {
            all: fields.iter().take(8).sum(),
            idle: field(3) + field(4),
            steal: field(7),
        }
    }
}

/// Tells whether the kernel gave this thread's core to somebody else.
#[derive(Debug)]
pub(crate) struct Watch {
    file: Option<File>,
    waited_ns: u64,
}

impl Watch {
    /// For the calling thread. Where the kernel doesn't tell, nothing is ever seen.
    pub(crate) fn new() -> Self {
        Self {
            file: File::open("/proc/thread-self/schedstat").ok(),
            waited_ns: 0,
        }
    }

    /// Looks from now on.
    pub(crate) fn start(&mut self) {
        self.waited_ns = self.waited();
    }

    /// Whether the thread had to wait for its core since `start`.
    pub(crate) fn disturbed(&self) -> bool {
        self.waited() != self.waited_ns
    }

    /// Nanoseconds spent runnable and not running: the second of three numbers.
    fn waited(&self) -> u64 {
        let mut text = [0; 96];
        let Some(read) = self.file.as_ref().and_then(|f| f.read_at(&mut text, 0).ok()) else {
            return 0;
        };
        let digits = text[..read].split(|&b| b == b' ').nth(1).unwrap_or_default();
        let digit = |sum: u64, b: &u8| sum.wrapping_mul(10).wrapping_add(u64::from(b.wrapping_sub(b'0')));
        digits.iter().fold(0, digit)
    }
}

/// Memory this process has touched, in bytes, on pages of any size.
pub(crate) fn memory_touched() -> u64 {
    1_024 * (kb_of("/proc/self/status", "VmRSS:") + kb_of("/proc/self/status", "HugetlbPages:"))
}

/// Memory that can be had, in bytes.
pub(crate) fn memory_available() -> u64 {
    1_024 * kb_of("/proc/meminfo", "MemAvailable:")
}

fn kb_of(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}
