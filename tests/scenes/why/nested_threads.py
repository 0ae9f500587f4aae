"""Tasks of a ThreadPool that wait for tasks of the same pool, as many as it has threads."""

import sys
from multiprocessing.pool import ThreadPool

import stage

POOL = None


def outer(item: int) -> list:
    return POOL.map(stage.touch, range(3))


def main() -> None:
    global POOL
    POOL = ThreadPool(2)
    results = [POOL.apply_async(outer, (item,)) for item in range(4)]
    stage.until(lambda: len(POOL._cache) >= 6)
    stage.ready()
    if len(sys.argv) > 2:
        stage.nap(60)
    results[0].get()


if __name__ == "__main__":
    main()
