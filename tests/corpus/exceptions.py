"""Exceptions that are defined in the main module, at the top and in functions."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


class Problem(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code


class Awkward(Exception):
    def __init__(self, a, b):
        super().__init__(a)


def local():
    class Inner(Problem):
        pass

    def fail(x):
        raise Inner(x)

    return Inner, fail


def fail(x):
    raise Problem(x)


def fail_awkwardly(x):
    raise Awkward(x, x)


if __name__ == "__main__":
    Inner, fail_inside = local()
    with glasspool.Pool(1, context=CONTEXT) as pool:
        for function in (fail, fail_inside, fail_awkwardly):
            try:
                pool.apply(function, (4,))
            except Problem as error:
                print(type(error) in (Problem, Inner), error.code)
            except glasspool.SerializationError as error:
                print("Awkward: 4" in str(error), "super().__init__()" in str(error))
