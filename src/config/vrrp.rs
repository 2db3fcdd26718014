//! `vrrp` of an `[[ha_group]]`, and `[keepalived]`: groups whose state VRRP decides (RFC 5798), and where the
//! keepalived is that speaks it. The group's virtual addresses then belong to keepalived and the kernel, not to the
//! packet path.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::config::{VirtualAddress, VirtualMac};
use dataplane::io::PortId;

use super::check::Everything;
use super::locate::{Place, Report};
use super::section::Section;
use super::values;
use super::{KeepalivedConfig, VrrpConfig};

/// RFC 5798, section 5.2.7: the interval has 12 bits, in hundredths of a second.
const ADVERT_INTERVAL_MAX_MS: u32 = 40_950;
/// Where Debian's keepalived says its process id.
const PID_FILE: &str = "/run/keepalived.pid";
/// Where keepalived writes its state when asked: the package gives it this folder as its `TMPDIR`.
const STATE_FILE: &str = "/run/keepalived/keepalived.json";

/// A group's `vrrp` as read; addresses are moved in when the whole file has been checked.
pub(super) fn read(group: &Section<'_>) -> Option<VrrpConfig> {
    let section = group.section("vrrp", "vrrp = { ... } of [[ha_group]]");
    if !section.is_present() {
        return None;
    }
    if group.has("state") {
        let advice = "remove state: whoever is master is VRRP's to decide";
        section
            .report()
            .add(group.place_of("state"), "a group with vrrp has no state", advice);
    }
    let vrid = section.number_at("vrid", 1..=255_u8);
    if vrid.is_none() && !section.has("vrid") {
        section.missing("vrid", "51, the same on both nodes");
    }
    let interval = section.number_at("advert_interval_ms", 10..=ADVERT_INTERVAL_MAX_MS);
    if let Some(interval) = &interval {
        let what = || format!("advert_interval_ms = {} is no multiple of 10", interval.value);
        let advice = "use hundredths of a second, as VRRP does (RFC 5798)";
        section
            .report()
            .check(interval.value.is_multiple_of(10), interval.place, what, advice);
    }
    let config = VrrpConfig {
        vrid: vrid.map_or(1, |v| v.value),
        priority: section.number("priority", 1..=254, 100),
        preempt: section.flag("preempt", false),
        advert_interval_ms: interval.map_or(1_000, |i| i.value),
        virtual_mac: section.flag("virtual_mac", false),
        addresses: Vec::new(),
    };
    section.finish();
    Some(config)
}

pub(super) fn read_keepalived(root: &Section<'_>) -> KeepalivedConfig {
    let section = root.section("keepalived", "[keepalived]");
    let path = |key, default: &str| {
        section
            .parsed(key, values::path)
            .map_or_else(|| default.to_owned(), |p| p.value)
    };
    let config = KeepalivedConfig {
        pid_file: path("pid_file", PID_FILE),
        state_file: path("state_file", STATE_FILE),
        restart_grace_s: section.number("restart_grace_s", 1..=60, 3),
        realtime_priority: section.number("realtime_priority", 0..=99, 0),
    };
    section.finish();
    config
}

/// Keepalived needs a kernel interface, and one virtual router per id on each.
pub(super) fn check(report: &Report<'_>, file: &Everything<'_>) {
    let mut seen: Vec<(&str, u8, &str, Place)> = Vec::new();
    for group in file.ha_groups {
        let Some(vrrp) = &group.vrrp else { continue };
        let what = || format!("the VRRP group \"{}\" has no virtual_addresses", group.name);
        report.check(
            !group.places.is_empty(),
            group.place,
            what,
            "add the addresses that move with it, at least one",
        );
        for (address, place) in group.intent.virtual_addresses.iter().zip(&group.places) {
            let (Some(interface), Some(intent)) = (
                file.topology.interfaces.get(address.interface.index()),
                file.topology.intents.get(address.interface.index()),
            ) else {
                continue;
            };
            let Some(kernel) = interface.kernel_interface.as_deref() else {
                let what = format!(
                    "keepalived can't speak VRRP on \"{}\": it has no kernel_interface",
                    interface.name
                );
                report.add(*place, what, "add it, or give the group a state instead of vrrp");
                continue;
            };
            if let Some(netns) = file.netns_of_vrf(intent.vrf.index()) {
                let what = format!(
                    "keepalived can't speak VRRP on \"{}\": it is in netns \"{netns}\"",
                    interface.name
                );
                report.add(
                    *place,
                    what,
                    "use a kernel VRF, or give the group a state instead of vrrp",
                );
                continue;
            }
            let same = |s: &&(&str, u8, &str, Place)| s.0 == kernel && s.1 == vrrp.vrid && s.2 != group.name;
            if let Some((.., other, earlier)) = seen.iter().find(same) {
                let line = report.line(*earlier);
                let what = format!(
                    "vrid {} on \"{kernel}\" is already that of \"{other}\" in line {line}",
                    vrrp.vrid
                );
                report.add(*place, what, "give each group a vrid of its own");
            }
            seen.push((kernel, vrrp.vrid, &group.name, *place));
        }
    }
}

/// Adverts a second that may come in by a port: one stream for each virtual router, of each address family on each interface.
pub(super) fn adverts_per_s(file: &Everything<'_>, port: PortId) -> u32 {
    let mut adverts_per_s: u32 = 0;
    for group in file.ha_groups {
        let Some(vrrp) = &group.vrrp else { continue };
        let on_port = group.intent.virtual_addresses.iter().filter(|address| {
            let interface = file.topology.intents.get(address.interface.index());
            interface.is_some_and(|interface| interface.port == port)
        });
        let routers: BTreeSet<_> = on_port.map(|a| (a.interface, a.address.is_ipv4())).collect();
        let routers = u32::try_from(routers.len()).unwrap_or(u32::MAX);
        let each_per_s = 1_000_u32.div_ceil(vrrp.advert_interval_ms.max(1));
        adverts_per_s = adverts_per_s.saturating_add(routers.saturating_mul(each_per_s));
    }
    adverts_per_s
}

/// The stations a group with virtual MAC addresses is, besides its interfaces' own (RFC 5798, section 7.3).
pub(super) fn virtual_macs(vrrp: &VrrpConfig) -> Vec<VirtualMac> {
    if !vrrp.virtual_mac {
        return Vec::new();
    }
    let mut macs: Vec<VirtualMac> = Vec::new();
    for VirtualAddress { interface, address } in &vrrp.addresses {
        let mac = VirtualMac {
            interface: *interface,
            mac: virtual_mac(vrrp.vrid, address),
        };
        if !macs.contains(&mac) {
            macs.push(mac);
        }
    }
    macs
}

const fn virtual_mac(vrid: u8, address: &IpAddr) -> [u8; 6] {
    let family = if address.is_ipv4() { 1 } else { 2 };
    [0, 0, 0x5e, 0, family, vrid]
}
