"""A long download over one TCP connection, hashed as it arrives, with every silence noted.

    download.py SOURCE TARGET RATE_BYTES_PER_S
"""

import asyncio
import hashlib
import sys

from channel import Silence, main, now

DOWNLOAD_PORT = 8080


class Download:
    """One connection from its request to its last byte."""

    def __init__(self, source, target, rate):
        self.source, self.target, self.rate = source, target, rate
        self.silence = Silence()
        self.digest = hashlib.sha256()
        self.bytes = 0
        self.error = None
        self.resets = 0
        self.inside = ""
        self.writer = None
        self.task = None

    async def start(self):
        """Nothing before the first command."""

    async def do_begin(self):
        """Connects and asks; returns when the first bytes are there."""
        reader, self.writer = await asyncio.open_connection(self.target, DOWNLOAD_PORT, local_addr=(self.source, 0))
        self.inside = "{} {}".format(*self.writer.get_extra_info("sockname")[:2])
        query = f"rate={self.rate}&inside={self.inside.replace(' ', '+')}"
        self.writer.write(f"GET /?{query} HTTP/1.0\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        self.task = asyncio.create_task(self._receive(reader))
        return {"inside": self.inside}

    async def _receive(self, reader):
        try:
            while data := await reader.read(1 << 16):
                self.silence.heard(now())
                self.digest.update(data)
                self.bytes += len(data)
        except ConnectionError as error:
            self.resets += isinstance(error, ConnectionResetError)
            self.error = f"{type(error).__name__}: {error}"
        except OSError as error:
            self.error = f"{type(error).__name__}: {error}"
        self.writer.close()

    async def do_progress(self, since=0.0):
        """Bytes so far and the longest silence that reached past `since`."""
        running = not self.task.done()
        return {"bytes": self.bytes, "running": running, "resets": self.resets, "error": self.error,
                "gap_ms": self.silence.longest_ms(since, now() if running else None)}

    async def do_finish(self, within_s):
        """Asks for the end of the stream and waits for it."""
        if not self.task.done():
            self.writer.write(b"finish\n")
            await asyncio.wait([self.task], timeout=within_s)
        done = self.task.done() and not self.error
        return {**await self.do_progress(), "done": done, "sha256": self.digest.hexdigest() if done else None,
                "inside": self.inside}


if __name__ == "__main__":
    main(Download(sys.argv[1], sys.argv[2], int(sys.argv[3])))
