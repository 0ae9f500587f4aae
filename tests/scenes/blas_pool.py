"""A stock pool whose workers multiply matrices: ``blas_pool.py METHOD busy|idle``.

Prints ``ready PID...`` (the program's, then the workers') when each worker has used OpenBLAS. Then ``busy``
workers go on, ``idle`` ones have nothing to do. Ends when standard input is closed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from typing import Any

import numpy


def prepare(barrier: Any) -> None:
    """Have OpenBLAS start its threads, and wait until all workers have."""
    signal.alarm(60)
    multiply()
    barrier.wait(30)


def multiply(_: int = 0) -> float:
    """Multiply matrices that are large enough for all threads."""
    matrix = numpy.ones((600, 600))
    return float((matrix @ matrix)[0, 0])


def work(_: int) -> None:
    """Multiply until the alarm."""
    while True:
        multiply()


def main() -> None:
    """Set the scene."""
    signal.alarm(60)
    context = multiprocessing.get_context(sys.argv[1])
    barrier = context.Barrier(5)
    pool = context.Pool(4, prepare, (barrier,))
    barrier.wait(30)
    if sys.argv[2] == "busy":
        pool.map_async(work, range(4), chunksize=1)
    workers = [process.pid for process in pool._pool]  # type: ignore[attr-defined]
    print("ready", os.getpid(), *workers, flush=True)
    sys.stdin.read()  # until the test closes it, or ends
    pool.terminate()


if __name__ == "__main__":
    main()
