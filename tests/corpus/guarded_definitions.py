"""Functions and classes that are defined under the main guard, and after the pool."""

import functools
import multiprocessing
import os
from dataclasses import dataclass

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

if __name__ == "__main__":

    @dataclass
    class Point:
        x: int

    def grow(point):
        return Point(point.x + 1)

    with glasspool.Pool(1, context=CONTEXT) as pool:

        @functools.lru_cache
        def late(x):
            return grow(Point(x))

        grown = pool.map(late, range(2)) + pool.map(grow, [Point(5)])
        print(grown, {type(point) is Point for point in grown})
