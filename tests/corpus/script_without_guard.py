"""A script without a main guard."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


pool = glasspool.Pool(1, context=CONTEXT)
print(pool.map(square, range(5)))
pool.close()
pool.join()
