"""Logging that is configured in the program and in its initializer."""

import logging
import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def configure():
    logging.basicConfig(level=logging.INFO, format="%(message)s")


def work(x):
    return logging.getLogger().level, x


if __name__ == "__main__":
    configure()
    with glasspool.Pool(1, configure, context=CONTEXT) as pool:
        print(pool.map(work, range(2)))
