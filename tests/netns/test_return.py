"""A node that comes back is ready when it could take over at once: with all flows, and with the neighbours that they need."""

import unittest

from labcase import RECOVER_S, LabCase, views, wait_equal, wait_pair, wait_until
from test_switchover import SwitchoverMixin

# Each of them is a neighbour of its own.
SUBSCRIBERS = 200


class TestManyNeighbors(SwitchoverMixin, LabCase):
    """Every subscriber is on the link, and the node that boots has heard of none."""

    clients = SUBSCRIBERS

    def boot(self, place):
        """Kills a node and starts it again, with a kernel that has forgotten its neighbours."""
        node = self.lab.node(place)
        node.kill()
        for interface in ("lan0", "wan0"):
            self.lab.topology.ip(place, [f"neigh flush dev {interface} nud all"])
        node.start()
        wait_until(f"{place} is ready again", lambda: views.group(node)["vrfs"][0]["ready"], RECOVER_S)

    def test_the_role_goes_to_a_node_that_has_just_become_ready_and_nothing_is_lost(self):
        self.server = self.traffic.server()
        # The first packet to a neighbour that nobody has asked for yet is lost, here as everywhere.
        self.sessions = self.open_sessions(SUBSCRIBERS, 1_000)
        self.stream = self.traffic.udp(200)
        self.stream.ask("begin")
        self.assert_all_alive(self.stream, what="streams")
        wait_equal(self.lab, at_least=SUBSCRIBERS)
        active = self.node1
        for _ in range(2):
            peer = "node2" if active is self.node1 else "node1"
            self.boot(peer)
            active = self.switch_over(active)
            self.assert_all_alive(self.stream, what="streams after the switchover")
            self.say(f"without a neighbour: {views.drops(active).get('neighbor-unresolved', 0)} packets at {active.place}")
            wait_pair(self.lab, active=active.place)
            wait_equal(self.lab, at_least=SUBSCRIBERS)
        self.assert_nothing_lost(active)


if __name__ == "__main__":
    unittest.main()
