"""The protected sync link of running nodes: nothing readable on the cable, no peer without its key, keys changed
while everything goes on."""

import re
import subprocess
import time
import unittest

from labcase import RECOVER_S, LabCase, views, wait_equal, wait_in_sync, wait_until
from twinlab.nodeconfig import SYNC_PORT, knobs_of_nodes
from twinlab.shell import in_namespace, run


class TestTls(LabCase):
    """Both nodes protect the link."""

    settings = ("security=tls",)

    def capture(self, during):
        """Frames on the sync cable while `during` runs, as bytes."""
        file = self.lab.directory / "sync.pcap"
        tcpdump = subprocess.Popen(
            in_namespace(self.node1.namespace, "tcpdump", "-i", "sync0", "-s", "0", "-U", "-Z", "root", "-w", file),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            # It says so when it listens; the end of what it says is its own end.
            self.assertTrue(any("listening on" in line for line in iter(tcpdump.stderr.readline, "")))
            during()
        finally:
            tcpdump.terminate()
            tcpdump.communicate(timeout=10)
        return file.read_bytes()

    def records_and_resync(self):
        """Sessions, and a complete resync with all that is said when a connection is made."""
        self.open_sessions(self.clients)
        self.lab.topology.cut("sync")
        wait_until("the lanes are seen to be down", lambda: views.lanes_down(self.node1), RECOVER_S)
        self.lab.topology.heal("sync")
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=self.clients)

    def test_nothing_on_the_cable_names_a_client(self):
        """tcpdump of the cable: no client address, no VRF, no node in it; the lanes call themselves protected."""
        self.traffic.server()
        seen = self.capture(self.records_and_resync)
        self.assertGreater(len(seen), 20_000, "the capture is too small to show anything")
        addresses = [bytes(int(part) for part in address.split(".")) for address in self.traffic.addresses]
        named = [address for address in addresses if address in seen]
        self.say(f"{len(seen)} bytes captured, {len(named)} of {len(addresses)} client addresses readable")
        self.assertEqual(named, [], "client addresses in clear text")
        for word in (b"TWPS", b"TWPA", b"main", self.node1.name.encode()):
            self.assertNotIn(word, seen)
        for node in self.lab.nodes.values():
            lanes = views.peer(node)["clients"]
            self.assertEqual({lane["security"] for lane in lanes}, {"tls"})

    def test_a_node_with_another_key_is_refused_and_moves_nothing(self):
        """The standby comes back with a key that nobody has listed; put right, it is welcome again."""
        self.traffic.server()
        sessions = self.open_sessions(self.clients)
        wait_equal(self.lab, at_least=self.clients)
        before = views.entries(self.node1)
        self.node2.stop()
        knobs = knobs_of_nodes(self.settings)
        self.lab.configure("node2", knobs["node2"], private_key=self.node2.key_file("other.key"))
        self.node2.start()
        wait_until("node1 has refused the key", lambda: views.counted(self.node1, "tls-key-unknown") > 0, RECOVER_S, 0.1)
        wait_until("node2 was told so", lambda: views.counted(self.node2, "tls-key-refused") > 0, RECOVER_S, 0.1)
        self.assertTrue(views.lanes_down(self.node1), "a lane is up")
        self.assertEqual(views.difference(before, views.entries(self.node1)), [])
        self.assertEqual(views.entries(self.node2), {}, "a node without its key was given entries")
        self.assert_all_alive(sessions)
        self.lab.configure("node2", knobs["node2"])
        self.node2.reread_keys()
        wait_in_sync(self.lab, "node1")
        wait_equal(self.lab, at_least=self.clients)

    def test_a_key_is_changed_while_the_link_goes_on(self):
        """A second key is listed, taken into use, and the first one removed: no entry and no lane is lost by the
        first two steps, and lanes of the old key end with the third."""
        self.traffic.server()
        sessions = self.open_sessions(self.clients)
        wait_equal(self.lab, at_least=self.clients)
        knobs = knobs_of_nodes(self.settings)
        first, second = self.node1.public_key(), self.node1.public_key("next.key")
        connections = self.connections()
        self.lab.configure("node2", knobs["node2"], public_keys=[first, second])
        self.rekey(self.node2)
        self.lab.configure("node1", knobs["node1"], private_key=self.node1.key_file("next.key"))
        self.rekey(self.node1)
        self.open_sessions(20)
        wait_equal(self.lab, at_least=self.clients + 20)
        self.assert_no_reconnects(connections)
        self.lab.configure("node2", knobs["node2"], public_keys=[second])
        self.rekey(self.node2)
        wait_until("lanes of the old key have ended", lambda: views.counted(self.node2, "tls-key-removed") > 0,
                   RECOVER_S, 0.05)
        began = time.monotonic()
        wait_until("lanes are up under the new key",
                   lambda: all(views.lanes_up(node, knobs[place].event_threads)
                               for place, node in self.lab.nodes.items()), RECOVER_S, 0.05)
        wait_in_sync(self.lab, "node1")
        self.say(f"in sync under the new key after {(time.monotonic() - began) * 1000:.0f} ms")
        self.open_sessions(20)
        wait_equal(self.lab, at_least=self.clients + 40)
        self.assert_all_alive(sessions)
        self.assertEqual(sessions.ask("report")["resets"], 0)

    def rekey(self, node):
        """Tells the data process, and waits until it says that it has read its keys."""
        log = node.directory / "dataplane.log"

        def times():
            return len(re.findall("read again", log.read_text(errors="replace")))
        before = times()
        node.reread_keys()
        wait_until(f"{node.place} has read its keys", lambda: times() > before, RECOVER_S, 0.05)

    def test_plain_talk_and_garbage_are_refused_and_counted(self):
        """What the plain protocol would have taken is no handshake here."""
        self.traffic.server()
        self.open_sessions(20)
        wait_equal(self.lab, at_least=20)
        before = views.entries(self.node2)
        code = ("import socket\n"
                f"s=socket.create_connection(('10.150.0.2',{SYNC_PORT}),{RECOVER_S})\ns.settimeout({RECOVER_S})\n"
                "s.sendall(b'TWPS'+bytes(60))\n"
                "try:\n while s.recv(4096): pass\nexcept ConnectionError: pass\n")
        for _ in range(3):
            run(*in_namespace(self.node1.namespace, "/usr/bin/python3", "-c", code))
        wait_until("each of them is counted", lambda: views.counted(self.node2, "tls-handshake") >= 3, RECOVER_S)
        self.assertEqual(views.difference(before, views.entries(self.node2)), [])
        self.assertEqual(views.counted(self.node2, "wrong-magic"), 0)


class TestPlainPeer(LabCase):
    """One node protects the link, the other one doesn't: they never meet."""

    bare = True

    def test_a_plain_node_and_a_protected_one_do_not_talk(self):
        """Neither side gives in, and each counts why."""
        knobs = knobs_of_nodes(("node1.security=tls", "boot_wait_ms=500"))
        for place, node in self.lab.nodes.items():
            self.lab.configure(place, knobs[place])
            node.start(wait=False)
        for node in self.lab.nodes.values():
            node.wait_running()
        wait_until("node1 has refused plain talk", lambda: views.counted(self.node1, "tls-handshake") > 0, RECOVER_S, 0.1)
        wait_until("node2 has refused the other language", lambda: views.counted(self.node2, "wrong-magic") > 0, RECOVER_S, 0.1)
        for node in self.lab.nodes.values():
            self.assertTrue(views.lanes_down(node), f"a lane of {node.place} is up")


if __name__ == "__main__":
    unittest.main()
