"""A stock pool of two workers at work in a program that may not be dumped, and so not be read."""

import ctypes
import multiprocessing

import staging

PR_SET_DUMPABLE = 4


def protect() -> None:
    staging.set_up()
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def main() -> None:
    method = staging.begin()
    protect()
    pool = multiprocessing.get_context(method).Pool(2, protect)
    pool.map(staging.touch, range(8), 1)
    staging.rest()


if __name__ == "__main__":
    main()
