"""``python -m bench.awaited``: 10,000 tasks are awaited, and half of them are cancelled while they run.

Measured is how soon the workers are free: for each cancelled task, from ``cancel()`` of the asyncio task that
awaits it until its slot has begun another task, by the clock that all processes share. Twice:

* *one by one*: every second task is short, every other one runs until it is cancelled, which happens as soon
  as the program hears that it has begun;
* *at once*: all tasks would run for ever; half of them, those that run among them, are cancelled together.

Afterwards it is looked what is left: tasks, results, descriptors. The exit code is 1 if anything is, or if a
worker was not free within the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import glasspool

LIMIT_MS = 250.0
STARTED = struct.Struct("=qqq")  # which task, in which slot, when (monotonic_ns)

_told = -1


def tell_on(path: str) -> None:
    """Open what tasks tell on that they have begun (the initializer)."""
    global _told
    _told = os.open(path, os.O_WRONLY)


def work(index: int, seconds: float) -> int:
    """Tell that it has begun, and take so long."""
    here = glasspool.worker()
    slot = -1 if here is None else here.slot
    os.write(_told, STARTED.pack(index, slot, time.monotonic_ns()))
    if seconds:
        time.sleep(seconds)
    return index


async def awaited(pool: glasspool.Pool, index: int, seconds: float) -> int:
    """Have a worker do it, and wait for it: what the asyncio tasks do."""
    return await pool.apply_async(work, (index, seconds))


class Begun:
    """What the tasks tell: calls back for each one that begins, on the event loop."""

    def __init__(self, path: str, heard: Callable[[int, int, int], None]) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._heard = heard
        self._rest = b""
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _read(self) -> None:
        told = self._rest + os.read(self._fd, 1 << 16)
        whole = len(told) // STARTED.size * STARTED.size
        self._rest = told[whole:]
        for index, slot, at_ns in STARTED.iter_unpack(told[:whole]):
            self._heard(index, slot, at_ns)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)


class Freed:
    """How long slots took from the cancellation of one task to the begin of the next."""

    def __init__(self) -> None:
        self.taken_ms: list[float] = []
        self._since_ns: dict[int, int] = {}

    def cancelled(self, slot: int) -> None:
        """Note that the task of a slot is being cancelled now."""
        self._since_ns[slot] = time.monotonic_ns()

    def begun(self, slot: int, at_ns: int) -> None:
        """Note that a slot has begun a task."""
        since = self._since_ns.pop(slot, None)
        if since is not None:
            self.taken_ms.append((at_ns - since) / 1e6)


async def one_by_one(pool: glasspool.Pool, path: str, tasks: int) -> dict[str, Any]:
    """Cancel every second task as soon as it is known to run."""
    freed = Freed()
    waiting: list[asyncio.Future[int]] = []

    def heard(index: int, slot: int, at_ns: int) -> None:
        freed.begun(slot, at_ns)
        if index % 2:
            freed.cancelled(slot)
            waiting[index].cancel()

    begun = Begun(path, heard)
    try:
        start = time.perf_counter()
        for index in range(tasks):
            seconds = 600.0 if index % 2 else 0.0
            waiting.append(asyncio.create_task(awaited(pool, index, seconds)))
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        took = time.perf_counter() - start
    finally:
        begun.close()
    return _account(ends, freed.taken_ms, took, expected=tasks // 2)


async def at_once(pool: glasspool.Pool, path: str, tasks: int) -> dict[str, Any]:
    """Cancel half of all tasks together, those that run among them."""
    freed = Freed()
    workers = pool.stats()["workers"]
    everybody_works, everybody_again = asyncio.Event(), asyncio.Event()
    running: dict[int, int] = {}

    def heard(index: int, slot: int, at_ns: int) -> None:
        freed.begun(slot, at_ns)
        running[index] = slot
        if len(running) >= workers:
            everybody_works.set()
        if len(freed.taken_ms) >= workers:
            everybody_again.set()

    begun = Begun(path, heard)
    try:
        start = time.perf_counter()
        waiting: list[asyncio.Future[int]] = [
            asyncio.create_task(awaited(pool, index, 600.0)) for index in range(tasks)
        ]
        await everybody_works.wait()
        first = list(running)
        chosen = [*first, *(i for i in range(tasks) if i not in running)][: tasks // 2]
        for slot in running.values():
            freed.cancelled(slot)
        for index in chosen:
            waiting[index].cancel()
        await everybody_again.wait()
        gone = sum(one.cancelled() for one in waiting)
        for one in waiting:
            one.cancel()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        took = time.perf_counter() - start
    finally:
        begun.close()
    told = _account(ends, freed.taken_ms, took, expected=tasks)
    told["cancelled_first"] = gone
    return told


def _account(
    ends: list[Any], taken_ms: list[float], took_s: float, expected: int
) -> dict[str, Any]:
    cancelled = sum(isinstance(end, asyncio.CancelledError) for end in ends)
    done = sum(isinstance(end, int) for end in ends)
    row = sorted(taken_ms)
    return {
        "tasks": len(ends),
        "cancelled": cancelled,
        "done": done,
        "as_expected": cancelled == expected and cancelled + done == len(ends),
        "measured": len(row),
        "free_median_ms": row[len(row) // 2],
        "free_p99_ms": row[min(len(row) - 1, len(row) * 99 // 100)],
        "free_max_ms": row[-1],
        "took_s": took_s,
    }


async def measure(workers: int, tasks: int) -> dict[str, Any]:
    """Measure both, and look what is left."""
    with _fifo() as path:
        async with glasspool.Pool(workers, tell_on, (path,)) as pool:
            await pool.apply_async(os.getpid)
            before = _held()
            told = {"workers": workers, "one_by_one": await one_by_one(pool, path, tasks)}
            told["at_once"] = await at_once(pool, path, tasks)
            told["left"] = await _left(pool, before)
            told["workers_replaced"] = pool._engine.buried_in_all
    return told


async def _left(pool: glasspool.Pool, before: dict[str, int]) -> dict[str, int]:
    """Return what is still held. For 0.1 s the pool looks whether a task that was cancelled resists."""
    for _ in range(20):
        await asyncio.sleep(0.1)
        stats, now = pool.stats(), _held()
        left = {name: now[name] - before[name] for name in before}
        left.update(waiting=stats["waiting"], sent=stats["sent"], open=len(pool._cache))
        if not any(left.values()):
            break
    return left


def _held() -> dict[str, int]:
    gc.collect()
    results = sum(isinstance(one, glasspool.AsyncResult) for one in gc.get_objects())
    return {"results": results, "descriptors": len(os.listdir("/proc/self/fd"))}


@contextlib.contextmanager
def _fifo() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "begun")
        os.mkfifo(path)
        keep = os.open(path, os.O_RDWR)  # so that a worker may open it at any time
        try:
            yield path
        finally:
            os.close(keep)


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="how many are awaited")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--limit-ms", type=float, default=LIMIT_MS, help="for a worker to be free")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop's event loop")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")
    options = parser.parse_args()
    if options.uvloop:
        import uvloop

        told = uvloop.run(measure(options.workers, options.tasks))
    else:
        told = asyncio.run(measure(options.workers, options.tasks))
    ways = (told["one_by_one"], told["at_once"])
    if options.json:
        print(json.dumps(told))
    else:
        for name, way in zip(("one by one", "at once"), ways, strict=True):
            print(
                f"{name}: {way['tasks']} awaited, {way['cancelled']} cancelled, {way['done']} done in "
                f"{way['took_s']:.1f} s; {way['measured']} workers free after "
                f"{way['free_median_ms']:.2f} ms (median), {way['free_p99_ms']:.2f} ms (99 of 100), "
                f"{way['free_max_ms']:.2f} ms (most)"
            )
        print(f"left: {told['left']}; workers replaced: {told['workers_replaced']}")
    is_fine = all(w["as_expected"] and w["free_max_ms"] < options.limit_ms for w in ways)
    return 0 if is_fine and not any(told["left"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
