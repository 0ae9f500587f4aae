"""Seeding: the random numbers of tasks, and of workers.

*With a seed* (``Pool(seed=...)``), ``random`` and NumPy's global generator are seeded anew for each item,
from the seed, the number of the call in the pool, and the place of the item in the call. So what an item
draws does not depend on which worker runs it, on how many there are, on chunks, or on retries. The function
travels with what to make of it (``carried``), and each item of a map with its place (``Item``).

*Without one*, each worker's NumPy is seeded by the system as it starts: a fork inherits the state of its
parent, so that all workers would draw the same numbers. ``random`` does that itself at a fork.

NumPy is never imported here. If a task with a seed imports it, it is seeded as soon as it is there.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from glasspool.engines.local.carried import Carried

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from glasspool.engines.base import Engine

_WORDS = 8
"""So many words of 32 bits seed a generator: NumPy's takes them as they are, as an array."""

_NUMPY = "numpy.random"


class Item(NamedTuple):
    """One item of a map with its place in the call; ``star``: it is several arguments."""

    place: int
    value: Any
    star: bool = False

    def arguments(self) -> tuple[Any, ...]:
        """Return what the user's function is called with."""
        return tuple(self.value) if self.star else (self.value,)


class _Numbered:
    """A container's items, each with its place; drawn when they are asked for."""

    def __init__(self, items: Any, star: bool) -> None:
        self._items = items
        self._star = star

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return numbered(self._items, self._star)


def numbered(values: Iterable[Any], star: bool = False) -> Iterator[Any]:
    """Yield items with their places, in the form in which they travel."""
    for index, value in enumerate(values):
        item = Item(index, value, star)
        yield (item,) if star else item  # which is unpacked again


def numbered_all(items: Any, star: bool, is_finished: bool) -> Any:
    """Return a container's items with their places; ``is_finished``: all of them are there."""
    return list(numbered(items, star)) if is_finished else _Numbered(items, star)


def user_arguments(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the user's arguments of a call, without their place."""
    return args[0].arguments() if len(args) == 1 and type(args[0]) is Item else args


def begin(engine: Engine, seed: int) -> None:
    """Have all functions that are submitted to a pool called with numbers from a seed."""
    calls = itertools.count()  # one step in C: any thread may call

    def carry(function: Callable[..., Any]) -> Callable[..., Any]:
        return Carried(function, Seeded, (seed, next(calls)))

    engine.callables.surround("seed", carry)


class Seeded:
    """What a call with a seed runs in (worker)."""

    def __init__(self, luggage: tuple[int, int]) -> None:
        self._seed, self._call = luggage
        self._made = 0  # calls without a place: the items of an executor's chunk

    def run(self, function: Callable[..., Any], args: Any, kwds: Any) -> Any:
        """Seed, and call the function."""
        index = self._made
        self._made += 1
        if len(args) == 1 and type(args[0]) is Item:
            index = args[0].place
            args = args[0].arguments()
        plant(self._seed, self._call, index)
        return function(*args, **kwds)


def plant(*source: int | str) -> None:
    """Seed ``random`` and NumPy's global generator from some numbers and words.

    They get a half each of the BLAKE2b digest (RFC 7693) of the source's text, as little-endian numbers:
    the same seed would give both the same numbers, as they are the same Mersenne twister.

    Raises:
        TypeError: The program has given NumPy a global generator that takes no seed.
    """
    import hashlib  # here: only who has a seed needs them
    import random

    global _planted
    text = "/".join(map(str, source))
    digest = hashlib.blake2b(text.encode(), digest_size=8 * _WORDS, person=b"glasspool").digest()
    mine, numpys = digest[: 4 * _WORDS], digest[4 * _WORDS :]
    random.seed(int.from_bytes(mine, "little"))
    module = sys.modules.get(_NUMPY)
    if module is not None:
        _seed_numpy(module, numpys)
    else:
        if _planted is None:
            sys.meta_path.insert(0, _Watch())
        _planted = numpys  # for a NumPy that the item imports


def plant_anew() -> None:
    """Seed NumPy's global generator from the system, if NumPy is there: a fork has its parent's state."""
    module = sys.modules.get(_NUMPY)
    if module is None:
        return
    try:
        _seed_numpy(module, os.urandom(4 * _WORDS))
    except (AttributeError, TypeError, ValueError):
        # Half imported when the process was forked; or a generator of the program's own, which takes no
        # seed: nobody asked for one.
        return


_planted: bytes | None = None


def _seed_numpy(module: ModuleType, digest: bytes) -> None:
    words = [int.from_bytes(digest[at : at + 4], "little") for at in range(0, len(digest), 4)]
    module.seed(words)


class _Watch:
    """Waits for NumPy to be imported, once, to seed it before anybody draws from it."""

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let others find the module; what is ours begins when it has been loaded."""
        if fullname != _NUMPY:
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            _seed_after(spec.loader)
        return spec


def _seed_after(loader: Any) -> None:
    """Have a module seeded when its loader has run it."""
    load = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        load(module)
        if _planted is not None:
            _seed_numpy(module, _planted)

    loader.exec_module = exec_module
