"""What the daemons tell systemd, heard on a socket in its place."""

import os
import select
import socket
import tempfile
import time
import unittest.mock

from labcase import LabCase
from twinlab.node import DAEMONS
from twinlab.shell import freeze

WATCHDOG_S = 0.4


class TestSupervisor(LabCase):
    """A bare lab: one node's daemons are started by hand."""

    bare = True
    clients = 1

    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.socket = self.enterContext(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.socket.bind(f"{folder}/notify")
        self.enterContext(unittest.mock.patch.dict(os.environ, {
            "NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}))

    def hear(self, within_s=30):
        """The next message, or None."""
        if not select.select([self.socket], [], [], within_s)[0]:
            return None
        return self.socket.recv(4096).decode().strip()

    def test_each_daemon_tells_that_it_is_ready_that_it_lives_and_that_it_stops(self):
        for daemon in DAEMONS:
            with self.subTest(daemon=daemon):
                self.node1.start(daemon, wait=False)
                self.assertEqual(self.hear(), "READY=1")
                # Ready means that its socket answers.
                self.assertTrue((self.node1.run_dir / f"{daemon}.sock").exists())
                for _ in range(3):
                    self.assertEqual(self.hear(10), "WATCHDOG=1")
                self.node1.stop(daemon)
                end = time.monotonic() + 10
                words = []
                while "STOPPING=1" not in words and time.monotonic() < end:
                    words.append(self.hear(10))
                self.assertEqual(set(words), {"STOPPING=1", "WATCHDOG=1"} & set(words))
                self.assertEqual(words[-1], "STOPPING=1")

    def test_a_daemon_that_hangs_goes_silent(self):
        self.node1.start("dataplane", wait=False)
        while self.hear() != "WATCHDOG=1":
            pass
        freeze(self.node1.pid("dataplane"))
        while self.hear(2 * WATCHDOG_S):
            pass
        self.assertIsNone(self.hear(2 * WATCHDOG_S))
        os.kill(self.node1.pid("dataplane"), 18)  # SIGCONT
        self.assertEqual(self.hear(10), "WATCHDOG=1")
