"""A command with argparse, whose options the workers see in sys.argv."""

import argparse
import multiprocessing
import os
import sys

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=int, default=1)
    return parser.parse_args()


def scale(x):
    return options().scale * x, sys.argv[1:]


if __name__ == "__main__":
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.map(scale, [1, 2]))
