"""What a role means on the wire: the active node announces itself, the standby is silent; processes end in order."""

import subprocess
import time
import unittest

from labcase import (RECOVER_S, LabCase, LabError, other, views, wait_equal, wait_in_sync, wait_pair, wait_role, wait_still,
                     wait_until)
from twinlab import packets
from twinlab.drive import Program
from twinlab.packets import UDP, address
from twinlab.topology import (CABLES, LAN_GATEWAY, LAN_GATEWAY6, NODE_ADDRESSES, SERVER, WAN_GATEWAY, WAN_GATEWAY6)

CLIENT = "100.64.1.1"
POOL_FIRST = "198.51.100.1"
ARP, IPV6 = b"\x08\x06", b"\x86\xdd"
# A kernel answers for these when a neighbour checks whether it is still there.
OWN = {address(text.split("/")[0])
       for interfaces in NODE_ADDRESSES.values() for both in interfaces.values() for text in both}


def announced(frames, mac):
    """Addresses a station claims, in the order of its claims: gratuitous ARP and neighbour advertisements. Its kernel's own
    ones don't count."""
    sender = bytes.fromhex(mac.replace(":", ""))
    found = []
    for frame in frames:
        if frame[6:12] != sender:
            continue
        if frame[12:14] == ARP and frame[22:28] == sender and frame[28:32] == frame[38:42]:
            found.append(frame[28:32])
        elif frame[12:14] == IPV6 and frame[20] == 58 and frame[54] == 136:
            found.append(frame[62:78])
    return [claimed for claimed in dict.fromkeys(found) if claimed not in OWN and not claimed.startswith(b"\xfe\x80")]


class TestFlip(LabCase):
    """A role changes hands."""

    clients = 4

    def listen(self, place, interface):
        """A packet socket at a far end."""
        program = Program(self.lab, place, "frames", interface)
        self.addCleanup(program.end)
        program.ask("heard")
        return program

    @staticmethod
    def heard(program, since=0.0):
        """Its frames."""
        return [bytes.fromhex(text) for text in program.ask("heard", since=since)["frames"]]

    def test_the_new_master_announces_next_hops_first(self):
        """Gratuitous ARP and unsolicited NA on both sides (RFC 5227, RFC 4861 7.2.6); pool addresses after them."""
        inside, outside = self.listen("client", "lan0"), self.listen("server", "wan0")
        self.node2.set_state("master")
        wait_pair(self.lab, active="node2")
        for program in (inside, outside):
            self.heard(program)  # and what came before has its time
        demoted = time.monotonic()
        for program, mac, next_hops, more in (
                (inside, CABLES["lan2"][3], (LAN_GATEWAY, LAN_GATEWAY6), ()),
                (outside, CABLES["wan2"][3], (WAN_GATEWAY, WAN_GATEWAY6), (POOL_FIRST,))):
            wanted = [address(text) for text in (*next_hops, *more)]
            wait_until("every address is announced",
                       lambda w=wanted, p=program, m=mac: set(w) <= set(announced(self.heard(p), m)), RECOVER_S)
            self.assertEqual(set(announced(self.heard(program), mac)[:len(next_hops)]), set(wanted[:len(next_hops)]))
            former = CABLES["lan1" if program is inside else "wan1"][3]
            self.assertEqual(announced(self.heard(program, demoted), former), [], "the demoted node announces, too")

    def test_a_standby_forwards_nothing_and_counts_what_it_drops(self):
        """Packets of synced conntracks and others, sent to the standby's own MAC address."""
        self.traffic.server()
        udp = self.traffic.udp(250)
        self.assert_all_alive(udp)
        wait_equal(self.lab, at_least=self.clients)
        row = next(row for row in views.conntracks(self.node2) if row["original"]["src"] == CLIENT)
        inside, outside = self.listen("client", "lan0"), self.listen("server", "wan0")
        # The last datagrams may be under way to it still.
        wait_still("the standby's table", lambda: views.entries(self.node2))
        before, entries = views.drops(self.node2), views.entries(self.node2)
        ends = (CABLES["lan2"][3], CABLES["lanc"][3])
        for port, reason in ((row["original"]["src_port"], "standby-matched"), (9, "standby-unmatched")):
            data = b"for the standby"
            packet = packets.ipv4(CLIENT, SERVER, UDP, packets.udp(CLIENT, port, SERVER, 7001, data))
            inside.ask("send", frames=[packets.ethernet(*ends, packet).hex()])
            wait_until(f"{reason} is counted",
                       lambda r=reason: views.drops(self.node2).get(r, 0) > before.get(r, 0), RECOVER_S)
        self.assertFalse([frame for frame in self.heard(outside) if b"for the standby" in frame], "it was forwarded")
        self.assertEqual(views.difference(entries, views.entries(self.node2)), [])

    def test_the_operator_moves_the_role_there_and_back(self):
        """Connections go on through every change; a master told to back up leaves the role to nobody."""
        self.traffic.server()
        sessions = self.open_sessions(40)
        for active in ("node2", "node1", "node2"):
            self.lab.node(active).set_state("master")
            wait_pair(self.lab, active=active)
            self.assert_all_alive(sessions)
        self.node2.set_state("backup")
        wait_role(self.node2, "backup")
        self.node1.set_state("master")
        wait_pair(self.lab, active="node1")
        self.assert_all_alive(sessions)
        wait_equal(self.lab, at_least=40)
        self.assertEqual(sessions.ask("report")["resets"], 0)


class TestOrderlyStop(LabCase):
    """SIGTERM."""

    def test_a_terminated_data_process_says_goodbye_and_frees_every_packet_buffer(self):
        """The peer counts an orderly close, not a failure; the exit code is 0; the other node doesn't mind."""
        self.traffic.server()
        sessions = self.open_sessions(100)
        udp = self.traffic.udp(20)
        udp.ask("begin")
        self.assert_all_alive(udp)
        wait_equal(self.lab, at_least=100)
        for stopped in ("node2", "node1"):
            node, peer = self.lab.node(stopped), self.lab.node(other(stopped))
            before = len(self.ends(peer))
            self.assertEqual(node.stop("dataplane"), {"dataplane": 0})
            self.assertRegex(node.log_tail("dataplane"), r"every mbuf is back; stopped mbufs=\d+")
            wait_until(f"{peer.place} has noticed", lambda p=peer, n=before: views.lanes_down(p) and self.ends(p)[n:],
                       RECOVER_S)
            self.assertEqual(set(self.ends(peer)[before:]), {"closed"})
            if stopped == "node2":
                self.assert_all_alive(sessions)
                node.start("dataplane")
                wait_pair(self.lab)
                wait_in_sync(self.lab, "node1")
                wait_equal(self.lab, at_least=100)


    @staticmethod
    def ends(node):
        """Why lanes of a node went down, by its log."""
        return [line.split('reason="')[1].split('"')[0] for line in node.log_tail("dataplane", 10_000).splitlines()
                if "lane down" in line]


class TestDeclaredDead(LabCase):
    """The operator knows more than the node: the peer is dead."""

    def in_doubt(self, node):
        """Whether a node gives out its own half of the ports only."""
        return node.ctl("show", "ha-fp-conntrack", "state", "vrf", "main")["in_doubt"]

    def declare(self, node):
        """`peer declare-dead`: exit code and message."""
        done = subprocess.run(node.ctl_words("peer", "declare-dead", "peer1"), capture_output=True, text=True, check=False,
                              timeout=20)
        return done.returncode, done.stderr

    def declared(self):
        """The order is obeyed: doubt may begin with the first lane that is lost, and a peer lives while one is there."""
        code, said = self.declare(self.node1)
        if "alive" in said:
            raise LabError(said)
        self.assertEqual((code, said), (0, ""))
        return True

    def test_a_peer_declared_dead_leaves_all_ports_to_the_other_node_until_it_is_back(self):
        """Refused while the peer lives; doubt begins with its death, ends with the order, and doesn't outlive a return."""
        wait_until("there is no doubt", lambda: not self.in_doubt(self.node1), RECOVER_S, 0.1)
        code, said = self.declare(self.node1)
        self.assertEqual(code, 1)
        self.assertIn("alive", said)
        self.node2.kill()
        wait_until("node1 is in doubt", lambda: self.in_doubt(self.node1), RECOVER_S, 0.1)
        wait_until("it takes the operator's word", self.declared, RECOVER_S)
        wait_until("the doubt is over", lambda: not self.in_doubt(self.node1), RECOVER_S, 0.1)
        self.node2.start()
        wait_in_sync(self.lab, "node1")
        wait_until("its return leaves no doubt", lambda: not self.in_doubt(self.node1), RECOVER_S, 0.1)
        self.node2.kill()
        wait_until("node1 is in doubt again", lambda: self.in_doubt(self.node1), RECOVER_S, 0.1)


class TestDataProcessAlone(LabCase):
    """The data process dies and returns under a control process that stays."""

    def test_a_data_process_back_within_a_second_imports_and_its_control_process_follows(self):
        """The killed one was master; the control process gives the new one links, neighbours and the group's state."""
        self.traffic.server()
        sessions = self.open_sessions(200)
        wait_equal(self.lab, at_least=200)
        before, control = views.entries(self.node2), self.node1.pid("control")
        self.node1.kill("dataplane")
        self.node1.start("dataplane", wait=False)
        nodes = self.lab.nodes.values()
        wait_until("one node is master and one is backup",
                   lambda: sorted(views.role(node) for node in nodes) == ["backup", "master"], RECOVER_S, 0.1)
        wait_equal(self.lab, at_least=200)
        for node in nodes:
            self.assertEqual(before.keys() - views.entries(node).keys(), set(), f"entries that {node.place} lost")
        self.assert_all_alive(sessions)
        self.open_sessions(40)
        self.assertEqual(self.node1.pid("control"), control, "the control process was restarted")
        self.assertEqual(sessions.ask("report")["resets"], 0)

    def test_the_operator_is_told_that_the_data_process_is_down(self):
        """A message and exit code 3; what the control process knows itself is still answered."""
        self.node1.kill("dataplane")
        for words, code in ((("show", "worker"), 3), (("show", "conntrack", "vrf", "main"), 3), (("show", "version"), 0)):
            done = subprocess.run(self.node1.ctl_words(*words), capture_output=True, text=True, check=False, timeout=20)
            self.assertEqual(done.returncode, code, f"{words}: {done.stdout}{done.stderr}")
            self.assertTrue((done.stderr if code else done.stdout).strip(), f"{words} said nothing")
        self.node1.kill("control")
        done = subprocess.run(self.node1.ctl_words("show", "version"), capture_output=True, text=True, check=False,
                              timeout=20)
        self.assertEqual(done.returncode, 3)
        self.assertIn(self.node1.name, done.stderr)


if __name__ == "__main__":
    unittest.main()
