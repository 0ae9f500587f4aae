"""Tasks with large arguments, far more than the pipe holds, while all workers are at long ones."""

import stage


def task(data: bytes) -> float:
    return stage.nap(40)


def main() -> None:
    pool = stage.context().Pool(2)
    results = [pool.apply_async(task, (bytes(500_000),)) for _ in range(6)]
    stage.until(lambda: all(stage.in_call(w.pid, stage.NANOSLEEP) for w in pool._pool))
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
