"""Another configuration for a running node: applied, confirmed or rolled back, while flows go on."""

import os
import signal
import subprocess
import unittest

from labcase import RECOVER_S, VRF, LabCase, views, wait_equal, wait_pair, wait_until
from twinlab.shell import LabError, run

# Of the disk of configurations.
DISK_KB = 32


def rules(node):
    """Numbers and actions of the rules that run."""
    return {row["id"]: row["action"] for row in node.ctl("show", "fp-firewall", "rules", "vrf", VRF)}


def running(node):
    """What `config show` says."""
    return node.ctl("config", "show")


def noted(node):
    """What the data process has noted about configurations."""
    return views.events(node, "configuration")


class ApplyCase(LabCase):
    """Files with other rules."""

    clients = 24

    def edited(self, node, *replacements, name="new.toml"):
        """A copy of the node's file with each text replaced."""
        text = node.config_file.read_text(encoding="ascii")
        for old, new in replacements:
            self.assertIn(old, text, "the template has changed")
            text = text.replace(old, new, 1)
        path = node.directory / name
        path.write_text(text, encoding="ascii")
        return path

    def rule_more(self, node, number=15):
        """A rule that concerns none of the flows that there are."""
        rule = (f'[[vrf.firewall.rule]]\nid = {number}\ninbound = "lan"\nprotocol = "tcp"\n'
                'destination_ports = ["9"]\naction = "reject"\n\n')
        return self.edited(node, ("[[vrf.firewall.rule]]\nid = 20", rule + "[[vrf.firewall.rule]]\nid = 20"))

    def refused(self, node, *words):
        """What is said when a command isn't carried out."""
        with self.assertRaises(LabError) as caught:
            node.ctl(*words)
        return str(caught.exception)


class TestApply(ApplyCase):
    """With traffic."""

    def wait_differing(self, sections):
        """Both nodes know which sections of their configurations differ, on lanes that stay up."""
        for node in self.lab.nodes.values():
            wait_until(f"{node.place} says that {sections or 'nothing'} differs",
                       lambda n=node: views.peer(n)["fingerprint_differs"] == sections, RECOVER_S)

    def test_rules_change_and_change_back_and_no_packet_of_a_flow_is_lost(self):
        """Not confirmed: rolled back. Confirmed: in the file. SIGHUP of either process: both take the file."""
        node = self.node1
        self.traffic.server()
        sessions = self.open_sessions(40)
        udp = self.traffic.udp(10, sources=self.traffic.addresses[:8])
        udp.ask("begin")
        self.assert_all_alive(udp)
        wait_equal(self.lab, at_least=48)
        before, own = rules(node), node.config_file.read_text(encoding="ascii")

        more = self.rule_more(node)
        applied = node.ctl("config", "apply", more, "--confirm-within", "600")
        self.assertEqual([change["takes"] for change in applied["changes"]], ["live", "live"])
        self.assertEqual(rules(node), {**before, 15: "reject"})
        self.assertIn("waits to be confirmed", self.refused(node, "config", "apply", more))
        self.assertEqual(node.config_file.read_text(encoding="ascii"), own)
        self.wait_differing(["firewall rules"])
        node.ctl("config", "rollback")
        self.assertEqual((rules(node), running(node)["text"]), (before, own))
        self.wait_differing([])

        applied = node.ctl("config", "apply", more, "--confirm-within", "1")
        self.assertEqual(len(applied["changes"]), 2)
        wait_until("it is rolled back by itself", lambda: running(node)["rolled_back_in_s"] is None, RECOVER_S)
        self.assertEqual((rules(node), running(node)["text"]), (before, own))

        for number in range(40, 60):
            node.ctl("config", "apply", self.rule_more(node, number))
            self.assertIn(number, rules(node))
            node.ctl("config", "rollback")
        self.assertEqual(rules(node), before)

        node.ctl("config", "apply", more)
        node.ctl("config", "confirm")
        self.assertEqual(node.config_file.read_text(encoding="ascii"), more.read_text(encoding="ascii"))
        self.assertEqual(node.ctl("config", "diff", more), [])
        self.assertIn("no configuration waits", self.refused(node, "config", "confirm"))

        for daemon, number in (("control", 16), ("dataplane", 17)):
            self.rule_more(node, number).replace(node.config_file)
            os.kill(node.pid(daemon), signal.SIGHUP)
            wait_until(f"{daemon} had the file read", lambda n=number: n in rules(node), RECOVER_S)
        self.assertEqual(node.ctl("config", "diff", node.config_file), [])

        self.assert_all_alive(sessions)
        self.assert_all_alive(udp)
        self.say(f"{self.assert_none_lost(udp)} packets; {noted(node)[-3:]}")

    def test_what_needs_a_restart_is_named_and_nothing_is_changed(self):
        """By the process whose restart it takes; the same file is taken by a start."""
        node = self.node2
        own = running(node)["text"]
        grown = self.edited(node, ("mbufs = 16384", "mbufs = 16000"), ("slots = 256", "slots = 256\n"),
                            ("udp_established_s = 300", "udp_established_s = 301"))
        said = self.refused(node, "config", "apply", grown)
        for part in ("the data process can't take this configuration; nothing was changed",
                     "dataplane.mbufs: 16384 -> 16000 (restart twinpath-dataplane: threads and memory are allocated"):
            self.assertIn(part, said)
        self.assertEqual(running(node)["text"], own)
        grown.replace(node.config_file)
        node.stop("dataplane")
        node.start("dataplane")
        wait_pair(self.lab)
        # It was the data process alone that was restarted, and the control process goes by the same file.
        self.assertEqual(node.ctl("config", "diff", node.config_file), [])
        settings = {row["path"]: row for row in node.ctl("config", "show", "--settings")}
        self.assertEqual(settings["dataplane.mbufs"]["value"], "16000")
        self.assertEqual(settings[f"vrf.{VRF}.timeouts.udp_established_s"]["value"], "301")

    def test_the_changes_are_shown_before_they_are_made(self):
        """In text; a faulty file is refused with line and column."""
        more = self.rule_more(self.node1)
        done = subprocess.run(self.node1.ctl_words("config", "apply", more, "--confirm-within", "600"), check=True,
                              capture_output=True, text=True, timeout=20)
        lines = done.stdout.splitlines()
        self.assertTrue(lines[0].startswith(f"vrf.{VRF}.firewall.order: 10,20,30 -> 10,15,20,30 (live: "), lines)
        self.assertIn("Within 600 s: twinpathctl config confirm", lines[-1])
        self.node1.ctl("config", "rollback")
        for old, new, expected in (("workers = 2", "workers = ", "new.toml:7:"), ("mbufs =", "mbuffs =", "did you mean"),
                                   ('pool = "public"', 'pool = "publik"', 'did you mean "public"?')):
            said = self.refused(self.node1, "config", "apply", self.edited(self.node1, (old, new)))
            self.assertIn(expected, said)


class TestDeath(ApplyCase):
    """A process dies while a configuration waits to be confirmed."""

    def test_the_file_holds_whoever_dies(self):
        """The standby's data process; its control process, which comes back; one that stays away."""
        node, before = self.node2, rules(self.node2)
        apply = ("config", "apply", self.rule_more(node))
        node.ctl(*apply, "--confirm-within", "600")
        node.kill("dataplane")
        node.start("dataplane")
        wait_until("the rules are those of the file", lambda: rules(node) == before, RECOVER_S)
        wait_pair(self.lab)

        node.ctl(*apply, "--confirm-within", "600")
        node.kill("control")
        node.start("control")
        wait_until("the rules are those of the file again", lambda: rules(node) == before, RECOVER_S)

        # Long enough for it to be killed before it goes back itself.
        node.ctl(*apply, "--confirm-within", "5")
        node.kill("control")
        log = node.directory / "dataplane.log"
        wait_until("the data process goes back by itself", lambda: "not confirmed it in time" in log.read_text(), 40)
        node.start("control")
        wait_until("the rules are those of the file once more", lambda: rules(node) == before, RECOVER_S)
        self.assertIn("changed configuration: rolled back: the control process has not confirmed it in time",
                      noted(node))


class TestFullDisk(ApplyCase):
    """The disk of the configuration is full when it is confirmed."""

    def test_nothing_is_lost_and_it_is_confirmed_when_there_is_room(self):
        """The file is whole, the new one still runs, and the time goes on."""
        node = self.node2
        # A running daemon doesn't see what is mounted later: its namespace of mounts is its own.
        node.stop()
        disk = node.directory / "etc"
        disk.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", disk)
        self.addCleanup(run, "umount", "--lazy", disk)
        own = node.config_file.read_text(encoding="ascii")
        (disk / "twinpath.toml").write_text(own, encoding="ascii")
        node.config_file.unlink()
        node.config_file.symlink_to(disk / "twinpath.toml")
        node.start()
        filler = disk / "filler"
        with self.assertRaises(OSError):
            filler.write_bytes(bytes(DISK_KB << 11))
        more = self.rule_more(node)
        node.ctl("config", "apply", more, "--confirm-within", "600")
        said = self.refused(node, "config", "confirm")
        for part in ("can't be replaced: No space left on device", "it is as it was"):
            self.assertIn(part, said)
        self.assertEqual(node.config_file.read_text(encoding="ascii"), own)
        self.assertEqual(sorted(path.name for path in disk.iterdir()), ["filler", "twinpath.toml"])
        self.assertIn(15, rules(node))
        filler.unlink()
        node.ctl("config", "confirm")
        self.assertEqual((disk / "twinpath.toml").read_text(encoding="ascii"), more.read_text(encoding="ascii"))
        self.assertTrue(node.config_file.is_symlink())


if __name__ == "__main__":
    unittest.main()
