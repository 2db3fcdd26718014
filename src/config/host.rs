//! What only the machine can tell: whether the interfaces, addresses, namespaces and cores a configuration names
//! exist. Apart from reading, so that a file can be checked on another machine.

use std::net::IpAddr;

use ctl::key::{KeyError, PrivateKey};

use super::keys;
use super::locate::Fault;
use super::values::device_argument;
use super::{Config, KernelBinding, PeerConfig, PortConfig};

/// A machine, as far as a configuration depends on it.
pub trait Host {
    /// Cores threads can be pinned to.
    fn cores(&self) -> Vec<usize>;
    /// Kernel interfaces of a network namespace (none: the process's own); nothing when it doesn't exist.
    fn interfaces(&self, netns: Option<&str>) -> Option<Vec<String>>;
    /// Addresses of an interface in the process's own namespace.
    fn addresses(&self, interface: &str) -> Vec<IpAddr>;
    /// The private key in a file.
    ///
    /// # Errors
    /// Why there is none.
    fn private_key(&self, path: &str) -> Result<PrivateKey, KeyError>;
}

/// Everything the configuration names and the machine doesn't have, in the order of the file.
#[must_use]
pub fn check_host(config: &Config, host: &impl Host) -> Vec<Fault> {
    let mut faults = Vec::new();
    check_cores(config, host, &mut faults);
    check_vrfs(config, host, &mut faults);
    check_interfaces(config, host, &mut faults);
    check_sync(config, host, &mut faults);
    faults.sort();
    faults.dedup();
    faults
}

fn check_cores(config: &Config, host: &impl Host, faults: &mut Vec<Fault>) {
    let cores = host.cores();
    let lists = [
        ("dataplane.worker_cores", &config.dataplane.worker_cores),
        ("dataplane.event_cores", &config.dataplane.event_cores),
    ];
    for (path, list) in lists {
        for core in list.iter().flatten().filter(|c| !cores.contains(c)) {
            let known: Vec<String> = cores.iter().map(usize::to_string).collect();
            let advice = format!("use {}", known.join(", "));
            faults.push(
                config
                    .places
                    .fault(path, format!("core {core} doesn't exist"), &advice),
            );
        }
    }
}

fn check_vrfs(config: &Config, host: &impl Host, faults: &mut Vec<Fault>) {
    for vrf in &config.vrfs {
        let path = format!("vrf.{}.kernel", vrf.name);
        match &vrf.kernel {
            KernelBinding::Device(name) if !has(host, None, name) => {
                let what = format!("there is no kernel VRF \"{name}\"");
                faults.push(config.places.fault(
                    &path,
                    what,
                    "create it before the start, or correct the name",
                ));
            }
            KernelBinding::Netns(name) if host.interfaces(Some(name)).is_none() => {
                let what = format!("there is no network namespace \"{name}\"");
                faults.push(config.places.fault(
                    &path,
                    what,
                    "create it before the start, or correct the name",
                ));
            }
            _ => {}
        }
    }
}

/// Interfaces of ports and VLANs, in the namespace of their VRF. A missing namespace is its VRF's fault alone.
fn check_interfaces(config: &Config, host: &impl Host, faults: &mut Vec<Fault>) {
    let netns_of = |n: usize| {
        config
            .vrfs
            .get(config.intent.interfaces[n].vrf.index())
            .and_then(|v| v.kernel.netns())
    };
    let mut missing = |path: String, netns: Option<&str>, name: &str| {
        if host.interfaces(netns).is_some() && !has(host, netns, name) {
            let place = netns.map_or(String::new(), |n| format!(" in the namespace \"{n}\""));
            let what = format!("there is no kernel interface \"{name}\"{place}");
            faults.push(
                config
                    .places
                    .fault(&path, what, "create it before the start, or correct the name"),
            );
        }
    };
    for (n, port) in config.ports.iter().enumerate() {
        let carried = config.intent.interfaces.iter().position(|i| i.port.index() == n);
        let netns = carried.and_then(netns_of);
        if let Some(iface) =
            device_argument(&port.device, "iface").filter(|_| port.device.starts_with("net_af_"))
        {
            missing(format!("port.{}.device", port.name), netns, iface);
        }
        if let Some(name) = port.kernel_interface.as_ref().filter(|_| !is_made_by_port(port)) {
            missing(format!("port.{}.kernel_interface", port.name), netns, name);
        }
    }
    for (n, interface) in config.interfaces.iter().enumerate() {
        let port = &config.ports[config.intent.interfaces[n].port.index()];
        if is_made_by_port(port) || interface.kernel_interface == port.kernel_interface {
            continue;
        }
        if let Some(name) = &interface.kernel_interface {
            missing(
                format!("interface.{}.kernel_interface", interface.name),
                netns_of(n),
                name,
            );
        }
    }
}

/// A port that has a tap, or is one, makes its kernel interface when it starts.
fn is_made_by_port(port: &PortConfig) -> bool {
    let makers = ["net_tap", "net_tun"];
    port.tap().is_some() || makers.iter().any(|maker| port.device.starts_with(maker))
}

fn check_sync(config: &Config, host: &impl Host, faults: &mut Vec<Fault>) {
    let Some(sync) = &config.sync else { return };
    if let Some(Err(error)) = keys::wanted(sync).map(|path| host.private_key(path)) {
        faults.push(keys::file_fault(config, &error));
    }
    check_sync_interface(config, host, &sync.interface, ("interface", "source"), faults);
    if let Some(second) = &sync.second_interface {
        check_sync_interface(
            config,
            host,
            second,
            ("second_interface", "second_source"),
            faults,
        );
    }
}

/// `keys` name the interface and our addresses on it.
fn check_sync_interface(
    config: &Config,
    host: &impl Host,
    interface: &str,
    keys: (&str, &str),
    faults: &mut Vec<Fault>,
) {
    if !has(host, None, interface) {
        let what = format!("there is no sync interface \"{interface}\"");
        faults.push(config.places.fault(
            &format!("sync.{}", keys.0),
            what,
            "create it before the start, or correct the name",
        ));
        return;
    }
    let addresses = host.addresses(interface);
    for vrf in &config.vrfs {
        let own = |peer: &PeerConfig| match keys.1 {
            "source" => Some(peer.source),
            _ => peer.second.map(|link| link.source),
        };
        let lacking = |peer| own(peer).filter(|source| !addresses.contains(source));
        for (peer, source) in vrf.peers.iter().filter_map(|p| Some((p, lacking(p)?))) {
            let path = format!("vrf.{}.peer.{}.{}", vrf.name, peer.name, keys.1);
            let what = format!("{} {source} is not an address of \"{interface}\"", keys.1);
            faults.push(config.places.fault(
                &path,
                what,
                "add it to the interface, or use one of its addresses",
            ));
        }
    }
}

fn has(host: &impl Host, netns: Option<&str>, interface: &str) -> bool {
    host.interfaces(netns)
        .is_some_and(|list| list.iter().any(|i| i == interface))
}
