"""Generators as iterables, endless ones too; and as arguments, which cannot travel."""

import itertools
import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def numbers(n):
    yield from range(n)


def square(x):
    return x * x


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(square, numbers(4)), sorted(pool.imap_unordered(square, numbers(4))))
        print(list(itertools.islice(pool.imap(square, itertools.count()), 4)))
        try:
            pool.apply(sum, (numbers(3),))
        except TypeError as error:
            print("argument 1" in str(error), "list" in str(error))
