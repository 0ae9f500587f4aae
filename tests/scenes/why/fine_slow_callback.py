"""A callback that takes half a second for each result."""

import itertools

import stage

CALLS = itertools.count()


def called(result: object) -> None:
    if next(CALLS) == 1:
        stage.ready()
    stage.nap(0.5)


def main() -> None:
    pool = stage.context().Pool(2)
    results = [pool.apply_async(stage.touch, (n,), callback=called) for n in range(100)]
    for result in results:
        result.get()


if __name__ == "__main__":
    main()
