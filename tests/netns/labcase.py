"""What every namespace scenario has: a lab of its own, traffic in it, a time limit, and nothing left afterwards."""

import os
import signal
import sys
import time
import unittest

from twinlab import views
from twinlab.drive import Traffic
from twinlab.node import HA_GROUP, VRF
from twinlab.nodeconfig import knobs_of_nodes
from twinlab.scenario import (RECOVER_S, Interrupted, double_owners, other, running_lab, wait_equal, wait_in_sync,
                              wait_pair, wait_role, wait_still)
from twinlab.shell import LabError, wait_until
from twinlab.topology import SERVER6

LIMIT_S = 300
# Sessions of routing daemons come up at their own pace: timers of seconds, on cores that others use too.
CONVERGED_WITHIN_S = 90


class TimeUp(Exception):
    """The scenario did not end in time."""


class TimedCase(unittest.TestCase):
    """A test that ends, one way or the other."""

    limit_s = LIMIT_S

    def run(self, result=None):
        def time_up(_number, _frame):
            raise TimeUp(f"longer than {self.limit_s} s")
        signal.signal(signal.SIGALRM, time_up)
        signal.alarm(self.limit_s)
        try:
            return super().run(result)
        except Interrupted:
            # It came while no part of the scenario ran, so nobody else would.
            self.doCleanups()
            raise
        finally:
            signal.alarm(0)

    def say(self, text):
        """A line of the report."""
        print(f"    {text}", file=sys.stderr, flush=True)


class LabCase(TimedCase):
    """A test with a lab. Class attributes choose what it is like."""

    settings = ()
    clients = 96
    bare = False

    def setUp(self):
        self.lab = self.enterContext(running_lab(f"t{os.getpid()}", self.settings, self.clients, self.bare))
        self.node1, self.node2 = self.lab.node("node1"), self.lab.node("node2")
        self.traffic = self.enterContext(Traffic(self.lab, self.clients))
        if not self.bare and knobs_of_nodes(self.settings)["node1"].ha == "static":
            wait_pair(self.lab, self.settings)

    def tearDown(self):
        """Whatever a scenario did, its nodes' kernels have forwarded nothing."""
        for place in self.lab.nodes:
            self.assertEqual(self.lab.topology.kernel_forwarded(place), 0, f"{place}'s kernel forwarded packets")

    # -- steps that many scenarios share

    def wait_ways(self, place, prefix, gateways):
        """Waits until the kernel of a place beside which a routing daemon runs sends packets to `prefix` by these gateways and no
        others."""
        wanted = sorted(gateways)

        def probe():
            if (found := self.lab.routers[place].ways(prefix)) != wanted:
                raise LabError(f"they are {found}")
            return True
        wait_until(f"the ways of {place} to {prefix} are {wanted}", probe, CONVERGED_WITHIN_S, 0.1)

    def open_sessions(self, count, interval_ms=500, **where):
        """TCP connections that have all exchanged data."""
        sessions = self.traffic.sessions(interval_ms, **where)
        opened = sessions.ask("open", count=count, patience_s=90)
        self.assertEqual(opened["opened"], count, f"connections that did not open: {opened['failed']}")
        return sessions

    def assert_all_alive(self, program, within_s=RECOVER_S, what="flows"):
        """Every flow of a program carries data there and back now."""
        answer = program.ask("exchange", within_s=within_s, patience_s=within_s + 15)
        self.assertEqual(answer["survived"], answer["of"], f"{what} that exchange data")
        return answer["of"]

    def assert_none_lost(self, program):
        """Every question of a program has been answered, the last ones in a while; returns their number."""
        program.ask("end")

        def probe():
            report = program.ask("report")
            if report["lost"]:
                raise LabError(f"{report['lost']} of {report['sent']} are not")
            return report["sent"]

        return wait_until("every question is answered", probe, RECOVER_S)

    def fail_over(self, dead="node1"):
        """kill -9 of one node, the other made master at once; returns the time of death."""
        died = time.monotonic()
        self.lab.node(dead).kill(wait=False)
        survivor = self.lab.node(other(dead))
        survivor.set_state("master")
        wait_role(survivor, "master")
        return died

    def assert_no_conflicts(self, server, node):
        """Neither the server nor the node's table has seen a public port with two owners."""
        self.assertEqual(server.ask("report")["conflicts"], [], "public address and port given to two flows")
        self.assertEqual(double_owners(node), {}, "public ports with two owners in the table")

    def connections(self):
        """What has become of the lanes so far, for `assert_no_reconnects`: lanes made anew by place, and silences."""
        nodes = self.lab.nodes.items()
        return ({place: sum(lane["reconnects"] for lane in node.ctl("show", "sync")["lanes"]) for place, node in nodes},
                sum(views.counted(node, "silent") for _, node in nodes))

    def assert_no_reconnects(self, before):
        """No lane was lost since `connections`, unless this machine has kept a process from running for a second: its peer
        hears nothing of it then, which is counted."""
        (lost, silent), (lost_before, silent_before) = self.connections(), before
        if silent == silent_before:
            self.assertEqual(lost, lost_before, "lanes were lost")
        else:
            self.say(f"a lane heard nothing for a second on this machine; made anew {lost_before} before, {lost} now")

    def assert_lanes_and_workers_busy(self, node, workers, event_threads):
        """Each lane and each worker carried something: an even spread that is none would show here."""
        lanes, loads = views.records_per_lane(node), views.packets_per_worker(node)
        self.say(f"{node.place}: records per lane {lanes}, packets per worker {loads}")
        self.assertEqual((len(lanes), len(loads)), (event_threads, workers))
        self.assertNotIn(0, lanes.values(), "a lane without a record")
        self.assertNotIn(0, loads.values(), "a worker without a packet")
        counts = [count for row in node.ctl("show", "event") for count in row["counters"]]
        for name in ("bytes_sent", "bytes_received"):
            self.assertGreater(sum(count["value"] for count in counts if count["name"] == name), 0, name)
        queues = views.packets_per_queue(node)
        self.assertNotIn(0, queues.values(), f"a receive queue without a packet: {queues}")


__all__ = ["HA_GROUP", "LabCase", "LabError", "RECOVER_S", "SERVER6", "TimedCase", "VRF", "double_owners", "other",
           "views", "wait_equal", "wait_in_sync", "wait_pair", "wait_role", "wait_still", "wait_until"]
