#!/usr/bin/env python3
"""A long run with failover after failover; afterwards each node holds what it held before.

    soak.py MINUTES

Prints what both nodes hold (mbufs, entries, ports, file descriptors, memory) before and after, and ends with one
line `soak: N passed, N failed`.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from twinlab import views  # noqa: E402
from twinlab.drive import Traffic  # noqa: E402
from twinlab.node import VRF  # noqa: E402
from twinlab.scenario import (catch_signals, double_owners, other, running_lab, wait_equal, wait_in_sync,  # noqa: E402
                              wait_pair)
from twinlab.shell import LabError, wait_until  # noqa: E402

CLIENTS = 96
SESSIONS = 200
# Freed ports and empty blocks rest briefly, so that the end can be compared with the beginning.
SETTINGS = ("port_rest_s=1", "block_idle_s=1")
RSS_GROWTH_MAX = 1.2
IDLE_WITHIN_S = 90


def holdings(lab):
    """Everything a node could leak, by node and name."""
    found = {}
    for place, node in lab.nodes.items():
        for row in node.ctl("show", "memory"):
            found[f"{place} {row['name']}"] = row["used"]
        found[f"{place} conntracks"] = len(views.conntracks(node))
        found[f"{place} blocks"] = len(views.blocks(node))
        for daemon in ("dataplane", "control"):
            found[f"{place} {daemon} descriptors"] = descriptors(node.pid(daemon))
    return found


def descriptors(pid):
    """Open files: the least of several counts, since the connection of the last question may just be closing."""
    counts = []
    for _ in range(20):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.02)
    return min(counts)


def resident_kb(lab):
    """Resident memory of each daemon."""
    found = {}
    for place, node in lab.nodes.items():
        for daemon in ("dataplane", "control"):
            status = Path(f"/proc/{node.pid(daemon)}/status").read_text(encoding="ascii")
            found[f"{place} {daemon}"] = int(status.split("VmRSS:")[1].split()[0])
    return found


def idle(lab, active):
    """No flow left anywhere, and nothing still resting."""
    lab.node(active).ctl("flush", "conntrack", "vrf", VRF)
    wait_until("both tables are empty",
               lambda: not any(views.conntracks(node) or views.blocks(node) for node in lab.nodes.values()),
               IDLE_WITHIN_S, 0.5)
    return holdings(lab)


class Soak:
    """Rounds of traffic and role changes."""

    def __init__(self, lab, traffic):
        self.lab = lab
        self.active = "node1"
        self.server = traffic.server()
        self.crowd = traffic.sessions(200)
        self.udp = traffic.udp(250)
        self.udp.ask("begin")
        self.rounds = 0

    def round(self):
        """New connections, a planned role change, a check of everybody, and half of the connections closed."""
        opened = self.crowd.ask("open", count=SESSIONS // 2, patience_s=60)
        if opened["opened"] != SESSIONS // 2:
            raise LabError(f"round {self.rounds}: connections that did not open: {opened['failed']}")
        wait_equal(self.lab, at_least=SESSIONS // 2)
        standby = other(self.active)
        self.lab.node(standby).set_state("master")
        wait_pair(self.lab, SETTINGS, active=standby)
        self.active = standby
        for program in (self.crowd, self.udp):
            answer = program.ask("exchange", within_s=15, patience_s=30)
            if answer["survived"] != answer["of"]:
                raise LabError(f"round {self.rounds}: {answer['survived']} of {answer['of']} flows alive")
        if double_owners(self.lab.node(self.active)):
            raise LabError(f"round {self.rounds}: a public port with two owners")
        self.crowd.ask("close", count=SESSIONS // 2)
        self.rounds += 1


def main():
    """Entry point."""
    catch_signals()
    minutes = float(sys.argv[1])
    verdicts = []

    def check(held, claim):
        verdicts.append(bool(held))
        print(f"{'ok    ' if held else 'FAILED'} {claim}", flush=True)

    with running_lab(f"s{os.getpid()}", SETTINGS, CLIENTS) as lab:
        wait_pair(lab, SETTINGS)
        with Traffic(lab, CLIENTS) as traffic:
            soak = Soak(lab, traffic)
            # A first round lets every lazy allocation happen before the inventory.
            soak.round()
            soak.round()
            soak.crowd.ask("close")
            soak.udp.ask("end")
            before, memory_before = idle(lab, soak.active), resident_kb(lab)
            print(f"before {before} {memory_before}", flush=True)
            soak.udp.ask("begin")
            end = time.monotonic() + minutes * 60
            try:
                while time.monotonic() < end or soak.rounds % 2:
                    soak.round()
                check(True, f"{soak.rounds} role changes, every flow alive after each")
            except LabError as error:
                check(False, str(error))
            conflicts = soak.server.ask("report")["conflicts"]
            check(not conflicts, f"{len(conflicts)} public ports given to two flows")
            soak.crowd.ask("close")
            soak.udp.ask("end")
            wait_in_sync(lab, soak.active)
            after, memory_after = idle(lab, soak.active), resident_kb(lab)
            print(f"after  {after} {memory_after}", flush=True)
            for name, value in before.items():
                check(after.get(name) == value, f"{name}: {value} before, {after.get(name)} after")
            for name, value in memory_before.items():
                check(memory_after[name] <= value * RSS_GROWTH_MAX,
                      f"{name}: {value} kB before, {memory_after[name]} kB after")
            for place in lab.nodes:
                forwarded = lab.topology.kernel_forwarded(place)
                check(forwarded == 0, f"{place}'s kernel forwarded {forwarded} packets")
    print(f"soak: {sum(verdicts)} passed, {len(verdicts) - sum(verdicts)} failed")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as problem:
        print(f"soak: {problem}\nsoak: 0 passed, 1 failed")
        sys.exit(1)
