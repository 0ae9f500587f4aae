"""Functions that draw random numbers in workers."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

drawn: list[float] = []


def draw(item: Any = None) -> tuple[float, float]:
    """Draw from ``random`` and from NumPy, imported here at the latest."""
    import numpy

    return random.random(), float(numpy.random.random())


def draw_two(first: Any, second: Any = None) -> float:
    """Draw, with several arguments."""
    return random.random()


def draw_as_initializer() -> None:
    """Draw in an initializer."""
    drawn.append(random.random())


def drawn_by_initializer(item: Any = None) -> float:
    """Return what the initializer drew."""
    return drawn[-1]


def draw_at_second_try(folder: str) -> float:
    """Draw, die at the first attempt, and draw the same again."""
    marker = Path(folder, "tried")
    value = random.random()
    if not marker.exists():
        marker.write_text(repr(value))
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def draw_from_numpy_alone(item: Any = None) -> tuple[int, float]:
    """Draw from the generator that the worker has inherited or made."""
    import numpy

    return os.getpid(), float(numpy.random.random())


def draw_both(item: Any = None) -> tuple[int, float, float]:
    """Draw once, and tell who did."""
    return os.getpid(), *draw()


def has_numpy() -> bool:
    """Tell whether NumPy is there."""
    return "numpy.random" in sys.modules
