"""What the workers of ``test_joblib`` run; importable by name, also in a spawned process."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import joblib

import glasspool


def square(value: int) -> int:
    """Return the square."""
    return value * value


def pid(_: object = None) -> int:
    """Return the process that runs this."""
    return os.getpid()


def refuse(value: int) -> int:
    """Raise for one value."""
    if value == 3:
        raise KeyError("three")
    return value


def end_for(value: int) -> int:
    """End the process for one value."""
    if value == 3:
        os._exit(7)
    return value


def leave(value: int) -> int:
    """Want to end the program, for one value."""
    if value == 1:
        raise SystemExit(5)
    return value


def where(_: object = None) -> str | None:
    """Wait a little, and return what the worker says that it runs."""
    time.sleep(0.05)
    here = glasspool.worker()
    return None if here is None else here.function


def note(folder: Path, value: int) -> int:
    """Leave a file, after a while; the first one raises at once."""
    if value == 0:
        raise ValueError("the first")
    time.sleep(0.1)
    (folder / str(value)).touch()
    return value


def nested(value: int) -> tuple[str, list[int]]:
    """Make a parallel call in a task; return on which backend, and its values."""
    backend, _ = joblib.parallel.get_active_backend()
    values = joblib.Parallel(n_jobs=2)(joblib.delayed(square)(value + i) for i in range(3))
    return type(backend).__name__, values


def nested_processes(value: int) -> tuple[list[int], int]:
    """Make one on a pool; return its values, and how many threads are left."""
    import threading

    calls = (joblib.delayed(square)(value + i) for i in range(3))
    values = joblib.Parallel(n_jobs=2, backend="glasspool")(calls)
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(10)
    return values, threading.active_count()


def variables(_: object = None) -> tuple[str | None, str | None]:
    """Return how many threads OpenMP may use, and whether TBB's processes talk."""
    return os.environ.get("OMP_NUM_THREADS"), os.environ.get("ENABLE_IPC")


def corner(array: Any, index: int) -> float:
    """Return an element of an array."""
    return float(array[index])


def finite(_: object = None) -> bool:
    """Return a setting of scikit-learn's."""
    import sklearn

    return bool(sklearn.get_config()["assume_finite"])
