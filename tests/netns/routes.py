"""What a large routing table costs: from the kernel to the packets, and what a change costs when it is there.

    routes.py [--routes N] [--changes N] [--output FILE]

The active node's kernel is given N routes (default a million, as many as the Internet's IPv4 table), then single ones are
changed, then a few thousand a second, then all of them go: in messages of many routes, as routing daemons write them, and so
faster than anybody reads the notifications. Everything is seen by packets: a change counts when an echo request by the new
way is answered. Meanwhile UDP streams cross the node every 2 ms; silence is the longest time in which
nothing came back. The result is one object, `{"rows": [{"id", "unit", "value", "note"}, …]}`.
"""

import argparse
import os
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from twinlab.drive import Traffic  # noqa: E402
from twinlab.scenario import measured, running_lab, wait_pair  # noqa: E402
from twinlab.shell import PYTHON, LabError  # noqa: E402
from twinlab.topology import SERVER, SERVER_FAR, SERVER_FAR_NET  # noqa: E402

CLIENTS = 50
STREAMS, STREAM_MS = 4, 2
PROBE_MS = 5
OTHER_GATEWAY = "192.0.2.11"
TAKEN = (0, 10, 100, 127, 192, 198, 203)  # first bytes of what the lab itself uses
LOADED_WITHIN_S = 300
CHURN_S, CHURN_PER_S = 10, 2_000


def prefixes(count):
    """That many /24, all over the address space."""
    free = [first for first in range(1, 224) if first not in TAKEN]
    step = max(len(free) * 65_536 // count, 1)
    for number in range(count):
        place = number * step
        yield f"{free[place // 65_536]}.{place // 256 % 256}.{place % 256}.0/24"


# linux/rtnetlink.h
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
NLM_F_REQUEST, NLM_F_CREATE = 1, 0x400
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
MESSAGE_BYTES = 48 * 1024


def fill(verb, count):
    """Writes, or takes away, that many routes in this process's own namespace."""
    kind, flags = (RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE) if verb == "add" else (RTM_DELROUTE, NLM_F_REQUEST)
    out = struct.pack("=HHI", 8, RTA_OIF, socket.if_nametoindex("wan0"))
    gateways = [struct.pack("=HH", 8, RTA_GATEWAY) + socket.inet_aton(text) for text in (OTHER_GATEWAY, SERVER)]
    # Main table, of a routing daemon (bgp), unicast; whoever wrote it last, when it goes.
    body = struct.pack("=BBBBBBBBI", socket.AF_INET, 24, 0, 0, 254, 186 if verb == "add" else 0, 0, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        message = b""
        for number, prefix in enumerate(prefixes(count)):
            route = body + struct.pack("=HH", 8, RTA_DST) + socket.inet_aton(prefix.split("/")[0])
            # By whichever way it has come to lead, it goes.
            route += gateways[number % 2] + out if verb == "add" else b""
            message += struct.pack("=IHHII", 16 + len(route), kind, flags, number, 0) + route
            if len(message) > MESSAGE_BYTES:
                kernel.send(message)
                message = b""
        kernel.send(message)
        kernel.setblocking(False)
        try:
            raise LabError(f"the kernel refused a route: {kernel.recv(4096)[:20].hex()}")
        except BlockingIOError:
            pass


class Measure:
    """A lab with traffic; figures go into `rows`."""

    def __init__(self, lab, traffic, rows):
        self.lab, self.node, self.rows = lab, lab.node("node1"), rows
        wait_pair(lab)
        traffic.server()
        self.stream = traffic.udp(STREAM_MS, traffic.addresses[:STREAMS])
        self.stream.ask("exchange", within_s=20, patience_s=25)
        self.probe = traffic.ping(PROBE_MS, target=SERVER_FAR)
        self.stream.ask("begin")
        self.probe.ask("begin")
        time.sleep(1)

    def row(self, name, value, unit, note):
        """A figure."""
        self.rows.append({"id": f"routes.{name}", "value": round(value, 3), "unit": unit, "note": note})
        print(f"{name}: {value:.3f} {unit} ({note})", file=sys.stderr, flush=True)

    def batch(self, lines):
        """Has the kernel of the node take these lines; returns how long it took."""
        began = time.monotonic()
        words = self.lab.topology.inside("node1", "ip", "-batch", "-")
        subprocess.run(words, input="\n".join(lines) + "\n", text=True, check=True, timeout=LOADED_WITHIN_S)
        return time.monotonic() - began

    def fill(self, verb, count):
        """Has the kernel of the node take, or give up, the whole table; returns how long it took."""
        began = time.monotonic()
        words = self.lab.topology.inside("node1", PYTHON, "-B", __file__, "--fill", verb, "--routes", str(count))
        subprocess.run(words, check=True, timeout=LOADED_WITHIN_S)
        return time.monotonic() - began

    def answered(self):
        """Waits for an answer to the probe; returns when it came."""
        end, before = time.monotonic() + LOADED_WITHIN_S, self.probe.ask("report")["received"]
        while self.probe.ask("report")["received"] == before:
            if time.monotonic() > end:
                raise LabError("the probe isn't answered")
            time.sleep(0.001)
        return time.monotonic()

    def silent(self):
        """Waits until the probe is no longer answered."""
        last = (None, 0.0)
        while time.monotonic() - last[1] < 0.3 or last[0] is None:
            received = self.probe.ask("report")["received"]
            if received != last[0]:
                last = (received, time.monotonic())
            time.sleep(0.02)

    def silence(self, since, name, what):
        """The longest pause of the streams since then."""
        self.row(f"silence_{name}_ms", self.stream.ask("report", since=since)["gap_ms"], "ms", what)

    def memory(self, name, what):
        """What both processes hold."""
        for daemon in ("control", "dataplane"):
            text = Path(f"/proc/{self.node.pid(daemon)}/status").read_text(encoding="ascii")
            fields = dict(line.split(":", 1) for line in text.splitlines())
            for field, word in (("VmRSS", "now"), ("VmHWM", "at most")):
                self.row(f"{daemon}_{field.lower()}_{name}_mb", int(fields[field].split()[0]) / 1024, "MB", f"{what}, {word}")

    def cpu(self):
        """CPU seconds of the control process, and of the data process's main thread."""
        found = []
        for daemon in ("control", "dataplane"):
            pid = self.node.pid(daemon)
            fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
            found.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        return found

    # -- what happens

    def load(self, count):
        """The whole table, and at its end the way to the server's other prefix."""
        self.memory("before", "without routes")
        since, before = time.monotonic(), self.cpu()
        kernel_s = self.fill("add", count)
        self.batch([f"route add {SERVER_FAR_NET} via {SERVER} dev wan0"])
        kernel_at = time.monotonic()
        behind_s = self.answered() - kernel_at
        self.row("kernel_s", kernel_s, "s", f"until the kernel had {count} routes")
        self.row("behind_s", behind_s, "s", "from then until a packet goes by the last one")
        self.silence(since, "load", "of the streams meanwhile")
        time.sleep(2)
        for name, now, then in zip(("control", "agent"), self.cpu(), before):
            self.row(f"load_cpu_{name}_s", now - then, "s", "CPU time")
        self.memory("loaded", f"with {count} routes")

    def change(self, times):
        """One route goes and comes."""
        since, took = time.monotonic(), []
        for _ in range(times):
            self.batch([f"route del {SERVER_FAR_NET}"])
            self.silent()
            self.batch([f"route add {SERVER_FAR_NET} via {SERVER} dev wan0"])
            began = time.monotonic()
            took.append((self.answered() - began) * 1000)
        self.row("change_ms", statistics.median(took), "ms", f"until a packet goes by a new route; {PROBE_MS} ms between probes")
        self.row("change_worst_ms", max(took), "ms", f"of {times}")
        self.silence(since, "change", "of the streams meanwhile")

    def churn(self, count):
        """Many changes for a while; a new route among them."""
        some = list(prefixes(count))[::max(count // CHURN_PER_S, 1)]
        since, before, end, turn = time.monotonic(), self.cpu(), time.monotonic() + CHURN_S, 0
        while time.monotonic() < end:
            began, turn = time.monotonic(), turn + 1
            self.batch([f"route replace {prefix} via {OTHER_GATEWAY if (number + turn) % 2 else SERVER} dev wan0"
                        for number, prefix in enumerate(some)])
            time.sleep(max(1 - (time.monotonic() - began), 0))
        spent = time.monotonic() - since
        for name, now, then in zip(("control", "agent"), self.cpu(), before):
            self.row(f"churn_cpu_{name}", (now - then) / spent, "cores", f"while {len(some)} routes change every second")
        self.silence(since, "churn", "of the streams meanwhile")

    def restart(self):
        """The control process comes back, reads everything and tells everything."""
        self.batch([f"route del {SERVER_FAR_NET}"])
        self.silent()
        self.node.kill("control")
        self.batch([f"route add {SERVER_FAR_NET} via {SERVER} dev wan0"])
        since = time.monotonic()
        self.node.start("control", wait=False)
        self.row("restart_s", self.answered() - since, "s", "from the start of a new control process to a packet by what it has read")
        self.node.wait_running()
        self.silence(since, "restart", "of the streams meanwhile")
        self.memory("restarted", "after that")

    def remove(self, count):
        """All of them go."""
        since = time.monotonic()
        self.batch([f"route del {SERVER_FAR_NET}"])
        self.silent()
        self.row("remove_kernel_s", self.fill("del", count), "s", "until the kernel had none any more")
        self.batch([f"route add {SERVER_FAR_NET} via {SERVER} dev wan0"])
        began = time.monotonic()
        self.row("remove_behind_s", self.answered() - began, "s", "from then until a packet goes by a new one")
        self.silence(since, "remove", "of the streams meanwhile")


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--routes", type=int, default=1_000_000, help="how many (default %(default)s)")
    parser.add_argument("--changes", type=int, default=5, help="single changes (default %(default)s)")
    parser.add_argument("--fill", choices=("add", "del"), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: standard output)")
    options = parser.parse_args()
    if options.fill:
        fill(options.fill, options.routes)
        return
    rows = []

    def measure_all():
        with running_lab(f"r{os.getpid()}", (), CLIENTS) as lab, Traffic(lab, CLIENTS) as traffic:
            measure = Measure(lab, traffic, rows)
            measure.load(options.routes)
            measure.change(options.changes)
            measure.churn(options.routes)
            measure.restart()
            measure.remove(options.routes)

    sys.exit(measured(measure_all, lambda: {"rows": rows}, options.output))


if __name__ == "__main__":
    main()
