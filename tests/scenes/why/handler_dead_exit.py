"""A callback calls sys.exit: the thread that takes results in ends, without a word."""

import sys

import stage


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(stage.touch, callback=sys.exit)
    stage.until(lambda: not pool._result_handler.is_alive())
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
