"""What the workers of the tests on worker times and progress run; importable by name."""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.synchronize import Semaphore
from typing import Any

import glasspool

_shared: dict[str, Semaphore] = {}


def keep(gate: Semaphore, started: Semaphore, lasts_s: float = 0.0) -> None:
    """Keep what the parent shares, and take some time for it (an initializer)."""
    _shared.update(gate=gate, started=started)
    time.sleep(lasts_s)


def wait_at_gate(number: int = 0) -> int:
    """Tell the parent that this task runs, wait for its word, and return the argument."""
    _shared["started"].release()
    _shared["gate"].acquire()
    return number


def increment(number: int) -> int:
    """Do next to nothing."""
    return number + 1


def sleep(seconds: float) -> int:
    """Take a while."""
    time.sleep(seconds)
    return os.getpid()


def sleep_and_raise(seconds: float) -> None:
    """Take a while, and fail."""
    time.sleep(seconds)
    raise LookupError("on purpose")


class SlowToMove:
    """A value that takes its time to be rebuilt, and to be pickled in a worker."""

    def __init__(self, load_s: float, dump_s: float, parent: int) -> None:
        self.load_s, self.dump_s, self.parent = load_s, dump_s, parent

    def __getstate__(self) -> dict[str, Any]:
        if os.getpid() != self.parent:
            time.sleep(self.dump_s)
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if os.getpid() != self.parent:
            time.sleep(self.load_s)


def give_back(value: Any) -> Any:
    """Return the argument."""
    return value


def sleep_at_exit(seconds: float) -> int:
    """Have this worker take its time to leave."""
    import atexit

    atexit.register(time.sleep, seconds)
    return os.getpid()


def report_and_wait(done: float, total: float | None) -> None:
    """Say how far the task is, and wait at the gate."""
    glasspool.report_progress(done, total)
    wait_at_gate()


def report_if_even(number: int) -> None:
    """Say how far the item is if its number is even, and wait at the gate."""
    if number % 2 == 0:
        glasspool.report_progress(number, 10)
    wait_at_gate()


def report_in_a_fork(number: int) -> None:
    """Say something, have a fork of this process say something else, and wait at the gate."""
    glasspool.report_progress(number)
    child = os.fork()
    if not child:
        glasspool.report_progress(99, 100)
        os._exit(0)
    os.waitpid(child, 0)
    wait_at_gate()


def report_from_threads(times: int) -> None:
    """Say something from four threads at once, and wait at the gate."""

    def report() -> None:
        for number in range(times):
            glasspool.report_progress(number, times)

    threads = [threading.Thread(target=report) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    glasspool.report_progress(times, times)
    wait_at_gate()


def cost_of_reports(times: int) -> float:
    """Return how many seconds one word on the progress takes."""
    begun = time.perf_counter()
    for number in range(times):
        glasspool.report_progress(number, times)
    return (time.perf_counter() - begun) / times


def refused(done: Any, total: Any) -> str:
    """Return the error that a bad word on the progress raises."""
    try:
        glasspool.report_progress(done, total)
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"
