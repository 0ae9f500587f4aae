"""Functions that run in workers on nodes, for the tests of a pool's options there."""

from __future__ import annotations

import contextvars
import logging
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import glasspool

LIMIT_S = 30

chosen: contextvars.ContextVar[str] = contextvars.ContextVar("chosen", default="none")
initialized_with: list[str] = []


def square(number: int) -> int:
    """Return the square."""
    return number * number


def fail(_number: int = 0) -> None:
    """Raise."""
    raise KeyError("wanted")


def fail_on(node: str) -> str | None:
    """Raise on one node; return the name of any other."""
    here = glasspool.worker()
    if here is not None and here.node == node:
        raise KeyError(node)
    return None if here is None else here.node


def where(_item: object = None) -> tuple[str | None, int, int, str]:
    """Return node, slot, pid and pool of the worker."""
    here = glasspool.worker()
    assert here is not None
    return here.node, here.slot, here.pid, here.pool


def keep(text: str) -> None:
    """Initialize a worker."""
    initialized_with.append(text)


def kept(_item: object = None) -> list[str]:
    """Return what the worker was initialized with."""
    return initialized_with


def raise_value_error() -> None:
    """Fail as an initializer."""
    raise ValueError("no initializer")


def speak(number: int) -> int:
    """Write to both streams, by a child process too, and log."""
    print("out", number)
    sys.stderr.write("err\n")
    sys.stdout.flush()
    os.system("echo child")
    logging.getLogger("cluster.options").warning("number %d", number)
    return number


def speak_and_die() -> None:
    """Write, log, and be killed."""
    print("last line")
    logging.getLogger("cluster.options").warning("last record")
    os.kill(os.getpid(), signal.SIGKILL)


def draw(_item: object) -> float:
    """Return a random number."""
    return random.random()


def variable(name: str) -> str | None:
    """Return a variable of the environment."""
    return os.environ.get(name)


def chosen_here() -> str:
    """Return what the context variable holds."""
    return chosen.get()


def lane_of(_item: object) -> tuple[int, int]:
    """Take a moment; return the process and the thread."""
    time.sleep(0.05)
    return os.getpid(), threading.get_ident()


def take_memory(size: int) -> int:
    """Hold so much memory for a while."""
    held = bytearray(size)
    time.sleep(LIMIT_S)
    return len(held)


def leave_mark(path: str) -> int:
    """Add a mark to a file; return how many there are."""
    with open(path, "a") as file:
        file.write("x")
    return Path(path).stat().st_size


def fail_twice(path: str) -> int:
    """Raise in the first two attempts."""
    count = leave_mark(path)
    if count < 3:
        raise OSError("not yet")
    return count


class Finalizer:
    """Leaves a mark when a worker leaves."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> None:
        leave_mark(self._path)


def touch_and_wait(path: str, until: str) -> None:
    """Make a file, and wait until another one is there."""
    Path(path).touch()
    deadline = time.monotonic() + LIMIT_S
    while not Path(until).exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def report_and_wait(path: str) -> None:
    """Be half done, until a file is there."""
    glasspool.report_progress(1, 2)
    deadline = time.monotonic() + LIMIT_S
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
