"""What recurs among the items of a finished list, and is copied once per job and not once per task.

``starmap(f, [(big, i) for i in ...])`` names one array many times. A buffer is known by its memory, and taken
for the same only if an object of the list recurs with it: the item itself, or what it has directly in
it. (Two objects whose own code lends the same piece of memory to pickle, one after the other, are two.) So it
has the value that it had when the first item with it was fed. Items that are drawn from an iterator are never
looked at here: what gives them may change the last one before it gives the next.

A job remembers few buffers: those that were used last, as each costs its memory until it is forgotten.
"""

from __future__ import annotations

import errno
import types
from typing import Any, NamedTuple

from glasspool.engines.local import segments
from glasspool.engines.local.segments import Hold

SHARE_BYTES = 256 * 1024
"""Smaller buffers are copied each time: a mapping of their own costs as much."""

MOST_SHARED = 8
"""A task has so many buffers in common with others at most: each is a descriptor more on the way."""

MOST_KNOWN = 16
KNOWN_BYTES = 256 * 1024 * 1024
"""So many buffers, and so many bytes of them, does a job remember; but the last one in any case."""

_ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), range, slice, type}
    | {types.FunctionType, types.BuiltinFunctionType, types.ModuleType}
)
"""Of these, one that recurs tells nothing of what is with it."""

_EMPTY: tuple[()] = ()


class _Known(NamedTuple):
    hold: Hold
    exporter: Any  # kept alive, so that the memory is not another's
    owners: dict[int, Any]  # by their ids, and kept alive as well
    size: int


class Recurring:
    """The buffers of one job that may recur. Used by the thread that makes the tasks."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], _Known] = {}  # the one that was used last is at the end

    def find(self, value: Any, buffers: list[memoryview]) -> dict[int, Hold] | None:
        """Return, by its index, each buffer that has a segment of its own now; None if none has.

        Raises:
            OSError: There is no room for a segment.
        """
        found: dict[int, Hold] = {}
        owners: dict[int, Any] | None = None
        for index, buffer in enumerate(buffers):
            if len(buffer) < SHARE_BYTES or len(found) >= MOST_SHARED:
                continue
            if owners is None:
                owners = _objects_in(value)
            hold = self._share(buffer, owners)
            if hold is not None and hold not in found.values():
                found[index] = hold
        return found or None

    def _share(self, buffer: memoryview, owners: dict[int, Any]) -> Hold | None:
        exporter = buffer.obj
        key = (_address(exporter), len(buffer))
        known = self._known.pop(key, None)
        if known is not None and not known.owners.keys().isdisjoint(owners):
            self._known[key] = known
            return known.hold
        if segments.census.is_full():
            return None
        try:
            hold = Hold(len(buffer))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return None
            raise
        hold.write([(0, buffer)], len(buffer))
        self._known[key] = _Known(hold, exporter, owners, len(buffer))
        self._forget_oldest()
        return hold

    def _forget_oldest(self) -> None:
        total = sum(known.size for known in self._known.values())
        while len(self._known) > 1 and (len(self._known) > MOST_KNOWN or total > KNOWN_BYTES):
            total -= self._known.pop(next(iter(self._known))).size


def _address(exporter: Any) -> int:
    """Return where the memory of an object begins; where it does not tell, what tells it apart."""
    # An array that lies by columns is lent through a passing view of it, so its id says nothing.
    interface = getattr(exporter, "__array_interface__", None)
    if isinstance(interface, dict):
        return int(interface["data"][0])
    return id(exporter)


def _objects_in(value: Any) -> dict[int, Any]:
    """Return, by id, the objects in a task: its items, and what they have directly in them."""
    found: dict[int, Any] = {}
    level = [value]
    for _ in range(3):  # a chunk, its items, what is in these
        following: list[Any] = []
        for each in level:
            if type(each) in _ATOMS or each is _EMPTY:
                continue
            found[id(each)] = each
            if type(each) in (tuple, list):
                following.extend(each)
            elif type(each) is dict:
                following.extend(each.values())
        level = following
    return found
