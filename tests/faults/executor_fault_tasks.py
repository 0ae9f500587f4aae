"""What executors that meet faults are asked to call."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

# For the programs that some tests start: pytest itself knows the folder.
sys.path.append(str(Path(__file__).parents[1]))

from gates import shared


def square(value: int) -> int:
    """Return the square."""
    return value * value


def squares_here(count: int) -> list[int]:
    """Return squares, made by an executor of this worker."""
    import glasspool

    with glasspool.Executor(1) as inner:
        return list(inner.map(square, range(count)))


def die_if(value: int, every: int) -> int:
    """Return the value; be killed at each so many."""
    if value % every == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def wait_for_gate(value: int = 0) -> int:
    """Tell that this runs, and wait for the gate."""
    shared["started"].release()
    if not shared["gate"].wait(60):
        raise RuntimeError("the gate was never opened")
    return value


def die_once(path: str) -> int:
    """Be killed at the first attempt."""
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def sleep(seconds: float) -> float:
    """Return after so many seconds."""
    time.sleep(seconds)
    return seconds


def pid(value: object = None) -> int:
    """Return who runs this."""
    return os.getpid()
