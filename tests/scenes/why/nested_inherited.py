"""A task that uses a pool which its worker has inherited over the fork: nobody serves it there."""

import stage

POOL = None


def outer() -> list:
    return POOL.map(stage.touch, range(3))


def main() -> None:
    global POOL
    POOL = stage.context().Pool(1)
    other = stage.context().Pool(1)
    result = other.apply_async(outer)
    stage.until(lambda: stage.in_call(other._pool[0].pid, stage.FUTEX))
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
