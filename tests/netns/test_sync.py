"""The sync link fails, and what listens on it is insulted. The pair ends equal, entry by entry, or never notices."""

import os
import struct
import unittest

from labcase import VRF, LabCase, views, wait_equal, wait_in_sync, wait_until
from twinlab.nodeconfig import SYNC_PORT
from twinlab.shell import PYTHON, in_namespace, run

INSULTS = {
    "noise": os.urandom(4096),
    "zeros": bytes(4096),
    "a web request": b"GET / HTTP/1.1\r\nHost: node1\r\n\r\n",
    "an enormous length": struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF) + bytes(64),
    "half a frame": b"\x10\x00",
    "nothing": b"",
}


class TestLink(LabCase):
    """Cuts."""

    def test_flows_removed_while_the_link_is_cut_are_gone_on_both_nodes_after_it_heals(self):
        """30 % of the flows end on the active node alone; the resync's sweep takes them from the standby."""
        self.traffic.server()
        sessions = self.open_sessions(self.clients * 2)
        self.traffic.udp(500).ask("begin")
        count = wait_equal(self.lab, at_least=self.clients * 3)
        self.lab.topology.cut("sync")
        wait_until("the lanes are seen to be down",
                   lambda: all(c["connection_status"] != "established" for c in views.peer(self.node1)["clients"]), 20)
        gone = self.traffic.addresses[: self.clients * 3 // 10]
        for address in gone:
            self.node1.ctl("flush", "conntrack", "vrf", VRF, "--src", address)
        left = views.entries(self.node1)
        self.assertLessEqual(len(left), count * 8 // 10)
        self.assertGreater(len(views.entries(self.node2)), len(left), "the standby knew before the link was back")
        self.open_sessions(20, sources=self.traffic.addresses[-20:])
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=len(left))
        swept = views.worker_counters(self.node2)["swept"]
        self.say(f"{count} entries, {count - len(left)} removed while cut, {swept} swept")
        self.assertGreater(swept, 0, "nothing was swept, so something else made the tables equal")
        self.assertGreater(sessions.ask("exchange", within_s=10)["survived"], 0)

    def test_a_link_that_loses_every_frame_for_a_while_is_caught_up(self):
        """No carrier loss to notice: connections hang, time out or recover; the tables end equal either way."""
        self.traffic.server()
        self.open_sessions(100)
        wait_equal(self.lab, at_least=100)
        self.lab.topology.cut("sync1", silent=True)
        self.open_sessions(100)
        self.lab.topology.heal("sync1")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=200)

    def test_user_traffic_does_not_notice_a_lost_sync_link(self):
        """Forwarding never waits for sync."""
        self.traffic.server()
        sessions, ping = self.open_sessions(100, 100), self.traffic.ping(20)
        ping.ask("begin")
        self.assert_all_alive(ping)
        self.lab.topology.cut("sync")
        self.assert_all_alive(sessions, within_s=5)
        self.open_sessions(50)
        report = ping.ask("report")
        self.assertLessEqual(report["lost"], 1, "echo replies lost while the sync link was down")
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=150)


class TestInsults(LabCase):
    """Bytes that no peer would send."""

    def test_garbage_on_the_sync_port_changes_nothing(self):
        """From the peer's own address, too: connections are closed, counted, and no entry moves."""
        self.traffic.server()
        sessions = self.open_sessions(100)
        wait_equal(self.lab, at_least=100)
        before = {place: views.entries(node) for place, node in self.lab.nodes.items()}
        pids = {place: (node.pid("dataplane"), node.pid("control")) for place, node in self.lab.nodes.items()}
        for name, insult in INSULTS.items():
            for sender, target in ((self.node2, "10.150.0.1"), (self.node1, "10.150.0.2")):
                self._insult(sender, target, insult)
            self.say(f"sent {name}")
        for place, node in self.lab.nodes.items():
            self.assertEqual((node.pid("dataplane"), node.pid("control")), pids[place], f"{place} lost a process")
            self.assertEqual(views.difference(before[place], views.entries(node)), [])
        self.assertGreater(sum(self._refused(node) for node in self.lab.nodes.values()), 0, "no refusal was counted")
        wait_in_sync(self.lab, "node1")
        self.assert_all_alive(sessions)
        self.open_sessions(20)
        wait_equal(self.lab, at_least=120)

    def _insult(self, sender, target, data):
        """Sends it and waits until the other side closes, or two seconds: a silent wait for more is allowed."""
        code = ("import socket,sys\n"
                f"s=socket.create_connection(('{target}',{SYNC_PORT}),2)\ns.settimeout(2)\n"
                "try:\n s.sendall(bytes.fromhex(sys.stdin.read())); s.shutdown(1)\n while s.recv(4096): pass\n"
                "except (TimeoutError, ConnectionError): pass\n")
        run(*in_namespace(sender.namespace, PYTHON, "-c", code), stdin=data.hex())

    @staticmethod
    def _refused(node):
        """Everything an event thread counts about connections and frames it turned away."""
        words = ("refused", "rejected", "malformed", "bad", "closed", "error", "foreign", "unknown")
        return sum(count["value"] for row in node.ctl("show", "event") for count in row["counters"]
                   if any(word in count["name"] for word in words)) \
            + views.peer(node)["local_node"]["receive_error"]


if __name__ == "__main__":
    unittest.main()
