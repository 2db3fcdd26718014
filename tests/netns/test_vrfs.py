"""Two VRFs of one node with the very same addresses on either side, told apart by their tags alone."""

import unittest

from labcase import RECOVER_S, views, wait_until
from packetcase import CLIENT, CLIENT_MAC, LAN_MAC, SERVER_MAC, WAN_MAC, PacketCase
from twinlab import packets
from twinlab.packets import UDP
from twinlab.topology import SERVER

TAGS = {"red": 100, "blue": 200}
POOLS = {"red": "203.0.113.1", "blue": "203.0.113.2"}


def vrf(name):
    """Interfaces, routes, rules and a pool of one VRF, for the end of a file."""
    tag = TAGS[name]
    text = f"""
[[vrf]]
name = "{name}"
slots = 64
inside = ["100.64.0.0/10"]

[vrf.firewall]
default = "drop"

[[vrf.firewall.rule]]
id = 1
inbound = "lan-{name}"
outbound = "wan-{name}"
action = "accept"

[[vrf.cg_nat.pool]]
name = "pool-{name}"
addresses = ["{POOLS[name]}"]

[[vrf.cg_nat.rule]]
id = 1
outbound = "wan-{name}"
pool = "pool-{name}"
"""
    for side, station, mac, net in (("lan", CLIENT, CLIENT_MAC, "100.64.0.0/16"),
                                    ("wan", SERVER, SERVER_MAC, "192.0.2.0/24")):
        text += f"""
[[interface]]
name = "{side}-{name}"
port = "{side}0"
vlan = [{tag}]
vrf = "{name}"
addresses = ["{net.rsplit('.', 1)[0]}.5/{net.rsplit('/', 1)[1]}"]

[[vrf.neighbor]]
interface = "{side}-{name}"
address = "{station}"
mac = "{mac}"
"""
    return text


class TestOverlap(PacketCase):
    """Same subscriber, same port, same server: two flows."""

    def configuration(self, text):
        return text + "".join(vrf(name) for name in TAGS)

    def test_overlapping_addresses_in_two_vrfs_do_not_meet(self):
        """Each flow keeps to its own tag, pool and table, there and back."""
        data = {name: f"data of {name}".encode() for name in TAGS}
        public = {}
        for name, tag in TAGS.items():
            packet = packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, 5000, SERVER, 7001, data[name]))
            left = self.cross(self.inside, packets.ethernet(LAN_MAC, CLIENT_MAC, packet, (tag,)), self.outside,
                              lambda f, n=name: f.endswith(data[n]))
            port = int.from_bytes(left[38:40], "big")
            self.assertEqual(left, packets.ethernet(SERVER_MAC, WAN_MAC, packets.ipv4(
                POOLS[name], SERVER, UDP, packets.udp(POOLS[name], port, SERVER, 7001, data[name]), ttl=63), (tag,)))
            public[name] = port
        for name, tag in TAGS.items():
            answer = packets.ipv4(SERVER, POOLS[name], UDP,
                                  packets.udp(SERVER, 7001, POOLS[name], public[name], data[name][::-1]))
            back = self.cross(self.outside, packets.ethernet(WAN_MAC, SERVER_MAC, answer, (tag,)), self.inside,
                              lambda f, n=name: f.endswith(data[n][::-1]))
            self.assertEqual(back, packets.ethernet(CLIENT_MAC, LAN_MAC, packets.ipv4(
                SERVER, CLIENT, UDP, packets.udp(SERVER, 7001, CLIENT, 5000, data[name][::-1]), ttl=63), (tag,)))
            # The other VRF's tag leads nowhere: its pool isn't there. Other data, since answers may still be on their way.
            stray = next(other for other in TAGS if other != name)
            strayed = f"strayed from {name}".encode()
            answer = packets.ipv4(SERVER, POOLS[name], UDP,
                                  packets.udp(SERVER, 7001, POOLS[name], public[name], strayed))
            drops = sum(views.drops(self.node1).values())
            self.outside.ask("send", frames=[packets.ethernet(WAN_MAC, SERVER_MAC, answer, (TAGS[stray],)).hex()])
            wait_until("the stray answer is dropped",
                       lambda d=drops: sum(views.drops(self.node1).values()) > d, RECOVER_S)
            frames = [bytes.fromhex(frame) for frame in self.inside.ask("heard")["frames"]]
            self.assertFalse([f for f in frames if f.endswith(strayed)], "it crossed into the other VRF")
        for name in TAGS:
            self.assertEqual(self.node1.ctl("show", "conntrack", "vrf", name, "--count")["count"], 1)
            rows = self.node1.ctl("show", "conntrack", "vrf", name)["rows"]
            self.assertEqual([row["reply"]["dst"] for row in rows], [POOLS[name]])


if __name__ == "__main__":
    unittest.main()
