"""Callbacks, and results that are asked for in another order."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


if __name__ == "__main__":
    seen = []
    with glasspool.Pool(2, context=CONTEXT) as pool:
        results = [pool.apply_async(square, (i,), callback=seen.append) for i in range(4)]
        print([result.get() for result in reversed(results)], sorted(seen))
