"""The lock of a stream that a thread wrote to when a worker was replaced: found locked by the new one."""

import logging
import os
import threading

import stage


class Slow(logging.Handler):
    """A handler with a lock of its own, which logging does not know of and does not make anew."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = threading.RLock()

    def emit(self, record: logging.LogRecord) -> None:
        with self.mine:
            os.write(2, b"")


HANDLER = Slow()


def task(item: int) -> int:
    logging.warning("item %s", item)
    return item


def main() -> None:
    logging.getLogger().addHandler(HANDLER)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with HANDLER.mine:
            held.set()
            done.wait()

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    pool = stage.context().Pool(1)
    done.set()
    result = pool.apply_async(task, (1,))
    [worker] = pool._pool
    stage.until(lambda: stage.in_call(worker.pid, stage.FUTEX))
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
