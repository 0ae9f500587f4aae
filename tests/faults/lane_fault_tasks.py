"""Tasks that end badly in one lane of a worker, and others that go on beside them."""

from __future__ import annotations

import os
import signal
import threading
import time

import gates
import glasspool

LONG_S = 60.0


def wait_at_gate(value: int) -> int:
    """Say that this has begun, wait until the gate is open, and return the value."""
    gates.shared["started"].release()
    gates.shared["gate"].wait(gates.LIMIT_S)
    return value


def die_at_gate() -> None:
    """Say that this has begun, wait until the gate is open, and be killed."""
    wait_at_gate(0)
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_first(value: int) -> tuple[int, int]:
    """Be killed at the first attempt as soon as the others are here; else return the attempt."""
    here = glasspool.worker()
    assert here is not None
    assert here.attempt is not None
    if here.attempt == 1:
        barrier.wait(gates.LIMIT_S)
        os.kill(os.getpid(), signal.SIGKILL)
    return value, here.attempt


barrier = threading.Barrier(1)


def prepare(parties: int) -> None:
    """Make what tasks meet at (an initializer)."""
    global barrier
    barrier = threading.Barrier(parties)


def loop() -> None:
    """Run bytecode for long."""
    end = time.monotonic() + LONG_S
    while time.monotonic() < end:
        pass


def block() -> None:
    """Wait in C, where no exception comes out."""
    time.sleep(LONG_S)


def block_until_told() -> None:
    """Wait in C until somebody gives the token back."""
    gates.shared["token"].acquire(timeout=gates.LIMIT_S)


def last(number: int, seconds: float, naps: bool) -> int:
    """Run for so long, in bytecode or in short sleeps, and return the number."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if naps:
            time.sleep(0.0005)
    return number


def pid_of(_: int) -> int:
    """Return the process that this runs in."""
    return os.getpid()
