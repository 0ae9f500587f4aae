"""A task of a ThreadPool that calls sys.exit: its thread ends, and its result never comes."""

import sys
from multiprocessing.pool import ThreadPool

import stage


def main() -> None:
    pool = ThreadPool(2)
    lost = pool.apply_async(sys.exit)
    pool.map(stage.touch, range(10))
    stage.ready()
    lost.get()


if __name__ == "__main__":
    main()
