"""Many TCP connections that talk all the time, from many source addresses: shells, chats, games.

    sessions.py SOURCE,SOURCE,… TARGET INTERVAL_MS

Each connection sends a short numbered line at its interval and expects it back. A connection has survived a
failover when a line sent after it came back: both ends have then exchanged data.
"""

import asyncio
import sys
from collections import Counter

from channel import Silence, main, now

ECHO_PORT = 7000
CONNECTS_AT_ONCE = 64


class Session:
    """One connection. Ends with an error, or when the program closes it."""

    def __init__(self, interval_s):
        self.interval_s = interval_s
        self.silence = Silence()
        self.waiting = {}  # line -> future with its way there and back
        self.number = 0
        self.slowest_s = 0.0
        self.error = None
        self.reader = self.writer = None
        self.tasks = []

    async def open(self, source, target, port, within_s, hello_within_s):
        """Connects and has the first line echoed: only then the connection counts."""
        try:
            self.reader, self.writer = await asyncio.wait_for(
                asyncio.open_connection(target, port, local_addr=(source, 0)), within_s)
            self.tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._chat())]
            inside = "{} {}".format(*self.writer.get_extra_info("sockname")[:2])
            await asyncio.wait_for(self._say(f"hello {inside}\n".encode()), hello_within_s)
        except (OSError, asyncio.TimeoutError) as error:
            self._fail(error)
        return self.error is None

    def _fail(self, error):
        self.error = self.error or type(error).__name__
        for future in self.waiting.values():
            future.cancel()
        self.close()

    def close(self):
        """Ends it from this side."""
        for task in self.tasks:
            task.cancel()
        if self.writer:
            self.writer.close()

    def _say(self, line):
        future = asyncio.get_running_loop().create_future()
        self.waiting[line] = future
        self.writer.write(line)
        return future

    async def _receive(self):
        try:
            while line := await self.reader.readline():
                future = self.waiting.pop(line, None)
                if future is None:
                    raise ValueError("a line came back that was not sent")
                self.silence.heard(now())
                if not future.done():
                    future.set_result(None)
            raise EOFError("closed by the server")
        except (OSError, ValueError, EOFError) as error:
            self._fail(error)

    async def _chat(self):
        while True:
            await asyncio.sleep(self.interval_s)
            # A shell user stops typing when nothing comes back, so unanswered lines stay few.
            if len(self.waiting) < 4:
                self.number += 1
                asyncio.ensure_future(self._timed(f"chat {self.number}\n".encode()))

    async def _timed(self, line):
        sent = now()
        try:
            await self._say(line)
            self.slowest_s = max(self.slowest_s, now() - sent)
        except asyncio.CancelledError:
            pass

    async def exchange(self, within_s):
        """Whether a line sent now comes back in time."""
        if self.error:
            return False
        self.number += 1
        try:
            await asyncio.wait_for(self._say(f"exchange {self.number}\n".encode()), within_s)
        except (asyncio.TimeoutError, asyncio.CancelledError, OSError):
            return False
        return self.error is None


class Sessions:
    """All connections of this program."""

    def __init__(self, sources, target, interval_ms):
        self.sources, self.target, self.interval_s = sources, target, interval_ms / 1000
        self.all = []
        self.failed = Counter()
        self.next_source = 0

    async def start(self):
        """Nothing before the first command."""

    async def do_open(self, count, within_s=20.0, port=ECHO_PORT, hello_within_s=None):
        """Opens `count` more, sources in turn; those that don't open are counted by cause, and by whether the server's
        answer was seen before."""
        gate = asyncio.Semaphore(CONNECTS_AT_ONCE)

        async def one():
            session = Session(self.interval_s)
            source = self.sources[self.next_source % len(self.sources)]
            self.next_source += 1
            async with gate:
                if await session.open(source, self.target, port, within_s, hello_within_s or within_s):
                    self.all.append(session)
                else:
                    answered = " after an answer" if session.writer else ""
                    self.failed[session.error + answered] += 1
                    return 0
            return 1

        opened = sum(await asyncio.gather(*(one() for _ in range(count))))
        return {"opened": opened, "failed": dict(self.failed)}

    async def do_exchange(self, within_s, first=None):
        """How many of the connections (or of the `first` ones) carry a line there and back now."""
        chosen = self.all if first is None else self.all[:first]
        survived = sum(await asyncio.gather(*(session.exchange(within_s) for session in chosen)))
        return {"survived": survived, "of": len(chosen)}

    async def do_close(self, count=None):
        """Closes the newest `count`, or all."""
        kept = 0 if count is None else max(len(self.all) - count, 0)
        for session in self.all[kept:]:
            session.close()
        del self.all[kept:]

    async def do_report(self, since=0.0):
        """State of all connections."""
        errors = Counter(session.error for session in self.all if session.error)
        at = now()
        return {"live": sum(not session.error for session in self.all), "errors": dict(errors),
                "resets": errors["ConnectionResetError"] + self.failed["ConnectionResetError"],
                "failed": dict(self.failed),
                "gap_ms": max((session.silence.longest_ms(since, at) for session in self.all), default=0.0),
                "slowest_ms": round(max((session.slowest_s for session in self.all), default=0.0) * 1000, 1)}


if __name__ == "__main__":
    main(Sessions(sys.argv[1].split(","), sys.argv[2], float(sys.argv[3])))
