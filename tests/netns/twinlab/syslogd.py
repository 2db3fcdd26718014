"""The lab's log collector: one Unix datagram socket per node, one text file behind each.

    syslogd.py SOCKET=FILE …
"""

import os
import selectors
import socket
import sys


def main(pairs):
    """Writes what arrives, one line per datagram, until it is killed."""
    selector = selectors.DefaultSelector()
    for pair in pairs:
        path, file = pair.split("=", 1)
        if os.path.exists(path):
            os.unlink(path)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(path)
        # pylint: disable-next=consider-using-with
        selector.register(receiver, selectors.EVENT_READ, open(file, "ab", buffering=0))
    while True:
        for key, _ in selector.select():
            key.data.write(key.fileobj.recv(65536).rstrip(b"\n") + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
