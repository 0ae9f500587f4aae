"""A task that calls sys.exit: its worker ends in good order, and its result never comes."""

import sys

import stage


def main() -> None:
    pool = stage.context().Pool(2, maxtasksperchild=100)
    pids = {worker.pid for worker in pool._pool}
    lost = pool.apply_async(sys.exit, (3,))
    stage.until(lambda: pids - {worker.pid for worker in pool._pool} and len(pool._pool) == 2)
    stage.ready()
    lost.get()


if __name__ == "__main__":
    main()
