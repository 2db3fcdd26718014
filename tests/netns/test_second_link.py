"""Two sync links: what one doesn't carry goes over the other, and the tables go on from where they were."""

import unittest

from labcase import LabCase, views, wait_equal, wait_in_sync, wait_pair, wait_until
from test_compare import ask

# A silent link is noticed after a second, and a lane that tries a dead one first waits for two.
CHANGED_WITHIN_S = 30


class SecondLinkCase(LabCase):
    """Both links, with traffic."""

    settings = ("second_sync=true",)

    def begin(self):
        """Connections; both tables equal; every lane on the first link."""
        self.traffic.server()
        self.sessions = self.open_sessions(60, 100)
        self.assertEqual({link for _, link, _ in self.links()}, {1})
        return wait_equal(self.lab, at_least=60)

    def links(self):
        """Lanes of both nodes."""
        return [lane for node in self.lab.nodes.values() for lane in views.lane_links(node)]

    def wait_on(self, number):
        """Every lane of both nodes is up on this link."""
        wait_until(f"every lane is on link {number}",
                   lambda: all(up and link == number for up, link, _ in self.links()), CHANGED_WITHIN_S)

    def assert_nothing_sent_anew(self, before):
        """No slot was sent whole since."""
        self.assertEqual(self.slots_whole(), before, "slots sent whole")

    def slots_whole(self):
        """Slots that node1 has sent whole since its start."""
        vrf = self.node1.ctl("show", "sync")["vrfs"][0]
        return vrf["peers"][0]["resync"]["slots_whole"]


class TestSecondLink(SecondLinkCase):
    """Cuts of one link at a time, of both, and a boot beside a dead one."""

    def test_lanes_change_to_the_link_that_works_and_nothing_is_sent_anew(self):
        count = self.begin()
        whole = self.slots_whole()
        for link, silent, other in (("sync", True, 2), ("second", True, 1), ("sync", False, 2)):
            with self.subTest(cut=link, silent=silent):
                self.lab.topology.cut(link, silent=silent)
                self.wait_on(other)
                self.assert_all_alive(self.sessions)
                self.open_sessions(20)
                count += 20
                wait_in_sync(self.lab, "node1")
                wait_equal(self.lab, at_least=count)
                self.lab.topology.heal(link)
        self.assert_nothing_sent_anew(whole)
        code, report, complaint = ask(self.node1, "compare", "--all")
        self.assertEqual((code, report and report["result"]), (0, "equal"), f"{report} {complaint}")
        self.assertGreaterEqual(min(changes for _, _, changes in self.links()), 3)
        self.fail_over()
        self.assert_all_alive(self.sessions, what="connections over a change of links and a failover")

    def test_both_links_may_fail_and_either_brings_the_pair_together_again(self):
        count = self.begin()
        for healed, number in (("second", 2), ("sync", 1)):
            with self.subTest(healed=healed):
                for link in ("sync", "second"):
                    self.lab.topology.cut(link, silent=True)
                wait_until("no lane is up", lambda: not any(up for up, _, _ in self.links()), CHANGED_WITHIN_S)
                self.open_sessions(20)
                count += 20
                self.lab.topology.heal(healed)
                self.wait_on(number)
                wait_pair(self.lab)
                wait_equal(self.lab, at_least=count)
                self.lab.topology.heal("sync" if healed == "second" else "second")
        self.assert_all_alive(self.sessions)

    def test_a_node_that_boots_beside_a_dead_first_link_takes_the_second(self):
        count = self.begin()
        self.lab.topology.cut("sync", silent=True)
        self.node2.kill()
        self.node2.start()
        self.wait_on(2)
        wait_pair(self.lab)
        wait_equal(self.lab, at_least=count)
        self.assert_all_alive(self.sessions)


class TestSecondLinkTls(SecondLinkCase):
    """The keys count for both links."""

    settings = ("second_sync=true", "security=tls")

    def test_lanes_are_protected_on_the_second_link_as_well(self):
        count = self.begin()
        self.lab.topology.cut("sync", silent=True)
        self.wait_on(2)
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=count)
        lanes = self.node1.ctl("show", "sync")["lanes"]
        self.assertEqual({lane["security"] for lane in lanes}, {"tls"})


if __name__ == "__main__":
    unittest.main()
