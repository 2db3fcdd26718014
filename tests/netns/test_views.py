"""What an operator sees of replication: lanes, operations, equations, protected flows, and events as they come."""

import json
import subprocess

from labcase import RECOVER_S, VRF, LabCase, views, wait_equal, wait_in_sync, wait_until

PATIENCE_S = 60


def rows_by_name(rows):
    """Rows of operations by their name."""
    return {row["name"]: row for row in rows}


class TestViews(LabCase):
    """`show sync` and its kin, while connections run."""

    def test_counters_of_both_nodes_add_up_and_say_what_was_done(self):
        """Operations with rates, equations without a remainder that can't be, flows that are protected."""
        self.traffic.server()
        sessions = self.open_sessions(100, 50)
        wait_equal(self.lab, at_least=100)
        for node in self.lab.nodes.values():
            for row in node.ctl("show", "sync", "conservation"):
                self.assertTrue(row["holds"], f"{node.place}: {row}")
        sent = rows_by_name(self.node1.ctl("show", "sync", "operations"))
        applied = rows_by_name(self.node2.ctl("show", "sync", "operations"))
        self.assertGreaterEqual(sent["worker emit"]["calls"], 100)
        self.assertGreaterEqual(sent["send PUT"]["calls"], 100)
        self.assertGreaterEqual(applied["worker apply"]["calls"], 100)
        self.assertGreaterEqual(applied["receive PUT"]["bytes"], 100 * 20)

        def acknowledged():
            # Something to acknowledge in every ten seconds.
            sessions.ask("open", count=1)
            return rows_by_name(self.node1.ctl("show", "sync", "operations"))["receive ACK"]["per_s_10"]

        wait_until("a rate over ten seconds is known", acknowledged, PATIENCE_S, 0.5)
        flows = self.node1.ctl("show", "protection")[0]
        self.assertEqual(flows["flows"], flows["protected"] + sum(r["value"] for r in flows["unprotected"]))
        wait_until("all flows are protected", lambda: self._unprotected() == {}, RECOVER_S)
        self.assert_all_alive(sessions)

    def test_without_a_peer_flows_are_shown_as_exposed(self):
        """The reason is named, the lanes are shown down, and the one cause why the node isn't ready."""
        self.traffic.server()
        self.open_sessions(50)
        wait_equal(self.lab, at_least=50)
        whole = self.node1.ctl("show", "sync")
        peer = whole["vrfs"][0]["peers"][0]
        self.assertEqual((peer["direction"], peer["slots_verified"]), ("sends", peer["slots_total"]))
        self.assertTrue(all(section["equal"] for section in peer["sections"]), peer["sections"])
        self.assertEqual({lane["status"] for lane in whole["lanes"]}, {"established"})
        self.lab.topology.cut("sync")
        wait_until("flows are exposed", lambda: self._unprotected().get("no-peer", 0) >= 50, RECOVER_S)
        wait_until("lanes and direction say so, too", self._nothing_is_sent, RECOVER_S)
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_until("flows are protected again", lambda: self._unprotected() == {}, RECOVER_S)

    def _nothing_is_sent(self):
        whole = self.node1.ctl("show", "sync")
        return (whole["vrfs"][0]["peers"][0]["direction"] == "nothing"
                and "established" not in {lane["status"] for lane in whole["lanes"]})

    def _unprotected(self):
        reasons = self.node1.ctl("show", "protection")[0]["unprotected"]
        return {reason["name"]: reason["value"] for reason in reasons if reason["value"]}


class TestEvents(LabCase):
    """The journal and whoever follows it."""

    def test_a_follower_sees_everything_once_across_restarts(self):
        """Of the control process nothing is missed; a new data process starts a new list, and the follower says so."""
        log = self.node1.directory / "events.log"
        with open(log, "wb") as file:
            follower = subprocess.Popen([str(w) for w in self.node1.ctl_words("events", "--follow", "--json")],
                                        stdout=file, stderr=subprocess.DEVNULL)
        self.addCleanup(follower.wait)
        self.addCleanup(follower.kill)

        def seen():
            # What follows the last end of a line may be half of one.
            return [json.loads(line) for line in log.read_bytes().split(b"\n")[:-1]]

        def kinds():
            return [event.get("kind") for event in seen()]

        wait_until("both directions are seen, and what came of it",
                   lambda: kinds().count("peer-seen") >= 2 and {"start", "role", "resync-end"} <= set(kinds()), RECOVER_S)
        self.node1.kill("control")
        self.lab.topology.cut("sync")
        wait_until("the lanes are seen to be down", lambda: views.lanes_down(self.node2), RECOVER_S)
        self.node1.start("control")
        wait_until("the loss was read afterwards", lambda: "peer-lost" in kinds(), RECOVER_S)
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        numbers = [event["sequence"] for event in seen()]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)), "numbers without gap or repetition")
        self.node1.ctl("resync", "vrf", VRF)
        wait_until("the resync was read", lambda: "resync-requested" in kinds(), RECOVER_S)
        self.node1.kill("dataplane")
        self.node1.start("dataplane")
        wait_until("the new list is read", lambda: {"restarted": True} in seen(), RECOVER_S)
        wait_until("its first event, too", lambda: kinds().count("start") == 2, RECOVER_S)
