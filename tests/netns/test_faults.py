"""What goes wrong around the processes: half-open connections, processes that stand still, clocks that jump, logs that
nobody takes. Traffic goes on meanwhile, and both tables end equal."""

import json
import os
import signal
import time
import unittest
import unittest.mock
from contextlib import contextmanager
from pathlib import Path

from labcase import RECOVER_S, VRF, LabCase, views, wait_equal, wait_in_sync, wait_pair, wait_role, wait_until
from test_compare import decided
from twinlab.shell import freeze, run

STOPPED_S = 4
LOG_DISK_KB = 64
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
HOUR_S = 3600


def events(node):
    """The journal."""
    lines = run(*node.ctl_words("events", "--json")).splitlines()
    return [json.loads(line) for line in lines]


class FaultCase(LabCase):
    """Traffic in both profiles, before, during and after a fault."""

    def begin(self, count=100):
        """Connections, pings; both tables equal."""
        self.traffic.server()
        self.sessions, self.ping = self.open_sessions(count, 100), self.traffic.ping(20)
        self.ping.ask("begin")
        self.assert_all_alive(self.ping)
        return wait_equal(self.lab, at_least=count)

    def assert_traffic_goes_on(self, opened=30):
        """Old flows and new ones."""
        self.assert_all_alive(self.sessions)
        self.open_sessions(opened)

    def assert_equal_again(self, active, at_least):
        """By both lists, and by the operator's question."""
        wait_in_sync(self.lab, active)
        wait_equal(self.lab, at_least=at_least)
        code, report, complaint = decided(self.lab.node(active), "--all")
        self.assertEqual((code, report and report["result"]), (0, "equal"), f"{report} {complaint}")


class TestHalfOpen(FaultCase):
    """The peer's packets are lost without an end of any connection, in one direction or both."""

    def test_half_open_connections_are_noticed_and_made_anew(self):
        count = self.begin()
        for ways in (("ingress",), ("egress",), ("ingress", "egress")):
            with self.subTest(lost=ways):
                silent = {place: views.counted(node, "silent") for place, node in self.lab.nodes.items()}
                self.lab.topology.cut("sync1", silent=True, ways=ways)
                # Who hears nothing ends the connection; the other one hears of that or hears nothing, too.
                deaf = [place for place, way in (("node2", "ingress"), ("node1", "egress")) if way in ways]
                for place in deaf:
                    wait_until(f"{place} has noticed the silence",
                               lambda p=place: views.counted(self.lab.node(p), "silent") > silent[p], RECOVER_S)
                for node in self.lab.nodes.values():
                    wait_until(f"no lane of {node.place} is up", lambda n=node: views.lanes_down(n), RECOVER_S)
                self.assert_traffic_goes_on()
                count += 30
                self.lab.topology.heal("sync1")
                wait_pair(self.lab)
                self.assert_equal_again("node1", count)
        self.assert_none_lost(self.ping)


class TestStopped(FaultCase):
    """SIGSTOP: the process is there, its kernel keeps the connections, and nothing comes of them."""

    @contextmanager
    def stopped(self, node):
        """Its data process stands still for some seconds."""
        pid, began = node.pid("dataplane"), time.monotonic()
        freeze(pid)
        try:
            yield
            time.sleep(max(0, began + STOPPED_S - time.monotonic()))
        finally:
            os.kill(pid, signal.SIGCONT)

    def wait_missed(self, node):
        """Waits until a node has noticed the silence of the other one."""
        wait_until("its silence is noticed", lambda: views.counted(node, "silent") > 0 and views.lanes_down(node), RECOVER_S)

    def test_a_standby_that_stood_still_costs_no_packet_and_catches_up(self):
        count = self.begin()
        swept = views.worker_counters(self.node2)["swept"]
        with self.stopped(self.node2):
            self.wait_missed(self.node1)
            self.assert_traffic_goes_on(60)
        self.assert_none_lost(self.ping)
        wait_pair(self.lab)
        self.assert_equal_again("node1", count + 60)
        self.assertEqual(views.worker_counters(self.node2)["swept"], swept)

    def test_an_active_node_that_stood_still_and_was_replaced_stands_by(self):
        """It wakes up as what it was; the higher term is the other's."""
        count = self.begin()
        with self.stopped(self.node1):
            self.wait_missed(self.node2)
            self.node2.set_state("master")
            wait_role(self.node2, "master")
            self.assert_traffic_goes_on()
        wait_pair(self.lab, active="node2")
        self.assert_equal_again("node2", count)
        self.assert_traffic_goes_on()
        self.assertEqual(self.sessions.ask("report")["resets"], 0)


class TestFullLog(FaultCase):
    """Both daemons of the standby write their logs to a disk that is full."""

    def test_a_full_disk_for_logs_stops_nothing_and_is_told(self):
        count = self.begin()
        disk = self.node2.directory / "logs"
        disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={LOG_DISK_KB}k", "tmpfs", disk)
        self.addCleanup(run, "umount", "--lazy", disk)
        self.node2.stop()
        for daemon in ("dataplane", "control"):
            log = self.node2.directory / f"{daemon}.log"
            log.unlink()
            log.symlink_to(disk / log.name)
        filler = disk / "filler"
        with self.assertRaises(OSError):
            filler.write_bytes(bytes(LOG_DISK_KB << 11))
        self.node2.start()
        pids = [self.node2.pid(daemon) for daemon in ("dataplane", "control")]
        wait_pair(self.lab)
        self.fail_over()
        self.assert_traffic_goes_on()
        self.assertEqual(pids, [self.node2.pid(daemon) for daemon in ("dataplane", "control")], "a daemon has ended")
        lost = wait_until("an event tells of the lost lines",
                          lambda: [event["text"] for event in events(self.node2) if event["kind"] == "log"], RECOVER_S)
        self.say(f"{count} entries; {lost}")
        filler.unlink()
        self.node1.start()
        wait_pair(self.lab, active="node2")
        wait_until("the log tells of the lost lines",
                   lambda: "log lines are missing here" in (disk / "dataplane.log").read_text(), RECOVER_S)


@unittest.skipUnless(Path(FAKETIME).exists(), "libfaketime is not installed")
class TestClockSteps(FaultCase):
    """The time of day jumps by hours on one node after the other. Only log lines may notice."""

    bare = True

    def step(self, place, hours):
        """Sets the offset that the node's daemons read with every look at the clock."""
        path = self.lab.node(place).directory / "clock"
        path.with_suffix(".new").write_text(f"{hours * HOUR_S:+d}\n", encoding="ascii")
        path.with_suffix(".new").replace(path)

    def test_steps_of_hours_change_nothing(self):
        for place, node in self.lab.nodes.items():
            self.step(place, 0)
            with unittest.mock.patch.dict(os.environ, {
                    "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(node.directory / "clock"),
                    "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}):
                node.start(wait=False)
        for node in self.lab.nodes.values():
            node.wait_running()
        wait_pair(self.lab)
        count = self.begin()
        connections = self.connections()
        for place, hours in (("node1", 5), ("node2", -9), ("node1", -30), ("node2", 0)):
            self.step(place, hours)
            self.assert_stepped(place, hours)
            self.assert_traffic_goes_on(20)
            count += 20
            self.assert_equal_again("node1", count)
        self.assert_no_reconnects(connections)
        self.assert_none_lost(self.ping)
        self.fail_over()
        self.assert_traffic_goes_on()

    def assert_stepped(self, place, hours):
        """The data process's time of day has jumped: an event that it notes now says so."""
        node = self.lab.node(place)
        node.ctl("resync", "vrf", VRF, "slot", "0")
        last = events(node)[-1]
        self.assertLess(abs(last["time_ms"] / 1000 - time.time() - hours * HOUR_S), 60, last)


if __name__ == "__main__":
    unittest.main()
