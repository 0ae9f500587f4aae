"""A busy stock pool: each task starts and ends a thread. METHOD as argument."""

import multiprocessing
import signal
import sys
import threading
import time


def task(number):
    """Do a little, half of it in another thread."""
    thread = threading.Thread(target=time.sleep, args=(0.001,))
    thread.start()
    thread.join()
    return sum(range(number))


def end_with_the_test():
    """End a worker, too, when its time is over."""
    signal.alarm(60)


if __name__ == "__main__":
    signal.alarm(60)
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(3, end_with_the_test) as pool:
        pool.map(task, range(100))
        print("ready", flush=True)
        for _ in pool.imap_unordered(task, iter(lambda: 1000, None)):
            pass
