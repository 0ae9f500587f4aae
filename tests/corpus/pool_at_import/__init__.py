"""A package that makes its pool while it is imported."""

import multiprocessing
import os

import glasspool

from .tasks import square

pool = glasspool.Pool(1, context=multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"]))


def run():
    return pool.map(square, range(3))
