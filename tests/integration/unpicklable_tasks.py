"""Values that cannot travel, in nested places, and functions that return or raise them."""

from __future__ import annotations

import ctypes
import sqlite3
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Model:
    """Something with a lock."""

    def __init__(self, name: str = "m") -> None:
        self.name = name
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        raise AssertionError("nobody may ask for this")

    def run(self, item: Any) -> Any:
        """Be a task."""
        return item


class Slotted:
    """Something with a lock in a slot."""

    __slots__ = ("guard", "rest")

    def __init__(self) -> None:
        self.rest = 1
        self.guard = threading.RLock()


@dataclass
class Holder:
    """Something that holds others."""

    models: list[Any] = field(default_factory=list)
    table: dict[str, Any] = field(default_factory=dict)


class Leaves:
    """Something that leaves out what cannot travel, but for one thing."""

    def __init__(self) -> None:
        self.left_out = threading.Lock()
        self.file = sys.stderr

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file}


class Refuses:
    """Something that says itself that it cannot travel."""

    def __reduce__(self) -> Any:
        raise LookupError("not today")


class Carries(Exception):
    """An exception with something that cannot travel."""

    def __init__(self, what: Any) -> None:
        super().__init__("carries")
        self.what = what


class Picky(Exception):
    """An exception that cannot be rebuilt from its arguments."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)


def a_generator() -> Any:
    """Yield."""
    yield 1


def makers() -> dict[str, Callable[[], Any]]:
    """Return for each kind of value what makes one."""
    return {
        "_thread.lock": threading.Lock,
        "_thread.RLock": threading.RLock,
        "_io.BufferedRandom": tempfile.TemporaryFile,
        "generator": a_generator,
        "threading.Thread": threading.Thread,
        "sqlite3.Connection": lambda: sqlite3.connect(":memory:"),
        "frame": lambda: sys._getframe(),
        "weakref.ReferenceType": lambda: weakref.ref(Holder),
        "LP_c_int": lambda: ctypes.pointer(ctypes.c_int(1)),
        "mappingproxy": lambda: vars(Holder),
        "memoryview": lambda: memoryview(b"abc"),
    }


def identity(value: Any) -> Any:
    """Return what was given."""
    return value


def return_nested(kind: str) -> Any:
    """Return a value with something inside that cannot travel."""
    return {"rows": [1, Holder(table={"db": makers()[kind]()})]}


def raise_it() -> None:
    """Raise an exception with something that cannot travel."""
    raise Carries([threading.Lock()])


def raise_picky() -> None:
    """Raise an exception that cannot be rebuilt."""
    raise Picky(3, "three")


def takes_two(first: Any, second: Any = None, *, key: Any = None) -> None:
    """Take arguments."""
