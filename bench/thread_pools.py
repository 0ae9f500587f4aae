"""What a call costs in a pool of threads: the standard library's and ours, with functions that do nothing.

Run it alone on the machine: ``python bench/thread_pools.py``. It prints the best of several rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.pool import ThreadPool as StockPool
from typing import Any

import glasspool

ROUNDS = 7


def nothing(x: int) -> int:
    """Return the argument."""
    return x


def best_s(call: Callable[[], object]) -> float:
    """Return how long a call took at best, in seconds."""
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def measure(make: Callable[[int], Any]) -> str:
    """Measure one kind of pool."""
    with make(4) as pool:
        pool.map(nothing, range(100))
        rows = {
            "map of 20,000": best_s(lambda: pool.map(nothing, range(20_000))) * 1e3,
            "map, chunksize 1": best_s(lambda: pool.map(nothing, range(5_000), 1)) / 5_000 * 1e6,
            "apply_async": best_s(
                lambda: [r.get() for r in [pool.apply_async(nothing, (1,)) for _ in range(5_000)]]
            )
            / 5_000
            * 1e6,
            "apply": best_s(lambda: [pool.apply(nothing, (1,)) for _ in range(1_000)]) / 1e3 * 1e6,
            "imap": best_s(lambda: list(pool.imap(nothing, range(5_000)))) / 5_000 * 1e6,
        }
    units = {"map of 20,000": "ms"}
    return ", ".join(f"{name} {value:.1f} {units.get(name, 'µs')}" for name, value in rows.items())


if __name__ == "__main__":
    for _ in range(2):
        print(f"standard library: {measure(StockPool)}")
        print(f"glasspool:        {measure(glasspool.ThreadPool)}")
