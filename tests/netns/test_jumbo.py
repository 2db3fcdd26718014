"""Packets of 9,000 bytes on one side, links of 1,500 on the other."""

import struct
import unittest

from labcase import RECOVER_S, views, wait_until
from packetcase import CLIENT, CLIENT_MAC, LAN_MAC, PacketCase
from twinlab import packets
from twinlab.packets import ICMP, UDP
from twinlab.shell import checksum
from twinlab.topology import LAN_GATEWAY, NODE_ADDRESSES, SERVER

NODE = NODE_ADDRESSES["node1"]["lan0"][0].split("/")[0]
MTU, WAN_MTU = 9000, 1500
RING, JUMBO_RING = "blocksz=65536,framesz=2048,framecnt=8192", "blocksz=36864,framesz=9216,framecnt=1024"


def may_be_cut(packet):
    """The same IPv4 packet without "don't fragment"."""
    header = packet[:6] + bytes(2) + packet[8:10] + bytes(2) + packet[12:20]
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + packet[20:]


def fragment_offset(frame):
    """Where a piece belongs, in bytes."""
    return (struct.unpack_from("!H", frame, 20)[0] & 0x1FFF) * 8


def content(frame):
    """What a piece carries."""
    return frame[34:14 + struct.unpack_from("!H", frame, 16)[0]]


def length(pieces):
    """Bytes that pieces of one datagram carry."""
    return sum(len(content(piece)) for piece in pieces.values())


class TestJumbo(PacketCase):
    """One port of each kind in one node: buffers are of the larger one's size."""

    def configuration(self, text):
        wide = text.replace(RING, JUMBO_RING, 1).replace('port = "lan0"\nvrf', f'port = "lan0"\nmtu = {MTU}\nvrf')
        self.assertIn(JUMBO_RING, wide, "the template has changed")
        self.assertIn("mtu", wide, "the template has changed")
        self.lab.topology.ip("fabric", [f"link set {port} mtu {MTU}" for port in ("lanc", "lan1", "lan2", "lan")])
        for place in ("client", "node1"):
            self.lab.topology.ip(place, [f"link set lan0 mtu {MTU}"])
        return wide.replace("mbufs = 16384", "mbufs = 8192")

    def test_a_request_of_9000_bytes_is_answered_by_one(self):
        rest, data = struct.pack("!HH", 5, 6), bytes(range(256)) * 34 + bytes(MTU - 28 - 256 * 34)
        request = packets.ipv4(CLIENT, LAN_GATEWAY, ICMP, packets.icmp(8, 0, rest, data))
        self.assertEqual(len(request), MTU)
        wanted = packets.ethernet(CLIENT_MAC, LAN_MAC,
                                  packets.ipv4(LAN_GATEWAY, CLIENT, ICMP, packets.icmp(0, 0, rest, data)))
        # All but what the node chooses: identification and checksum of the IP header.
        back = self.cross(self.inside, packets.ethernet(LAN_MAC, CLIENT_MAC, request), self.inside,
                          lambda f: len(f) == len(wanted) and f[26:34] == wanted[26:34])
        self.assertEqual((back[:16], back[34:]), (wanted[:16], wanted[34:]))

    def test_beyond_the_outgoing_link_the_sender_is_told_its_mtu(self):
        """RFC 1191, section 4."""
        datagram = packets.udp(CLIENT, 6001, SERVER, 7001, bytes(MTU - 28))
        offender = packets.ipv4(CLIENT, SERVER, UDP, datagram)
        error = packets.ipv4(NODE, CLIENT, ICMP,
                             packets.icmp(3, 4, struct.pack("!I", WAN_MTU), offender[:548]), identification=0,
                             service=0xC0)
        wanted = packets.ethernet(CLIENT_MAC, LAN_MAC, error)
        back = self.cross(self.inside, packets.ethernet(LAN_MAC, CLIENT_MAC, offender), self.inside,
                          lambda f: f[26:34] == wanted[26:34] and f[34:36] == wanted[34:36])
        self.assertEqual(back, wanted)
        self.assertGreaterEqual(views.drops(self.node1)["too-big"], 1)

    def test_what_may_be_cut_leaves_in_pieces_of_the_outgoing_link(self):
        """RFC 791, section 3.2: put together by hand, they are the datagram that was sent."""
        data = bytes(n % 251 for n in range(MTU - 28))
        packet = may_be_cut(packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, 6002, SERVER, 7002, data)))
        frame = packets.ethernet(LAN_MAC, CLIENT_MAC, packet)

        before = len(self.outside.ask("heard")["frames"])

        def whole():
            # The first datagrams may wait for the neighbour to be resolved, so it is sent until one has arrived as a whole.
            self.inside.ask("send", frames=[frame.hex()])
            datagrams = {}
            for heard in map(bytes.fromhex, self.outside.ask("heard")["frames"][before:]):
                if heard[12:14] == b"\x08\x00" and heard[23] == UDP:
                    datagrams.setdefault(heard[18:20], {})[fragment_offset(heard)] = heard
            return next((found for found in datagrams.values() if length(found) == 8 + len(data)), None)

        found = [piece for _, piece in sorted(wait_until("a whole datagram arrives", whole, RECOVER_S, 0.2).items())]
        self.assertTrue(all(len(piece) <= 14 + WAN_MTU for piece in found), [len(piece) for piece in found])
        body = b"".join(map(content, found))
        self.assertEqual(body[8:8 + len(data)], data)
        self.assert_public(".".join(str(byte) for byte in found[0][26:30]))


if __name__ == "__main__":
    unittest.main()
