"""A worker is killed in its task: the task is gone with it, and its result never comes."""

import stage


def main() -> None:
    pool = stage.context().Pool(3)
    pids = {worker.pid for worker in pool._pool}
    lost = pool.apply_async(stage.die)
    pool.map(stage.touch, range(30))
    stage.until(lambda: pids - {worker.pid for worker in pool._pool} and len(pool._pool) == 3)
    stage.ready()
    lost.get()


if __name__ == "__main__":
    main()
