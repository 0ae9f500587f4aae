"""A stock pool beside a Manager and a Process of the program's own."""

import multiprocessing

import staging


def main() -> None:
    context = multiprocessing.get_context(staging.begin())
    manager = context.Manager()
    own = context.Process(target=staging.work, args=(0,), daemon=True)
    own.start()
    pool = context.Pool(2, staging.set_up)
    pool.map_async(staging.work, [1, 2], 1)
    staging.rest()
    manager.shutdown()


if __name__ == "__main__":
    main()
