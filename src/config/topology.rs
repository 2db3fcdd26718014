//! `[[port]]`, `[[interface]]`, `[[ha_group]]`, and the names of VRFs: what other tables refer to by name.

use dataplane::config::{
    Forwarding, HaGroupIntent, InterfaceId, InterfaceIntent, NextHop, Route, VirtualAddress,
};
use dataplane::exception::{Class, ExceptionLimits, PACKETS_PER_S_MAX};
use dataplane::flow::VrfId;
use dataplane::io::PortId;
use dataplane::rss::Rss;
use ipnet::IpNet;

use super::locate::{At, Place, Report, suggest};
use super::section::Section;
use super::values::{self, word};
use super::{Exception, InitialState, InterfaceConfig, Places, PortConfig, VrrpConfig, vrrp};

/// The VRF of a file that names none.
pub(super) const DEFAULT_VRF: &str = "main";

const EXCEPTIONS: [(&str, Exception); 2] = [("none", Exception::None), ("tap", Exception::Tap)];
const EXCEPTION_LIMITS: &str = "exception_packets_per_s";

/// VRF of an interface that names none there is; only a refused file has it.
const UNKNOWN_VRF: VrfId = VrfId(u16::MAX);

/// Names of one kind of thing; the position is its id.
#[derive(Debug)]
pub(super) struct Names {
    kind: &'static str,
    list: Vec<At<String>>,
}

impl Names {
    /// Reads `name` of each section; each must be there, and once.
    pub(super) fn read(kind: &'static str, sections: &[Section<'_>]) -> Self {
        let mut list: Vec<At<String>> = Vec::with_capacity(sections.len());
        for section in sections {
            let name = section
                .required("name", "\"...\"")
                .and_then(|_| section.parsed("name", values::name));
            let name = name.unwrap_or(At {
                value: String::new(),
                place: section.place,
            });
            let first = list.iter().find(|n| n.value == name.value && !n.value.is_empty());
            if let Some(first) = first {
                let report = section.report();
                let what = format!(
                    "{kind} \"{}\" is already defined in line {}",
                    name.value,
                    report.line(first.place)
                );
                report.add(name.place, what, "choose another name");
            }
            list.push(name);
        }
        Self { kind, list }
    }

    /// Id of the thing called so; a fault when there is none.
    pub(super) fn resolve(&self, report: &Report<'_>, name: &At<&str>) -> Option<u16> {
        let at = self
            .list
            .iter()
            .position(|n| n.value == name.value && !n.value.is_empty());
        if at.is_none() {
            let known = self
                .list
                .iter()
                .map(|n| n.value.as_str())
                .filter(|n| !n.is_empty());
            report.add(
                name.place,
                format!("there is no {} \"{}\"", self.kind, name.value),
                suggest(name.value, known),
            );
        }
        at.and_then(|at| u16::try_from(at).ok())
    }

    pub(super) fn get(&self, at: usize) -> &At<String> {
        &self.list[at]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &At<String>> {
        self.list.iter()
    }
}

/// Ports, interfaces and names; vectors of one kind have one index.
#[derive(Debug)]
pub(super) struct Topology {
    pub port_names: Names,
    pub vrf_names: Names,
    pub interface_names: Names,
    pub ha_group_names: Names,
    pub ports: Vec<PortConfig>,
    pub port_places: Vec<PortPlaces>,
    pub interfaces: Vec<InterfaceConfig>,
    pub intents: Vec<InterfaceIntent>,
    pub interface_places: Vec<InterfacePlaces>,
}

/// Where the parts of a port are.
#[derive(Debug)]
pub(super) struct PortPlaces {
    pub device: Place,
    pub kernel_interface: Place,
    pub exception: Place,
    /// Of `exception_packets_per_s`; the port's without it.
    pub exception_limits: Place,
    pub has_exception_limits: bool,
    pub rx_queues: Place,
    pub rss: Place,
}

/// Where the parts of an interface are.
#[derive(Debug)]
pub(super) struct InterfacePlaces {
    pub whole: Place,
    pub kernel_interface: Place,
    pub addresses: Vec<Place>,
    pub mtu: Place,
    /// Its own `kernel_interface`, not the port's.
    pub has_own: bool,
    /// Port and tags are what the file says: nothing in them was refused.
    pub is_clean: bool,
}

pub(super) fn read(root: &Section<'_>, places: &mut Places) -> Topology {
    let port_sections = root.sections("port", "[[port]]");
    if port_sections.is_empty() {
        root.missing_because(
            "port",
            "there is no [[port]]",
            "add one per device, with name and device",
        );
    }
    let port_names = Names::read("port", &port_sections);
    let (ports, port_places) = port_sections
        .into_iter()
        .enumerate()
        .map(|(n, s)| read_port(s, port_names.get(n), places))
        .unzip();
    let mut vrf_names = Names::read("VRF", &root.sections("vrf", "[[vrf]]"));
    if vrf_names.list.is_empty() {
        vrf_names.list.push(At {
            value: DEFAULT_VRF.to_owned(),
            place: root.place,
        });
    }
    let interface_sections = root.sections("interface", "[[interface]]");
    let mut topology = Topology {
        interface_names: Names::read("interface", &interface_sections),
        ha_group_names: Names::read("HA group", &root.sections("ha_group", "[[ha_group]]")),
        port_names,
        vrf_names,
        ports,
        port_places,
        interfaces: Vec::new(),
        intents: Vec::new(),
        interface_places: Vec::new(),
    };
    if interface_sections.is_empty() {
        topology.ports_as_interfaces(root, places);
    }
    for (n, section) in interface_sections.into_iter().enumerate() {
        topology.read_interface(section, n, places);
    }
    topology
}

fn read_port(section: Section<'_>, name: &At<String>, places: &mut Places) -> (PortConfig, PortPlaces) {
    let device = section.required("device", "\"0000:01:00.0\", or a vdev string");
    let kernel_interface = section.text("kernel_interface");
    let found = PortPlaces {
        device: section.place_of("device"),
        kernel_interface: section.place_of("kernel_interface"),
        exception: section.place_of("exception"),
        exception_limits: section.place_of(EXCEPTION_LIMITS),
        has_exception_limits: section.has(EXCEPTION_LIMITS),
        rx_queues: section.place_of("rx_queues"),
        rss: section.place_of("rss"),
    };
    let report = section.report();
    places.mark(report, format!("port.{}.device", name.value), found.device);
    places.mark(
        report,
        format!("port.{}.kernel_interface", name.value),
        found.kernel_interface,
    );
    let port = PortConfig {
        name: name.value.clone(),
        device: device.map_or(String::new(), |d| d.value.to_owned()),
        rx_queues: section.number("rx_queues", 1..=64, 1),
        rss: section
            .parsed("rss", |t| word(t, &Rss::ALL.map(|rss| (rss.name(), rss))))
            .map_or(Rss::default(), |r| r.value),
        kernel_interface: kernel_interface.map(|k| k.value.to_owned()),
        exception: section
            .parsed("exception", |t| word(t, &EXCEPTIONS))
            .map_or(Exception::default(), |e| e.value),
        exception_limits: read_exception_limits(&section),
    };
    section.finish();
    (port, found)
}

fn read_exception_limits(port: &Section<'_>) -> ExceptionLimits {
    let section = port.section(EXCEPTION_LIMITS, "exception_packets_per_s = { ... } of [[port]]");
    let mut limits = ExceptionLimits::default();
    for class in Class::ALL {
        limits.set(
            class,
            section.number(class.name(), 0..=PACKETS_PER_S_MAX, limits.of(class)),
        );
    }
    section.finish();
    limits
}

impl Topology {
    /// Without any `[[interface]]`, each port is an untagged one in the VRF "main".
    fn ports_as_interfaces(&mut self, root: &Section<'_>, places: &mut Places) {
        let Some(vrf) = self.vrf_names.iter().position(|v| v.value == DEFAULT_VRF) else {
            let what = "without [[interface]] all ports are in the VRF \"main\", which isn't defined";
            root.report().add(
                root.place,
                what,
                "add [[interface]] tables, or call a [[vrf]] \"main\"",
            );
            return;
        };
        for (n, port) in (0..).zip(&self.ports) {
            let name = self.port_names.get(usize::from(n));
            self.interface_names.list.push(name.clone());
            self.intents.push(InterfaceIntent {
                name: port.name.clone(),
                port: PortId(n),
                vlans: Vec::new(),
                vrf: VrfId(u16::try_from(vrf).unwrap_or(u16::MAX)),
                mtu: 1500,
                addresses: Vec::new(),
            });
            self.interfaces.push(InterfaceConfig {
                name: port.name.clone(),
                kernel_interface: port.kernel_interface.clone(),
            });
            let kernel_interface = self.port_places[usize::from(n)].kernel_interface;
            places.mark(
                root.report(),
                format!("interface.{}.kernel_interface", port.name),
                kernel_interface,
            );
            self.interface_places.push(InterfacePlaces {
                whole: name.place,
                kernel_interface,
                addresses: Vec::new(),
                mtu: name.place,
                has_own: false,
                is_clean: true,
            });
        }
    }

    fn read_interface(&mut self, section: Section<'_>, n: usize, places: &mut Places) {
        let name = self.interface_names.get(n).clone();
        let report = section.report();
        let port = section.required("port", "the name of a [[port]]");
        let port = port.and_then(|p| self.port_names.resolve(report, &p));
        let vrf = section.text("vrf").unwrap_or(At {
            value: DEFAULT_VRF,
            place: section.place,
        });
        let vrf = self.vrf_names.resolve(report, &vrf).map_or(UNKNOWN_VRF, VrfId);
        let vlans: Vec<u16> = section
            .list("vlan", |t| {
                t.parse()
                    .ok()
                    .filter(|v| (1..=4094).contains(v))
                    .ok_or("use VLAN ids from 1 to 4094".to_owned())
            })
            .into_iter()
            .map(|v| v.value)
            .collect();
        let what = || format!("vlan has {} tags", vlans.len());
        report.check(
            vlans.len() <= 2,
            section.place_of("vlan"),
            what,
            "use at most two, the outer one first",
        );
        let addresses = section.list("addresses", values::interface_address);
        let own = section.text("kernel_interface");
        let found = InterfacePlaces {
            whole: name.place,
            kernel_interface: section.place_of("kernel_interface"),
            addresses: addresses.iter().map(|a| a.place).collect(),
            mtu: section.place_of("mtu"),
            has_own: own.is_some(),
            is_clean: port.is_some() && section.took_all("vlan", &vlans),
        };
        let port = port.unwrap_or(0);
        places.mark(
            report,
            format!("interface.{}.kernel_interface", name.value),
            found.kernel_interface,
        );
        let of_port = || {
            self.ports
                .get(usize::from(port))
                .filter(|_| vlans.is_empty())?
                .kernel_interface
                .clone()
        };
        self.interfaces.push(InterfaceConfig {
            name: name.value.clone(),
            kernel_interface: own.map(|k| k.value.to_owned()).or_else(of_port),
        });
        self.intents.push(InterfaceIntent {
            name: name.value,
            port: PortId(port),
            vlans,
            vrf,
            // RFC 791: every link carries 68 bytes.
            mtu: section.number("mtu", 68..=9_600, 1_500),
            addresses: addresses.into_iter().map(|a| a.value).collect(),
        });
        self.interface_places.push(found);
        section.finish();
    }

    /// Interface called so, in `vrf`.
    pub(super) fn interface_in(
        &self,
        report: &Report<'_>,
        name: &At<&str>,
        vrf: VrfId,
    ) -> Option<InterfaceId> {
        let id = self.interface_names.resolve(report, name)?;
        let of = self.intents.get(usize::from(id))?.vrf;
        if of != vrf && of != UNKNOWN_VRF {
            let (is, wanted) = (self.vrf_names.get(of.index()), self.vrf_names.get(vrf.index()));
            let what = format!("interface \"{}\" is in the VRF \"{}\"", name.value, is.value);
            report.add(
                name.place,
                what,
                format!("name an interface of the VRF \"{}\"", wanted.value),
            );
        }
        Some(InterfaceId(id))
    }

    /// Routes to the links of addresses given in TOML.
    pub(super) fn connected(&self) -> Forwarding {
        let mut forwarding = Forwarding::default();
        for (n, interface) in (0..).zip(&self.intents) {
            for address in interface
                .addresses
                .iter()
                .filter(|a| a.prefix_len() < a.max_prefix_len())
            {
                let via = NextHop {
                    interface: InterfaceId(n),
                    gateway: None,
                };
                add_route(&mut forwarding.routes, interface.vrf, address.trunc(), via);
            }
        }
        forwarding
    }
}

/// Adds a way to a prefix; a second one for the same prefix makes it ECMP.
pub(super) fn add_route(routes: &mut Vec<Route>, vrf: VrfId, prefix: IpNet, via: NextHop) {
    match routes.iter_mut().find(|r| r.vrf == vrf && r.prefix == prefix) {
        Some(route) => route.via.push(via),
        None => routes.push(Route {
            vrf,
            prefix,
            via: vec![via],
        }),
    }
}

/// An HA group as read.
pub(super) struct HaGroupRead {
    pub name: String,
    pub state: InitialState,
    pub vrrp: Option<VrrpConfig>,
    pub intent: HaGroupIntent,
    pub place: Place,
    pub places: Vec<Place>,
}

pub(super) fn read_ha_groups(root: &Section<'_>, topology: &Topology) -> Vec<HaGroupRead> {
    let sections = root.sections("ha_group", "[[ha_group]]");
    sections
        .into_iter()
        .enumerate()
        .map(|(n, s)| read_ha_group(s, n, topology))
        .collect()
}

fn read_ha_group(section: Section<'_>, n: usize, topology: &Topology) -> HaGroupRead {
    let name = topology.ha_group_names.get(n).value.clone();
    let _ = section.text("name");
    let states = [("master", InitialState::Master), ("backup", InitialState::Backup)];
    let state = section
        .parsed("state", |t| word(t, &states))
        .map_or(InitialState::default(), |s| s.value);
    let vrrp = vrrp::read(&section);
    let mut virtual_addresses = Vec::new();
    let mut places = Vec::new();
    for item in section.sections(
        "virtual_addresses",
        "virtual_addresses = [{ interface = ..., address = ... }]",
    ) {
        let interface = item.required("interface", "the name of an interface");
        let interface = interface.and_then(|i| topology.interface_names.resolve(item.report(), &i));
        let address = item.required("address", "an address without prefix length");
        let address = address.and_then(|_| item.parsed("address", values::address));
        if let (Some(interface), Some(address)) = (interface, address) {
            virtual_addresses.push(VirtualAddress {
                interface: InterfaceId(interface),
                address: address.value,
            });
            places.push(address.place);
        }
        item.finish();
    }
    let place = section.place;
    section.finish();
    HaGroupRead {
        intent: HaGroupIntent {
            name: name.clone(),
            virtual_addresses,
            virtual_macs: Vec::new(),
        },
        name,
        state,
        vrrp,
        place,
        places,
    }
}
