"""``--pools``: many pools made, used, killed or dropped; nothing may be left of them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable

import glasspool
from bench.torture import belongings, load
from bench.torture.mixed import Row


def _close(pool: glasspool.Pool) -> None:
    pool.close()
    pool.join()


def _leave(pool: glasspool.Pool) -> None:
    with pool:
        pool.map_async(load.nap, [0.01] * 10, chunksize=1)


def _drop(pool: glasspool.Pool) -> None:
    """Let go of it idle."""


def _drop_at_work(pool: glasspool.Pool) -> None:
    pool.imap_unordered(load.nap, [0.01] * 10)


def _kill_all(pool: glasspool.Pool) -> None:
    for process in pool._pool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGKILL)
    _close(pool)


def _kill_one(pool: glasspool.Pool) -> None:
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(pool._pool[0].pid or 0, signal.SIGKILL)
    with contextlib.suppress(glasspool.WorkerDied):
        pool.map(load.nap, [0] * 20, chunksize=1)
    pool.terminate()


ENDS: dict[str, Callable[[glasspool.Pool], None]] = {
    "closed": _close,
    "left at work": _leave,
    "dropped": _drop,
    "dropped at work": _drop_at_work,
    "all workers killed": _kill_all,
    "one worker killed": _kill_one,
}


def run(make: Callable[..., glasspool.Pool], processes: int, count: int, seed: int) -> list[Row]:
    """Make and end so many pools; compare what this process holds."""
    rng = random.Random(seed)
    with make(processes) as pool:  # what the first one brings for good
        pool.map(load.nap, [0] * 10)
    del pool
    before = belongings.take()
    memory = belongings.memory()
    ends: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # dropped on purpose
        for number in range(count):
            name = rng.choice(list(ENDS))
            ends[name] += 1
            _one(make, processes, ENDS[name])
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {count}", end="", file=sys.stderr, flush=True)
        left = belongings.left_since(before)
    grown = (belongings.memory() - memory) >> 10
    return [
        Row("pools", ", ".join(f"{n} {name}" for name, n in sorted(ends.items()))),
        Row("left behind", ", ".join(left) or "nothing", not left),
        Row("memory of this process", f"{grown:+,} KB"),
    ]


def _one(
    make: Callable[..., glasspool.Pool], processes: int, end: Callable[[glasspool.Pool], None]
) -> None:
    pool = make(processes)
    pool.map(load.nap, [0] * 10, chunksize=1)
    end(pool)
