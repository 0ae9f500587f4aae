"""A worker is killed in its task while the others are at theirs for long."""

import stage


def main() -> None:
    pool = stage.context().Pool(3)
    tasks = [pool.apply_async(stage.nap, (60,)) for _ in range(3)]
    pids = {worker.pid for worker in pool._pool}
    stage.until(lambda: all(stage.in_call(pid, stage.NANOSLEEP) for pid in pids))
    stage.kill(min(pids))
    stage.until(lambda: pids - {worker.pid for worker in pool._pool} and len(pool._pool) == 3)
    stage.ready()
    for task in tasks:
        task.get()


if __name__ == "__main__":
    main()
