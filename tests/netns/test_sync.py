"""The sync link fails, and what listens on it is insulted. The pair ends equal, entry by entry, or never notices."""

import os
import struct
import unittest
import zlib

from labcase import RECOVER_S, VRF, LabCase, views, wait_equal, wait_in_sync, wait_until
from twinlab.nodeconfig import SYNC_PORT
from twinlab.shell import PYTHON, in_namespace, run


def hello(versions=(1, 1), node=99, lane=0, lanes=2, boot=7, damage=0):
    """A client's first bytes (sync/PROTOCOL.md R-2, R-3)."""
    body = struct.pack("!BBIBBBIQ", *versions, 0, node, lane, lanes, 1, boot) + b"\x07someone"
    return b"TWPS" + struct.pack("!HI", len(body), zlib.crc32(body) ^ damage) + body


# What is sent, and the cause it must be counted under.
INSULTS = {
    "noise": (b"\xff" + os.urandom(4095), "wrong-magic"),  # not by chance the protocol's first byte
    "zeros": (bytes(4096), "wrong-magic"),
    "a web request": (b"GET / HTTP/1.1\r\nHost: node1\r\n\r\n", "wrong-magic"),
    "an enormous length": (b"TWPS" + b"\xff" * 64, "hello-malformed"),
    "a damaged hello": (hello(damage=1), "hello-malformed"),
    "a foreign version": (hello(versions=(7, 9)), "version-rejected"),
    "an impossible node id": (hello(node=0), "node-id-rejected"),
    "an impossible lane": (hello(lane=5), "lane-rejected"),
    "half a hello": (hello()[:20], "hello-timeout"),
    "nothing": (b"", "hello-timeout"),
}
# Frames behind a good handshake: check, length, sequence, records.
FRAMES = {
    "a damaged frame": (struct.pack("!IIQ", 0x12345678, 4, 1) + b"\x00\x01\x03\x00", "frame-check"),
    "an oversized frame": (struct.pack("!IIQ", 0, 1 << 30, 1), "frame-oversized"),
}
STRANGER = "10.150.0.99"


class TestLink(LabCase):
    """Cuts."""

    def test_flows_removed_while_the_link_is_cut_are_gone_on_both_nodes_after_it_heals(self):
        """30 % of the flows end on the active node alone; the standby catches up, which costs what changed and no sweep."""
        self.traffic.server()
        sessions = self.open_sessions(self.clients * 2)
        self.traffic.udp(500).ask("begin")
        count = wait_equal(self.lab, at_least=self.clients * 3)
        self.lab.topology.cut("sync")
        wait_until("the lanes are seen to be down", lambda: views.lanes_down(self.node1), RECOVER_S)
        gone = self.traffic.addresses[: self.clients * 3 // 10]
        for address in gone:
            self.node1.ctl("flush", "conntrack", "vrf", VRF, "--src", address)
        left = views.entries(self.node1)
        # A third of what was removed is UDP, which comes back with its next packet.
        self.assertLessEqual(len(left), count * 9 // 10)
        self.assertGreater(len(views.entries(self.node2)), len(left), "the standby knew before the link was back")
        self.open_sessions(20, sources=self.traffic.addresses[-20:])
        before = views.worker_counters(self.node1)["walk_records"]
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=len(left))
        walked = views.worker_counters(self.node1)["walk_records"] - before
        swept = views.worker_counters(self.node2)["swept"]
        self.say(f"{count} entries, {count - len(left)} removed while cut; {walked} records to catch up, {swept} swept")
        self.assertGreater(walked, 0, "nothing was sent, so something else made the tables equal")
        self.assertLess(walked, count, "slots were sent whole")
        self.assertEqual(swept, 0)
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
        self.assert_all_alive(sessions)
        self.open_sessions(50)
        self.assert_none_lost(ping)
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=150)


    def test_links_of_the_smallest_and_of_the_largest_mtu_carry_a_resync(self):
        """1280 bytes, IPv6's least, and 9000; and one of each, as long as somebody has forgotten the other end."""
        self.traffic.server()
        self.open_sessions(self.clients)
        count = self.clients
        for mtus in ((1280, 1280), (9000, 9000), (1280, 9000)):
            with self.subTest(mtus=mtus):
                self.lab.topology.cut("sync")
                wait_until("the lanes are seen to be down", lambda: views.lanes_down(self.node1), 20)
                self.lab.topology.ip("fabric", [f"link set {port} mtu 9000" for port in ("sync1", "sync2", "sync")])
                for node, mtu in zip(self.lab.nodes, mtus):
                    self.lab.topology.ip(node, [f"link set sync0 mtu {mtu}"])
                self.open_sessions(50)
                count += 50
                self.lab.topology.heal("sync")
                wait_in_sync(self.lab, "node1")
                wait_equal(self.lab, at_least=count)


class TestInsults(LabCase):
    """Bytes that no peer would send."""

    def setUp(self):
        super().setUp()
        self.traffic.server()
        self.sessions = self.open_sessions(100)
        wait_equal(self.lab, at_least=100)
        self.before = {place: views.entries(node) for place, node in self.lab.nodes.items()}
        self.pids = self._pids()

    def test_garbage_on_the_sync_port_changes_nothing(self):
        """From the peer's own address: each connection is closed, counted by its cause, and no entry moves."""
        connections = self.connections()
        for name, (insult, cause) in INSULTS.items():
            for sender, victim in ((self.node2, self.node1), (self.node1, self.node2)):
                self._insult(name, sender, victim, insult, cause)
        self._nothing_has_changed()
        for node in self.lab.nodes.values():
            wait_until(f"every lane of {node.place} is up", lambda n=node: views.lanes_up(n, 2), RECOVER_S)
        self.assert_no_reconnects(connections)

    def test_a_stranger_on_the_sync_link_is_not_listened_to(self):
        """Another address than a configured peer's: closed unread."""
        run("ip", "-n", self.node2.namespace, "address", "add", f"{STRANGER}/24", "dev", "sync0")
        self._insult("a good hello", self.node2, self.node1, hello(), "unknown-address", source=STRANGER)
        self._nothing_has_changed()

    def test_garbage_behind_a_good_handshake_ends_that_connection_alone(self):
        """Lanes that it displaced come back; both tables stay equal."""
        for name, (insult, cause) in FRAMES.items():
            self._insult(name, self.node2, self.node1, hello(node=2, boot=os.getpid()) + insult, cause)
        self._nothing_has_changed()

    def _nothing_has_changed(self):
        self.assertEqual(self._pids(), self.pids, "a process has gone")
        wait_in_sync(self.lab, "node1")
        for place, node in self.lab.nodes.items():
            self.assertEqual(views.difference(self.before[place], views.entries(node)), [])
        self.assert_all_alive(self.sessions)
        self.open_sessions(20)
        wait_equal(self.lab, at_least=120)

    def _pids(self):
        return {place: (node.pid("dataplane"), node.pid("control")) for place, node in self.lab.nodes.items()}

    def _insult(self, name, sender, victim, data, cause, source=None):
        """Sends it, waits until the other side closes, and until it has counted why."""
        target, own = ("10.150.0.1", "10.150.0.2") if victim is self.node1 else ("10.150.0.2", "10.150.0.1")
        code = ("import socket,sys\n"
                f"s=socket.create_connection(('{target}',{SYNC_PORT}),{RECOVER_S},('{source or own}',0))\ns.settimeout({RECOVER_S})\n"
                "try:\n s.sendall(bytes.fromhex(sys.stdin.read()))\n while s.recv(4096): pass\n"
                "except ConnectionError: pass\n")
        before = self._counted(victim, cause)
        run(*in_namespace(sender.namespace, PYTHON, "-c", code), stdin=data.hex())
        wait_until(f"{victim.place} counts {cause} for {name}", lambda: self._counted(victim, cause) > before,
                   RECOVER_S)

    @staticmethod
    def _counted(node, cause):
        return sum(count["value"] for row in node.ctl("show", "event") for count in row["counters"]
                   if count["name"] == cause)


if __name__ == "__main__":
    unittest.main()
