"""Instances of classes of the main module, there and back, beside functions by value."""

import enum
import multiprocessing
import os
from collections import namedtuple
from dataclasses import dataclass

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


@dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = 1


Pair = namedtuple("Pair", "a b")


def grow(point):
    return Point(point.x + 1)


def swap(pair):
    return Pair(pair.b, pair.a)


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        grown = pool.map(grow, [Point(1), Point(2)])
        print(grown, {type(point) is Point for point in grown})
        print(pool.apply(lambda colour: colour is Colour.RED, (Colour.RED,)))
        print(pool.map(lambda point: isinstance(point, Point), [Point(1)]))
        print(
            type(pool.apply(swap, (Pair(1, 2),))) is Pair, pool.apply(lambda: Point(3)) == Point(3)
        )
