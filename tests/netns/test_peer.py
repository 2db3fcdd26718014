"""The comparison with others carries the traffic it says: every place forwards every flow, and nothing comes out wrong."""

import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

from labcase import TimedCase
from twinlab.node import binaries
from twinlab.shell import run

PEER = Path(__file__).resolve().parent / "peer.py"
PLACES = ("memif", "sockets", "kernel", "forward")


class TestPeer(TimedCase):
    """A short run of it."""

    def test_each_place_carries_the_same_flows_and_nothing_is_left(self):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "report.json"
            run(sys.executable, "-B", PEER, "--bench", binaries() / "twinpath-bench", "--output", output, "--quick",
                within_s=self.limit_s - 60)
            rows = {row["id"]: row for row in json.loads(output.read_text(encoding="ascii"))["rows"]}
        for place in PLACES:
            for size in ("1k", "64k"):
                row = rows[f"peer.{place}_{size}_ns"]
                self.assertGreater(row["value"], 0)
                # The run itself ends with an error at the first wrong packet that counts.
                self.assertIn(" 0 wrong of ", row["note"])
        left = [name for name in os.listdir("/run/netns") if name.startswith("p") and name.endswith("-gen")]
        self.assertEqual(left, [])


if __name__ == "__main__":
    unittest.main()
