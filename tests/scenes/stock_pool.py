"""A stock pool of two workers; METHOD, then idle, busy, map, iterable, callback or initializer."""

import multiprocessing

import staging


def main() -> None:
    method, state = staging.begin(), staging.option("busy")
    prepare = staging.set_up_for_ever if state == "initializer" else staging.set_up
    pool = multiprocessing.get_context(method).Pool(2, prepare, ("hello",))
    if state == "idle":
        pool.map(staging.touch, range(8))
    elif state == "busy":
        pool.apply_async(staging.work, (7,))
        pool.apply_async(staging.work, (8,))
    elif state == "map":
        pool.map(staging.work, range(100, 108))
    elif state == "iterable":
        pool.imap(staging.touch, staging.items_that_stop(3))
    elif state == "callback":
        pool.apply_async(staging.touch, (1,), callback=staging.called_back)
    staging.rest()


if __name__ == "__main__":
    main()
