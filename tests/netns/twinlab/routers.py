"""FRR in the lab: routing daemons beside both appliances, on the upstream routers and at the server.

    appliances  AS 65001   learn the server's prefix, by both upstream routers; with BGP they announce the pool
    up1, up2    AS 65010
    server      AS 65020   announces its prefix, learns the pool by both

With BGP both appliances announce the pool, always, and name the *virtual* WAN address as its next hop (`set ip next-hop`).
Whoever is active answers for that address, so a change of roles changes no route at all, upstream has nothing to
converge, and a session that is lost with its node takes nothing along: the other node says the same. OSPF has no such word, so
there each upstream router has a static route for the pool to the virtual address, and redistributes that.

Every daemon is started by its full path with configuration, pid file and sockets in a folder of its own, never as the system's
service. It ends with its namespace.
"""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

from .shell import LabError, in_namespace, run, start_time, wait_until
from .topology import (NODE_ADDRESSES, POOL_NET, ROUTER_ADDRESSES, SERVER_CORE, SERVER_FAR, SERVER_FAR_NET, WAN_GATEWAY)

PROGRAMS = Path("/usr/lib/frr")
PROTOCOLS = {"bgp": "bgpd", "ospf": "ospfd"}
START_WITHIN_S = 30
END_WITHIN_S = 30
NODES_AS, UPSTREAM_AS, SERVER_AS = 65001, 65010, 65020

# Forwarding stays as the lab has set it: zebra would otherwise be free to.
ZEBRA = """
{forwarding}
ip prefix-list pool seq 5 permit {pool}
route-map others deny 10
 match ip address prefix-list pool
route-map others permit 20
route-map server permit 10
 set src {server}
{filters}
"""

BGP = """
router bgp {own}
 bgp router-id {router}
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 3 9
{neighbors}
 address-family ipv4 unicast
{announced}
  maximum-paths 4
{policies}
 exit-address-family
!
ip prefix-list pool seq 5 permit {pool}
route-map announce permit 10
 match ip address prefix-list pool
 set ip next-hop {gateway}
"""

# The appliances are never the designated router of their link: it need not move when one of them dies.
OSPF = """
{interfaces}
router ospf
 ospf router-id {router}
 timers throttle spf 10 50 500
 maximum-paths 4
{redistribute}
"""

OSPF_INTERFACE = """
interface {name}
 ip ospf area 0
 ip ospf hello-interval 1
 ip ospf dead-interval 8
 ip ospf priority {priority}
"""


def address_of(place):
    """The address that a router has its sessions with, and its name."""
    if place in NODE_ADDRESSES:
        return NODE_ADDRESSES[place]["wan0"][0].split("/")[0]
    return ROUTER_ADDRESSES[place]["wan0"] if place in ROUTER_ADDRESSES else SERVER_CORE


def _neighbors(place):
    """Address and AS of everybody that `place` has a BGP session with."""
    if place in ROUTER_ADDRESSES:
        return [*((address_of(node), NODES_AS) for node in NODE_ADDRESSES), (SERVER_CORE, SERVER_AS)]
    interface = "wan0" if place in NODE_ADDRESSES else "core0"
    return [(addresses[interface], UPSTREAM_AS) for addresses in ROUTER_ADDRESSES.values()]


def zebra_config(place):
    """For the daemon that writes into the kernel. The pool's own route is for others: never for who translates to it.
    The server answers by the address that is asked, which isn't that of its interface."""
    learned = "others" if place in NODE_ADDRESSES else "server" if place == "server" else ""
    filters = [f"ip protocol {protocol} route-map {learned}" for protocol in PROTOCOLS if learned]
    return ZEBRA.format(forwarding="ip forwarding" if place in ROUTER_ADDRESSES else "no ip forwarding", pool=POOL_NET,
                        server=SERVER_FAR, filters="\n".join(filters))


def bgp_config(place):
    """For bgpd."""
    neighbors = _neighbors(place)
    node = place in NODE_ADDRESSES
    networks = [POOL_NET] if node else [SERVER_FAR_NET] if place == "server" else []
    lines = [line for address, system in neighbors for line in (f" neighbor {address} remote-as {system}",
                                                                f" neighbor {address} timers connect 1",
                                                                f" neighbor {address} advertisement-interval 0")]
    policies = [f"  neighbor {address} route-map announce out" for address, _ in neighbors] if node else []
    own = NODES_AS if node else SERVER_AS if place == "server" else UPSTREAM_AS
    return BGP.format(own=own, router=address_of(place), neighbors="\n".join(lines),
                      announced="\n".join(f"  network {network}" for network in networks), policies="\n".join(policies),
                      pool=POOL_NET, gateway=WAN_GATEWAY)


def ospf_config(place):
    """For ospfd."""
    router = place in ROUTER_ADDRESSES
    names = ("wan0",) if place in NODE_ADDRESSES else ("wan0", "core0") if router else ("wan0", "lo")
    interfaces = "".join(OSPF_INTERFACE.format(name=name, priority=int(router)) if name != "lo"
                         else "interface lo\n ip ospf area 0\n" for name in names)
    return OSPF.format(interfaces=interfaces, router=address_of(place), redistribute=" redistribute kernel" if router else "")


CONFIGS = {"zebra": zebra_config, "bgpd": bgp_config, "ospfd": ospf_config}


class Router:
    """The routing daemons of one place."""

    def __init__(self, topology, place, state_dir, protocol):
        if protocol not in PROTOCOLS:
            raise LabError(f"routing={protocol}: use static, {' or '.join(PROTOCOLS)}")
        self.topology, self.place, self.address = topology, place, address_of(place)
        self.directory = Path(state_dir) / "frr" / place
        self.daemons = ("zebra", PROTOCOLS[protocol])

    def start(self):
        """Starts the daemons that don't run, zebra first, and waits until each listens to its operator."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for folder in (self.directory.parent, self.directory):
            shutil.chown(folder, "frr", "frr")
        if self.place in ROUTER_ADDRESSES and "ospfd" in self.daemons:
            self.topology.ip(self.place, [f"route replace {POOL_NET} via {WAN_GATEWAY} dev wan0"])
        for daemon in self.daemons:
            if self.pid(daemon):
                continue
            config = self.directory / f"{daemon}.conf"
            config.write_text(CONFIGS[daemon](self.place), encoding="ascii")
            socket = self.directory / f"{daemon}.vty"
            socket.unlink(missing_ok=True)
            with open(self.directory / f"{daemon}.log", "ab") as log:
                process = subprocess.Popen(
                    self.topology.inside(self.place, PROGRAMS / daemon, "-f", config, "-i", self.directory / f"{daemon}.pid",
                                         "-z", self.directory / "zserv.api", "--vty_socket", self.directory, "-P", "0",
                                         "--log", "stdout", "--log-level", "informational"),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            _CHILDREN[process.pid] = process
            record = {"pid": process.pid, "start_time": start_time(process.pid)}
            (self.directory / f"{daemon}.json").write_text(json.dumps(record), encoding="ascii")
            wait_until(f"{daemon} of {self.place} listens", lambda d=daemon, s=socket: self._listens(d, s), START_WITHIN_S)

    def _listens(self, daemon, socket):
        if not self.pid(daemon):
            text = (self.directory / f"{daemon}.log").read_text(errors="replace")
            raise LabError(f"{daemon} of {self.place} ended at start: {text[-800:]}")
        return socket.exists()

    def pid(self, daemon):
        """Process id of a running daemon, or None."""
        try:
            record = json.loads((self.directory / f"{daemon}.json").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        child = _CHILDREN.get(record["pid"])
        if child is not None and child.poll() is not None:
            return None
        return record["pid"] if start_time(record["pid"]) == record["start_time"] else None

    def kill(self):
        """kill -9 of all its daemons; their routes stay in the kernel, as those of a machine whose daemons crashed do."""
        for daemon in self.daemons:
            if pid := self.pid(daemon):
                os.kill(pid, signal.SIGKILL)
                wait_until(f"{daemon} of {self.place} ends", lambda d=daemon: not self.pid(d), END_WITHIN_S)

    def tell(self, *commands, within_s=20):
        """Commands of the operator, in order, to every daemon that takes them; returns what they printed."""
        words = [word for command in commands for word in ("-c", command)]
        return run(*self.topology.inside(self.place, "vtysh", "--vty_socket", self.directory, *words), within_s=within_s)

    def configure(self, *lines):
        """Lines of configuration."""
        return self.tell("configure terminal", *lines)

    def ways(self, prefix):
        """The gateways that the kernel of this place sends packets to `prefix` by."""
        shown = run("ip", "-n", self.topology.namespace(self.place), "-j", "route", "show", prefix)
        hops = [hop for route in json.loads(shown or "[]") for hop in route.get("nexthops", [route])]
        return sorted(hop["gateway"] for hop in hops if "gateway" in hop)


# Daemons started by this very process have to be reaped by it.
_CHILDREN = {}
