#!/usr/bin/env python3
"""Runs the namespace scenarios: real processes, real clients, one machine.

    run.py [-k PATTERN]… [--list]

Needs root and the built programs (TWINPATH_BIN, or target/lab). Ends with one line `netns: N passed, N failed`;
no test at all is a failure.
"""

import argparse
import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from twinlab.scenario import Interrupted, catch_signals  # noqa: E402


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

    def addFailure(self, test, err):
        unittest.TestResult.addFailure(self, test, err)
        self._end("FAILED")

    def addError(self, test, err):
        unittest.TestResult.addError(self, test, err)
        self._end(f"FAILED: {err[1]}")
        if issubclass(err[0], Interrupted):
            self.stop()  # this scenario cleans up; no other begins


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
        runner = unittest.TextTestRunner(stream=sys.stderr, resultclass=Result, verbosity=0)
        result = runner.run(unittest.TestSuite(tests))
    except Interrupted as name:
        print(f"netns: interrupted by {name}", file=sys.stderr)
        return 130
    if result.shouldStop:
        print("netns: interrupted", file=sys.stderr)
        return 130
    # A scenario that failed in its course and again in its clean-up is one failed scenario.
    bad = len({getattr(test, "test_case", test).id() for test, _ in (*result.failures, *result.errors)})
    print(f"netns: {max(result.testsRun - bad - len(result.skipped), 0)} passed, {bad} failed")
    return 1 if bad or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
