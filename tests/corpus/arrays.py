"""NumPy arrays, small and large, there and back."""

import multiprocessing
import os

import numpy

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def double(array):
    return array * 2


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        small = pool.map(double, numpy.arange(6).reshape(3, 2))
        large = pool.apply(double, (numpy.ones(300_000),))
        print([row.tolist() for row in small], large.sum(), large.flags.writeable)
