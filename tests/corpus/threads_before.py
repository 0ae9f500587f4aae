"""Threads that live before the pool is made."""

import multiprocessing
import os
import threading
import warnings

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    with glasspool.Pool(2, context=CONTEXT) as pool:
        print(pool.map(square, range(3)))
    ended.set()
    thread.join()
