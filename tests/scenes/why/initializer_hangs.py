"""An initializer that never ends."""

import sys
import threading
import time

import stage


def prepare() -> None:
    stage.ready()
    if len(sys.argv) > 2:
        time.sleep(60)
    threading.Event().wait()


def main() -> None:
    pool = stage.context().Pool(1, prepare)
    pool.apply(stage.touch)


if __name__ == "__main__":
    main()
