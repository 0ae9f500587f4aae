"""State that run_on_all brings to each worker, those that come later, too."""

import multiprocessing
import os

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])

table = {}


def learn(**entries):
    table.update(entries)


def look(key):
    return table[key]


if __name__ == "__main__":
    with glasspool.Pool(2, maxtasksperchild=1, context=CONTEXT) as pool:
        print(pool.run_on_all(learn, a=1), set(pool.map(look, ["a"] * 4, chunksize=1)))
