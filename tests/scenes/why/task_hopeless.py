"""A task waits for an event that only a thread of its own process could set, and there is none."""

import threading

import stage


def task() -> bool:
    stage.ready()
    return threading.Event().wait()


def main() -> None:
    pool = stage.context().Pool(2)
    pool.apply(task)


if __name__ == "__main__":
    main()
