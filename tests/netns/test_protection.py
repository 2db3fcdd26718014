"""What a failover keeps is what policy says: rules that keep flows back, a planned demotion that tells them after all,
and first packets that wait until the peer has their flow.
"""

import os
import signal
import unittest

from labcase import (RECOVER_S, SERVER6, VRF, LabCase, other, views, wait_equal, wait_in_sync, wait_pair, wait_role,
                     wait_until)
from twinlab.shell import freeze

# A flow that a node doesn't know is not forwarded; this long is waited before it counts as lost.
LOST_S = 3
# Times that a moment is tried to be caught, or a bounded wait between the nodes to be kept, before it counts as wrong.
TRIES = 5
# Output commit's bound, long enough for an acknowledgement on a busy machine.
TIMEOUT = "output_commit_timeout_ms=500"


class PolicyCase(LabCase):
    """IPv4 flows by a rule with a policy, IPv6 flows by one without."""

    clients = 16
    count = 40

    def open_both(self):
        """As many connections of either kind."""
        self.traffic.server()
        return self.open_flows()

    def open_flows(self):
        """The same beside a server that is there."""
        kept = self.open_sessions(self.count)
        told = self.open_sessions(self.count, sources=self.traffic.addresses6, target=SERVER6)
        return kept, told

    def wait_shown(self, node=None, **expected):
        """Waits until `show protection` of a node, node1, says so."""
        node = node or self.node1
        wait_until(f"{node.place} shows {expected}",
                   lambda: expected.items() <= views.protection(node).items(), RECOVER_S, 0.1)


class TestNever(PolicyCase):
    """`sync = "never"`."""

    settings = ("sync=never",)

    def test_flows_that_are_never_told_are_shown_and_lost_and_the_others_go_on(self):
        """Also by a planned demotion."""
        kept, told = self.open_both()
        self.wait_shown(flows=2 * self.count, protected=self.count, **{"no-sync": self.count})
        wait_until("the standby has the others", lambda: len(views.entries(self.node2)) == self.count, RECOVER_S)
        self.node1.set_state("backup")
        wait_role(self.node1, "backup")
        self.fail_over()
        self.assert_all_alive(told, what="flows that are told")
        self.assertEqual(kept.ask("exchange", within_s=LOST_S)["survived"], 0, "flows that nobody was told of")


class TestAfter(PolicyCase):
    """`sync = "after …"`, longer than any scenario."""

    settings = ("sync=after 600",)

    def open_young(self, active, former=()):
        """Flows of either kind that the active node knows, and the other one of those that are told at once; `former` ones
        are gone before."""
        for sessions in former:
            sessions.ask("close")
        active.ctl("flush", "conntrack", "vrf", VRF)
        standby = self.lab.node(other(active.place))
        for node in (active, standby):
            wait_until(f"{node.place} is empty", lambda n=node: not views.entries(n), RECOVER_S)
        flows = self.open_flows()
        self.wait_shown(active, flows=2 * self.count, protected=self.count, delay=self.count)
        wait_until("the standby has the others", lambda: len(views.entries(standby)) == self.count, RECOVER_S)
        return flows

    def test_a_planned_demotion_leaves_no_young_flow_behind(self):
        """The node is killed as soon as it stands by; its peer has them all."""
        self.traffic.server()
        flows = ()
        for go in range(1, TRIES + 1):
            flows = self.open_young(self.node1, flows)
            self.node1.set_state("backup")
            wait_role(self.node1, "backup", every_s=0.01)
            drained = wait_until("it says how that went", lambda n=go: views.events(self.node1, "drained")[n - 1:],
                                 RECOVER_S, 0.01)
            self.assertEqual(len(drained), 1)
            if "the peers have everything" in drained[0]:
                break
            # A node that is told to stand by has a bounded time for it.
            self.say(f"{drained}")
            self.node1.set_state("master")
            wait_pair(self.lab)
        self.fail_over()
        kept, told = flows
        self.assert_all_alive(kept, what="young flows")
        self.assert_all_alive(told, what="other flows")
        self.say(f"{drained}")
        self.assertIn("the peers have everything", drained[0])

    def test_a_standby_that_is_made_master_is_told_of_young_flows_first(self):
        """Without a word to the active node, which is killed as soon as the other one is master."""
        self.traffic.server()
        active, flows = self.node1, ()
        for _ in range(TRIES):
            flows = self.open_young(active, flows)
            standby = self.lab.node(other(active.place))
            standby.set_state("master")
            wait_role(standby, "master", every_s=0.01)
            active.kill()
            if len(views.entries(standby)) == 2 * self.count:
                break
            # It waits a tenth of a second for an answer: whoever is slower counts as dead.
            self.say(f"{active.place} has not answered in time")
            active.start()
            wait_pair(self.lab, active=standby.place)
            active = standby
        kept, told = flows
        self.assert_all_alive(kept, what="young flows")
        self.assert_all_alive(told, what="other flows")

    def test_a_crash_loses_young_flows_and_a_demotion_without_a_peer_waits_for_nobody(self):
        """What the rule has accepted to lose, and no more."""
        kept, told = self.open_both()
        self.wait_shown(flows=2 * self.count, protected=self.count, delay=self.count)
        self.fail_over()
        self.assert_all_alive(told, what="flows that were told")
        self.assertEqual(kept.ask("exchange", within_s=LOST_S)["survived"], 0, "flows that nobody was told of")
        self.open_sessions(self.count)
        self.node2.set_state("backup")
        wait_role(self.node2, "backup")
        drained = wait_until("it says how that went", lambda: views.events(self.node2, "drained"), RECOVER_S)
        self.say(f"{drained} {views.events(self.node2, 'given-up')}")
        self.assertIn("no peer is there", drained[0])
        wait_until("the loss is counted", lambda: self.untold(self.node2) == self.count, RECOVER_S)

    @staticmethod
    def untold(node):
        """Conntracks that were kept back when a node gave the VRF up."""
        return views.worker_counters(node)["conntracks_untold"]


class TestShortAfter(PolicyCase):
    """`sync = "after …"`, as it is meant."""

    settings = ("sync=after 3",)

    def test_flows_are_told_when_they_are_old_enough(self):
        """They are shown as unprotected until then."""
        self.open_both()
        self.assertEqual(views.entries(self.node2).keys() - views.entries(self.node1).keys(), set())
        self.wait_shown(flows=2 * self.count, protected=2 * self.count, delay=0)
        wait_equal(self.lab, at_least=2 * self.count)
        told = views.worker_counters(self.node1)["conntracks_told_late"]
        self.assertEqual(told, self.count)


class CommitCase(LabCase):
    """First packets wait until the standby has their flow."""

    clients = 16

    def stop_standby(self):
        """Its data process stands still: nothing is closed, nothing answers."""
        process = self.node2.pid("dataplane")
        self.addCleanup(self.go_on, process)
        freeze(process)

    def go_on(self, process):
        """It goes on, if it still exists."""
        if self.node2.pid("dataplane") == process:
            os.kill(process, signal.SIGCONT)

    def commits(self):
        """Flows under output commit by what became of them."""
        counters = views.worker_counters(self.node1)
        return {name: counters[f"commit_{name}"]
                for name in ("held", "released_ack", "released_timer", "released_limit", "released_unknown")}


class TestClosed(CommitCase):
    """`output_commit = "closed"`."""

    settings = ("output_commit=closed", TIMEOUT)

    def test_without_its_standby_no_answer_is_seen_and_what_is_known_goes_on(self):
        """The server sees no connection either; when the standby is back, everything opens."""
        server = self.traffic.server()
        sessions = self.open_sessions(20)
        self.assertGreaterEqual(self.commits()["released_ack"], 20)
        accepted = server.ask("report")["accepted"]
        self.stop_standby()
        refused = self.traffic.sessions(500).ask("open", count=20, within_s=LOST_S)
        self.say(f"with the standby stopped: {refused}, {self.commits()}")
        self.assertEqual((refused["opened"], refused["failed"]), (0, {"TimeoutError": 20}))
        self.assertEqual(server.ask("report")["accepted"], accepted)
        self.assert_all_alive(sessions, what="flows that the standby knew")
        self.go_on(self.node2.pid("dataplane"))
        wait_in_sync(self.lab, "node1")
        self.open_sessions(20)

    def test_every_connection_that_was_answered_survives_the_death_of_the_active_node(self):
        """It dies while connections open: each of which the client has seen an answer goes on."""
        server = self.traffic.server()
        active = self.node1
        for _ in range(TRIES):
            sessions, opened = self.kill_while_opening(server, active)
            self.say(f"{opened}, {server.ask('report')['accepted']} accepted")
            self.assertGreaterEqual(opened["opened"], 100, "the node died too early to prove anything")
            lost = [cause for cause in opened["failed"] if cause.endswith("after an answer")]
            self.assertEqual(lost, [], "connections that were answered and lost")
            self.assert_all_alive(sessions, what="connections that were answered")
            if opened["opened"] < 600:
                break
            # All were open before anybody had seen that some were.
            active.start()
            active = self.lab.node(other(active.place))
            wait_pair(self.lab, active=active.place)
        self.assertLess(opened["opened"], 600, "the node died too late to prove anything")

    def kill_while_opening(self, server, active):
        """The active node dies when some of 600 connections are open; returns them and what became of all."""
        sessions = self.traffic.sessions(500)
        before = server.ask("report")["accepted"]
        # An answer that was seen is a connection for good, so its first line has all the time that a retransmission takes.
        opening = sessions.tell("open", count=600, within_s=LOST_S, hello_within_s=RECOVER_S)
        wait_until("some are open", lambda: server.ask("report")["accepted"] - before >= 150, RECOVER_S, 0.002)
        self.fail_over(active.place)
        return sessions, sessions.hear(opening, 120)


class TestOpen(CommitCase):
    """`output_commit = "open"`."""

    settings = ("output_commit=open", TIMEOUT)

    def test_without_its_standby_flows_go_on_after_their_time(self):
        """Each wait is bounded, and counted by what ended it."""
        self.traffic.server()
        sessions = self.open_sessions(20)
        self.assertGreaterEqual(self.commits()["released_ack"], 20)
        for go in range(1, TRIES + 1):
            before = self.commits()
            self.stop_standby()
            # By a program that runs already: a peer whose silence has been noticed isn't waited for.
            self.assertEqual(sessions.ask("open", count=20, patience_s=90)["opened"], 20)
            during = self.commits()
            self.say(f"with the standby stopped: {before} then {during}")
            self.assertEqual(during["released_ack"], before["released_ack"], "who has acknowledged?")
            self.go_on(self.node2.pid("dataplane"))
            wait_in_sync(self.lab, "node1")
            wait_equal(self.lab, at_least=20 + go * 20)
            if during["released_timer"] > before["released_timer"]:
                break
        self.assertGreater(during["released_timer"], before["released_timer"])


if __name__ == "__main__":
    unittest.main()
