"""Ask which threads a pool starts in the main process, the old way: list them while it works.

The stock pool shows three that it does not explain; which of them creates workers, which hands out
tasks and which takes in results is told by the library's source only.
"""

import threading
import time
from multiprocessing import Pool


def work(number: int) -> int:
    """Take half a second."""
    time.sleep(0.5)
    return number


if __name__ == "__main__":
    with Pool(4) as pool:
        results = [pool.apply_async(work, (number,)) for number in range(5)]
        rest = pool.map_async(work, range(5, 10), 1)
        for thread in threading.enumerate():
            print(thread.name)
        for result in results:
            result.wait()
        rest.wait()
