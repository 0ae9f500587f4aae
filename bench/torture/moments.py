"""``--moments``: a SIGKILL at random moments; how soon everybody knows, and somebody else works."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence

import glasspool
from bench.torture import load
from bench.torture.mixed import Row

RETURN_LIMIT_S = 1.0
HANG_S = 30.0


def run(
    make: Callable[..., glasspool.Pool],
    processes: int,
    count: int,
    seed: int,
    begin_limit_s: float,
) -> list[Row]:
    """Kill a worker at so many random moments, and measure."""
    rng = random.Random(seed)
    returned: list[float] = []
    begun: list[float] = []
    lost = hangs = 0
    with make(processes) as pool:
        for number in range(count):
            calls = [
                pool.apply_async(load.nap, (rng.choice([0, 0.001, 0.005]),))
                for _ in range(rng.randint(1, 6 * processes))
            ]
            time.sleep(rng.uniform(0.0, 0.02))
            died_at = _kill_someone(pool, rng)
            calls.append(pool.apply_async(load.nap, (0,)))
            begins: list[float] = []
            for call in calls:
                end = _end_of(call)
                lost += end == "lost"
                hangs += end == "hangs"
                begins += [end] if isinstance(end, float) and end > died_at else []
            returned.append(time.monotonic() - died_at)
            begun += [min(begins) - died_at] if begins else []
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {count}", end="", file=sys.stderr, flush=True)
        pool.close()
        pool.join()
    return [
        Row("moments", f"{count}, {lost} tasks lost"),
        Row("calls that hang", f"{hangs}", not hangs),
        Row(
            "from the death until all calls have returned",
            spread(returned),
            max(returned) < RETURN_LIMIT_S,
        ),
        Row("from the death until another task begins", spread(begun), max(begun) < begin_limit_s),
    ]


def _kill_someone(pool: glasspool.Pool, rng: random.Random) -> float:
    victims = [process.pid for process in pool._pool if process.pid]
    died_at = time.monotonic()
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(victims), signal.SIGKILL)
    return died_at


def _end_of(call: glasspool.AsyncResult[float]) -> str | float:
    """Wait for the end of a call; return when its task began, or how else it ended."""
    call.wait(HANG_S)
    if not call.ready():
        return "hangs"
    try:
        return call.get()
    except glasspool.WorkerDied:
        return "lost"


def spread(seconds: Sequence[float]) -> str:
    """Describe a distribution in milliseconds."""
    ordered = sorted(seconds)
    marks = {"median": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}
    last = len(ordered) - 1
    return ", ".join(
        f"{name} {ordered[int(at * last)] * 1000:.1f} ms" for name, at in marks.items()
    )
