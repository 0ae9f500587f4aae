"""An initializer that computes for long."""

import stage


def prepare() -> None:
    total = 0
    while True:
        total += 1


def main() -> None:
    pool = stage.context().Pool(2, prepare)
    result = pool.apply_async(stage.touch)
    stage.ready()
    result.get()


if __name__ == "__main__":
    main()
