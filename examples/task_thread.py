"""Ask which thread of a worker runs a task, the old way: print it in the task."""

import threading
from multiprocessing import Pool


def work(number: int) -> int:
    """Print the thread that runs this."""
    # One write for the whole line: those of two workers do not mix.
    print(f"{threading.current_thread()}\n", end="", flush=True)
    return number * number


if __name__ == "__main__":
    with Pool(2) as pool:
        print(pool.map(work, range(4), 1))
