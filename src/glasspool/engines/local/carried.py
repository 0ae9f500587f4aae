"""A callable that brings along what is to surround its calls in the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Surrounding(Protocol):
    """What a call runs in."""

    def run(self, function: Callable[..., Any], args: Any, kwds: Any) -> Any:
        """Call the function there."""


class Carried:
    """A callable of the user's, called in a surrounding that the worker makes of what travels with it.

    Args:
        function: The user's callable, whose name views show.
        surround: Makes the surrounding, in the worker; a function that pickle names by reference.
        luggage: What it is made of.
    """

    __slots__ = ("_luggage", "_made", "_surround", "function")

    def __init__(
        self, function: Callable[..., Any], surround: Callable[[Any], Surrounding], luggage: Any
    ) -> None:
        self.function: Callable[..., Any] = function
        self._surround = surround
        self._luggage = luggage
        self._made: Surrounding | None = None

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        made = self._made
        if made is None:
            made = self._made = self._surround(self._luggage)
        return made.run(self.function, args, kwds)

    def __reduce__(self) -> Any:
        return Carried, (self.function, self._surround, self._luggage)


def bare(function: Any) -> Any:
    """Return the callable of the user's, without what surrounds its calls."""
    while isinstance(function, Carried):
        function = function.function
    return function
