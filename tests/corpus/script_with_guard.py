"""A script with a main guard."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


if __name__ == "__main__":
    with glasspool.Pool(2, context=CONTEXT) as pool:
        print(pool.map(square, range(5)))
