"""The demo's story in containers: docker/up builds the image and calls this.

    containers.py [--json] [--keep] | --down [--images]

The lab's classes do the work; what differs is where a command runs (docker exec instead of ip netns exec) and how a
node dies (docker kill). One such lab per machine: the compose file's addresses are fixed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "netns"))

from demo import CLIENTS, Story  # noqa: E402
from twinlab.drive import PROGRAMS  # noqa: E402
from twinlab.node import HA_GROUP, DaemonEnded  # noqa: E402
from twinlab.nodeconfig import knobs_of_nodes, toml  # noqa: E402
from twinlab.scenario import Interrupted, catch_signals, ignore_signals  # noqa: E402
from twinlab.shell import LabError, run, wait_until  # noqa: E402
from twinlab.topology import NODE_FILTER, Topology  # noqa: E402

PROJECT = "twinpath"
OURS = f"label=com.docker.compose.project={PROJECT}"
STATE = HERE.parent / "target" / "docker"
SERVICES = ("client", "node1", "node2", "server")
START_WITHIN_S = 60


def compose_command():
    """`docker compose`, or the older program of its own."""
    try:
        run("docker", "compose", "version")
        return ["docker", "compose"]
    except LabError:
        return ["docker-compose"]


def container(place):
    """Id of a service's container, running or not."""
    found = run("docker", "ps", "-aq", "--no-trunc", "--filter", OURS,
                "--filter", f"label=com.docker.compose.service={place}").split()
    if len(found) != 1:
        raise LabError(f"{len(found)} containers of {place}")
    return found[0]


class Containers(Topology):
    """Where a command runs: in a container, whose id stays as long as the lab is up."""

    def __init__(self, lab_id):
        super().__init__(lab_id)
        self.ids = {}

    def id_of(self, place):
        """Id of a place's container."""
        if place not in self.ids:
            self.ids[place] = container(place)
        return self.ids[place]

    def inside(self, place, *words):
        return ["docker", "exec", "-i", self.id_of(place), *[str(word) for word in words]]


class ContainerNode:
    """An appliance: what the story asks of a node."""

    def __init__(self, place, topology):
        self.place = self.name = place
        self.topology = topology
        self.directory = STATE / place

    def ctl(self, *words, within_s=60):
        """twinpathctl in the container; what it printed, decoded."""
        text = run(*self.topology.inside(self.place, "twinpathctl", *words, "--json"), within_s=within_s)
        return json.loads(text) if text.strip() else True

    def set_state(self, state):
        """Makes the HA group master or backup here."""
        self.ctl("set", "ha-group", HA_GROUP, "state", state)

    def kill(self, wait=True):  # pylint: disable=unused-argument  # the engine always waits
        """kill -9 of everything in the container."""
        run("docker", "kill", "--signal", "KILL", self.topology.id_of(self.place))

    def stop(self, _only=None):
        """SIGTERM to the data process; the container ends with it."""
        run("docker", "stop", "--time", "15", self.topology.id_of(self.place))

    def start(self, wait=True):
        """The same container again, with new interfaces and the configuration it died with."""
        run("docker", "start", self.topology.id_of(self.place))
        if wait:
            self.wait_running()

    def wait_running(self):
        """Waits until both daemons answer."""
        wait_until(f"{self.place} answers", lambda: self._alive() and self.ctl("show", "version"), START_WITHIN_S, 0.1)

    def _alive(self):
        state = run("docker", "inspect", "--format", "{{.State.Running}}", self.topology.id_of(self.place))
        if state.strip() != "true":
            raise DaemonEnded(f"{self.place} has ended:\n{self.last_words()}")
        return True

    def last_words(self, lines=40):
        """The last lines of both daemons."""
        done = subprocess.run(["docker", "logs", "--tail", str(lines), self.topology.id_of(self.place)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.stdout


class ContainerLab:
    """All containers and networks, as the story knows a lab."""

    def __init__(self):
        self.lab_id = PROJECT
        self.directory = STATE
        self.topology = Containers(PROJECT)
        self.nodes = {place: ContainerNode(place, self.topology) for place in ("node1", "node2")}

    @property
    def description(self):
        """What it is made of, for whoever watches."""
        return f"containers {', '.join(SERVICES)} of the project {PROJECT}"

    def node(self, place):
        """A node by its place."""
        return self.nodes[place]

    @staticmethod
    def compose(*words):
        """Runs the compose program on the compose file."""
        settings = {"IMAGE": os.environ.get("IMAGE", "none"), "STATE": str(STATE), "TRAFFIC": str(PROGRAMS),
                    "CLIENTS": str(CLIENTS)}
        done = subprocess.run([*compose_command(), "-p", PROJECT, "-f", str(HERE / "compose.yml"), *words],
                              env={**os.environ, **settings}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=300, check=False)
        if done.returncode != 0:
            raise LabError(f"compose {' '.join(words)}: {done.stderr.strip()[-1500:]}")

    def up(self):
        """Writes both configurations and starts everything."""
        knobs = knobs_of_nodes(())
        for place, node in self.nodes.items():
            node.directory.mkdir(parents=True, exist_ok=True)
            text = toml(place, place, knobs[place], "/dev/log")
            (node.directory / "twinpath.toml").write_text(text, encoding="ascii")
        (STATE / "filter.nft").write_text(NODE_FILTER, encoding="ascii")
        self.compose("up", "-d", "--no-build")
        for node in self.nodes.values():
            node.wait_running()

    def last_words(self):
        """Of both nodes, for whoever has to find out why."""
        for node in self.nodes.values():
            print(f"--- {node.place}\n{node.last_words()}", file=sys.stderr)

    def down(self):
        """Removes containers and networks."""
        self.compose("down", "--timeout", "3", "--remove-orphans")


def refuse_second():
    """One lab at a time: the networks' addresses are fixed."""
    if run("docker", "ps", "-aq", "--filter", OURS).strip():
        raise LabError("the container lab is up already (docker/up --down)")


def remove_images():
    """Everything that docker/up has built."""
    for name in ("twinpath", "twinpath-base"):
        for image in sorted(set(run("docker", "images", "-q", name).split())):
            run("docker", "rmi", "--force", image, check=False)


def tell_story(story):
    """The lab's whole life; returns the exit code."""
    refuse_second()
    lab = ContainerLab()
    try:
        catch_signals()
        lab.up()
        story.run(lab)
    except (LabError, DaemonEnded) as error:
        story.check(False, str(error))
    except Interrupted as signal_name:
        story.check(False, f"interrupted by {signal_name}")
        return 130
    finally:
        ignore_signals()
        try:
            if story.failed:
                lab.last_words()
        finally:
            lab.down()
    return 1 if story.failed else 0


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(prog="docker/up", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the story")
    parser.add_argument("--keep", action="store_true", help="no story: leave the lab running")
    parser.add_argument("--down", action="store_true", help="remove containers and networks")
    parser.add_argument("--images", action="store_true", help="with --down: the images, too")
    options = parser.parse_args()
    options.set = []
    if options.down:
        ContainerLab().down()
        if options.images:
            remove_images()
        return 0
    if options.keep:
        refuse_second()
        ContainerLab().up()
        print(f"{ContainerLab().description} are up; docker/up --down removes them")
        return 0
    story = Story(options)
    code = tell_story(story)
    story.result["ok"], story.result["failed"] = code == 0, story.failed
    if options.json:
        print(json.dumps(story.result))
    else:
        print(f"\n{'all held' if code == 0 else f'{len(story.failed)} did not hold'}")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as problem:
        sys.exit(f"docker/up: {problem}")
