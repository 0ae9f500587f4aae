"""Uses a module of the package, and functions of its own."""

import multiprocessing
import os

import glasspool

from .tasks import square


def own(x):
    return square(x) + 1


if __name__ == "__main__":
    context = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])
    with glasspool.Pool(1, context=context) as pool:
        print(pool.map(square, range(3)), pool.map(own, range(3)))
