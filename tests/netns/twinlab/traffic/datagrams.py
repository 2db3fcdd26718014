"""UDP flows with replies, and echo requests: what has no connection to lose but must keep its public port.

    datagrams.py udp|ping SOURCE,SOURCE,… TARGET INTERVAL_MS

One flow per source; each sends at its interval and notes what comes back. Losses during a failover are expected
and counted; a flow has survived when something sent after it was answered.
"""

import asyncio
import os
import socket
import struct
import sys

from channel import Silence, main, now

UDP_PORT = 7001


def checksum(data):
    """Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Flow:
    """One source address. Knows how to write its question and how to recognise the answer."""

    def __init__(self, kind, index, source, target):
        self.kind, self.six = kind, ":" in target
        family = socket.AF_INET6 if self.six else socket.AF_INET
        self.number = 0
        self.answered = 0
        self.received = 0
        self.reordered = 0
        self.first = 1  # question since the last beginning
        self.answers = set()  # to those
        if kind == "udp":
            self.socket = socket.socket(family, socket.SOCK_DGRAM)
            self.socket.bind((source, 0))
            self.socket.connect((target, UDP_PORT))
            self.name = "{} {}".format(*self.socket.getsockname()[:2]).encode()
        else:
            protocol = socket.IPPROTO_ICMPV6 if self.six else socket.IPPROTO_ICMP
            self.socket = socket.socket(family, socket.SOCK_RAW, protocol)
            self.socket.bind((source, 0))
            self.socket.connect((target, 0))
            self.identifier = (os.getpid() + index) & 0xFFFF
        self.socket.setblocking(False)

    def question(self):
        """The next packet to send."""
        self.number += 1
        if self.kind == "udp":
            return b"u|%s|%d" % (self.name, self.number)
        kind = 128 if self.six else 8
        body = struct.pack("!HH", self.identifier, self.number & 0xFFFF) + b"twinpath" * 7
        # The kernel fills in the ICMPv6 checksum itself.
        return struct.pack("!BBH", kind, 0, 0 if self.six else checksum(struct.pack("!BBH", kind, 0, 0) + body)) + body

    def answer(self, data):
        """Number of the question this answers, or None."""
        if self.kind == "udp":
            words = data.split(b"|")
            return int(words[2]) if len(words) == 3 and words[1] == self.name else None
        if not self.six:
            data = data[(data[0] & 15) * 4:]
        if len(data) != 64 or data[0] != (129 if self.six else 0):
            return None
        identifier, number = struct.unpack_from("!HH", data, 4)
        return number if identifier == self.identifier and data[8:] == b"twinpath" * 7 else None


class Datagrams:
    """All flows of this program."""

    def __init__(self, kind, sources, target, interval_ms):
        self.interval_s = interval_ms / 1000
        self.flows = [Flow(kind, index, source, target) for index, source in enumerate(sources)]
        self.silence = Silence()
        self.sent = 0
        self.unsent = 0
        self.task = None

    async def start(self):
        """Begins to listen; nothing is sent before `begin`."""
        for flow in self.flows:
            asyncio.get_running_loop().add_reader(flow.socket, self._receive, flow)

    def _receive(self, flow):
        for _ in range(64):
            try:
                number = flow.answer(flow.socket.recv(2048))
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about an earlier packet: a loss, seen as such
            if number is not None:
                flow.reordered += number < flow.answered
                flow.answered = max(flow.answered, number)
                flow.received += 1
                if number >= flow.first:
                    flow.answers.add(number)
                self.silence.heard(now())

    def _send(self, flow):
        try:
            flow.socket.send(flow.question())
            self.sent += 1
        except OSError:
            self.unsent += 1

    async def do_begin(self):
        """Starts the regular questions."""
        for flow in self.flows:
            flow.first = flow.number + 1
            flow.answers.clear()
        self.task = asyncio.create_task(self._ask_on())

    async def _ask_on(self):
        while True:
            for flow in self.flows:
                self._send(flow)
            await asyncio.sleep(self.interval_s)

    async def do_exchange(self, within_s):
        """How many flows get an answer to something asked from now on, asking again while time is left."""
        marks = {flow: flow.number for flow in self.flows}
        end = now() + within_s
        while (open_flows := [flow for flow in self.flows if flow.answered <= marks[flow]]) and now() < end:
            for flow in open_flows:
                self._send(flow)
            await asyncio.sleep(0.1)
        return {"survived": len(self.flows) - len(open_flows), "of": len(self.flows)}

    async def do_report(self, since=0.0):
        """Counts, those since the last beginning apart, and the longest time in which nothing at all came back."""
        received = sum(flow.received for flow in self.flows)
        running = self.task is not None
        return {"sent": self.sent, "unsent": self.unsent, "received": received, "lost": self.sent - received,
                "reordered": sum(flow.reordered for flow in self.flows),
                "asked_since": sum(flow.number + 1 - flow.first for flow in self.flows),
                "answered_since": sum(len(flow.answers) for flow in self.flows),
                "gap_ms": self.silence.longest_ms(since, now() if running else None)}

    async def do_end(self):
        """Stops the regular questions."""
        if self.task:
            self.task.cancel()
            self.task = None


if __name__ == "__main__":
    main(Datagrams(sys.argv[1], sys.argv[2].split(","), sys.argv[3], float(sys.argv[4])))
