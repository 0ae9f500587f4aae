"""A task raises an exception that cannot be rebuilt: the thread that takes results in ends."""

import stage


class Picky(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def task() -> None:
    raise Picky(1, 2)


def main() -> None:
    pool = stage.context().Pool(2)
    result = pool.apply_async(task)
    stage.until(lambda: not pool._result_handler.is_alive())
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
