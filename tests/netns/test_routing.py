"""Routing daemons beside the appliances: FRR finds the ways, twinpath sends by them and nobody else does."""

import json
import subprocess
import time
import unittest

from labcase import CONVERGED_WITHIN_S, RECOVER_S, LabCase, LabError, views, wait_equal, wait_role, wait_until
from twinlab.routers import UPSTREAM_AS
from twinlab.scenario import wait_elected
from twinlab.shell import in_namespace, run
from twinlab.topology import (POOL_NET, ROUTER_ADDRESSES, ROUTERS, SERVER, SERVER_FAR, SERVER_FAR_NET, WAN_GATEWAY)

SESSIONS = 200
UPSTREAM = {router: ROUTER_ADDRESSES[router]["wan0"] for router in ROUTERS}
CORE = {router: ROUTER_ADDRESSES[router]["core0"] for router in ROUTERS}

# Which flows come out of the appliances at an upstream router, by public address, protocol and port.
WITNESS = """
table inet ways {
    set flows { type ipv4_addr . inet_proto . inet_service; size 65536; flags dynamic; }
    chain seen {
        type filter hook forward priority 0; policy accept;
        iifname "wan0" meta l4proto { tcp, udp } update @flows { ip saddr . meta l4proto . th sport }
    }
}
"""


class RoutedCase(LabCase):
    """A pair between subscribers and two upstream routers. What it has learned of the server is by both."""

    settings = ("routing=bgp",)
    prefix = SERVER_FAR_NET

    def setUp(self):
        super().setUp()
        for place in self.lab.nodes:
            self.wait_ways(place, self.prefix, UPSTREAM.values())
        for router in ROUTERS:
            self.wait_ways(router, POOL_NET, [WAN_GATEWAY])
            run(*in_namespace(self.lab.topology.namespace(router), "nft", "-f", "-"), stdin=WITNESS)
        self.wait_ways("server", POOL_NET, CORE.values())
        self.server = self.traffic.server()

    def start_traffic(self):
        """TCP connections and UDP flows to what only the routing daemons know the way to."""
        sessions = self.open_sessions(SESSIONS, 100, target=SERVER_FAR)
        datagrams = self.traffic.udp(50, target=SERVER_FAR)
        datagrams.ask("begin")
        self.assert_all_alive(datagrams, what="UDP flows")
        return sessions, datagrams

    def assert_going_on(self, sessions, datagrams, when):
        """Nobody has lost its connection."""
        self.assert_all_alive(sessions, what=f"connections {when}")
        self.assert_all_alive(datagrams, what=f"UDP flows {when}")
        self.assertEqual(sessions.ask("report")["resets"], 0, when)

    def flows_by_way(self, sessions, datagrams):
        """What came by each upstream router while every flow has exchanged data."""
        for router in ROUTERS:
            run(*in_namespace(self.lab.topology.namespace(router), "nft", "flush", "set", "inet", "ways", "flows"))
        self.assert_going_on(sessions, datagrams, "while the ways are looked at")
        return {router: self._flows_at(router) for router in ROUTERS}

    def _flows_at(self, router):
        shown = json.loads(run(*in_namespace(self.lab.topology.namespace(router), "nft", "-j", "list", "set", "inet", "ways",
                                             "flows")))
        elements = next(entry["set"] for entry in shown["nftables"] if "set" in entry).get("elem", [])
        return {json.dumps(element.get("elem", {}).get("val", element)) for element in elements}

    def wait_flows(self, what, sessions, datagrams, wanted):
        """Waits until the flows go as `wanted` says: a node sends by what its kernel has a moment later, and an upstream
        router may see the last packet of before. Returns them, looked at once more."""
        def probe():
            flows = self.flows_by_way(sessions, datagrams)
            if not wanted(flows):
                raise LabError(f"{len(flows['up1'])} and {len(flows['up2'])} by either, "
                               f"{len(flows['up1'] & flows['up2'])} by both")
            return True
        wait_until(what, probe, CONVERGED_WITHIN_S, 0.1)
        return self.flows_by_way(sessions, datagrams)

    def assert_spread(self, sessions, datagrams):
        """Both ways are used, each flow uses one."""
        flows = self.wait_flows("each flow goes by one way, and both are used", sessions, datagrams,
                                lambda flows: flows["up1"] and flows["up2"] and not flows["up1"] & flows["up2"])
        one, two = flows.values()
        self.say(f"flows by way: {len(one)} and {len(two)}")
        self.assertEqual(one & two, set(), "flows that came by both ways")
        self.assertGreaterEqual(len(one | two), SESSIONS)
        self.assertTrue(one and two, "a way that nobody uses")

    def assert_moves(self, sessions, datagrams, take_away, give_back):
        """A way is withdrawn: everybody goes by the other one, and by both when it is back."""
        take_away()
        for place in self.lab.nodes:
            self.wait_ways(place, self.prefix, [UPSTREAM["up2"]])
        self.wait_ways("server", POOL_NET, [CORE["up2"]])
        self.assert_going_on(sessions, datagrams, "after a way was withdrawn")
        flows = self.wait_flows("nobody goes by the way that was withdrawn", sessions, datagrams, lambda flows: not flows["up1"])
        self.assertEqual(flows["up1"], set(), "flows by the way that was withdrawn")
        give_back()
        for place in self.lab.nodes:
            self.wait_ways(place, self.prefix, UPSTREAM.values())
        self.wait_ways("server", POOL_NET, CORE.values())
        self.assert_going_on(sessions, datagrams, "after the way has come back")
        self.assert_spread(sessions, datagrams)

    def assert_survives_its_data_process(self, sessions, datagrams):
        """The active node's data process dies, the other node takes over."""
        died = time.monotonic()
        self.node1.kill("dataplane", wait=False)
        self.node2.set_state("master")
        wait_role(self.node2, "master")
        self.assert_going_on(sessions, datagrams, "after the take-over")
        self.say(f"silence {sessions.ask('report', since=died)['gap_ms']} ms")


class TestBgp(RoutedCase):
    """bgpd on both appliances. Both announce the pool, by the virtual address."""

    def neighbors_of_up1(self, command):
        """An operator of the upstream router closes, or opens, its sessions with the appliances."""
        self.lab.routers["up1"].configure(f"router bgp {UPSTREAM_AS}",
                                          *(command.format(self.lab.routers[place].address) for place in self.lab.nodes))

    def test_flows_keep_their_way_and_move_when_it_is_withdrawn(self):
        sessions, datagrams = self.start_traffic()
        self.assert_spread(sessions, datagrams)
        self.assert_moves(sessions, datagrams, lambda: self.neighbors_of_up1("neighbor {} shutdown"),
                          lambda: self.neighbors_of_up1("no neighbor {} shutdown"))
        self.assert_no_conflicts(self.server, self.node1)

    def test_a_dead_data_process_changes_no_route_and_costs_no_connection(self):
        sessions, datagrams = self.start_traffic()
        wait_equal(self.lab, at_least=SESSIONS)
        self.assert_survives_its_data_process(sessions, datagrams)
        for router in ROUTERS:
            self.assertEqual(self.lab.routers[router].ways(POOL_NET), [WAN_GATEWAY])
        self.assertEqual(self.lab.routers["node1"].ways(self.prefix), sorted(UPSTREAM.values()), "FRR goes on beside it")
        self.assert_no_conflicts(self.server, self.node2)


class TestBgpAndVrrp(RoutedCase):
    """keepalived moves the addresses, bgpd finds the ways, and both share the appliance's interfaces."""

    settings = ("routing=bgp", "ha=vrrp")

    def setUp(self):
        super().setUp()
        self.active, self.standby = (self.lab.node(place) for place in wait_elected(self.lab))

    def test_a_node_that_dies_with_its_routing_daemons_takes_nothing_along(self):
        sessions, datagrams = self.start_traffic()
        wait_equal(self.lab, at_least=SESSIONS)
        died = time.monotonic()
        self.active.kill()
        self.lab.routers[self.active.place].kill()
        self.lab.topology.forget_kernel(self.active.place)
        wait_role(self.standby, "master")
        self.assert_going_on(sessions, datagrams, "after the take-over")
        self.say(f"silence {sessions.ask('report', since=died)['gap_ms']} ms")
        for router in ROUTERS:
            self.assertEqual(self.lab.routers[router].ways(POOL_NET), [WAN_GATEWAY])
        # The upstream routers have given the dead one up, and nobody minds.
        wait_until("its sessions are given up", lambda: not self.sessions_with(self.active.place), CONVERGED_WITHIN_S, 0.5)
        self.assert_going_on(sessions, datagrams, "after its sessions were given up")
        self.lab.routers[self.active.place].start()
        self.active.start()
        self.wait_ways(self.active.place, self.prefix, UPSTREAM.values())
        wait_elected(self.lab, self.standby.place)
        wait_equal(self.lab, at_least=SESSIONS)
        self.assert_going_on(sessions, datagrams, "in the end")

    def sessions_with(self, place):
        """The upstream routers that have a BGP session with a node."""
        address = self.lab.routers[place].address
        shown = {router: json.loads(self.lab.routers[router].tell("show bgp summary json")) for router in ROUTERS}
        return [router for router, summary in shown.items()
                if summary["ipv4Unicast"]["peers"][address]["state"] == "Established"]


class TestBgpAndVrrpOnTaps(TestBgpAndVrrp):
    """The same on ports of which the kernels see nothing: both speak by taps, and adverts wait for a data process that others
    keep from its core."""

    settings = (*TestBgpAndVrrp.settings, "exception=tap", "advert_interval_ms=1000")


class TestOspf(RoutedCase):
    """ospfd on both appliances. The upstream routers have a static route for the pool, to the virtual address."""

    settings = ("routing=ospf",)
    prefix = f"{SERVER_FAR}/32"

    def test_flows_follow_the_area_and_survive_a_failover(self):
        sessions, datagrams = self.start_traffic()
        self.assert_spread(sessions, datagrams)
        self.assert_moves(sessions, datagrams, lambda: self.lab.topology.cut("core1"),
                          lambda: self.lab.topology.heal("core1"))
        wait_equal(self.lab, at_least=SESSIONS)
        died = self.fail_over()
        self.assert_going_on(sessions, datagrams, "after the take-over")
        self.say(f"silence {sessions.ask('report', since=died)['gap_ms']} ms")
        self.assert_no_conflicts(self.server, self.node2)


class TestOspfOnTaps(TestOspf):
    """The same on ports of which the kernels see nothing: hellos and link states, to groups and to neighbours, go by taps."""

    settings = (*TestOspf.settings, "exception=tap")

    def setUp(self):
        super().setUp()
        for place in self.lab.nodes:
            self.wait_adjacent(place)

    def wait_adjacent(self, place):
        """Waits until a node is adjacent to both upstream routers, as they see it too."""
        address = self.lab.routers[place].address
        wait_until(f"{place} is adjacent to {', '.join(ROUTERS)}",
                   lambda: all(self.states(place).get(ROUTER_ADDRESSES[router]["wan0"]) == "Full"
                               and self.states(router).get(address) == "Full" for router in ROUTERS), CONVERGED_WITHIN_S, 0.2)

    def states(self, place):
        """How far each OSPF neighbour of a place has come, by its router id."""
        shown = json.loads(self.lab.routers[place].tell("show ip ospf neighbor json"))
        return {name: of_link[0]["nbrState"].split("/")[0] for name, of_link in shown["neighbors"].items()}

    def test_a_dead_data_process_ends_its_adjacencies_and_no_connection(self):
        sessions, datagrams = self.start_traffic()
        wait_equal(self.lab, at_least=SESSIONS)
        for node in (self.node1, self.node2):
            self.assertGreater(views.worker_counters(node)["punted_routing"], 0)
            self.assertEqual(views.drops(node)["punted"], 0, f"{node.place} leaves frames to a kernel that can't see them")
        self.assert_survives_its_data_process(sessions, datagrams)
        wait_until("it is adjacent to nobody", lambda: not self.states("node1"), CONVERGED_WITHIN_S, 0.2)
        self.node1.start("dataplane")
        self.wait_adjacent("node1")
        self.wait_ways("node1", self.prefix, UPSTREAM.values())
        wait_role(self.node1, "backup")
        wait_equal(self.lab, at_least=SESSIONS)
        self.fail_over("node2")
        self.assert_going_on(sessions, datagrams, "by the node that has returned")
        self.assert_no_conflicts(self.server, self.node1)

    def test_a_node_that_is_the_designated_router_is_told_what_changes(self):
        """Other routers tell it by a group that only designated routers belong to."""
        sessions, datagrams = self.start_traffic()
        for router in ROUTERS:
            self.lab.routers[router].configure("interface wan0", "ip ospf priority 0")
        for place in self.lab.nodes:
            self.lab.routers[place].configure("interface wan0", "ip ospf priority 9")
        wait_until("the nodes are the designated router and its backup", lambda: self.link_states() == {"DR", "Backup"},
                   CONVERGED_WITHIN_S, 0.2)
        for place in self.lab.nodes:
            self.wait_adjacent(place)
        # pylint: disable-next=consider-using-with  # it ends with the packet it waits for
        dump = subprocess.Popen(self.lab.topology.inside("node2", "tcpdump", "-nl", "-i", "wan0", "-Q", "in", "-c", "1", "ip", "proto",
                                                         "ospf", "and", "dst", "224.0.0.6"),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(dump.wait, 30)
        self.addCleanup(dump.kill)
        self.assertTrue(any("listening on wan0" in line for line in iter(dump.stderr.readline, "")))
        self.assert_moves(sessions, datagrams, lambda: self.lab.topology.cut("core1"),
                          lambda: self.lab.topology.heal("core1"))
        self.assertIn("OSPFv2, LS-Update", dump.communicate(timeout=RECOVER_S)[0])
        self.fail_over()
        self.assert_going_on(sessions, datagrams, "after the take-over")
        self.assert_no_conflicts(self.server, self.node2)

    def link_states(self):
        """What the nodes are on the link to the upstream routers."""
        shown = (json.loads(self.lab.routers[place].tell("show ip ospf interface wan0 json")) for place in self.lab.nodes)
        return {interfaces["interfaces"]["wan0"]["state"] for interfaces in shown}


ROUTES, BATCH = 50_000, 10_000
OTHER = "192.0.2.11"


class TestManyRoutes(LabCase):
    """A large table comes and goes under traffic."""

    def test_fifty_thousand_routes_are_loaded_changed_and_removed_under_traffic(self):
        server = self.traffic.server()
        sessions, ping = self.open_sessions(SESSIONS, 100), self.traffic.ping(20)
        ping.ask("begin")
        self.assert_all_alive(ping)
        prefixes = [f"{20 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24" for n in range(ROUTES)]
        for verb in ("add", "replace", "del"):
            via = {"add": f"via {SERVER}", "replace": f"via {OTHER}", "del": ""}[verb]
            lines = [f"route {verb} {prefix} {via} dev wan0 metric 20" for prefix in prefixes]
            # The last line is the one that everybody waits for.
            if verb == "add":
                lines.append(f"route add {SERVER_FAR_NET} via {SERVER} dev wan0")
            for place in self.lab.nodes:
                for first in range(0, len(lines), BATCH):
                    self.lab.topology.ip(place, lines[first:first + BATCH])
            self.assert_all_alive(sessions, what=f"connections while routes are told ({verb})")
            self.open_sessions(10, target=SERVER_FAR)
        self.assert_all_alive(ping)
        report = ping.ask("report")
        self.say(f"echo requests {report['sent']}, unanswered {report['lost']}")
        self.assertEqual(server.ask("report")["resets"], 0)
        self.assertEqual(sessions.ask("report")["resets"], 0)
        self.assertEqual(views.role(self.node1), "master")
        wait_equal(self.lab, at_least=SESSIONS)


if __name__ == "__main__":
    unittest.main()
