"""Devices of ports that go and come under a running data process: a kernel interface that is deleted and made again with another
MAC address, a tap that is deleted, an operator's reset. No process is restarted, and no flow is lost."""

import unittest

from labcase import RECOVER_S, LabCase, LabError, views, wait_equal, wait_pair, wait_until
from twinlab.shell import run

OTHER_MAC = "02:00:00:00:77:01"


class DeviceCase(LabCase):
    """Traffic through a pair."""

    def port(self, node, name="lan0"):
        """A row of `show port`."""
        return next(row for row in node.ctl("show", "port") if row["name"] == name)

    def wait_away(self, node, cause, name="lan0"):
        """Waits until the port's device is away, for that cause."""
        def probe():
            away = self.port(node, name)["away"]
            if not away or cause not in away:
                raise LabError(f"it says {away}")
            return True
        wait_until(f"{name} of {node.place} is away", probe, RECOVER_S)

    def wait_there(self, node, renewed, name="lan0"):
        """Waits until it is there again, made anew so often."""
        def probe():
            row = self.port(node, name)
            if row["away"] or row["renewed"] != renewed:
                raise LabError(f"away: {row['away']}, made anew {row['renewed']} times")
            return row
        return wait_until(f"{name} of {node.place} is there again", probe, RECOVER_S)

    def events(self, node):
        """What was said about ports."""
        return [row["text"] for row in views.event_rows(node, "port")]


class TestInterfaces(DeviceCase):
    """The kernel interface below a packet socket."""

    def test_an_interface_that_was_deleted_and_made_again_carries_the_flows_again(self):
        self.traffic.server()
        sessions = self.open_sessions(100)
        count = wait_equal(self.lab, at_least=100)
        pids = {place: node.pid("dataplane") for place, node in self.lab.nodes.items()}
        for node in (self.node2, self.node1):
            with self.subTest(node=node.place):
                cable = f"lan{node.place[-1]}"
                self.lab.topology.unplug(cable)
                self.wait_away(node, "there is no interface lan0")
                self.lab.topology.plug_again(cable, OTHER_MAC[:-1] + node.place[-1])
                row = self.wait_there(node, 1)
                self.assertEqual(row["mac"][-1], int(node.place[-1]))
                told = self.events(node)
                for word in ("lan0: down: interface lan0 was deleted", "lan0: away: there is no interface lan0",
                             "lan0: made anew, MAC address 02:00:00:00:77:0"):
                    self.assertTrue(any(text.startswith(word) for text in told), f"{word} in {told}")
        self.assert_all_alive(sessions, what="connections by the active node's new interface")
        wait_equal(self.lab, at_least=count)
        self.assertEqual({place: node.pid("dataplane") for place, node in self.lab.nodes.items()}, pids)
        self.fail_over("node1")
        self.assert_all_alive(sessions, what="connections by the standby's new interface")
        self.assertEqual(sessions.ask("report")["resets"], 0)

    def test_a_reset_under_traffic_costs_packets_and_no_flow(self):
        self.traffic.server()
        sessions = self.open_sessions(100, 100)
        before = self.port(self.node1)
        for times in (1, 2, 3):
            self.node1.ctl("port", "reset", "lan0")
            self.assertEqual(self.port(self.node1)["renewed"], times)
        self.assert_all_alive(sessions)
        after = self.port(self.node1)
        # Our own counts go on, in whose place the driver's begin anew.
        for way in ("rx", "tx"):
            self.assertGreater(after[way][0]["packets"], before[way][0]["packets"])
        with self.assertRaisesRegex(LabError, "no port lan7; there are: lan0, wan0"):
            self.node1.ctl("port", "reset", "lan7")
        wait_equal(self.lab, at_least=100)
        self.assertEqual(sessions.ask("report")["resets"], 0)


class TestTaps(DeviceCase):
    """The kernel interface that mirrors a port."""

    settings = ("exception=tap",)

    def test_a_tap_that_was_deleted_is_made_anew_at_once(self):
        self.traffic.server()
        sessions = self.open_sessions(50)
        run("ip", "-n", self.node1.namespace, "link", "delete", "lan0")

        def made():
            told = self.events(self.node1)
            if not any(text.startswith("lan0: made anew") for text in told):
                raise LabError(f"it has said {told}")
            return told
        wait_until("the tap is there again", made, RECOVER_S)
        self.lab.topology.address("node1", "lan0")
        self.lab.topology.ip("node1", ["link set lan0 up"])
        wait_pair(self.lab)
        self.assert_all_alive(sessions)
        self.open_sessions(20)


if __name__ == "__main__":
    unittest.main()
