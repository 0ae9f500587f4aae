"""How each case is measured: on one pool, in a process of its own. Returns numbers by metric."""

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
from typing import Any

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

GROWTH = ("thousand", "ten_thousand", "hundred_thousand", "million")
"""The bursts of ``growth``, each ten times the one before."""

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

    def copies(self) -> int:
        """Return for how many items an array is to be there."""
        return self._part(self.sizes.array_tasks, self.contender.copies)

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


# Calls ----------------------------------------------------------------------------------------------


def apply(setting: Setting, *, pinned: bool) -> Numbers:
    """Time synchronous calls."""
    if pinned:
        _stay_on_one_core()
    pool = setting.ready_pool()
    return _of_calls(setting, lambda: pool.apply(increment, 1))


def round_trips(setting: Setting, *, pinned: bool) -> Numbers:
    """Time messages to a forked process and back."""
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


def burst(setting: Setting, *, many: bool) -> Numbers:
    """Time calls that are all submitted before any result is awaited."""
    pool = setting.ready_pool()
    wanted = setting.sizes.many_tasks if many else setting.sizes.tasks
    return {"total": setting.timed(wanted, partial(pool.burst, increment))}


def bare_burst(setting: Setting, *, many: bool) -> Numbers:
    """Time the same by hand."""
    wanted = setting.sizes.many_tasks if many else setting.sizes.tasks
    with bare.workers(setting.workers, bare.run_chunks) as ends:
        bare.burst(ends, increment, range(bare.CHUNK))
        return {"total": setting.timed(wanted, partial(bare.burst, ends, increment))}


def growth(setting: Setting) -> Numbers:
    """Time bursts of ever more calls, per call."""
    pool = setting.ready_pool()
    each = {}
    counts = setting.sizes.growth
    if setting.contender.name != OURS:
        counts = counts[:-1]  # a million take the others too long
    for which, count in zip(GROWTH, counts, strict=False):
        repeats = max(1, setting.sizes.growth[0] * 20 // count)
        run = partial(setting.timed, count, partial(pool.burst, increment))
        each[which] = median(run() for _ in range(repeats)) / count
    return {**each, "spread": max(each.values()) / min(each.values())}


# Items ----------------------------------------------------------------------------------------------


def map_items(setting: Setting, *, chunksize: int | None) -> Numbers:
    """Time a map, and make sure of its values."""
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


def imap_items(setting: Setting, *, ordered: bool) -> Numbers:
    """Time an imap until its last value."""
    pool = setting.ready_pool()
    call = pool.imap if ordered else pool.imap_unordered

    def run(items: range) -> Sequence[int]:
        values = list(call(increment, items))
        return values if ordered else sorted(values)

    return {"total": setting.timed(setting.sizes.tasks, run)}


def records(setting: Setting) -> Numbers:
    """Time dicts there and back, as items and as calls."""
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


def array_in(setting: Setting) -> Numbers:
    """Time an array as argument."""
    # Who has an array has loaded NumPy before making the pool.
    array = give_array(setting.sizes.array_items)
    pool = setting.ready_pool()
    return _array_times(setting, array, lambda: pool.apply(read_array, array))


def array_out(setting: Setting) -> Numbers:
    """Time an array as result."""
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


def copy(setting: Setting) -> Numbers:
    """Time a copy of the array."""
    return {"call": bare.copy_time(setting.sizes.array_items, 2 * setting.sizes.array_calls + 1)}


def array_with(setting: Setting) -> Numbers:
    """Time a map of a function that holds an array."""
    array = give_array(setting.sizes.array_items)
    pool = setting.ready_pool()
    wanted, numbers = setting.sizes.array_tasks, range(setting.copies())
    took, values = _timed(lambda: pool.map_with(read_array_for, array, numbers))
    base = read_array(array)
    _expect(values, [base + number for number in numbers])
    return {"total": took * wanted / len(numbers)}


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


def _length(seconds: float) -> float:
    """Return how long a nap really lasts: the shorter, the more it differs."""
    return median(nap_time(seconds) for _ in range(30 if seconds < 0.01 else 3))


def heavy_tail(setting: Setting) -> Numbers:
    """Map a few long naps among many short ones.

    In this order no long one comes last, so one by one they would take no more than the ideal.
    """
    return _durations(setting, 1, ("ms_tasks", 0.001), ("long_tasks", 0.1))


def scattered(setting: Setting) -> Numbers:
    """Map very few, very long naps among very short ones.

    In this order two of the long ones stand close to each other, as in about one random order of four.
    """
    return _durations(setting, 9, ("short_tasks", 0.0001), ("very_long_tasks", 0.2))


# Memory, life and rest ------------------------------------------------------------------------------


def memory(setting: Setting) -> Numbers:
    """Weigh this process before and after tasks are queued, all workers being occupied."""
    pool = setting.ready_pool()
    # It is per task. Who makes few calls in a row has a thread or more for each that waits.
    count = min(
        setting.count(setting.sizes.queued), setting.contender.calls or setting.sizes.queued
    )
    setting.scaled = None
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


def replace(setting: Setting) -> Numbers:
    """Kill workers one after the other, and wait until a new one runs a task."""
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


def start(setting: Setting, *, method: str) -> Numbers:
    """Time the start of a pool up to its first result, and its end."""
    if method not in setting.contender.methods:
        raise NoCounterpart(f"it has no choice of {method}")
    exec(setting.contender.pool, {})  # what a program imports is measured by itself
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


def imports(setting: Setting) -> Numbers:
    """Import in fresh interpreters: in this one much is loaded already."""
    contender = setting.contender
    program = _IMPORT.format(module=contender.module, pool=contender.pool)
    runs = []
    for _ in range(setting.sizes.imports):
        run = [sys.executable, "-c", program]
        told = subprocess.run(run, stdout=subprocess.PIPE, check=True, timeout=WAIT_S, text=True)
        runs.append([float(word) for word in told.stdout.split()])
    return {"package": median(run[0] for run in runs), "pool": median(run[1] for run in runs)}


def rest(setting: Setting) -> Numbers:
    """Watch a pool that has worked and is idle."""
    pool = setting.ready_pool()
    pool.map(increment, range(1_000))
    time.sleep(setting.sizes.rest_s / 10)  # what the work leaves to be done is done soon after
    return resting.of_rest(setting.sizes.rest_s)


def writes(setting: Setting) -> Numbers:
    """Time the writes of one task to shared memory."""
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
