"""Ask which thread of a worker runs the initializer, the old way: print it there.

There is one line for each worker: as many as this machine has processors.
"""

import multiprocessing
import threading
from multiprocessing import Pool


def prepare() -> None:
    """Print the thread and the process that run this."""
    thread, process = threading.current_thread(), multiprocessing.current_process()
    # One write for the whole line: those of two workers do not mix.
    print(f"{thread.name} of {process.name}\n", end="", flush=True)


def work(number: int) -> int:
    """Do what the pool is for."""
    return number * number


if __name__ == "__main__":
    with Pool(initializer=prepare) as pool:
        pool.map(work, range(100))
        # Leaving the block terminates: let every worker come to its end first.
        pool.close()
        pool.join()
