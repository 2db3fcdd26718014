"""The same traffic through twinpath and through others that translate, each between two links of its own.

    peer.py --bench PROGRAM --output FILE [--quick] [--commit ID]

Places: `memif` (a data process without a peer, on shared memory), `sockets` (the same on packet sockets), `kernel` (the kernel's
forwarding with nftables' source NAT), `forward` (the kernel's forwarding alone, which shows what the links cost), and, where VPP is
installed, `vpp` (nat44-ed on shared memory). twinpath-bench has the other ends of all links on the machine's first core;
whatever a place does, its kernel's share included, is on the second one. Its process is stopped while others have their turn.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from twinlab.node import binaries  # noqa: E402
from twinlab.scenario import catch_signals, ignore_signals  # noqa: E402
from twinlab.shell import LabError, in_namespace, run, wait_until  # noqa: E402

# As twinpath-bench makes its frames (src/bench/scene.rs).
ROUTERS = {"lan": "02:00:00:00:b0:00", "wan": "02:00:00:00:b0:01"}
OWN = {"lan": "02:00:00:00:a0:00", "wan": "02:00:00:00:a0:01"}
ADDRESSES = {"lan": ("10.64.0.1", "10.64.0.2"), "wan": ("10.65.0.1", "10.65.0.2")}
INSIDE = "100.64.0.0/10"
POOL = "198.51.100.1-198.51.100.254"
RING = "blocksz=65536,framesz=2048,framecnt=8192,qpairs=1"
# By whether the run is quick: room for the flows of all its sizes and a quarter more, and the memory that VPP needs for it.
CONNTRACKS = {True: 83_200, False: 1_413_120}
VPP_HEAP_MB = {True: 512, False: 2_560}
VPP_BUFFERS_MB = 64
STARTS_WITHIN_S = 60
MEASURES_WITHIN_S = 900
TIMEOUT_S = 600

TWINPATH = """\
[node]
name = "{name}"
id = 1
[dataplane]
workers = 1
worker_cores = [{core}]
event_threads = 1
idle = "adaptive"
memory_mb = 128
mbufs = 16384
conntracks_max = {conntracks}
first_packets_percent = 100
{ports}
[[vrf]]
name = "main"
inside = ["{inside}"]
[vrf.timeouts]
udp_established_s = {timeout}
[vrf.firewall]
default = "drop"
[[vrf.firewall.rule]]
id = 1
inbound = "lan"
outbound = "wan"
source = ["{inside}"]
action = "accept"
[[vrf.cg_nat.pool]]
name = "public"
addresses = ["{pool}"]
block_size = 512
[[vrf.cg_nat.rule]]
id = 1
outbound = "wan"
source = ["{inside}"]
pool = "public"
"""
PORT = """
[[port]]
name = "{link}0"
device = "{device}"
[[interface]]
name = "{link}"
port = "{link}0"
vrf = "main"
addresses = ["{own}/24"]
"""
WAY = """
[[vrf.route]]
prefix = "{prefix}"
interface = "{link}"
gateway = "{router}"
[[vrf.neighbor]]
interface = "{link}"
address = "{router}"
mac = "{mac}"
"""
NAT = f"""
table ip peer {{
    chain out {{
        type nat hook postrouting priority 100;
        oifname "wan0" ip saddr {INSIDE} snat to {POOL}
    }}
}}
"""
UNSEEN = """
table netdev peer {{
{chains}
}}
"""
VPP_START = """\
unix {{ nodaemon nosyslog runtime-dir {directory} cli-listen {directory}/cli.sock }}
cpu {{ main-core {cores[0]} corelist-workers {cores[1]} }}
memory {{ main-heap-size {heap_mb}M main-heap-page-size {pages} }}
buffers {{ page-size {pages} }}
plugins {{ plugin default {{ disable }} plugin memif_plugin.so {{ enable }} plugin nat_plugin.so {{ enable }} }}
"""
VPP = """\
create memif socket id 1 filename {sockets[lan]}
create memif socket id 2 filename {sockets[wan]}
create interface memif id 0 socket-id 1 master hw-addr {own[lan]}
create interface memif id 0 socket-id 2 master hw-addr {own[wan]}
set interface state memif1/0 up
set interface state memif2/0 up
set interface ip address memif1/0 {lan}/24
set interface ip address memif2/0 {wan}/24
set ip neighbor memif1/0 {lan_router} {routers[lan]}
set ip neighbor memif2/0 {wan_router} {routers[wan]}
ip route add {inside} via {lan_router} memif1/0
ip route add 0.0.0.0/0 via {wan_router} memif2/0
nat44 plugin enable sessions {sessions}
nat44 add address {pool}
set interface nat44 in memif1/0 out memif2/0
set nat timeout udp {timeout}
"""


def huge_free_mb():
    """Huge pages that nobody has yet."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(lines["HugePages_Free"]) * int(lines["Hugepagesize"].split()[0]) // 1024


class Places:
    """The generator's namespace, and one for each place."""

    def __init__(self, stack, cores, quick):
        self.stack, self.cores, self.quick, self.conntracks = stack, cores, quick, CONNTRACKS[quick]
        self.prefix = f"p{os.getpid()}"
        self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.generator = self.namespace("gen")
        self.specs = {}
        self.vpp_pages = None

    def namespace(self, name):
        """A new one, gone at the end with everything in it."""
        full = f"{self.prefix}-{name}"
        run("ip", "netns", "add", full)
        self.stack.callback(run, "ip", "netns", "delete", full, check=False)
        run(*in_namespace(full, "sh", "-ec", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6;"
                                             "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; ip link set lo up"))
        return full

    def share(self, name):
        """Two links through shared memory, and what the generator has to know of them; returns their sockets."""
        number, sockets = len(self.specs), {link: self.directory / f"{name}-{link}.sock" for link in ROUTERS}
        words = []
        for index, (link, socket) in enumerate(sockets.items()):
            words += [f"net_memif{2 * number + index},role=client,id=0,socket={socket},socket-abstract=no", OWN[link]]
        self.specs[name] = words
        return sockets

    def add(self, name):
        """Two cables to a new namespace, and what the generator has to know of them."""
        place, number = self.namespace(name), len(self.specs)
        words = []
        for index, link in enumerate(("lan", "wan")):
            far = f"{link}-{name}"[:15]
            run("ip", "-n", self.generator, "link", "add", far, "address", ROUTERS[link], "type", "veth",
                "peer", "name", f"{link}0", "address", OWN[link], "netns", place)
            own, router = ADDRESSES[link]
            lines = [f"addr add {own}/24 dev {link}0", f"link set {link}0 up",
                     f"neigh add {router} lladdr {ROUTERS[link]} dev {link}0 nud permanent"]
            run("ip", "-n", self.generator, "link", "set", far, "arp", "off", "up")
            run("ip", "-n", place, "-batch", "-", stdin="\n".join(lines) + "\n")
            for where, interface, core in ((self.generator, far, self.cores[0]), (place, f"{link}0", self.cores[1])):
                run(*in_namespace(where, "ethtool", "-K", interface, "tx", "off", "rx", "off", "gso", "off", "gro", "off"))
                run(*in_namespace(where, "sh", "-ec",
                                  f"echo {1 << core:x} >/sys/class/net/{interface}/queues/rx-0/rps_cpus"))
            self.hide(self.generator, far)
            words += [f"net_af_packet{2 * number + index},iface={far},{RING}", OWN[link]]
        run("ip", "-n", place, "-batch", "-", stdin=f"route add {INSIDE} via {ADDRESSES['lan'][1]}\n"
                                                    f"route add default via {ADDRESSES['wan'][1]}\n")
        self.specs[name] = words
        return place

    @staticmethod
    def hide(namespace, *interfaces):
        """Whoever reads by packet socket has the frames; their kernel need not look at them as well."""
        chains = "\n".join(f'    chain {name.replace("-", "_")} {{ type filter hook ingress device "{name}" priority 0; '
                           "policy drop; }" for name in interfaces)
        run(*in_namespace(namespace, "nft", "-f", "-"), stdin=UNSEEN.format(chains=chains))

    def spawn(self, name, namespace, *words):
        """The process of a place, ended with it. The generator stops it while others have their turn."""
        log = self.log(name).open("wb")
        self.stack.callback(log.close)
        process = subprocess.Popen(in_namespace(namespace, *words), stdout=log, stderr=subprocess.STDOUT,  # noqa: S603
                                   stdin=subprocess.DEVNULL)
        self.stack.callback(self.end, process)
        self.specs[name].append(str(process.pid))
        return process

    def log(self, name):
        """What its process says."""
        return self.directory / f"{name}.log"

    @staticmethod
    def end(process):
        """In order, or else by force."""
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # -- who is there

    def twinpath(self, name, place, devices):
        """The data process alone, on these devices."""
        prefixes = {"lan": INSIDE, "wan": "0.0.0.0/0"}
        ports = "".join(PORT.format(link=link, device=devices[link], own=ADDRESSES[link][0]) for link in ROUTERS)
        ways = "".join(WAY.format(link=link, prefix=prefixes[link], router=ADDRESSES[link][1], mac=ROUTERS[link])
                       for link in ROUTERS)
        file, node = self.directory / f"{name}.toml", f"{self.prefix}-{name}"
        file.write_text(TWINPATH.format(name=node, core=self.cores[1], ports=ports, inside=INSIDE, pool=POOL,
                                        conntracks=self.conntracks, timeout=TIMEOUT_S) + ways, encoding="ascii")
        process = self.spawn(name, place, binaries() / "twinpath-dataplane", "--config", file)
        self.stack.callback(shutil.rmtree, f"/run/twinpath/{node}", ignore_errors=True)
        socket = f"/run/twinpath/{node}/dataplane.sock"
        wait_until(f"{name} runs", lambda: self.is_there(name, process, socket), STARTS_WITHIN_S)

    def is_there(self, name, process, socket):
        """Whether the process listens already; the end of everything when it ended."""
        if process.poll() is not None:
            raise SystemExit(f"{name} ended: {self.log(name).read_text(errors='replace')}")
        return os.path.exists(socket)

    def memif(self):
        """twinpath on shared memory."""
        sockets = self.share("memif")
        self.twinpath("memif", self.namespace("memif"),
                      {link: f"net_memif{number},role=server,id=0,socket={sockets[link]},socket-abstract=no,mac={OWN[link]}"
                       for number, link in enumerate(ROUTERS)})

    def sockets(self):
        """twinpath on packet sockets."""
        place = self.add("sockets")
        self.hide(place, "lan0", "wan0")
        self.twinpath("sockets", place, {link: f"net_af_packet{number},iface={link}0,{RING}"
                                         for number, link in enumerate(ROUTERS)})

    def kernel(self, name, rules):
        """The kernel, with or without translation."""
        place = self.add(name)
        values = {"net/ipv4/ip_forward": 1}
        if rules:
            run(*in_namespace(place, "nft", "-f", "-"), stdin=rules)
            for key in ("nf_conntrack_max", "nf_conntrack_buckets"):
                self.make_room(Path("/proc/sys/net/netfilter") / key)
            values |= {"net/netfilter/nf_conntrack_udp_timeout": TIMEOUT_S,
                       "net/netfilter/nf_conntrack_udp_timeout_stream": TIMEOUT_S}
        script = "\n".join(f"echo {value} >/proc/sys/{key}" for key, value in values.items())
        run(*in_namespace(place, "sh", "-ec", script))

    def make_room(self, file):
        """Of the whole machine, as much for conntracks as the others have; given back at the end."""
        before = file.read_text(encoding="ascii")
        if int(before) < self.conntracks:
            file.write_text(f"{self.conntracks}\n", encoding="ascii")
            self.stack.callback(file.write_text, before, encoding="ascii")

    def vpp(self):
        """VPP on shared memory. Its main thread is on the generator's core, where it sleeps nearly all of the time."""
        sockets, place, directory = self.share("vpp"), self.namespace("vpp"), self.directory / "vpp"
        directory.mkdir()
        heap_mb, file = VPP_HEAP_MB[self.quick], self.directory / "vpp.conf"
        self.vpp_pages = "default-hugepage" if huge_free_mb() >= heap_mb + VPP_BUFFERS_MB else "default"
        file.write_text(VPP_START.format(directory=directory, cores=self.cores, heap_mb=heap_mb, pages=self.vpp_pages),
                        encoding="ascii")
        process = self.spawn("vpp", place, "vpp", "-c", file)
        wait_until("vpp runs", lambda: self.is_there("vpp", process, directory / "cli.sock"), STARTS_WITHIN_S)
        commands = VPP.format(own=OWN, routers=ROUTERS, inside=INSIDE, timeout=TIMEOUT_S, sockets=sockets,
                              pool=POOL.replace("-", " - "), sessions=self.conntracks,
                              lan=ADDRESSES["lan"][0], wan=ADDRESSES["wan"][0],
                              lan_router=ADDRESSES["lan"][1], wan_router=ADDRESSES["wan"][1])
        for command in commands.splitlines():
            # It says what it makes, and what is wrong; the exit code says nothing.
            said = self.vppctl(command).strip()
            if said and not said.startswith("memif"):
                raise LabError(f"vpp: {command}: {said}")

    def ask_vpp(self, rows):
        """Its own account: a session for each flow of all sizes, or else something passed it by."""
        sizes = [row[1] for row in (re.fullmatch(r"peer\.vpp_(\d+[km])_ns", row["id"]) for row in rows) if row]
        flows = sum(int(size[:-1]) << {"k": 10, "m": 20}[size[-1]] for size in sizes)
        sessions = int(re.search(r"total sessions: (\d+)", self.vppctl("show nat44 summary"))[1])
        version, pages = self.vppctl("show version").split()[1], "2 MiB" if self.vpp_pages == "default-hugepage" else "4 KiB"
        print(f"VPP {version}, memory in {pages} pages: {sessions} sessions of {flows} flows")
        if sessions != flows:
            raise LabError("VPP did not translate each flow")

    def vppctl(self, command):
        """What VPP says to a command."""
        return run("vppctl", "-s", self.directory / "vpp" / "cli.sock", command)


@contextmanager
def places(quick):
    """Everything in its place, and nothing left afterwards."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise LabError("two cores are needed: one for the generator, one for who is measured")
    stack = ExitStack()
    try:
        laid = Places(stack, cores, quick)
        laid.memif()
        laid.sockets()
        laid.kernel("kernel", NAT)
        laid.kernel("forward", "")
        if shutil.which("vpp") and shutil.which("vppctl"):
            laid.vpp()
        yield laid
    finally:
        ignore_signals()
        stack.close()


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--bench", type=Path, required=True, help="twinpath-bench")
    parser.add_argument("--output", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    catch_signals()
    try:
        with places(options.quick) as laid:
            words = [options.bench.resolve(), "--commit", options.commit, "--output", options.output.resolve()]
            words += ["--quick"] if options.quick else []
            for name, spec in laid.specs.items():
                words += ["--peer", f"{name}={';'.join(spec)}"]
            done = subprocess.run(in_namespace(laid.generator, *words), check=False, timeout=MEASURES_WITHIN_S)  # noqa: S603
            if done.returncode == 0 and "vpp" in laid.specs:
                laid.ask_vpp(json.loads(options.output.read_text(encoding="ascii"))["rows"])
            return done.returncode
    except (LabError, subprocess.TimeoutExpired) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
