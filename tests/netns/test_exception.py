"""Ports of which the kernel sees nothing: the kernel's own business reaches it by taps, and comes back by them.

The nodes' cables end at cards that only the data processes see. lan0 and wan0 are the taps: they have the addresses, keepalived
speaks VRRP there, and whatever a kernel does on an interface is to work as ever.
"""

import re
import subprocess
import time
import unittest

from labcase import RECOVER_S, LabCase, LabError, views, wait_equal, wait_role, wait_until
from test_vrrp import VIRTUAL_MAC, VrrpCase
from twinlab.shell import PYTHON, in_namespace, run
from twinlab.topology import CABLES, LAN_GATEWAY, NODE_ADDRESSES

TAPS = "exception=tap"
# Adverts go through the data processes, who get a core here when others leave them one: with shorter intervals an advert that
# comes late elects anew.
VRRP = ("ha=vrrp", "advert_interval_ms=1000")
OWN = {place: addresses["lan0"][0].split("/")[0] for place, addresses in NODE_ADDRESSES.items()}
OWN6 = {place: addresses["lan0"][1].split("/")[0] for place, addresses in NODE_ADDRESSES.items()}
LAN_MAC = {cable[1]: cable[3] for cable in CABLES.values() if cable[0] == "lan"}
CLIENT = "100.64.1.1"
PORT = 2222
FLOOD_S = 3

# Twenty frames a millisecond at most: many times what a class may have, and time for everybody else on these cores.
FLOOD = """
import socket, sys, time
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("lan0", 0))
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    for text in sys.argv[2:]:
        for _ in range(10):
            wire.send(bytes.fromhex(text))
    time.sleep(0.001)
"""


def bare(address):
    """A MAC address in hexadecimal."""
    return address.replace(":", "")


class Asking(LabCase):
    """What is asked of the nodes' kernels, and of the nodes about them."""

    def assert_answers(self, place):
        """The kernel of a node answers a client at its own addresses, of both families, and asks itself."""
        for name, words in (("client", [OWN[place]]), ("client", ["-6", OWN6[place]]), (place, [CLIENT])):
            command = in_namespace(self.lab.topology.namespace(name), "ping", "-c", "1", "-W", "1", *words)
            wait_until(f"{words[-1]} answers {name}",
                       lambda c=command: subprocess.run(c, check=False, capture_output=True).returncode == 0, RECOVER_S)

    def assert_serves(self, place):
        """A program on the node's own address is reached by TCP."""
        # pylint: disable-next=consider-using-with  # ended by the clean-up
        program = subprocess.Popen(self.lab.topology.inside(place, PYTHON, "-m", "http.server", "--bind", OWN[place], PORT),
                                   cwd=self.lab.directory / place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(program.wait, 30)
        self.addCleanup(program.kill)
        url = f"http://{OWN[place]}:{PORT}/twinpath.toml"
        wanted = self.lab.node(place).config_file.read_text(encoding="ascii")

        def served():
            return run(*self.lab.topology.inside("client", "curl", "-sS", "--max-time", "5", url)) == wanted
        wait_until(f"{place} serves its file", served, RECOVER_S)

    def user_packets(self, place):
        """Packets for others that the node's kernel has seen. Must stay 0: it may neither forward nor refuse them."""
        text = run(*self.lab.topology.inside(place, "cat", "/proc/net/snmp"))
        names, values = [line.split()[1:] for line in text.splitlines() if line.startswith("Ip:")]
        return int(dict(zip(names, values))["InAddrErrors"])

    def tearDown(self):
        super().tearDown()
        for place in self.lab.nodes:
            self.assertEqual(self.user_packets(place), 0, f"{place}'s kernel was shown a user's packets")


class TestVrrpOnTaps(VrrpCase, Asking):
    """keepalived's adverts, and all the rest that a kernel does, by the data path."""

    settings = (*VRRP, TAPS)

    def elections(self):
        """How often each keepalived has changed its mind."""
        logs = {place: (node.directory / "keepalived.log").read_text(errors="replace")
                for place, node in self.lab.nodes.items()}
        return {place: len(re.findall(r"Entering (?:MASTER|BACKUP|FAULT) STATE", log)) for place, log in logs.items()}

    def test_a_dead_data_process_moves_the_role_and_its_taps_keep_their_addresses(self):
        sessions = self.start_traffic()
        for place in self.lab.nodes:
            self.assert_answers(place)
        died = time.monotonic()
        self.active.kill("dataplane")
        self.assert_taken_over(sessions, died)
        self.active.start("dataplane")
        self.assert_whole(sessions, self.standby)
        for place in self.lab.nodes:
            self.assert_answers(place)

    def test_a_pulled_cable_takes_the_carrier_of_the_tap_and_moves_the_role(self):
        sessions = self.start_traffic()
        cut = time.monotonic()
        cable = f"wan{self.active.place[-1]}"
        self.lab.topology.cut(cable)
        self.assert_taken_over(sessions, cut)
        carrier = self.lab.topology.inside(self.active.place, "cat", "/sys/class/net/wan0/carrier")
        wait_until("the tap has no carrier", lambda: run(*carrier).strip() == "0", RECOVER_S)
        self.lab.topology.heal(cable)
        # Either may be active: an advert that was sent into the pulled cable has waited in the card, and may elect anew.
        self.wait_pair()
        wait_equal(self.lab, at_least=self.entries)
        self.assert_all_alive(sessions, what="connections in the end")
        self.assertEqual(sessions.ask("report")["resets"], 0)

    def test_the_kernel_is_reached_at_its_own_addresses_and_seen_on_its_tap(self):
        sessions = self.start_traffic()
        for place in self.lab.nodes:
            self.assert_serves(place)
        # pylint: disable-next=consider-using-with  # it ends with the packet it waits for
        dump = subprocess.Popen(self.lab.topology.inside(self.standby.place, "tcpdump", "-nl", "-i", "lan0", "-c", "2",
                                                         "icmp", "and", "host", CLIENT),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(dump.kill)
        self.assertTrue(any("listening on lan0" in line for line in iter(dump.stderr.readline, "")))
        self.assert_answers(self.standby.place)
        shown = dump.communicate(timeout=RECOVER_S)[0]
        self.assertIn("ICMP echo request", shown)
        self.assertIn("ICMP echo reply", shown)
        for node in (self.active, self.standby):
            counters = views.worker_counters(node)
            for name in ("punted_neighbor", "punted_ha", "punted_local", "kernel_packets"):
                if (node, name) != (self.active, "punted_ha"):
                    self.assertGreater(counters[name], 0, f"{name} of {node.place}")
            self.assertEqual(views.drops(node)["punted"], 0, f"{node.place} leaves frames to a kernel that can't see them")
        self.assert_whole(sessions, self.active)

    def test_a_flood_for_the_node_is_refused_by_class_and_moves_nothing(self):
        sessions = self.start_traffic()
        before = self.elections()
        place = self.standby.place
        source = bare(LAN_MAC["client"])
        ends = bytes(int(part) for part in (*CLIENT.split("."), *OWN[place].split(".")))
        question = "ff" * 6 + source + "08060001080006040001" + source + ends[:4].hex() + "00" * 6 + ends[4:].hex()
        header = bytes.fromhex("4500001c00004000400100000000000000000000")[:12] + ends
        total = sum(int.from_bytes(header[at:at + 2], "big") for at in range(0, 20, 2))
        check = (~((total & 0xffff) + (total >> 16)) & 0xffff).to_bytes(2, "big")
        echo = bare(LAN_MAC[place]) + source + "0800" + (header[:10] + check + header[12:]).hex() + "0800f7ff00000000"
        run(*self.lab.topology.inside("client", PYTHON, "-c", FLOOD, FLOOD_S, question, echo), within_s=60)
        counters = views.worker_counters(self.standby)
        for name in ("punt_refused_neighbor", "punt_refused_local", "punted_neighbor", "punted_local", "punted_ha"):
            self.assertGreater(counters[name], 0, f"{name} of {counters}")
        self.assertEqual(counters["punt_refused_ha"], 0)
        self.assertEqual(self.elections(), before, "keepalived has changed its mind")
        self.say(f"ARP passed {counters['punted_neighbor']}, refused {counters['punt_refused_neighbor']}; "
                 f"echo requests passed {counters['punted_local']}, refused {counters['punt_refused_local']}")
        self.assert_answers(place)
        self.assert_whole(sessions, self.active)


class TestVirtualMacOnTaps(VrrpCase, Asking):
    """keepalived's own interface lies on a tap: what is for the virtual router's MAC address is taken in by the port, the kernel's
    part of it reaches that interface, and what the kernel says there leaves by the port."""

    settings = (*VRRP, TAPS, "virtual_mac=true")

    def assert_virtual(self, nodes):
        """The clients' gateway is at the virtual router's MAC address, and answers them and these nodes."""
        for place in ("client", *(node.place for node in nodes)):
            ping = self.lab.topology.inside(place, "ping", "-c", "1", "-W", "1", LAN_GATEWAY)
            wait_until(f"the gateway answers {place}",
                       lambda p=ping: subprocess.run(p, check=False, capture_output=True).returncode == 0, RECOVER_S)
        self.assertEqual(self.gateway_mac(), VIRTUAL_MAC)

    def assert_asked_anew(self):
        """A client that knows nothing of its gateway finds it at the same MAC address."""
        self.lab.topology.ip("client", ["neigh flush dev lan0"])
        self.assert_virtual([self.standby])

    def test_a_dead_data_process_moves_the_virtual_mac_and_its_return_takes_nothing_back(self):
        sessions = self.start_traffic()
        self.assert_virtual([self.active, self.standby])
        died = time.monotonic()
        self.active.kill("dataplane")
        self.assert_taken_over(sessions, died)
        self.assert_virtual([self.standby])
        self.open_sessions(40)
        self.assert_asked_anew()
        self.active.start("dataplane")
        self.assert_whole(sessions, self.standby)
        self.assert_virtual([self.active, self.standby])
        for place in self.lab.nodes:
            self.assert_answers(place)

    def test_a_dead_node_is_missed_and_returns_as_backup(self):
        sessions = self.start_traffic()
        died = time.monotonic()
        self.active.kill()
        self.lab.topology.forget_kernel(self.active.place)
        self.assert_taken_over(sessions, died)
        self.assert_asked_anew()
        self.active.start()
        self.assert_whole(sessions, self.standby)
        self.assert_virtual([self.active, self.standby])


class TestTapsOfStaticGroups(Asking):
    """The data path answers for the addresses that move, the kernel for its own."""

    settings = (TAPS,)

    def test_a_tap_that_was_deleted_is_made_anew_and_its_addresses_are_learnt(self):
        self.traffic.server()
        sessions = self.open_sessions(100)
        entries = wait_equal(self.lab, at_least=100)
        self.assert_answers("node2")
        self.node2.kill("dataplane")
        run("ip", "-n", self.node2.namespace, "link", "delete", "lan0")
        self.node2.start("dataplane")
        wait_role(self.node2, "backup")
        with self.assertRaises(LabError):
            run(*self.lab.topology.inside("client", "ping", "-c", "1", "-W", "1", OWN["node2"]))
        self.lab.topology.address("node2", "lan0")
        self.assert_answers("node2")
        wait_equal(self.lab, at_least=entries)
        self.fail_over("node1")
        self.assert_all_alive(sessions, what="connections after the take-over")
        self.assert_answers("node2")

    def test_a_limit_is_changed_live_and_shown_with_what_it_refused(self):
        node = self.node2

        def local():
            port = next(row for row in node.ctl("show", "port") if row["name"] == "lan0")
            return next(row for row in port["exceptions"] if row["class"] == "local")
        self.assert_answers("node2")
        self.assertEqual((local()["packets_per_s"], local()["refused"]), (2000, 0))
        text = node.config_file.read_text(encoding="ascii")
        narrow = node.directory / "narrow.toml"
        narrow.write_text(text.replace('exception = "tap"', 'exception = "tap"\nexception_packets_per_s = { local = 0 }', 1),
                          encoding="ascii")
        applied = node.ctl("config", "apply", narrow, "--confirm-within", "600")
        self.assertEqual([(change["path"], change["takes"]) for change in applied["changes"]],
                         [("port.lan0.exception_packets_per_s.local", "live")])
        passed = local()["passed"]
        with self.assertRaises(LabError):
            run(*self.lab.topology.inside("client", "ping", "-c", "3", "-W", "1", OWN["node2"]))
        self.assertEqual(local()["passed"], passed)
        self.assertGreaterEqual(local()["refused"], 3)
        self.assertEqual(views.worker_counters(node)["punt_refused_local"], local()["refused"])
        # The other node's kernel, and classes that weren't changed, are reached as before.
        self.assert_answers("node1")
        node.ctl("config", "rollback")
        self.assertEqual(local()["packets_per_s"], 2000)
        self.assert_answers("node2")


if __name__ == "__main__":
    unittest.main()
