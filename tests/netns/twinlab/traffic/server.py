"""What answers on the other side: TCP echo on 7000, UDP echo on 7001, an endless download on 8080.

It is also the witness. It sees connections by their public address and port, and each client tells its inside
address and port in its first words, so it knows when a public address and port was given to a second flow while
the first one lived. A packet socket watches opening segments: one for a tuple that is in use, with another
initial sequence number, is a port that was handed out twice, even if no connection came of it.
"""

import asyncio
import ctypes
import hashlib
import os
import socket
import struct
import sys
from urllib.parse import parse_qs, urlsplit

from channel import main, now

ECHO_PORT, UDP_PORT, DOWNLOAD_PORT = 7000, 7001, 8080
CHUNK = 16 * 1024
BURST_BYTES = 256 * 1024  # most that a paced download makes up for after a pause
UDP_ALIVE_S = 60.0

# Classic BPF of `tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn` for IPv4 frames, as tcpdump -dd compiles it.
SYN_FILTER = [
    (0x28, 0, 0, 12), (0x15, 0, 9, 0x800), (0x30, 0, 0, 23), (0x15, 0, 7, 6), (0x28, 0, 0, 20),
    (0x45, 5, 0, 0x1FFF), (0xB1, 0, 0, 14), (0x50, 0, 0, 27), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0x40000), (0x06, 0, 0, 0),
]


def plain(address):
    """An address as the client's side would write it (no IPv4-mapped IPv6)."""
    return address.removeprefix("::ffff:")


class Server:
    """All services and what they have seen."""

    def __init__(self, interface):
        self.interface = interface
        self.live = {}  # (public address, public port, server port) -> inside "address port"
        self.opened_with = {}  # the same key -> initial sequence number of its SYN
        self.accepted = 0
        self.resets = 0
        self.conflicts = []
        self.downloads = {}  # inside -> {bytes, sha256, done}
        self.datagrams = {}  # (public address, public port) -> (inside, last seen)
        self.datagrams_received = 0

    async def start(self):
        """Binds everything."""
        loop = asyncio.get_running_loop()
        for handler, port in ((self.echo, ECHO_PORT), (self.download, DOWNLOAD_PORT)):
            listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
            await asyncio.start_server(handler, sock=listener, limit=1 << 16)
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            udp = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            udp.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE: more than the system's most
            udp.setblocking(False)
            udp.bind((address, UDP_PORT))
            loop.add_reader(udp, self._datagram, udp)
        if self.interface:
            self._watch()

    # -- TCP echo

    async def echo(self, reader, writer):
        """Sends every line back; the first one says who is speaking."""
        key = self._accept(writer)
        try:
            while line := await reader.readline():
                if line.startswith(b"hello "):
                    self._hello(key, line[6:].decode().strip())
                writer.write(line)
                await writer.drain()
        except (ConnectionError, TimeoutError):
            self.resets += 1
        except ValueError:
            pass  # a line without end: not one of ours
        finally:
            self._end(key, writer)

    def _accept(self, writer):
        self.accepted += 1
        peer, mine = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        key = (plain(peer[0]), peer[1], mine[1])
        self.live.setdefault(key, "")
        return key

    def _end(self, key, writer):
        self.live.pop(key, None)
        self.opened_with.pop(key, None)
        writer.close()

    def _hello(self, key, inside):
        """An address and port translated for one inside endpoint may serve it alone, whatever the server port."""
        for other, owner in self.live.items():
            if other[:2] == key[:2] and owner and owner != inside:
                self._conflict("tcp", key, inside, owner)
        self.live[key] = inside

    def _conflict(self, kind, key, inside, owner):
        self.conflicts.append({"kind": kind, "public": list(key), "new": inside, "living": owner})

    # -- download

    async def download(self, reader, writer):
        """`GET /?rate=BYTES_PER_S&bytes=N`: a paced stream; without `bytes` it ends when the client says finish."""
        key = self._accept(writer)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
            query = {name: values[0] for name, values in parse_qs(urlsplit(request.split()[1]).query).items()}
            inside = query.get("inside", "")
            self._hello(key, inside)
            record = self.downloads[inside] = {"bytes": 0, "sha256": "", "done": False}
            writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n")
            await self._stream(reader, writer, record, float(query.get("rate", "inf")), int(query.get("bytes", "0")))
        except ConnectionError:
            self.resets += 1
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError, ValueError):
            pass  # not a request of ours
        finally:
            self._end(key, writer)

    @staticmethod
    async def _stream(reader, writer, record, rate, limit):
        finish = asyncio.ensure_future(reader.readline())  # also completes when the client is gone
        digest, block, at, allowance = hashlib.sha256(), os.urandom(CHUNK - 8), now(), 0.0
        number = 0
        try:
            while not (record["bytes"] >= limit if limit else finish.done()):
                if rate != float("inf"):
                    moment = now()
                    allowance, at = min(allowance + (moment - at) * rate, BURST_BYTES), moment
                    if allowance < CHUNK:
                        await asyncio.sleep((CHUNK - allowance) / rate)
                        continue
                    allowance -= CHUNK
                # A number in each chunk: a piece lost, doubled or out of place changes the digest.
                chunk = struct.pack("!Q", number) + block
                number += 1
                digest.update(chunk)
                writer.write(chunk)
                record["bytes"] += len(chunk)
                await writer.drain()
        finally:
            finish.cancel()
        record["sha256"] = digest.hexdigest()
        record["done"] = True

    # -- UDP echo

    def _datagram(self, udp):
        for _ in range(64):
            try:
                data, peer = udp.recvfrom(2048)
            except BlockingIOError:
                return
            self.datagrams_received += 1
            words = data.split(b"|", 2)
            if len(words) == 3 and words[0] == b"u":
                public, inside, at = (plain(peer[0]), peer[1]), words[1].decode(), now()
                owner, seen = self.datagrams.get(public, (inside, at))
                if owner != inside and at - seen < UDP_ALIVE_S:
                    self._conflict("udp", public, inside, owner)
                self.datagrams[public] = (inside, at)
            try:
                udp.sendto(data, peer)
            except OSError:
                pass  # no way back at the moment: a lost datagram like any other

    # -- the wire

    def _watch(self):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        program = b"".join(struct.pack("HBBI", *instruction) for instruction in SYN_FILTER)
        held = ctypes.create_string_buffer(program)
        wire.setsockopt(socket.SOL_SOCKET, 26,  # SO_ATTACH_FILTER
                        struct.pack("HL", len(SYN_FILTER), ctypes.addressof(held)))
        wire.bind((self.interface, 0x0800))
        wire.setblocking(False)
        asyncio.get_running_loop().add_reader(wire, self._opening, wire)

    def _opening(self, wire):
        for _ in range(64):
            try:
                frame, source = wire.recvfrom(128)
            except BlockingIOError:
                return
            if source[2] == socket.PACKET_OUTGOING:
                continue
            header = 14 + (frame[14] & 15) * 4
            port, service, sequence = struct.unpack_from("!HHI", frame, header)
            key = (socket.inet_ntoa(frame[26:30]), port, service)
            if key in self.live and self.opened_with.get(key, sequence) != sequence:
                self._conflict("syn", key, "", self.live[key])
            self.opened_with[key] = sequence

    # -- commands

    async def do_report(self):
        """What was seen so far."""
        return {"accepted": self.accepted, "live": len(self.live), "resets": self.resets,
                "conflicts": self.conflicts, "downloads": self.downloads,
                "datagrams": self.datagrams_received, "datagram_flows": len(self.datagrams)}

    async def do_flows(self):
        """Public side of every living flow, with the inside endpoint it belongs to."""
        alive = now() - UDP_ALIVE_S
        return {"tcp": [[*key, inside] for key, inside in self.live.items()],
                "udp": [[*key, inside] for key, (inside, seen) in self.datagrams.items() if seen > alive]}


if __name__ == "__main__":
    main(Server(sys.argv[1] if len(sys.argv) > 1 else ""))
