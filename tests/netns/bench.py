"""What a change of the active node costs those who talk through the pair: many of each kind, one after the other.

    bench.py [--runs N] [--default-runs N] [--output FILE]

`--runs` with adverts every 10 ms, `--default-runs` with keepalived's usual second; 0 leaves them out. The last lab has no
election. The file gets one object, `{"rows": [{"id", "unit", "values", "goal", "note"}, …]}`, a value per run. scripts/bench
makes its report of it.

In each run UDP streams with sequence numbers cross the pair every 2 ms; the server sends everything back. Silence is the
longest time in which nothing came back, of any stream. Lost is what never came back. TCP connections, open from the
first run to the last, have survived a run when each of them has carried a line there and back after it.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from twinlab import views  # noqa: E402
from twinlab.drive import Traffic  # noqa: E402
from twinlab.node import HA_GROUP  # noqa: E402
from twinlab.nodeconfig import knobs_of_nodes  # noqa: E402
from twinlab.scenario import (double_owners, measured, other, running_lab, wait_elected, wait_equal,  # noqa: E402
                              wait_pair, wait_role)
from twinlab.shell import LabError  # noqa: E402

CLIENTS = 50
STREAMS, STREAM_MS = 4, 2
SESSIONS, SESSION_MS = 100, 500
STEADY_S = 0.3   # of traffic before and after what happens, and for the last answers to come
ALIVE_S = 20     # a sender that has waited for seconds tries again after as many
LINKS = ("lan", "wan", "sync")

FAST_MS, DEFAULT_MS = 10, 1000
LOWER_PRIORITY = 100


def silence_goal_ms(advert_ms):
    """Three adverts that don't come, the skew of the lower priority (RFC 9568 section 6.1), and 10 ms to take over."""
    return 3 * advert_ms + (256 - LOWER_PRIORITY) / 256 * advert_ms + 10


class Rows:
    """Figures by their id."""

    def __init__(self):
        self.rows = defaultdict(lambda: {"values": []})

    def add(self, name, value, unit, goal=None, note=""):
        """One run's."""
        row = self.rows[name]
        row["values"].append(value)
        row.update(id=f"failover.{name}", unit=unit, goal=goal, note=note)

    def report(self):
        """All of them, in the order in which they came first."""
        return {"rows": list(self.rows.values())}


class Bench:
    """One lab under traffic, and what happens to it again and again."""

    def __init__(self, lab, traffic, rows, suffix, goal_ms):
        self.lab, self.traffic, self.rows, self.suffix, self.goal_ms = lab, traffic, rows, suffix, goal_ms
        self.elected = goal_ms is not None
        self.active = lab.node(self.pair())
        self.server = traffic.server()
        self.sessions = traffic.sessions(SESSION_MS)
        opened = self.sessions.ask("open", count=SESSIONS, patience_s=60)
        if opened["opened"] != SESSIONS:
            raise LabError(f"{opened['opened']} of {SESSIONS} connections open: {opened['failed']}")
        self.stream = traffic.udp(STREAM_MS, traffic.addresses[:STREAMS])
        self.stream.ask("exchange", within_s=ALIVE_S, patience_s=ALIVE_S + 5)
        wait_equal(lab, at_least=SESSIONS)

    @property
    def standby(self):
        """The node that isn't active."""
        return self.lab.node(other(self.active.place))

    def pair(self, active=None):
        """Waits for one; returns who is active."""
        if self.elected:
            return wait_elected(self.lab, active)[0]
        wait_pair(self.lab, active=active or "node1")
        return active or "node1"

    # -- one run

    def measure(self, kind, what, goal_ms, goal_lost, why):
        """What `what` costs the streams and the connections."""
        before = self.stream.ask("report")
        self.stream.ask("begin")
        time.sleep(STEADY_S)
        since = time.monotonic()
        what()
        alive = self.stream.ask("exchange", within_s=ALIVE_S, patience_s=ALIVE_S + 5)
        time.sleep(STEADY_S)
        gap_ms = self.stream.ask("report", since=since)["gap_ms"]
        self.stream.ask("end")
        time.sleep(STEADY_S)
        after = self.stream.ask("report")
        survived = self.sessions.ask("exchange", within_s=ALIVE_S, patience_s=ALIVE_S + 5)
        asked, lost = after["asked_since"], after["asked_since"] - after["answered_since"]
        self.rows.add(f"{kind}{self.suffix}_gap_ms", gap_ms, "ms", goal_ms, why)
        self.rows.add(f"{kind}{self.suffix}_lost", lost, "packets", goal_lost,
                 f"of {STREAMS * 1000 // STREAM_MS} a second, there and back")
        self.rows.add("survived_share", survived["survived"] / survived["of"], "", 1.0,
                      "of all acknowledged TCP connections, after every run of every kind")
        reordered = after["reordered"] - before["reordered"]
        print(f"{kind}{self.suffix}: silence {gap_ms} ms, {lost} of {asked} lost, "
              f"{reordered} reordered, {survived['survived']} of {survived['of']} connections", file=sys.stderr, flush=True)
        if alive["survived"] != alive["of"]:
            raise LabError(f"{kind}: {alive['survived']} of {alive['of']} streams go on")

    def taken_over(self):
        """The standby is the active node."""
        self.active = self.standby
        wait_role(self.active, "master", ALIVE_S)

    def settled(self):
        """A ready pair with equal tables, nobody reset, no port with two owners."""
        self.pair(self.active.place)
        wait_equal(self.lab, at_least=SESSIONS)
        resets = self.sessions.ask("report")["resets"]
        conflicts = self.server.ask("report")["conflicts"] or double_owners(self.active)
        if resets or conflicts:
            raise LabError(f"{resets} connections reset, ports with two owners: {conflicts}")

    # -- what happens

    def kill(self):
        """kill -9 of the data process; keepalived and the control process go on."""
        dead, killed = self.active, []

        def what():
            killed.append(time.time())
            dead.kill("dataplane", wait=False)
        self.measure("kill", what, self.goal_ms, None, "kill -9 of the active data process")
        self.taken_over()
        role = [row for row in views.event_rows(self.active, "role") if row["text"].startswith("master ")][-1]
        self.rows.add(f"noticed{self.suffix}_ms", role["time_ms"] - killed[0] * 1000, "ms", 20.0,
                 "from kill -9 of the data process until the other node has the role")
        self.returns(lambda: dead.start("dataplane"))

    def cut(self):
        """All cables of the active node at once, without a carrier lost: its power."""
        dead = self.active
        cables = [f"{link}{dead.place[-1]}" for link in LINKS]
        self.measure("cut", lambda: self.lab.topology.silence(cables), self.goal_ms, None,
                     "every cable of the active node goes silent at once")
        dead.kill()
        self.lab.topology.forget_kernel(dead.place)
        for cable in cables:
            self.lab.topology.heal(cable)
        self.taken_over()
        self.returns(dead.start)

    def returns(self, start):
        """A dead node is started, imports and stands by."""
        def what():
            start()
            self.pair(self.active.place)
        self.measure("return", what, None, 0.0, "a dead node starts, imports everything and stands by")
        self.settled()

    def link(self):
        """The LAN cable of the active node."""
        cable = f"lan{self.active.place[-1]}"
        self.measure("link", lambda: self.lab.topology.cut(cable), self.goal_ms, None,
                     "the active node's LAN cable is pulled")
        self.taken_over()
        self.lab.topology.heal(cable)
        self.settled()

    def planned(self):
        """An operator hands the role over."""
        self.measure("planned", lambda: self.active.ctl("switchover", HA_GROUP, within_s=ALIVE_S), None, 0.0,
                     "twinpathctl switchover")
        self.taken_over()
        self.settled()


def run_lab(rows, settings, suffix, kinds, runs):
    """A lab, and `runs` of each kind in it."""
    if not runs:
        return
    knobs = knobs_of_nodes(settings)["node1"]
    goal_ms = silence_goal_ms(knobs.advert_interval_ms) if knobs.ha == "vrrp" else None
    with (running_lab(f"b{os.getpid()}", settings, CLIENTS) as lab, Traffic(lab, CLIENTS) as traffic):
        bench = Bench(lab, traffic, rows, suffix, goal_ms)
        for _ in range(runs):
            for kind in kinds:
                getattr(bench, kind)()


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=50, help="of each kind with fast timers (default %(default)s)")
    parser.add_argument("--default-runs", type=int, default=10, help="with default timers (default %(default)s)")
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: standard output)")
    options = parser.parse_args()
    rows = Rows()
    unplanned = ("kill", "cut", "link")

    def measure_all():
        run_lab(rows, ("ha=vrrp", f"advert_interval_ms={FAST_MS}"), "", (*unplanned, "planned"), options.runs)
        run_lab(rows, (), "_static", ("planned",), options.runs)
        run_lab(rows, ("ha=vrrp", f"advert_interval_ms={DEFAULT_MS}"), "_default", (*unplanned, "planned"),
                options.default_runs)

    sys.exit(measured(measure_all, rows.report, options.output))


if __name__ == "__main__":
    main()
