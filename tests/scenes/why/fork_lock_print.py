"""A thread is in the middle of a write to a stream when the pool forks: its lock stays locked."""

import io
import os
import threading

import stage


class Slow(io.RawIOBase):
    """A file that takes its time for the first write."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.begun.set()
        self.go_on.wait()
        return len(data)


RAW = Slow()
STREAM = io.BufferedWriter(RAW, 16)


def task(item: int) -> int:
    STREAM.write(b"a line of a log, longer than the buffer")
    return item


def main() -> None:
    threading.Thread(target=task, args=(0,), daemon=True).start()
    RAW.begun.wait()
    pool = stage.context().Pool(1)
    result = pool.apply_async(task, (1,))
    [worker] = pool._pool
    stage.until(lambda: stage.in_call(worker.pid, stage.FUTEX) and os.getpid())
    RAW.go_on.set()
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
