"""A ProcessPoolExecutor of two workers; METHOD, then busy, idle, map, callback or initializer."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import staging


def main() -> None:
    method, state = staging.begin(), staging.option("busy")
    prepare = staging.set_up_for_ever if state == "initializer" else staging.set_up
    pool = ProcessPoolExecutor(2, multiprocessing.get_context(method), prepare, ("hello",))
    if state == "busy":
        pool.submit(staging.work, 7)
        pool.submit(staging.work, 8)
    elif state == "map":
        list(pool.map(staging.work, range(100, 108), chunksize=4))
    elif state == "callback":
        pool.submit(staging.touch, 1).add_done_callback(staging.called_back)
    else:
        list(pool.map(staging.touch, range(8)))
    staging.rest()


if __name__ == "__main__":
    main()
