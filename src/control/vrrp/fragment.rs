//! What keepalived's configuration has to include for the groups it drives: names, the notify FIFO, track files, and
//! one virtual router per interface and address family. The only place that knows keepalived's language.

use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use dataplane::config::VirtualAddress;

use super::{fifo, track_file};
use crate::config::{Config, VrrpConfig};

/// Limit of the kernel's interface names.
const _: () = assert!("tp65535v6.255".len() < 16, "fits IFNAMSIZ");

/// CPU time that a real-time keepalived may use between two waits before the kernel ends it, in microseconds. Its
/// default of 10 ms is less than a reload or a burst of gratuitous ARP can take.
const REALTIME_LIMIT_US: u32 = 500_000;

/// A VRRP instance to be: interface, kernel interface, family and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    interface: u16,
    kernel_interface: String,
    is_v4: bool,
    addresses: Vec<IpAddr>,
}

impl Router {
    /// Its name in keepalived.
    #[must_use]
    pub fn instance(&self, group: &str) -> String {
        format!(
            "{}.{}.{}",
            sync_group(group),
            self.kernel_interface,
            self.family()
        )
    }

    const fn family(&self) -> u8 {
        if self.is_v4 { 4 } else { 6 }
    }
}

/// The name of a group in keepalived.
#[must_use]
pub fn sync_group(group: &str) -> String {
    format!("twinpath-{group}")
}

/// The virtual routers of a group, in the order of its addresses.
#[must_use]
pub fn routers(config: &Config, vrrp: &VrrpConfig) -> Vec<Router> {
    let mut routers: Vec<Router> = Vec::new();
    for VirtualAddress { interface, address } in &vrrp.addresses {
        let is_v4 = address.is_ipv4();
        let known = routers
            .iter_mut()
            .find(|r| r.interface == interface.0 && r.is_v4 == is_v4);
        if let Some(router) = known {
            router.addresses.push(*address);
            continue;
        }
        let kernel = config
            .interfaces
            .get(interface.index())
            .and_then(|i| i.kernel_interface.clone());
        routers.push(Router {
            interface: interface.0,
            // The configuration was checked: it has one.
            kernel_interface: kernel.unwrap_or_default(),
            is_v4,
            addresses: vec![*address],
        });
    }
    routers
}

/// Everything that the master's kernel is given for a group.
#[must_use]
pub fn addresses(vrrp: &VrrpConfig) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = vrrp.addresses.iter().map(|a| a.address).collect();
    addresses.push(link_local(vrrp.vrid).into());
    addresses
}

/// The fragment for all groups, or for one. `dir` is the node's run directory, `ctl` the operator's command that
/// keepalived runs as its check.
#[must_use]
pub fn render(config: &Config, only: Option<&str>, dir: &Path, ctl: &str) -> String {
    let node = &config.node.name;
    let mut text = format!(
        "# VRRP for the HA groups of {node}, written by twinpathctl keepalived-config. Include it from keepalived.conf:\n\
         #     include /etc/keepalived/twinpath-{node}.conf\n\
         global_defs {{\n    \
             vrrp_version 3\n    \
             vrrp_notify_fifo {}\n",
        fifo(dir).display()
    );
    if config.keepalived.realtime_priority > 0 {
        let priority = config.keepalived.realtime_priority;
        let _ = write!(
            text,
            "    vrrp_rt_priority {priority}\n    vrrp_rlimit_rttime {REALTIME_LIMIT_US}\n    vrrp_no_swap\n"
        );
    }
    let _ = write!(
        text,
        "}}\n\n\
         # Fails when the control process is gone, or has had no data process, for restart_grace_s.\n\
         vrrp_script twinpath {{\n    \
             script \"{ctl} --node {node} keepalived-check\"\n    \
             interval 1\n    \
             timeout {grace}\n    \
             fall {grace}\n    \
             rise 1\n    \
             user root\n    \
             init_fail\n\
         }}\n",
        grace = config.keepalived.restart_grace_s
    );
    for group in config
        .ha_groups
        .iter()
        .filter(|g| only.is_none_or(|o| o == g.name))
    {
        if let Some(vrrp) = &group.vrrp {
            render_group(&mut text, config, &group.name, vrrp, dir);
        }
    }
    text
}

fn render_group(text: &mut String, config: &Config, group: &str, vrrp: &VrrpConfig, dir: &Path) {
    let name = sync_group(group);
    let routers = routers(config, vrrp);
    let members: String = routers
        .iter()
        .map(|r| format!("        {}\n", r.instance(group)))
        .collect();
    let _ = write!(
        text,
        "\n# 0: ready. 253: lowest priority. 254: fault.\n\
         track_file {name} {{\n    \
             file \"{}\"\n    \
             weight -1\n\
         }}\n\n\
         vrrp_sync_group {name} {{\n    \
             group {{\n{members}    }}\n    \
             track_file {{\n        {name} weight -1\n    }}\n    \
             track_script {{\n        twinpath\n    }}\n\
         }}\n",
        track_file(dir, group).display()
    );
    for router in &routers {
        render_router(text, group, vrrp, router);
    }
}

fn render_router(text: &mut String, group: &str, vrrp: &VrrpConfig, router: &Router) {
    let _ = write!(
        text,
        "\nvrrp_instance {} {{\n    \
             state BACKUP\n    \
             interface {}\n    \
             virtual_router_id {}\n    \
             priority {}\n    \
             advert_int {}.{:02}\n",
        router.instance(group),
        router.kernel_interface,
        vrrp.vrid,
        vrrp.priority,
        vrrp.advert_interval_ms / 1_000,
        vrrp.advert_interval_ms % 1_000 / 10,
    );
    if !vrrp.preempt {
        text.push_str("    nopreempt\n");
    }
    if vrrp.virtual_mac {
        let _ = writeln!(
            text,
            "    use_vmac tp{}v{}.{}",
            router.interface,
            router.family(),
            vrrp.vrid
        );
    }
    text.push_str("    virtual_ipaddress {\n");
    if !router.is_v4 {
        // RFC 5798, section 5.2.9: an IPv6 virtual router's first address is link-local.
        let _ = writeln!(text, "        {}/64", link_local(vrrp.vrid));
    }
    for address in &router.addresses {
        let _ = match address {
            IpAddr::V4(a) => writeln!(text, "        {a}/32"),
            IpAddr::V6(a) => writeln!(text, "        {a}/128 preferred_lft forever"),
        };
    }
    text.push_str("    }\n}\n");
}

/// The link-local address of the virtual router's own MAC address, 00-00-5E-00-02-VRID (RFC 4291, appendix A): no
/// other station of the link has it.
fn link_local(vrid: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0200, 0x5eff, 0xfe00, 0x0200 | u16::from(vrid))
}
