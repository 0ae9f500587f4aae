"""A stock ThreadPool of two threads, both at work."""

from multiprocessing.pool import ThreadPool

import staging


def main() -> None:
    staging.begin()
    pool = ThreadPool(2)
    pool.map_async(staging.work, [1, 2], 1)
    staging.rest()


if __name__ == "__main__":
    main()
