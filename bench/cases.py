"""What is measured. Each case runs in a fresh process, on one pool, and returns numbers by metric.

In every one of them less is better. A case that has something to be held against besides other pools
measures that as well (``bare``), in the same rounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from bench import measures
from bench.contenders import OURS
from bench.measures import METHODS, Numbers, Setting


@dataclass(frozen=True, slots=True)
class Aim:
    """What glasspool is to reach: ``number`` times stock, or times bare; or at most ``number``."""

    against: Literal["stock", "bare", "most"]
    number: float


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a case: what it is, in which unit (``s``, ``B``, ``x`` or none), the aims."""

    words: str
    unit: Literal["s", "B", "x", ""] = "s"
    aims: tuple[Aim, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: its metrics, and how. ``bare`` measures the same without a pool.

    ``workers`` is how many it needs at least, ``only`` the one contender that has such a thing.
    """

    name: str
    metrics: dict[str, Metric]
    run: Callable[[Setting], Numbers]
    bare: Callable[[Setting], Numbers] | None = None
    needs: str | None = None
    workers: int = 1
    only: tuple[str, ...] | None = None

    def count_workers(self, wanted: int) -> int:
        """Return how many workers it has if so many are asked for."""
        return max(wanted, self.workers)

    def why_not(self) -> str | None:
        """Return why it cannot be measured here, or None."""
        if self.needs == "affinity" and not hasattr(os, "sched_setaffinity"):
            return "this system cannot pin a process to a core"
        if self.needs == "proc" and not Path("/proc/self/statm").exists():
            return "this system has no /proc"
        if self.needs == "numpy":
            try:
                import numpy  # noqa: F401
            except ImportError:
                return "NumPy is not installed"
        return None


# The cases ------------------------------------------------------------------------------------------

_STOCK = partial(Aim, "stock")
_BARE = partial(Aim, "bare")
_MOST = partial(Aim, "most")


def _cases() -> list[Case]:
    return [*_calls(), *_items(), *_arrays(), *_naps(), *_lives()]


def _calls() -> list[Case]:
    burst_aims = (_STOCK(5), _BARE(0.5))
    return [
        Case(
            "burst",
            {"total": Metric("{tasks:,} apply_async, all collected", aims=burst_aims)},
            partial(measures.burst, many=False),
            partial(measures.bare_burst, many=False),
        ),
        Case(
            "burst-many",
            {"total": Metric("{many_tasks:,} apply_async, all collected", aims=burst_aims)},
            partial(measures.burst, many=True),
            partial(measures.bare_burst, many=True),
        ),
        Case(
            "apply",
            {
                "median": Metric("apply, {calls:,} in a row: median", aims=(_STOCK(3), _BARE(0.5))),
                "p99": Metric("apply: 99th percentile", aims=(_STOCK(1),)),
            },
            partial(measures.apply, pinned=False),
            partial(measures.round_trips, pinned=False),
        ),
        Case(
            "apply-pinned",
            {
                "median": Metric("apply, all on one core: median", aims=(_STOCK(3), _BARE(0.5))),
                "p99": Metric("apply, all on one core: 99th percentile", aims=(_STOCK(1),)),
            },
            partial(measures.apply, pinned=True),
            partial(measures.round_trips, pinned=True),
            needs="affinity",
        ),
        Case(
            "growth",
            {
                **{
                    which: Metric(f"a burst of {{growth[{index}]:,}} apply_async, per task")
                    for index, which in enumerate(measures.GROWTH)
                },
                "spread": Metric(
                    "slowest of these bursts by fastest, per task", unit="x", aims=(_MOST(1.1),)
                ),
            },
            measures.growth,
            only=("stock", OURS),
        ),
    ]


def _items() -> list[Case]:
    return [
        Case(
            "map-1",
            {"total": Metric("map of {tasks:,}, chunksize 1", aims=(_STOCK(8),))},
            partial(measures.map_items, chunksize=1),
        ),
        Case(
            "map",
            {"total": Metric("map of {items:,} ints, default chunks", aims=(_STOCK(1.2),))},
            partial(measures.map_items, chunksize=None),
        ),
        Case(
            "imap",
            {"total": Metric("imap of {tasks:,}, chunksize 1", aims=(_STOCK(4),))},
            partial(measures.imap_items, ordered=True),
        ),
        Case(
            "imap-unordered",
            {"total": Metric("imap_unordered of {tasks:,}, chunksize 1", aims=(_STOCK(4),))},
            partial(measures.imap_items, ordered=False),
        ),
        Case(
            "dicts",
            {
                "map": Metric("{records:,} dicts of 1 KB, map, chunksize 1", aims=(_STOCK(4),)),
                "burst": Metric("{records:,} dicts of 1 KB, apply_async", aims=(_STOCK(4),)),
            },
            measures.records,
        ),
    ]


def _arrays() -> list[Case]:
    aims = (_STOCK(6), _BARE(0.5))
    return [
        Case(
            "array-in",
            {"call": Metric("{array} array as argument", aims=aims)},
            measures.array_in,
            measures.copy,
            needs="numpy",
        ),
        Case(
            "array-out",
            {"call": Metric("{array} array as result", aims=aims)},
            measures.array_out,
            measures.copy,
            needs="numpy",
        ),
        Case(
            "array-with",
            {
                "total": Metric(
                    "map(partial(f, {array} array), range({array_tasks}), 1)", aims=(_STOCK(30),)
                )
            },
            measures.array_with,
            needs="numpy",
        ),
    ]


def _naps() -> list[Case]:
    return [
        Case(
            "heavy-tail",
            {
                "bound": Metric(
                    "{ms_tasks} x 1 ms and {long_tasks} x 100 ms, default chunks: time / ideal",
                    unit="x",
                    aims=(_MOST(1.03),),
                ),
                "order": Metric(
                    "{ms_tasks} x 1 ms and {long_tasks} x 100 ms: time / one by one in order",
                    unit="x",
                ),
            },
            measures.heavy_tail,
        ),
        Case(
            "scattered",
            {
                "bound": Metric(
                    "{short_tasks:,} x 0.1 ms and {very_long_tasks} x 200 ms, {workers} workers: "
                    "time / ideal",
                    unit="x",
                ),
                "order": Metric(
                    "{short_tasks:,} x 0.1 ms and {very_long_tasks} x 200 ms: "
                    "time / one by one in order",
                    unit="x",
                    aims=(_MOST(1.1),),
                ),
            },
            measures.scattered,
            workers=8,
        ),
    ]


def _lives() -> list[Case]:
    return [
        Case(
            "memory",
            {
                "bytes": Metric(
                    "the caller's memory per queued task, {queued:,} queued", "B", (_STOCK(3),)
                )
            },
            measures.memory,
            needs="proc",
        ),
        Case(
            "replace",
            {
                "first": Metric(
                    "a worker killed: until its replacement runs a task", aims=(_MOST(0.01),)
                )
            },
            measures.replace,
        ),
        *(
            Case(
                f"start-{method}",
                {
                    "first": Metric(
                        f"{method}: from nothing to the first result", aims=(_STOCK(1),)
                    ),
                    "end": Metric(f"{method}: close() and join()", aims=(_STOCK(1),)),
                },
                partial(measures.start, method=method),
            )
            for method in ("fork", "forkserver", "spawn")
            if method in METHODS
        ),
        Case(
            "import",
            {
                "package": Metric("import of the package", aims=(_STOCK(1 / 1.5),)),
                "pool": Metric("import of the package and its pool"),
            },
            measures.imports,
        ),
        Case(
            "rest",
            {
                "switches": Metric(
                    "{workers} workers at rest for {rest_s:g} s: wake-ups", "", (_MOST(0),)
                ),
                "cpu": Metric("{workers} workers at rest: processor time", aims=(_MOST(0.001),)),
            },
            measures.rest,
            needs="proc",
            workers=4,
        ),
        Case(
            "seeing",
            {"task": Metric("writes to slot, ring and outbox, per task", aims=(_MOST(0.3e-6),))},
            measures.writes,
            only=(OURS,),
        ),
    ]


CASES: dict[str, Case] = {case.name: case for case in _cases()}
