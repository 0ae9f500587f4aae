"""A worker is killed while it waits for work: it held the lock of the queue of tasks."""

import sys

import stage


def main() -> None:
    pool = stage.context().Pool(int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    pids = {worker.pid for worker in pool._pool}
    pool.map(stage.touch, range(4))
    stage.kill(stage.receiver(pool))
    stage.until(lambda: pids - {worker.pid for worker in pool._pool})
    stage.ready()
    pool.apply(stage.touch)


if __name__ == "__main__":
    main()
