"""A pool as a global of the module, made by a function."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

pool = None


def square(x):
    return x * x


def setup():
    global pool
    pool = glasspool.Pool(1, context=CONTEXT)


def run():
    return pool.map(square, range(4))


if __name__ == "__main__":
    setup()
    print(run())
    pool.terminate()
