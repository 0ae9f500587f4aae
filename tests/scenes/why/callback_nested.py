"""A callback that calls its own pool: the thread that should bring the result is the one that waits."""

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    first = pool.apply_async(stage.touch, callback=lambda result: pool.apply(stage.touch))
    stage.until(lambda: len(pool._cache) == 2)
    stage.ready()
    first.get()


if __name__ == "__main__":
    main()
