"""Functions with decorators."""

import functools
import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function.__name__, function(*args)

    return wrapper


@logged
def double(x):
    return 2 * x


@functools.lru_cache
def triple(x):
    return 3 * x


@functools.singledispatch
def kind(x):
    return "any"


@kind.register
def _(x: int):
    return "int"


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(double, [1]), pool.map(triple, [1, 2]), pool.map(kind, [1, "a"]))
