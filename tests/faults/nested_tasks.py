"""Tasks that make pools, and tasks that use pools which are not theirs to use."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import glasspool

pools: list[glasspool.Pool] = []
"""Pools that note themselves as they are made, so that their own workers find them here."""

results: list[Any] = []
"""Results of such a pool that are still to come."""


class KnownPool(glasspool.Pool):
    """A pool that its own forked workers can reach: it notes itself before it forks them."""

    def __init__(self, *args: Any, **kwds: Any) -> None:
        pools.append(self)
        super().__init__(*args, **kwds)


def square(value: int) -> int:
    """Return the square."""
    return value * value


def wait_for(event: Any) -> str:
    """Wait for an event of multiprocessing."""
    return str(event.wait(60))


USES: dict[str, Callable[[glasspool.Pool], object]] = {
    "apply": lambda pool: pool.apply(square, (2,)),
    "apply_async": lambda pool: pool.apply_async(square, (2,)),
    "map": lambda pool: pool.map(square, range(3)),
    "map_async": lambda pool: pool.map_async(square, range(3)),
    "starmap": lambda pool: pool.starmap(square, [(1,)]),
    "imap": lambda pool: list(pool.imap(square, range(3))),
    "imap_unordered": lambda pool: list(pool.imap_unordered(square, range(3))),
    "join": lambda pool: pool.join(),
    "with": lambda pool: pool.__enter__(),
    "inspect": lambda pool: pool.inspect(),
    "stats": lambda pool: pool.stats(),
}

WAITS: dict[str, Callable[[], object]] = {
    "get": lambda: results[0].get(),
    "get with a limit": lambda: results[0].get(5),
    "wait": lambda: results[0].wait(),
    "get of a map": lambda: results[1].get(),
    "next": lambda: next(results[2]),
    "iteration": lambda: list(results[2]),
    "cancel": lambda: results[0].cancel(),
    "cancel of an imap": lambda: results[2].cancel(),
}


def use(how: str) -> object:
    """Use the first known pool."""
    return USES[how](pools[0])


def wait(how: str) -> object:
    """Wait for a known result."""
    return WAITS[how]()


def pool_in_task(method: str, where: str) -> None:
    """Make a pool that works, then has tasks that stay for ever; write down its processes."""
    pool = glasspool.Pool(2, context=multiprocessing.get_context(method))
    if pool.map(square, range(5), 1) != [0, 1, 4, 9, 16]:
        raise RuntimeError("the pool inside the task does not work")
    names = [os.path.join(where, f"busy-{index}") for index in range(2)]
    for name in names:
        os.mkfifo(name)
    tasks = [pool.apply_async(tell_and_stay, (name,)) for name in names]
    for name in names:
        with open(name, "rb") as told:
            told.read()
    # A worker uses the resource tracker of the program that started it, which stays.
    pids = [p.pid for p in pool.inspect().processes if p.role != "resource-tracker"]
    with open(os.path.join(where, "pids"), "w") as file:
        file.write(" ".join(map(str, pids)))
    with open(os.path.join(where, "told"), "w"):
        tasks[0].wait()


def tell_and_stay(name: str) -> None:
    """Tell through a pipe that this runs, and run for ever."""
    with open(name, "wb"):
        pass
    threading.Event().wait()
