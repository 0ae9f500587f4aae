"""Pickling by value, with cloudpickle, of what plain pickle cannot take.

Functions and classes of the main module that all workers know still go by name: else an instance that
travels by name would be of another class than the one that a lambda beside it has brought along.
"""

from __future__ import annotations

import functools
from collections import ChainMap
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle

from glasspool.engines.local import contexts, interactive, main_elsewhere

if TYPE_CHECKING:  # cloudpickle has no types; its pickler is one of these
    from pickle import Pickler
else:
    from cloudpickle import Pickler


def cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    """Rebuild a function with a cache, which begins empty."""
    return functools.lru_cache(maxsize, typed)(function)


class ByValuePickler(Pickler):
    """Pickles by value what workers do not know by name, with ``multiprocessing``'s reducers and ours."""

    # Of the class, as the constructor looks for it there; what is registered later is found, too.
    dispatch_table: ClassVar[ChainMap[type, Any]] = ChainMap(  # type: ignore[misc]  # as cloudpickle
        ForkingPickler._extra_reducers,  # type: ignore[attr-defined]
        contexts.reducers,
        *cloudpickle.Pickler.dispatch_table.maps,
    )

    def __init__(self, file: Any, protocol: int, buffer_callback: Any = None) -> None:
        super().__init__(file, protocol, buffer_callback=buffer_callback)
        self._registered: list[ModuleType] = []

    def dump(self, value: Any) -> None:
        """Pickle a value.

        Raises:
            Exception: It cannot be pickled.
        """
        main_elsewhere.begin()
        try:
            super().dump(value)
        finally:
            for module in self._registered:
                cloudpickle.unregister_pickle_by_value(module)
            self._registered.clear()

    def reducer_override(self, value: Any, /) -> Any:
        """Say how a function or class is pickled: by name if workers know it."""
        if isinstance(value, interactive.NAMED):
            if interactive.is_known(value):
                return NotImplemented
            self._see_module(value)
            if not isinstance(value, FunctionType | type):
                limits = value.cache_parameters()
                return cached, (value.__wrapped__, limits["maxsize"], limits["typed"])
        if main_elsewhere.is_of_main(value):
            return main_elsewhere.shared(super().reducer_override(value))
        return super().reducer_override(value)

    def _see_module(self, value: Any) -> None:
        """Have all of a module that was made at run time travel by value."""
        module = interactive.made_here(value)
        if module is None or module.__name__ in cloudpickle.list_registry_pickle_by_value():
            return
        try:
            cloudpickle.register_pickle_by_value(module)
        except ValueError:  # cloudpickle does not find it: then it goes by value anyway
            return
        self._registered.append(module)
