"""The demo: connections that survive the death of the node they run through.

    demo.py [--json] [--set KNOB=VALUE]…

Builds a lab of its own, runs the story step by step, checks every claim, removes the lab. Exit code 0 only if all
claims held. With --json, standard output is one object and the story goes to standard error.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from twinlab import views  # noqa: E402
from twinlab.drive import Traffic  # noqa: E402
from twinlab.node import HA_GROUP, DaemonEnded  # noqa: E402
from twinlab.nodeconfig import knobs_of_nodes  # noqa: E402
from twinlab.scenario import (RECOVER_S, Interrupted, catch_signals, double_owners, running_lab,  # noqa: E402
                              show_last_words, wait_equal, wait_pair, wait_role, wait_still)
from twinlab.shell import LabError, wait_until  # noqa: E402

CLIENTS = 96
SESSIONS = 2 * CLIENTS
NEW_SESSIONS = 2 * CLIENTS
DOWNLOAD_BYTES_PER_S = 8 << 20


def exchange(program):
    """How many flows of a program carry data there and back now."""
    return program.ask("exchange", within_s=RECOVER_S, patience_s=RECOVER_S + 15)


class Story:
    """The demo's course and what it has found out."""

    def __init__(self, options):
        self.options = options
        self.out = sys.stderr if options.json else sys.stdout
        self.began = time.monotonic()
        self.step_number = 0
        self.failed = []
        self.result = {
            "ok": False, "transfer_intact": False, "resets": None, "gap_ms": None, "gap_ping_ms": None,
            "gap_udp_ms": None, "switch_ms": None, "sessions_before": 0, "sessions_survived": 0, "udp_flows": 0,
            "udp_survived": 0, "new_sessions": 0, "port_conflicts": None, "entries": 0, "tables_equal": False,
            "resync_ms": None, "resync_entries": 0, "records_per_lane": {}, "packets_per_worker": {},
            "kernel_forwarded": None, "kernel_filtered": 0, "stops_without_data_processes": False,
        }

    # -- telling

    def step(self, text):
        """A new step."""
        self.step_number += 1
        print(f"\n{self.step_number}. {text}  [{time.monotonic() - self.began:.1f} s]", file=self.out, flush=True)

    def tell(self, text):
        """A line below the step."""
        print("   " + text.replace("\n", "\n   "), file=self.out, flush=True)

    def check(self, held, claim):
        """A claim that must hold."""
        self.tell(("ok      " if held else "FAILED  ") + claim)
        if not held:
            self.failed.append(claim)

    def side_by_side(self, lab):
        """Both tables, counted by protocol and state, and the first entries of the first."""
        tables = [views.summary(lab.node(place)) for place in ("node1", "node2")]
        rows = sorted(set(tables[0]) | set(tables[1]))
        self.tell(f"{'conntracks':24}{'node1':>10}{'node2':>10}")
        for row in rows:
            self.tell(f"{row:24}{tables[0][row]:>10}{tables[1][row]:>10}")
        self.tell(f"{'all':24}{sum(tables[0].values()):>10}{sum(tables[1].values()):>10}")
        names = ("protocol", "inside", "public", "server")
        self.tell("{:10}{:26}{:26}{}".format(*names))
        for row in [row for row in views.conntracks(lab.node("node2")) if row["nat"]][:4]:
            original, reply = row["original"], row["reply"]
            self.tell(f"{views.PROTOCOLS.get(row['protocol'], row['protocol']):10}"
                      f"{original['src'] + ' ' + str(original['src_port']):26}"
                      f"{reply['dst'] + ' ' + str(reply['dst_port']):26}{original['dst']} {original['dst_port']}")

    # -- the course

    def run(self, lab):
        """From the pair to the last byte."""
        with Traffic(lab, CLIENTS) as traffic:
            self.pair(lab)
            self.start_traffic(traffic)
            self.compare(lab)
            self.kill_active(lab)
            self.survivors(lab)
            self.new_connections(lab)
            self.come_back(lab)
            self.finish(lab, traffic)

    def pair(self, lab):
        """Two nodes find each other."""
        self.step(f"Two nodes, a client with {CLIENTS} addresses, a server: {lab.description}")
        wait_pair(lab, self.options.set)
        for place in ("node1", "node2"):
            report = views.peer(lab.node(place))
            lanes = ", ".join(f"{c['name']} {c['connection_status']}" for c in report["clients"])
            self.tell(f"{place}: {views.role(lab.node(place))}, {report['source']} to {report['address']}: {lanes}")

    def start_traffic(self, traffic):
        """Everything that has to survive."""
        self.step(f"A long download, {SESSIONS} interactive TCP connections, {CLIENTS} UDP flows and a ping")
        self.server = traffic.server()
        self.download = traffic.download(DOWNLOAD_BYTES_PER_S)
        self.tell(f"download from {self.download.ask('begin')['inside']}")
        self.sessions = traffic.sessions(interval_ms=500)
        opened = self.sessions.ask("open", count=SESSIONS, patience_s=60)
        self.check(opened["opened"] == SESSIONS,
                   f"{opened['opened']} of {SESSIONS} connections open {opened['failed'] or ''}")
        self.udp, self.ping = traffic.udp(interval_ms=250), traffic.ping(interval_ms=10)
        for program in (self.udp, self.ping):
            program.ask("begin")
        before = exchange(self.sessions)
        self.result["sessions_before"] = before["survived"]
        udp = exchange(self.udp)
        self.result["udp_flows"] = udp["survived"]
        self.check(before["survived"] == SESSIONS and udp["survived"] == CLIENTS,
                   f"data goes both ways on {before['survived']} connections and {udp['survived']} UDP flows")
        self.check(exchange(self.ping)["survived"] == 1, "ping is answered")

    def compare(self, lab):
        """The standby's table is the active's."""
        self.step("The same table on both nodes")
        entries = wait_equal(lab, at_least=SESSIONS)
        self.result.update(entries=entries, tables_equal=True)
        self.side_by_side(lab)
        self.check(True, f"{entries} entries are equal, tuple by tuple and version by version")
        lanes, workers = views.records_per_lane(lab.node("node1")), views.packets_per_worker(lab.node("node1"))
        self.result.update(records_per_lane=lanes, packets_per_worker=workers)
        knobs = knobs_of_nodes(self.options.set)["node1"]
        self.check(len(lanes) == knobs.event_threads and min(lanes.values()) > 0,
                   "records per lane: " + ", ".join(f"{k} {v}" for k, v in lanes.items()))
        self.check(len(workers) == knobs.workers and min(workers.values()) > 0,
                   "packets per worker: " + ", ".join(f"{k} {v}" for k, v in workers.items()))

    def kill_active(self, lab):
        """The death."""
        bytes_before = self.download.ask("progress")["bytes"]
        self.flows_before = self.server.ask("flows")
        self.step("node1 dies: kill -9 of both its processes; node2 is made master")
        self.tell(f"twinpathctl --node {lab.node('node2').name} set ha-group {HA_GROUP} state master")
        # Nobody waits for the dead process to be cleared away: the other node doesn't know about that either.
        self.died = time.monotonic()
        lab.node("node1").kill(wait=False)
        lab.node("node2").set_state("master")
        self.result["switch_ms"] = round((time.monotonic() - self.died) * 1000, 1)
        wait_role(lab.node("node2"), "master")
        wait_until("the download goes on", lambda: self.download.ask("progress")["bytes"] > bytes_before + (4 << 20),
                   RECOVER_S, 0.1)
        self.tell(f"kill and command took {self.result['switch_ms']} ms")

    def survivors(self, lab):
        """Who is still there, and how long it was silent."""
        self.step("The same connections, through node2")
        alive = exchange(self.sessions)
        udp = exchange(self.udp)
        self.result.update(sessions_survived=alive["survived"], udp_survived=udp["survived"])
        before, udp_before = self.result["sessions_before"], self.result["udp_flows"]
        self.check(alive["survived"] == before,
                   f"{alive['survived']} of {before} connections exchanged data after the failover")
        self.check(udp["survived"] == udp_before, f"{udp['survived']} of {udp_before} UDP flows too")
        self.check(exchange(self.ping)["survived"] == 1, "ping is answered")
        progress = self.download.ask("progress", since=self.died)
        self.result["gap_ms"] = progress["gap_ms"]
        for name, program in (("gap_udp_ms", self.udp), ("gap_ping_ms", self.ping)):
            self.result[name] = program.ask("report", since=self.died)["gap_ms"]
        self.check(progress["running"] and not progress["error"],
                   f"the download runs on; it was silent for {progress['gap_ms']} ms "
                   f"(ping {self.result['gap_ping_ms']} ms, UDP {self.result['gap_udp_ms']} ms)")
        moved = self._moved_flows()
        self.check(not moved, f"every flow kept its public address and port{': ' + str(moved[:3]) if moved else ''}")
        taken = double_owners(lab.node("node2"))
        self.check(not taken, f"no public port has two owners in node2's table{': ' + str(taken) if taken else ''}")

    def _moved_flows(self):
        now = {tuple(flow) for kind in ("tcp", "udp") for flow in self.server.ask("flows")[kind]}
        return [flow for kind in ("tcp", "udp") for flow in self.flows_before[kind] if tuple(flow) not in now]

    def new_connections(self, lab):
        """Newcomers must not get what survivors hold."""
        self.step(f"{NEW_SESSIONS} new connections through node2")
        opened = self.sessions.ask("open", count=NEW_SESSIONS, patience_s=60)
        self.result["new_sessions"] = opened["opened"]
        self.check(opened["opened"] == NEW_SESSIONS,
                   f"{opened['opened']} of {NEW_SESSIONS} new connections open {opened['failed'] or ''}")
        conflicts = self.server.ask("report")["conflicts"]
        conflicts += [{"table": str(public)} for public in double_owners(lab.node("node2"))]
        self.result["port_conflicts"] = len(conflicts)
        self.check(not conflicts,
                   f"{len(conflicts)} of them got a public address and port in use {conflicts[:3] or ''}")

    def come_back(self, lab):
        """The dead node returns with the configuration it died with, and imports."""
        self.step("node1 comes back")
        started = time.monotonic()
        lab.node("node1").start(wait=False)
        lab.node("node1").wait_running()
        wait_pair(lab, self.options.set, active="node2")
        self.result["resync_ms"] = round((time.monotonic() - started) * 1000, 1)
        resync = views.peer(lab.node("node2"))["resync"]
        self.result["resync_entries"] = resync["records"]
        self.check(True, f"backup and in sync {self.result['resync_ms']} ms after its start; the resync itself: "
                         f"{resync['records']} records in {resync['elapsed_ms']} ms")
        entries = wait_equal(lab, at_least=self.result["sessions_before"])
        self.side_by_side(lab)
        self.check(True, f"{entries} entries are equal again")
        alive = exchange(self.sessions)
        self.check(alive["survived"] == alive["of"],
                   f"{alive['survived']} of {alive['of']} connections undisturbed by the return")

    def finish(self, lab, traffic):
        """The last byte, and who carried them all."""
        self.step("The download ends")
        mine = self.download.ask("finish", within_s=20, patience_s=30)
        seen = self.server.ask("report")
        theirs = seen["downloads"].get(mine["inside"], {})
        intact = (mine["done"] and theirs.get("done", False) and mine["sha256"] == theirs["sha256"]
                  and mine["bytes"] == theirs["bytes"])
        self.result["transfer_intact"] = intact
        self.tell(f"sent      {theirs.get('bytes')} bytes, SHA-256 {theirs.get('sha256')}")
        self.tell(f"received  {mine['bytes']} bytes, SHA-256 {mine['sha256']}")
        self.check(intact, "one TCP connection, before, during and after, intact")
        resets = mine["resets"] + self.sessions.ask("report")["resets"] + seen["resets"]
        self.result["resets"] = resets
        self.check(resets == 0, f"{resets} connections were reset")

        self.step("Who forwarded? Both data processes are stopped")
        self.kernel(lab)
        last = traffic.download(DOWNLOAD_BYTES_PER_S)
        last.ask("begin")
        for place in ("node2", "node1"):
            lab.node(place).stop("dataplane")

        def arrived():
            return last.ask("progress")["bytes"], self.ping.ask("report")["received"]

        wait_still("what arrives", arrived)
        before, went_on = arrived(), self.ping.ask("exchange", within_s=1.0)["survived"]
        silent = went_on == 0 and arrived() == before
        self.result["stops_without_data_processes"] = silent
        self.check(silent, "nothing goes through any more")

    def kernel(self, lab):
        """The kernels' own counters."""
        forwarded = {place: lab.topology.kernel_forwarded(place) for place in ("node1", "node2")}
        filtered = {place: sum(lab.topology.kernel_filtered(place).values()) for place in ("node1", "node2")}
        self.result["kernel_forwarded"] = sum(forwarded.values())
        self.result["kernel_filtered"] = sum(filtered.values())
        self.check(sum(forwarded.values()) == 0, f"the nodes' kernels forwarded {sum(forwarded.values())} packets "
                                                 f"(their filter kept {sum(filtered.values())} frames from them)")


def main():
    """Entry point of scripts/demo."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the story")
    parser.add_argument("--set", action="append", default=os.environ.get("TWINPATH_LAB_SET", "").split(),
                        metavar="[NODE.]KNOB=VALUE", help="configuration knob, as in scripts/lab up")
    options = parser.parse_args()
    story = Story(options)
    code = 1
    try:
        catch_signals()
        with running_lab(f"d{os.getpid()}", options.set, CLIENTS) as lab:
            try:
                story.run(lab)
            except (LabError, DaemonEnded) as error:
                story.check(False, str(error))
            if story.failed:
                show_last_words(lab)
        story.result["ok"] = not story.failed
        code = 0 if story.result["ok"] else 1
    except (LabError, DaemonEnded) as error:
        story.check(False, str(error))
    except Interrupted as signal_name:
        story.check(False, f"interrupted by {signal_name}")
        code = 130
    story.result["failed"] = story.failed
    if options.json:
        print(json.dumps(story.result))
    else:
        took = time.monotonic() - story.began
        verdict = "all held" if code == 0 else f"{len(story.failed)} did not hold"
        print(f"\n{verdict}, {took:.0f} s", flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
