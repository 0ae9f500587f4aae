"""Random numbers from a seed, in pools of two sizes; and without one."""

import multiprocessing
import os
import random

import glasspool

CONTEXT = multiprocessing.get_context(os.environ["GLASSPOOL_TEST_METHOD"])


def draw(x):
    return random.random()


def tell(x):
    return os.getpid(), random.random()


if __name__ == "__main__":
    rows = []
    for size in (1, 2):
        with glasspool.Pool(size, seed=5, context=CONTEXT) as pool:
            rows.append(pool.map(draw, range(6)))
    print(rows[0] == rows[1], round(rows[0][0], 6))
    with glasspool.Pool(2, context=CONTEXT) as pool:
        told = pool.map(tell, range(40), chunksize=1)
    print(len({number for _, number in told}))
