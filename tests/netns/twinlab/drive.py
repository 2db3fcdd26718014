"""The commanding side of the traffic programs: starts one in a namespace, asks it, ends it."""

import json
import os
import select
import subprocess
import time
from pathlib import Path

from .shell import PYTHON, LabError
from .topology import SERVER, client_addresses, client_addresses6

PROGRAMS = Path(__file__).with_name("traffic")


class Program:
    """A running traffic program. Ends when its stdin closes, so also when this process dies."""

    def __init__(self, lab, place, program, *words):
        self.name = f"{program} in {place}"
        self.log = lab.directory / f"{program}-{time.monotonic_ns()}.log"
        with open(self.log, "wb") as log:
            # pylint: disable-next=consider-using-with  # lives as long as this object
            self.process = subprocess.Popen(
                lab.topology.inside(place, PYTHON, "-B", str(PROGRAMS / f"{program}.py"), *words),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        self.number = 0
        self.replies = {}
        self.buffer = b""

    def tell(self, do, **arguments):
        """Sends a command and returns its number, for `hear`."""
        self.number += 1
        line = json.dumps({"id": self.number, "do": do, **arguments}) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            self._ended()
        return self.number

    def hear(self, number, within_s=45.0):
        """The reply to command `number`."""
        end = time.monotonic() + within_s
        while number not in self.replies:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise LabError(f"{self.name}: no reply within {within_s:g} s")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                self._ended()
            *lines, self.buffer = (self.buffer + data).split(b"\n")
            for line in lines:
                reply = json.loads(line)
                self.replies[reply.pop("id")] = reply
        reply = self.replies.pop(number)
        if "error" in reply and len(reply) == 1:
            raise LabError(f"{self.name}: {reply['error']}")
        return reply

    def ask(self, do, patience_s=45.0, **arguments):
        """Command and reply."""
        return self.hear(self.tell(do, **arguments), patience_s)

    def _ended(self):
        raise LabError(f"{self.name} ended: {self.log.read_text(errors='replace').strip()[-800:]}")

    def end(self):
        """Ends it and waits."""
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Traffic:
    """All programs of one run, to be ended together. Use as a context manager."""

    def __init__(self, lab, clients):
        self.lab = lab
        self.addresses = client_addresses(clients)
        self.addresses6 = client_addresses6(clients)
        self.programs = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in self.programs:
            program.end()

    def _add(self, *words):
        program = Program(self.lab, *words)
        self.programs.append(program)
        return program

    def server(self, place="server", interface="wan0"):
        """The answering side, ready when this returns."""
        program = self._add(place, "server", interface)
        program.ask("report")
        return program

    def download(self, rate, source=None, target=SERVER):
        """A download that has not begun."""
        return self._add("client", "download", source or self.addresses[0], target, str(rate))

    def sessions(self, interval_ms, sources=None, target=SERVER, place="client"):
        """TCP connections, none open yet."""
        return self._add(place, "sessions", ",".join(sources or self.addresses), target, str(interval_ms))

    def udp(self, interval_ms, sources=None, target=SERVER):
        """UDP flows, silent yet."""
        return self._add("client", "datagrams", "udp", ",".join(sources or self.addresses), target, str(interval_ms))

    def ping(self, interval_ms, sources=None, target=SERVER):
        """Echo requests, silent yet."""
        return self._add("client", "datagrams", "ping", ",".join(sources or self.addresses[:1]), target,
                         str(interval_ms))
