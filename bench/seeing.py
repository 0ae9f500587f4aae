"""``python -m bench.seeing``: what it costs to look at a pool, and what py-spy takes for the same.

Two tables. The first has the time of one picture of a pool whose workers are all busy in Python code:
without stacks, with all stacks, and, where py-spy is installed and permitted, five readers started
side by side and one after the other. The second has the throughput of tasks of 10 ms, undisturbed and
while 1,000 pictures with stacks are taken, in turns: tasks that sleep, and tasks that need a
processor, for which whoever looks competes with them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import glasspool
from bench.report import machine
from glasspool.observe import pyspy

LIMIT_S = 120.0
TASK_S = 0.01


def spin(seconds: float) -> int:
    """Use the processor in Python code for so long."""
    until = time.monotonic() + seconds
    count = 0
    while time.monotonic() < until:
        count += 1
    return count


def work(loops: float) -> int:
    """Do a fixed amount of work in Python code, however long it takes."""
    total = 0
    for number in range(int(loops)):
        total += number
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables."""
    options = _parser().parse_args(arguments)
    context = multiprocessing.get_context(options.start_method)
    print(", ".join(f"{name}: {value}" for name, value in machine().items()))
    version = ".".join(map(str, sys.version_info[:3]))
    print(f"Python {version}, {options.workers} workers, {options.start_method}\n")
    with glasspool.Pool(options.workers, context=context) as pool:
        _wait_until_idle(pool)
        print(*_latencies(pool, options), sep="\n")
    pool.join()
    for words, function, argument in (
        ("asleep", time.sleep, TASK_S),
        ("of work in Python", work, _loops_in(TASK_S)),
    ):
        print(*_throughput(context, words, function, argument, options), sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.seeing",
        description=__doc__.split("\n\n", 1)[1] if __doc__ else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, default=4, help="size of the pool (default: 4)")
    parser.add_argument("--pictures", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--readings", type=int, default=20, help="of py-spy (default: 20)")
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput (default: 3)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round (default: 10)")
    parser.add_argument("--start-method", choices=("fork", "forkserver", "spawn"), default="fork")
    return parser


# One picture --------------------------------------------------------------------------------------


def _latencies(pool: glasspool.Pool, options: argparse.Namespace) -> Iterator[str]:
    pids = [os.getpid(), *(worker.pid for worker in pool.inspect().workers)]
    looks: dict[str, tuple[int, Callable[[], object]]] = {
        "picture without stacks": (options.pictures, pool.inspect),
        "picture with all stacks": (options.pictures, lambda: pool.inspect(stacks=True)),
    }
    program = pyspy.program()
    if program is not None and not pyspy.dump(pids[1:])[pids[1]].note:
        looks[f"py-spy, {len(pids)} processes side by side"] = (
            options.readings,
            lambda: _read(program, pids, at_once=True),
        )
        looks[f"py-spy, {len(pids)} processes in turn"] = (
            options.readings,
            lambda: _read(program, pids, at_once=False),
        )
    yield f"{'one look at a busy pool':<40}{'looks':>7}{'median':>11}{'p95':>11}{'max':>11}"
    for name, (count, look) in looks.items():
        took = _while_busy(pool, count, look)
        cells = (median(took), sorted(took)[int(0.95 * (len(took) - 1))], max(took))
        yield f"{name:<40}{count:>7}" + "".join(f"{1000 * s:>8.2f} ms" for s in cells)
    if len(looks) == 2:
        yield "py-spy is not installed, or not permitted to read these processes"
    yield ""


def _while_busy(pool: glasspool.Pool, count: int, look: Callable[[], object]) -> list[float]:
    """Time each look while every worker runs Python code all the time."""
    results = [pool.apply_async(spin, (0.5,)) for _ in range(2 * pool._processes)]
    took = []
    for _ in range(count):
        while sum(not result.ready() for result in results) < pool._processes + 1:
            results = [result for result in results if not result.ready()]
            results.append(pool.apply_async(spin, (0.5,)))
        begun = time.perf_counter()
        look()
        took.append(time.perf_counter() - begun)
    for result in results:
        result.get(LIMIT_S)
    return took


def _read(program: str, pids: Sequence[int], at_once: bool) -> None:
    readers = []
    for pid in pids:
        reader = subprocess.Popen(
            [program, "dump", "--json", "--pid", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        readers.append(reader)
        if not at_once:
            reader.wait(LIMIT_S)
    for reader in readers:
        reader.wait(LIMIT_S)


# Throughput ---------------------------------------------------------------------------------------


def _throughput(
    context: multiprocessing.context.BaseContext,
    words: str,
    function: Callable[[float], object],
    argument: float,
    options: argparse.Namespace,
) -> Iterator[str]:
    """Run tasks for the same time with and without somebody who looks, in turns."""
    alone: list[float] = []
    seen: list[float] = []
    with glasspool.Pool(options.workers, context=context) as pool:
        _wait_until_idle(pool)
        for _ in range(options.rounds):
            seen.append(_tasks_per_s(pool, function, argument, options, options.pictures))
            alone.append(_tasks_per_s(pool, function, argument, options, 0))
    pool.join()
    within = f"{options.pictures} pictures in {options.seconds:g} s"
    yield f"{f'tasks of 10 ms {words}':<40}{'median':>12}{'min':>10}{'max':>10}"
    for name, rates in (("undisturbed", alone), (within, seen)):
        yield f"{name:<40}{median(rates):>10.1f}/s{min(rates):>10.1f}{max(rates):>10.1f}"
    yield f"{'change':<40}{median(seen) / median(alone) - 1:>+11.1%}"
    yield ""


def _tasks_per_s(
    pool: glasspool.Pool,
    function: Callable[[float], object],
    argument: float,
    options: argparse.Namespace,
    pictures: int,
) -> float:
    """Count tasks for some seconds, in which the pictures are taken at equal distances."""
    lasts_s = options.seconds
    stop = threading.Event()

    def look() -> None:
        begun = time.monotonic()
        for number in range(pictures):
            if stop.wait(max(0.0, begun + number * lasts_s / pictures - time.monotonic())):
                return
            pool.inspect(stacks=True)

    looker = threading.Thread(target=look, name="looker")
    waiting = deque(pool.apply_async(function, (argument,)) for _ in range(8 * options.workers))
    looker.start()
    begun = time.monotonic()
    done = 0
    while time.monotonic() < begun + lasts_s:
        waiting.popleft().get(LIMIT_S)
        done += 1
        waiting.append(pool.apply_async(function, (argument,)))
    took_s = time.monotonic() - begun
    stop.set()
    looker.join()
    for result in waiting:
        result.get(LIMIT_S)
    return done / took_s


def _loops_in(seconds: float) -> int:
    """Find out how much work takes so long when nothing disturbs."""
    loops = 100_000
    took = []
    for _ in range(20):
        begun = time.perf_counter()
        work(loops)
        took.append(time.perf_counter() - begun)
    return int(loops * seconds / min(took))


def _wait_until_idle(pool: glasspool.Pool) -> None:
    while any(worker.state != "idle" for worker in pool.inspect().workers):
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
