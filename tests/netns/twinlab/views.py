"""What the operator's command says, as the scenarios need it. The only place that knows the shapes of its JSON."""

import json
from collections import Counter

from .node import HA_GROUP, VRF
from .shell import LabError, run

# The fields of a conntrack that both nodes must show alike. Owner, worker and remaining lifetime are each node's own.
SAME_FIELDS = ("protocol", "state", "vrf", "reply_vrf", "original", "reply", "nat", "slot", "term", "counter")
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}


def _rows(answer):
    """The rows of an answer that may be one page of a longer list."""
    if isinstance(answer, dict) and "rows" in answer:
        if answer.get("next") is not None:
            raise LabError("twinpathctl returned only a part of the list")
        return answer["rows"]
    return answer


def role(node):
    """Role of the VRF on this node: init, backup, master or fault."""
    for group in node.ctl("show", "ha-group"):
        if group["name"] == HA_GROUP:
            return {row["vrf"]: row["role"] for row in group["vrfs"]}.get(VRF, "init")
    raise LabError(f"{node.name} knows no HA group {HA_GROUP}")


def group(node, name=HA_GROUP):
    """The HA group as its node shows it."""
    return next(row for row in node.ctl("show", "ha-group") if row["name"] == name)


def peer(node):
    """The report about the one peer of the VRF."""
    report = node.ctl("show", "ha-fp-conntrack", "peer", "vrf", VRF)
    if len(report["peers"]) != 1:
        raise LabError(f"{node.name} has {len(report['peers'])} peers")
    return report["peers"][0]


def lanes_up(node, event_threads):
    """Whether every event thread's connection is established."""
    clients = peer(node)["clients"]
    return len(clients) == event_threads and all(c["connection_status"] == "established" for c in clients)


def lanes_down(node):
    """Whether no connection to the peer is established."""
    return all(client["connection_status"] != "established" for client in peer(node)["clients"])


def lane_links(node):
    """Of each lane to the peer whether it is up, the link it is or was on, and how often that has changed."""
    rows = node.ctl("show", "sync")["lanes"]
    return [(row["status"] == "established", row["link"], row["link_changes"]) for row in rows]


def in_sync(node):
    """Whether every slot towards the peer is verified and streaming (asked of the active node)."""
    slots = peer(node)["slots"]
    return slots["total"] > 0 and slots["in_sync"] == slots["total"]


def records_per_lane(node):
    """Records sent on each lane."""
    return {client["name"]: client["transmit"] for client in peer(node)["clients"]}


def packets_per_worker(node):
    """Packets each worker has received or taken over from another."""
    answer = {}
    for row in _rows(node.ctl("show", "worker")):
        counters = {count["name"]: count["value"] for count in row["counters"]}
        answer[f"worker{row['worker']}"] = counters["rx_packets"] + counters["handoff_in"]
    return answer


def packets_per_queue(node):
    """Packets received on each queue of each port, as the worker that polls it has counted."""
    return {(row["name"], queue): found["packets"] for row in _rows(node.ctl("show", "port"))
            for queue, found in enumerate(row["rx"])}


def counted(node, name):
    """A counter of the event threads, summed."""
    return sum(count["value"] for row in node.ctl("show", "event") for count in row["counters"]
               if count["name"] == name)


def worker_counters(node):
    """Counters of all workers, summed by name."""
    total = Counter()
    for row in _rows(node.ctl("show", "worker")):
        total.update({count["name"]: count["value"] for count in row["counters"]})
    return total


def protection(node):
    """Flows of the VRF, those that a failover would keep, and the others by reason."""
    row = {row["vrf"]: row for row in node.ctl("show", "protection")}[VRF]
    return {"flows": row["flows"], "protected": row["protected"],
            **{count["name"]: count["value"] for count in row["unprotected"]}}


def event_rows(node, kind):
    """The events of one kind, oldest first."""
    lines = run(*node.ctl_words("events", "--json")).splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def events(node, kind):
    """Their texts."""
    return [row["text"] for row in event_rows(node, kind)]


def drops(node):
    """Dropped packets by reason."""
    return {row["reason"]: row["packets"] for row in _rows(node.ctl("show", "drops"))}


def conntracks(node):
    """All conntracks of the VRF as rows."""
    return _rows(node.ctl("show", "conntrack", "vrf", VRF))


def _key(row):
    def flat(t):
        return (t["src"], t["src_port"], t["dst"], t["dst_port"])
    return (row["protocol"], *flat(row["original"]), *flat(row["reply"]))


def entries(node):
    """Conntracks as a map from their tuples to the fields both nodes share."""
    return {_key(row): {field: row[field] for field in SAME_FIELDS} for row in conntracks(node)}


def difference(one, other, most=5):
    """What differs between two `entries`, as lines; none when they are equal."""
    lines = [f"only on the first: {key}" for key in one.keys() - other.keys()]
    lines += [f"only on the second: {key}" for key in other.keys() - one.keys()]
    lines += [f"differs: {key}: {one[key]} and {other[key]}" for key in one.keys() & other.keys()
              if one[key] != other[key]]
    return lines[:most] + ([f"… {len(lines)} differences"] if len(lines) > most else [])


def summary(node):
    """Conntracks by protocol and state."""
    return Counter(f"{PROTOCOLS.get(row['protocol'], row['protocol'])} {row['state']}" for row in conntracks(node))


def blocks(node):
    """Granted port blocks."""
    return _rows(node.ctl("show", "cg-nat", "blocks", "vrf", VRF))


def public_tuples(node):
    """(protocol, public address, public port) -> set of inside (address, port), from the conntracks."""
    owners = {}
    for row in conntracks(node):
        if row["nat"] is not None:
            public = (row["protocol"], row["reply"]["dst"], row["reply"]["dst_port"])
            owners.setdefault(public, set()).add((row["original"]["src"], row["original"]["src_port"]))
    return owners
