"""A ProcessPoolExecutor that recycles its workers, and comes to have none (CPython issue 115634)."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

import stage


def main() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, max_tasks_per_child=2, mp_context=context) as executor:
        results = [executor.submit(time.sleep, 0.01) for _ in range(30)]
        stage.until(lambda: executor._processes)
        stage.until(lambda: not executor._processes)
        stage.ready()
        for result in results:
            result.result()


if __name__ == "__main__":
    main()
