"""Announcements that follow the role: the kernel has a route for each prefix of the pools while its node is active, and bgpd
announces what it finds there."""

import json
import time
import unittest

from labcase import CONVERGED_WITHIN_S, RECOVER_S, LabCase, LabError, other, views, wait_equal, wait_pair, wait_role, wait_until
from test_routing import CORE, SESSIONS, UPSTREAM
from twinlab.node import binaries
from twinlab.routers import NODES_AS, address_of
from twinlab.shell import run
from twinlab.topology import POOL_NET, ROUTER_ADDRESSES, ROUTERS, SERVER_FAR, SERVER_FAR_NET

PROTOCOL = "116"
# Of 198.51.100.1 to .14, in the lab's pool.
PREFIXES = ["198.51.100.1", "198.51.100.12/31", "198.51.100.14", "198.51.100.2/31", "198.51.100.4/30", "198.51.100.8/30"]


class AnnounceCase(LabCase):
    """What kernels have of the pools."""

    settings = ("announce_pools=true",)
    clients = 8

    def routes(self, node):
        """Blackhole routes with twinpath's protocol number, in the main table of a node's kernel."""
        shown = run("ip", "-n", node.namespace, "-j", "route", "show", "type", "blackhole", "proto", PROTOCOL)
        return sorted(route["dst"] for route in json.loads(shown or "[]"))

    def wait_routes(self, node, wanted):
        """Waits until these are there, and no others."""
        def probe():
            if (found := self.routes(node)) != wanted:
                raise LabError(f"they are {found}")
            return True
        wait_until(f"{node.place} has {len(wanted)} routes of pools", probe, RECOVER_S)

    def wait_announced_by(self, place):
        """Only this node's kernel has them."""
        self.wait_routes(self.lab.node(place), PREFIXES)
        self.wait_routes(self.lab.node(other(place)), [])


class TestPoolRoutes(AnnounceCase):
    """The kernel's side of it."""

    def test_routes_follow_the_role_and_traffic_does_not_notice_them(self):
        self.wait_announced_by("node1")
        self.traffic.server()
        sessions = self.open_sessions(20, 100)
        wait_equal(self.lab, at_least=20)
        self.node1.ctl("switchover", "group1")
        self.wait_announced_by("node2")
        wait_pair(self.lab, active="node2")
        self.assert_all_alive(sessions)
        self.node2.kill("dataplane")
        self.node1.set_state("master")
        self.wait_announced_by("node1")
        self.assert_all_alive(sessions)

    def test_a_killed_control_process_leaves_its_routes_and_the_next_one_puts_them_right(self):
        self.wait_announced_by("node1")
        self.node1.kill("control")
        self.assertEqual(self.routes(self.node1), PREFIXES, "forwarding goes on")
        # The role moves while nobody is there who could follow it.
        self.node2.set_state("master")
        wait_role(self.node2, "master")
        self.wait_routes(self.node2, PREFIXES)
        self.assertEqual(self.routes(self.node1), PREFIXES)
        self.node1.start("control")
        self.wait_announced_by("node2")

    def test_an_orderly_restart_of_the_control_process_moves_no_announcement(self):
        self.wait_announced_by("node1")
        self.node1.stop("control")
        self.assertEqual(self.routes(self.node1), PREFIXES, "forwarding goes on")
        self.node1.start("control")
        self.wait_announced_by("node1")

    def test_a_node_that_is_stopped_leaves_no_route_but_those_of_others(self):
        self.lab.topology.ip("node1", ["route add blackhole 203.0.113.77/32 proto 117"])
        self.wait_announced_by("node1")
        self.node1.stop("control")
        self.node1.stop("dataplane")
        # As the unit of the data process does.
        run(*self.lab.topology.inside("node1", binaries() / "twinpath-control", "--config", self.node1.config_file,
                                      "--withdraw"))
        self.assertEqual(self.routes(self.node1), [])
        shown = run("ip", "-n", self.node1.namespace, "route", "show", "203.0.113.77")
        self.assertIn("blackhole", shown, "somebody else's")

    def test_nodes_that_both_die_leave_nothing_behind_once_they_are_back(self):
        self.wait_announced_by("node1")
        for node in self.lab.nodes.values():
            node.kill()
        for node in self.lab.nodes.values():
            node.start("control")
        # Without a data process nothing is forwarded, though it takes a while until that is sure.
        for node in self.lab.nodes.values():
            self.wait_routes(node, [])


class TestBgpFollowsTheRole(AnnounceCase):
    """bgpd of both nodes redistributes what the kernel has; the next hop is each node's own address."""

    settings = ("announce_pools=true", "routing=bgp")
    clients = 96

    def setUp(self):
        super().setUp()
        wait_pair(self.lab, self.settings)
        uplinks = [addresses["wan0"] for addresses in ROUTER_ADDRESSES.values()]
        for place in self.lab.nodes:
            self.lab.routers[place].configure(
                f"ip prefix-list pools seq 5 permit {POOL_NET} le 32",
                "route-map pools permit 10", "match ip address prefix-list pools", "exit",
                f"router bgp {NODES_AS}", "address-family ipv4 unicast", f"no network {POOL_NET}",
                "redistribute kernel route-map pools",
                *(f"no neighbor {uplink} route-map announce out" for uplink in uplinks))

    def announced_by(self, router):
        """The nodes by whose addresses an upstream router sends to the pools' prefixes."""
        shown = json.loads(self.lab.routers[router].tell("show ip route bgp json"))
        hops = {hop.get("ip") for prefix, routes in shown.items() if prefix.startswith("198.51.100.") and prefix != POOL_NET
                for route in routes for hop in route["nexthops"] if hop.get("fib")}
        return {place for place in self.lab.nodes if address_of(place) in hops}

    def wait_upstream(self, place):
        """Waits until upstream routers send to this node, and to no other."""
        def probe():
            found = {router: self.announced_by(router) for router in ROUTERS}
            if any(nodes != {place} for nodes in found.values()):
                raise LabError(f"{found}")
            return True
        wait_until(f"only {place} announces the pools", probe, CONVERGED_WITHIN_S, 0.1)

    def test_a_failover_moves_the_announcement_and_connections_survive(self):
        self.wait_upstream("node1")
        for place in self.lab.nodes:
            self.wait_ways(place, SERVER_FAR_NET, UPSTREAM.values())
        for prefix in PREFIXES:
            self.wait_ways("server", prefix, CORE.values())
        server = self.traffic.server()
        sessions = self.open_sessions(SESSIONS, 100, target=SERVER_FAR)
        wait_equal(self.lab, at_least=SESSIONS)
        self.node1.ctl("switchover", "group1")
        self.wait_upstream("node2")
        wait_pair(self.lab, active="node2")
        self.assert_all_alive(sessions, what="connections after a switchover")
        wait_equal(self.lab, at_least=SESSIONS)
        died = time.monotonic()
        self.node2.kill("dataplane")
        self.node1.set_state("master")
        wait_role(self.node1, "master")
        self.wait_upstream("node1")
        self.assert_all_alive(sessions, what="connections after a failover")
        self.say(f"silence {sessions.ask('report', since=died)['gap_ms']} ms")
        self.assertEqual(sessions.ask("report")["resets"], 0)
        self.assert_no_conflicts(server, self.node1)


if __name__ == "__main__":
    unittest.main()
