"""The lab itself: what it promises to the other scenarios, and that its witnesses can say no."""

import os
import socket
import struct
import subprocess
import unittest
from pathlib import Path

from labcase import RECOVER_S, LabCase, TimedCase, wait_until
from twinlab.lab import STATE_ROOT, Lab
from twinlab.node import DAEMONS
from twinlab.scenario import running_lab
from twinlab.shell import PYTHON, LabError, checksum, in_namespace, run
from twinlab.topology import LAN_GATEWAY, SERVER, SERVER6

COMMAND = Path(__file__).with_name("twinlab") / "lab.py"


class TestNetwork(LabCase):
    """Cables and filters, without any daemon."""

    bare = True
    clients = 64

    def ping(self, place, *words):
        """Whether an echo request is answered."""
        namespace = self.lab.topology.namespace(place)
        return subprocess.run(in_namespace(namespace, "ping", "-c", "1", "-W", "1", *words), check=False,
                              capture_output=True).returncode == 0

    def wait_answered(self, place, *words):
        """Waits for an answer: the kernel asks for a neighbor once a second, and has done so in vain during a cut."""
        wait_until(f"{words[-1]} answers {place}", lambda: self.ping(place, *words), RECOVER_S)

    def neighbor(self, place, address):
        """State of a neighbour entry."""
        shown = run("ip", "-n", self.lab.topology.namespace(place), "neigh", "show", address).split()
        return shown[-1] if shown else "NONE"

    def test_the_kernels_carry_no_user_packet(self):
        """No daemon, no traffic: neither through the nodes nor to them, in either family."""
        for words in ([SERVER], ["-6", SERVER6], ["100.64.0.2"], ["-6", "fd00:64::2"]):
            self.assertFalse(self.ping("client", *words), f"{words[-1]} answers")
        self.assertFalse(self.ping("node1", "100.64.1.1"), "the filter lets user packets in")
        wait_until("the filter has kept an answer from the kernel",
                   lambda: self.lab.topology.kernel_filtered("node1")["lan0"] > 0, RECOVER_S)

    def test_the_kernels_resolve_neighbors(self):
        """ARP and neighbour discovery pass the filter, both ways."""
        self.ping("node1", "100.64.1.1")
        self.ping("node1", "-6", "fd00:64::1:1")
        self.ping("client", "100.64.0.2")
        for place, address in (("node1", "100.64.1.1"), ("node1", "fd00:64::1:1"), ("client", "100.64.0.2")):
            wait_until(f"{place} knows {address}", lambda p=place, a=address: self.neighbor(p, a)
                       not in ("NONE", "FAILED", "INCOMPLETE"), RECOVER_S)
        self.ping("client", SERVER)
        self.assertIn(self.neighbor("client", LAN_GATEWAY), ("FAILED", "INCOMPLETE"), "a kernel owns the gateway")

    def test_a_cut_takes_the_carrier_and_a_silent_one_only_the_frames(self):
        """Both kinds stop everything; healing undoes both; addresses stay."""
        for silent in (False, True):
            self.wait_answered("node1", "10.150.0.2")
            self.lab.topology.cut("sync1", silent)
            self.assertEqual(self.lab.topology.links()["sync1"], "silent" if silent else "down")
            self.assertFalse(self.ping("node1", "10.150.0.2"))
            carrier = run(*in_namespace(self.node1.namespace, "cat", "/sys/class/net/sync0/carrier")).strip()
            self.assertEqual(carrier, "1" if silent else "0")
            self.lab.topology.heal("sync")
        self.wait_answered("node1", "-6", "fd00:150::2")

    def test_a_node_that_is_still_dying_is_started_anew(self):
        """Whoever found the killed process alive once left the node without one."""
        self.node1.start()
        before = {daemon: self.node1.pid(daemon) for daemon in DAEMONS}
        self.node1.kill(wait=False)
        self.node1.start()
        after = {daemon: self.node1.pid(daemon) for daemon in DAEMONS}
        self.assertTrue(all(after.values()), after)
        self.assertFalse(set(before.values()) & set(after.values()), f"{before} {after}")

    def test_the_witness_sees_a_port_given_twice(self):
        """Two inside endpoints behind one public port, and an opening segment on a living tuple: both noticed."""
        server = self.traffic.server("node2", "sync0")
        owner, thief = (self._speak(b"hello " + inside) for inside in (b"100.64.1.1 1\n", b"100.64.1.2 1\n"))
        wait_until("two connections", lambda: server.ask("report")["live"] == 2, RECOVER_S)
        self.assertEqual(server.ask("report")["conflicts"], [])
        owner.stdin.write(b"hello 100.64.1.3 1\n")
        owner.stdin.flush()
        wait_until("the change of owner is seen", lambda: server.ask("report")["conflicts"], RECOVER_S)
        port = server.ask("flows")["tcp"][0][1]
        self._send_syn(port)
        wait_until("the second opening is seen",
                   lambda: [c for c in server.ask("report")["conflicts"] if c["kind"] == "syn"],
                   RECOVER_S)
        for program in (owner, thief):
            program.stdin.close()
            program.wait(RECOVER_S)

    def _speak(self, line):
        code = ("import socket,sys\ns=socket.create_connection(('10.150.0.2',7000))\n"
                "for line in sys.stdin.buffer:\n s.sendall(line); s.recv(100)\n")
        program = subprocess.Popen(in_namespace(self.node1.namespace, PYTHON, "-uc", code),
                                   stdin=subprocess.PIPE)
        self.addCleanup(program.kill)
        program.stdin.write(line)
        program.stdin.flush()
        return program

    def _send_syn(self, port):
        """An opening segment from node1's address with a sequence number nobody chose."""
        source, target = socket.inet_aton("10.150.0.1"), socket.inet_aton("10.150.0.2")
        segment = struct.pack("!HHIIBBHHH", port, 7000, 0x12345678, 0, 0x50, 2, 1024, 0, 0)
        total = checksum(source + target + struct.pack("!HH", 6, 20) + segment)
        segment = segment[:16] + struct.pack("!H", total) + segment[18:]
        code = ("import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_RAW,6)\n"
                f"s.sendto(bytes.fromhex('{segment.hex()}'),('10.150.0.2',0))")
        run(*in_namespace(self.node1.namespace, PYTHON, "-c", code))


class TestLife(TimedCase):
    """Birth and death of labs."""

    def test_two_labs_do_not_meet_and_leave_nothing(self):
        """Side by side, one taken down while the other stays; taking down twice is fine."""
        ids = [f"t{os.getpid()}{letter}" for letter in "ab"]
        with running_lab(ids[0], clients=2, bare=True) as first:
            with running_lab(ids[1], clients=2, bare=True) as second:
                self.assertTrue(first.status()["up"] and second.status()["up"])
                with self.assertRaises(LabError), running_lab(ids[1], clients=2, bare=True):
                    self.fail("it was up already")
                for words in ((), ("--set", "colour=red")):
                    again = subprocess.run([PYTHON, COMMAND, "--lab", ids[1], "up", "--bare", *words], check=False, capture_output=True)
                    self.assertEqual(again.returncode, 1)
                self.assertTrue(second.status()["up"], "who comes second takes nothing away")
            self.assertTrue(first.status()["up"])
            second.down()
            self.assertEqual(run("ip", "netns", "pids", first.topology.namespace("fabric")).count("\n"), 1)
        self.assertEqual([name for name in os.listdir("/run/netns") if name.startswith(tuple(ids))], [])
        self.assertEqual([path for path in Path(STATE_ROOT).glob("*") if path.name.startswith(tuple(ids))], [])

    def test_an_orphaned_lab_is_removed(self):
        """A lab whose owner was killed goes at the next occasion."""
        lab_id = f"t{os.getpid()}o"
        owner = subprocess.Popen(["sleep", "100"])
        Lab(lab_id).up(clients=1, bare=True, owner=owner.pid)
        Lab.remove_orphans()
        self.assertTrue(Lab(lab_id).status()["up"], "its owner still lives")
        owner.kill()
        owner.wait()
        Lab.remove_orphans()
        self.assertFalse(Lab(lab_id).status()["up"])

    def test_nonsense_is_refused_with_a_message(self):
        """Unknown knobs, links, nodes and ids."""
        lab = Lab("nonsense")
        for call in (lambda: Lab("Not An Id"), lambda: lab.up(["colour=red"]), lambda: lab.up(["workers=many"]),
                     lambda: lab.node("node3"), lambda: lab.topology.cut("moon")):
            with self.assertRaises(LabError):
                call()
        self.assertFalse(lab.status()["up"])


if __name__ == "__main__":
    unittest.main()
