"""What every scene of this folder does: end by itself, and say when it stands.

A scene is a program that goes wrong in one way, or only looks as if it did (``fine_*``). It prints ``ready``
when that is reached. Each of its processes ends after a time, whatever becomes of its test: a worker that
is imported anew (spawn) imports this module, a forked one inherits the function below.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable

LIFE_S = 60

signal.alarm(LIFE_S)
os.register_at_fork(after_in_child=lambda: signal.alarm(LIFE_S))


def context():
    """Return the context of the start method that the first argument names."""
    return multiprocessing.get_context(sys.argv[1] if len(sys.argv) > 1 else "fork")


def ready() -> None:
    """Say that the scene stands."""
    os.write(1, b"ready\n")


def until(reached: Callable[[], object], limit_s: float = 30.0) -> None:
    """Wait until something holds that only the kernel tells; the scene ends if it never does."""
    deadline = time.monotonic() + limit_s
    while not reached():
        if time.monotonic() > deadline:
            sys.exit("not reached")
        time.sleep(0.002)


def in_call(pid: int, *numbers: int, fd: int | None = None) -> bool:
    """Tell whether the main thread of a process is in one of these system calls (read 0, write 1)."""
    try:
        with open(f"/proc/{pid}/syscall") as told:
            words = told.read().split()
    except OSError:
        return False
    if words[0] not in map(str, numbers):
        return False
    return fd is None or int(words[1], 16) == fd


READ, WRITE, NANOSLEEP, FUTEX = 0, 1, 230, 202


def receiver(pool) -> int:
    """Return the worker that holds the lock of the queue of tasks: it reads from the pipe."""
    found: list[int] = []

    def reads() -> bool:
        found[:] = [w.pid for w in pool._pool if in_call(w.pid, READ)]
        return bool(found)

    until(reads)
    return found[0]


def kill(pid: int) -> None:
    """End a process by SIGKILL."""
    os.kill(pid, signal.SIGKILL)


def touch(item: object = None) -> object:
    """A task that ends at once."""
    return item


def nap(seconds: float) -> float:
    """A task that sleeps."""
    time.sleep(seconds)
    return seconds


def die(item: object = None) -> None:
    """A task whose worker is killed."""
    kill(os.getpid())
