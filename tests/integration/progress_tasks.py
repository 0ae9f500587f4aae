"""What the workers of ``test_progress_real`` run, and the programs that it starts in a terminal."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # for the programs

import gates
import glasspool


def share(**values: Any) -> None:
    """Keep what the parent shares (an initializer)."""
    gates.shared.update(values)


def echo(value: Any) -> Any:
    """Return the value."""
    return value


def raise_if(value: int) -> int:
    """Raise for each seventh value."""
    if value % 7 == 3:
        raise ValueError(value)
    return value


def die_if(value: int) -> int:
    """Kill the worker for one value."""
    if value == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def wait_at(value: int) -> int:
    """Wait at the gate, for values below 2."""
    if value < 2:
        gates.shared["started"].release()
        if not gates.shared["gate"].wait(60):
            raise RuntimeError("the gate was never opened")
    return value


def tell_and_wait(value: int) -> int:
    """Say that a quarter is done, and wait at the gate."""
    glasspool.report_progress(1, 4)
    gates.shared["started"].release()
    if not gates.shared["gate"].wait(60):
        raise RuntimeError("the gate was never opened")
    return value


def chatter(value: int) -> int:
    """Print a line now and then, on both streams."""
    time.sleep(0.01)
    if value % 10 == 0:
        print("worker", "line", value)
        print(f"worker error {value}", file=sys.stderr)
    return value


def two_jobs() -> None:
    """Show two jobs at once, while everybody prints."""
    logging.basicConfig(level="INFO", format="logged %(message)s")
    with glasspool.Pool(2) as pool:
        first = pool.map_async(chatter, range(60), progress="first job [bold]")
        second = pool.map_async(chatter, range(60), progress="second job")
        # Before, prints of two processes may meet in one line, as they do on any terminal.
        while not pool._engine.board.bar_is_drawn and not first.ready():
            time.sleep(0.001)
        print("main line 0")
        logging.info("line 1")
        print("main line 2", file=sys.stderr)
        first.get()
        second.get()
        print("after both")


def with_tqdm() -> None:
    """Show maps by the bars of tqdm."""
    from tqdm import tqdm

    with glasspool.Pool(2) as pool:
        pool.map(echo, range(50), progress=tqdm)
        with tqdm(desc="mine", total=100) as bar:
            pool.map(echo, range(50), progress=bar)
            results = pool.imap(raise_if, range(50), progress=bar)
            for _ in range(51):
                with contextlib.suppress(ValueError, StopIteration):
                    next(results)


def stock() -> None:
    """Map with the standard library's pool, as far as this program knows."""
    with multiprocessing.Pool(2) as pool:
        pool.map(echo, range(20))
        list(pool.imap_unordered(echo, iter(range(20))))
        pool.map(nested, range(1))


def nested(value: int) -> list[int]:
    """Map in a pool of the task's own."""
    with glasspool.Pool(1) as pool:
        return pool.map(echo, [value])


def interrupted() -> None:
    """Be interrupted in a map, as by Ctrl-C; the task that interrupts waits for it."""
    with glasspool.Pool(1) as pool:
        try:
            pool.map(interrupt_parent, range(4), chunksize=1, progress="cut short")
        except KeyboardInterrupt:
            print("was interrupted")


def interrupt_parent(value: int) -> None:
    """Interrupt the program, and stay."""
    time.sleep(0.5)  # there is a bar by now
    here = glasspool.worker()
    if here is not None and value == 0:
        os.kill(int(os.environ["PROGRAM"]), signal.SIGINT)
    time.sleep(60)


if __name__ == "__main__":
    os.environ["PROGRAM"] = str(os.getpid())
    globals()[sys.argv[1]]()
