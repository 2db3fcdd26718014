"""Public addresses and ports under scarcity, and their trace in the log."""

import re
import unittest

from labcase import RECOVER_S, VRF, LabCase, LabError, double_owners, views, wait_equal, wait_until

SMALL_POOL = ("pool=198.51.100.1", "ports=1024-2047", "block_size=64", "blocks_per_subscriber_max=1")
BLOCKS = 16

# RFC 5424: <PRI>VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA [MSG]
SYSLOG = re.compile(r"^<\d{1,3}>1 \d{4}-\d\d-\d\dT\S+ \S+ \S+ \S+ \S+ (-|\[.*\])( .*)?$")


class TestScarcity(LabCase):
    """A pool of sixteen blocks and 96 subscribers."""

    settings = SMALL_POOL

    def test_an_exhausted_pool_is_counted_and_harms_nobody_who_has_a_port(self):
        """The seventeenth subscriber is refused; the first sixteen talk on; a failover changes neither."""
        server = self.traffic.server()
        holders = self.open_sessions(BLOCKS * 4, sources=self.traffic.addresses[:BLOCKS])
        late = self.traffic.sessions(500, sources=self.traffic.addresses[BLOCKS:BLOCKS + 8])
        self.assertEqual(late.ask("open", count=8, within_s=2, patience_s=20)["opened"], 0, "ports from nowhere")
        refused = views.drops(self.node1)
        self.assertGreater(refused.get("pool-exhausted", 0), 0, "exhaustion was not counted")
        self.assert_all_alive(holders)
        wait_equal(self.lab, at_least=BLOCKS * 4)

        self.fail_over()
        self.assert_all_alive(holders)
        # Old flows live on while the new master fills what is left of their blocks.
        filling = self.traffic.sessions(500, sources=self.traffic.addresses[:BLOCKS])
        opened = filling.ask("open", count=BLOCKS * 40, within_s=3, patience_s=90)["opened"]
        self.say(f"{opened} more connections after the failover")
        self.assertGreater(opened, 0, "no port left after the failover")
        self.assert_no_conflicts(server, self.node2)
        self.assert_all_alive(holders)
        self.assertEqual(double_owners(self.node2), {})


class TestFullTable(LabCase):
    """Room for fewer conntracks than are asked for."""

    settings = ("conntracks_max=1024",)
    clients = 700

    def test_a_full_table_is_counted_and_harms_no_connection_in_it(self):
        """New flows are refused, old ones talk on, both tables are equal; room that comes back is used."""
        self.traffic.server()
        holders = self.open_sessions(200)
        wait_equal(self.lab, at_least=200)
        crowds = [self.traffic.udp(60_000) for _ in range(2)]
        answered = sum(crowd.ask("exchange", within_s=3, patience_s=60)["survived"] for crowd in crowds)
        self.assertLess(answered, 2 * self.clients)
        self.assertGreater(views.drops(self.node1).get("table-full", 0), 0, "the full table was not counted")
        self.assert_all_alive(holders)
        entries = wait_equal(self.lab, at_least=1000)
        self.say(f"{answered} of {2 * self.clients} more flows, {entries} entries in a table of 1024")
        self.assertLessEqual(entries, 1152)  # each worker has room for an uneven share
        self.node1.ctl("flush", "conntrack", "vrf", VRF, "--proto", "udp")
        wait_equal(self.lab, at_least=200)
        self.open_sessions(20)
        self.assert_all_alive(holders)


class TestRoom(LabCase):
    """Tables that begin small and grow, and a limit that changes while flows go on."""

    settings = ("conntracks_max=8192", "conntracks_start=1024")
    # Both nodes' kernels share one table of neighbours, of 1,024 at most.
    clients = 300

    def take(self, node, most):
        """The node goes over to another conntracks_max, for good; what `config apply` answers."""
        text = node.config_file.read_text(encoding="ascii")
        changed = re.sub(r"^conntracks_max = [0-9]+$", f"conntracks_max = {most}", text, flags=re.MULTILINE)
        self.assertNotEqual(changed, text)
        path = node.directory / "room.toml"
        path.write_text(changed, encoding="ascii")
        applied = node.ctl("config", "apply", path)
        node.ctl("config", "confirm")
        return applied["changes"]

    @staticmethod
    def room(node):
        """Conntracks that there is room for, on all workers."""
        return sum(row["conntracks_max"] for row in node.ctl("show", "worker"))

    def all_answered(self, crowd):
        """Each of them, when they all ask again; what stands in the way is part of the failure."""
        survived = crowd.ask("exchange", within_s=3, patience_s=60)["survived"]
        if survived != self.clients:
            dropped = {name: count for name, count in views.drops(self.node1).items() if count}
            raise LabError(f"{survived} are; room for {self.room(self.node1)}, {views.events(self.node1, 'room')[-3:]}, {dropped}")
        return True

    def test_tables_grow_on_both_nodes_and_a_changed_limit_ends_nobody(self):
        """More flows than there was room for at the start; then room for less than there are, then for more than ever."""
        self.traffic.server()
        holders = self.open_sessions(100)
        start = self.room(self.node1)
        self.assertLess(start, 1300)
        crowds = [self.traffic.udp(60_000) for _ in range(4)]
        for crowd in crowds:
            # Some hundred at once may be faster than the agent: they ask again.
            wait_until("everybody is answered", lambda c=crowd: self.all_answered(c), RECOVER_S)
        wait_equal(self.lab, at_least=1300)
        for node in self.lab.nodes.values():
            self.assertGreater(self.room(node), start)
            self.assertTrue(views.events(node, "room"), "nobody was told of more room")
        self.assertEqual(views.worker_counters(self.node2)["absorb_full"], 0)
        full = views.drops(self.node1).get("table-full", 0)
        changes = self.take(self.node1, 1024)
        self.assertEqual([change["takes"] for change in changes], ["live"])
        wait_until("there is less room", lambda: self.room(self.node1) <= start, RECOVER_S)
        self.assert_all_alive(holders)
        refused = self.traffic.udp(60_000).ask("exchange", within_s=3, patience_s=60)["survived"]
        self.assertEqual(refused, 0)
        self.assertGreater(views.drops(self.node1).get("table-full", 0), full)
        self.take(self.node1, 16384)
        more = self.traffic.udp(60_000)
        wait_until("there is more room", lambda: self.all_answered(more), RECOVER_S)
        self.assert_all_alive(holders)
        self.say(f"room for {start}, then {self.room(self.node1)}; {views.events(self.node1, 'room')[-3:]}")


class TestRelease(LabCase):
    """Blocks that are given back."""

    settings = ("port_rest_s=1", "block_idle_s=1")
    clients = 8

    def test_a_released_block_leaves_a_line_with_its_grant(self):
        """The same grant id as the line about the grant, from which both ends of the time follow."""
        self.traffic.server()
        self.open_sessions(16)
        granted = views.blocks(self.node1)
        wait_equal(self.lab, at_least=16)
        self.node1.ctl("flush", "conntrack", "vrf", VRF)
        wait_until("no block is held", lambda: not any(views.blocks(n) for n in self.lab.nodes.values()), 60, 0.5)
        log = self.node1.directory / "syslog.log"
        for block in granted:
            wait_until(f"a line about the release of grant {block['grant']}",
                       lambda b=block: [line for line in log.read_text(encoding="utf-8").splitlines()
                                        if f"{b['grant']:016x}" in line and "block-released" in line], RECOVER_S)
        wait_until("every line that was sent has arrived",
                   lambda: self.counts()["node-log-lines-sent"] == len(log.read_text(encoding="utf-8").splitlines()),
                   RECOVER_S)
        self.assertEqual(self.counts()["node-log-lines-lost"], 0)
        for line in log.read_text(encoding="utf-8").splitlines():
            self.assertRegex(line, SYSLOG)

    def counts(self):
        """The node's statistics."""
        return {row["name"]: row["value"] for row in self.node1.ctl("show", "cg-nat", "statistics", "vrf", VRF)}


class TestLog(LabCase):
    """A CG-NAT without a trace can't be operated."""

    def test_every_port_block_leaves_a_line(self):
        """Subscriber, public address, ports and grant id, in RFC 5424 lines; the standby logs no grant of its own."""
        self.traffic.server()
        self.open_sessions(self.clients)
        granted = views.blocks(self.node1)
        self.assertGreaterEqual(len(granted), self.clients)
        log = self.node1.directory / "syslog.log"
        lines = wait_until("a line per block", lambda: self._complete(log, granted), RECOVER_S)
        for line in lines:
            self.assertRegex(line, SYSLOG)
        wait_equal(self.lab, at_least=self.clients)
        quiet = self.node2.directory / "syslog.log"
        text = quiet.read_text(encoding="utf-8", errors="replace") if quiet.exists() else ""
        self.assertFalse([line for line in text.splitlines() if "198.51.100." in line and "100.64." in line],
                         "the standby logged grants")

    @staticmethod
    def _complete(log, granted):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        wanted = [(block["subscriber"], block["address"], str(block["port_first"])) for block in granted]
        found = [next((line for line in lines if all(re.search(rf"(?<![\d.]){re.escape(word)}(?![\d.]*\d)", line)
                                                     for word in words)), None) for words in wanted]
        return found if all(found) else None


if __name__ == "__main__":
    unittest.main()
