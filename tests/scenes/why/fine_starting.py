"""Spawned workers that import for some seconds before they can begin."""

import time

import stage

if __name__ == "__mp_main__":
    end = time.monotonic() + 30
    while time.monotonic() < end:
        sum(range(10_000))


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(stage.touch)
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
