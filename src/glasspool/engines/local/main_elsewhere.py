"""The globals of the program's main module, in workers that have another one.

Functions of ``__main__`` travel by value to other machines (``interactive``). cloudpickle gives each pickle
globals of its own, so what an initializer has set, no task would see. Here all of them share the globals
of the worker's main module, as they do on one machine: with each function come those that it uses.

* Functions, classes and modules are set anew each time: the program may have defined them again.
* Data is set when it first comes, and again when the program has changed it; till then it belongs to
  the worker. So what the initializer or a task has put into a global stays, as on one machine.

Data is pickled apart, with a digest that tells whether it has changed, and rebuilt only if so.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from glasspool.engines.local import interactive, outfit, payload

_CODE = (ModuleType, BuiltinFunctionType, *interactive.NAMED)

Packed = dict[str, tuple[bytes, bytes]]
"""Data by name: its digest and its pickle."""


class _Busy(threading.local):
    """The names of the data that this thread is pickling; a function in it may use it."""

    def __init__(self) -> None:
        self.packed: Packed = {}
        self.names: set[str] = set()


_busy = _Busy()
_seen: dict[str, bytes] = {}
"""The digests of what this worker was sent last."""


class MainGlobals:
    """Stands for the globals of the main module; those of the worker, where it is rebuilt."""

    def __reduce__(self) -> Any:
        return globals_here, ()


class Used:
    """The globals that a function uses, on their way."""

    def __init__(self, used: dict[str, Any]) -> None:
        self._used = used

    def __reduce__(self) -> Any:
        code = {name: value for name, value in self._used.items() if isinstance(value, _CODE)}
        names = self._used.keys() - code.keys()
        return brought, (code, {name: _pack(name, self._used[name]) for name in sorted(names)})


def begin() -> None:
    """Forget what this thread has pickled, unless this is part of it."""
    if not _busy.names:
        _busy.packed = {}


def _pack(name: str, value: Any) -> tuple[bytes, bytes] | None:
    if name in _busy.names:
        return None  # it comes with what is being pickled
    packed = _busy.packed
    if name not in packed:
        _busy.names.add(name)
        try:
            body = payload.dump_in_one_piece(value, by_value=True)
        finally:
            _busy.names.discard(name)
        packed[name] = (hashlib.blake2b(body, digest_size=16).digest(), body)
    return packed[name]


def is_of_main(function: Any) -> bool:
    """Tell whether a function has the main module's globals, and goes to workers that have others."""
    main = sys.modules.get("__main__")
    return (
        isinstance(function, FunctionType)
        and interactive.is_far()
        and function.__globals__ is getattr(main, "__dict__", None)
    )


def shared(reduced: Any) -> Any:
    """Return how cloudpickle reduces a function, with the globals of the worker's main module."""
    if not isinstance(reduced, tuple) or len(reduced) != 6:
        return reduced  # by its name
    make, (code, _, *others), (own, slots), *rest = reduced
    slots = slots | {"__globals__": Used(slots["__globals__"])}
    return (make, (code, MainGlobals(), *others), (own, slots), *rest)


# In the worker --------------------------------------------------------------------------------------


def globals_here() -> dict[str, Any]:
    """Return the globals of this process's main module."""
    return sys.modules["__main__"].__dict__


def brought(code: dict[str, Any], packed: dict[str, tuple[bytes, bytes] | None]) -> dict[str, Any]:
    """Return which globals a function that has come changes."""
    there = globals_here()
    if not outfit.is_on_node():  # of this machine: it has the main module itself
        code = {name: value for name, value in code.items() if name not in there}
        packed = {name: told for name, told in packed.items() if name not in there}
    changed = dict(code)
    for name, told in packed.items():
        if told is not None and _seen.get(name) != told[0]:
            _seen[name] = told[0]
            changed[name] = payload.load(told[1])
    return changed
