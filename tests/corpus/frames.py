"""Data frames of pandas."""

import multiprocessing
import os

import pandas

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def total(frame):
    return frame.assign(c=frame.a + frame.b)


if __name__ == "__main__":
    frame = pandas.DataFrame({"a": [1, 2], "b": [3, 4]})
    with glasspool.Pool(1, context=CONTEXT) as pool:
        print(pool.apply(total, (frame,)).c.tolist())
