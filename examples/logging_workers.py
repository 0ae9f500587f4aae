"""Log in workers, and keep what tasks print: both arrive in the program, told apart by task."""

import logging
import sys

import glasspool

log = logging.getLogger("example")


def work(number: int) -> int:
    """Log and print, as code does that knows nothing of pools."""
    log.info("working on %d", number)
    print(f"printed by the task for {number}")
    return number * number


if __name__ == "__main__":
    logging.basicConfig(
        stream=sys.stdout,
        level=logging.INFO,
        format="%(levelname)s %(name)s: %(message)s (worker %(slot)s, task %(task)s)",
    )
    with glasspool.Pool(2, capture_output=True) as pool:
        job = pool.map_async(work, range(4), chunksize=1)
        print(job.get())
        for task in job.info.tasks:
            print(f"task {task.id}: {task.stdout!r}")
        pool.close()
        pool.join()  # also for the last records
