"""What the workers of the tests on seeing run; importable by name, also in a spawned process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Semaphore
from typing import Any

import glasspool

_shared: dict[str, Any] = {}
_left: list[threading.Thread] = []


def keep(gate: Semaphore, started: Semaphore) -> None:
    """Keep what the parent shares (an initializer)."""
    _shared.update(gate=gate, started=started)


def keep_slowly(gate: Semaphore, started: Semaphore) -> None:
    """Tell that the initializer runs, and stay in it until the gate opens (an initializer)."""
    keep(gate, started)
    tell()
    wait_open()


def fail() -> None:
    """Raise (an initializer)."""
    raise LookupError("on purpose")


def tell() -> None:
    """Tell the parent that this task runs."""
    _shared["started"].release()


def wait_open() -> None:
    """Wait until the parent opens the gate."""
    gate: Semaphore = _shared["gate"]
    if not gate.acquire(timeout=60):
        raise RuntimeError("the gate was never opened")
    gate.release()  # for the next one who waits


def _is_open() -> bool:
    gate: Semaphore = _shared["gate"]
    if not gate.acquire(block=False):
        return False
    gate.release()
    return True


def wait_at_gate(value: Any = None) -> Any:
    """Wait for the parent, and return the value."""
    tell()
    wait_open()
    return value


def loop_in_python(value: Any = None) -> Any:
    """Use the processor in Python until the gate opens."""
    tell()
    total = 0
    while not _is_open():
        for number in range(10_000):
            total += number
    return value


def sleep_again_and_again(value: Any = None) -> Any:
    """Sleep in C, for a little each time, until the gate opens."""
    tell()
    while not _is_open():
        time.sleep(0.002)
    return value


def multiply(value: Any = None) -> Any:
    """Multiply matrices (OpenBLAS has threads of its own for that) until the gate opens."""
    import numpy as np

    matrix = np.ones((400, 400))
    matrix @ matrix
    tell()
    while not _is_open():
        matrix @ matrix
    return len(os.listdir("/proc/self/task")), threading.active_count()


def start_threads(count: int = 2) -> Any:
    """Start threads that wait for the gate, and wait for them; return their native ids."""
    threads = [
        threading.Thread(target=wait_open, name=f"kid-{number}", daemon=True)
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    tell()
    for thread in threads:
        thread.join()
    return sorted(thread.native_id or 0 for thread in threads)


def leave_a_thread() -> int | None:
    """Start a thread that outlives the task; return the number of the task."""
    thread = threading.Thread(target=wait_open, name="left behind", daemon=True)
    thread.start()
    _left.append(thread)
    here = glasspool.worker()
    return here.task if here is not None else None


def churn_threads(value: Any = None) -> int:
    """Start and end threads until the gate opens; return how many."""
    tell()
    count = 0
    while not _is_open():
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
        count += 1
    return count


def churn_processes(value: Any = None) -> int:
    """Start and end other programs until the gate opens; return how many."""
    tell()
    count = 0
    while not _is_open():
        subprocess.run([sys.executable, "-S", "-c", ""], check=True)
        count += 1
    return count


def hold_the_interpreter(value: Any = None) -> int:
    """Stay inside one C call that lets no other thread run, for longer than any test."""
    tell()
    return sum(range(10**12))


def die() -> None:
    """End the worker at once."""
    os._exit(3)


def who_am_i(value: Any = None) -> tuple[int, str, int, int]:
    """Return process, thread name, ident and native id of what runs this."""
    thread = threading.current_thread()
    return os.getpid(), thread.name, threading.get_ident(), threading.get_native_id()


def look_from_inside() -> tuple[Any, list[tuple[str, ...]], tuple[int, ...]]:
    """Look at a pool that this task makes; return place, roles of our threads, worker states."""
    with glasspool.Pool(1) as pool:
        pool.apply(int)
        seen = pool.inspect(stacks=True)
        roles = [t.roles for t in seen.threads if t.pid == os.getpid()]
        without = [t.name for w in seen.workers for t in w.threads if t.stack is None]
    pool.join()
    return glasspool.worker(), roles, tuple(map(len, without))


def look_at_nothing() -> int:
    """Return how many pools ``inspect`` finds in a worker: those of the parent are not its own."""
    return len(glasspool.inspect().pools)


# What signals could disturb ---------------------------------------------------------------------


def sleep_for(seconds: float) -> float:
    """Sleep; return how long it took."""
    begun = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - begun


def recurse(depth: int) -> int:
    """Call itself so often."""
    return 0 if depth == 0 else 1 + recurse(depth - 1)


def recurse_too_deep(value: Any = None) -> str:
    """Recurse until Python forbids it; return the name of the exception."""
    try:
        recurse(10**9)
    except RecursionError as error:
        return type(error).__name__
    return "none"


def generate(count: int) -> int:
    """Sum what nested generators yield."""

    def numbers() -> Iterator[int]:
        yield from range(count)

    return sum(number for number in (each for each in numbers()))


def run_program(seconds: float) -> tuple[str, float]:
    """Run another program that takes a while; return its output and how long it took."""
    begun = time.monotonic()
    code = f"import time; time.sleep({seconds}); print('ran')"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), time.monotonic() - begun


def multiply_once(size: int) -> float:
    """Return the trace of a product."""
    import numpy as np

    matrix = np.arange(size * size, dtype="f8").reshape(size, size)
    return float(np.trace(matrix @ matrix.T))


def read_pipe(seconds: float) -> bytes:
    """Read from a pipe that a thread writes into after a while."""
    reader, writer = os.pipe()
    timer = threading.Timer(seconds, os.write, (writer, b"late"))
    timer.start()
    try:
        return os.read(reader, 10)
    finally:
        timer.join()
        os.close(reader)
        os.close(writer)


def fork_and_wait(code: int) -> int:
    """Fork, let the child end, return its exit code."""
    child = os.fork()
    if child == 0:
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def raise_and_catch(count: int) -> int:
    """Raise, catch and clean up, many times."""
    seen = 0
    for _ in range(count):
        with contextlib.suppress(KeyError):
            try:
                raise KeyError(seen)
            finally:
                seen += 1
    return seen


JOBS: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = (
    (recurse, (500,)),
    (recurse_too_deep, ()),
    (generate, (20_000,)),
    (multiply_once, (60,)),
    (fork_and_wait, (7,)),
    (raise_and_catch, (5_000,)),
    (read_pipe, (0.02,)),
)
"""Calls whose value must be the same however often somebody looks."""
