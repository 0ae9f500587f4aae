"""A ProcessPoolExecutor, one of whose workers runs a stock pool of its own."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import staging


def inner(method: str) -> None:
    with multiprocessing.get_context(method).Pool(2, staging.set_up) as pool:
        pool.map(staging.work, [1, 2], 1)


def main() -> None:
    method = staging.begin()
    pool = ProcessPoolExecutor(1, multiprocessing.get_context(method), staging.set_up)
    pool.submit(inner, sys.argv[1])
    staging.rest()


if __name__ == "__main__":
    main()
