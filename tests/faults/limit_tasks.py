"""Tasks that do not end when they should, and tasks that need several attempts."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import glasspool

LONG_S = 60.0


def sleep() -> None:
    """Sleep."""
    time.sleep(LONG_S)


def loop() -> None:
    """Run bytecode."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        pass


def wait_for_a_lock() -> None:
    """Wait for a lock that nobody gives back."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=LONG_S)


def loop_in_c() -> int:
    """Hold the GIL in one call, which looks at no signal."""
    return sum(range(1 << 40))


def catch_everything() -> None:
    """Let no exception end this."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        try:
            time.sleep(0.02)
        except BaseException:
            continue


def block_all_signals() -> None:
    """Let no signal but SIGKILL reach this thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    loop()


class SlowToPickle:
    """A result that takes its time."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        time.sleep(LONG_S)
        return SlowToPickle, ()


def return_slowly() -> SlowToPickle:
    """Return at once what cannot be pickled soon."""
    return SlowToPickle()


def stuck_at(stuck: int, value: int) -> int:
    """Return the value, but never for one of them."""
    if value == stuck:
        time.sleep(LONG_S)
    return value


def third_is_stuck(value: int) -> int:
    """Return the value, but never for 3."""
    return stuck_at(3, value)


def last_for(seconds: float) -> float:
    """Run bytecode for so long; return how long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def attempt() -> int | None:
    """Return the how-manieth attempt this is."""
    info = glasspool.worker()
    return None if info is None else info.attempt


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise FileNotFoundError("not yet")


def _exit() -> None:
    raise SystemExit(3)


_WAYS: dict[str, Callable[[], object]] = {
    "dies": _die,
    "raises": _raise,
    "exits": _exit,
    "is stuck": sleep,
}


def works_at_last(way: str, failures: int, folder: str) -> int | None:
    """Go wrong so many times in one of the ways; then return the how-manieth attempt it was."""
    attempts = len(list(Path(folder).iterdir()))
    (Path(folder) / str(attempts)).touch()
    if attempts < failures:
        _WAYS[way]()
    return attempt()
