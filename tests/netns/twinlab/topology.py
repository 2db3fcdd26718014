"""Namespaces, links, addresses and kernel filters of the lab.

            client                    fabric                     server
        100.64.1.1 … .N    lan bridge          wan bridge       192.0.2.10
        fd00:64::1:1 …   lanc lan1 lan2      wan1 wan2 wans     fd00:c0::10
             |             |    |    \\      /    |     |            |
             +-------------+    |     node2      |     +------------+
                                node1 ── sync bridge ── node2

Born by `up`, gone by `down`; every interface lives in a namespace of the lab, bridges too: in the root namespace
a container engine may filter bridged frames. A cable is pulled at its fabric end, so the node's own interface
only loses its carrier and keeps its addresses, as it would in a rack.

Where the lab is routed, two upstream routers stand between the nodes and the server, and every path to and from it is what
routing daemons have agreed upon (`routers.py`):

       node1 node2 ── wan bridge ──┬── up1 ──┬── core bridge ── server
         192.0.2.2 .3              └── up2 ──┘   198.18.0.10, and 203.0.113.10 behind it

The nodes' kernels own an address on each side (to resolve neighbours with) and nothing else: forwarding is off,
and an ingress filter shows them ARP, IPv6 neighbour discovery and VRRP only. Packet sockets see frames before it.

Where the lab has taps, the filter shows them nothing at all: the cables end at `card-lan0` and `card-wan0`, which stand for
cards with a driver of the data process's, and lan0 and wan0 are the kernel interfaces by which it hands over what is the
kernel's.
"""

import json
import os
import signal
import time

from .shell import LabError, in_namespace, run, wait_until

CLIENT_NET = "100.64.0.0/16"
LAN_GATEWAY, LAN_GATEWAY6 = "100.64.0.1", "fd00:64::1"
WAN_GATEWAY, WAN_GATEWAY6 = "192.0.2.1", "fd00:c0::1"
SERVER, SERVER6 = "192.0.2.10", "fd00:c0::10"
# A second address behind the server: reached only by a route that a test gives the nodes' kernels.
SERVER_FAR, SERVER_FAR_NET = "203.0.113.10", "203.0.113.0/24"
POOL_NET = "198.51.100.0/28"

# fabric port -> (bridge, namespace, interface there, MAC address there)
CABLES = {
    "lanc": ("lan", "client", "lan0", "02:00:64:00:00:10"),
    "lan1": ("lan", "node1", "lan0", "02:00:64:00:00:02"),
    "lan2": ("lan", "node2", "lan0", "02:00:64:00:00:03"),
    "wans": ("wan", "server", "wan0", "02:00:c0:00:00:10"),
    "wan1": ("wan", "node1", "wan0", "02:00:c0:00:00:02"),
    "wan2": ("wan", "node2", "wan0", "02:00:c0:00:00:03"),
    "sync1": ("sync", "node1", "sync0", "02:00:96:00:00:01"),
    "sync2": ("sync", "node2", "sync0", "02:00:96:00:00:02"),
}
BRIDGES = ("lan", "wan", "sync")
# Where the nodes have a second sync link.
SECOND_CABLES = {
    "second1": ("second", "node1", "sync1", "02:00:97:00:00:01"),
    "second2": ("second", "node2", "sync1", "02:00:97:00:00:02"),
}
SECOND_ADDRESSES = {"node1": "10.151.0.1", "node2": "10.151.0.2"}
CARRIES_WITHIN_S = 30
PLACES = ("client", "node1", "node2", "server", "fabric")

# What a routed lab has besides, or instead.
ROUTERS = ("up1", "up2")
ROUTED_CABLES = CABLES | {
    "wans": ("core", "server", "wan0", "02:00:c0:00:00:10"),
    "wanu1": ("wan", "up1", "wan0", "02:00:c0:00:00:21"),
    "wanu2": ("wan", "up2", "wan0", "02:00:c0:00:00:22"),
    "core1": ("core", "up1", "core0", "02:00:c6:00:00:21"),
    "core2": ("core", "up2", "core0", "02:00:c6:00:00:22"),
}
SERVER_CORE = "198.18.0.10"
ROUTER_ADDRESSES = {
    "up1": {"wan0": "192.0.2.21", "core0": "198.18.0.21"},
    "up2": {"wan0": "192.0.2.22", "core0": "198.18.0.22"},
}

NODE_ADDRESSES = {
    "node1": {"lan0": ("100.64.0.2/16", "fd00:64::2/64"), "wan0": ("192.0.2.2/24", "fd00:c0::2/64"),
              "sync0": ("10.150.0.1/24", "fd00:150::1/64")},
    "node2": {"lan0": ("100.64.0.3/16", "fd00:64::3/64"), "wan0": ("192.0.2.3/24", "fd00:c0::3/64"),
              "sync0": ("10.150.0.2/24", "fd00:150::2/64")},
}

# Settings of a namespace that has an IP stack. Duplicate address detection would leave IPv6 unusable for a second.
SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.all.accept_ra": 0, "net.ipv6.conf.default.accept_ra": 0,
    "net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0,
    # Answer ARP only for addresses of the interface that was asked: not for the sync address on the LAN.
    "net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2,
}

NODE_FILTER = """
table netdev twinpath {
    counter lan0_user { }
    counter wan0_user { }
    chain lan0 {
        type filter hook ingress device "lan0" priority -500; policy accept;
        ether type arp accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        meta l4proto 112 accept
        counter name "lan0_user" drop
    }
    chain wan0 {
        type filter hook ingress device "wan0" priority -500; policy accept;
        ether type arp accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        meta l4proto 112 accept
        counter name "wan0_user" drop
    }
}
"""
CARD_FILTER = """
table netdev twinpath {
    counter lan0_user { }
    counter wan0_user { }
    chain lan0 {
        type filter hook ingress device "card-lan0" priority -500; policy accept;
        counter name "lan0_user" drop
    }
    chain wan0 {
        type filter hook ingress device "card-wan0" priority -500; policy accept;
        counter name "wan0_user" drop
    }
}
"""
# The routing daemons' own packets, to the node's own address or to OSPF's routers; nothing that a subscriber could send.
ROUTED_FILTER = """
insert rule netdev twinpath wan0 ip saddr {{ {routers} }} ip daddr {own} tcp sport 179 accept
insert rule netdev twinpath wan0 ip saddr {{ {routers} }} ip daddr {own} tcp dport 179 accept
insert rule netdev twinpath wan0 ip saddr 192.0.2.0/24 ip daddr {{ {own}, 224.0.0.5, 224.0.0.6 }} meta l4proto 89 accept
"""


def end_of_cable(interface, taps):
    """Name of a node's end of its LAN or WAN cable."""
    return f"card-{interface}" if taps else interface


def client_addresses(count):
    """The client's IPv4 addresses, 250 to a /24: 100.64.1.1, 100.64.1.2, …"""
    return [f"100.64.{1 + i // 250}.{1 + i % 250}" for i in range(count)]


def client_addresses6(count):
    """The client's IPv6 addresses, as many as IPv4 ones."""
    return [f"fd00:64::1:{i + 1:x}" for i in range(count)]


# Where bridged frames are shown to the kernel's packet filter (a container engine wants that), it drops broken ones.
BRIDGE_FILTERS = """
for file in /proc/sys/net/bridge/bridge-nf-call-*; do
    if [ -e "$file" ]; then echo 0 > "$file"; fi
done
"""


class Topology:
    """The network of one lab. Holds no state of its own: the kernel's is the truth."""

    def __init__(self, lab_id):
        self.lab_id = lab_id

    def namespace(self, place):
        """Name of the namespace of a place (`client`, `node1`, …)."""
        if place not in (*PLACES, *ROUTERS):
            raise LabError(f"no namespace {place!r}: there are {', '.join((*PLACES, *ROUTERS))}")
        return f"{self.lab_id}-{place}"

    @property
    def cables(self):
        """Every cable of this lab."""
        cables = ROUTED_CABLES if os.path.exists(f"/run/netns/{self.namespace(ROUTERS[0])}") else CABLES
        if self.has_taps():
            cables = self._to_cards(cables)
        return cables | SECOND_CABLES if "second1" in self._interfaces("fabric") else cables

    def has_taps(self):
        """Whether the nodes' cables end at cards of which their kernels see nothing."""
        return end_of_cable("lan0", True) in self._interfaces("node1")

    @staticmethod
    def _to_cards(cables):
        """The same cables with the nodes' ends named as cards."""
        def card(bridge, place, interface, mac):
            ported = bridge in ("lan", "wan") and place in NODE_ADDRESSES
            return (bridge, place, end_of_cable(interface, ported), mac)
        return {port: card(*cable) for port, cable in cables.items()}

    def inside(self, place, *words):
        """The words of a command that runs `words` at a place."""
        return in_namespace(self.namespace(place), *words)

    # -- birth

    def up(self, clients, pool_on_link=True, routed=False, second_sync=False, taps=False):
        """Creates everything. `clients` is the number of client addresses per family."""
        for place in (*PLACES, *ROUTERS) if routed else PLACES:
            run("ip", "netns", "add", self.namespace(place))
            self._sysctl(place, {"net.ipv6.conf.all.disable_ipv6": 1} if place == "fabric" else SYSCTLS)
            self.ip(place, ["link set lo up"])
        cables = (ROUTED_CABLES if routed else CABLES) | (SECOND_CABLES if second_sync else {})
        cables = self._to_cards(cables) if taps else cables
        bridges = dict.fromkeys(cable[0] for cable in cables.values())
        run(*in_namespace(self.namespace("fabric"), "sh", "-e", "-c", BRIDGE_FILTERS))
        self.ip("fabric", [f"link add {bridge} type bridge stp_state 0 mcast_snooping 0" for bridge in bridges]
                 + [f"link set {bridge} up" for bridge in bridges])
        for port, cable in cables.items():
            self.plug(port, *cable)
        self.wait_carrying(cables)
        for node, interfaces in NODE_ADDRESSES.items():
            if taps:
                self._make_taps(node)
            for interface in interfaces:
                self.address(node, interface)
            run(*in_namespace(self.namespace(node), "nft", "-f", "-"), stdin=CARD_FILTER if taps else NODE_FILTER)
        for node, address in SECOND_ADDRESSES.items() if second_sync else ():
            self.ip(node, [f"addr add {address}/24 dev sync1"])
        self._address_client(clients)
        if routed:
            self._address_routed()
        else:
            self._address_server(pool_on_link)

    def plug(self, port, bridge, place, interface, mac):
        """Lays a cable from a bridge to a place."""
        run("ip", "-n", self.namespace("fabric"), "link", "add", port, "type", "veth",
            "peer", "name", interface, "address", mac, "netns", self.namespace(place))
        self.ip("fabric", [f"link set {port} master {bridge}", f"link set {port} up"])
        self.ip(place, [f"link set {interface} up"])
        if place in ("client", "server", *ROUTERS):
            # A packet socket hands over what the sender left for hardware to do: full checksums, real frames.
            run(*in_namespace(self.namespace(place), "ethtool", "-K", interface,
                              "tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"))

    def unplug(self, cable):
        """Deletes a cable with the interfaces at both ends, as a card that is taken out."""
        self.ip("fabric", [f"link delete {cable}"])

    def plug_again(self, cable, mac):
        """Another card in the same place: the interface has its name and addresses, and a MAC address of its own."""
        bridge, node, interface, _ = self.cables[cable]
        self.plug(cable, bridge, node, interface, mac)
        self.wait_carrying({cable: self.cables[cable]})
        self.address(node, interface)
        # The filter of an interface has gone with it.
        run(*self.inside(node, "nft", "flush", "ruleset"))
        run(*self.inside(node, "nft", "-f", "-"), stdin=NODE_FILTER)

    def _make_taps(self, node):
        """As the data process would: it takes over what is there, and what is there can be given addresses before it runs."""
        for interface in ("lan0", "wan0"):
            card = end_of_cable(interface, True)
            self._sysctl(node, {f"net.ipv6.conf.{card}.disable_ipv6": 1})
            run(*self.inside(node, "ip", "tuntap", "add", "dev", interface, "mode", "tap", "multi_queue"))
            self._sysctl(node, {f"net.ipv6.conf.{interface}.keep_addr_on_down": 1})
            self.ip(node, [f"link set {card} arp off", f"link set {interface} up"])

    def address(self, node, interface):
        """Gives an interface of a node its addresses."""
        self.ip(node, [f"addr add {address} dev {interface}" + (" nodad" if ":" in address else "")
                       for address in NODE_ADDRESSES[node][interface]])

    def _address_client(self, count):
        lines = [f"addr add {address}/16 dev lan0" for address in client_addresses(count)]
        lines += [f"addr add {address}/64 dev lan0 nodad" for address in client_addresses6(count)]
        lines += [f"route add default via {LAN_GATEWAY} dev lan0", f"route add default via {LAN_GATEWAY6} dev lan0"]
        self.ip("client", lines)

    def _address_server(self, pool_on_link):
        pool = f"route add {POOL_NET} " + ("dev wan0" if pool_on_link else f"via {WAN_GATEWAY}")
        self.ip("server", [f"addr add {SERVER}/24 dev wan0", f"addr add {SERVER6}/64 dev wan0 nodad",
                            f"addr add {SERVER_FAR}/32 dev lo", pool,
                            f"route add fd00:64::/64 via {WAN_GATEWAY6}"])

    def _address_routed(self):
        """Addresses only: the ways are the routing daemons' to find."""
        self.ip("server", [f"addr add {SERVER_CORE}/24 dev wan0", f"addr add {SERVER_FAR}/32 dev lo"])
        for place, addresses in ROUTER_ADDRESSES.items():
            self._sysctl(place, {"net.ipv4.ip_forward": 1})
            self.ip(place, [f"addr add {address}/24 dev {interface}" for interface, address in addresses.items()])
        if self.has_taps():
            return
        routers = ", ".join(addresses["wan0"] for addresses in ROUTER_ADDRESSES.values())
        for node, addresses in NODE_ADDRESSES.items():
            rules = ROUTED_FILTER.format(routers=routers, own=addresses["wan0"][0].split("/")[0])
            run(*in_namespace(self.namespace(node), "nft", "-f", "-"), stdin=rules)

    def _sysctl(self, place, values):
        script = "\n".join(f"echo {value} > /proc/sys/{name.replace('.', '/')}" for name, value in values.items())
        run(*in_namespace(self.namespace(place), "sh", "-e", "-c", script))

    def ip(self, place, lines):
        """Runs lines of `ip -batch` at a place."""
        run("ip", "-n", self.namespace(place), "-batch", "-", stdin="\n".join(lines) + "\n")

    # -- death

    def down(self):
        """Ends every process in the lab's namespaces, then removes them. Nothing to remove is no error."""
        mine = [self.namespace(place) for place in (*PLACES, *ROUTERS)]
        present = [name for name in mine if os.path.exists(f"/run/netns/{name}")]
        self._end_processes(present)
        for name in present:
            run("ip", "netns", "delete", name, check=False)
        left = [name for name in mine if os.path.exists(f"/run/netns/{name}")]
        if left:
            raise LabError(f"could not remove namespaces {', '.join(left)}")

    @staticmethod
    def _end_processes(namespaces):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            pids = [int(pid) for name in namespaces for pid in run("ip", "netns", "pids", name, check=False).split()]
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        raise LabError("processes in the lab's namespaces survive SIGKILL")

    # -- weather

    def ports_of(self, link):
        """Fabric ports meant by a link name: a bridge (`lan`: all its cables) or one cable (`lan1`)."""
        if link in self.cables:
            return [link]
        ports = [port for port, cable in self.cables.items() if cable[0] == link]
        if not ports:
            raise LabError(f"no link {link!r}: there are {', '.join((*BRIDGES, *self.cables))}")
        return ports

    def cut(self, link, silent=False, ways=("ingress", "egress")):
        """Takes a link away: carrier gone at both ends, or, silently, every frame lost: `ingress` those that come out of the
        node at the end of the cable, `egress` those that go to it."""
        if silent:
            self.silence([link], ways)
            return
        for port in self.ports_of(link):
            self.ip("fabric", [f"link set {port} down"])

    def silence(self, links, ways=("ingress", "egress")):
        """Cuts several links silently, at one moment: as a node does that loses its power."""
        tables = []
        for port in (port for link in links for port in self.ports_of(link)):
            chains = [f" chain {hook} {{ type filter hook {hook} device \"{port}\" priority 0; policy drop; }}\n"
                      for hook in ways]
            tables.append(f"table netdev cut_{port} {{\n{''.join(chains)}}}\n")
        run(*in_namespace(self.namespace("fabric"), "nft", "-f", "-"), stdin="".join(tables))

    def heal(self, link):
        """Undoes both kinds of cut; frames cross the cables again when it returns."""
        ports = self.ports_of(link)
        for port in ports:
            run(*in_namespace(self.namespace("fabric"), "nft", "delete", "table", "netdev", f"cut_{port}"),
                check=False)
            self.ip("fabric", [f"link set {port} up"])
        self.wait_carrying({port: self.cables[port] for port in ports})

    def wait_carrying(self, cables):
        """Waits until frames cross these cables: a kernel may take a link into use a second after its carrier has come."""
        def probe():
            ends = {place: self._interfaces(place) for place in ("fabric", *(cable[1] for cable in cables.values()))}
            for port, (bridge, place, interface, _) in cables.items():
                state = ends["fabric"][port]["linkinfo"]["info_slave_data"]["state"]
                if state != "forwarding":
                    raise LabError(f"{port} is {state} at bridge {bridge}")
                if ends[place][interface]["operstate"] != "UP":
                    raise LabError(f"{interface} of {place} is {ends[place][interface]['operstate']}")
            return True
        wait_until(f"frames cross {', '.join(cables)}", probe, CARRIES_WITHIN_S)

    def _interfaces(self, place):
        """What the kernel says about each interface of a place."""
        shown = json.loads(run("ip", "-n", self.namespace(place), "-d", "-j", "link", "show"))
        return {link["ifname"]: link for link in shown}

    def forget_kernel(self, node):
        """What a node's kernel loses with its power: here it goes on, and would answer for what keepalived gave it."""
        own = {address for addresses in NODE_ADDRESSES[node].values() for address in addresses}
        for link in json.loads(run("ip", "-n", self.namespace(node), "-j", "addr", "show")):
            name = link["ifname"]
            if link.get("link") and name not in NODE_ADDRESSES[node] and not name.startswith("card-"):
                self.ip(node, [f"link delete {name}"])
                continue
            given = [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]] if name in NODE_ADDRESSES[node] else []
            link_local = [text for text in given if text.startswith("fe80::") and text != "fe80::200:5eff:fe00:233/64"]
            self.ip(node, [f"addr delete {text} dev {name}" for text in given
                            if text not in own and text not in link_local])

    # -- what the kernels say

    def links(self):
        """State of every cable: up, down or silent."""
        up = {name: "LOWER_UP" in link["flags"] for name, link in self._interfaces("fabric").items()}
        tables = run(*in_namespace(self.namespace("fabric"), "nft", "list", "tables"))
        return {port: "silent" if f"cut_{port}" in tables.split() else ("up" if up.get(port) else "down")
                for port in self.cables}

    def kernel_forwarded(self, node):
        """Packets that the node's kernel has forwarded itself, IPv4 and IPv6 together. Must stay 0."""
        text = run(*self.inside(node, "cat", "/proc/net/snmp", "/proc/net/snmp6"))
        rows = [line.split() for line in text.splitlines()]
        names, values = [row[1:] for row in rows if row[0] == "Ip:"]
        ipv4 = int(dict(zip(names, values))["ForwDatagrams"])
        ipv6 = sum(int(row[1]) for row in rows if row[0] == "Ip6OutForwDatagrams")
        return ipv4 + ipv6

    def kernel_filtered(self, node):
        """User frames that the ingress filter kept from the node's kernel, by interface."""
        shown = json.loads(run(*self.inside(node, "nft", "-j", "list", "counters")))
        counters = [entry["counter"] for entry in shown["nftables"] if "counter" in entry]
        return {counter["name"].removesuffix("_user"): counter["packets"] for counter in counters}
