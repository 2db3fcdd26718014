"""Frames by hand: sends given bytes on an interface and keeps what arrives there, tags included.

    frames.py INTERFACE
"""

import asyncio
import socket
import struct
import sys

from channel import main, now

KEPT = 4096
PACKET_AUXDATA, VLAN_VALID, VLAN_TPID_VALID = 8, 1 << 4, 1 << 6


class Frames:
    """One packet socket."""

    def __init__(self, interface):
        self.interface = interface
        self.heard = []  # (time, frame)

    async def start(self):
        """Listens from here on."""
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.setsockopt(263, PACKET_AUXDATA, 1)  # SOL_PACKET
        self.socket.bind((self.interface, 3))
        self.socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self.socket, self._receive)

    def _receive(self):
        for _ in range(64):
            try:
                frame, ancillary, _, source = self.socket.recvmsg(65536, 256)
            except BlockingIOError:
                return
            if source[2] == socket.PACKET_OUTGOING or len(self.heard) >= KEPT:
                continue
            for _, _, data in ancillary:
                # The kernel has taken the outer tag out of the frame: put it back where it was.
                status, tci, tpid = struct.unpack_from("IIIHHHH", data)[0], *struct.unpack_from("HH", data, 16)
                if status & VLAN_VALID:
                    tag = struct.pack("!HH", tpid if status & VLAN_TPID_VALID else 0x8100, tci)
                    frame = frame[:12] + tag + frame[12:]
            self.heard.append((now(), frame))

    async def do_send(self, frames):
        """Sends frames given in hexadecimal."""
        for frame in frames:
            self.socket.send(bytes.fromhex(frame))

    async def do_heard(self, since=0.0):
        """What has arrived since a time, in hexadecimal."""
        return {"frames": [frame.hex() for at, frame in self.heard if at >= since]}


if __name__ == "__main__":
    main(Frames(sys.argv[1]))
