"""The demo's story between containers, where a Docker engine answers."""

import json
import os
import signal
import subprocess
from pathlib import Path

from labcase import TimedCase

UP = Path(__file__).resolve().parents[2] / "docker" / "up"
OURS = "label=com.docker.compose.project=twinpath"


class TestContainers(TimedCase):
    """Two appliances, client and server, each with the installed package in a container of its own."""

    # The base image is made once, of Debian packages; that is most of it, and the network's and the disk's matter.
    limit_s = 1000

    def setUp(self):
        if subprocess.run([UP, "--ready"], capture_output=True, check=False).returncode:
            self.say("not run: no Docker engine answers")
            self.skipTest("no Docker engine answers")

    def test_connections_survive_the_kill_of_the_active_container(self):
        with subprocess.Popen([UP, "--json"], stdout=subprocess.PIPE, text=True, start_new_session=True) as program:
            try:
                said, _ = program.communicate()
            except BaseException:
                # It takes its containers down before it ends.
                os.killpg(program.pid, signal.SIGTERM)
                program.wait(60)
                raise
        result = json.loads(said)
        self.assertEqual((program.returncode, result["failed"]), (0, []))
        self.assertTrue(result["transfer_intact"])
        self.assertGreaterEqual(result["sessions_before"], 64)
        self.assertEqual(result["sessions_survived"], result["sessions_before"])
        self.assertEqual((result["resets"], result["port_conflicts"], result["kernel_forwarded"]), (0, 0, 0))
        self.say(f"{result['sessions_survived']} of {result['sessions_before']} connections survived, "
                 f"silence {result['gap_ms']} ms")
        for words in (("ps", "-aq"), ("network", "ls", "-q")):
            left = subprocess.run(["docker", *words, "--filter", OURS], capture_output=True, text=True, check=True)
            self.assertEqual(left.stdout, "")
