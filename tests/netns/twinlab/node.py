"""One appliance of the lab: its two daemons, a keepalived where VRRP decides, and its operator's command.

Born when `start` has both daemons answering; ended by `stop` (SIGTERM), `kill` (SIGKILL) or the lab's end. Process
ids are kept on disk with their start time, so that another invocation can end them and nobody else's.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

from .shell import LabError, in_namespace, run, start_time, wait_until

DAEMONS = {"dataplane": "twinpath-dataplane", "control": "twinpath-control"}
KEEPALIVED = "keepalived"
RUN_ROOT = Path("/run/twinpath")
VRF, HA_GROUP = "main", "group1"
START_WITHIN_S = 60
END_WITHIN_S = 60


def binaries():
    """Folder of the built programs: TWINPATH_BIN, or the lab profile of this checkout."""
    return Path(os.environ.get("TWINPATH_BIN") or Path(__file__).resolve().parents[3] / "target" / "lab")


class DaemonEnded(Exception):
    """A daemon ended while it was waited for: no use to go on polling."""


class Node:
    """A node by its place in the lab (`node1`, `node2`)."""

    def __init__(self, lab_id, place, state_dir):
        self.place = place
        self.name = f"{lab_id}-{place}"
        self.namespace = self.name
        self.directory = Path(state_dir) / place
        self.run_dir = RUN_ROOT / self.name

    @property
    def config_file(self):
        """Where its TOML is."""
        return self.directory / "twinpath.toml"

    # -- daemons

    def start(self, only=None, wait=True):
        """Starts the daemons that don't run, and waits until they answer."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for daemon in self._chosen(only):
            if self._record(daemon).get("ending"):
                # A killed data process is there until its kernel has closed every socket; it may take seconds.
                wait_until(f"{self.name}: {daemon} that was ended is gone", lambda d=daemon: not self.pid(d), END_WITHIN_S)
            # Without its configuration keepalived waits for the control process, which writes it.
            if not self.pid(daemon) and (daemon != KEEPALIVED or self.fragment.exists()):
                self._spawn(daemon)
        if wait:
            self.wait_running(only)

    def wait_running(self, only=None):
        """Waits until the sockets answer and the two processes have met; a daemon that ended instead is an error with its
        last words."""
        for daemon in self._chosen(only):
            if daemon == KEEPALIVED:
                continue
            wait_until(f"{self.name}: {daemon} listens", lambda d=daemon: self._listens(d), START_WITHIN_S)
        if self.pid("control"):
            wait_until(f"{self.name}: control answers for every process that runs", self._met, START_WITHIN_S)
        if KEEPALIVED in self._chosen(only) and not self.pid(KEEPALIVED):
            self.write_fragment()
            self._spawn(KEEPALIVED)

    def _listens(self, daemon):
        if not self.pid(daemon):
            raise DaemonEnded(f"{self.name}: {daemon} ended at start:\n{self.log_tail(daemon)}")
        return (self.run_dir / f"{daemon}.sock").exists()

    def _met(self):
        """Whether the control process answers, and has reached the data process if there is one: it serves before."""
        reached = {row["process"] for row in self.ctl("show", "version")}
        return reached == {daemon for daemon in DAEMONS if self.pid(daemon)}

    # -- keepalived

    def daemons(self):
        """The daemons of this node, in the order in which a power failure takes them."""
        try:
            driven = "vrrp = {" in self.config_file.read_text(encoding="ascii")
        except OSError:
            driven = False
        return [*DAEMONS, KEEPALIVED] if driven else list(DAEMONS)

    @property
    def fragment(self):
        """The whole configuration of the node's keepalived."""
        return self.directory / "keepalived.conf"

    def write_fragment(self):
        """Asks the control process for it."""
        lines = self.ctl("keepalived-config")["lines"]
        self.fragment.write_text("\n".join(lines) + "\n", encoding="ascii")
        (self.directory / "tmp").mkdir(exist_ok=True)

    def _command(self, daemon):
        if daemon == KEEPALIVED:
            # Of one that was killed; where nobody reaps orphans it would count as running.
            for name in ("keepalived.id", "keepalived-vrrp.id"):
                (self.directory / name).unlink(missing_ok=True)
            return ["env", f"TMPDIR={self.directory}/tmp", KEEPALIVED, "--dont-fork", "--log-console", "--no-syslog",
                    "--vrrp", f"--use-file={self.fragment}", f"--pid={self.directory}/keepalived.id",
                    f"--vrrp_pid={self.directory}/keepalived-vrrp.id"]
        program = binaries() / DAEMONS[daemon]
        if not program.exists():
            raise LabError(f"{program} is not built: cargo build --profile lab --bins (scripts/lab does it)")
        return [program, "--config", self.config_file]

    def _spawn(self, daemon):
        command = self._command(daemon)
        with open(self.directory / f"{daemon}.log", "ab") as log:
            # A session of its own: Ctrl-C at the terminal is for the lab, which then ends its daemons in order.
            process = subprocess.Popen(in_namespace(self.namespace, *command),
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self._write_record(daemon, {"pid": process.pid, "start_time": start_time(process.pid)})
        _CHILDREN[process.pid] = process

    def pid(self, daemon):
        """Process id of a running daemon, or None."""
        record = self._record(daemon)
        child = _CHILDREN.get(record.get("pid"))
        if not record or (child is not None and child.poll() is not None):
            return None
        return record["pid"] if start_time(record["pid"]) == record["start_time"] else None

    def _record(self, daemon):
        try:
            return json.loads((self.directory / f"{daemon}.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return {}

    def _write_record(self, daemon, record):
        (self.directory / f"{daemon}.pid").write_text(json.dumps(record), encoding="ascii")

    def kill(self, only=None, wait=True):
        """kill -9, data process first: what a power failure does to a node, as far as one machine can show it."""
        self._signal(signal.SIGKILL, only, within_s=END_WITHIN_S if wait else 0)

    def stop(self, only=None):
        """SIGTERM, and waits for the orderly end. Returns the exit codes of those that this process had started."""
        self._signal(signal.SIGTERM, only, within_s=END_WITHIN_S)
        mine = {daemon: _CHILDREN.get(self._record(daemon).get("pid")) for daemon in self._chosen(only)}
        return {daemon: child.wait() for daemon, child in mine.items() if child is not None}

    def _signal(self, number, only, within_s):
        running = [(daemon, self.pid(daemon)) for daemon in self._chosen(only)]
        for daemon, pid in running:
            if pid and daemon == KEEPALIVED and number == signal.SIGKILL:
                self._kill_vrrp()
            if pid:
                os.kill(pid, number)
                self._write_record(daemon, self._record(daemon) | {"ending": True})
        for daemon, pid in running:
            if pid and within_s:
                wait_until(f"{self.name}: {daemon} ends after signal {int(number)}",
                           lambda d=daemon: not self.pid(d), within_s)

    def _kill_vrrp(self):
        """Its child first: left alone by its parent, it would say goodbye to the peer."""
        try:
            os.kill(int((self.directory / "keepalived-vrrp.id").read_text(encoding="ascii")), signal.SIGKILL)
        except (OSError, ValueError):
            pass

    def _chosen(self, only):
        daemons = self.daemons()
        if only is not None and only not in daemons:
            raise LabError(f"no daemon {only!r}: there are {', '.join(daemons)}")
        return [only] if only else daemons

    def log_tail(self, daemon, lines=30):
        """The daemon's last lines of output."""
        try:
            text = (self.directory / f"{daemon}.log").read_text(errors="replace")
        except OSError:
            return "(no output)"
        return "\n".join(text.splitlines()[-lines:])

    # -- keys of the sync link

    def key_file(self, name="sync.key"):
        """A private key of the node, made when it is first asked for."""
        path = self.directory / name
        if not path.exists():
            run(binaries() / "twinpathctl", "key", "generate", path)
        return path

    def public_key(self, name="sync.key"):
        """Its public half, as a configuration names it."""
        return run(binaries() / "twinpathctl", "key", "show", self.key_file(name)).strip()

    def reread_keys(self):
        """Has the data process take the keys of its configuration into use."""
        os.kill(self.pid("dataplane"), signal.SIGHUP)

    # -- operator

    def ctl(self, *words, within_s=60):
        """Runs `twinpathctl --node NAME WORDS --json` and returns what it printed, decoded."""
        text = run(*self.ctl_words(*words, "--json"), within_s=within_s)
        if not text.strip():
            return True
        try:
            return json.loads(text)
        except ValueError as error:
            raise LabError(f"twinpathctl {' '.join(words)}: not JSON: {text[:200]!r}") from error

    def ctl_words(self, *words):
        """The command line that asks this node."""
        return [binaries() / "twinpathctl", "--node", self.name, *words]

    def set_state(self, state):
        """Makes the HA group of the lab master or backup here."""
        self.ctl("set", "ha-group", HA_GROUP, "state", state)


# Daemons started by this very process have to be reaped by it; others are the init process's.
_CHILDREN = {}
