"""Ctrl-C at any point of the demo leaves nothing behind."""

import os
import re
import signal
import subprocess
import unittest
from pathlib import Path

from labcase import RECOVER_S, LabError, TimedCase, wait_until
from twinlab.lab import EAL_FOLDERS, STATE_ROOT
from twinlab.node import RUN_ROOT
from twinlab.shell import PYTHON

DEMO = Path(__file__).with_name("demo.py")
# While the lab is built, and at the beginning of four of the story's steps.
POINTS = ("build", "1.", "2.", "4.", "7.")


class TestInterrupt(TimedCase):
    """One demo per point."""

    limit_s = 300

    def test_an_interrupted_demo_leaves_nothing_behind(self):
        """Neither namespace nor process nor socket nor EAL file, and it says that it was interrupted."""
        for point in POINTS:
            with self.subTest(point=point):
                self._interrupt_at(point)

    def _interrupt_at(self, point):
        with subprocess.Popen([PYTHON, "-B", DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, start_new_session=True) as demo:
            lab_id = f"d{demo.pid}"
            try:
                if point == "build":
                    wait_until("the lab is being built", (STATE_ROOT / lab_id).exists, 30, 0.001)
                else:
                    self.assertTrue(any(line.startswith(point) for line in demo.stdout), f"step {point} never came")
                # As a terminal does it: the whole process group.
                os.killpg(demo.pid, signal.SIGINT)
                said = demo.communicate(timeout=60)[0]
            finally:
                if demo.poll() is None:
                    demo.kill()
        self.assertEqual(demo.returncode, 130, said)
        # A process is out of its namespaces a moment before the kernel has closed what it had open.
        wait_until("nothing is left behind", lambda: self._nothing_left(lab_id), RECOVER_S)

    def _nothing_left(self, lab_id):
        if left := self._left_behind(lab_id):
            raise LabError("; ".join(left))
        return True

    @staticmethod
    def _left_behind(lab_id):
        ours = re.compile(rf"(^|[^a-z0-9]){lab_id}([^0-9]|$)")
        left = [f"namespace {name}" for name in os.listdir("/run/netns") if ours.search(name)]
        for folder in (STATE_ROOT, RUN_ROOT, *EAL_FOLDERS):
            left += [str(path) for path in folder.glob("*") if ours.search(path.name)]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if ours.search(words):
                left.append(f"process {process.parent.name}: {words}")
        sockets = Path("/proc/net/unix").read_text(encoding="ascii", errors="replace").splitlines()
        return left + [f"socket {line.split()[-1]}" for line in sockets if ours.search(line.split()[-1])]


if __name__ == "__main__":
    unittest.main()
