"""The operator asks whether the tables are equal, has them made equal, and gets an exact answer while traffic runs."""

import json
import subprocess

from labcase import RECOVER_S, VRF, LabCase, LabError, views, wait_equal, wait_in_sync, wait_until

DECIDED_WITHIN_S = 60


def ask(node, *words):
    """Exit code, answer and complaint of a command that may say no."""
    done = subprocess.run([str(w) for w in node.ctl_words(*words, "--json")], capture_output=True, text=True,
                          timeout=60, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, done.stderr


def decided(node, *words):
    """The same of a comparison that has come to an end: a lane that is lost meanwhile, or an answer that takes seconds,
    leaves slots undecided."""
    def probe():
        code, report, complaint = ask(node, "compare", *words)
        if code == 2:
            raise LabError(f"{report} {complaint}")
        return code, report, complaint
    return wait_until(f"{node.place} has compared {words}", probe, DECIDED_WITHIN_S, 0.5)


class TestCompare(LabCase):
    """Entry by entry."""

    def setUp(self):
        super().setUp()
        self.traffic.server()
        self.sessions = self.open_sessions(150, 100)
        self.count = wait_equal(self.lab, at_least=150)

    def test_equal_tables_are_equal_under_traffic_and_a_lost_entry_is_named(self):
        """By digest, entry by entry, and after something was removed behind the active node's back."""
        self.traffic.sessions(50).ask("open", count=50, patience_s=60)
        for words in ((), ("--all",), ("vrf", VRF), ("vrf", VRF, "slot", 3)):
            code, report, complaint = decided(self.node1, *words)
            self.assertEqual((code, report and report["result"]), (0, "equal"), f"{words}: {report} {complaint}")
        whole = decided(self.node1, "--all")[1]["parts"][0]
        self.assertGreaterEqual(whole["entries_equal"], self.count)
        code, report = self._lose_an_entry(fix=False)
        self.assertEqual((code, report["result"]), (1, "different"))
        part = report["parts"][0]
        self.say(f"{part['entries_equal']} entries equal, {part['only_here']} only here, {report['elapsed_ms']} ms")
        self.assertGreaterEqual(part["only_here"], 1)
        self.assertEqual((part["only_there"], part["different"]), (0, 0))
        lost = [row["entry"]["conntrack"]["original"]["src"] for row in part["differences"]
                if "conntrack" in row["entry"]]
        self.assertEqual(set(lost), {self.victim})

    def test_a_fix_makes_the_tables_equal(self):
        """What differs is sent again and compared once more; nothing else is sent."""
        code, report = self._lose_an_entry(fix=True)
        part = report["parts"][0]
        self.assertEqual((code, report["result"]), (0, "equal"), report)
        self.assertGreaterEqual(part["repaired"]["only_here"], 1)
        self.assertLessEqual(part["repaired"]["slots"], 2)
        wait_equal(self.lab, at_least=self.count)

    def _lose_an_entry(self, fix):
        """Removes one subscriber's entries on the standby alone, and compares before the next digests do.

        A slot's own digest comes around every few seconds: where it was faster, it is tried with another subscriber."""
        for self.victim in self.traffic.addresses[:10]:
            self.node2.ctl("flush", "conntrack", "vrf", VRF, "--src", self.victim, "--lose")
            code, report, _ = decided(self.node1, *(["--fix"] if fix else []))
            if report["result"] == "different" or report["parts"][0]["repaired"]:
                return code, report
        return self.fail("ten times the entry came back before it was missed")

    def test_what_cannot_be_compared_says_why(self):
        """On the node that receives, and without lanes: exit code 2 and the cause."""
        code, report, complaint = ask(self.node2, "compare")
        self.assertEqual((code, report), (2, None))
        self.assertIn("compare there", complaint)
        code, report, complaint = ask(self.node1, "compare", "vrf", "nowhere")
        self.assertEqual((code, report), (2, None))
        self.lab.topology.cut("sync")
        wait_until("the lanes are seen to be down", lambda: views.lanes_down(self.node1), RECOVER_S)
        code, report, complaint = ask(self.node1, "compare", "vrf", VRF, "slot", 1)
        self.assertEqual(code, 2, f"{report} {complaint}")
        cause = complaint if report is None else report["parts"][0]["undecided"][0]["cause"]
        self.assertTrue("not connected" in cause or "lane is down" in cause, cause)
        self.lab.topology.heal("sync")

    def test_slots_are_sent_again_on_request_of_either_node(self):
        """All, one VRF, one slot; the standby asks its peer; connections notice nothing."""
        slots, everything = views.peer(self.node1)["slots"]["total"], 0
        for node, words, sent, asked in ((self.node1, ("all",), slots, 0), (self.node1, ("vrf", VRF, "slot", 2), 1, 0),
                                         (self.node2, ("vrf", VRF), 0, slots)):
            code, outcome, complaint = ask(node, "resync", *words)
            self.assertEqual(code, 0, f"{outcome} {complaint}")
            self.say(f"{node.place} {words}: {outcome}")
            everything = outcome["records"] if words == ("all",) else everything
            if sent == 1:
                self.assertLess(outcome["records"], everything // 4, "records of one slot, not of all")
            self.assertEqual((outcome["slots_sent"], outcome["slots_asked"], outcome["slots_open"]), (sent, asked, 0))
        self.assertEqual(ask(self.node1, "resync", "vrf", VRF, "slot", 60000)[0], 1)
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=self.count)
        self.assert_all_alive(self.sessions)
