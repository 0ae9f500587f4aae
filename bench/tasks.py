"""What the workers run. In a module of its own, which is all that a spawned worker imports."""

from __future__ import annotations

from typing import Any

_kept: dict[int, Any] = {}


def increment(number: int) -> int:
    """Do next to nothing, so that what is measured is the pool."""
    return number + 1


def read_array(array: Any) -> float:
    """Read one number of every page of an array of float64, so that all of it must be there."""
    return float(array[::512].sum())


def give_array(size: int) -> Any:
    """Return an array of so many float64, made once in each worker: making it is not measured."""
    import numpy

    if size not in _kept:
        _kept[size] = numpy.arange(size, dtype=numpy.float64)
    return _kept[size]
