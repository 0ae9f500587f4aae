"""Turn a test that hangs into a failure that says what every thread and child process did.

The limit comes from a timer signal, not from a timer thread: a Python thread beside the test would
make each fork in it a fork of a threaded process, which is what several tests are about.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import traceback
from types import FrameType
from typing import Any, TextIO

import psutil
import pytest

EXIT_LIMIT_S = 60
"""How long the interpreter may take to end after the last test."""

_READER_LIMIT_S = 10


class HangGuard:
    """Pytest plugin: the timer of pytest-timeout, with the stacks of child processes too."""

    def __init__(self) -> None:
        # pytest's capture replaces descriptor 2 during a test: reports go to the real one.
        self.stream: TextIO = os.fdopen(os.dup(2), "w", buffering=1)
        faulthandler.enable(self.stream)

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool | None:
        """Arm the timer of one test."""
        if threading.current_thread() is not threading.main_thread():
            return None

        def on_alarm(signum: int, frame: FrameType | None) -> None:
            write_stacks(self.stream, f"{item.nodeid} took more than {settings.timeout} s")
            pytest.fail(f"Timeout (>{settings.timeout} s): stacks are on standard error")

        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout)
        return True

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_timeout_cancel_timer(self, item: pytest.Item) -> bool:
        """Disarm the timer of one test."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        return True

    def pytest_unconfigure(self) -> None:
        """Limit the time that the interpreter takes to end.

        A C thread watches from here on: nothing forks any more, and a hang in an ``atexit``
        function is out of reach of the timer above.
        """
        faulthandler.dump_traceback_later(EXIT_LIMIT_S, exit=True, file=self.stream)


def write_stacks(stream: TextIO, title: str) -> None:
    """Write the stacks of all threads of this process and of all its child processes."""
    print(f"\n{'=' * 30} {title} {'=' * 30}", file=stream)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        print(f"\n-- thread {names.get(ident, 'unknown')} ({ident})", file=stream)
        stream.write("".join(traceback.format_stack(frame)))
    for child in psutil.Process().children(recursive=True):
        print(f"\n-- child process {describe(child)}", file=stream)
        stream.write(stacks_from_outside(child.pid))
    stream.flush()


def stacks_from_outside(pid: int) -> str:
    """Return the stacks of another process as py-spy sees them, or why there are none."""
    reader = shutil.which("py-spy", path=sysconfig.get_path("scripts")) or shutil.which("py-spy")
    if reader is None:
        return "no stacks: py-spy is not installed\n"
    try:
        done = subprocess.run(
            [reader, "dump", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=_READER_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no stacks: {error!r}\n"
    return done.stdout + done.stderr


def describe(process: psutil.Process) -> str:
    """Say pid, state and command line of a process that may have gone meanwhile."""
    try:
        command = " ".join(process.cmdline())[:120]
        return f"{process.pid} ({process.status()}, child of {process.ppid()}): {command}"
    except psutil.Error as error:
        return f"{process.pid} ({error!r})"
