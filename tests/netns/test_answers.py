"""What a node says itself: errors about packets it doesn't forward, and answers for addresses that move with its role."""

import struct
import unittest

from labcase import RECOVER_S, views, wait_until
from packetcase import CLIENT, CLIENT6, CLIENT_MAC, LAN_MAC, SERVER_MAC, WAN_MAC, PacketCase
from twinlab import packets
from twinlab.packets import ICMP, ICMPV6, TCP, UDP
from twinlab.topology import (LAN_GATEWAY, LAN_GATEWAY6, NODE_ADDRESSES, SERVER, SERVER6, WAN_GATEWAY,
                              WAN_GATEWAY6)

NODE, NODE6 = (address.split("/")[0] for address in NODE_ADDRESSES["node1"]["lan0"])
WAN_MTU = 1400
UNROUTED = "203.0.113.1"
# Outside what the lab's rules accept.
REJECTED = "100.128.1.1"
SYN, ACK, RST = 2, 16, 4

MORE = """
[[vrf.firewall.rule]]
id = 50
inbound = "lan"
source = ["100.128.0.0/16"]
action = "reject"
"""


class TestAnswers(PacketCase):
    """Each frame is compared byte for byte."""

    def configuration(self, text):
        text = text.replace('port = "wan0"\nvrf', f'port = "wan0"\nmtu = {WAN_MTU}\nvrf')
        self.assertIn("mtu", text, "the template has changed")
        return text + MORE

    def expect(self, packet, answer, outside=False):
        """`packet`, sent from inside or outside, is answered by `answer`."""
        place, ends = (self.outside, (WAN_MAC, SERVER_MAC)) if outside else (self.inside, (LAN_MAC, CLIENT_MAC))
        wanted = packets.ethernet(*reversed(ends), answer)
        kind = slice(12, 24)
        back = self.cross(place, packets.ethernet(*ends, packet), place,
                          lambda f: f[kind][:2] == wanted[kind][:2] and f[-8:] == wanted[-8:])
        self.assertEqual(back, wanted)

    @staticmethod
    def error4(kind, code, offender, rest=bytes(4)):
        """An ICMP error of the node to the offender's sender, quoting what fits (RFC 1812, section 4.3.2.3)."""
        sender = ".".join(str(byte) for byte in offender[12:16])
        return packets.ipv4(NODE, sender, ICMP, packets.icmp(kind, code, rest, offender[:548]), identification=0,
                            service=0xC0)

    @staticmethod
    def error6(kind, code, offender, rest=bytes(4)):
        """An ICMPv6 error of the node (RFC 4443, section 2.4)."""
        return packets.ipv6(NODE6, CLIENT6, ICMPV6,
                            packets.icmpv6(NODE6, CLIENT6, kind, code, rest, offender[:1280 - 48]))

    def test_the_last_hop_of_a_traceroute_probe_is_the_node(self):
        """TTL 1: time exceeded, no port taken, no conntrack (RFC 792; RFC 4443, section 3.3)."""
        probe = packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, 6000, SERVER, 33434, b"traceroute probe"), ttl=1)
        self.expect(probe, self.error4(11, 0, probe))
        probe = packets.ipv6(CLIENT6, SERVER6, UDP, packets.udp(CLIENT6, 6000, SERVER6, 33434, b"sixth probe"), hops=1)
        self.expect(probe, self.error6(3, 0, probe))
        self.assertEqual(views.entries(self.node1), {})
        self.assertEqual(views.blocks(self.node1), [])
        self.assertGreaterEqual(views.drops(self.node1)["ttl-exceeded"], 2)

    def test_a_packet_beyond_the_outgoing_mtu_tells_its_sender_the_mtu(self):
        """RFC 1191, section 4; RFC 4443, section 3.2."""
        rest = struct.pack("!I", WAN_MTU)
        datagram = packets.udp(CLIENT, 6001, SERVER, 7001, bytes(range(256)) * 5 + bytes(112))
        offender = packets.ipv4(CLIENT, SERVER, UDP, datagram)
        self.assertGreater(len(offender), WAN_MTU)
        self.expect(offender, self.error4(3, 4, offender, rest))
        datagram = packets.udp(CLIENT6, 6001, SERVER6, 7001, bytes(range(256)) * 5 + bytes(112))
        offender = packets.ipv6(CLIENT6, SERVER6, UDP, datagram)
        self.expect(offender, self.error6(2, 0, offender, rest))
        self.assertGreaterEqual(views.drops(self.node1)["too-big"], 2)
        exact = bytes(WAN_MTU - 28 - 8) + b"it fits."
        self.outward(packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, 6001, SERVER, 7001, exact)))

    def test_rejected_packets_are_answered_and_dropped_ones_are_not(self):
        """Administratively prohibited for UDP, a reset for TCP (RFC 9293, section 3.10.7.1); silence for drop."""
        offender = packets.ipv4(REJECTED, SERVER, UDP, packets.udp(REJECTED, 6002, SERVER, 7001, b"rejected"))
        self.expect(offender, self.error4(3, 13, offender))
        segment = packets.tcp(REJECTED, 6002, SERVER, 7000, SYN, sequence=77)
        reset = packets.ipv4(SERVER, REJECTED, TCP, packets.tcp(SERVER, 7000, REJECTED, 6002, RST | ACK, sequence=0,
                                                                acknowledged=78, window=0), identification=0)
        self.expect(packets.ipv4(REJECTED, SERVER, TCP, segment), reset)
        # From outside to a subscriber's IPv6 address: the policy drops what no rule names.
        before = views.drops(self.node1).get("default-drop", 0)
        heard = len(self.outside.ask("heard")["frames"])
        uninvited = packets.ipv6(SERVER6, CLIENT6, TCP, packets.tcp(SERVER6, 6003, CLIENT6, 22, SYN))
        self.outside.ask("send", frames=[packets.ethernet(WAN_MAC, SERVER_MAC, uninvited).hex()])
        wait_until("the drop is counted",
                   lambda: views.drops(self.node1).get("default-drop", 0) > before, RECOVER_S)
        frames = [bytes.fromhex(frame) for frame in self.outside.ask("heard")["frames"][heard:]]
        self.assertFalse([f for f in frames if f[12:14] == b"\x86\xdd" and f[20] == TCP], "a dropped packet was answered")
        self.assertEqual(views.entries(self.node1), {})

    def test_a_destination_without_a_route_is_unreachable(self):
        """Net unreachable (RFC 1812, section 5.2.7.1)."""
        offender = packets.ipv4(CLIENT, UNROUTED, UDP, packets.udp(CLIENT, 6004, UNROUTED, 7001, b"no route"))
        self.expect(offender, self.error4(3, 0, offender))

    def test_virtual_addresses_answer_echo_requests(self):
        """On both sides, in both families, wherever the asker's address is."""
        rest, data = struct.pack("!HH", 5, 6), b"are you there"
        for target, source, outside in ((LAN_GATEWAY, CLIENT, False), (WAN_GATEWAY, SERVER, True)):
            self.expect(packets.ipv4(source, target, ICMP, packets.icmp(8, 0, rest, data)),
                        packets.ipv4(target, source, ICMP, packets.icmp(0, 0, rest, data)), outside)
        for target, source, outside in ((LAN_GATEWAY6, CLIENT6, False), (WAN_GATEWAY6, SERVER6, True)):
            self.expect(packets.ipv6(source, target, ICMPV6, packets.icmpv6(source, target, 128, 0, rest, data)),
                        packets.ipv6(target, source, ICMPV6, packets.icmpv6(target, source, 129, 0, rest, data)),
                        outside)


if __name__ == "__main__":
    unittest.main()
