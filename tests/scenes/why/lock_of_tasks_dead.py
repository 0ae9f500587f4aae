"""A lock of the program's own that tasks take: the worker that had it is killed."""

import stage

LOCK = None


def prepare(lock) -> None:
    global LOCK
    LOCK = lock


def task(is_last: bool) -> None:
    with LOCK:
        if is_last:
            stage.die()


def main() -> None:
    context = stage.context()
    pool = context.Pool(3, prepare, (context.Lock(),))
    pids = {worker.pid for worker in pool._pool}
    pool.apply_async(task, (True,))
    stage.until(lambda: pids - {worker.pid for worker in pool._pool} and len(pool._pool) == 3)
    results = [pool.apply_async(task, (False,)) for _ in range(2)]
    stage.until(lambda: sum(stage.in_call(w.pid, stage.FUTEX) for w in pool._pool) == 2)
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
