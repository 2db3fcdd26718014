"""Two groups crossed: each node is the active one of a VRF of its own, and the standby of the other's."""

import unittest

from labcase import RECOVER_S, LabCase, LabError, wait_until
from test_vrrp import VRRP
from twinlab.nodeconfig import device, driver, knobs_of_nodes, sync_addresses
from twinlab.scenario import ELECTED_WITHIN_S
from twinlab.topology import SERVER_FAR, SERVER_FAR_NET

SESSIONS = 60
BLUE_CLIENTS = [f"100.80.1.{n + 1}" for n in range(20)]
SETTINGS = (*VRRP, "preempt=true", "workers=1", "event_threads=1")


def blue(place, knobs):
    """Ports, VRF and group of the second VRF, for the end of a node's file. Its preferred node is node2."""
    source, address = sync_addresses(place, 4)
    text = ""
    for index, side in ((2, "lan"), (3, "wan")):
        text += f"""
[[port]]
name = "{side}b0"
device = "{device(index, f'{side}b0', knobs, 1)}"
kernel_interface = "{side}b0"

[[interface]]
name = "{side}-blue"
port = "{side}b0"
vrf = "blue"
"""
    drive = driver("node2" if place == "node1" else "node1", knobs).replace("vrid = 51", "vrid = 52")
    return text + f"""
[[vrf]]
name = "blue"
slots = 64
inside = ["100.80.0.0/16"]

[vrf.firewall]
default = "drop"

[[vrf.firewall.rule]]
id = 1
inbound = "lan-blue"
outbound = "wan-blue"
action = "accept"

[[vrf.cg_nat.pool]]
name = "public-blue"
addresses = ["198.51.100.33-198.51.100.46"]

[[vrf.cg_nat.rule]]
id = 1
outbound = "wan-blue"
pool = "public-blue"

[vrf.ha_fp_conntrack]
listen_ha_group = "group2"

[[vrf.ha_fp_conntrack.peer]]
name = "peer1"
source = "{source}"
address = "{address}"

[[ha_group]]
name = "group2"
{drive}
virtual_addresses = [
    {{ interface = "lan-blue", address = "100.80.0.1" }},
    {{ interface = "wan-blue", address = "192.0.3.1" }},
]
"""


class TestTwoGroups(LabCase):
    """VRF main prefers node1, VRF blue node2."""

    bare = True
    settings = SETTINGS
    clients = 20

    def setUp(self):
        super().setUp()
        topology, knobs = self.lab.topology, knobs_of_nodes(self.settings)
        for n, (place, node) in enumerate(self.lab.nodes.items(), 1):
            cables = {f"lanb{n}": ("lan", place, "lanb0", f"02:00:80:00:00:0{n}"),
                      f"wanb{n}": ("wan", place, "wanb0", f"02:00:81:00:00:0{n}")}
            for port, cable in cables.items():
                topology.plug(port, *cable)
            topology.wait_carrying(cables)
            topology.ip(place, [f"addr add 100.80.0.{n + 1}/16 dev lanb0", f"addr add 192.0.3.{n + 1}/24 dev wanb0",
                                f"route add {SERVER_FAR_NET} via 192.0.3.10 dev wanb0"])
            with open(node.config_file, "a", encoding="ascii") as file:
                file.write(blue(place, knobs[place]))
        topology.ip("client", [f"addr add {address}/16 dev lan0" for address in BLUE_CLIENTS]
                    + [f"route add {SERVER_FAR_NET} via 100.80.0.1 dev lan0"])
        topology.ip("server", ["addr add 192.0.3.10/24 dev wan0", "route add 198.51.100.32/28 dev wan0"])
        for node in self.lab.nodes.values():
            node.start(wait=False)
        for node in self.lab.nodes.values():
            node.wait_running()

    def roles(self):
        """VRF -> places that are master of it."""
        masters = {"main": [], "blue": []}
        for place, node in self.lab.nodes.items():
            for group in node.ctl("show", "ha-group"):
                for row in group["vrfs"]:
                    if row["role"] == "master":
                        masters[row["vrf"]].append(place)
        return masters

    def wait_roles(self, main, blue_at):
        """Waits until each VRF is active in one place."""
        def probe():
            roles = self.roles()
            if roles != {"main": [main], "blue": [blue_at]}:
                raise LabError(f"masters: {roles}")
            return True
        wait_until(f"main at {main}, blue at {blue_at}", probe, ELECTED_WITHIN_S, 0.1)

    def test_each_node_is_active_for_its_own_vrf_and_takes_over_the_others(self):
        self.wait_roles("node1", "node2")
        self.traffic.server()
        main = self.open_sessions(SESSIONS, 100)
        far = self.open_sessions(SESSIONS, 100, sources=BLUE_CLIENTS, target=SERVER_FAR)
        both = {"main": main, "blue": far}
        for dead, alive in ((self.node2, "node1"), (self.node1, "node2")):
            for vrf in both:
                wait_until(f"{vrf} is mirrored", lambda v=vrf: self.equal_counts(v), RECOVER_S, 0.1)
            dead.kill("dataplane")
            self.wait_roles(alive, alive)
            for vrf, sessions in both.items():
                self.assert_all_alive(sessions, what=f"connections of {vrf} with {dead.place} dead")
            dead.start("dataplane")
            self.wait_roles("node1", "node2")
            for vrf, sessions in both.items():
                self.assert_all_alive(sessions, what=f"connections of {vrf} with {dead.place} back")
        for sessions in both.values():
            self.assertEqual(sessions.ask("report")["resets"], 0)

    def equal_counts(self, vrf):
        """Whether both nodes have as many entries of a VRF, one per connection at least."""
        counts = {node.ctl("show", "conntrack", "vrf", vrf, "--count")["count"] for node in self.lab.nodes.values()}
        return len(counts) == 1 and min(counts) >= SESSIONS


if __name__ == "__main__":
    unittest.main()
