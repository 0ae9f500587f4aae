"""A map whose worker dies in the middle, of a pool that is closed and joined meanwhile."""

import stage


def risky(item: int) -> int:
    if item == 5:
        stage.die()
    return item


def main() -> None:
    pool = stage.context().Pool(2)
    pids = {worker.pid for worker in pool._pool}
    pool.map_async(risky, range(40), chunksize=2)
    pool.close()
    stage.until(lambda: pids - {worker.pid for worker in pool._pool} and len(pool._pool) == 2)
    stage.ready()
    pool.join()


if __name__ == "__main__":
    main()
