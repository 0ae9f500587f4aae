"""What is measured. Each case runs in a fresh process, on one pool, and returns seconds by metric."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from bench.tasks import give_array, increment, read_array

MakePool = Callable[[str], Any]
"""Makes the contender's pool, for a start method."""

METHODS = multiprocessing.get_all_start_methods()
START = "fork" if "fork" in METHODS else "spawn"
"""The start method of all cases but those that are about starting."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    calls: int = 3_000
    tasks: int = 20_000
    items: int = 500_000
    array_items: int = 8_000_000
    array_calls: int = 5

    def put_in(self, words: str) -> str:
        """Return the words with the sizes in their places."""
        return words.format(**asdict(self), array=f"{self.array_items * 8 / 1e6:g} MB")


FULL = Sizes()
QUICK = Sizes(calls=20, tasks=100, items=1_000, array_items=20_000, array_calls=1)


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: its metrics with what each says, and how.

    Besides what ``run`` returns there is the metric ``import``, measured before it.
    """

    name: str
    metrics: dict[str, str]
    run: Callable[[MakePool, Sizes], dict[str, float]]
    needs: str | None = None

    def why_not(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        if self.needs == "affinity" and not hasattr(os, "sched_setaffinity"):
            return "this system cannot pin a process to a core"
        if self.needs == "numpy":
            try:
                import numpy  # noqa: F401
            except ImportError:
                return "NumPy is not installed"
        return None


def _apply(make: MakePool, sizes: Sizes, *, pinned: bool) -> dict[str, float]:
    if pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with _ready_pool(make) as pool:
        times = sorted(_timed(lambda: pool.apply(increment, (1,))) for _ in range(sizes.calls))
    return {"median": median(times), "p99": quantiles(times, n=100)[-1]}


def _burst(make: MakePool, sizes: Sizes) -> dict[str, float]:
    def run() -> None:
        results = [pool.apply_async(increment, (number,)) for number in range(sizes.tasks)]
        _expect(result.get() for result in results)

    with _ready_pool(make) as pool:
        return {"total": _timed(run)}


def _map(make: MakePool, sizes: Sizes, *, chunksize: int | None) -> dict[str, float]:
    count = sizes.tasks if chunksize else sizes.items
    with _ready_pool(make) as pool:
        return {"total": _timed(lambda: _expect(pool.map(increment, range(count), chunksize)))}


def _imap(make: MakePool, sizes: Sizes) -> dict[str, float]:
    with _ready_pool(make) as pool:
        return {"total": _timed(lambda: _expect(pool.imap(increment, range(sizes.tasks))))}


def _array_in(make: MakePool, sizes: Sizes) -> dict[str, float]:
    array = give_array(sizes.array_items)
    with _ready_pool(make) as pool:
        return _array_times(sizes, lambda: pool.apply(read_array, (array,)))


def _array_out(make: MakePool, sizes: Sizes) -> dict[str, float]:
    with _ready_pool(make) as pool:
        pool.map(give_array, [sizes.array_items] * 2, 1)
        return _array_times(sizes, lambda: read_array(pool.apply(give_array, (sizes.array_items,))))


def _array_times(sizes: Sizes, call: Callable[[], object]) -> dict[str, float]:
    call()  # the first one also makes what is kept: pages, mappings, the array itself
    return {"call": median(_timed(call) for _ in range(sizes.array_calls))}


def _start(make: MakePool, sizes: Sizes, *, method: str) -> dict[str, float]:
    begun = perf_counter()
    pool = make(method)
    pool.apply(increment, (1,))
    started = perf_counter()
    pool.close()
    pool.join()
    return {"first": started - begun, "end": perf_counter() - started}


def _ready_pool(make: MakePool) -> Any:
    """Return a pool whose workers have worked already."""
    pool = make(START)
    pool.map(increment, range(64), 1)
    for _ in range(20):
        pool.apply(increment, (1,))
    return pool


def _timed(call: Callable[[], object]) -> float:
    begun = perf_counter()
    call()
    return perf_counter() - begun


def _expect(values: Iterable[int]) -> None:
    """Take all values in, and make sure that they are right."""
    for expected, value in enumerate(values, 1):
        if value != expected:
            raise RuntimeError(f"a pool returned {value!r} in place of {expected}")


def _nothing(make: MakePool, sizes: Sizes) -> dict[str, float]:
    return {}


_START_WORDS = {"first": "from nothing to the first result", "end": "close() and join()"}

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "apply",
            {"median": "apply: median", "p99": "apply: 99th percentile"},
            partial(_apply, pinned=False),
        ),
        Case(
            "apply-pinned",
            {
                "median": "apply, all on one core: median",
                "p99": "apply, all on one core: 99th percentile",
            },
            partial(_apply, pinned=True),
            needs="affinity",
        ),
        Case("burst", {"total": "{tasks:,} apply_async, all collected"}, _burst),
        Case("map-1", {"total": "map of {tasks:,}, chunksize 1"}, partial(_map, chunksize=1)),
        Case("map", {"total": "map of {items:,}, default chunks"}, partial(_map, chunksize=None)),
        Case("imap", {"total": "imap of {tasks:,}"}, _imap),
        Case("array-in", {"call": "{array} array as argument"}, _array_in, needs="numpy"),
        Case("array-out", {"call": "{array} array as result"}, _array_out, needs="numpy"),
        Case("import", {"import": "import of the pool"}, _nothing),
        *(
            Case(
                f"start-{method}",
                {metric: f"{method}: {words}" for metric, words in _START_WORDS.items()},
                partial(_start, method=method),
            )
            for method in ("fork", "forkserver", "spawn")
            if method in METHODS
        ),
    )
}
