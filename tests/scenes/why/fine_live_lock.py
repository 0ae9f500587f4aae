"""Tasks that wait for a lock which another worker holds for long, and lives."""

import stage

LOCK = None


def prepare(lock) -> None:
    global LOCK
    LOCK = lock


def task(seconds: float) -> None:
    with LOCK:
        stage.nap(seconds)


def main() -> None:
    context = stage.context()
    pool = context.Pool(3, prepare, (context.Lock(),))
    results = [pool.apply_async(task, (50,)) for _ in range(3)]
    pids = [worker.pid for worker in pool._pool]
    stage.until(lambda: any(stage.in_call(pid, stage.NANOSLEEP) for pid in pids))
    stage.until(lambda: sum(stage.in_call(pid, stage.FUTEX) for pid in pids) == 2)
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
