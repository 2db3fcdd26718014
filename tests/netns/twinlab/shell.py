"""Commands and waiting: the two things everything else in the lab does."""

import os
import shlex
import signal
import subprocess
import sys
import time

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable


class LabError(Exception):
    """Something the user of the lab has to know; printed without a traceback."""


def run(*words, stdin=None, check=True, within_s=30):
    """Runs a command to its end and returns its standard output."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=within_s, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed (scripts/common.sh installs what the lab needs)") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{shlex.join(words)}: no end within {within_s} s") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise LabError(f"{shlex.join(words)}: exit code {done.returncode}: {said}")
    return done.stdout


def in_namespace(namespace, *words):
    """The words of a command that runs `words` inside a namespace, in the same process."""
    return ["ip", "netns", "exec", namespace, *[str(word) for word in words]]


def wait_until(what, probe, within_s, every_s=0.02):
    """Polls `probe` until it returns something true and returns that; names `what` when time is up.

    A probe may raise LabError for "not yet": the last one becomes part of the message.
    """
    end = time.monotonic() + within_s
    last = None
    while True:
        try:
            value = probe()
            if value:
                return value
            last = None
        except LabError as error:
            last = error
        if time.monotonic() >= end:
            raise LabError(f"not within {within_s:g} s: {what}" + (f" ({last})" if last else ""))
        time.sleep(every_s)


def start_time(pid):
    """When a process started, in clock ticks since boot; None when there is none. Tells a reused pid apart.

    The main thread of a killed process is gone before the others: until the last one is, it holds its sockets.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        ended = fields[0] in ("Z", "X") and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (OSError, IndexError):
        return None
    return None if ended else int(fields[19])


def freeze(pid):
    """SIGSTOP, and waits until every thread stands still: until then the others go on."""
    def still():
        states = []
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii", errors="replace") as file:
                states.append(file.read().rsplit(")", 1)[1].split()[0])
        return set(states) <= {"T", "t"}
    os.kill(pid, signal.SIGSTOP)
    wait_until(f"process {pid} stands still", still, 30, 0.001)


def checksum(data):
    """Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(int.from_bytes(data[i:i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
