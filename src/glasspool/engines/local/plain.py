"""Plain values: built-in, short, and such that nobody can change them.

They need no pickle of their own: a row of them is packed at once with ``marshal``, when it is sent, and
any thread may rebuild them, as no code of the user's runs. Types are compared exactly: an instance of a
subclass may have code and state of its own.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any

from glasspool.engines.local.wire import PLAIN, PLAIN_BYTES

if TYPE_CHECKING:
    from glasspool.ledger import Task

MOST_VALUES = 8
MOST_CHARACTERS = 64
_LEAST_INT, _GREATEST_INT = -(1 << 63), 1 << 63
_FIXED = frozenset({float, bool, type(None)})
_TEXTS = frozenset({str, bytes})

WEIGHT = 128
"""What the arguments of a task count for, in bytes, where memory is bounded and they are plain."""


def is_plain(value: Any) -> bool:
    """Tell whether one value is plain."""
    kind = type(value)
    if kind is int:
        return _LEAST_INT <= value < _GREATEST_INT  # type: ignore[no-any-return]
    return kind in _FIXED or (kind in _TEXTS and len(value) <= MOST_CHARACTERS)


def are_plain(values: tuple[Any, ...]) -> bool:
    """Tell whether all of a call's arguments are plain, and not too many."""
    for value in values:
        # As in is_plain; this runs for each call, and a call for each argument would cost more.
        kind = type(value)
        if kind is int:
            if _LEAST_INT <= value < _GREATEST_INT:
                continue
            return False
        if kind not in _FIXED and (kind not in _TEXTS or len(value) > MOST_CHARACTERS):
            return False
    return len(values) <= MOST_VALUES


def size(value: Any) -> int:
    """Return how many bytes a plain value, or a tuple of them, has on its way."""
    return len(marshal.dumps(value))


def argument_bytes(task: Task) -> int:
    """Return how many bytes the arguments of a task have on their way."""
    return size(task.payload) if task.kind & PLAIN else task.weight


def pack(value: Any) -> bytes | None:
    """Pack a plain value that is short enough for an OK_PLAIN reply; None for any other."""
    if value is None:
        return NONE
    kind = type(value)
    if kind is int or kind in _FIXED or (kind in _TEXTS and len(value) < PLAIN_BYTES):
        packed = marshal.dumps(value)
        if len(packed) <= PLAIN_BYTES:
            return packed
    return None


NONE = marshal.dumps(None)
