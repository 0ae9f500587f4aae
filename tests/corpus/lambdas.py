"""Lambdas, and a partial of one."""

import functools
import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(lambda x: x + 1, range(3)))
        print(pool.map(functools.partial(lambda x, y: x * y, 10), range(3)))
        print(pool.starmap(lambda x, y: x - y, [(3, 1), (5, 2)]))
