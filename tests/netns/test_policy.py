"""Rules count and tell what they met; an operator removes conntracks by what they are."""

import struct
import unittest

from labcase import RECOVER_S, VRF, LabCase, views, wait_equal, wait_until
from packetcase import CLIENT, CLIENT_MAC, LAN_MAC, PacketCase
from twinlab import packets
from twinlab.packets import UDP
from twinlab.topology import SERVER


class TestRules(PacketCase):
    """Hit counters and log lines."""

    def configuration(self, text):
        logged = text.replace('id = 10\ninbound = "lan"', 'id = 10\nlog = true\ninbound = "lan"')
        self.assertNotEqual(logged, text, "the template has changed")
        return logged

    def hits(self):
        """Hits by rule."""
        return {row["id"]: row["hits"] for row in self.node1.ctl("show", "fp-firewall", "rules", "vrf", VRF)}

    def test_a_rule_counts_and_logs_first_packets_only(self):
        """Three flows of several packets each: three hits of one rule, none of others, a line for each; what no rule
        names is counted for the default.
        """
        for port in (6100, 6101, 6102):
            for number in range(3):
                data = b"packet" + struct.pack("!HH", port, number)
                self.outward(packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, port, SERVER, 7001, data)))
        default = self.hits()[None]
        stray = packets.ipv4("100.128.1.1", SERVER, UDP, packets.udp("100.128.1.1", 6103, SERVER, 7001, b"no rule"))
        self.inside.ask("send", frames=[packets.ethernet(LAN_MAC, CLIENT_MAC, stray).hex()] * 2)
        wait_until("the default has decided twice", lambda: self.hits()[None] == default + 2, RECOVER_S)
        hits = self.hits()
        self.assertEqual((hits[10], hits[20], hits[30]), (3, 0, 0))
        for port in (6100, 6101, 6102):
            wait_until(f"a line about port {port}", lambda p=port: self._logged(p), RECOVER_S)
        self.assertEqual(len(self._logged("")), 3, "one line per first packet")

    def _logged(self, port):
        lines = self.node1.log_tail("dataplane", 1000).splitlines()
        return [line for line in lines if "firewall rule" in line and f"{CLIENT}:{port}" in line]


class TestFlush(LabCase):
    """Removal by filter, on both nodes at once."""

    clients = 8

    def count(self, *filters):
        """What `show conntrack --count` says."""
        return self.node1.ctl("show", "conntrack", "vrf", VRF, "--count", *filters)["count"]

    def test_a_filter_removes_what_it_names_and_nothing_else(self):
        """By source, by protocol, by port; the standby follows; other flows never notice."""
        self.traffic.server()
        sessions = self.open_sessions(64, sources=self.traffic.addresses[:4])
        self.open_sessions(16, sources=self.traffic.addresses[4:6])
        udp = self.traffic.udp(250, sources=self.traffic.addresses[6:8])
        udp.ask("exchange", within_s=RECOVER_S)
        wait_equal(self.lab, at_least=82)
        self.assertEqual((self.count("--proto", "udp"), self.count("--dport", "7000"), self.count("--state", "closing")),
                         (2, 80, 0))
        victim = self.traffic.addresses[4]
        self.assertEqual(self.count("--src", victim, "--proto", "tcp"), 8)
        for filters, left in ((("--src", victim), 74), (("--proto", "udp"), 72),
                              (("--src", self.traffic.addresses[5], "--dport", "7000"), 64),
                              (("--dst", "203.0.113.0/24"), 64)):
            self.node1.ctl("flush", "conntrack", "vrf", VRF, *filters)
            wait_until(f"{left} entries are left on both nodes",
                       lambda n=left: {len(views.entries(node)) for node in self.lab.nodes.values()} == {n}, RECOVER_S)
        self.assert_all_alive(sessions)
        self.node1.ctl("flush", "conntrack")
        wait_until("nothing is left",
                   lambda: {len(views.entries(node)) for node in self.lab.nodes.values()} == {0}, RECOVER_S)

    def test_a_limit_shows_that_many(self):
        """`--limit` bounds the list, `--owner` tells whose entries they are."""
        self.traffic.server()
        self.open_sessions(40)
        wait_equal(self.lab, at_least=40)
        shown = self.node1.ctl("show", "conntrack", "vrf", VRF, "--limit", "7")
        self.assertEqual(len(shown["rows"]), 7)
        self.assertEqual((self.count("--owner", "local"), self.count("--owner", "peer")), (40, 0))
        there = self.node2.ctl("show", "conntrack", "vrf", VRF, "--count", "--owner", "peer")["count"]
        self.assertEqual(there, 40)


if __name__ == "__main__":
    unittest.main()
