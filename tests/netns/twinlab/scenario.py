"""Conditions that the demo and the tests wait for, and the checks they share."""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager

from . import views
from .node import VRF, DaemonEnded
from .lab import Lab
from .nodeconfig import knobs_of_nodes
from .shell import LabError, run, wait_until

# What is waited for takes a second or two where nothing else runs: these are for slow machines, and cost others nothing.
PAIR_WITHIN_S = 60
SYNC_WITHIN_S = 60
ELECTED_WITHIN_S = 60
RECOVER_S = 30
# What is asked of each node when a scenario has failed.
LAST_QUESTIONS = (("show", "ha-group"), ("show", "sync"), ("show", "ha-fp-conntrack", "peer", "vrf", VRF),
                  ("events",))


class Interrupted(Exception):
    """The user, or the system, wants an end."""


def catch_signals():
    """Turns INT, TERM and HUP into an exception, also where the shell had them ignored."""
    def interrupt(number, _frame):
        raise Interrupted(signal.Signals(number).name)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def measured(measure, report, output):
    """Runs `measure`, then writes what `report` has to tell as JSON to a file, or without one to standard output: also when
    it was not all. Returns the program's exit code."""
    code = 0
    try:
        catch_signals()
        measure()
    except (LabError, DaemonEnded) as error:
        print(f"failed: {error}", file=sys.stderr)
        code = 1
    except Interrupted as name:
        print(f"interrupted by {name}", file=sys.stderr)
        code = 130
    text = json.dumps(report())
    if output:
        output.write_text(text + "\n", encoding="ascii")
    else:
        print(text)
    return code


def ignore_signals():
    """For the clean-up: a second Ctrl-C must not leave half of the lab behind. Returns what was set before."""
    return {number: signal.signal(number, signal.SIG_IGN)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


@contextmanager
def running_lab(lab_id, settings=(), clients=96, bare=False):
    """A lab that is gone afterwards, whatever happened. Its daemons' last words are shown if that was a failure."""
    lab = Lab(lab_id)
    Lab.remove_orphans()
    try:
        lab.up(settings, clients, bare, owner=os.getpid())
        yield lab
    except Interrupted:
        raise
    except BaseException:
        show_last_words(lab)
        raise
    finally:
        handlers = {}
        while lab.built_here:
            try:
                handlers = handlers or ignore_signals()
                lab.down()
                break
            except Interrupted:
                continue  # it came before signals were ignored: the clean-up begins again
        for number, handler in handlers.items():
            signal.signal(number, handler)


def show_last_words(lab):
    """What the nodes say of themselves, and the daemons' last lines, for whoever has to find out why."""
    for node in lab.nodes.values():
        for words in LAST_QUESTIONS:
            print(f"--- {node.name} {' '.join(words)}\n{_said(node, words)}", file=sys.stderr)
        for daemon in ("dataplane", "control", "keepalived"):
            if (node.directory / f"{daemon}.log").exists():
                print(f"--- {node.name} {daemon}\n{node.log_tail(daemon)}", file=sys.stderr)


def _said(node, words):
    """An answer, or why there is none."""
    try:
        return run(*node.ctl_words(*words), within_s=5).rstrip()
    except LabError as error:
        return f"no answer: {error}"


def wait_role(node, role, within_s=RECOVER_S, every_s=0.02):
    """Waits until a node has this role."""
    def probe():
        if (found := views.role(node)) != role:
            raise LabError(f"it is {found}")
        return True
    wait_until(f"{node.place} is {role}", probe, within_s, every_s)


def wait_pair(lab, settings=(), active="node1"):
    """Waits until one node is master, the other backup, and every lane between them is up and in sync."""
    knobs = knobs_of_nodes(settings)
    standby = other(active)
    for place, role in ((active, "master"), (standby, "backup")):
        wait_role(lab.node(place), role, PAIR_WITHIN_S, 0.1)
    for place in (active, standby):
        wait_until(f"every lane of {place} is established",
                   lambda p=place: views.lanes_up(lab.node(p), knobs[p].event_threads), PAIR_WITHIN_S, 0.1)
    wait_in_sync(lab, active)


def wait_elected(lab, active=None):
    """Waits until keepalived's word has made one node master and the other a backup that is ready; returns the places,
    master first."""
    def probe():
        roles = {place: views.role(node) for place, node in lab.nodes.items()}
        if sorted(roles.values()) != ["backup", "master"]:
            raise LabError(f"roles {roles}")
        master = next(place for place, role in roles.items() if role == "master")
        if active not in (None, master):
            raise LabError(f"{master} is master")
        for place in (other(master), master):
            vrrp = views.group(lab.node(place))["vrrp"]
            if vrrp["blocked"]:
                raise LabError(f"blocked: {vrrp}")
        return master, other(master)
    return wait_until(f"a pair, {active or 'either'} active", probe, ELECTED_WITHIN_S, 0.1)


def wait_settled(lab, at_least=1):
    """Waits until one node, whichever it is, is master and stays so, with every slot verified at its peer, and both tables
    are equal; returns the master."""
    def probe():
        roles = {place: views.role(node) for place, node in lab.nodes.items()}
        if sorted(roles.values()) != ["backup", "master"]:
            raise LabError(f"roles {roles}")
        return next(node for place, node in lab.nodes.items() if roles[place] == "master")

    def settled():
        master = probe()
        if not views.in_sync(master):
            raise LabError(f"{master.place} is master, and its peer lacks slots")
        wait_equal(lab, at_least)
        return probe() is master and master
    return wait_until("one node is master, the other has everything", settled, PAIR_WITHIN_S, 0.1)


def wait_in_sync(lab, active):
    """Waits until the active node has every slot verified at its peer."""
    wait_until(f"every slot of {active} is in sync", lambda: views.in_sync(lab.node(active)), SYNC_WITHIN_S, 0.1)


def wait_equal(lab, at_least=1, within_s=SYNC_WITHIN_S):
    """Waits until both tables are equal entry by entry; returns the number of entries."""
    found = {}

    def probe():
        one, other_ = (views.entries(lab.node(place)) for place in ("node1", "node2"))
        lines = views.difference(one, other_)
        if lines:
            raise LabError("; ".join(lines))
        found["entries"] = len(one)
        return len(one) >= at_least

    wait_until(f"both tables hold the same entries, {at_least} or more", probe, within_s, 0.2)
    return found["entries"]


def wait_still(what, count, for_s=2.0, within_s=RECOVER_S):
    """Waits until a count has not moved for a while: what was under way has arrived, and no more comes."""
    last = [count(), time.monotonic()]

    def probe():
        if (found := count()) != last[0]:
            last[:] = found, time.monotonic()
        return time.monotonic() - last[1] >= for_s

    wait_until(f"{what} stands still", probe, within_s, 0.1)


def other(place):
    """The other node."""
    return "node2" if place == "node1" else "node1"


def double_owners(node):
    """Public address and port that two inside endpoints hold at once, in the table. Must be none."""
    return {public: inside for public, inside in views.public_tuples(node).items() if len(inside) > 1}


__all__ = ["RECOVER_S", "DaemonEnded", "Interrupted", "LabError", "catch_signals", "double_owners", "ignore_signals",
           "measured", "other", "running_lab", "show_last_words", "wait_elected", "wait_equal", "wait_in_sync",
           "wait_pair", "wait_role", "wait_settled", "wait_still"]
