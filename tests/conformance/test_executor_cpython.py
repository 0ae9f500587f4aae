"""CPython's own tests of process pools, run on our executor where they are installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """\
import concurrent.futures, concurrent.futures.process, importlib, sys, unittest

import glasspool

concurrent.futures.ProcessPoolExecutor = glasspool.Executor
concurrent.futures.process.ProcessPoolExecutor = glasspool.Executor

SKIPPED = set(sys.argv[1].split())
util = importlib.import_module("test.test_concurrent_futures.util")
util.ExecutorMixin.worker_count = 4
suite = unittest.TestSuite()
for name in ("deadlock", "wait", "as_completed", "process_pool", "shutdown", "init"):
    module = importlib.import_module(f"test.test_concurrent_futures.test_{name}")
    for case in list(vars(module).values()):
        if isinstance(case, type) and case.__name__.startswith("ProcessPoolFork"):
            if "Forkserver" not in case.__name__ and issubclass(case, unittest.TestCase):
                case.executor_type = glasspool.Executor
                tests = unittest.defaultTestLoader.loadTestsFromTestCase(case)
                suite.addTests(t for t in tests if t._testMethodName not in SKIPPED)
if __name__ == "__main__":
    done = unittest.TextTestRunner(verbosity=2).run(suite)
    print("run:", done.testsRun)
    sys.exit(not done.wasSuccessful())
"""

INTERNALS = """
    test_del_shutdown test_shutdown_no_wait test_python_finalization_error
    test_gh105829_should_not_deadlock_if_wakeup_pipe_full
"""
"""They look at ``_call_queue``, or put something in place of the standard library's own parts."""

BETTER = """
    test_killed_child test_max_tasks_per_child test_max_tasks_per_child_defaults_to_spawn_context
    test_cancel_futures
"""
"""Ours goes on after a death, forks safely, and cancels all that has not begun."""

BY_NAME = "test_interpreter_shutdown test_submit_after_interpreter_shutdown test_hang_gh83386"
"""They run programs that import the class by its name: ``test_executor_life`` has the same."""

LOGGED = "test_initializer test_spawn"
"""The second half wants the traceback of an initializer in the log of the worker."""

LONG = """
    test_first_exception_one_already_failed test_duplicate_futures test_future_times_out
    test_map_timeout test_hang_issue12364 test_timeout test_zero_timeout test_timeout_with_cancelled
    test_20369 test_pending_calls_race test_first_completed test_first_exception test_all_completed
    test_first_exception_some_already_complete test_first_completed_some_already_completed
"""


def test_the_tests_of_cpython_pass(tmp_path: Path) -> None:
    """All but those that look at internals, or that ours does better (``docs/differences.md``)."""
    try:
        found = importlib.util.find_spec("test.test_concurrent_futures.test_deadlock")
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip("this Python is installed without its tests, or has them elsewhere")
    script = tmp_path / "run_tests.py"
    script.write_text(RUN)
    skipped = " ".join((INTERNALS, BETTER, BY_NAME, LOGGED, LONG))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), skipped],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert int(done.stdout.rpartition("run:")[2]) > 25
