"""Single packets through a whole node, compared byte for byte with what a slow, obvious translation would have made."""

import struct
import unittest

from labcase import RECOVER_S, views, wait_until
from packetcase import CLIENT, CLIENT6, CLIENT_MAC, LAN_MAC, SERVER_MAC, WAN_MAC, PacketCase
from twinlab import packets
from twinlab.packets import ICMP, TCP, UDP
from twinlab.shell import checksum
from twinlab.topology import SERVER, SERVER6, WAN_GATEWAY

# Packets in pieces, until one was held.
FRAGMENTED_MAX = 20
# Subscribers behind one tag and behind two; no kernel knows them, so the file says where they are.
TAGGED = {(100,): "100.65.1.1", (200, 201): "100.66.1.1"}


def tagged_interfaces():
    """Configuration of the tagged subscribers, to be added to a node's file."""
    text = ""
    for tags, subscriber in TAGGED.items():
        name = "lan" + "-".join(str(tag) for tag in tags)
        network = subscriber.rsplit(".", 2)[0]
        text += f"""
[[interface]]
name = "{name}"
port = "lan0"
vlan = [{", ".join(str(tag) for tag in tags)}]
vrf = "main"
addresses = ["{network}.0.2/16"]

[[vrf.route]]
prefix = "{network}.0.0/16"
interface = "{name}"

[[vrf.neighbor]]
interface = "{name}"
address = "{subscriber}"
mac = "{CLIENT_MAC}"

[[vrf.firewall.rule]]
id = {1000 + tags[0]}
inbound = "{name}"
outbound = "wan"
action = "accept"
"""
    return text


class TestPackets(PacketCase):
    """Every kind of packet that goes through."""

    def configuration(self, text):
        return text + tagged_interfaces()

    def test_udp_with_ip_options_and_back(self):
        """Source, TTL and both checksums change; options, data and everything else stay."""
        self.check_udp(CLIENT, (), options=b"\x01\x01\x01\x01")

    def test_udp_behind_one_tag_and_behind_two(self):
        """Tags are taken off on the way out and put on again on the way in."""
        for tags, subscriber in TAGGED.items():
            with self.subTest(tags=tags):
                self.check_udp(subscriber, tags)

    def check_udp(self, subscriber, tags, options=b""):
        """There and back."""
        # Of this subscriber alone: packets that were sent more often may still be on their way.
        data = bytes(range(21)) + subscriber.encode()
        datagram = packets.udp(subscriber, 5000, SERVER, 7001, data)
        packet = packets.ipv4(subscriber, SERVER, UDP, datagram, options=options)
        found, public, port = self.outward(packet, tags)
        self.assert_public(public)
        self.assertEqual(found, packets.ethernet(SERVER_MAC, WAN_MAC, packets.ipv4(
            public, SERVER, UDP, packets.udp(public, port, SERVER, 7001, data), ttl=63, options=options)))
        answer = packets.ipv4(SERVER, public, UDP, packets.udp(SERVER, 7001, public, port, data[::-1]))
        back = self.cross(self.outside, packets.ethernet(WAN_MAC, SERVER_MAC, answer), self.inside,
                          lambda f: f.endswith(data[::-1]))
        self.assertEqual(back, packets.ethernet(CLIENT_MAC, LAN_MAC, packets.ipv4(
            SERVER, subscriber, UDP, packets.udp(SERVER, 7001, subscriber, 5000, data[::-1]), ttl=63), tags))

    def test_tcp_options_pass_unchanged(self):
        """An opening segment with MSS, SACK permitted, timestamps and window scale."""
        options = bytes.fromhex("020405b4" "0402080a" "0102030400000000" "01030307")
        packet = packets.ipv4(CLIENT, SERVER, TCP, packets.tcp(CLIENT, 5001, SERVER, 7000, 2, options=options))
        found, public, port = self.outward(packet)
        self.assert_public(public)
        self.assertEqual(found, packets.ethernet(SERVER_MAC, WAN_MAC, packets.ipv4(
            public, SERVER, TCP, packets.tcp(public, port, SERVER, 7000, 2, options=options), ttl=63)))

    def test_echo_requests_are_translated_by_identifier(self):
        """The answer reaches the asker with the identifier it chose."""
        rest, data = struct.pack("!HH", 77, 1), b"echo data"
        found, public, _ = self.outward(packets.ipv4(CLIENT, SERVER, ICMP, packets.icmp(8, 0, rest, data)))
        self.assert_public(public)
        identifier = found[38:40]
        self.assertEqual(found, packets.ethernet(SERVER_MAC, WAN_MAC, packets.ipv4(
            public, SERVER, ICMP, packets.icmp(8, 0, identifier + rest[2:], data), ttl=63)))
        answer = packets.ipv4(SERVER, public, ICMP, packets.icmp(0, 0, identifier + rest[2:], data))
        back = self.cross(self.outside, packets.ethernet(WAN_MAC, SERVER_MAC, answer), self.inside,
                          lambda f: f[23:24] == bytes([ICMP]))
        self.assertEqual(back, packets.ethernet(CLIENT_MAC, LAN_MAC, packets.ipv4(
            SERVER, CLIENT, ICMP, packets.icmp(0, 0, rest, data), ttl=63)))

    def test_an_icmp_error_with_a_truncated_quote_reaches_the_sender(self):
        """RFC 792: header and eight bytes are quoted. Both headers are translated back, both checksums right."""
        segment = packets.tcp(CLIENT, 5002, SERVER, 7000, 2, data=b"quotedtail")
        found, public, _ = self.outward(packets.ipv4(CLIENT, SERVER, TCP, segment))
        rest = struct.pack("!HH", 0, 1400)
        router = "192.0.2.99"
        error = packets.ipv4(router, public, ICMP, packets.icmp(3, 4, rest, found[14:42]))
        back = self.cross(self.outside, packets.ethernet(WAN_MAC, SERVER_MAC, error), self.inside,
                          lambda f: f[23:24] == bytes([ICMP]))
        quoted = packets.ipv4(CLIENT, SERVER, TCP, segment, ttl=63)
        self.assertEqual(back, packets.ethernet(CLIENT_MAC, LAN_MAC, packets.ipv4(
            router, CLIENT, ICMP, packets.icmp(3, 4, rest, quoted[:28]), ttl=63)))

    def test_ipv6_with_extension_headers_is_only_hopped(self):
        """Destination options pass; addresses, ports and checksum stay, and the hop limit falls by one."""
        data = b"sixth"
        extensions = ((60, b"\x00\x01\x04\x00\x00\x00\x00"),)
        segment = packets.udp(CLIENT6, 5003, SERVER6, 7001, data)
        packet = packets.ipv6(CLIENT6, SERVER6, UDP, segment, extensions=extensions)
        found = self.cross(self.inside, packets.ethernet(LAN_MAC, CLIENT_MAC, packet), self.outside,
                           lambda f: f.endswith(segment))
        self.assertEqual(found, packets.ethernet(SERVER_MAC, WAN_MAC, packets.ipv6(
            CLIENT6, SERVER6, UDP, segment, hops=63, extensions=extensions)))

    def test_ipv6_fragments_pass_whichever_comes_first(self):
        """The last piece waits for the ports that are in the first one; both are only hopped."""
        segment = packets.udp(CLIENT6, 5006, SERVER6, 7001, bytes(range(200)))

        def piece(identification, first, last, hops=64):
            header = b"\x00" + struct.pack("!HI", first | (last < len(segment)), identification)
            return packets.ipv6(CLIENT6, SERVER6, UDP, segment[first:last], hops, ((44, header),))

        # Opens the way, and resolves the neighbours.
        self.cross(self.inside, packets.ethernet(LAN_MAC, CLIENT_MAC, packets.ipv6(CLIENT6, SERVER6, UDP, segment)),
                   self.outside, lambda f: f.endswith(segment))
        # Each worker takes its own queue, so what was sent last may be seen first: then another packet is tried.
        for identification in range(7, 7 + FRAGMENTED_MAX):
            before = len(self.outside.ask("heard")["frames"])
            later, first = (packets.ethernet(LAN_MAC, CLIENT_MAC, piece(identification, *ends))
                            for ends in ((96, 208), (0, 96)))
            self.inside.ask("send", frames=[later.hex(), first.hex()])
            expected = {packets.ethernet(SERVER_MAC, WAN_MAC, piece(identification, *ends, hops=63))
                        for ends in ((96, 208), (0, 96))}

            def arrived(expected=expected, before=before):
                return expected <= {bytes.fromhex(text) for text in self.outside.ask("heard")["frames"][before:]}

            wait_until("both pieces arrive at the other end", arrived, RECOVER_S, 0.1)
            if held := views.worker_counters(self.node1)["fragments_held"]:
                break
        self.assertGreaterEqual(held, 1)

    def test_broken_packets_are_counted_and_go_nowhere(self):
        """Each for its own reason; no conntrack comes of any of them."""
        good = packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, 5004, SERVER, 7001, b"never seen"))
        self.outward(packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, 5005, SERVER, 7001, b"the way is open")))
        broken = {
            "bad-ip-checksum": good[:10] + b"\xAA\xAA" + good[12:],
            "bad-l4-checksum": good[:26] + b"\xAA\xAA" + good[28:],
            # A total length below the header's; the header checksum is right.
            "bad-ip-header": good[:2] + b"\x00\x08" + good[4:10] + self.header_checksum(good, 8) + good[12:],
            "bad-address": packets.ipv4("127.0.0.1", SERVER, UDP,
                                        packets.udp("127.0.0.1", 5004, SERVER, 7001, b"never seen")),
            "ttl-exceeded": packets.ipv4(CLIENT, SERVER, UDP, good[20:], ttl=1),
            "bad-extension-header": packets.ipv6(CLIENT6, SERVER6, UDP, b"", extensions=((0, b"\x00" * 7),) * 20),
        }
        before, entries = views.drops(self.node1), views.entries(self.node1)
        for reason, packet in broken.items():
            self.inside.ask("send", frames=[packets.ethernet(LAN_MAC, CLIENT_MAC, packet).hex()])
            wait_until(f"{reason} is counted",
                       lambda r=reason: views.drops(self.node1).get(r, 0) > before.get(r, 0), RECOVER_S)
        heard = [bytes.fromhex(text) for text in self.outside.ask("heard")["frames"]]
        self.assertFalse([frame for frame in heard if b"never seen" in frame], "a broken packet was forwarded")
        self.assertEqual(views.entries(self.node1).keys(), entries.keys())

    @staticmethod
    def header_checksum(packet, length):
        """Checksum of an IPv4 header with another total length."""
        return struct.pack("!H", checksum(packet[:2] + struct.pack("!H", length) + packet[4:10] + bytes(2) + packet[12:20]))

    def test_the_gateway_answers_for_itself(self):
        """The virtual address has no kernel behind it: the packet path answers the echo request."""
        packet = packets.ipv4(SERVER, WAN_GATEWAY, ICMP, packets.icmp(8, 0, b"\x00\x01\x00\x01", b"are you there"))
        back = self.cross(self.outside, packets.ethernet(WAN_MAC, SERVER_MAC, packet), self.outside,
                          lambda f: f[23:24] == bytes([ICMP]) and f[34] == 0)
        self.assertEqual(back[30:34] + back[26:30], packets.address(SERVER) + packets.address(WAN_GATEWAY))


if __name__ == "__main__":
    unittest.main()
