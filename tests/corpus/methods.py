"""Bound methods, static methods and class methods, of classes at the top and of local ones."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return self.factor * x

    @staticmethod
    def negate(x):
        return -x

    @classmethod
    def of(cls, x):
        return cls(x).factor


def local_class():
    class Local(Scale):
        def times(self, x):
            return super().times(x) + 1

    return Local


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        for cls in (Scale, local_class()):
            print(*(pool.map(f, [1, 2]) for f in (cls(3).times, cls.negate, cls.of)))
