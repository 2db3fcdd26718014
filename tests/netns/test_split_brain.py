"""Both nodes are active at once, and both give out ports. When they hear each other again one goes on, both say so, and what
the other one has opened meanwhile goes on there."""

import unittest

from labcase import (HA_GROUP, RECOVER_S, LabCase, other, views, wait_equal, wait_in_sync, wait_pair, wait_role, wait_until)
from test_compare import decided
from twinlab.scenario import wait_settled

FLOWS = 60


class SplitCase(LabCase):
    """Connections that each of the nodes, and both, know."""

    def begin(self):
        """Connections that both know."""
        self.server = self.traffic.server()
        self.flows = {"of before": self.open_sessions(FLOWS, 100)}
        wait_equal(self.lab, at_least=FLOWS)

    def leave_to(self, place):
        """Only one node can be reached by clients and server: they look for it anew."""
        for cable in ("lan", "wan"):
            index = other(place)[-1]
            self.lab.topology.cut(f"{cable}{index}", silent=True)
        self.forget_neighbors()

    def forget_neighbors(self):
        """Clients and server ask who has the virtual addresses."""
        for far_end, interface in (("client", "lan0"), ("server", "wan0")):
            self.lab.topology.ip(far_end, [f"neigh flush dev {interface}"])

    def reach_both(self):
        """Undoes `leave_to`."""
        for cable in ("lan1", "lan2", "wan1", "wan2"):
            self.lab.topology.heal(cable)

    def open_at(self, place):
        """New connections through a node."""
        self.flows[f"of {place}"] = self.open_sessions(FLOWS, 100)

    def wait_apart(self):
        """No node hears the other one."""
        for node in self.lab.nodes.values():
            wait_until(f"{node.place} hears nobody", lambda n=node: views.lanes_down(n), RECOVER_S)

    def assert_both_active(self):
        """As it must not be, and is."""
        self.assertEqual([views.role(node) for node in self.lab.nodes.values()], ["master", "master"])

    def assert_whole_again(self, active, split=True):
        """One winner, an alarm at both, everybody goes on, no port has two owners, and the tables are equal."""
        wait_pair(self.lab, active=active)
        if split:
            for place, what in ((active, "goes on"), (other(active), "gives way")):
                wait_until(f"{place} tells of it", lambda p=place, w=what: [
                    text for text in views.events(self.lab.node(p), "split-brain") if w in text], RECOVER_S)
        for name, program in self.flows.items():
            self.assert_all_alive(program, what=f"connections {name}, in the end")
            self.assertEqual(program.ask("report")["resets"], 0, name)
        wait_in_sync(self.lab, active)
        entries = wait_equal(self.lab, at_least=FLOWS * len(self.flows))
        code, report, complaint = decided(self.lab.node(active), "--all")
        self.assertEqual((code, report and report["result"]), (0, "equal"), f"{report} {complaint}")
        self.assert_no_conflicts(self.server, self.lab.node(active))
        self.say(f"{entries} entries at {active}, equal")


class TestStaticGroup(SplitCase):
    """An operator makes the second node master while the first one is, and can't be heard."""

    clients = 40

    def split(self):
        """Both are active. The one that became so last has the higher term."""
        self.wait_apart()
        self.node2.set_state("master")
        wait_role(self.node2, "master")
        self.assert_both_active()

    def play(self):
        """Each of the two opens connections that the other one doesn't hear of. Those of before go on through the second;
        the first one, to which they come back, has not seen what they acknowledge, and lets none of it pass."""
        self.split()
        for place in ("node2", "node1"):
            self.leave_to(place)
            self.open_at(place)
            if place == "node2":
                self.assert_all_alive(self.flows["of before"], what="connections of before, through node2")
            self.assert_both_active()
            self.reach_both()

    def test_without_a_sync_link(self):
        self.begin()
        self.lab.topology.cut("sync", silent=True)
        self.play()
        self.lab.topology.heal("sync")
        self.assert_whole_again("node2")

    def test_with_one_direction_of_the_sync_link(self):
        self.begin()
        self.lab.topology.cut("sync1", silent=True, ways=("ingress",))
        self.play()
        self.lab.topology.heal("sync1")
        self.assert_whole_again("node2")

    def test_without_any_link_of_the_active_node(self):
        self.begin()
        for cable in ("lan1", "wan1", "sync1"):
            self.lab.topology.cut(cable, silent=True)
        self.split()
        self.forget_neighbors()
        self.open_at("node2")
        self.assert_both_active()
        for cable in ("lan1", "wan1", "sync1"):
            self.lab.topology.heal(cable)
        self.assert_whole_again("node2")


class TestVrrpGroup(SplitCase):
    """Adverts are lost with the cables: keepalived elects a second master."""

    settings = ("ha=vrrp", "advert_interval_ms=100")
    clients = 40

    def test_without_any_link_of_the_active_node(self):
        active = wait_settled(self.lab, at_least=0)
        self.begin()
        index = active.place[-1]
        for cable in ("lan", "wan", "sync"):
            self.lab.topology.cut(f"{cable}{index}", silent=True)
        standby = self.lab.node(other(active.place))
        wait_role(standby, "master")
        self.assert_both_active()
        self.open_at(standby.place)
        for cable in ("lan", "wan", "sync"):
            self.lab.topology.heal(f"{cable}{index}")
        # The election says who; the flows are those of the node that became active last.
        winner = wait_settled(self.lab, at_least=FLOWS)
        self.assertEqual(views.group(winner, HA_GROUP)["vrrp"]["says"], "master")
        self.assert_whole_again(winner.place, split=False)


if __name__ == "__main__":
    unittest.main()
