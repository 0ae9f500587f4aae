"""A ThreadPool with long tasks."""

from multiprocessing.pool import ThreadPool

import stage


def main() -> None:
    pool = ThreadPool(2)
    results = [pool.apply_async(stage.nap, (40,)) for _ in range(4)]
    stage.ready()
    results[0].get()


if __name__ == "__main__":
    main()
