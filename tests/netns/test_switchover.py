"""Planned switchover: the role goes to the peer and back under traffic; what goes wrong leaves it where it was."""

import os
import signal
import subprocess
import unittest

from labcase import HA_GROUP, RECOVER_S, LabCase, LabError, other, views, wait_equal, wait_pair, wait_until
from test_vrrp import VRRP, VrrpCase
from twinlab.scenario import wait_settled
from twinlab.shell import freeze, run
from twinlab.topology import CABLES

PATIENCE_S = 30
# Times that a moment is tried to be caught which may be over before anybody has looked.
TRIES = 5

# Where a switchover to a peer that stands still is found: draining is over at once when the peer has confirmed everything
# before, and then it is the taking over that isn't answered.
MIDDLE = ("draining", "handing-over")


class SwitchoverMixin:
    """Steps that groups of either kind share."""

    def begin_traffic(self):
        """Connections, and UDP streams with sequence numbers."""
        self.server = self.traffic.server()
        self.sessions = self.open_sessions(60, 100)
        self.stream = self.traffic.udp(5, self.traffic.addresses[:4])
        self.stream.ask("begin")
        self.assert_all_alive(self.stream, what="streams")
        wait_equal(self.lab, at_least=60)

    def switch_over(self, node):
        """Hands the group of a node to the other one; returns that."""
        def ordered():
            try:
                return node.ctl("switchover", HA_GROUP, within_s=PATIENCE_S)
            except LabError as error:
                # Both are seen to be in sync a moment before the active node has heard it from its peer.
                self.assertIn("isn't ready", str(error))
                raise
        report = wait_until(f"{node.place} hands over", ordered, RECOVER_S)
        self.assertEqual((report["phase"], report["peer"]), ("done", "peer1"))
        peer = self.lab.node(other(node.place))
        self.assertEqual(views.role(peer), "master", "the command ends when the peer is active")
        self.assertEqual(views.role(node), "backup")
        self.say(f"{peer.place} is active after {report['took_ms']} ms")
        return peer

    def begin_switchover(self, node):
        """The same without waiting for the end."""
        # pylint: disable-next=consider-using-with  # ended by the clean-up
        command = subprocess.Popen(node.ctl_words("switchover", HA_GROUP), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(command.wait, PATIENCE_S)
        return command

    def catch(self, phases, active):
        """Begins a switchover; returns in which of the phases it was seen, or None when it was over, or refused, before."""
        command = self.begin_switchover(active)

        def seen():
            over = command.poll() is not None
            phase = self.phase(active)
            return (phase,) if phase in phases else over and (None,)

        return wait_until(f"the switchover is {' or '.join(phases)}", seen, PATIENCE_S)[0]

    def kill_control_at(self, phases, active, held, dies):
        """The switchover from the active node stays in one of these phases as long as a daemon of the standby is stopped;
        there the control process of the node that `dies` names is killed and started again. Returns who is active then."""
        for _ in range(TRIES):
            standby = self.lab.node(other(active.place))
            dying = active if dies == "active" else standby
            process = standby.pid(held)
            freeze(process)
            try:
                if phase := self.catch(phases, active):
                    dying.kill("control")
            finally:
                if standby.pid(held) == process:
                    os.kill(process, signal.SIGCONT)
            if phase:
                break
            active = self.settled()
        self.assertTrue(phase, f"{TRIES} switchovers were over before they were seen to be {' or '.join(phases)}")
        dying.start("control")
        wait_until("the switchover is over", lambda: self.phase(active) in ("done", "rolled-back"), RECOVER_S)
        end = self.phase(active)
        # One that is cancelled may have reached the peer, which then has the role all the same.
        after = self.settled()
        if end == "done":
            self.assertEqual(after.place, other(active.place), "who has taken over stays active")
        self.say(f"control process of {dying.place} killed while {phase}: {end}, {after.place} is active")
        self.assert_all_alive(self.sessions, what="connections after that")
        self.assert_all_alive(self.stream, what="streams after that")
        return after

    def phase(self, node):
        """Of the switchover that is under way at a node, or the last one's."""
        return (views.group(node)["switchover"] or {}).get("phase")

    def refused(self, node, *words):
        """What a switchover that doesn't come about says."""
        done = subprocess.run(node.ctl_words("switchover", *words), capture_output=True, text=True, check=False,
                              timeout=PATIENCE_S)
        self.assertEqual(done.returncode, 1, f"{words}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def assert_nothing_lost(self, active):
        """As below, and every packet of the streams has come."""
        self.assert_unharmed(active)
        self.assert_none_lost(self.stream)

    def assert_unharmed(self, active):
        """Everybody goes on, nobody was reset, no port has two owners; tells what the streams have lost."""
        self.assert_all_alive(self.sessions, what="connections in the end")
        self.assert_all_alive(self.stream, what="streams in the end")
        self.assertEqual(self.sessions.ask("report")["resets"], 0)
        self.stream.ask("end")
        self.assert_no_conflicts(self.server, active)
        report = self.stream.ask("report")
        lined_up = {name: count for name, count in views.worker_counters(active).items() if name.startswith("lined_up")}
        self.say(f"streams: {report['sent']} sent, {report['lost']} lost, {report['reordered']} reordered; {lined_up}; dropped: "
                 + ", ".join(f"{place} { {name: count for name, count in views.drops(node).items() if count} }"
                              for place, node in self.lab.nodes.items()))
        return report


class TestRedirect(SwitchoverMixin, LabCase):
    """Routing brings packets to the node that stands by, and it sends them to the active one."""

    clients = 8
    settings = ("standby=redirect",)

    def turn_to_standby(self, place, cable, standby_cable):
        """What a far end sends to the active node's MAC address goes to the standby's from now on."""
        namespace, interface = self.lab.topology.namespace(place), CABLES[cable][2]
        active, standby = CABLES[cable][3], CABLES[standby_cable][3]
        known = run("ip", "-n", namespace, "neigh", "show", "dev", interface)
        turned = [line.split()[0] for line in known.splitlines() if active in line.split()]
        self.assertTrue(turned, f"{place} knows no neighbour {active}: {known}")
        for address in turned:
            run("ip", "-n", namespace, "neigh", "replace", address, "lladdr", standby, "dev", interface, "nud", "permanent")

    def test_packets_that_come_to_the_standby_open_and_carry_flows_both_ways(self):
        self.begin_traffic()
        active, standby = self.node1, self.node2
        before = views.drops(standby).get("redirected", 0)
        self.turn_to_standby("client", "lan1", "lan2")
        self.assert_all_alive(self.sessions, what="connections whose packets from inside come to the standby")
        opened = self.open_sessions(20)
        self.turn_to_standby("server", "wan1", "wan2")
        self.assert_all_alive(self.sessions, what="connections whose packets all come to the standby")
        self.assert_all_alive(opened, what="connections opened through the standby")
        self.assert_all_alive(self.stream, what="streams through the standby")
        self.assertGreater(views.drops(standby).get("redirected", 0), before)
        self.assert_nothing_lost(active)
        self.say(f"dropped by the standby: {views.drops(standby)}")
        wait_equal(self.lab, at_least=80)


class TestStaticGroup(SwitchoverMixin, LabCase):
    """Nobody but the operator moves the role."""

    clients = 8

    def test_the_role_goes_there_and_back_under_traffic(self):
        self.begin_traffic()
        active = self.node1
        for _ in range(4):
            active = self.switch_over(active)
            wait_pair(self.lab, active=active.place)
            self.assert_all_alive(self.sessions, what="connections after a switchover")
            wait_equal(self.lab, at_least=60)
        self.assert_nothing_lost(active)

    def settled(self):
        """The active node of a pair that is whole, whichever it is."""
        active = wait_settled(self.lab, at_least=60)
        wait_pair(self.lab, active=active.place)
        return active

    def test_a_control_process_may_die_in_the_middle(self):
        self.begin_traffic()
        active = self.node1
        for dies in ("active", "standby"):
            active = self.kill_control_at(MIDDLE, active, "dataplane", dies)
        self.assert_unharmed(self.switch_over(active))

    def test_what_cannot_end_well_does_not_begin_and_says_why(self):
        for node, words, why in ((self.node1, ("nobody",), "no HA group named"),
                                 (self.node1, (HA_GROUP, "--to", "nobody"), "no peer named"),
                                 (self.node2, (HA_GROUP,), "this node isn't active")):
            self.assertIn(why, self.refused(node, *words))
        self.node2.kill()
        wait_until("the peer is missed", lambda: "isn't connected" in self.refused(self.node1, HA_GROUP), RECOVER_S)
        self.assertEqual(views.role(self.node1), "master")
        self.node2.start()
        wait_pair(self.lab)
        self.switch_over(self.node1)

    def test_a_peer_that_hangs_in_the_middle_leaves_the_role_here(self):
        self.begin_traffic()
        process = self.node2.pid("dataplane")
        self.addCleanup(os.kill, process, signal.SIGCONT)
        for _ in range(TRIES):
            freeze(process)
            said = self.refused(self.node1, HA_GROUP)
            if "isn't connected" not in said:
                break
            # Its silence was noticed before the switchover had begun.
            os.kill(process, signal.SIGCONT)
            wait_pair(self.lab)
        self.assertIn("rolled-back", said)
        shown = views.group(self.node1)["switchover"]
        self.assertEqual(shown["phase"], "rolled-back")
        self.assertIn("VRF main", shown["end"])
        self.assertEqual(views.role(self.node1), "master")
        os.kill(process, signal.SIGCONT)
        wait_pair(self.lab, active="node1")
        wait_equal(self.lab, at_least=60)
        self.assert_unharmed(self.node1)


class TestVrrpGroup(SwitchoverMixin, VrrpCase):
    """Keepalived moves the role, after the peer has everything."""

    clients = 8

    def test_the_role_goes_there_and_back_under_traffic(self):
        self.begin_traffic()
        active = self.active
        for _ in range(4):
            active = self.switch_over(active)
            self.wait_pair(active.place)
            self.assert_all_alive(self.sessions, what="connections after a switchover")
            wait_equal(self.lab, at_least=60)
        self.assertFalse(views.group(active)["vrrp"]["held"], "nothing latches")
        self.assert_nothing_lost(active)

    def settled(self):
        """The active node of a pair that is whole, whichever it is."""
        active = self.lab.node(self.wait_pair()[0])
        wait_equal(self.lab, at_least=60)
        return active

    def test_a_control_process_may_die_at_any_step(self):
        """Before keepalived is told, or right after that; and with keepalived here out of the election while the word of
        the other one's isn't read."""
        self.begin_traffic()
        active = self.active
        for phases, held in ((MIDDLE, "dataplane"), (("handing-over",), "control")):
            for dies in ("active", "standby"):
                active = self.kill_control_at(phases, active, held, dies)
        active = self.switch_over(active)
        self.wait_pair(active.place)
        wait_equal(self.lab, at_least=60)
        self.assertFalse(views.group(active)["vrrp"]["held"], "nothing latches")
        self.assert_unharmed(active)

    def test_a_peer_without_keepalived_leaves_the_role_here(self):
        self.begin_traffic()
        self.standby.kill("keepalived")
        said = self.refused(self.active, HA_GROUP)
        self.assertIn("has not taken over in time", said)
        self.assertEqual(views.role(self.active), "master")
        # Until it is elected again, another keepalived that comes would be.
        wait_until("keepalived has come back to it", lambda: views.group(self.active)["vrrp"]["says"] == "master", RECOVER_S)
        self.standby.start("keepalived")
        self.wait_pair(self.active.place)
        self.assert_unharmed(self.active)

    def test_only_the_elected_node_hands_over(self):
        self.assertIn("has to be master", self.refused(self.standby, HA_GROUP))
        with self.assertRaisesRegex(LabError, "switchover"):
            self.active.set_state("backup")


class TestVrrpPreempt(SwitchoverMixin, VrrpCase):
    """node1 is preferred, and would take back what it has handed over."""

    clients = 8
    settings = (*VRRP, "preempt=true")

    def test_the_preferred_node_stays_away_until_it_is_released(self):
        self.active, self.standby = (self.lab.node(place) for place in self.wait_pair("node1"))
        self.begin_traffic()
        active = self.switch_over(self.active)
        wait_until("it is held", lambda: self.blocked(self.active) == "held by an operator", RECOVER_S)
        self.assert_all_alive(self.sessions, what="connections after the switchover")
        self.assertEqual(views.role(active), "master")
        self.active.ctl("release", "ha-group", HA_GROUP)
        self.wait_pair("node1")
        self.assert_unharmed(self.active)


if __name__ == "__main__":
    unittest.main()
