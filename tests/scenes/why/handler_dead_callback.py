"""A callback raises: the thread that takes results in ends."""

import stage


def called(result: object) -> None:
    raise ValueError("a mistake in a callback")


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(stage.touch, callback=called)
    stage.until(lambda: not pool._result_handler.is_alive())
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
