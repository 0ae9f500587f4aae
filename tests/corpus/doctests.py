"""A module with doctests that use a pool.

>>> def double(x):
...     return 2 * x
>>> with glasspool.Pool(1, context=CONTEXT) as pool:
...     print(pool.map(double, range(3)), pool.map(at_the_top, range(3)))
[0, 2, 4] [1, 2, 3]
"""

import doctest
import multiprocessing
import os

import glasspool  # noqa: F401  # for the doctest

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def at_the_top(x):
    return x + 1


if __name__ == "__main__":
    print(doctest.testmod())
