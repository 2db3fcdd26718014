"""Pools that come and go while a pair runs: the nodes are told one after the other, and nobody else's flows notice."""

import json
import unittest

from labcase import RECOVER_S, views, wait_equal, wait_in_sync, wait_until
from test_apply import ApplyCase

OWN = "198.51.100.1-198.51.100.6"
MORE = [f"198.51.100.{last}" for last in range(7, 11)]
RULE = "[[vrf.cg_nat.rule]]\nid = 1\n"


def on_more(node):
    """Port blocks of the pool that comes and goes."""
    return [block for block in views.blocks(node) if block["address"] in MORE]


class TestPools(ApplyCase):
    """Eight of the subscribers get a pool of their own."""

    settings = (f"pool={OWN}",)

    def with_more(self, node):
        """The node's file with a pool more, and a rule that uses it."""
        sources = json.dumps([f"{address}/32" for address in self.traffic.addresses[:8]])
        pool = (f'[[vrf.cg_nat.pool]]\nname = "more"\naddresses = ["{MORE[0]}-{MORE[-1]}"]\nblock_size = 512\n\n'
                f'[[vrf.cg_nat.rule]]\nid = 7\noutbound = "wan"\nsource = {sources}\npool = "more"\n\n')
        return self.edited(node, (RULE, pool + RULE))

    def apply(self, node, path):
        """Applies a file for good; everything that it changes is live."""
        applied = node.ctl("config", "apply", path, "--confirm-within", "600")
        self.assertEqual({change["takes"] for change in applied["changes"]}, {"live"}, applied["changes"])
        node.ctl("config", "confirm")

    def wait_differing(self, sections):
        """Both nodes know what differs, and the standby is ready if nothing does that must be equal."""
        for node in self.lab.nodes.values():
            wait_until(f"{node.place} says that {sections or 'nothing'} differs",
                       lambda n=node: sorted(views.peer(n)["fingerprint_differs"]) == sections, RECOVER_S)
        wait_until(f"node2 is {'not ' if sections else ''}ready",
                   lambda: views.group(self.node2)["vrfs"][0]["ready"] == (not sections), RECOVER_S)

    def resyncs(self):
        """What either node has noted of slots that were sent."""
        kinds = ("resync-begin", "diverged")
        return [len(views.events(node, kind)) for node in self.lab.nodes.values() for kind in kinds]

    def test_what_a_standby_has_no_pool_for_is_refused_alone_and_comes_when_it_has_it(self):
        """Refused, counted, named; the common pool is mirrored on; then asked for one by one, with no resync."""
        server = self.traffic.server()
        common = self.open_sessions(40, sources=self.traffic.addresses[8:])
        wait_equal(self.lab, at_least=40)
        wait_in_sync(self.lab, "node1")
        before, lanes = self.resyncs(), self.connections()

        self.apply(self.node1, self.with_more(self.node1))
        self.wait_differing(["cg-nat pools", "cg-nat rules"])
        more = self.open_sessions(16, sources=self.traffic.addresses[:8])
        later = self.open_sessions(16, sources=self.traffic.addresses[8:])
        held = on_more(self.node1)
        self.assertGreaterEqual(len(held), 8)
        named = wait_until("the standby names an address without a pool",
                           lambda: views.events(self.node2, "no-pool"), RECOVER_S)
        self.assertTrue(any(block["address"] in text for block in held for text in named), named)
        wait_until("its cause is told",
                   lambda: "configuration differs" in views.group(self.node2)["vrfs"][0]["cause"], RECOVER_S)
        wait_until("the common pool's flows are at the standby, and no others",
                   lambda: len(views.conntracks(self.node2)) == 56, RECOVER_S)
        refused = views.worker_counters(self.node2)["absorb_no_pool"]
        self.assertGreaterEqual(refused, 16)
        self.assertEqual(on_more(self.node2), [])

        self.apply(self.node2, self.with_more(self.node2))
        self.wait_differing([])
        self.assertEqual(wait_equal(self.lab, at_least=72), 72)
        wait_in_sync(self.lab, "node1")
        self.assertGreaterEqual(views.worker_counters(self.node2)["absent_mended"], 16)
        self.assertEqual(self.resyncs(), before, "slots were sent")
        self.assert_no_reconnects(lanes)
        self.say(f"{refused} records refused, all of them asked for")

        self.fail_over()
        for sessions in (common, more, later):
            self.assert_all_alive(sessions)
        self.assert_no_conflicts(server, self.node2)

    def test_a_pool_that_is_taken_away_takes_its_own_flows_with_it(self):
        """The active node first, then the standby; and what can't be had live is named with the reason."""
        self.traffic.server()
        own = {node.place: self.edited(node, name="own.toml") for node in self.lab.nodes.values()}
        for node in self.lab.nodes.values():
            self.apply(node, self.with_more(node))
        self.wait_differing([])
        common = self.open_sessions(40, sources=self.traffic.addresses[8:])
        self.open_sessions(16, sources=self.traffic.addresses[:8])
        wait_equal(self.lab, at_least=56)
        self.assertTrue(on_more(self.node1) and on_more(self.node2))
        before, lanes = self.resyncs(), self.connections()

        cut = [("block_size = 512", "block_size = 256")]
        renamed = [('name = "more"', 'name = "renamed"'), ('pool = "more"', 'pool = "renamed"')]
        for changes, reason in ((cut, "blocks are cut when a pool gets its addresses"),
                                (renamed, "an address can't be in two pools")):
            said = self.refused(self.node1, "config", "apply", self.edited(self.node1, *changes, name="bad.toml"))
            self.assertIn(reason, said)

        self.apply(self.node1, own["node1"])
        wait_until("its blocks are gone, on both nodes",
                   lambda: not on_more(self.node1) + on_more(self.node2), RECOVER_S)
        self.assertEqual(views.worker_counters(self.node1)["retired_ended"], 16)
        self.apply(self.node2, own["node2"])
        self.wait_differing([])
        self.open_sessions(8, sources=self.traffic.addresses[:8])
        self.assert_all_alive(common)
        wait_equal(self.lab, at_least=48)
        self.assertEqual(on_more(self.node1), [])
        self.assertEqual(self.resyncs(), before, "slots were sent")
        self.assert_no_reconnects(lanes)

        # Its addresses can be in another pool by now.
        grown = (f'addresses = ["{OWN}"]', f'addresses = ["198.51.100.1-{MORE[-1]}"]')
        for node in self.lab.nodes.values():
            self.apply(node, self.edited(node, grown))
        self.wait_differing([])
        self.assert_all_alive(common)


if __name__ == "__main__":
    unittest.main()
