"""A task that uses a pool of its own."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


def row(n):
    with glasspool.Pool(1, context=CONTEXT) as pool:
        return pool.map(square, range(n)) + pool.map(lambda x: -x, [n])


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(row, [3]), pool.apply(lambda: row(2)))
