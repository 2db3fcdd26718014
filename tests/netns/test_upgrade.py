"""A pair is upgraded one node at a time, by the README's procedure, and no connection notices. What nodes of different versions
say to one another is the simulator's to try; here it is the procedure."""

import unittest

from labcase import HA_GROUP, RECOVER_S, LabCase, other, views, wait_equal, wait_pair, wait_until
from test_switchover import SwitchoverMixin
from test_vrrp import VrrpCase


class UpgradeMixin(SwitchoverMixin):
    """The procedure, whoever drives the group."""

    def restart(self, node):
        """As systemd does it after the package has changed: an orderly end, and a start."""
        ended = node.stop()
        self.assertEqual(set(ended.values()), {0}, f"{node.place} did not end in order: {ended}")
        node.start()
        wait_until(f"{node.place} is ready again", lambda: views.group(node)["vrfs"][0]["ready"], RECOVER_S)

    def upgrade(self, active):
        """The standby, the other node; each is asked for its role and readiness as the README says."""
        self.begin_traffic()
        standby = self.lab.node(other(active.place))
        self.restart(standby)
        active = self.switch_over(active)
        self.assertIs(active, standby)
        former = self.lab.node(other(active.place))
        wait_until(f"{former.place} is ready", lambda: views.group(former)["vrfs"][0]["ready"], RECOVER_S)
        self.restart(former)
        wait_equal(self.lab, at_least=60)
        self.assert_all_alive(self.sessions, what="connections after both restarts")
        self.assert_nothing_lost(active)


class TestStaticPair(UpgradeMixin, LabCase):
    """The operator says who is active."""

    clients = 8

    def test_no_connection_notices(self):
        self.upgrade(self.node1)
        wait_pair(self.lab, active="node2")


class TestVrrpPair(UpgradeMixin, VrrpCase):
    """Keepalived does, and doesn't take the role back from a node that works."""

    # Nothing here is about how soon a death is noticed, and what a busy machine holds up is no death.
    settings = ("ha=vrrp", "advert_interval_ms=100")
    clients = 8

    def test_no_connection_notices(self):
        active = self.active
        self.upgrade(active)
        self.wait_pair(other(active.place))
        self.assertFalse(views.group(self.active)["vrrp"]["held"], f"{HA_GROUP} is held")


if __name__ == "__main__":
    unittest.main()
