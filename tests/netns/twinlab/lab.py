"""A whole lab: network, two nodes, and what is kept on disk so that a later command finds it again.

    lab.py up [--bare] [--clients N] [--set KNOB=VALUE]…   namespaces, links, and (unless --bare) both nodes
    lab.py down                                            everything of this lab away; nothing there is fine
    lab.py cut LINK [--silent] | heal LINK                 lan, wan, sync, or one cable: lan1 wan2 sync1 …
    lab.py kill|start|stop NODE [--only dataplane|control|keepalived]
    lab.py exec PLACE COMMAND…                             inside client, node1, node2, server or fabric
    lab.py ctl NODE WORDS…                                 twinpathctl of that node
    lab.py status [--json]

With `--set exception=tap` the nodes' LAN and WAN cables end at cards (`card-lan0`, `card-wan0`) of which their kernels see
nothing: lan0 and wan0 are the taps that the data process serves. With `--set routing=bgp` or `routing=ospf` two upstream routers (up1, up2) stand before the server, and FRR runs there, beside
both nodes and at the server; `exec up1 vtysh --vty_socket FOLDER` talks to it (`status` names the folders).

The id in TWINPATH_LAB (default `tp`) is part of every name, so labs don't meet. State is under
/run/twinpath-lab/ID/, the nodes' sockets under /run/twinpath/ID-NODE/.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from twinlab.node import DAEMONS, KEEPALIVED, RUN_ROOT, DaemonEnded, Node, binaries  # noqa: E402
from twinlab.nodeconfig import knobs_of_nodes, toml  # noqa: E402
from twinlab.shell import PYTHON, LabError, in_namespace, start_time, wait_until  # noqa: E402
from twinlab.routers import Router  # noqa: E402
from twinlab.topology import PLACES, ROUTERS, Topology  # noqa: E402

STATE_ROOT = Path("/run/twinpath-lab")
CLIENTS = 96
# Where EAL leaves files of a process that was killed: its runtime folder and its hugepage files.
EAL_FOLDERS = (Path("/var/run/dpdk"), Path("/dev/hugepages"))


class Lab:
    """One lab by its id. Cheap to make; nothing exists until `up`."""

    def __init__(self, lab_id):
        if not re.fullmatch(r"[a-z][a-z0-9]{0,9}", lab_id):
            raise LabError(f"lab id {lab_id!r}: a letter, then at most nine letters or digits, lower case")
        self.lab_id = lab_id
        self.directory = STATE_ROOT / lab_id
        self.built_here = False
        self.topology = Topology(lab_id)
        self.nodes = {place: Node(lab_id, place, self.directory) for place in ("node1", "node2")}
        self.routers = self._routers(self._settings())

    def _settings(self):
        """What the lab was built with; nothing when it isn't up."""
        try:
            return json.loads((self.directory / "lab.json").read_text(encoding="ascii"))["settings"]
        except (OSError, ValueError):
            return []

    def _routers(self, settings):
        """Who runs routing daemons, by place. What one node is told about this counts for all."""
        protocol = knobs_of_nodes(settings)["node1"].routing
        places = () if protocol == "static" else (*ROUTERS, "server", *self.nodes)
        return {place: Router(self.topology, place, self.directory, protocol) for place in places}

    def node(self, place):
        """A node by its place."""
        if place not in self.nodes:
            raise LabError(f"no node {place!r}: there are {', '.join(self.nodes)}")
        return self.nodes[place]

    @property
    def description(self):
        """What it is made of, for whoever watches."""
        return "namespaces " + ", ".join(self.topology.namespace(place) for place in PLACES if place != "fabric")

    # -- birth and death

    def up(self, settings=(), clients=CLIENTS, bare=False, owner=None):
        """Builds the lab. `owner` is the process that the lab belongs to, if it must not outlive it."""
        knobs = knobs_of_nodes(settings)
        self.routers = self._routers(settings)
        with self._locked():
            self.built_here = True
            try:
                self.directory.mkdir(parents=True)
            except FileExistsError:
                self.built_here = False
                raise LabError(f"lab {self.lab_id} is up already (scripts/lab down)") from None
            record = {"clients": clients, "settings": list(settings), "owner": owner,
                      "owner_start_time": start_time(owner) if owner else None}
            (self.directory / "lab.json").write_text(json.dumps(record), encoding="ascii")
            self.topology.up(clients, routed=bool(self.routers), second_sync=knobs["node1"].second_sync,
                             taps=knobs["node1"].exception == "tap")
            for node in self.nodes.values():
                node.directory.mkdir()
            for place in self.nodes:
                self.configure(place, knobs[place])
            self._start_syslog()
        for router in self.routers.values():
            router.start()
        if not bare:
            # Both at once: a booting node waits for its peer.
            for node in self.nodes.values():
                node.start(wait=False)
            for node in self.nodes.values():
                node.wait_running()

    def configure(self, place, knobs, private_key=None, public_keys=None):
        """Writes a node's TOML; it is read at the next start. With protection, the nodes know each other's keys
        unless other ones are given."""
        node = self.node(place)
        if knobs.security == "tls":
            private_key = private_key or node.key_file()
            public_keys = public_keys or [peer.public_key() for peer in self.nodes.values() if peer is not node]
        text = toml(place, node.name, knobs, node.directory / "syslog.sock", private_key, public_keys or (),
                    node.directory)
        node.config_file.write_text(text, encoding="ascii")

    def _start_syslog(self):
        pairs = [f"{node.directory}/syslog.sock={node.directory}/syslog.log" for node in self.nodes.values()]
        program = Path(__file__).with_name("syslogd.py")
        # It ends with the namespace it runs in, like every process of the lab.
        subprocess.Popen(in_namespace(self.topology.namespace("fabric"), PYTHON, program, *pairs),
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         start_new_session=True)
        wait_until("the log collector listens",
                   lambda: all((node.directory / "syslog.sock").exists() for node in self.nodes.values()), 30)

    def down(self):
        """Removes every process, namespace and file of this lab, and nothing else."""
        with self._locked():
            for node in self.nodes.values():
                node.kill(wait=False)
            self.topology.down()
            for node in self.nodes.values():
                shutil.rmtree(node.run_dir, ignore_errors=True)
            for path in self.eal_files():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.rmtree(self.directory, ignore_errors=True)
        (STATE_ROOT / f"{self.lab_id}.lock").unlink(missing_ok=True)
        for folder in (RUN_ROOT, STATE_ROOT):
            try:
                folder.rmdir()
            except OSError:
                pass  # another lab or a real node lives there

    def eal_files(self):
        """What EAL has left on disk for this lab's nodes."""
        ours = re.compile(rf"(^|[^a-z0-9])({'|'.join(node.name for node in self.nodes.values())})(\D|$)")
        folders = [folder for folder in EAL_FOLDERS if folder.is_dir()]
        return [path for folder in folders for path in folder.iterdir() if ours.search(path.name)]

    @contextmanager
    def _locked(self):
        STATE_ROOT.mkdir(parents=True, exist_ok=True)
        with open(STATE_ROOT / f"{self.lab_id}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def remove_orphans():
        """Takes down labs whose owner died without doing it (killed by SIGKILL)."""
        for file in STATE_ROOT.glob("*/lab.json"):
            try:
                record = json.loads(file.read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
            if record["owner"] and start_time(record["owner"]) != record["owner_start_time"]:
                Lab(file.parent.name).down()

    # -- looking at it

    def status(self):
        """What is up: links, daemons, roles, and what the kernels did."""
        if not self.directory.exists():
            return {"lab": self.lab_id, "up": False}
        nodes = {}
        for place, node in self.nodes.items():
            nodes[place] = {
                "name": node.name,
                "daemons": {daemon: node.pid(daemon) for daemon in node.daemons()},
                "roles": self._roles(node),
                "kernel_forwarded": self.topology.kernel_forwarded(place),
                "kernel_filtered": self.topology.kernel_filtered(place),
            }
        routers = {place: {"folder": str(router.directory), "daemons": {d: router.pid(d) for d in router.daemons}}
                   for place, router in self.routers.items()}
        return {"lab": self.lab_id, "up": True, "links": self.topology.links(), "nodes": nodes, "routers": routers}

    @staticmethod
    def _roles(node):
        if not node.pid("control"):
            return {}
        try:
            return {role["vrf"]: role["role"] for group in node.ctl("show", "ha-group") for role in group["vrfs"]}
        except LabError:
            return {}


def render_status(status):
    """The status as lines of text."""
    if not status["up"]:
        return f"lab {status['lab']}: not up"
    lines = [f"lab {status['lab']}: up", "links   " + "  ".join(f"{k} {v}" for k, v in status["links"].items())]
    for place, node in status["nodes"].items():
        daemons = ", ".join(f"{d} {'pid ' + str(pid) if pid else 'not running'}" for d, pid in node["daemons"].items())
        roles = ", ".join(f"vrf {vrf} {role}" for vrf, role in node["roles"].items()) or "no role known"
        filtered = ", ".join(f"{name} {count}" for name, count in node["kernel_filtered"].items())
        lines += [f"{place}   {node['name']}: {daemons}; {roles}",
                  f"        kernel: {node['kernel_forwarded']} packets forwarded, kept from it: {filtered}"]
    for place, router in status["routers"].items():
        daemons = ", ".join(f"{d} {'pid ' + str(pid) if pid else 'not running'}" for d, pid in router["daemons"].items())
        lines.append(f"{place:<8}{daemons}; in {router['folder']}")
    return "\n".join(lines)


def arguments(words):
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/lab", description="The namespace lab: two nodes, client, server.")
    parser.add_argument("--lab", default=os.environ.get("TWINPATH_LAB", "tp"), help="id, part of every name")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="build it and start both nodes")
    up.add_argument("--bare", action="store_true", help="network only, no daemons")
    up.add_argument("--clients", type=int, default=CLIENTS, help="client addresses per family (default %(default)s)")
    up.add_argument("--set", action="append", default=os.environ.get("TWINPATH_LAB_SET", "").split(),
                    metavar="[NODE.]KNOB=VALUE", help="configuration knob, for both nodes or one; "
                    "routing=bgp or routing=ospf: FRR on the nodes, on two upstream routers and at the server")
    commands.add_parser("down", help="remove everything of this lab")
    for name, words_help in (("cut", "take a link away"), ("heal", "give it back")):
        link = commands.add_parser(name, help=words_help)
        link.add_argument("link", help="lan, wan, sync, second, or a cable such as lan1, wan2, sync1")
        if name == "cut":
            link.add_argument("--silent", action="store_true", help="lose frames instead of the carrier")
    for name, words_help in (("kill", "kill -9"), ("start", "start what doesn't run"), ("stop", "orderly stop")):
        node = commands.add_parser(name, help=f"{words_help}: the daemons of a node")
        node.add_argument("node")
        node.add_argument("--only", choices=(*DAEMONS, KEEPALIVED))
    run_in = commands.add_parser("exec", help="run a command in a namespace")
    run_in.add_argument("place", choices=(*PLACES, *ROUTERS))
    run_in.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND…")
    ctl = commands.add_parser("ctl", help="twinpathctl of a node")
    ctl.add_argument("node")
    ctl.add_argument("words", nargs=argparse.REMAINDER, metavar="WORDS…")
    status = commands.add_parser("status", help="what is up")
    status.add_argument("--json", action="store_true")
    return parser.parse_args(words)


def carry_out(options):
    """Does what the command line says; returns the exit code."""
    lab = Lab(options.lab)
    if options.command not in ("up", "down", "status") and not lab.directory.exists():
        raise LabError(f"lab {lab.lab_id} is not up (scripts/lab up)")
    if options.command == "up":
        try:
            lab.up(options.set, options.clients, options.bare)
        except BaseException:
            # Not one that was there before, which is somebody's.
            if lab.built_here:
                lab.down()
            raise
        print(render_status(lab.status()))
    elif options.command == "down":
        lab.down()
    elif options.command == "cut":
        lab.topology.cut(options.link, options.silent)
    elif options.command == "heal":
        lab.topology.heal(options.link)
    elif options.command in ("kill", "start", "stop"):
        getattr(lab.node(options.node), options.command)(only=options.only)
        if options.command == "kill" and not options.only:
            lab.topology.forget_kernel(options.node)
    elif options.command == "exec":
        words = in_namespace(lab.topology.namespace(options.place), *(options.words or ["bash"]))
        os.execvp(words[0], words)
    elif options.command == "ctl":
        program = binaries() / "twinpathctl"
        os.execv(program, [str(program), "--node", lab.node(options.node).name, *options.words])
    else:
        status = lab.status()
        print(json.dumps(status, indent=2) if options.json else render_status(status))
        return 0 if status["up"] else 1
    return 0


def main():
    """Entry point of scripts/lab."""
    try:
        sys.exit(carry_out(arguments(sys.argv[1:])))
    except (LabError, DaemonEnded) as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
