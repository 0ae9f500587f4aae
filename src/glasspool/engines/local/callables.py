"""The callables of a pool: what users asked to have called, by number.

A callable that pickle names by reference gets a number for good. Any other is pickled anew for each
job that uses it: inside the task for an apply, else under a number of its own that ends with the job.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from glasspool.engines.local import interactive, payload, wire

Carry = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Wraps a function that is submitted (``carried``)."""


class Known(NamedTuple):
    """A callable with a number: its name for views, and how it travels.

    ``by_value`` says that only cloudpickle could take it.
    """

    number: int
    name: str
    flags: int
    body: bytes | payload.Parcel

    @property
    def by_value(self) -> bool:
        """Whether only cloudpickle could take it."""
        return bool(self.flags & wire.BY_VALUE)

    @property
    def for_one_job(self) -> bool:
        """Whether the number ends with the job."""
        return not self.flags & wire.BY_REFERENCE


class Callables:
    """Numbers for callables. Safe from any thread: each step is one operation on a dict."""

    def __init__(self, name_call: Callable[[int, str], None]) -> None:
        self._by_object: dict[Any, Known] = {}
        self._short: dict[Any, Known] = self._by_object  # those that may be called as they are
        # What is to surround the calls of every function that is submitted, by who wants it to.
        self._carries: dict[str, Carry] = {}
        self.carry: Carry | None = None  # all of these in one; None if there are none
        self._by_number: dict[int, Known] = {}
        self._numbers = itertools.count(1)
        self._name_call = name_call

    def surround(self, who: str, carry: Carry | None) -> None:
        """Have all functions that are submitted from now on called in something of ``who``'s, or not.

        Who comes first is the innermost.
        """
        carries = self._carries.copy()
        carries.pop(who, None)
        if carry is not None:
            carries[who] = carry
        self._carries = carries
        self.carry = _one_of(tuple(carries.values())) if carries else None
        self._short = {} if carries else self._by_object

    def by_reference(self, function: Callable[..., Any]) -> Known | None:
        """Return the number of a callable that travels by name; None if it does not.

        Raises:
            Exception: It looks as if it did, and cannot be pickled at all.
        """
        try:
            known = self._by_object.get(function)
        except TypeError:  # not hashable
            return None
        if known is not None:
            return known
        if interactive.look_at(function) or not payload.is_by_reference(function):
            return None
        body, by_value = payload.dump_any(function)
        if by_value:
            return None
        known = self._add(function, wire.BY_REFERENCE, body)
        self._by_object[function] = known
        return known

    def number(self, function: Callable[..., Any]) -> int:
        """Return the number of a callable that was told by ``by_reference`` before; else 0.

        None has one while something is to surround all calls.
        """
        try:
            known = self._short.get(function)
        except TypeError:  # not hashable
            return 0
        return 0 if known is None else known.number

    def is_kept(self, function: Callable[..., Any]) -> bool:
        """Tell whether workers keep a callable as an object, and do not rebuild it for each task."""
        try:
            return self.by_reference(function) is not None
        except Exception:  # as for_job is about to find out
            return False

    def for_job(self, function: Callable[..., Any]) -> Known:
        """Return a number for one job; for good if the callable travels by name.

        Raises:
            Exception: It cannot be pickled.
        """
        known = self.by_reference(function)
        if known is None:
            body, by_value = payload.dump_any(function)
            known = self._add(function, wire.BY_VALUE if by_value else 0, body)
        return known

    def called(self, function: Callable[..., Any], name: str) -> Known:
        """Return the number of a callable that travels by name, but is shown by another one."""
        known = self._by_object.get((function, name))
        if known is None:
            body, _ = payload.dump_any(function)
            known = self._by_object[function, name] = self._add(
                function, wire.BY_REFERENCE, body, name
            )
        return known

    def take_over(self, name: str, flags: int, body: bytes | payload.Parcel) -> Known:
        """Give a number to a callable that somebody else has pickled."""
        return self._add(None, flags, body, name)

    def get(self, number: int) -> Known:
        """Return what has this number."""
        return self._by_number[number]

    def find(self, number: int) -> Known | None:
        """Return what has this number, if anything has (any more)."""
        return self._by_number.get(number)

    def name(self, number: int) -> str:
        """Return the name of what has or had this number."""
        known = self._by_number.get(number)
        return known.name if known is not None else "?"

    def forget(self, number: int) -> None:
        """Drop a callable that was for one job."""
        self._by_number.pop(number, None)

    def _add(
        self, function: Any, flags: int, body: bytes | payload.Parcel, name: str | None = None
    ) -> Known:
        if isinstance(body, payload.Parcel):
            body.open()  # now, as any thread may send it later
        name = payload.callable_name(function) if name is None else name
        known = Known(next(self._numbers), name, flags, body)
        self._by_number[known.number] = known
        self._name_call(known.number, known.name)
        return known


def _one_of(carries: tuple[Carry, ...]) -> Carry:
    """Return several surroundings as one."""

    def carry(function: Callable[..., Any]) -> Callable[..., Any]:
        for one in carries:
            function = one(function)
        return function

    return carries[0] if len(carries) == 1 else carry
