"""A worker is killed while it sends a large result: it held the lock of the queue of results."""

import threading

import stage


def large(item: int) -> bytes:
    return bytes(10_000_000)


def main() -> None:
    pool = stage.context().Pool(3)
    go_on = threading.Event()
    first = pool.apply_async(stage.touch, (1,), callback=lambda result: go_on.wait())
    pids = [worker.pid for worker in pool._pool]
    later = [pool.apply_async(large, (item,)) for item in range(3)]
    writing: list[int] = []

    def writes() -> bool:
        writing[:] = [pid for pid in pids if stage.in_call(pid, stage.WRITE)]
        return bool(writing)

    stage.until(writes)
    stage.kill(writing[0])
    stage.until(lambda: {w.pid for w in pool._pool} - set(pids) and len(pool._pool) == 3)
    go_on.set()
    first.get()
    stage.ready()
    for task in later:
        task.get()


if __name__ == "__main__":
    main()
