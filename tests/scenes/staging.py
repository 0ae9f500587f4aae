"""What every scene does: end by itself, and tell the test how far it has come.

A scene is a program that the tests run by path and look at from outside. It prints one line for each
thing that stands; the test reads as many lines as it waits for.
"""

from __future__ import annotations

import os
import signal
import sys
import time

LIFE_S = 60
"""No process of a scene lives longer than this, whatever becomes of its test."""


def begin() -> str:
    """Limit the life of this process, and return the first argument (the start method)."""
    signal.alarm(LIFE_S)
    return sys.argv[1] if len(sys.argv) > 1 else "fork"


def option(default: str) -> str:
    """Return the second argument."""
    return sys.argv[2] if len(sys.argv) > 2 else default


def tell(word: str) -> None:
    """Print one line in one piece, whichever process it is."""
    os.write(1, f"{word}\n".encode())


def set_up(word: str = "initializer") -> None:
    """Initializer of a worker: does nothing to remember."""
    signal.alarm(LIFE_S)


def set_up_for_ever(word: str = "initializer") -> None:
    """Initializer of a worker that never ends."""
    signal.alarm(LIFE_S)
    tell("initializing")
    time.sleep(LIFE_S)


def work(item: int) -> int:
    """A task that lasts as long as the scene."""
    tell(f"task {item}")
    time.sleep(LIFE_S)
    return item


def touch(item: int) -> int:
    """A task that ends at once."""
    return item


def items_that_stop(count: int):
    """Give some items and then none, without an end."""
    yield from range(count)
    tell("iterating")
    time.sleep(LIFE_S)


def called_back(result: object) -> None:
    """A callback that lasts as long as the scene."""
    tell("called back")
    time.sleep(LIFE_S)


def rest() -> None:
    """Say that the scene stands, and wait for its end."""
    tell("ready")
    time.sleep(LIFE_S)
