#!/usr/bin/env python3
"""Runs the namespace scenarios: real processes, real clients, one machine.

    run.py [-k PATTERN]… [--list]

Needs root and the built programs (TWINPATH_BIN, or target/lab). A scenario that failed says what both nodes were like
at that moment, and is played again at the end, by itself, MORE_GOES times at most: clients, kernels and daemons share a
machine with whatever else runs there. One that holds then is *unsteady*: counted as passed, named, and a defect to look
into; more than UNSTEADY_MAX of them are failures. Ends with one line `netns: N passed, N failed, N unsteady`; no test at
all is a failure.
"""

import argparse
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from twinlab.scenario import Interrupted, catch_signals, show_last_words  # noqa: E402

UNSTEADY_MAX = 3
MORE_GOES = 2


class Result(unittest.TextTestResult):
    """One line per scenario, with the time it took."""

    def startTest(self, test):
        self.began = time.monotonic()
        super(unittest.TextTestResult, self).startTest(test)
        print(f"{test.id()}", file=sys.stderr, flush=True)

    def addSubTest(self, test, subtest, err):
        unittest.TestResult.addSubTest(self, test, subtest, err)
        if err is not None:
            self._end(f"FAILED: {subtest.id()}")

    def _end(self, word):
        print(f"    {word} ({time.monotonic() - self.began:.1f} s)", file=sys.stderr, flush=True)

    def addSuccess(self, test):
        unittest.TestResult.addSuccess(self, test)
        self._end("ok")

    def _lost(self, test, err):
        """Says what happened while the lab is still there."""
        self._end(f"FAILED: {err[1]}")
        if lab := getattr(test, "lab", None):
            show_last_words(lab)

    def addFailure(self, test, err):
        unittest.TestResult.addFailure(self, test, err)
        self._lost(test, err)

    def addError(self, test, err):
        unittest.TestResult.addError(self, test, err)
        if issubclass(err[0], Interrupted):
            self._end(f"FAILED: {err[1]}")
            self.stop()  # this scenario cleans up; no other begins
        else:
            self._lost(test, err)

    def lost(self):
        """The scenarios that failed. One that did in its course and again in its clean-up is one."""
        return {case.id(): case for case in (getattr(test, "test_case", test)
                                             for test, _ in (*self.failures, *self.errors))}


def flatten(suite):
    """All tests of a suite."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def main():
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("-k", action="append", default=[], metavar="PATTERN", help="only scenarios whose name has it")
    parser.add_argument("--list", action="store_true", help="names only")
    options = parser.parse_args()
    found = flatten(unittest.defaultTestLoader.discover(str(HERE), "test_*.py", str(HERE)))
    tests = [test for test in found if not options.k or any(pattern in test.id() for pattern in options.k)]
    if options.list:
        print("\n".join(test.id() for test in tests))
        return 0
    catch_signals()
    try:
        result = latest = play(tests)
        lost = again = set(result.lost())
        for _ in range(MORE_GOES):
            if again and len(lost) <= UNSTEADY_MAX and not latest.shouldStop:
                once_more = named(again)
                latest = play(once_more)
                # What is no scenario, such as the preparation of a class, isn't played, and stays lost.
                again = again - {test.id() for test in once_more} | set(latest.lost())
    except Interrupted as name:
        print(f"netns: interrupted by {name}", file=sys.stderr)
        return 130
    if latest.shouldStop:
        print("netns: interrupted", file=sys.stderr)
        return 130
    unsteady = sorted(lost - again)
    for name in unsteady:
        print(f"netns: unsteady: {name}")
    passed = max(result.testsRun - len(again) - len(result.skipped), 0)
    print(f"netns: {passed} passed, {len(again)} failed, {len(unsteady)} unsteady")
    return 1 if again or not result.testsRun else 0


def play(tests):
    """Runs them, one after the other."""
    runner = unittest.TextTestRunner(stream=sys.stderr, resultclass=Result, verbosity=0)
    return runner.run(unittest.TestSuite(tests))


def named(names):
    """The scenarios of these names, made anew: a scenario that has been played holds what it made."""
    found = flatten(unittest.defaultTestLoader.discover(str(HERE), "test_*.py", str(HERE)))
    return [test for test in found if test.id() in names]


if __name__ == "__main__":
    sys.exit(main())
