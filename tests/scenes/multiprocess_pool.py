"""A pool of the package multiprocess, of two workers at work."""

import multiprocess
import staging


def main() -> None:
    method = staging.begin()
    pool = multiprocess.get_context(method).Pool(2, staging.set_up)
    pool.map_async(staging.work, [1, 2], 1)
    staging.rest()


if __name__ == "__main__":
    main()
