"""Single packets through one node: frames sent and heard at the far ends, whose kernels are kept from answering, so
nothing but the frames of the scenario is on the wire.
"""

import struct

from labcase import RECOVER_S, LabCase, wait_role, wait_until
from twinlab import packets
from twinlab.drive import Program
from twinlab.nodeconfig import knobs_of_nodes, toml
from twinlab.shell import in_namespace, run
from twinlab.topology import CABLES

CLIENT, CLIENT6 = "100.64.1.1", "fd00:64::1:1"
CLIENT_MAC, SERVER_MAC = CABLES["lanc"][3], CABLES["wans"][3]
LAN_MAC, WAN_MAC = CABLES["lan1"][3], CABLES["wan1"][3]
DEAF = """
table netdev deaf {{
    chain in {{
        type filter hook ingress device "{interface}" priority -500; policy accept;
        ether type arp accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
        drop
    }}
}}
"""


class PacketCase(LabCase):
    """One node is enough: it is master at once when its peer doesn't answer."""

    bare = True
    clients = 2
    node_settings = ()

    def configuration(self, text):
        """The node's file, made from the lab's."""
        return text

    def setUp(self):
        super().setUp()
        for place, interface in (("client", "lan0"), ("server", "wan0")):
            run(*in_namespace(self.lab.topology.namespace(place), "nft", "-f", "-"),
                stdin=DEAF.format(interface=interface))
        text = toml("node1", self.node1.name, knobs_of_nodes(["boot_wait_ms=200", *self.node_settings])["node1"],
                    self.node1.directory / "syslog.sock")
        self.node1.config_file.write_text(self.configuration(text), encoding="ascii")
        self.node1.start()
        wait_role(self.node1, "master")
        self.inside = self.frames("client", "lan0")
        self.outside = self.frames("server", "wan0")

    def frames(self, place, interface):
        """A packet socket at a far end."""
        program = Program(self.lab, place, "frames", interface)
        self.addCleanup(program.end)
        program.ask("heard")
        return program

    def cross(self, sender, frame, receiver, matches):
        """Sends until one frame that `matches` arrives: the first ones may wait for a neighbour to be resolved. The others
        may come any time later, so a scenario tells its packets apart by their data."""
        before = len(receiver.ask("heard")["frames"])

        def arrived():
            sender.ask("send", frames=[frame.hex()])
            heard = [bytes.fromhex(text) for text in receiver.ask("heard")["frames"][before:]]
            return next((found for found in heard if matches(found)), None)

        return wait_until("the packet arrives at the other end", arrived, RECOVER_S, 0.1)

    def outward(self, packet, tags=()):
        """Sends an IPv4 packet from inside; returns what left, and the public address and port it left with."""
        frame = packets.ethernet(LAN_MAC, CLIENT_MAC, packet, tags)
        payload = packet[(packet[0] & 15) * 4:]
        found = self.cross(self.inside, frame, self.outside,
                           lambda f: f[12:14] == b"\x08\x00" and f[23] == packet[9] and f.endswith(payload[-8:]))
        header = 14 + (found[14] & 15) * 4
        return found, ".".join(str(byte) for byte in found[26:30]), struct.unpack_from("!H", found, header)[0]

    def assert_public(self, public):
        """The address is one of the pool."""
        self.assertTrue(public.startswith("198.51.100.") and 1 <= int(public.rsplit(".", 1)[1]) <= 14, public)
