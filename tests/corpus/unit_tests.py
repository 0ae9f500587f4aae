"""A unittest that uses a pool."""

import multiprocessing
import os
import unittest

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def square(x):
    return x * x


class Test(unittest.TestCase):
    def test_map(self):
        with glasspool.Pool(1, context=CONTEXT) as pool:
            assert pool.map(square, range(3)) == [0, 1, 4]
            assert pool.map(lambda x: self.id()[-8:], [1]) == ["test_map"]


if __name__ == "__main__":
    print(unittest.main(exit=False, argv=["x"]).result.wasSuccessful())
