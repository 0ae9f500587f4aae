"""A pool of glasspool, a stock pool and a pool of threads in one program, all at work."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import staging

import glasspool


def main() -> None:
    context = multiprocessing.get_context(staging.begin())
    ours, stock = glasspool.Pool(1, context=context, name="ours"), context.Pool(1)
    lanes = ThreadPoolExecutor(1)
    ours.apply_async(staging.work, (1,))
    stock.apply_async(staging.work, (2,))
    lanes.submit(staging.work, 3)
    staging.rest()


if __name__ == "__main__":
    main()
