"""A global that the initializer sets in each worker; its arguments are a lock and a lambda."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

state = None


def begin(lock, make):
    global state
    with lock:
        state = make(10)


def use(x):
    return state + x


if __name__ == "__main__":
    with glasspool.Pool(1, begin, (CONTEXT.Lock(), lambda n: n + 1), context=CONTEXT) as pool:
        print(pool.map(use, range(3)))
    with glasspool.Pool(1, lambda: print("begun", flush=True), context=CONTEXT) as pool:
        print(pool.apply(abs, (-1,)))
