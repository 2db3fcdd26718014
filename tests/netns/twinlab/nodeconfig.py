"""The TOML of a lab node: one template, and knobs for everything a scenario turns.

A knob is set for both nodes (`workers=4`) or for one (`node2.workers=1`). Both files of a pair differ only where
two real boxes differ: name, id, own addresses, preferred role, threads.
"""

from dataclasses import dataclass, fields, replace

from .shell import LabError
from .topology import (LAN_GATEWAY, LAN_GATEWAY6, NODE_ADDRESSES, SECOND_ADDRESSES, WAN_GATEWAY, WAN_GATEWAY6,
                       end_of_cable)

SYNC_PORT = 7610
VRID = 51
# Adverts of 10 ms on cores that build and test at the same time: without it, a late advert is a dead master.
REALTIME_PRIORITY = 50


@dataclass(frozen=True)
class Knobs:
    """What may differ from lab to lab. Names are those of the configuration file where there is one."""

    workers: int = 2
    event_threads: int = 2
    rx_queues: int = 0  # 0: as many as workers
    idle: str = "adaptive"
    memory_mb: int = 128
    mbufs: int = 16384
    conntracks_max: int = 65536
    conntracks_start: int = 0  # 0: conntracks_max
    delta_ring_entries: int = 4096
    slots: int = 256
    sync_family: int = 4
    second_sync: bool = False  # another sync link; of the whole lab
    security: str = "none"  # or "tls": each node then gets a key pair
    ha: str = "static"  # or "vrrp": a keepalived in each node, which decides
    state: str = ""  # empty: node1 master, node2 backup; static only
    priority: int = 0  # 0: node1 150, node2 100
    preempt: bool = False
    advert_interval_ms: int = 10
    virtual_mac: bool = False
    boot_wait_ms: int = 3000
    dead_after_ms: int = 1000
    node_id: int = 0  # 0: node1 1, node2 2
    announce_pools: bool = False
    pool: str = "198.51.100.1-198.51.100.14"
    ports: str = "1024-65535"
    block_size: int = 512
    blocks_per_subscriber_max: int = 4
    port_rest_s: int = 120
    block_idle_s: int = 60
    filtering: str = "endpoint-dependent"
    sync: str = "always"  # of IPv4 flows from inside
    standby: str = "drop"  # or "redirect"
    output_commit: str = "off"
    output_commit_timeout_ms: int = 20
    tcp_window_check: bool = True
    flow_counters: bool = True
    udp_established_s: int = 300
    framecnt: int = 8192
    level: str = "info"
    exception: str = "none"  # or "tap": the cables end at cards that only the data process sees; of the whole lab
    routing: str = "static"  # or "bgp", "ospf": routing daemons find the ways; of the whole lab

    def with_settings(self, settings):
        """A copy with `{"workers": "4"}` applied; unknown names and bad numbers are the user's mistake."""
        known = {field.name: type(field.default) for field in fields(self)}
        changes = {}
        for name, text in settings.items():
            if name not in known:
                raise LabError(f"no knob {name!r}: there are {', '.join(sorted(known))}")
            try:
                changes[name] = text in ("1", "true", "True") if known[name] is bool else known[name](text)
            except ValueError as error:
                raise LabError(f"knob {name}: {text!r} is not a number") from error
        return replace(self, **changes)


def knobs_of_nodes(settings):
    """Knobs per node from words like `workers=4` and `node2.workers=1`."""
    chosen = {node: {} for node in NODE_ADDRESSES}
    for word in settings:
        name, equals, value = word.partition("=")
        node, dot, rest = name.partition(".")
        if not equals or (dot and node not in chosen):
            raise LabError(f"{word!r} is not KNOB=VALUE or node1.KNOB=VALUE")
        for target in [node] if dot else chosen:
            chosen[target][rest if dot else name] = value
    return {node: Knobs().with_settings(values) for node, values in chosen.items()}


def sync_addresses(node, family):
    """Own and peer's sync address."""
    other = "node2" if node == "node1" else "node1"
    index = 0 if family == 4 else 1
    return tuple(NODE_ADDRESSES[which]["sync0"][index].split("/")[0] for which in (node, other))


def second_link(node):
    """What the file says of it: of the peer, and of [sync]."""
    other = "node2" if node == "node1" else "node1"
    return (f'second_source = "{SECOND_ADDRESSES[node]}"\nsecond_address = "{SECOND_ADDRESSES[other]}"\n',
            'second_interface = "sync1"\n')


def device(index, interface, knobs, queues):
    """The vdev of a port. The rings are as large as they are because bursts overran the default ones."""
    below = end_of_cable(interface, knobs.exception == "tap")
    return (f"net_af_packet{index},iface={below},blocksz=65536,framesz=2048,framecnt={knobs.framecnt},"
            f"qpairs={queues}")


def driver(node, knobs):
    """Who decides about the group: the line or table of its `[[ha_group]]`."""
    if knobs.ha == "static":
        return f'state = "{knobs.state or ("master" if node == "node1" else "backup")}"'
    if knobs.ha != "vrrp":
        raise LabError(f"ha={knobs.ha}: use static or vrrp")
    priority = knobs.priority or (150 if node == "node1" else 100)
    return (f"vrrp = {{ vrid = {VRID}, priority = {priority}, preempt = {str(knobs.preempt).lower()}, "
            f"advert_interval_ms = {knobs.advert_interval_ms}, virtual_mac = {str(knobs.virtual_mac).lower()} }}")


def keepalived(knobs, directory):
    """Where the node's keepalived is to be found, when there is one."""
    if knobs.ha == "static":
        return ""
    return f"""
[keepalived]
pid_file = "{directory}/keepalived.id"
state_file = "{directory}/tmp/keepalived.json"
realtime_priority = {REALTIME_PRIORITY}
"""


def toml(node, name, knobs, syslog, private_key=None, public_keys=(), directory=None):
    """The configuration of `node` (`node1` or `node2`), which is called `name` on this machine. The private key is
    its own one's file, the public keys are those its peer may have;
    `directory` is the lab's for this node."""
    listed = ", ".join(f'"{key}"' for key in public_keys)
    peer_keys = f"public_keys = [{listed}]\n" if public_keys else ""
    own_key = f'private_key = "{private_key}"\n' if private_key else ""
    queues = knobs.rx_queues or knobs.workers
    source, address = sync_addresses(node, knobs.sync_family)
    second_ends, second_interface = second_link(node) if knobs.second_sync else ("", "")
    return f"""\
# A lab node. Written by the lab; see the project's README for what each key means.
[node]
name = "{name}"
id = {knobs.node_id or (1 if node == "node1" else 2)}

[dataplane]
workers = {knobs.workers}
event_threads = {knobs.event_threads}
idle = "{knobs.idle}"
memory_mb = {knobs.memory_mb}
hugepages = "auto"
mbufs = {knobs.mbufs}
conntracks_max = {knobs.conntracks_max}
conntracks_start = {knobs.conntracks_start or knobs.conntracks_max}
delta_ring_entries = {knobs.delta_ring_entries}

[[port]]
name = "lan0"
device = "{device(0, "lan0", knobs, queues)}"
rx_queues = {queues}
kernel_interface = "lan0"
exception = "{knobs.exception}"

[[port]]
name = "wan0"
device = "{device(1, "wan0", knobs, queues)}"
rx_queues = {queues}
kernel_interface = "wan0"
exception = "{knobs.exception}"

[[interface]]
name = "lan"
port = "lan0"
vrf = "main"

[[interface]]
name = "wan"
port = "wan0"
vrf = "main"

[[vrf]]
name = "main"
slots = {knobs.slots}
inside = ["100.64.0.0/10", "fd00:64::/64"]
tcp_window_check = {str(knobs.tcp_window_check).lower()}
flow_counters = {str(knobs.flow_counters).lower()}
announce_pools = {str(knobs.announce_pools).lower()}
standby = "{knobs.standby}"
output_commit = "{knobs.output_commit}"
output_commit_timeout_ms = {knobs.output_commit_timeout_ms}

[vrf.timeouts]
udp_established_s = {knobs.udp_established_s}

[vrf.firewall]
default = "drop"

[[vrf.firewall.rule]]
id = 10
inbound = "lan"
outbound = "wan"
source = ["100.64.0.0/10"]
action = "accept"
sync = "{knobs.sync}"

[[vrf.firewall.rule]]
id = 20
inbound = "lan"
outbound = "wan"
source = ["fd00:64::/64"]
action = "accept"

[[vrf.firewall.rule]]
id = 30
inbound = "wan"
outbound = "lan"
destination = ["fd00:64::/64"]
protocol = "tcp"
destination_ports = ["7000"]
action = "accept"

[[vrf.cg_nat.pool]]
name = "public"
addresses = ["{knobs.pool}"]
ports = "{knobs.ports}"
block_size = {knobs.block_size}
blocks_per_subscriber_max = {knobs.blocks_per_subscriber_max}
port_rest_s = {knobs.port_rest_s}
block_idle_s = {knobs.block_idle_s}
filtering = "{knobs.filtering}"

[[vrf.cg_nat.rule]]
id = 1
outbound = "wan"
source = ["100.64.0.0/10"]
pool = "public"

[vrf.ha_fp_conntrack]
listen_ha_group = "group1"

[[vrf.ha_fp_conntrack.peer]]
name = "peer1"
source = "{source}"
address = "{address}"
{second_ends}{peer_keys}
[[ha_group]]
name = "group1"
{driver(node, knobs)}
virtual_addresses = [
    {{ interface = "lan", address = "{LAN_GATEWAY}" }},
    {{ interface = "lan", address = "{LAN_GATEWAY6}" }},
    {{ interface = "wan", address = "{WAN_GATEWAY}" }},
    {{ interface = "wan", address = "{WAN_GATEWAY6}" }},
]

{keepalived(knobs, directory)}
[sync]
interface = "sync0"
{second_interface}port = {SYNC_PORT}
security = "{knobs.security}"
{own_key}boot_wait_ms = {knobs.boot_wait_ms}
dead_after_ms = {knobs.dead_after_ms}

[log]
syslog = "{syslog}"
level = "{knobs.level}"
"""
