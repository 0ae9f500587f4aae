"""Functions that workers on the nodes of a cluster run, by name."""

from __future__ import annotations

import os


def double(value: int) -> int:
    """Return the double."""
    return 2 * value


def where(value: int) -> int:
    """Return the worker's pid."""
    return os.getpid()


def held(path: str) -> str:
    """Wait until somebody writes into a pipe, and return what that was."""
    with open(path) as pipe:
        return pipe.read()
