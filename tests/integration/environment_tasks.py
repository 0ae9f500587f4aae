"""What the workers of ``test_worker_environment`` run; importable by name, also in a spawned process."""

from __future__ import annotations

import os

import gates

AT_IMPORT = os.environ.get("GP_SLOT")
"""What this module found as it was loaded."""

at_start: list[str | None] = []


def of_slot(slot: int) -> dict[str, str]:
    """Return what a slot is given."""
    return {"GP_SLOT": f"slot {slot}"}


def prepare() -> None:
    """Note what the initializer finds."""
    at_start.append(os.environ.get("GP_SLOT"))


def look(_: object = None) -> tuple[str | None, str | None, list[str | None]]:
    """Return the variable now, as this module was loaded, and in the initializer."""
    return os.environ.get("GP_SLOT"), AT_IMPORT, at_start


def variables(names: tuple[str, ...]) -> dict[str, str]:
    """Return those of some variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}


def multiply(seconds: float) -> float:
    """Multiply matrices that are large enough for all threads, for so long; return the time it took."""
    import time

    import numpy

    begun = time.monotonic()
    matrix = numpy.ones((500, 500))
    while time.monotonic() < begun + seconds:
        matrix @ matrix
    return time.monotonic() - begun


def multiply_then_wait(seconds: float) -> None:
    """Multiply, then tell that it is done, and wait for the parent's gate."""
    multiply(seconds)
    gates.shared["started"].release()
    gates.shared["gate"].wait(gates.LIMIT_S)


def lift_the_limit() -> None:
    """Let BLAS use two threads, and have it use them; then wait for the parent's gate."""
    import threadpoolctl

    with threadpoolctl.threadpool_limits(2):
        multiply_then_wait(0.3)
