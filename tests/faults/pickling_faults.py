"""Values that do not travel, by what is wrong with them; importable by name in a spawned worker."""

from __future__ import annotations

import functools
import os
import resource
import threading
from collections.abc import Callable
from typing import Any

LARGE = 3_000_000
DEEP = 20_000


class Stays:
    """Raises while it is pickled."""

    def __reduce__(self) -> Any:
        raise LookupError("no way out")

    def __call__(self) -> None: ...


class Breaks:
    """Raises while it is rebuilt, in any process but ``home``."""

    def __init__(self, home: int) -> None:
        self._home = home

    def __reduce__(self) -> Any:
        return break_down, (self._home,)

    def __call__(self) -> None: ...


def break_down(home: int) -> Any:
    """Raise, anywhere but at home."""
    if os.getpid() == home:
        return Breaks(home)
    raise LookupError("no way in")


class Link:
    """One of a chain that is too long for pickle."""

    def __init__(self, following: Any) -> None:
        self.following = following

    def __call__(self) -> None: ...


def chain(home: int) -> Any:
    """Return what is too deep for pickle."""
    made = None
    for _ in range(DEEP):
        made = Link(made)
    return made


def lock(home: int) -> Any:
    """Return what cannot be pickled by design."""
    return functools.partial(take, threading.Lock())


def large(home: int) -> Any:
    """Return what is larger than any message, and travels."""
    return functools.partial(take, b"x" * LARGE)


FAULTS: dict[str, Callable[[int], Any]] = {
    "fails while pickled": lambda home: Stays(),
    "fails while rebuilt": Breaks,
    "too deep": chain,
    "unpicklable by design": lock,
    "large": large,
    "no room": large,
}


def take(*values: Any) -> int:
    """Take whatever comes."""
    return 1


def square(value: int) -> int:
    """Return the square."""
    return value * value


def pid(_: Any = None) -> int:
    """Return who runs this."""
    return os.getpid()


def leave_no_room() -> None:
    """Let this process write no file, and fill no segment, above 64 KB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))


def make_room() -> None:
    """Take back what ``leave_no_room`` did."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def give(fault: str) -> Any:
    """Return the value with the fault, made here."""
    if fault == "no room":
        leave_no_room()
    return FAULTS[fault](os.getpid())


class Bad(Exception):
    """An exception that carries a value."""


def fail(fault: str) -> None:
    """Raise an exception that carries the value with the fault, made here."""
    raise Bad("it happened", give(fault))


def return_or(what: str, fault: str | None) -> Any:
    """Return 1, or do what the word says with the fault."""
    if fault is None:
        return 1
    return give(fault) if what == "result" else fail(fault)
