"""An iterable that gives some items and then blocks, on the thread that hands tasks out."""

import queue
import sys
import time

import stage

SOURCE: queue.Queue = queue.Queue()


def items():
    yield from range(3)
    if len(sys.argv) > 2:
        time.sleep(60)
    SOURCE.get()


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.imap(stage.touch, items())
    for _ in range(3):
        next(results)
    stage.ready()
    next(results)


if __name__ == "__main__":
    main()
