"""A task writes more into a pipe than it holds, and nobody ever reads."""

import os

import stage

READER, WRITER = os.pipe()


def task() -> int:
    return os.write(WRITER, bytes(1_000_000))


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(task)
    pids = [worker.pid for worker in pool._pool]
    stage.until(lambda: any(stage.in_call(pid, stage.WRITE) for pid in pids))
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
