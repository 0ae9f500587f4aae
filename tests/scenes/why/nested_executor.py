"""Tasks of a ThreadPoolExecutor that wait for futures of the same executor, on all of its threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import stage

EXECUTOR = ThreadPoolExecutor(2)
BOTH = threading.Barrier(2)


def outer(item: int) -> object:
    inner = EXECUTOR.submit(stage.touch, item)
    BOTH.wait()
    return inner.result()


def main() -> None:
    results = [EXECUTOR.submit(outer, item) for item in range(2)]
    stage.until(lambda: EXECUTOR._work_queue.qsize() == 2 and not BOTH.n_waiting)
    stage.ready()
    results[0].result()


if __name__ == "__main__":
    main()
