"""How soon a peer's silence is noticed can be chosen; two nodes with one id say so."""

import time
import unittest

from labcase import RECOVER_S, LabCase, views, wait_equal, wait_in_sync, wait_until

REST_S = 5
# On a machine that runs something else meanwhile, a process may stand still for longer than it may be silent.
TRIES = 5


class TestSmallValue(LabCase):
    """A tenth of a second: as BFD would."""

    settings = ("dead_after_ms=100",)
    clients = 8

    def at_rest(self):
        """Whether no lane was lost for a while."""
        before = self.connections()
        time.sleep(REST_S)
        return self.connections() == before

    def test_nothing_flaps_at_rest_and_a_silent_link_is_noticed(self):
        self.traffic.server()
        sessions = self.open_sessions(40, 100)
        wait_equal(self.lab, at_least=40)
        self.assertTrue(any(self.at_rest() for _ in range(TRIES)), f"lanes were lost in each of {TRIES} rests")
        silent = {place: views.counted(node, "silent") for place, node in self.lab.nodes.items()}
        self.lab.topology.cut("sync", silent=True)
        began = time.monotonic()
        for place, node in self.lab.nodes.items():
            wait_until(f"{place} has noticed the silence",
                       lambda p=place, n=node: views.counted(n, "silent") > silent[p], RECOVER_S)
        self.say(f"both have noticed after {(time.monotonic() - began) * 1000:.0f} ms, questions included")
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=40)
        self.assert_all_alive(sessions)


class TestSameId(LabCase):
    """A file that was copied, and not changed: both nodes have the id 1."""

    settings = ("node_id=1",)
    clients = 4
    bare = True

    def test_both_say_so_and_neither_takes_the_other_for_its_peer(self):
        for node in self.lab.nodes.values():
            node.start()
        for place, node in self.lab.nodes.items():
            wait_until(f"{place} names the cause", lambda n=node: [
                text for text in views.events(n, "refused") if "node-id-rejected" in text], RECOVER_S)
            self.assertTrue(views.lanes_down(node))
        wait_until("the first goes on alone", lambda: views.role(self.node1) == "master", RECOVER_S)
        self.assertFalse(views.group(self.node2)["vrfs"][0]["ready"])


if __name__ == "__main__":
    unittest.main()
