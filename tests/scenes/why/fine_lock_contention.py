"""Threads of one process that take turns with a lock."""

import threading
from multiprocessing.pool import ThreadPool

import stage

LOCK = threading.Lock()


def task(_: int) -> None:
    for _ in range(100_000):
        with LOCK:
            stage.nap(0.01)


def main() -> None:
    pool = ThreadPool(4)
    result = pool.map_async(task, range(4))
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
