"""The control process dies and returns; configurations are refused; the operator asks for what isn't there."""

import subprocess
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from labcase import VRF, LabCase, TimedCase, wait_equal, wait_role
from twinlab.node import DAEMONS, binaries
from twinlab.nodeconfig import Knobs, toml
from twinlab.shell import in_namespace, run
from twinlab.topology import SERVER, SERVER_FAR, SERVER_FAR_NET

NEW_MAC = "02:00:c0:00:00:77"

# Of nobody.
PUBLIC_KEY = "tpk1ratr08yfq86cqv6tf65adfrn47p7ekg3jx56jhar50xuqgtp286qxakxpc"

SEVEN_FAULTS = [
    # (text to replace, replacement): each one a fault of its own kind
    ('workers = 2', 'workers = 2\nworker_cores = [0, 4000]'),
    ('mbufs = 16384', 'mbufs = 16384\ncolour = "red"'),
    ('name = "wan0"\ndevice = "net_af_packet1,iface=wan0', 'name = "wan0"\ndevice = "net_af_packet1,iface=lan0'),
    ('[[vrf.cg_nat.rule]]\nid = 1',
     '[[vrf.cg_nat.pool]]\nname = "second"\naddresses = ["198.51.100.3"]\nports = "1024-65535"\nblock_size = 512\n\n'
     '[[vrf.cg_nat.rule]]\nid = 1'),
    ('id = 20\ninbound = "lan"', 'id = 10\ninbound = "lan"'),
    ('block_size = 512\nblocks_per', 'block_size = 100\nblocks_per'),
    ('interface = "sync0"', 'interface = "lan0"'),
]


class TestControlProcess(LabCase):
    """The data process goes on alone."""

    def test_changes_of_the_network_while_the_control_process_is_dead_are_learned_afterwards(self):
        """Killed under load; meanwhile a route appears and the server gets another network card."""
        server = self.traffic.server()
        sessions, ping = self.open_sessions(200), self.traffic.ping(20)
        ping.ask("begin")
        self.assert_all_alive(ping)
        self.node1.kill("control")
        self.assert_all_alive(sessions, what="connections without a control process")
        self.open_sessions(50)
        self.assert_none_lost(ping)

        for node in self.lab.nodes.values():
            run("ip", "-n", node.namespace, "route", "add", SERVER_FAR_NET, "via", SERVER, "dev", "wan0")
        run("ip", "-n", self.lab.topology.namespace("server"), "link", "set", "wan0", "address", NEW_MAC)
        # Its pool route and IPv6 route have gone with nothing: the link stayed up. It introduces itself again by
        # asking for the node, as a host with a new card does.
        server_namespace = self.lab.topology.namespace("server")
        run(*in_namespace(server_namespace, "ping", "-c", "1", "-W", "1", "192.0.2.2"), check=False)

        self.node1.start("control")
        self.assert_all_alive(sessions, what="connections to the server's new card")
        self.open_sessions(20, target=SERVER_FAR)
        self.assertEqual(server.ask("report")["resets"], 0)
        wait_equal(self.lab, at_least=270)

    def test_a_pair_fails_over_without_its_control_processes(self):
        """Killed on the standby before, started again to hear the operator: state is read back from what runs."""
        self.traffic.server()
        sessions = self.open_sessions(100)
        wait_equal(self.lab, at_least=100)
        self.node2.kill("control")
        self.node2.start("control")
        wait_role(self.node2, "backup")
        self.fail_over()
        self.assert_all_alive(sessions)


class TestOperator(LabCase):
    """Requests that can't be met."""

    clients = 2

    def ctl(self, *words):
        """Exit code and messages of twinpathctl."""
        done = subprocess.run([binaries() / "twinpathctl", *words], capture_output=True, text=True, check=False,
                              timeout=20)
        return done.returncode, done.stderr + done.stdout

    def test_what_does_not_exist_gets_a_message_and_an_exit_code(self):
        """VRFs, groups, nodes, commands."""
        name = self.node1.name
        for text, expected in (("show conntrack vrf nowhere", 1), ("show ha-fp-conntrack peer vrf nowhere", 1),
                               ("show cg-nat blocks vrf nowhere", 1), ("show fp-firewall rules vrf nowhere", 1),
                               ("flush conntrack vrf nowhere", 1), ("set ha-group nogroup state master", 1),
                               ("peer declare-dead nopeer", 1),
                               ("set ha-group group1 state king", 2), ("show everything", 2),
                               ("show conntrack vrf main --src nonsense", 2), ("config diff /nonexistent", 2)):
            words = text.split()
            for json in ((), ("--json",)):
                code, said = self.ctl("--node", name, *words, *json)
                self.assertEqual(code, expected, f"{words}: {said}")
                self.assertTrue(said.strip(), f"{words}: no message")
        code, said = self.ctl("--node", "nonode", "show", "version")
        self.assertEqual(code, 3)
        self.assertIn("nonode", said)

    def test_a_changed_file_is_compared_with_what_runs(self):
        """No difference from its own file; one key changed is one line that names it; a faulty file is refused."""
        own = self.node1.config_file
        def diff(file):
            return self.node1.ctl("config", "diff", file)
        self.assertEqual(diff(own), [])
        changed, faulty = own.with_name("changed.toml"), own.with_name("faulty.toml")
        text = own.read_text(encoding="ascii")
        changed.write_text(text.replace("udp_established_s = 300", "udp_established_s = 301"), encoding="ascii")
        (change,) = diff(changed)
        self.assertEqual((change["path"], change["old"], change["new"], change["takes"]),
                         (f"vrf.{VRF}.timeouts.udp_established_s", "300", "301", "live"))
        faulty.write_text(text.replace("workers = 2", "workers = 0"), encoding="ascii")
        for verb in ("diff", "check"):
            code, said = self.ctl("--node", self.node1.name, "config", verb, faulty)
            self.assertEqual(code, 1, said)
            self.assertIn("faulty.toml:", said)
        code, said = self.ctl("--node", self.node1.name, "config", "check", own)
        self.assertEqual((code, said.strip()), (0, ""))
        self.assertEqual(diff(own), [], "the refused file changed what runs")

    def test_every_show_command_answers_in_text_and_json(self):
        """The whole tree, on both nodes."""
        for node in self.lab.nodes.values():
            per_vrf = ("ha-fp-conntrack state", "ha-fp-conntrack peer", "conntrack", "cg-nat statistics",
                       "cg-nat pools", "cg-nat users", "cg-nat blocks", "fp-firewall rules")
            self.assertTrue(node.ctl("config", "show")["text"] and node.ctl("config", "show", "--settings"))
            whole_node = ("ha-group", "port", "worker", "event", "drops", "memory", "version")
            for words in [f"{words} vrf {VRF}".split() for words in per_vrf] + [[word] for word in whole_node]:
                self.assertIsNotNone(node.ctl("show", *words), words)
                code, said = self.ctl("--node", node.name, "show", *words)
                self.assertEqual(code, 0, f"{words}: {said}")

    def test_a_port_says_how_its_card_spreads_packets(self):
        """Packet sockets have several queues and no RSS: that is said, with its reason, and nothing fails for it."""
        code, said = self.ctl("--node", self.node1.name, "show", "port")
        self.assertEqual(code, 0, said)
        for row in self.node1.ctl("show", "port"):
            self.assertGreater(row["rx_queues"], 1)
            self.assertEqual(row["rss"], {"asked": "flow", "hashed": "off", "table_entries": 0,
                                          "note": "the driver offers no RSS"})
            self.assertEqual(row["rx_checksums"], [], "packet sockets verify nothing")
        self.assertIn("the driver offers no RSS", said)
        names = {row["name"] for row in self.node1.ctl("show", "cg-nat", "statistics", "vrf", VRF)}
        self.assertLessEqual({"ports-homed", "ports-unhomed"}, names)


class TestConfiguration(TimedCase):
    """Files with faults, and what is said about good ones."""

    def test_the_plan_starts_nothing(self):
        """Who polls what, and the memory, from the file alone."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "plan.toml"
            file.write_text(toml("node1", "planned", Knobs(workers=2, event_threads=3), "/dev/null"), encoding="ascii")
            done = subprocess.run([binaries() / DAEMONS["dataplane"], "--config", file, "--plan"], capture_output=True,
                                  text=True, timeout=20, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            for word in ("worker 0", "worker 1", "event0", "event2", "lan0/1", "wan0/1", "MB"):
                self.assertIn(word, done.stdout)
            done = subprocess.run([binaries() / "twinpathctl", "config", "check", file], capture_output=True, text=True,
                                  timeout=20, check=False)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertFalse(Path("/run/twinpath/planned").exists())

    def test_seven_faults_yield_seven_located_messages(self):
        """All at once, each with file and line, from the check and from both daemons; nothing is started."""
        text = toml("node1", "faulty", Knobs(), "/dev/null")
        for old, new in SEVEN_FAULTS:
            self.assertIn(old, text, "the template has changed: adapt the fault")
            text = text.replace(old, new, 1)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "faulty.toml"
            file.write_text(text, encoding="ascii")
            for words in ([binaries() / "twinpathctl", "config", "check", file],
                          [binaries() / DAEMONS["control"], "--config", file],
                          [binaries() / DAEMONS["dataplane"], "--config", file]):
                done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
                said = done.stderr + done.stdout
                located = {line.split("faulty.toml:")[1].split(":")[0] for line in said.splitlines()
                           if "faulty.toml:" in line}
                self.assertNotEqual(done.returncode, 0, f"{words[0].name} accepted the file")
                self.assertGreaterEqual(len(located), 7, f"{words[0].name} said:\n{said}")
            self.assertFalse(Path("/run/twinpath/faulty/dataplane.sock").exists())

    def test_a_key_file_that_is_not_there_is_one_message(self):
        """It is a fault of the file as well as the end of the start; once is enough."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "keyless.toml"
            text = toml("node1", "keyless", Knobs(security="tls"), "/dev/null", f"{folder}/no.key", [PUBLIC_KEY])
            file.write_text(text, encoding="ascii")
            done = subprocess.run([binaries() / DAEMONS["dataplane"], "--config", file], capture_output=True, text=True,
                                  timeout=20, check=False)
            self.assertNotEqual(done.returncode, 0)
            self.assertEqual((done.stderr + done.stdout).count("there is no key file"), 1, done.stderr + done.stdout)


if __name__ == "__main__":
    unittest.main()
