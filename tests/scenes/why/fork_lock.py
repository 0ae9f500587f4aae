"""A thread holds a lock while the pool forks: the workers have it locked, and nobody to unlock it."""

import threading

import stage

LOCK = threading.Lock()


def task(item: int) -> int:
    with LOCK:
        return item


def main() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCK:
            held.set()
            done.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    pool = stage.context().Pool(2)
    done.set()
    results = [pool.apply_async(task, (item,)) for item in range(4)]
    pids = [worker.pid for worker in pool._pool]
    stage.until(lambda: all(stage.in_call(pid, stage.FUTEX) for pid in pids))
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
