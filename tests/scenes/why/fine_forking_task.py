"""Tasks that fork, and whose child goes on for long."""

import os

import stage


def task(_: int) -> int:
    child = os.fork()
    if child == 0:
        stage.nap(50)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.map_async(task, range(2), chunksize=1)
    stage.until(lambda: all(stage.in_call(w.pid, 61, 247) for w in pool._pool))
    stage.ready()
    results.get()


if __name__ == "__main__":
    main()
