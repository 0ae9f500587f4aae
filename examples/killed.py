"""Lose a worker in the middle of a map, as the OOM killer would take it: does the program go on?

On the standard library's pool it waits for ever for the task that died: stop it with Ctrl-C, or give
it a limit, ``killed.py 5``, in seconds. ``glasspool run examples/killed.py`` ends at once, and says
which worker died of what, and with which task.
"""

import os
import signal
import sys
from multiprocessing import Pool


def work(number: int) -> int:
    """Do what the pool is for; one task is unlucky."""
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


if __name__ == "__main__":
    limit_s = float(sys.argv[1]) if len(sys.argv) > 1 else None
    with Pool(2) as pool:
        print(pool.map_async(work, range(10), chunksize=1).get(limit_s))
