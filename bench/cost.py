"""``python -m bench.cost``: what a short task costs, by the thread that pays for it.

Wall-clock time says how fast a pool is on a machine with nothing else to do. Processor time says why, and
hardly moves when others use the machine as well: it is read for the calling thread, for each thread of
the pool in the caller's process, and for the workers, from ``/proc/PID/task/TID/schedstat`` (Linux).
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from bench.report import aligned_table, markdown_table
from bench.tasks import increment

TASKS = 20_000
ROUNDS = 5
COLUMNS = ("caller", "pool's threads", "workers", "of it: collecting garbage", "elapsed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table of microseconds per task."""
    options = _parser().parse_args(arguments)
    if not Path("/proc/self/schedstat").exists():
        print("the processor time of threads cannot be read on this system", file=sys.stderr)
        return 2
    rows = []
    for name, work in SHAPES.items():
        for pool_name, make in POOLS.items():
            rounds = [_measure(make, work, options.tasks) for _ in range(options.rounds)]
            costs = [median(values) for values in zip(*rounds, strict=True)]
            rows.append([name, pool_name, *(f"{cost:.2f}" for cost in costs)])
    head = ["µs per task", "pool", *COLUMNS]
    print(markdown_table(head, rows, 2) if options.markdown else aligned_table([head, *rows]))
    return 0


def _burst(pool: Any, count: int) -> None:
    results = [pool.apply_async(increment, (number,)) for number in range(count)]
    _check(sum(result.get() for result in results), count)


def _map(pool: Any, count: int) -> None:
    _check(sum(pool.map(increment, range(count), 1)), count)


def _imap(pool: Any, count: int) -> None:
    _check(sum(pool.imap(increment, range(count))), count)


def _check(total: int, count: int) -> None:
    if total != count * (count + 1) // 2:
        raise RuntimeError(f"the values do not add up: {total}")


def _make_stock() -> Any:
    return multiprocessing.get_context("fork").Pool(2)


def _make_glasspool() -> Any:
    import glasspool

    return glasspool.Pool(2, context=multiprocessing.get_context("fork"))


SHAPES: dict[str, Callable[[Any, int], None]] = {
    "apply_async": _burst,
    "map, chunksize 1": _map,
    "imap": _imap,
}
POOLS: dict[str, Callable[[], Any]] = {"stock": _make_stock, "glasspool": _make_glasspool}


def _measure(make: Callable[[], Any], work: Callable[[Any, int], None], count: int) -> list[float]:
    """Return the microseconds per task, in the order of the columns."""
    me = threading.get_native_id()
    with make() as pool, _garbage() as collected:
        work(pool, 64)
        workers = [process.pid for process in pool._pool]
        collected.clear()
        begun = perf_counter()
        before = _threads(os.getpid()), sum(sum(_threads(pid).values()) for pid in workers)
        work(pool, count)
        elapsed = perf_counter() - begun
        after = _threads(os.getpid()), sum(sum(_threads(pid).values()) for pid in workers)
    spent = {tid: ns - before[0].get(tid, 0) for tid, ns in after[0].items()}
    caller = spent.pop(me)
    seconds = (caller / 1e9, sum(spent.values()) / 1e9, (after[1] - before[1]) / 1e9)
    return [cost * 1e6 / count for cost in (*seconds, sum(collected), elapsed)]


def _threads(pid: int) -> dict[int, int]:
    """Return the processor time that each thread of a process has used, in ns."""
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


@contextmanager
def _garbage() -> Iterator[list[float]]:
    """Give a list of the seconds that each garbage collection takes in this process."""
    took: list[float] = []
    begun = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = perf_counter()
        else:
            took.append(perf_counter() - begun)

    gc.callbacks.append(note)
    try:
        yield took
    finally:
        gc.callbacks.remove(note)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cost", description=__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help=f"how many (default: {TASKS})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
