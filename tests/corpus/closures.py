"""Closures, and a local function that calls itself."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def adder(n):
    def add(x):
        return x + n

    return add


def factorial():
    def compute(n):
        return 1 if n < 2 else n * compute(n - 1)

    return compute


if __name__ == "__main__":
    with glasspool.Pool(2, context=CONTEXT) as pool:
        print(pool.map(adder(7), range(3)), pool.map(factorial(), [3, 4]))
