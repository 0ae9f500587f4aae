"""An iterable that leaves by SystemExit takes the thread that hands tasks out with it."""

import stage


def items():
    yield 1
    yield 2
    raise SystemExit


def main() -> None:
    pool = stage.context().Pool(2)
    results = pool.imap(stage.touch, items())
    stage.until(lambda: not pool._task_handler.is_alive())
    stage.ready()
    for _ in results:
        pass


if __name__ == "__main__":
    main()
