"""What the workers of the tests on context variables run, and the variables; importable by name."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

request: ContextVar[Any] = ContextVar("request", default="nobody's")
other: ContextVar[Any] = ContextVar("other")


class Holder:
    """Has a variable of its own."""

    user: ContextVar[Any] = ContextVar("user")


class Awkward:
    """Can be pickled, and not be rebuilt."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    if os.getpid():
        raise LookupError("it does not want to be rebuilt")


def set_other(value: Any) -> None:
    """Set a variable for all tasks of a worker (an initializer)."""
    other.set(value)


def look(_: int = 0) -> tuple[Any, Any, Any]:
    """Return what the variables hold here."""
    return request.get(), Holder.user.get("unset"), other.get("unset")


def look_and_spoil(_: int = 0) -> tuple[Any, Any, Any]:
    """Return what the variables hold here, and have them hold something else."""
    seen = look()
    for variable in (request, Holder.user, other):
        variable.set("spoilt")
    return seen


def fail(_: int = 0) -> None:
    """Raise."""
    raise LookupError(request.get())
