"""`pytest -p glasspool.pytest`: real runs of pytest on tests that hang, and on tests that do not."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from glasspool import watchdog

pytestmark = pytest.mark.one_python

DEADLINE_S = 60.0
END = "=" * 100

LOST = """
    import multiprocessing, os, signal

    def die(_):
        os.kill(os.getpid(), signal.SIGKILL)

    def test_lost():
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(die, [1])
"""
EXECUTOR = """
    import multiprocessing, signal, time
    from concurrent.futures import ProcessPoolExecutor

    def never_ends():
        signal.alarm(60)
        time.sleep(60)

    def test_executor():
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
            executor.submit(never_ends).result()
"""
NESTED = """
    import logging, threading
    from multiprocessing.pool import ThreadPool

    def test_nested():
        # As if the main thread had been interrupted while it held them.
        logging._lock.acquire()
        pool = ThreadPool(1)
        pool.apply(lambda: pool.apply(abs, (1,)))
"""
OURS = """
    import multiprocessing, signal, time
    import glasspool

    def never_ends():
        signal.alarm(60)
        time.sleep(60)

    def test_ours():
        with glasspool.Pool(1, context=multiprocessing.get_context("fork")) as pool:
            pool.apply(never_ends)
"""
RUNS = {
    "signal": (LOST, ["--timeout=2", "--timeout-method=signal"]),
    "thread": (EXECUTOR, ["--timeout=2", "--timeout-method=thread"]),
    "after": (NESTED, ["--glasspool-after=1"]),
    "faulthandler": (OURS, ["-o", "faulthandler_timeout=1"]),
}


def start(folder, source, words):
    """Start pytest on one file, in a session of its own; standard error goes to a file."""
    folder.mkdir()
    (folder / "test_it.py").write_text(textwrap.dedent(source))
    with open(folder / "stderr", "w") as stderr, open(folder / "stdout", "w") as stdout:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "glasspool.pytest", "-q", "test_it.py", *words],
            cwd=folder,
            env={**os.environ, "COLUMNS": "200", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )


def end(process):
    """End a run and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def reports(tmp_path_factory, standing_processes):
    """Run all hanging tests beside each other; give what each wrote to standard error."""
    folder = tmp_path_factory.mktemp("runs")
    running = {name: start(folder / name, source, words) for name, (source, words) in RUNS.items()}
    try:
        yield {name: written(process, folder / name) for name, process in running.items()}
    finally:
        for process in running.values():
            end(process)


def written(process, folder):
    """Wait until the report is complete, or the run over; give what was written so far."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        text = (folder / "stderr").read_text()
        if END in text or ended:
            return text + (folder / "stdout").read_text()
        time.sleep(0.05)
    return text


def test_a_lost_task_under_the_signal_method(reports):
    """The report names the test, the verdict and each handler, and what it started itself is not in it."""
    text = reports["signal"]
    assert "glasspool: test_it.py::test_lost has taken more than 2 s" in text
    assert "task-lost" in text
    for role in ("worker-handler", "task-handler", "result-handler"):
        assert role in text
    assert "main, caller" in text
    assert text.count("child  ") == 0


def test_an_executor_under_the_thread_method(reports):
    """That method ends the process: the report comes before."""
    text = reports["thread"]
    assert "ProcessPoolExecutor" in text
    assert "never_ends" in text
    roles = ("worker-handler", "task-handler", "result-handler")
    assert any(all(role in line for role in roles) for line in text.splitlines())
    assert text.index("glasspool:") < text.index("Timeout")


def test_a_nested_wait_after_the_plugins_own_time(reports):
    """Without pytest-timeout, and while the main thread holds a lock that everybody needs."""
    text = reports["after"]
    assert "glasspool: test_it.py::test_nested has taken more than 1 s" in text
    assert "nested" in text
    assert "ThreadPool" in text
    assert "task, caller" in text


def test_a_pool_of_ours_after_the_time_of_faulthandler(reports):
    """pytest's own `faulthandler_timeout` sets the time where nothing else does."""
    text = reports["faulthandler"]
    assert "glasspool.Pool" in text
    assert "never_ends" in text
    assert "worker-handler" in text


def test_tests_that_end_in_time_print_nothing(tmp_path):
    """Not a line more than without the plugin, no thread in the tests, and no process is left."""
    source = """
        import os, threading

        def test_fine():
            assert len(os.listdir("/proc/self/task")) == 1

        def test_more():
            assert threading.active_count() == 1
    """
    process = start(tmp_path / "run", source, ["--timeout=50", "--glasspool-after=50"])
    try:
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "run" / "stdout").read_text()
        assert (tmp_path / "run" / "stderr").read_text() == ""
        assert "glasspool" not in (tmp_path / "run" / "stdout").read_text()
    finally:
        end(process)


def test_no_number_of_seconds(tmp_path):
    """A bad option is a usage error, with one line that says what would be right."""
    process = start(tmp_path / "run", "", ["-o", "glasspool_after=soon"])
    try:
        assert process.wait(DEADLINE_S) == pytest.ExitCode.USAGE_ERROR
        assert "glasspool_after is a number of seconds" in (tmp_path / "run/stderr").read_text()
    finally:
        end(process)


def test_a_process_tells_of_itself_where_nobody_may_read_it(tmp_path):
    """The watchdog asks by a signal; the answer has every role, and not the thread that told it."""
    from multiprocessing.pool import ThreadPool

    with open(tmp_path / "told", "w") as stream:
        dog = watchdog.Watchdog(60.0, stream)
        try:
            with ThreadPool(1) as pool:
                pool.apply(abs, (1,))
                os.kill(os.getpid(), watchdog._signal())
                pool.terminate()
                pool.join()
        finally:
            dog.close()
    text = (tmp_path / "told").read_text()
    for role in ("worker-handler", "task-handler", "result-handler", "main"):
        assert role in text
    assert "native" not in text
    assert signal.getsignal(watchdog._signal()) == signal.SIG_DFL


def test_the_picture_from_inside_has_a_limit(monkeypatch):
    """Where the look cannot be finished, the end of the test does not wait for it."""
    import threading

    gate = threading.Event()
    monkeypatch.setattr(watchdog, "_picture", lambda stacks: gate.wait(DEADLINE_S))
    assert "not told in time" in watchdog.told_inside(limit_s=0.05)
    gate.set()
