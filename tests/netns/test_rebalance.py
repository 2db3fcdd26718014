"""Slots that go from one worker to the other while connections and streams use them: nothing is lost, and the pair stays equal."""

import subprocess
import unittest

from labcase import RECOVER_S, VRF, LabCase, LabError, views, wait_equal, wait_until
from twinlab.scenario import wait_settled

SLOTS = 64


class TestRebalance(LabCase):
    """Two workers on either node."""

    settings = (f"slots={SLOTS}",)
    clients = 16

    def moved(self, node):
        """Slots and conntracks that have changed hands on a node so far."""
        counted = views.worker_counters(node)
        self.assertEqual(counted["slots_departed"], counted["slots_arrived"])
        self.assertEqual(counted["conntracks_departed"], counted["conntracks_arrived"])
        self.assertEqual(counted["conntracks_unmoved"], 0)
        return counted["slots_arrived"], counted["conntracks_arrived"]

    def slots(self, node):
        """Slots of each worker."""
        return [row["slots"] for row in node.ctl("show", "worker")]

    def crowd(self, node, worker=0):
        """Has all slots of the VRF go to one worker; returns how many went."""
        gone = 0
        for slot in node.ctl("show", "ha-fp-conntrack", "slots", "vrf", VRF):
            if slot["worker"] == worker:
                continue
            report = wait_until(f"slot {slot['slot']} can go", lambda s=slot: self.sent(node, s["slot"], worker), RECOVER_S)
            self.assertEqual(report["moves"][0]["outcome"], "moved", report)
            gone += 1
        return gone

    @staticmethod
    def sent(node, slot, worker):
        """The report of a move; nothing when the slot could not go at this moment."""
        try:
            return node.ctl("worker", "move-slot", "vrf", VRF, str(slot), "--to", str(worker))
        except LabError:
            return None

    def test_slots_move_under_traffic_and_nothing_is_lost(self):
        """To one worker and back by load on the active node, then on the standby, then a failover."""
        node, standby = self.node1, self.node2
        self.traffic.server()
        sessions = self.open_sessions(60, 100)
        stream = self.traffic.udp(5, self.traffic.addresses[:8])
        stream.ask("begin")
        self.assert_all_alive(stream, what="streams")
        wait_equal(self.lab, at_least=60)
        before = self.slots(node)
        self.assertGreater(min(before), 0)
        slots = sum(before)

        gone = self.crowd(node)
        self.say(f"{gone} slots to one worker: {self.slots(node)}")
        self.assert_all_alive(sessions)
        self.assertEqual(self.moved(node)[0], gone)

        planned = node.ctl("worker", "rebalance", "--dry-run")
        self.assertTrue(planned["moves"], planned)
        self.assertTrue(all(move["outcome"] == "planned" for move in planned["moves"]))
        self.assertEqual(self.moved(node)[0], gone, "a dry run moves nothing")
        report = node.ctl("worker", "rebalance")
        moved = [move for move in report["moves"] if move["outcome"] == "moved"]
        self.assertEqual(len(moved), len(report["moves"]), report)
        slowest = max(move["took_us"] for move in moved)
        self.say(f"{len(moved)} slots by {report['by']}, the slowest in {slowest} us: {report['workers']}, {self.slots(node)}")
        self.assertEqual(sum(self.slots(node)), slots)
        self.assertGreater(min(worker["load_then"] for worker in report["workers"]), 0)

        there = self.crowd(standby, worker=1)
        self.assertGreater(there, 0)
        self.assert_all_alive(sessions)
        waited = [views.worker_counters(n)["slot_awaited"] for n in (node, standby)]
        self.say(f"{self.assert_none_lost(stream)} packets of streams, {waited} waited for their slot")
        for name in ("slot-moving", "handoff-loop"):
            self.assertEqual([views.drops(n).get(name, 0) for n in (node, standby)], [0, 0], name)
        wait_settled(self.lab)
        wait_equal(self.lab, at_least=60)
        for place in (node, standby):
            self.moved(place)
        self.fail_over()
        self.assert_all_alive(sessions)

    def test_what_cannot_be_done_is_said(self):
        """A worker or a slot that isn't there, and a slot that is there already."""
        for words, said in (((VRF, "7", "--to", "9"), "there is no worker 9"),
                            ((VRF, str(SLOTS), "--to", "0"), f"there is no slot {SLOTS}"),
                            (("nowhere", "7", "--to", "0"), "nowhere")):
            with self.assertRaises(LabError) as caught:
                self.node1.ctl("worker", "move-slot", "vrf", *words)
            self.assertIn(said, str(caught.exception))
        slot = self.node1.ctl("show", "ha-fp-conntrack", "slots", "vrf", VRF)[0]
        again = subprocess.run(self.node1.ctl_words("worker", "move-slot", "vrf", VRF, str(slot["slot"]), "--to", str(slot["worker"])),
                               capture_output=True, text=True, check=False, timeout=RECOVER_S)
        self.assertEqual(again.returncode, 1, again)
        self.assertIn("the slot is there already", again.stdout)


if __name__ == "__main__":
    unittest.main()
