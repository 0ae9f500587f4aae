"""Interactive: functions and classes of a notebook or prompt, which workers may not know by name.

What is defined in a file, any process can find by name. What is typed at a prompt or in a cell belongs to
this process alone: a worker that was forked later has a copy of it, as it was then; one that was forked
before, or is no fork, has nothing. So while there are pools, pickle asks here, for each function and class
of such a ``__main__``, whether all of their workers have this very object. If not, it travels by value
(``payload.dump_any``), also when a cell was run again and the name leads to something new.

Where they have it, it still goes by name: then a global that the initializer has set is the one that the
function sees.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import FunctionType
from typing import Any

known: dict[int, dict[str, weakref.ref[Any]]] = {}
"""For each pool of an interactive program, by its number, what its workers find in ``__main__``."""


if hasattr(os, "register_at_fork"):
    # In a worker: what it returns is for the program, which knows what it has typed.
    os.register_at_fork(after_in_child=known.clear)


class Elsewhere(AttributeError):
    """Something is known here by its name, and in workers it is not. As pickle says of local ones."""


def is_interactive() -> bool:
    """Tell whether ``__main__`` is a prompt's or a notebook's, so that no worker can import it."""
    main = sys.modules.get("__main__")
    if main is None or hasattr(main, "__file__"):
        return False
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def begin(number: int, start_method: str) -> None:
    """Take note of what the workers of a pool know that is being made."""
    if is_interactive():
        known[number] = _named() if start_method == "fork" else {}


def end(number: int) -> None:
    """Forget a pool that has ended."""
    known.pop(number, None)


def _named() -> dict[str, weakref.ref[Any]]:
    return {
        name: weakref.ref(value)
        for name, value in list(vars(sys.modules["__main__"]).items())
        if isinstance(value, FunctionType | type)
    }


def is_elsewhere(value: Any) -> bool:
    """Tell whether a function or class goes by a name that not all workers know, or not as this."""
    if getattr(value, "__module__", None) != "__main__":
        return False
    name = str(getattr(value, "__qualname__", "")).partition(".")[0]
    now = getattr(sys.modules.get("__main__"), name, None)
    for names in list(known.values()):
        reference = names.get(name)
        if reference is None or reference() is not now:
            return True
    return False


class MindfulPickler(ForkingPickler):
    """Pickles by name only what workers find by it."""

    def reducer_override(self, value: Any, /) -> Any:
        """Refuse what they do not find; all else is pickled as always."""
        if isinstance(value, FunctionType | type) and is_elsewhere(value):
            raise Elsewhere(f"{value.__qualname__} of __main__ is not known in the workers")
        return NotImplemented


class ByValue:
    """A callable on its way to a spawned process, which has no other way to find it."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __reduce__(self) -> Any:
        import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self._function),)

    def __call__(self, *args: Any) -> object:
        """Call it here, as a fork does."""
        return self._function(*args)


def portable(function: Callable[..., Any] | None, start_method: str) -> Callable[..., Any] | None:
    """Return what to send in place of an initializer or finalizer, for a worker to find it."""
    if function is None or start_method == "fork" or not is_interactive():
        return function
    return ByValue(function) if getattr(function, "__module__", None) == "__main__" else function
