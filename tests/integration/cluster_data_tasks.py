"""Tasks of the tests of what travels to nodes and back."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
kept: Array = None


def element(array: Array, index: int) -> float:
    return float(array[index]) + array.nbytes


def keep(array: Array) -> None:
    global kept
    kept = array


def kept_element(index: int) -> float:
    return element(kept, index)


def filled(length: int, value: float = 1.0) -> Array:
    return np.full(length, value)


def numbered(index: int) -> Array:
    return np.full(100_000, float(index))


def same(value: Any) -> Any:
    return value


def imports(name: str) -> str:
    return __import__(name).__name__


def of_a_module_of_the_node(folder: str) -> Any:
    """Return an object of a class which only this process can import."""
    Path(folder, "on_the_node_alone.py").write_text("class There:\n    pass\n")
    sys.path.append(folder)
    try:
        from on_the_node_alone import There  # type: ignore[import-not-found]
    finally:
        sys.path.remove(folder)
        os.unlink(Path(folder, "on_the_node_alone.py"))
    return There()


def square(value: int) -> int:
    return value * value
