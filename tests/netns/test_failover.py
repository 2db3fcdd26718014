"""The active node is killed under every kind of traffic; the flows go on through the other.

The same scenario with different threads, sync addresses and node shapes. What it proves: connections whose both
ends exchange data afterwards, a download intact to the last byte, no reset, no public port with two owners, tables
equal before and after, every lane and worker used, kernels that forwarded nothing.
"""

import time
import unittest

from labcase import RECOVER_S, SERVER6, LabCase, views, wait_equal, wait_pair, wait_still, wait_until
from twinlab.nodeconfig import knobs_of_nodes

INTERACTIVE_MS = 20


class Failover:
    """The scenario; the classes below choose the pair it is played on."""

    sessions, sessions6 = 200, 60

    def test_every_flow_survives_the_death_of_the_active_node(self):
        server = self.traffic.server()
        download = self.traffic.download(4 << 20)
        download.ask("begin")
        crowd = self.open_sessions(self.sessions)
        shell = self.open_sessions(8, INTERACTIVE_MS)
        others = self.start_ipv6()
        udp, ping = self.traffic.udp(250), self.traffic.ping(20)
        for program in (udp, ping):
            program.ask("begin")
        flows = {"TCP": crowd, "interactive TCP": shell, **others, "UDP": udp, "ping": ping}
        for name, program in flows.items():
            self.assert_all_alive(program, what=name)
        entries = wait_equal(self.lab, at_least=self.sessions + 2 * self.sessions6)
        knobs = knobs_of_nodes(self.settings)
        self.assert_lanes_and_workers_busy(self.node1, knobs["node1"].workers, knobs["node1"].event_threads)
        held = server.ask("flows")
        received = download.ask("progress")["bytes"]

        died = self.fail_over()

        survived = {name: self.assert_all_alive(program, what=f"{name} after the failover")
                    for name, program in flows.items()}
        wait_until("the download goes on",
                   lambda: download.ask("progress")["bytes"] > received + (1 << 20), RECOVER_S)
        gaps = {"download": download.ask("progress", since=died)["gap_ms"]}
        gaps.update({name: flows[name].ask("report", since=died)["gap_ms"] for name in ("interactive TCP", "ping")})
        self.say(f"{entries} entries; survived {survived}; silence in ms {gaps}")
        self.assert_same_public_side(server, held)
        self.assert_no_conflicts(server, self.node2)
        newcomers = self.open_sessions(self.sessions)
        self.assert_no_conflicts(server, self.node2)

        self.node1.start()
        wait_pair(self.lab, self.settings, active="node2")
        wait_equal(self.lab, at_least=entries)
        flows["new TCP"] = newcomers
        for name, program in flows.items():
            self.assert_all_alive(program, what=f"{name} after the return")
        self.assert_intact(download, server)
        resets = sum(program.ask("report").get("resets", 0) for program in flows.values())
        self.assertEqual(resets + server.ask("report")["resets"], 0, "connections that were reset")
        self.assert_lanes_and_workers_busy(self.node2, knobs["node2"].workers, knobs["node2"].event_threads)

    def start_ipv6(self):
        """Connections opened from inside, and, which IPv4 behind NAT can't have, from outside."""
        self.traffic.server("client", "lan0")
        outward = self.open_sessions(self.sessions6, sources=self.traffic.addresses6, target=SERVER6)
        inward = self.open_sessions(self.sessions6, place="server", sources=[SERVER6],
                                    target=self.traffic.addresses6[0])
        ping = self.traffic.ping(20, self.traffic.addresses6[:1], SERVER6)
        ping.ask("begin")
        return {"IPv6 TCP outward": outward, "IPv6 TCP inward": inward, "IPv6 ping": ping}

    def assert_same_public_side(self, server, held):
        """No survivor was given another address or port."""
        now = server.ask("flows")
        for kind in ("tcp", "udp"):
            missing = {tuple(flow) for flow in held[kind]} - {tuple(flow) for flow in now[kind]}
            self.assertEqual(missing, set(), f"{kind} flows whose public side changed")

    def assert_intact(self, download, server):
        """The bytes that left are the bytes that came."""
        mine = download.ask("finish", within_s=20, patience_s=30)
        self.assertTrue(mine["done"], mine["error"])
        theirs = server.ask("report")["downloads"][mine["inside"]]
        self.assertEqual((mine["bytes"], mine["sha256"]), (theirs["bytes"], theirs["sha256"]))
        self.assertEqual(mine["resets"], 0)


class TestTwoAndTwo(Failover, LabCase):
    """Two workers, two event threads, IPv4 sync addresses: the plain pair, with more connections."""

    sessions, sessions6 = 400, 100


class TestOneEventThread(Failover, LabCase):
    """One lane carries everything."""

    settings = ("event_threads=1",)


class TestFourEventThreads(Failover, LabCase):
    """More lanes than cores."""

    settings = ("event_threads=4",)


class TestUnequalNodes(Failover, LabCase):
    """Two workers and one event thread against one worker and three: the wire knows neither."""

    settings = ("node1.workers=2", "node1.event_threads=1", "node2.workers=1", "node2.event_threads=3")


class TestIpv6Sync(Failover, LabCase):
    """Lanes over IPv6."""

    settings = ("sync_family=6",)


class TestReturn(LabCase):
    """The killed master is back before anybody noticed."""

    def test_a_master_restarted_within_a_second_imports_instead_of_sweeping(self):
        """It comes back empty, with `state = "master"` in its file: its standby must lose nothing to it."""
        self.traffic.server()
        crowd = self.open_sessions(200)
        wait_equal(self.lab, at_least=200)
        before = views.entries(self.node2)
        began = time.monotonic()
        self.node1.kill()
        self.node1.start(wait=False)
        self.say(f"killed and started again after {(time.monotonic() - began) * 1000:.0f} ms")
        self.node1.wait_running()
        nodes = self.lab.nodes.values()
        wait_until("exactly one node is master",
                   lambda: sorted(views.role(node) for node in nodes) == ["backup", "master"], RECOVER_S, 0.1)
        wait_equal(self.lab, at_least=200)
        for node in self.lab.nodes.values():
            lost = before.keys() - views.entries(node).keys()
            self.assertEqual(lost, set(), f"entries that {node.place} lost")
        self.assert_all_alive(crowd, what="connections after the restart")
        self.assertEqual(crowd.ask("report")["resets"], 0)

    def test_nothing_flows_without_the_data_processes(self):
        """Both data processes stop in order; the download stands still; nobody else forwards."""
        self.traffic.server()
        download, ping = self.traffic.download(4 << 20), self.traffic.ping(20)
        for program in (download, ping):
            program.ask("begin")
        wait_until("bytes arrive", lambda: download.ask("progress")["bytes"] > 1 << 20, RECOVER_S)
        for node in (self.node2, self.node1):
            node.stop("dataplane")
        # Its kernel may hold bytes still that came before.
        wait_still("the download", lambda: download.ask("progress")["bytes"])
        stood_at = download.ask("progress")["bytes"]
        self.assertEqual(ping.ask("exchange", within_s=2)["survived"], 0, "echo requests are still answered")
        self.assertEqual(download.ask("progress")["bytes"], stood_at, "bytes still arrive")


if __name__ == "__main__":
    unittest.main()
