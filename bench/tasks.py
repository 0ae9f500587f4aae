"""What the workers run. In a module of its own, which is all that a spawned worker imports."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

HOLD_S = 120.0
_kept: dict[int, Any] = {}


def increment(number: int) -> int:
    """Do next to nothing, so that what is measured is the pool."""
    return number + 1


def same(value: Any) -> Any:
    """Return what came, so that it travels both ways."""
    return value


def make_record(number: int) -> dict[str, Any]:
    """Return a dict whose pickle has about 1 KB."""
    fields: dict[str, Any] = {f"field_{index:02}": f"{number:>040}" for index in range(17)}
    fields["number"] = number
    fields["share"] = number / 7
    return fields


def read_array(array: Any) -> float:
    """Read one number of every page of an array of float64, so that all of it must be there."""
    return float(array[::512].sum())


def read_array_for(array: Any, number: int) -> float:
    """Read an array for one of many items."""
    return read_array(array) + number


def give_array(size: int) -> Any:
    """Return an array of so many float64, made once in each worker: making it is not measured."""
    import numpy

    if size not in _kept:
        _kept[size] = numpy.arange(size, dtype=numpy.float64)
    return _kept[size]


def nap(seconds: float) -> float:
    """Sleep: work of a known length that needs no processor, so workers may outnumber those."""
    time.sleep(seconds)
    return seconds


def nap_time(seconds: float) -> float:
    """Return how long such a nap really lasts."""
    begun = time.perf_counter()
    nap(seconds)
    return time.perf_counter() - begun


def hold(folder: str, name: str) -> None:
    """Occupy a worker, and tell its pid by a file; if it runs once more, leave at once."""
    try:
        Path(folder, name).write_text("")
        Path(folder, name).rename(Path(folder, f"{name}.{os.getpid()}"))
    except FileNotFoundError:
        return  # the folder is gone, the measurement over
    if len(list(Path(folder).glob(f"{name}.*"))) > 1:
        return
    time.sleep(HOLD_S)


def arrive(_: int) -> tuple[int, float]:
    """Tell who runs this, and since when by the clock that all processes share."""
    return os.getpid(), time.monotonic()
