"""A callback that blocks, on the thread that takes results in."""

import sys
import threading
import time

import stage


def called(result: object) -> None:
    stage.ready()
    if len(sys.argv) > 2:
        time.sleep(60)
    threading.Event().wait()


def main() -> None:
    pool = stage.context().Pool(2)
    pool.apply_async(stage.touch, callback=called)
    pool.map(stage.touch, range(100))


if __name__ == "__main__":
    main()
