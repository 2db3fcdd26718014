"""How a traffic program is commanded: JSON lines in on stdin, JSON lines out on stdout.

    in   {"id": 1, "do": "open", …arguments}
    out  {"id": 1, …results}  or  {"id": 1, "error": "…"}

Each program is an object whose async methods named `do_X` are its commands. It lives until stdin ends, so it
can't outlive the one who commands it. Times are those of the monotonic clock, which all processes share.
"""

import asyncio
import json
import sys
import time
import traceback


def now():
    """Seconds on the monotonic clock."""
    return time.monotonic()


class Silence:
    """When something was heard, and how long the silences in between were."""

    NOTED_S = 0.003  # shorter silences are the ordinary rhythm
    KEPT = 20000

    def __init__(self):
        self.last = None
        self.gaps = []  # (end, length)

    def heard(self, at):
        """Something arrived."""
        if self.last is not None and at - self.last >= self.NOTED_S and len(self.gaps) < self.KEPT:
            self.gaps.append((at, at - self.last))
        self.last = at

    def longest_ms(self, since=0.0, at=None):
        """The longest silence that reached into the time after `since`; one that still lasts counts."""
        lengths = [length for end, length in self.gaps if end >= since]
        if at is not None and self.last is not None:
            lengths.append(at - self.last)
        return round(max(lengths, default=0.0) * 1000, 1)


async def serve(program):
    """Carries out commands until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = loop.create_task(_answer(program, json.loads(line)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer(program, command):
    number, name = command.pop("id"), command.pop("do")
    try:
        result = await getattr(program, f"do_{name}")(**command) or {}
    except Exception as error:  # pylint: disable=broad-except  # the commander has to hear of it, whatever it is
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps({"id": number, **result}) + "\n")
    sys.stdout.flush()


def main(program):
    """Runs a program object: its `start`, then commands until the end."""

    async def life():
        await program.start()
        await serve(program)

    asyncio.run(life())
