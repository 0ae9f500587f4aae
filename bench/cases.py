"""What is measured. Each case runs in a fresh process, on one pool, and returns numbers by metric.

In every one of them less is better. A case that has something to be held against besides other pools
measures that as well (``bare``), in the same rounds.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Literal

from bench import bare, price, resting, schedules
from bench.contenders import OURS, Contender, Handle, NoCounterpart
from bench.tasks import (
    arrive,
    give_array,
    hold,
    increment,
    make_record,
    nap,
    nap_time,
    read_array,
    read_array_for,
    same,
)

METHODS = multiprocessing.get_all_start_methods()
START = "fork" if "fork" in METHODS else "spawn"
"""The start method of all cases but those that are about starting."""

WAIT_S = 30.0
"""So long the end of a call is awaited where a pool may lose it."""

Numbers = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    calls: int = 2_000
    tasks: int = 20_000
    many_tasks: int = 200_000
    items: int = 500_000
    records: int = 20_000
    array_items: int = 8_000_000
    array_calls: int = 5
    array_tasks: int = 64
    ms_tasks: int = 380
    long_tasks: int = 20
    short_tasks: int = 2_000
    very_long_tasks: int = 5
    queued: int = 200_000
    deaths: int = 5
    imports: int = 5
    rest_s: float = 5.0
    writes: int = 200_000
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)

    def put_in(self, words: str, workers: int) -> str:
        """Return the words with the sizes, and the number of workers, in their places."""
        sizes = {each.name: getattr(self, each.name) for each in fields(self)}
        return words.format(**sizes, workers=workers, array=f"{self.array_items * 8 / 1e6:g} MB")


FULL = Sizes()
QUICK = Sizes(
    calls=20,
    tasks=100,
    many_tasks=300,
    items=1_000,
    records=50,
    array_items=200_000,
    array_calls=1,
    array_tasks=4,
    ms_tasks=20,
    long_tasks=1,
    short_tasks=50,
    very_long_tasks=1,
    queued=100,
    deaths=1,
    imports=1,
    rest_s=0.1,
    writes=1_000,
    growth=(100, 200, 300, 400),
)


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


@dataclass(slots=True)
class Setting:
    """What a case is measured on. ``scaled`` says if it did less than asked."""

    contender: Contender
    workers: int
    sizes: Sizes
    pools: list[Handle] = field(default_factory=list)
    scaled: str | None = None

    def make(self, method: str = START) -> Handle:
        """Make a pool."""
        pool = self.contender.make(self.workers, method)
        self.pools.append(pool)
        return pool

    def ready_pool(self) -> Handle:
        """Make a pool whose workers have worked already."""
        pool = self.make()
        pool.map(increment, range(max(64, 4 * self.workers)), 1)
        for _ in range(20):
            pool.apply(increment, 1)
        return pool

    def count(self, wanted: int) -> int:
        """Return how many tasks to do of those wanted: a slow contender does a part of them."""
        return self._part(wanted, self.contender.most)

    def calls(self) -> int:
        """Return how many calls to make one after the other."""
        return self._part(self.sizes.calls, self.contender.calls)

    def _part(self, wanted: int, most: int | None) -> int:
        if most is None or most >= wanted:
            return wanted
        self.scaled = f"{most:,} of {wanted:,}"
        return most

    def timed(self, wanted: int, run: Callable[[range], Sequence[Any]]) -> float:
        """Return the seconds for so many tasks; each has to return its number plus one."""
        count = self.count(wanted)
        took, values = _timed(lambda: run(range(count)))
        _expect(values, range(1, count + 1))
        return took * wanted / count


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


# Calls ----------------------------------------------------------------------------------------------


def _apply(setting: Setting, *, pinned: bool) -> Numbers:
    if pinned:
        _stay_on_one_core()
    pool = setting.ready_pool()
    return _of_calls(setting, lambda: pool.apply(increment, 1))


def _round_trips(setting: Setting, *, pinned: bool) -> Numbers:
    if pinned:
        _stay_on_one_core()
    with bare.workers(1, bare.echo) as (end,):
        for _ in range(20):
            bare.round_trip(end)
        return _of_calls(setting, lambda: bare.round_trip(end))


def _stay_on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _of_calls(setting: Setting, call: Callable[[], object]) -> Numbers:
    times = [_timed(call)[0] for _ in range(setting.calls())]
    return {"median": median(times), "p99": quantiles(times, n=100)[-1]}


def _burst(setting: Setting, *, many: bool) -> Numbers:
    pool = setting.ready_pool()
    wanted = setting.sizes.many_tasks if many else setting.sizes.tasks
    return {"total": setting.timed(wanted, partial(pool.burst, increment))}


def _bare_burst(setting: Setting, *, many: bool) -> Numbers:
    wanted = setting.sizes.many_tasks if many else setting.sizes.tasks
    with bare.workers(setting.workers, bare.run_chunks) as ends:
        bare.burst(ends, increment, range(bare.CHUNK))
        return {"total": setting.timed(wanted, partial(bare.burst, ends, increment))}


def _growth(setting: Setting) -> Numbers:
    pool = setting.ready_pool()
    each = {}
    counts = setting.sizes.growth
    if setting.contender.name != OURS:
        counts = counts[:-1]  # a million take the others too long
    for which, count in zip(_GROWTH, counts, strict=False):
        repeats = max(1, setting.sizes.growth[0] * 20 // count)
        run = partial(setting.timed, count, partial(pool.burst, increment))
        each[which] = median(run() for _ in range(repeats)) / count
    return {**each, "spread": max(each.values()) / min(each.values())}


_GROWTH = ("thousand", "ten_thousand", "hundred_thousand", "million")


# Items ----------------------------------------------------------------------------------------------


def _map(setting: Setting, *, chunksize: int | None) -> Numbers:
    pool = setting.ready_pool()
    run = partial(_run_map, pool, chunksize=chunksize)
    if chunksize is None:
        return {"total": _timed_items(run, setting.sizes.items)}
    return {"total": setting.timed(setting.sizes.tasks, run)}


def _run_map(pool: Handle, items: range, *, chunksize: int | None) -> Sequence[int]:
    return pool.map(increment, items, chunksize)


def _timed_items(run: Callable[[range], Sequence[int]], count: int) -> float:
    took, values = _timed(lambda: run(range(count)))
    _expect(values, range(1, count + 1))
    return took


def _imap(setting: Setting, *, ordered: bool) -> Numbers:
    pool = setting.ready_pool()
    call = pool.imap if ordered else pool.imap_unordered

    def run(items: range) -> Sequence[int]:
        values = list(call(increment, items))
        return values if ordered else sorted(values)

    return {"total": setting.timed(setting.sizes.tasks, run)}


def _records(setting: Setting) -> Numbers:
    pool = setting.ready_pool()
    wanted = setting.sizes.records
    records = [make_record(number) for number in range(setting.count(wanted))]
    numbers = {}
    for name, run in (
        ("map", lambda: pool.map(same, records, 1)),
        ("burst", lambda: pool.burst(same, records)),
    ):
        took, values = _timed(run)
        _expect(values, records)
        numbers[name] = took * wanted / len(records)
    return numbers


# Arrays ---------------------------------------------------------------------------------------------


def _array_in(setting: Setting) -> Numbers:
    array = give_array(
        setting.sizes.array_items
    )  # who has an array has loaded NumPy before the pool
    pool = setting.ready_pool()
    return _array_times(setting, array, lambda: pool.apply(read_array, array))


def _array_out(setting: Setting) -> Numbers:
    size = setting.sizes.array_items
    array = give_array(size)
    pool = setting.ready_pool()
    pool.map(give_array, [size] * 2, 1)
    return _array_times(setting, array, lambda: read_array(pool.apply(give_array, size)))


def _array_times(setting: Setting, array: Any, call: Callable[[], float]) -> Numbers:
    """Time the transport of an array. The first also makes what is kept: pages, mappings, arrays."""
    runs = [_timed(call) for _ in range(setting.sizes.array_calls + 1)]
    _expect([value for _, value in runs], [read_array(array)] * len(runs))
    return {"call": median(took for took, _ in runs[1:])}


def _copy(setting: Setting) -> Numbers:
    return {"call": bare.copy_time(setting.sizes.array_items, 2 * setting.sizes.array_calls + 1)}


def _array_with(setting: Setting) -> Numbers:
    array = give_array(setting.sizes.array_items)
    pool = setting.ready_pool()
    numbers = range(setting.sizes.array_tasks)
    took, values = _timed(lambda: pool.map_with(read_array_for, array, numbers))
    base = read_array(array)
    _expect(values, [base + number for number in numbers])
    return {"total": took}


# Durations ------------------------------------------------------------------------------------------


def _durations(setting: Setting, seed: int, *groups: tuple[str, float]) -> Numbers:
    """Map naps, and compare with what their real lengths, measured alone beforehand, allow."""
    counts = {seconds: getattr(setting.sizes, count) for count, seconds in groups}
    lasts = {seconds: _length(seconds) for seconds in counts}
    naps = schedules.shuffled(seed, *((count, seconds) for seconds, count in counts.items()))
    real = [lasts[seconds] for seconds in naps]
    pool = setting.ready_pool()
    took, values = _timed(lambda: pool.map(nap, naps))
    _expect(values, naps)
    return {
        "bound": took / schedules.bound(real, setting.workers),
        "order": took / schedules.in_order(real, setting.workers),
    }


# Memory, life and rest ------------------------------------------------------------------------------


def _memory(setting: Setting) -> Numbers:
    pool = setting.ready_pool()
    count = setting.count(setting.sizes.queued)
    setting.scaled = None  # it is per task
    with tempfile.TemporaryDirectory() as folder:
        _hold(pool, folder, setting.workers)
        gc.collect()
        before = _resident_bytes()
        jobs = [pool.submit(increment, number) for number in range(count)]
        gc.collect()
        used = _resident_bytes() - before
    if len(jobs) != count:
        raise RuntimeError("not all tasks were queued")
    return {"bytes": used / count}


def _resident_bytes() -> int:
    """Return the memory of this process. Source: ``proc_pid_statm(5)``, second field, in pages."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _hold(pool: Handle, folder: str, count: int, first: int = 0) -> list[tuple[int, Any]]:
    """Occupy so many workers; return their pids and jobs."""
    names = [f"h{number}" for number in range(first, first + count)]
    jobs = {name: pool.submit(hold, folder, name) for name in names}
    deadline = time.monotonic() + WAIT_S
    while True:
        told = dict(file.name.split(".") for file in Path(folder).glob("h*.*"))
        if told.keys() >= jobs.keys():
            return [(int(told[name]), job) for name, job in jobs.items()]
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(told)} tasks run at the same time")
        time.sleep(0.002)


def _replace(setting: Setting) -> Numbers:
    pool = setting.ready_pool()
    times = []
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        held: list[tuple[int, Any]] = []
        free = setting.workers
        for _ in range(setting.sizes.deaths):
            held += _hold(pool, folder, free, number)
            number += free
            pid, lost = held.pop()
            killed_at = time.monotonic()
            os.kill(pid, 9)
            free = pool.revive(lost)
            newcomer, arrived_at = pool.get(pool.submit(arrive, 0), WAIT_S)
            if newcomer == pid:
                raise RuntimeError("a killed worker has run a task")
            times.append(arrived_at - killed_at)
            if free > 1:
                held = []
    return {"first": median(times)}


def _start(setting: Setting, *, method: str) -> Numbers:
    if method not in setting.contender.methods:
        raise NoCounterpart(f"it has no choice of {method}")
    begun = perf_counter()
    pool = setting.make(method)
    value = pool.apply(increment, 1)
    started = perf_counter()
    pool.end()
    ended = perf_counter()
    setting.pools.clear()
    _expect([value], [2])
    return {"first": started - begun, "end": ended - started}


_IMPORT = """
from time import perf_counter
a = perf_counter()
import {module}
b = perf_counter()
{pool}
c = perf_counter()
print(b - a, c - a)
"""


def _import(setting: Setting) -> Numbers:
    """Import in fresh interpreters: in this one much is loaded already."""
    contender = setting.contender
    program = _IMPORT.format(module=contender.module, pool=contender.pool)
    runs = []
    for _ in range(setting.sizes.imports):
        run = [sys.executable, "-c", program]
        told = subprocess.run(run, stdout=subprocess.PIPE, check=True, timeout=WAIT_S, text=True)
        runs.append([float(word) for word in told.stdout.split()])
    return {"package": median(run[0] for run in runs), "pool": median(run[1] for run in runs)}


def _rest(setting: Setting) -> Numbers:
    pool = setting.ready_pool()
    pool.map(increment, range(1_000))
    time.sleep(setting.sizes.rest_s / 10)  # what the work leaves to be done is done soon after
    return resting.of_rest(setting.sizes.rest_s)


def _writes(setting: Setting) -> Numbers:
    return {"task": price.time_of_writes(setting.sizes.writes)}


# Tools ----------------------------------------------------------------------------------------------


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begun = perf_counter()
    value = call()
    return perf_counter() - begun, value


def _expect(values: Sequence[Any], expected: Sequence[Any]) -> None:
    """Make sure that all values came, and are right."""
    if len(values) != len(expected):
        raise RuntimeError(f"a pool returned {len(values)} values in place of {len(expected)}")
    for value, right in zip(values, expected, strict=True):
        if value != right:
            raise RuntimeError(f"a pool returned {value!r} in place of {right!r}")


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
            partial(_burst, many=False),
            partial(_bare_burst, many=False),
        ),
        Case(
            "burst-many",
            {"total": Metric("{many_tasks:,} apply_async, all collected", aims=burst_aims)},
            partial(_burst, many=True),
            partial(_bare_burst, many=True),
        ),
        Case(
            "apply",
            {
                "median": Metric("apply, {calls:,} in a row: median", aims=(_STOCK(3), _BARE(0.5))),
                "p99": Metric("apply: 99th percentile", aims=(_STOCK(1),)),
            },
            partial(_apply, pinned=False),
            partial(_round_trips, pinned=False),
        ),
        Case(
            "apply-pinned",
            {
                "median": Metric("apply, all on one core: median", aims=(_STOCK(3), _BARE(0.5))),
                "p99": Metric("apply, all on one core: 99th percentile", aims=(_STOCK(1),)),
            },
            partial(_apply, pinned=True),
            partial(_round_trips, pinned=True),
            needs="affinity",
        ),
        Case(
            "growth",
            {
                **{
                    which: Metric(f"a burst of {{growth[{index}]:,}} apply_async, per task")
                    for index, which in enumerate(_GROWTH)
                },
                "spread": Metric(
                    "slowest of these bursts by fastest, per task", unit="x", aims=(_MOST(1.1),)
                ),
            },
            _growth,
            only=("stock", OURS),
        ),
    ]


def _items() -> list[Case]:
    return [
        Case(
            "map-1",
            {"total": Metric("map of {tasks:,}, chunksize 1", aims=(_STOCK(8),))},
            partial(_map, chunksize=1),
        ),
        Case(
            "map",
            {"total": Metric("map of {items:,} ints, default chunks", aims=(_STOCK(1.2),))},
            partial(_map, chunksize=None),
        ),
        Case(
            "imap",
            {"total": Metric("imap of {tasks:,}, chunksize 1", aims=(_STOCK(4),))},
            partial(_imap, ordered=True),
        ),
        Case(
            "imap-unordered",
            {"total": Metric("imap_unordered of {tasks:,}, chunksize 1", aims=(_STOCK(4),))},
            partial(_imap, ordered=False),
        ),
        Case(
            "dicts",
            {
                "map": Metric("{records:,} dicts of 1 KB, map, chunksize 1", aims=(_STOCK(4),)),
                "burst": Metric("{records:,} dicts of 1 KB, apply_async", aims=(_STOCK(4),)),
            },
            _records,
        ),
    ]


def _arrays() -> list[Case]:
    aims = (_STOCK(6), _BARE(0.5))
    return [
        Case(
            "array-in",
            {"call": Metric("{array} array as argument", aims=aims)},
            _array_in,
            _copy,
            needs="numpy",
        ),
        Case(
            "array-out",
            {"call": Metric("{array} array as result", aims=aims)},
            _array_out,
            _copy,
            needs="numpy",
        ),
        Case(
            "array-with",
            {
                "total": Metric(
                    "map(partial(f, {array} array), range({array_tasks}), 1)", aims=(_STOCK(30),)
                )
            },
            _array_with,
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
            _durations_of_heavy,
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
            _durations_of_scattered,
            workers=8,
        ),
    ]


def _length(seconds: float) -> float:
    """Return how long a nap really lasts: the shorter, the more it differs."""
    return median(nap_time(seconds) for _ in range(30 if seconds < 0.01 else 3))


def _durations_of_heavy(setting: Setting) -> Numbers:
    """Of an order in which no long one comes last: one by one it would take no more than the ideal."""
    return _durations(setting, 1, ("ms_tasks", 0.001), ("long_tasks", 0.1))


def _durations_of_scattered(setting: Setting) -> Numbers:
    """Of an order in which two of the long ones stand close to each other, as happens to one in four."""
    return _durations(setting, 9, ("short_tasks", 0.0001), ("very_long_tasks", 0.2))


def _lives() -> list[Case]:
    return [
        Case(
            "memory",
            {
                "bytes": Metric(
                    "the caller's memory per queued task, {queued:,} queued", "B", (_STOCK(3),)
                )
            },
            _memory,
            needs="proc",
        ),
        Case(
            "replace",
            {
                "first": Metric(
                    "a worker killed: until its replacement runs a task", aims=(_MOST(0.01),)
                )
            },
            _replace,
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
                partial(_start, method=method),
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
            _import,
        ),
        Case(
            "rest",
            {
                "switches": Metric(
                    "{workers} workers at rest for {rest_s:g} s: wake-ups", "", (_MOST(0),)
                ),
                "cpu": Metric("{workers} workers at rest: processor time", aims=(_MOST(0.001),)),
            },
            _rest,
            needs="proc",
            workers=4,
        ),
        Case(
            "seeing",
            {"task": Metric("writes to slot, ring and outbox, per task", aims=(_MOST(0.3e-6),))},
            _writes,
            only=(OURS,),
        ),
    ]


CASES: dict[str, Case] = {case.name: case for case in _cases()}
