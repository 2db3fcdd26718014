//! What `ip` changes must become reachability.

use dataplane::config::{Forwarding, InterfaceId, NextHop};

use crate::lab::Lab;

fn via(forwarding: &Forwarding, prefix: &str) -> Vec<(u16, Option<String>)> {
    let prefix = prefix.parse().unwrap();
    let hops = forwarding
        .routes
        .iter()
        .filter(|r| r.prefix == prefix)
        .flat_map(|r| &r.via);
    hops.map(|NextHop { interface, gateway }| (interface.0, gateway.map(|g| g.to_string())))
        .collect()
}

fn mac_of(forwarding: &Forwarding, address: &str) -> Option<[u8; 6]> {
    let address: std::net::IpAddr = address.parse().unwrap();
    forwarding
        .neighbors
        .iter()
        .find(|n| n.address == address)
        .map(|n| n.mac)
}

fn hop(interface: u16, gateway: &str) -> (u16, Option<String>) {
    (interface, Some(gateway.to_owned()))
}

const FAR: Option<[u8; 6]> = Some([2, 0, 0, 0, 0, 0xfe]);

#[test]
fn links_addresses_and_connected_routes_are_read_at_start() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    lab.until(&mut watch, "links up with their addresses", |f| {
        let links: Vec<_> = f.links.iter().map(|l| (l.interface.0, l.up, l.mac)).collect();
        links
            == [
                (0, true, Some([2, 0, 0, 0, 0, 1])),
                (1, true, Some([2, 0, 0, 0, 0, 2])),
            ]
            && f.addresses
                .contains(&(InterfaceId(0), "192.0.2.1/24".parse().unwrap()))
            && f.addresses
                .contains(&(InterfaceId(0), "2001:db8::1/64".parse().unwrap()))
            && f.addresses
                .contains(&(InterfaceId(1), "198.51.100.1/24".parse().unwrap()))
            && via(f, "192.0.2.0/24") == [(0, None)]
            && via(f, "2001:db8::/64") == [(0, None)]
    });
}

/// As keepalived makes it for a virtual MAC address.
#[test]
fn addresses_of_another_station_on_the_link_are_the_interfaces_as_long_as_they_are_there() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    let virtual_address = (InterfaceId(0), "192.0.2.100/32".parse().unwrap());
    lab.here("link add vmac0 link lan0 address 00:00:5e:00:01:33 type macvlan mode private");
    lab.here("link set vmac0 up");
    lab.here("addr add 192.0.2.100/32 dev vmac0");
    // Another link, where nobody has an interface.
    lab.here("link add other0 type veth peer name other1");
    lab.here("addr add 192.0.2.101/32 dev other0");
    lab.until(&mut watch, "the virtual address", |f| {
        f.addresses.contains(&virtual_address)
    });
    let known = watch.published().unwrap();
    assert!(
        !known
            .addresses
            .iter()
            .any(|(_, net)| net.to_string() == "192.0.2.101/32")
    );
    assert_eq!(
        known.links[0].mac,
        Some([2, 0, 0, 0, 0, 1]),
        "its own MAC address"
    );
    lab.here("addr del 192.0.2.100/32 dev vmac0");
    lab.until(&mut watch, "it has gone", |f| {
        !f.addresses.contains(&virtual_address)
    });
    lab.here("addr add 192.0.2.100/32 dev vmac0");
    lab.until(&mut watch, "it is back", |f| {
        f.addresses.contains(&virtual_address)
    });
    lab.here("link del vmac0");
    lab.until(&mut watch, "gone with its station", |f| {
        !f.addresses.contains(&virtual_address)
    });
}

#[test]
fn routes_are_followed_through_add_replace_multipath_and_delete_in_both_families() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    lab.here("route add 203.0.113.0/24 via 192.0.2.2");
    lab.until(&mut watch, "a route there before the start", |f| {
        via(f, "203.0.113.0/24") == [hop(0, "192.0.2.2")]
    });
    lab.here("route replace 203.0.113.0/24 via 198.51.100.9");
    lab.until(&mut watch, "replaced", |f| {
        via(f, "203.0.113.0/24") == [hop(1, "198.51.100.9")]
    });
    lab.here("route add 203.0.113.0/24 via 192.0.2.3 metric 50");
    lab.here("route del 203.0.113.0/24 via 198.51.100.9");
    lab.until(&mut watch, "the one with the higher metric", |f| {
        via(f, "203.0.113.0/24") == [hop(0, "192.0.2.3")]
    });
    lab.here("route add default nexthop via 192.0.2.2 nexthop via 198.51.100.9");
    lab.until(&mut watch, "two next hops", |f| {
        via(f, "0.0.0.0/0") == [hop(0, "192.0.2.2"), hop(1, "198.51.100.9")]
    });
    lab.here("-6 route add 2001:db8:9::/48 nexthop via 2001:db8::2 nexthop via 2001:db8::3");
    lab.until(&mut watch, "two IPv6 next hops", |f| {
        via(f, "2001:db8:9::/48").len() == 2
    });
    lab.here("-6 route del 2001:db8:9::/48 via 2001:db8::3 dev lan0");
    lab.until(&mut watch, "one IPv6 leg gone", |f| {
        via(f, "2001:db8:9::/48") == [hop(0, "2001:db8::2")]
    });
    lab.here("-6 route append 2001:db8:9::/48 via 2001:db8::4 dev lan0");
    lab.until(&mut watch, "one IPv6 leg more", |f| {
        via(f, "2001:db8:9::/48").len() == 2
    });
    lab.here("-6 route del 2001:db8:9::/48");
    lab.here("route del default");
    lab.until(&mut watch, "both gone", |f| {
        via(f, "2001:db8:9::/48").is_empty() && via(f, "0.0.0.0/0").is_empty()
    });
}

#[test]
fn routes_that_the_kernel_drops_silently_with_their_link_are_dropped_here_too() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    lab.here("route add 203.0.113.0/24 via 198.51.100.9");
    lab.until(&mut watch, "the route", |f| {
        via(f, "203.0.113.0/24") == [hop(1, "198.51.100.9")]
    });
    lab.here("link set wan0 down");
    lab.until(&mut watch, "link down and route gone", |f| {
        via(f, "203.0.113.0/24").is_empty() && f.links.iter().any(|l| l.interface == InterfaceId(1) && !l.up)
    });
    lab.here("link del wan0");
    lab.add_wan();
    lab.here("addr add 198.51.100.7/24 dev wan0");
    lab.until(
        &mut watch,
        "the interface of the same name, back with another address",
        |f| {
            f.addresses
                .contains(&(InterfaceId(1), "198.51.100.7/24".parse().unwrap()))
                && via(f, "198.51.100.0/24") == [(1, None)]
        },
    );
}

/// Those of pools are for routing daemons: packets to pool addresses go by the owner table.
#[test]
fn blackholes_are_no_routes_neither_when_read_nor_when_told() {
    let lab = Lab::new();
    lab.here("route add blackhole 203.0.113.0/24 proto 116");
    let mut watch = lab.watch();
    lab.here("route add blackhole 203.0.114.0/24 proto 116");
    lab.here("route add 203.0.115.0/24 via 198.51.100.9");
    lab.until(&mut watch, "the route behind them", |f| {
        via(f, "203.0.115.0/24") == [hop(1, "198.51.100.9")]
    });
    let known = watch.published().unwrap();
    for prefix in ["203.0.113.0/24", "203.0.114.0/24"] {
        assert_eq!(via(known, prefix), [], "{prefix}");
    }
}

#[test]
fn a_gateway_is_resolved_before_anybody_waits_for_it() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    lab.here("route add default via 192.0.2.2");
    lab.here("-6 route add default via 2001:db8::2");
    lab.until(&mut watch, "both gateways", |f| {
        mac_of(f, "192.0.2.2") == FAR && mac_of(f, "2001:db8::2") == FAR
    });
}

#[test]
fn a_wanted_neighbor_is_resolved_follows_its_mac_and_goes_when_it_fails() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    lab.until(&mut watch, "the interface", |f| f.links.iter().any(|l| l.up));
    assert_eq!(mac_of(watch.published().unwrap(), "192.0.2.2"), None);
    watch.want(InterfaceId(0), "192.0.2.2".parse().unwrap(), lab.clock.now());
    watch.want(InterfaceId(0), "192.0.2.77".parse().unwrap(), lab.clock.now());
    lab.until(&mut watch, "the neighbor", |f| mac_of(f, "192.0.2.2") == FAR);
    assert_eq!(
        mac_of(watch.published().unwrap(), "192.0.2.77"),
        None,
        "nobody has this address"
    );
    lab.here("neigh replace 192.0.2.2 dev lan0 lladdr 02:00:00:00:00:aa nud permanent");
    lab.until(&mut watch, "its new MAC", |f| {
        mac_of(f, "192.0.2.2") == Some([2, 0, 0, 0, 0, 0xaa])
    });
    lab.here("neigh replace 192.0.2.2 dev lan0 lladdr 02:00:00:00:00:aa nud failed");
    lab.until(&mut watch, "nothing of a failed one", |f| {
        mac_of(f, "192.0.2.2").is_none()
    });
}

/// The kernel takes the routes along, and says nothing about them.
#[test]
fn routes_go_and_change_with_their_next_hop_objects() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    let began = lab.clock.now();
    for object in [
        "1 via 192.0.2.2 dev lan0",
        "2 via 192.0.2.3 dev lan0",
        "10 group 1/2",
    ] {
        lab.here(&format!("nexthop add id {object}"));
    }
    lab.here("route add 203.0.113.0/24 nhid 10");
    lab.here("route add 203.0.112.0/24 nhid 2");
    lab.until(&mut watch, "routes by objects", |f| {
        via(f, "203.0.113.0/24").len() == 2 && via(f, "203.0.112.0/24") == [hop(0, "192.0.2.3")]
    });
    lab.here("nexthop del id 2");
    lab.until(&mut watch, "one way less, and one route", |f| {
        via(f, "203.0.113.0/24") == [hop(0, "192.0.2.2")] && via(f, "203.0.112.0/24").is_empty()
    });
    let took = lab.clock.now().since(began);
    assert!(
        took.as_secs() < 55,
        "the audit of every minute has found it, nothing else"
    );
}

#[test]
fn lost_notifications_lead_to_a_full_reading() {
    let lab = Lab::new();
    let mut watch = lab.watch();
    lab.until(&mut watch, "the start", |f| !f.routes.is_empty());
    let readings = watch.readings();
    watch.limit_queue(1).unwrap();
    let routes: Vec<String> = (0..500)
        .map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.2\n", n / 250, n % 250))
        .collect();
    let batch = std::env::temp_dir().join(format!("{}-routes", lab.here));
    std::fs::write(&batch, routes.concat()).unwrap();
    lab.here(&format!("-batch {}", batch.display()));
    std::fs::remove_file(&batch).unwrap();
    lab.until(&mut watch, "all 500 routes", |f| {
        via(f, "10.1.249.0/24") == [hop(0, "192.0.2.2")]
    });
    let learnt = watch
        .published()
        .unwrap()
        .routes
        .iter()
        .filter(|r| r.prefix.to_string().starts_with("10."))
        .count();
    assert_eq!(learnt, 500);
    assert!(watch.overruns() > 0 && watch.readings() > readings);
}
